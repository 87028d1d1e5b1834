//! Events to the model ("Realtime API reference: client events", read 2026-11).

/// What stands before the payload of an append; `APPEND_SUFFIX` stands behind it.
pub const APPEND_PREFIX: &[u8] = br#"{"type":"input_audio_buffer.append","audio":""#;
/// See `APPEND_PREFIX`.
pub const APPEND_SUFFIX: &[u8] = br#""}"#;
