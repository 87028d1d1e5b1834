//! What both JSON codecs stand on: the answer beside the message, the strict scanner's cursor (hot
//! path) and the simd-json tape with its reused memory (slow path). Core; called by
//! `carrier::twilio` and `realtime::server_event` alone.
//!
//! The scanner knows one shape and takes nothing else; the tape takes all of JSON. Whatever the
//! scanner takes, the tape must read in the same way: strings on the hot path are printable ASCII
//! without a backslash, so that no JSON rule (escapes, control characters, UTF-8) can tell them apart.

use serde_json::json;
use simd_json::{Buffers, ErrorType, Node, StaticNode, Tape};
use std::borrow::Cow;
use std::fmt;

/// Why a message can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Not JSON.
    Syntax,
    /// Nested deeper than we follow, or a huge message of very many small values.
    TooDeep,
    /// Not an object, no `event` (or `type`), or a needed field missing or of another type.
    Shape(&'static str),
    /// A known key twice.
    DuplicateKey,
}

impl DecodeError {
    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::TooDeep => "too_deep",
            Self::Shape(_) => "shape",
            Self::DuplicateKey => "duplicate_key",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("not JSON"),
            Self::TooDeep => f.write_str("nested too deep"),
            Self::Shape(what) => write!(f, "missing or of another type: {what}"),
            Self::DuplicateKey => f.write_str("a key came twice"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// What decoding found beside the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Noticed {
    /// A hot message (`media`, an audio delta) that the strict scanner did not take and simd-json did.
    /// Never set for other messages: those always go through simd-json.
    pub fallback: bool,
    /// Fields that we do not know, in a message that we do.
    pub unknown_fields: u32,
}

/// Objects and arrays inside one another, at most. The deepest real message (a `session.updated` with
/// a tool's JSON schema) stays below 20.
pub const DEPTH_MAX: usize = 64;
/// A message above this size is counted before it is parsed: see `PARTS_MAX`.
const LARGE_BYTES: usize = 1024 * 1024;
/// JSON tokens in a message above `LARGE_BYTES`. The parser keeps about 28 bytes for each, so without a
/// bound 16 MiB of `[1,1,…` would take 450 MB. Real large messages are few fields with long base64.
const PARTS_MAX: usize = 256 * 1024;
/// Memory kept from one message to the next. A larger message gives its memory back.
const KEPT_TEXT_BYTES: usize = 16 * 1024;
/// Like `KEPT_TEXT_BYTES`, for parsed values of 24 bytes each.
const KEPT_NODES: usize = 1024;

/// Reused memory of the slow path (simd-json's buffers and tape), one per worker or session.
pub struct Scratch {
    buffers: Buffers,
    /// Always empty between two calls: only its allocation is kept.
    tape: Tape<'static>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            buffers: Buffers::with_max_depth(0, DEPTH_MAX),
            tape: Tape(Vec::new()),
        }
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch")
    }
}

impl Scratch {
    /// Parses `text` in place (escapes are undone inside it) and hands the whole value to `read`.
    /// What `read` returns may borrow from `text`, never from the scratch.
    pub(super) fn parse<'a, T>(
        &mut self,
        text: &'a mut [u8],
        read: impl FnOnce(Value<'_, 'a>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let len = text.len();
        if len > LARGE_BYTES && has_too_many_parts(text) {
            return Err(DecodeError::TooDeep);
        }
        let mut tape: Tape<'a> = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        // simd-json keeps its own stack on the heap and refuses past `DEPTH_MAX`: nothing recurses.
        let result = match simd_json::fill_tape(text, &mut self.buffers, &mut tape) {
            Ok(()) => read(Value(&tape.0)),
            Err(error) => Err(match error.error() {
                ErrorType::DepthLimitExceeded => DecodeError::TooDeep,
                _ => DecodeError::Syntax,
            }),
        };
        if tape.0.capacity() <= KEPT_NODES {
            self.tape = tape.reset();
        }
        if len > KEPT_TEXT_BYTES {
            self.buffers = Buffers::with_max_depth(0, DEPTH_MAX);
        }
        result
    }
}

/// Whether `text` holds more than `PARTS_MAX` tokens outside its strings. Exact for valid JSON.
fn has_too_many_parts(text: &[u8]) -> bool {
    let (mut parts, mut at) = (0_usize, 0);
    while at < text.len() {
        match text[at] {
            b'"' => {
                parts += 1;
                at += 1;
                // To the closing quote, a whole escape at a time.
                while let Some(found) = memchr::memchr2(b'"', b'\\', &text[at..]) {
                    at += found;
                    if text[at] == b'"' {
                        break;
                    }
                    at = (at + 2).min(text.len());
                }
            }
            b',' | b':' | b'[' | b']' | b'{' | b'}' => parts += 1,
            _ => {}
        }
        if parts > PARTS_MAX {
            return true;
        }
        at += 1;
    }
    false
}

/// One value on the tape with all that it holds. `'a` is the message's text, `'t` the tape.
#[derive(Clone, Copy)]
pub(super) struct Value<'t, 'a>(&'t [Node<'a>]);

impl<'t, 'a> Value<'t, 'a> {
    fn node(self) -> Node<'a> {
        self.0
            .first()
            .copied()
            .unwrap_or(Node::Static(StaticNode::Null))
    }

    /// An object's members, in order; `None` when this is no object.
    pub(super) fn members(self) -> Option<Members<'t, 'a>> {
        match self.node() {
            Node::Object { count, .. } => Some(Members(Elements(self.0.get(1..=count)?))),
            _ => None,
        }
    }

    /// An array's elements, in order; `None` when this is no array.
    pub(super) fn elements(self) -> Option<Elements<'t, 'a>> {
        match self.node() {
            Node::Array { count, .. } => Some(Elements(self.0.get(1..=count)?)),
            _ => None,
        }
    }

    /// An object's member of that name; `None` when there is none or this is no object.
    pub(super) fn member(self, name: &str) -> Result<Option<Self>, DecodeError> {
        let mut found = None;
        for (key, value) in self.members().into_iter().flatten() {
            if key == name {
                once(&mut found, value)?;
            }
        }
        Ok(found)
    }

    /// null.
    pub(super) fn is_null(self) -> bool {
        matches!(self.node(), Node::Static(StaticNode::Null))
    }

    /// A string's text.
    pub(super) fn str(self) -> Option<&'a str> {
        match self.node() {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    /// A string's text, or a number's digits: compatible peers send ids as numbers. Else `None`.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self.node() {
            Node::String(text) => Some(Cow::Borrowed(text)),
            Node::Static(StaticNode::U64(n)) => Some(Cow::Owned(n.to_string())),
            Node::Static(StaticNode::I64(n)) => Some(Cow::Owned(n.to_string())),
            Node::Static(StaticNode::F64(n)) => Some(Cow::Owned(n.to_string())),
            _ => None,
        }
    }

    /// A whole number from 0, as a number or as a string of decimal digits. Else `None`.
    pub(super) fn uint(self) -> Option<u64> {
        match self.node() {
            Node::String(text) => digits(text.as_bytes()),
            Node::Static(StaticNode::U64(n)) => Some(n),
            Node::Static(StaticNode::I64(n)) => u64::try_from(n).ok(),
            // 61.0 is written for 61 by languages with one number type; beyond 2^53 it is no integer any more.
            Node::Static(StaticNode::F64(n)) if n.fract() == 0.0 && (0.0..9e15).contains(&n) => {
                Some(n as u64)
            }
            _ => None,
        }
    }

    /// A number, as a number or as a string; never infinite. Else `None`.
    pub(super) fn number(self) -> Option<f64> {
        let number = match self.node() {
            Node::String(text) => text.parse().ok()?,
            Node::Static(StaticNode::U64(n)) => n as f64,
            Node::Static(StaticNode::I64(n)) => n as f64,
            Node::Static(StaticNode::F64(n)) => n,
            _ => return None,
        };
        number.is_finite().then_some(number)
    }

    /// A string as it is, anything else as JSON.
    pub(super) fn stringify(self) -> Cow<'a, str> {
        match self.str() {
            Some(text) => Cow::Borrowed(text),
            None => Cow::Owned(self.to_json().to_string()),
        }
    }

    /// Recursion is bounded by `DEPTH_MAX`.
    fn to_json(self) -> serde_json::Value {
        if let Some(members) = self.members() {
            members
                .map(|(key, value)| (key.to_owned(), value.to_json()))
                .collect()
        } else if let Some(elements) = self.elements() {
            elements.map(Value::to_json).collect()
        } else {
            match self.node() {
                Node::String(text) => json!(text),
                Node::Static(StaticNode::U64(n)) => json!(n),
                Node::Static(StaticNode::I64(n)) => json!(n),
                Node::Static(StaticNode::F64(n)) => json!(n),
                Node::Static(StaticNode::Bool(b)) => json!(b),
                _ => serde_json::Value::Null,
            }
        }
    }
}

/// An array's elements.
#[derive(Clone)]
pub(super) struct Elements<'t, 'a>(&'t [Node<'a>]);

impl<'t, 'a> Iterator for Elements<'t, 'a> {
    type Item = Value<'t, 'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = match self.0.first()? {
            Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
            _ => 1,
        };
        let (value, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(Value(value))
    }
}

/// An object's members: name and value.
#[derive(Clone)]
pub(super) struct Members<'t, 'a>(Elements<'t, 'a>);

impl<'t, 'a> Iterator for Members<'t, 'a> {
    type Item = (&'a str, Value<'t, 'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let key = self.0.next()?.str()?;
        Some((key, self.0.next()?))
    }
}

/// Puts `value` into `slot`, which must be empty: a known key comes once.
pub(super) fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), DecodeError> {
    if slot.is_some() {
        return Err(DecodeError::DuplicateKey);
    }
    *slot = Some(value);
    Ok(())
}

/// Cuts a peer's word to 64 bytes, at a character's edge: it will be a log field, perhaps a label.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(64)]
}

/// A non-empty run of decimal digits that fits 64 bits.
fn digits(text: &[u8]) -> Option<u64> {
    // No u64 has more than 20 digits; zeros in front of a longer one are not worth following.
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0_u64, |n, &byte| {
        if !byte.is_ascii_digit() {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// The strict twin of `once`: a second value, or none, ends the scan.
#[inline]
pub(super) fn fill<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    if slot.is_some() || value.is_none() {
        return None;
    }
    *slot = value;
    Some(())
}

/// Where a string's content lies in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The content.
    pub(super) fn bytes(self, text: &[u8]) -> &[u8] {
        &text[self.start..self.end]
    }

    /// The content as text.
    pub(super) fn str(self, text: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(text)).expect("the scanner takes ASCII only")
    }
}

/// The strict scanner's cursor: one pass forward. Every method answers `None` on anything that is not
/// exactly what it reads, and the whole message then takes the slow path.
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    /// 0 <= at <= text.len()
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips JSON white space.
    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> Option<()> {
        if self.peek() != Some(byte) {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// An object: `member` is called behind each colon, with the key, and must consume the value.
    #[inline]
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &'a [u8]) -> Option<()>,
    ) -> Option<()> {
        self.space();
        self.eat(b'{')?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Some(());
        }
        loop {
            self.space();
            let key = self.string()?.bytes(self.text);
            self.space();
            self.eat(b':')?;
            self.space();
            member(self, key)?;
            self.space();
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A short string, eight bytes at a time: that beats a vector search up to some 50 bytes.
    #[inline]
    pub(super) fn string(&mut self) -> Option<Span> {
        self.eat(b'"')?;
        let start = self.at;
        let mut end = start;
        while let Some(chunk) = self.text[end..].first_chunk::<8>() {
            let special = special_bytes(u64::from_le_bytes(*chunk));
            if special != 0 {
                end += special.trailing_zeros() as usize / 8;
                break;
            }
            end += 8;
        }
        // What is left is shorter than eight bytes, or begins with a special byte.
        loop {
            match *self.text.get(end)? {
                b'"' => break,
                b'\\' | 0..0x20 | 0x80.. => return None,
                _ => end += 1,
            }
        }
        self.at = end + 1;
        Some(Span { start, end })
    }

    /// A long string: vector search for the quote, then one vector pass over the content.
    #[inline]
    pub(super) fn long_string(&mut self) -> Option<Span> {
        self.eat(b'"')?;
        let start = self.at;
        let end = start + memchr::memchr(b'"', &self.text[start..])?;
        if !is_plain(&self.text[start..end]) {
            return None;
        }
        self.at = end + 1;
        Some(Span { start, end })
    }

    /// An unsigned integer, bare or as a string of digits.
    #[inline]
    pub(super) fn uint(&mut self) -> Option<u64> {
        if self.peek()? == b'"' {
            return digits(self.string()?.bytes(self.text));
        }
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        let run = &self.text[start..self.at];
        // RFC 8259 section 6: no zeros in front. What follows (a fraction, an exponent) is refused
        // by `object`, which expects a comma or a brace.
        if run.len() > 1 && run[0] == b'0' {
            return None;
        }
        digits(run)
    }

    /// Whether only white space is left.
    pub(super) fn end(mut self) -> Option<()> {
        self.space();
        (self.at == self.text.len()).then_some(())
    }
}

/// Marks, by its highest bit, the first byte that ends a plain string: a quote, a backslash, a control
/// character or one above 0x7f. Marks above the first may be false: a borrow runs upwards only.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const LOW: u64 = u64::MAX / 255;
    const HIGH: u64 = LOW << 7;
    let zero = |word: u64| word.wrapping_sub(LOW) & !word;
    let quote = zero(word ^ (LOW * b'"' as u64));
    let backslash = zero(word ^ (LOW * b'\\' as u64));
    let control = word.wrapping_sub(LOW * 0x20) & !word;
    (quote | backslash | control | word) & HIGH
}

/// ASCII without control characters (RFC 8259 section 7 forbids those below 0x20) and backslashes.
///
/// Base64 nearly always, and the check for that has the fastest vectors; the plain loop is for the rest.
fn is_plain(text: &[u8]) -> bool {
    base64_simd::STANDARD.check(text).is_ok() || is_plain_bytewise(text)
}

/// As signed bytes, both control characters and everything above 0x7f are below 0x20.
fn is_plain_bytewise(text: &[u8]) -> bool {
    text.iter()
        .all(|&byte| (byte as i8) >= 0x20 && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_at_every_place_ends_a_string_or_does_not() {
        for byte in 0..=u8::MAX {
            let plain = (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\';
            for len in 1..20 {
                for at in 0..len {
                    let mut content = vec![b'a'; len];
                    content[at] = byte;
                    let text = [b"\"", content.as_slice(), b"\""].concat();
                    let whole = Span {
                        start: 1,
                        end: len + 1,
                    };
                    let expected = match byte {
                        b'"' => Some(Span {
                            start: 1,
                            end: at + 1,
                        }),
                        _ => plain.then_some(whole),
                    };
                    assert_eq!(Scanner::new(&text).string(), expected, "{byte} {at} {len}");
                    assert_eq!(
                        Scanner::new(&text).long_string(),
                        expected,
                        "{byte} {at} {len}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_string_without_its_closing_quote_is_none() {
        for len in 0..40 {
            let text = [b"\"", "a".repeat(len).as_bytes()].concat();
            assert_eq!(Scanner::new(&text).string(), None);
            assert_eq!(Scanner::new(&text).long_string(), None);
        }
    }

    #[test]
    fn what_base64_is_not_may_still_be_plain() {
        for (text, plain) in [
            ("AAA", true),
            ("A-_=", true),
            ("\u{7f}", true),
            ("A\\A", false),
            ("A\nA", false),
            ("é", false),
        ] {
            assert_eq!(is_plain(text.as_bytes()), plain, "{text}");
        }
    }
}
