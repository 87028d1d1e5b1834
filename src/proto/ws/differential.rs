//! The reader held against tungstenite's own, for tests and fuzzing.
