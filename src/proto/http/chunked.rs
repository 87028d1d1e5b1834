//! Where a chunked body ends (RFC 9112 section 7.1), by the letter. Core.
//!
//! It counts and checks, and gives no bytes out: whoever reads the body decodes it again. A server behind this may be
//! more lenient, yet sees nothing that this did not find whole.

/// Hexadecimal digits of a size: 15 fit 64 bits with room to spare.
const DIGITS_MAX: u8 = 15;
/// Bytes of one size line's extensions.
const EXTENSION_BYTES_MAX: usize = 256;
/// Bytes of all trailer lines.
const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// A body that is not chunked as it should be: what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkError(pub &'static str);

/// Walks one chunked body.
#[derive(Clone, Debug)]
pub struct Chunked {
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Size { digits: u8, size: u64 },
    Extension { len: usize, size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    TrailerStart { len: usize },
    Trailer { len: usize },
    TrailerLf { len: usize },
    EndLf,
    Done,
}

impl Default for Chunked {
    fn default() -> Self {
        Self { at: At::START }
    }
}

impl At {
    const START: Self = Self::Size { digits: 0, size: 0 };
}

impl Chunked {
    /// Takes the next bytes of the body: how many belong to it, which is all of them until `is_done`.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut used = 0;
        while used < bytes.len() {
            match self.at {
                At::Done => break,
                At::Data { left } => {
                    let here = left.min((bytes.len() - used) as u64);
                    used += here as usize;
                    self.at = match left - here {
                        0 => At::DataCr,
                        left => At::Data { left },
                    };
                }
                at => {
                    self.at = step(at, bytes[used])?;
                    used += 1;
                }
            }
        }
        Ok(used)
    }

    /// The body is over: what follows is another message.
    pub fn is_done(&self) -> bool {
        matches!(self.at, At::Done)
    }
}

/// One byte outside of a chunk's data.
fn step(at: At, byte: u8) -> Result<At, ChunkError> {
    let is_text = matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    let trailer = |len: usize| match is_text {
        true if len < TRAILER_BYTES_MAX => Ok(At::Trailer { len: len + 1 }),
        _ => Err(ChunkError("trailer")),
    };
    match (at, byte) {
        (At::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
            if digits == DIGITS_MAX {
                return Err(ChunkError("chunk size"));
            }
            let digit = (byte as char).to_digit(16).unwrap_or(0);
            Ok(At::Size {
                digits: digits + 1,
                size: size * 16 + u64::from(digit),
            })
        }
        (At::Size { digits: 1.., size }, b'\r') => Ok(At::SizeLf { size }),
        (At::Size { digits: 1.., size }, b';') => Ok(At::Extension { len: 0, size }),
        (At::Size { .. }, _) => Err(ChunkError("chunk size")),
        (At::Extension { size, .. }, b'\r') => Ok(At::SizeLf { size }),
        (At::Extension { len, size }, _) if is_text && len < EXTENSION_BYTES_MAX => {
            Ok(At::Extension { len: len + 1, size })
        }
        (At::Extension { .. }, _) => Err(ChunkError("chunk extension")),
        (At::SizeLf { size: 0 }, b'\n') => Ok(At::TrailerStart { len: 0 }),
        (At::SizeLf { size }, b'\n') => Ok(At::Data { left: size }),
        (At::SizeLf { .. }, _) => Err(ChunkError("chunk size")),
        (At::DataCr, b'\r') => Ok(At::DataLf),
        (At::DataLf, b'\n') => Ok(At::START),
        (At::DataCr | At::DataLf, _) => Err(ChunkError("chunk end")),
        (At::TrailerStart { .. }, b'\r') => Ok(At::EndLf),
        (At::Trailer { len }, b'\r') => Ok(At::TrailerLf { len }),
        (At::TrailerLf { len }, b'\n') => Ok(At::TrailerStart { len }),
        (At::TrailerStart { len } | At::Trailer { len }, _) => trailer(len),
        (At::EndLf, b'\n') => Ok(At::Done),
        (At::TrailerLf { .. } | At::EndLf, _) => Err(ChunkError("trailer")),
        // Neither is asked for a byte.
        (At::Data { .. } | At::Done, _) => Ok(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body's length, given in pieces of `step` bytes.
    fn length(bytes: &[u8], step: usize) -> Result<Option<usize>, ChunkError> {
        let mut chunked = Chunked::default();
        let mut used = 0;
        for piece in bytes.chunks(step) {
            used += chunked.take(piece)?;
            if chunked.is_done() {
                return Ok(Some(used));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_body_ends_at_its_end_however_it_is_cut() {
        for body in [
            "0\r\n\r\n",
            "3\r\nabc\r\n0\r\n\r\n",
            "A;name=\"v\"\r\n0123456789\r\n00\r\nX: y\r\nZ: \r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let followed = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            for step in 1..=followed.len() {
                assert_eq!(
                    length(&followed, step),
                    Ok(Some(body.len())),
                    "{body} {step}"
                );
            }
            for cut in 0..body.len() {
                assert_eq!(length(&body.as_bytes()[..cut], 1), Ok(None), "{body} {cut}");
            }
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_an_error() {
        for (body, what) in [
            ("\r\n", "chunk size"),
            ("0x3\r\nabc", "chunk size"),
            ("-1\r\n", "chunk size"),
            ("+3\r\nabc", "chunk size"),
            ("3 \r\nabc", "chunk size"),
            ("3\nabc", "chunk size"),
            ("3\rabc", "chunk size"),
            ("1000000000000000\r\n", "chunk size"),
            ("3;a\nb\r\nabc", "chunk extension"),
            ("3\r\nabcd\r\n", "chunk end"),
            ("3\r\nabc\n0\r\n", "chunk end"),
            ("0\r\nX: y\n\r\n", "trailer"),
            ("0\r\n\rx", "trailer"),
        ] {
            for step in [1, body.len()] {
                assert_eq!(
                    length(body.as_bytes(), step),
                    Err(ChunkError(what)),
                    "{body:?}"
                );
            }
        }
        let long = format!("1;{}", "x".repeat(EXTENSION_BYTES_MAX + 1));
        assert_eq!(
            length(long.as_bytes(), 7),
            Err(ChunkError("chunk extension"))
        );
        let long = format!("0\r\n{}", "x".repeat(TRAILER_BYTES_MAX + 1));
        assert_eq!(length(long.as_bytes(), 7), Err(ChunkError("trailer")));
    }
}
