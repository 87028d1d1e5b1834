//! What both JSON codecs answer beside the message.

/// Why a message can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not JSON.
    Syntax,
    /// Nested deeper than we follow.
    TooDeep,
    /// Not an object, no `event` (or `type`), or a needed field missing or of another type.
    Shape(&'static str),
    /// A known key twice.
    DuplicateKey,
}

/// What decoding found beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Noticed {
    /// The strict scanner did not take it: simd-json did.
    pub fallback: bool,
    /// Fields that we do not know, in a message that we do.
    pub unknown_fields: u32,
}
