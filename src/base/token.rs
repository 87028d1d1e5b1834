//! The signed, short-lived ticket that ties a webhook to its stream.
