//! What a track file says, without its audio: which stretch of the timeline lies where in the file. Pure over a [`Source`].
//!
//! The file is read in its order. Later audio lies over earlier, a cut takes away what lies behind it. Damage costs the
//! pieces that it touches: the next whole head is looked for, and what was lost is silence.

use super::Source;
use crate::call::track::{HEAD_BYTES, Head, PIECE_BYTES, Piece, SAMPLES_MAX, SILENCE};
use std::io;

/// A stretch of audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    /// Where it lies, samples.
    at: u64,
    /// Samples and bytes: at least 1.
    len: u64,
    /// Where its bytes stand in the file.
    offset: u64,
}

impl Stretch {
    fn end(&self) -> u64 {
        self.at + self.len
    }
}

/// What a file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Index {
    /// The file's head; `None` when it is damaged.
    pub head: Option<Head>,
    /// In order, none over another.
    stretches: Vec<Stretch>,
    /// Where the last whole piece ends in the file; what stands behind it is torn.
    pub whole_bytes: u64,
    /// Places where something was damaged and skipped, the torn end not among them.
    pub damaged: u64,
    /// Cuts.
    pub cuts: u64,
}

impl Index {
    /// Reads a file. With `check` all audio is read too, and what does not fit its checksum is left out and counted;
    /// without, the last piece alone is, which is the one that a crash can have torn.
    pub fn scan(source: &(impl Source + ?Sized), check: bool) -> io::Result<Self> {
        let mut bytes = [0; HEAD_BYTES];
        let filled = source.read_full_at(&mut bytes, 0)?;
        let mut index = Index {
            head: Head::decode(&bytes[..filled]),
            whole_bytes: HEAD_BYTES.min(filled) as u64,
            ..Index::default()
        };
        let mut offset = HEAD_BYTES as u64;
        // A piece that ends where the file does, or where damage begins.
        let mut last = None;
        loop {
            let mut head = [0; PIECE_BYTES];
            let filled = source.read_full_at(&mut head, offset)?;
            let Some(piece) = Piece::decode(&head[..filled]) else {
                if !check && let Some((stretch, crc)) = last.take() {
                    index.prove(source, stretch, crc)?;
                }
                match next_piece(source, offset + 1)? {
                    Some(found) => {
                        index.damaged += 1;
                        offset = found;
                        continue;
                    }
                    None => break,
                }
            };
            let audio = offset + PIECE_BYTES as u64;
            match piece {
                Piece::Audio { at, len, crc } if len > 0 => {
                    let stretch = Stretch {
                        at,
                        len: u64::from(len),
                        offset: audio,
                    };
                    let mut byte = [0];
                    let whole = source.read_full_at(&mut byte, audio + u64::from(len) - 1)? == 1;
                    if whole && (!check || sum(source, stretch)? == crc) {
                        last = Some((stretch, crc));
                        index.put(stretch);
                    } else if whole {
                        index.damaged += 1;
                    } else {
                        break; // torn
                    }
                }
                Piece::Audio { .. } => {}
                Piece::Cut { at } => {
                    last = None;
                    index.cut(at);
                    index.cuts += 1;
                }
            }
            offset = audio + u64::from(piece.audio_len());
            index.whole_bytes = offset;
        }
        Ok(index)
    }

    /// Where the last audio ends, samples.
    pub fn end(&self) -> u64 {
        self.stretches.last().map_or(0, Stretch::end)
    }

    /// Samples that are there.
    pub fn audio_samples(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.len).sum()
    }

    /// Fills `out` with the timeline from `at` on: PCMU, silence where nothing is.
    pub fn read(&self, source: &(impl Source + ?Sized), at: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(SILENCE);
        let end = at + out.len() as u64;
        let first = self
            .stretches
            .partition_point(|stretch| stretch.end() <= at);
        for stretch in &self.stretches[first..] {
            if stretch.at >= end {
                break;
            }
            let from = stretch.at.max(at);
            let to = stretch.end().min(end);
            let room = &mut out[(from - at) as usize..(to - at) as usize];
            let filled = source.read_full_at(room, stretch.offset + (from - stretch.at))?;
            // A file that became shorter since it was scanned.
            room[filled..].fill(SILENCE);
        }
        Ok(())
    }

    /// Lays a stretch over everything that was there.
    fn put(&mut self, new: Stretch) {
        if new.at >= self.end() {
            self.stretches.push(new);
            return;
        }
        let first = self.stretches.partition_point(|old| old.end() <= new.at);
        let last = self.stretches.partition_point(|old| old.at < new.end());
        let mut parts = Vec::with_capacity(3);
        if let Some(old) = self.stretches.get(first).filter(|old| old.at < new.at) {
            parts.push(Stretch {
                len: new.at - old.at,
                ..*old
            });
        }
        parts.push(new);
        if let Some(old) = self.stretches[first..last]
            .last()
            .filter(|old| old.end() > new.end())
        {
            let skipped = new.end() - old.at;
            parts.push(Stretch {
                at: new.end(),
                len: old.len - skipped,
                offset: old.offset + skipped,
            });
        }
        self.stretches.splice(first..last, parts);
    }

    fn cut(&mut self, at: u64) {
        self.stretches.retain(|stretch| stretch.at < at);
        if let Some(last) = self.stretches.last_mut() {
            last.len = last.len.min(at - last.at);
        }
    }

    /// Takes a stretch away again when its bytes are not what they should be.
    fn prove(
        &mut self,
        source: &(impl Source + ?Sized),
        stretch: Stretch,
        crc: u32,
    ) -> io::Result<()> {
        if sum(source, stretch)? != crc {
            self.damaged += 1;
            self.stretches
                .retain(|known| known.offset != stretch.offset);
        }
        Ok(())
    }
}

fn sum(source: &(impl Source + ?Sized), stretch: Stretch) -> io::Result<u32> {
    let mut buffer = [0; 4096];
    let (mut done, mut crc) = (0, 0);
    while done < stretch.len {
        let want = buffer.len().min((stretch.len - done) as usize);
        let filled = source.read_full_at(&mut buffer[..want], stretch.offset + done)?;
        if filled == 0 {
            break;
        }
        crc = crc32c::crc32c_append(crc, &buffer[..filled]);
        done += filled as u64;
    }
    Ok(crc)
}

/// The next place at or behind `from` where a whole head of a piece stands.
fn next_piece(source: &(impl Source + ?Sized), mut from: u64) -> io::Result<Option<u64>> {
    let mut buffer = vec![0; 64 * 1024];
    // No file is longer than its timeline written twice over; an endless source is none.
    while from < 4 * SAMPLES_MAX {
        let filled = source.read_full_at(&mut buffer, from)?;
        if filled < PIECE_BYTES {
            return Ok(None);
        }
        for at in 0..=filled - PIECE_BYTES {
            // The first byte alone leaves one place in 256 to look at.
            if buffer[at] == 0xF7 && Piece::decode(&buffer[at..filled]).is_some() {
                return Ok(Some(from + at as u64));
            }
        }
        from += (filled - PIECE_BYTES + 1) as u64;
    }
    Ok(None)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
