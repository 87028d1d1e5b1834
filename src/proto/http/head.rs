//! HTTP/1.1 request and response heads, over httparse, stricter where smuggling lives (RFC 9112).

/// What a head parser says of bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// A whole head of `len` bytes; what follows belongs to the body or the next protocol.
    Complete {
        /// The head.
        head: T,
        /// Its bytes, with the empty line.
        len: usize,
    },
    /// Not enough bytes yet.
    Partial,
}

/// Why a head is refused. `status` gives the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// Not HTTP/1.x, or a byte where none may be.
    Syntax(&'static str),
    /// Longer than `limit::HEAD_BYTES_MAX` or more than `limit::HEADERS_MAX` lines.
    TooLarge,
    /// Both Content-Length and Transfer-Encoding, two lengths, obs-fold, a bare LF, a space before the colon.
    Smuggling(&'static str),
    /// Not HTTP/1.0 or 1.1.
    Version,
}

impl HeadError {
    /// The HTTP status to answer with: 400, 431 or 505.
    pub fn status(self) -> u16 {
        unimplemented!()
    }
    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        unimplemented!()
    }
}

/// A request's head, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// As sent, upper case for the known ones.
    pub method: &'a str,
    /// The request target as sent: origin form for us.
    pub target: &'a str,
    /// 0 or 1: the minor version.
    pub minor_version: u8,
    /// The header lines, in order.
    pub headers: Headers<'a>,
}

/// A response's head, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: &'a str,
    /// The header lines, in order.
    pub headers: Headers<'a>,
}

/// Header lines in order; names compare without case.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Headers<'a>(pub Vec<(&'a str, &'a [u8])>);

impl<'a> Headers<'a> {
    /// The first value of `name`, as text; `None` when absent or not UTF-8.
    pub fn first(&self, name: &str) -> Option<&'a str> {
        let _ = name;
        unimplemented!()
    }
    /// Every value of `name`.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.0
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| *v)
    }
    /// Whether a comma-separated header has this token, without case (RFC 9110 section 5.6.1).
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let _ = (name, token);
        unimplemented!()
    }
}

/// Parses a request head from the front of `bytes`.
pub fn parse_request(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, HeadError> {
    let _ = bytes;
    unimplemented!()
}

/// Parses a response head from the front of `bytes`.
pub fn parse_response(bytes: &[u8]) -> Result<Parsed<ResponseHead<'_>>, HeadError> {
    let _ = bytes;
    unimplemented!()
}

/// Writes a whole short response with `Connection: close`, Content-Length and a JSON or text body.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    extra: &[(&str, &str)],
    content_type: &str,
    body: &[u8],
) {
    let _ = (out, status, extra, content_type, body);
    unimplemented!()
}
