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

    /// Whether this is the text. Cheaper than comparing `as_str`, which proves the text to be one each time.
    pub fn is(&self, text: &str) -> bool {
        self.bytes[..self.len as usize] == *text.as_bytes()
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

            /// Whether the id is this text; for the path of audio, where `as_str` would be asked for each frame.
            pub fn is(&self, text: &str) -> bool {
                self.0.is(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_up_to_the_bound_is_kept_as_it_is() {
        for len in 0..=8 {
            let text = "x".repeat(len);
            let kept = Inline::<8>::new(&text).expect("fits");
            assert_eq!((kept.as_str(), kept.is_empty()), (&*text, len == 0));
            assert!(kept.is(&text) && !kept.is(&format!("{text}x")) && !kept.is("\0"));
            assert_eq!(
                (kept.to_string(), format!("{kept:?}")),
                (text.clone(), format!("{text:?}"))
            );
        }
        assert_eq!(Inline::<8>::new("123456789"), None);
        // The bound is in bytes, and no character is cut to fit.
        assert_eq!(
            Inline::<8>::new("\u{20ac}\u{20ac}12").map(|i| i.to_string()),
            Some("\u{20ac}\u{20ac}12".into())
        );
        assert_eq!(Inline::<8>::new("\u{20ac}\u{20ac}\u{20ac}"), None);
    }

    #[test]
    fn equality_is_that_of_the_texts() {
        let of = |text| Inline::<8>::new(text).unwrap();
        assert_eq!(of("ab"), of("ab"));
        // A NUL is a character like another, not padding.
        assert_ne!(of("ab"), of("ab\0"));
        assert_eq!(Inline::<8>::default(), of(""));
    }

    #[test]
    fn an_id_is_never_empty_nor_longer_than_its_bound() {
        assert_eq!(CallSid::new(""), None);
        assert_eq!(CallSid::new(&"C".repeat(CallSid::MAX + 1)), None);
        let longest = "C".repeat(CallSid::MAX);
        assert_eq!(
            CallSid::new(&longest).map(|id| id.to_string()),
            Some(longest)
        );
        assert_eq!(ItemId::new("item_1").unwrap().as_str(), "item_1");
    }
}
