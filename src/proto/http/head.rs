//! HTTP/1.1 request and response heads, over httparse, stricter where smuggling lives (RFC 9112).
//!
//! Core, called by the desk for every connection and by the dialler for the model's answer. It reads a head
//! and nothing behind it: bodies, and thus chunk sizes, belong to the control plane's own server. Heads are
//! rare, so clarity wins over speed: lines are walked once by us and once by httparse.
//!
//! An error is found with the bytes that make it one, also in a head that is still partial; a beginning
//! that could still become a valid head is never called one.
//!
//! | what comes | error | status | label |
//! |---|---|---|---|
//! | over 16 KiB, or 16 KiB without an end | `TooLarge` | 431 | `head_too_large` |
//! | over 64 header lines | `TooLarge` | 431 | `head_too_large` |
//! | HTTP/2.0 and the like | `Version` | 505 | `http_version` |
//! | LF without CR, CR without LF | `Smuggling` | 400 | `head_smuggling` |
//! | line that starts with a space or tab (obs-fold) | `Smuggling` | 400 | `head_smuggling` |
//! | space or tab before a header's colon | `Smuggling` | 400 | `head_smuggling` |
//! | Content-Length with Transfer-Encoding, or twice (equal or not), or not digits | `Smuggling` | 400 | `head_smuggling` |
//! | Transfer-Encoding twice, in HTTP/1.0, or not ending in its only `chunked` | `Smuggling` | 400 | `head_smuggling` |
//! | Host twice | `Smuggling` | 400 | `head_smuggling` |
//! | Host missing in 1.1, or with bytes that no host has | `Syntax` | 400 | `head_syntax` |
//! | NUL, an empty line or a space at the start, anything else that is not HTTP | `Syntax` | 400 | `head_syntax` |

use std::io::Write as _;

use crate::base::limit::{HEAD_BYTES_MAX, HEADERS_MAX};

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
        match self {
            HeadError::Syntax(_) | HeadError::Smuggling(_) => 400,
            HeadError::TooLarge => 431,
            HeadError::Version => 505,
        }
    }

    /// For people.
    pub fn message(self) -> &'static str {
        match self {
            HeadError::Syntax(what) | HeadError::Smuggling(what) => what,
            HeadError::TooLarge => "the request head is too large",
            HeadError::Version => "only HTTP/1.0 and 1.1",
        }
    }

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            HeadError::Syntax(_) => "head_syntax",
            HeadError::Smuggling(_) => "head_smuggling",
            HeadError::TooLarge => "head_too_large",
            HeadError::Version => "http_version",
        }
    }
}

/// A request's head, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// As sent, upper case for the known ones.
    pub method: &'a str,
    /// The request target as sent: origin form for us. Visible ASCII.
    pub target: &'a str,
    /// 0 or 1: the minor version.
    pub minor_version: u8,
    /// The header lines, in order.
    pub headers: Headers<'a>,
}

impl<'a> RequestHead<'a> {
    /// The target without scheme and authority, which a client that takes us for a proxy sends along and a server
    /// must accept (RFC 9112 section 3.2.2).
    pub fn origin_form(&self) -> &'a str {
        let after = |scheme: &str| {
            let head = self.target.get(..scheme.len())?;
            head.eq_ignore_ascii_case(scheme)
                .then(|| &self.target[scheme.len()..])
        };
        match after("http://").or_else(|| after("https://")) {
            None => self.target,
            Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        }
    }
}

/// A response's head, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead<'a> {
    /// 0 or 1: the minor version.
    pub minor_version: u8,
    /// The status code, 100 to 599.
    pub status: u16,
    /// The reason phrase; empty when absent or not ASCII.
    pub reason: &'a str,
    /// The header lines, in order.
    pub headers: Headers<'a>,
}

/// Header lines in order; names compare without case, values are trimmed.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Headers<'a>(pub Vec<(&'a str, &'a [u8])>);

impl<'a> Headers<'a> {
    /// The first value of `name`, as text; `None` when absent or not UTF-8.
    pub fn first(&self, name: &str) -> Option<&'a str> {
        let value = self.all(name).next()?;
        std::str::from_utf8(value).ok()
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
        self.all(name)
            .flat_map(list)
            .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The elements of a comma-separated value, trimmed, empty ones left out.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Parses a request head from the front of `bytes`.
pub fn parse_request(bytes: &[u8]) -> Result<Parsed<RequestHead<'_>>, HeadError> {
    let window = walk_lines(bytes)?;
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut lines);
    let status = request.parse(window).map_err(|e| refusal(e, window))?;
    let (Some(method), Some(target), Some(minor_version)) =
        (request.method, request.path, request.version)
    else {
        return Ok(Parsed::Partial);
    };
    // RFC 9112 section 3.2: a target is a URI, which has no such bytes.
    if !target.is_ascii() {
        return Err(HeadError::Syntax("target not ascii"));
    }
    let httparse::Status::Complete(len) = status else {
        return Ok(Parsed::Partial);
    };
    let headers = collect(request.headers);
    check_host(&headers, minor_version)?;
    check_framing(&headers, minor_version)?;
    let head = RequestHead {
        method,
        target,
        minor_version,
        headers,
    };
    Ok(Parsed::Complete { head, len })
}

/// Parses a response head from the front of `bytes`.
pub fn parse_response(bytes: &[u8]) -> Result<Parsed<ResponseHead<'_>>, HeadError> {
    let window = walk_lines(bytes)?;
    let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut lines);
    let parsed = response.parse(window).map_err(|e| refusal(e, window))?;
    let (Some(minor_version), Some(status)) = (response.version, response.code) else {
        return Ok(Parsed::Partial);
    };
    if !(100..=599).contains(&status) {
        return Err(HeadError::Syntax("status out of range"));
    }
    let (httparse::Status::Complete(len), Some(reason)) = (parsed, response.reason) else {
        return Ok(Parsed::Partial);
    };
    let headers = collect(response.headers);
    check_framing(&headers, minor_version)?;
    let head = ResponseHead {
        minor_version,
        status,
        reason,
        headers,
    };
    Ok(Parsed::Complete { head, len })
}

fn collect<'a>(lines: &[httparse::Header<'a>]) -> Headers<'a> {
    Headers(lines.iter().map(|line| (line.name, line.value)).collect())
}

/// Walks the lines up to the empty one and refuses what httparse would let pass. Gives back the bytes that
/// httparse may look at: the whole head, or all there is of a partial one.
fn walk_lines(bytes: &[u8]) -> Result<&[u8], HeadError> {
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut at = 0;
    loop {
        let rest = &window[at..];
        let (line, next) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => match rest[..end].strip_suffix(b"\r") {
                Some(line) => (line, Some(at + end + 1)),
                None => return Err(HeadError::Smuggling("bare LF")),
            },
            // A CR at the very end may yet get its LF.
            None => (rest.strip_suffix(b"\r").unwrap_or(rest), None),
        };
        check_line(line, at == 0)?;
        match next {
            Some(_) if at == 0 && line.is_empty() => {
                return Err(HeadError::Syntax("empty line before the head"));
            }
            Some(end) if line.is_empty() => return Ok(&window[..end]),
            Some(end) => at = end,
            // No end within the limit: more bytes could only make it longer.
            None if window.len() == HEAD_BYTES_MAX => return Err(HeadError::TooLarge),
            None => return Ok(window),
        }
    }
}

/// One line without its end; `line` may be cut when it is the last.
fn check_line(line: &[u8], first: bool) -> Result<(), HeadError> {
    // A bare CR ends a line for some parsers and not for others.
    if line.contains(&b'\r') {
        return Err(HeadError::Smuggling("bare CR"));
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    if first {
        return match line.first() {
            Some(byte) if blank(byte) => Err(HeadError::Syntax("space before the head")),
            _ => Ok(()),
        };
    }
    // RFC 9112 section 5.2: a server must refuse or unfold; we refuse. The same shape right behind the
    // first line is section 2.2's whitespace between start line and headers.
    if line.first().is_some_and(blank) {
        return Err(HeadError::Smuggling("line folding"));
    }
    // RFC 9112 section 5.1: no whitespace between name and colon, answered 400.
    let name = line.split(|byte| *byte == b':').next().unwrap_or(line);
    if name.iter().any(blank) {
        return Err(HeadError::Smuggling("space in a header name"));
    }
    Ok(())
}

/// httparse's error in our terms.
fn refusal(error: httparse::Error, window: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooLarge,
        httparse::Error::Version => {
            // "HTTP/2.0" is another version, "HTTQ" or "http/1.1" is not HTTP. It stands first in a response
            // and third in a request.
            let line = window.split(|byte| *byte == b'\r').next().unwrap_or(window);
            let named = line
                .split(|byte| *byte == b' ')
                .enumerate()
                .any(|(at, word)| {
                    matches!(
                        (at, word.strip_prefix(b"HTTP/")),
                        (0 | 2, Some([digit, ..])) if digit.is_ascii_digit()
                    )
                });
            if named {
                HeadError::Version
            } else {
                HeadError::Syntax("version")
            }
        }
        httparse::Error::HeaderName => HeadError::Syntax("header name"),
        httparse::Error::HeaderValue => HeadError::Syntax("header value"),
        httparse::Error::NewLine => HeadError::Syntax("line end"),
        httparse::Error::Status => HeadError::Syntax("status line"),
        httparse::Error::Token => HeadError::Syntax("request line"),
    }
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1, at most one in 1.0.
fn check_host(headers: &Headers<'_>, minor_version: u8) -> Result<(), HeadError> {
    let mut hosts = headers.all("host");
    let Some(host) = hosts.next() else {
        return match minor_version {
            0 => Ok(()),
            _ => Err(HeadError::Syntax("no host")),
        };
    };
    if hosts.next().is_some() {
        return Err(HeadError::Smuggling("two hosts"));
    }
    // RFC 3986 section 3.2: what may stand in host and port; a list, a path or a login may not.
    let fits = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
                    | b':'
                    | b'['
                    | b']'
            )
    };
    if host.iter().all(fits) {
        Ok(())
    } else {
        Err(HeadError::Syntax("host"))
    }
}

/// RFC 9112 section 6: one way to tell where the body ends, or none.
fn check_framing(headers: &Headers<'_>, minor_version: u8) -> Result<(), HeadError> {
    let mut lengths = headers.all("content-length");
    let length = lengths.next();
    // Equal ones may be merged by section 6.3, but a peer that repeats itself may be two peers.
    if lengths.next().is_some() {
        return Err(HeadError::Smuggling("two lengths"));
    }
    if let Some(length) = length
        // 19 digits are the most that always fit 64 bits.
        && !(matches!(length.len(), 1..=19) && length.iter().all(u8::is_ascii_digit))
    {
        return Err(HeadError::Smuggling("content-length"));
    }
    let mut encodings = headers.all("transfer-encoding");
    let Some(encoding) = encodings.next() else {
        return Ok(());
    };
    if length.is_some() {
        return Err(HeadError::Smuggling("length and transfer-encoding"));
    }
    if encodings.next().is_some() || minor_version == 0 {
        return Err(HeadError::Smuggling("transfer-encoding"));
    }
    let chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let ends_well = list(encoding).last().is_some_and(chunked);
    if !ends_well || list(encoding).filter(|coding| chunked(coding)).count() != 1 {
        return Err(HeadError::Smuggling("transfer-encoding"));
    }
    Ok(())
}

/// Writes a whole short response with `Connection: close`, Content-Length and a JSON or text body.
///
/// `extra` are our own header lines; a CR or LF in one is our bug. With an `Upgrade` among them (a 426 must
/// name the protocol, RFC 9110 section 15.5.22) `Connection` lists it, as section 7.8 wants.
pub fn write_response(
    out: &mut Vec<u8>,
    status: u16,
    extra: &[(&str, &str)],
    content_type: &str,
    body: &[u8],
) {
    let connection = if extra
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
    {
        "close, Upgrade"
    } else {
        "close"
    };
    write!(
        out,
        "HTTP/1.1 {status} {}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: {connection}\r\n",
        reason_phrase(status),
        body.len(),
    )
    .expect("writing to a Vec does not fail");
    write_headers(out, extra);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

/// Appends our own header lines as they are.
pub(super) fn write_headers(out: &mut Vec<u8>, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        debug_assert!(
            !name.contains(['\r', '\n', ':', ' ']) && !value.contains(['\r', '\n', '\0']),
            "a header line of ours that would be two"
        );
        for piece in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
    }
}

/// RFC 9110 section 15, RFC 6585; the ones that anything here answers with.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        // RFC 9112 section 4: the phrase may be empty, the space before it may not.
        _ => "",
    }
}

#[cfg(any(test, fuzzing))]
pub mod property;
#[cfg(test)]
mod tests;
