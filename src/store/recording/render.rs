//! A recording as a WAV file that nobody ever writes: its length is known before, and any byte of it can be had without
//! those before it. Shell only in that it reads a [`Source`].
//!
//! | format | bytes a second, stereo | head |
//! |---|---|---|
//! | `wav16k` (the default) | 64,000: PCM, 16 bits, 16 kHz | 44 |
//! | `wav8k` | 32,000: PCM, 16 bits, 8 kHz | 44 |
//! | `ulaw` | 16,000: G.711 μ-law, 8 kHz, as stored | 58 |
//!
//! Left is the caller, right the agent as heard. `mono` is their sum, held within range.

use super::Source;
use super::index::Index;
use super::resample::{Doubler, MARGIN, STRETCH};
use crate::call::track::{RATE, SILENCE, from_linear, to_linear};
use std::io::{self, Read};
use std::ops::Range;

/// How samples are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Encoding {
    /// 16-bit PCM at 16 kHz.
    #[default]
    Wav16k,
    /// 16-bit PCM at 8 kHz.
    Wav8k,
    /// μ-law at 8 kHz.
    Ulaw,
}

/// Whose samples.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Channels {
    /// Both, left the caller.
    #[default]
    Stereo,
    /// Both in one.
    Mono,
    /// The caller alone.
    Caller,
    /// The agent alone.
    Agent,
}

/// What somebody asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Format {
    /// How samples are written.
    pub encoding: Encoding,
    /// Whose.
    pub channels: Channels,
}

impl Format {
    /// Reads words with commas between them, such as `wav8k,mono`; empty is the default. `Err`: the word that is none.
    pub fn parse(words: &str) -> Result<Format, &str> {
        let mut format = Format::default();
        for word in words.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            match word {
                "wav16k" | "wav" => format.encoding = Encoding::Wav16k,
                "wav8k" => format.encoding = Encoding::Wav8k,
                "ulaw" => format.encoding = Encoding::Ulaw,
                "stereo" => format.channels = Channels::Stereo,
                "mono" => format.channels = Channels::Mono,
                "caller" => format.channels = Channels::Caller,
                "agent" => format.channels = Channels::Agent,
                other => return Err(other),
            }
        }
        Ok(format)
    }

    /// Samples a second.
    pub fn rate(self) -> u32 {
        RATE * self.factor() as u32
    }

    /// 1 or 2.
    pub fn channel_count(self) -> u16 {
        match self.channels {
            Channels::Stereo => 2,
            _ => 1,
        }
    }

    /// Output samples for each stored one.
    fn factor(self) -> usize {
        match self.encoding {
            Encoding::Wav16k => 2,
            Encoding::Wav8k | Encoding::Ulaw => 1,
        }
    }

    fn sample_bytes(self) -> u16 {
        match self.encoding {
            Encoding::Wav16k | Encoding::Wav8k => 2,
            Encoding::Ulaw => 1,
        }
    }

    fn frame_bytes(self) -> u16 {
        self.sample_bytes() * self.channel_count()
    }

    /// The bytes of so many stored samples.
    fn data_bytes(self, samples: u64) -> u64 {
        samples * self.factor() as u64 * u64::from(self.frame_bytes())
    }
}

/// The head of a WAV file with so much data (RIFF as in "Multimedia Programming Interface and Data Specifications 1.0"; a
/// format other than PCM has `cbSize` and a `fact` chunk, "New Multimedia Data Types", 1994). Lengths that 32 bits do not
/// hold are written as the largest there is: readers then take what is there.
pub fn wav_head(format: Format, samples: u64) -> Vec<u8> {
    let data = format.data_bytes(samples);
    let is_pcm = format.encoding != Encoding::Ulaw;
    let head_bytes = if is_pcm { 44 } else { 58 };
    let u32_of = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut head = Vec::with_capacity(head_bytes);
    head.extend_from_slice(b"RIFF");
    head.extend_from_slice(&u32_of(head_bytes as u64 - 8 + data + (data & 1)));
    head.extend_from_slice(b"WAVEfmt ");
    head.extend_from_slice(&(if is_pcm { 16u32 } else { 18 }).to_le_bytes());
    head.extend_from_slice(&(if is_pcm { 1u16 } else { 7 }).to_le_bytes());
    head.extend_from_slice(&format.channel_count().to_le_bytes());
    head.extend_from_slice(&format.rate().to_le_bytes());
    let per_second = format.rate() * u32::from(format.frame_bytes());
    head.extend_from_slice(&per_second.to_le_bytes());
    head.extend_from_slice(&format.frame_bytes().to_le_bytes());
    head.extend_from_slice(&(format.sample_bytes() * 8).to_le_bytes());
    if !is_pcm {
        head.extend_from_slice(&[0; 2]);
        head.extend_from_slice(b"fact");
        head.extend_from_slice(&4u32.to_le_bytes());
        head.extend_from_slice(&u32_of(samples * format.factor() as u64));
    }
    head.extend_from_slice(b"data");
    head.extend_from_slice(&u32_of(data));
    debug_assert_eq!(head.len(), head_bytes);
    head
}

/// One side's file and what it says; `None`: that side has none, and is silent.
pub type Track<S> = Option<(Index, S)>;

/// A recording while it is read.
pub struct Rendering<S> {
    caller: Track<S>,
    agent: Track<S>,
    /// The timeline, stored samples.
    samples: u64,
    format: Format,
    head: Vec<u8>,
    /// The next byte to give, and the one behind the last.
    range: Range<u64>,
    /// The stretch that was rendered last, by number; its bytes.
    stretch: Option<u64>,
    bytes: Vec<u8>,
    doubler: Option<Doubler>,
}

impl<S: Source> Rendering<S> {
    /// All of it. `samples` is how long the timeline is: what a head says, else where the longer track ends.
    pub fn new(caller: Track<S>, agent: Track<S>, samples: u64, format: Format) -> Self {
        let head = wav_head(format, samples);
        let mut rendering = Self {
            caller,
            agent,
            samples,
            format,
            head,
            range: 0..0,
            stretch: None,
            bytes: Vec::new(),
            doubler: None,
        };
        rendering.range = 0..rendering.len();
        rendering
    }

    /// How long both tracks together are, in samples: as a finished head says, else where the last audio ends.
    pub fn length_of(caller: &Track<S>, agent: &Track<S>) -> u64 {
        let indexes = [caller, agent]
            .into_iter()
            .flatten()
            .map(|(index, _)| index);
        let said = |index: &Index| index.head.and_then(|head| head.length);
        indexes
            .map(|index| said(index).unwrap_or_else(|| index.end()))
            .max()
            .unwrap_or(0)
    }

    /// Bytes in all: the Content-Length. Never 0.
    #[allow(clippy::len_without_is_empty)] // there is always a head
    pub fn len(&self) -> u64 {
        let data = self.format.data_bytes(self.samples);
        // RIFF chunks are padded to an even length.
        self.head.len() as u64 + data + (data & 1)
    }

    /// From here on only these bytes are given; they are cut to what there is.
    pub fn set_range(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len());
        self.range = range.start.min(end)..end;
    }

    /// Bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Renders stretch number `n` into `bytes`.
    fn render(&mut self, n: u64) -> io::Result<()> {
        if self.stretch == Some(n) {
            return Ok(());
        }
        self.stretch = None;
        self.bytes.clear();
        let at = n * STRETCH as u64;
        match self.format.encoding {
            Encoding::Wav16k => self.render_doubled(at)?,
            Encoding::Wav8k => {
                for frame in self.frames(at)? {
                    for sample in frame.into_iter().take(self.format.channel_count().into()) {
                        self.bytes.extend_from_slice(&sample.to_le_bytes());
                    }
                }
            }
            Encoding::Ulaw => self.render_ulaw(at)?,
        }
        self.stretch = Some(n);
        Ok(())
    }

    /// One side's samples from `at` on, as stored. Behind the end of the timeline is silence.
    fn stored(&self, track: &Track<S>, at: u64, out: &mut [u8]) -> io::Result<()> {
        match track {
            Some((index, source)) => index.read(source, at, out)?,
            None => out.fill(SILENCE),
        }
        let there = self.samples.saturating_sub(at).min(out.len() as u64);
        out[there as usize..].fill(SILENCE);
        Ok(())
    }

    /// A stretch as linear samples: left and right, or one channel in the first.
    fn frames(&self, at: u64) -> io::Result<Vec<[i16; 2]>> {
        let (mut caller, mut agent) = ([0; STRETCH], [0; STRETCH]);
        self.stored(&self.caller, at, &mut caller)?;
        self.stored(&self.agent, at, &mut agent)?;
        let pairs = caller.into_iter().zip(agent);
        let channels = self.format.channels;
        Ok(pairs
            .map(|(left, right)| mixed(channels, to_linear(left), to_linear(right)))
            .collect())
    }

    fn render_ulaw(&mut self, at: u64) -> io::Result<()> {
        let mut stored = [0; STRETCH];
        match self.format.channels {
            Channels::Caller => {
                self.stored(&self.caller, at, &mut stored)?;
                self.bytes.extend_from_slice(&stored);
            }
            Channels::Agent => {
                self.stored(&self.agent, at, &mut stored)?;
                self.bytes.extend_from_slice(&stored);
            }
            Channels::Stereo => {
                let mut right = [0; STRETCH];
                self.stored(&self.caller, at, &mut stored)?;
                self.stored(&self.agent, at, &mut right)?;
                for pair in stored.into_iter().zip(right) {
                    self.bytes.extend_from_slice(&[pair.0, pair.1]);
                }
            }
            Channels::Mono => {
                for [sample, _] in self.frames(at)? {
                    self.bytes.push(from_linear(sample));
                }
            }
        }
        Ok(())
    }

    fn render_doubled(&mut self, at: u64) -> io::Result<()> {
        const WITH_MARGINS: usize = STRETCH + 2 * MARGIN;
        let (mut caller, mut agent) = ([SILENCE; WITH_MARGINS], [SILENCE; WITH_MARGINS]);
        // Before the beginning is silence.
        let before = MARGIN - MARGIN.min(usize::try_from(at).unwrap_or(MARGIN));
        let from = at + before as u64 - MARGIN as u64;
        self.stored(&self.caller, from, &mut caller[before..])?;
        self.stored(&self.agent, from, &mut agent[before..])?;
        let channels = self.format.channels;
        let doubler = self.doubler.get_or_insert_default();
        let mut side = |which: usize| -> Vec<i16> {
            let input = std::array::from_fn(|n| {
                let frame = mixed(channels, to_linear(caller[n]), to_linear(agent[n]));
                f32::from(frame[which]) / 32_768.0
            });
            let doubled = doubler.double(&input).iter();
            doubled
                .map(|sample| (sample * 32_768.0).round() as i16) // saturates
                .collect()
        };
        let left = side(0);
        if self.format.channel_count() == 1 {
            for sample in left {
                self.bytes.extend_from_slice(&sample.to_le_bytes());
            }
            return Ok(());
        }
        for (left, right) in left.into_iter().zip(side(1)) {
            self.bytes.extend_from_slice(&left.to_le_bytes());
            self.bytes.extend_from_slice(&right.to_le_bytes());
        }
        Ok(())
    }
}

fn mixed(channels: Channels, caller: i16, agent: i16) -> [i16; 2] {
    match channels {
        Channels::Stereo => [caller, agent],
        Channels::Mono => [caller.saturating_add(agent), 0],
        Channels::Caller => [caller, 0],
        Channels::Agent => [agent, 0],
    }
}

impl<S: Source> Read for Rendering<S> {
    /// The next bytes of the range, at most one stretch.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let want = out
            .len()
            .min(self.remaining().try_into().unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let head = self.head.len() as u64;
        let at = self.range.start;
        let given = if at < head {
            let from = &self.head[at as usize..];
            let n = from.len().min(want);
            out[..n].copy_from_slice(&from[..n]);
            n
        } else if at - head >= self.format.data_bytes(self.samples) {
            out[0] = 0; // the pad
            1
        } else {
            let per_stretch = self.format.data_bytes(STRETCH as u64);
            self.render((at - head) / per_stretch)?;
            let left = self.format.data_bytes(self.samples) - (at - head);
            let from = &self.bytes[((at - head) % per_stretch) as usize..];
            let n = from
                .len()
                .min(want)
                .min(left.try_into().unwrap_or(usize::MAX));
            out[..n].copy_from_slice(&from[..n]);
            n
        };
        self.range.start += given as u64;
        Ok(given)
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
pub(super) mod tests;
