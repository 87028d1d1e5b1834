//! What config.toml and the environment may say, and the proof of it.
