//! Recordings that a crash left behind: their files are cut to what is whole, the agent's audio that nobody can have heard
//! is taken away, and the heads get their length. Shell. Mending twice changes nothing.

use super::Source;
use super::index::Index;
use crate::call::track::{HEAD_BYTES, Head, Piece, SAMPLES_MAX, Side};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What was found and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mended {
    /// How long the recording is, samples.
    pub length: u64,
    /// Bytes of torn pieces that were cut off.
    pub torn_bytes: u64,
    /// Places where something was damaged.
    pub damaged: u64,
    /// Both heads were as they should be: nothing was changed.
    pub was_whole: bool,
}

/// Mends the files of one call, of which either may be missing. `known_ms` is how long the call was as far as anybody else
/// knows, `began_unix_ms` stands in where a head is damaged.
///
/// The call's end is the caller's last audio, which comes all the time, or what else is known, whichever is later: the
/// agent's audio that lies behind it was sent ahead and not heard.
pub fn mend(caller: &Path, agent: &Path, known_ms: u64, began_unix_ms: u64) -> io::Result<Mended> {
    let mut tracks = Vec::new();
    for (path, side) in [(caller, Side::Caller), (agent, Side::Agent)] {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let index = Index::scan(&file, false)?;
        tracks.push((file, side, index));
    }
    let lengths = tracks.iter().map(|(_, _, index)| index.head?.length);
    if let Some(lengths) = lengths.collect::<Option<Vec<_>>>()
        && let Some(length) = lengths.first()
        && lengths.iter().all(|other| other == length)
    {
        return Ok(Mended {
            length: *length,
            was_whole: true,
            ..Mended::default()
        });
    }
    let caller_end = tracks
        .iter()
        .filter(|(_, side, _)| *side == Side::Caller)
        .map(|(_, _, index)| index.end());
    let known = known_ms.saturating_mul(8).min(SAMPLES_MAX);
    let length = caller_end.max().unwrap_or(0).max(known);
    let mut mended = Mended {
        length,
        ..Mended::default()
    };
    for (file, side, index) in &tracks {
        mended.damaged += index.damaged;
        mended.torn_bytes += finish(file, *side, index, length, began_unix_ms)?;
    }
    Ok(mended)
}

/// Gives how many torn bytes were cut off. The head goes last: until it is there, the file counts as not mended.
fn finish(
    file: &File,
    side: Side,
    index: &Index,
    length: u64,
    began_unix_ms: u64,
) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = index.whole_bytes.max(HEAD_BYTES as u64);
    let torn = size.saturating_sub(end);
    if torn > 0 {
        file.set_len(end)?;
    }
    if index.end() > length {
        let cut = Piece::Cut { at: length }.encode();
        file.write_all_at(&cut, end)?;
        end += cut.len() as u64;
    }
    debug_assert!(end >= HEAD_BYTES as u64);
    file.sync_data()?;
    let head = Head {
        side,
        began_unix_ms: index.head.map_or(began_unix_ms, |head| head.began_unix_ms),
        length: Some(length),
    };
    file.write_all_at(&head.encode(), 0)?;
    file.sync_data()?;
    Ok(torn)
}

/// The SHA-256 of some files, one after the other, in hex; a missing one counts as empty.
pub fn checksum(paths: &[&Path]) -> io::Result<String> {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    for path in paths {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut offset = 0;
        loop {
            let filled = file.read_full_at(&mut buffer, offset)?;
            if filled == 0 {
                break;
            }
            hash.update(&buffer[..filled]);
            offset += filled as u64;
        }
    }
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(hex, "{byte:02x}");
    }
    Ok(hex)
}

#[cfg(test)]
#[path = "mend_tests.rs"]
mod tests;
