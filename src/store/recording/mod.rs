//! Recordings: two track files a call, and what is made of them when somebody asks. Shell, but for the arithmetic.
//!
//! A worker appends to the files while the call lasts (`call::track` has their layout); nobody else writes them until the
//! call is over. Here they are found by name, read ([`index`]), mended after a crash ([`mend`]) and rendered ([`render`]):
//! cuts applied, sides joined, the rate doubled where 16 kHz are asked for ([`resample`]). Rendering needs memory for one
//! stretch of a few thousand samples, however long the call was, and can begin at any byte of the result, whose length is
//! known before.

pub mod index;
pub mod mend;
pub mod render;
pub mod resample;

use crate::call::track::Side;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Bytes by place: a file, or in tests a buffer. Reads at most what is asked for, and nothing only at the end.
pub trait Source {
    /// Reads from `offset` on into `out`, and says how much.
    fn read_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize>;

    /// Fills `out` from `offset` on as far as there is anything; gives how far.
    fn read_full_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            match self.read_at(&mut out[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl Source for std::fs::File {
    fn read_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, out, offset)
    }
}

impl Source for [u8] {
    fn read_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..));
        let rest = rest.unwrap_or_default();
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

impl Source for Vec<u8> {
    fn read_at(&self, out: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.as_slice().read_at(out, offset)
    }
}

/// The longest part of a name that is the call's id as it is.
const NAME_BYTES_MAX: usize = 160;

/// The name of a call's track file. An id's characters that mean something in paths are written as `%` and two digits; an id
/// too long for that stands there as its SHA-256.
pub fn file_name(call_id: &str, side: Side) -> String {
    let mut name = String::new();
    for byte in call_id.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => name.push(byte as char),
            _ => {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if name.len() > NAME_BYTES_MAX {
        name = String::from("sha256-");
        for byte in Sha256::digest(call_id.as_bytes()) {
            let _ = write!(name, "{byte:02x}");
        }
    }
    let side = match side {
        Side::Caller => "caller",
        Side::Agent => "agent",
    };
    format!("{name}.{side}.vxtrack")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leaves_the_directory_and_no_two_share_a_file() {
        let ids = [
            "a",
            "A",
            "../../etc/passwd",
            "..",
            "a/b",
            "a%2Fb",
            "日本",
            ".",
            &"x".repeat(128),
            &"日".repeat(42),
        ];
        let mut names = std::collections::BTreeSet::new();
        for id in ids {
            for side in [Side::Caller, Side::Agent] {
                let name = file_name(id, side);
                assert!(name.len() < 200 && !name.starts_with('.'), "{name}");
                assert!(!name.contains('/') && name.is_ascii());
                assert!(names.insert(name));
            }
        }
        assert_eq!(file_name("CA1-2_b", Side::Agent), "CA1-2_b.agent.vxtrack");
    }
}
