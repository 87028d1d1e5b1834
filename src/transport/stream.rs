//! An `AsyncRead`/`AsyncWrite` over an `Established`, for axum and for the simulators (tokio).
