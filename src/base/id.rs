//! Ids as bounded, inline, `Copy` values: no allocation when one is kept, compared or logged.

use std::fmt;

/// A string of at most `N` bytes kept inline (`N <= 255`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inline<const N: usize> {
    /// 0 <= len <= N; bytes past it are zero, so that derived equality holds.
    len: u8,
    bytes: [u8; N],
}

impl<const N: usize> Inline<N> {
    /// The longest text that fits, in bytes.
    pub const MAX: usize = N;

    /// Keeps `text`, or returns `None` when it is longer than `N` bytes.
    pub fn new(text: &str) -> Option<Self> {
        const { assert!(N <= 255, "the length is one byte") };
        if text.len() > N {
            return None;
        }
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self {
            len: text.len() as u8,
            bytes,
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Built from a whole `&str` only, so the bytes are valid UTF-8.
        std::str::from_utf8(&self.bytes[..self.len as usize]).expect("built from a str")
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> Default for Inline<N> {
    fn default() -> Self {
        Self {
            len: 0,
            bytes: [0; N],
        }
    }
}

impl<const N: usize> fmt::Display for Inline<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Inline<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
        pub struct $name(Inline<$max>);

        impl $name {
            /// The longest id that fits, in bytes.
            pub const MAX: usize = $max;

            /// Keeps `text`; `None` when it is empty or longer than `MAX` bytes.
            pub fn new(text: &str) -> Option<Self> {
                if text.is_empty() { None } else { Inline::new(text).map(Self) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

id!(
    /// Names one conversation: ours, or whatever the stream URL carried.
    CallId, 128
);
id!(
    /// The carrier's name for the phone call (Twilio: `CA…`). Prefixes are never checked:
    /// compatible carriers use their own.
    CallSid, 128
);
id!(
    /// The carrier's name for one media stream (Twilio: `MZ…`).
    StreamSid, 128
);
id!(
    /// The model's name for one conversation item.
    ItemId, 64
);
id!(
    /// The model's name for one response.
    ResponseId, 64
);

/// Which worker owns a call: 0 up to the configured number of workers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct WorkerId(pub u16);

/// A call's place in its worker. The generation makes a stale key harmless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SlotKey {
    /// Index into the worker's table.
    pub index: u32,
    /// Counts the uses of that index.
    pub generation: u32,
}
