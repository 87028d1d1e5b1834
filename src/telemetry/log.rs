//! Logging: levels error, warn, info, http, debug; text or JSON; secrets and numbers masked.
