//! The carrier's messages, and the caller's audio on its way to the model. Core; part of `Call`.

use super::early::{Dropped, EarlyAudio, Piece};
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted;
use super::state::Phase;
use super::timer::Deadline;
use super::{Call, Drop, EndReason, Fact, Leg, Output};
use crate::base::id::{CallSid, StreamSid};
use crate::base::limit;
use crate::base::time::Now;
use crate::base::unit::AudioMs;
use crate::proto::audio::base64;
use crate::proto::carrier::twilio::Encoder;
use crate::proto::carrier::{Media, MediaFormat, Message, Start};
use crate::proto::decode::Noticed;
use crate::proto::realtime::client_event::{APPEND_PREFIX, APPEND_SUFFIX};

/// Silence in one append at most: 1 s.
const SILENCE_APPEND_BYTES: u64 = AudioMs(1_000).pcmu_bytes();

/// A carrier's frame.
const FRAME_MS: u64 = 20;

/// Base64 text of mu-law silence (0xFF) is slashes, but for the tail of what does not divide by three.
static SLASHES: [u8; (SILENCE_APPEND_BYTES as usize / 3) * 4] =
    [b'/'; (SILENCE_APPEND_BYTES as usize / 3) * 4];

/// Text of `bytes` (at most `SILENCE_APPEND_BYTES`) of silence, in two parts.
fn silence_text(bytes: u64) -> (&'static [u8], &'static [u8]) {
    let tail: &[u8] = match bytes % 3 {
        0 => b"",
        1 => b"/w==",
        _ => b"//8=",
    };
    (&SLASHES[..(bytes / 3 * 4) as usize], tail)
}

impl Call {
    /// A message from the carrier.
    pub fn handle_carrier(
        &mut self,
        message: Message<'_>,
        noticed: Noticed,
        now: Now,
        out: &mut impl Output,
    ) {
        if self.phase.is_ended() {
            return;
        }
        self.count_message_in(Leg::Carrier);
        self.stats.unknown_fields += u64::from(noticed.unknown_fields > 0);
        if !matches!(message, Message::Media(_)) {
            self.between += 1;
        }
        match message {
            Message::Media(media) => {
                self.stats.scan_fallbacks += u64::from(noticed.fallback);
                self.on_media(&media, now, out);
            }
            Message::Mark { stream_sid, name } => {
                if self.is_of_our_stream(stream_sid.as_deref()) {
                    self.on_mark(name.as_deref(), now);
                }
            }
            Message::Dtmf { stream_sid, digit } => {
                if self.is_of_our_stream(stream_sid.as_deref())
                    && let Some(digit) = digit
                {
                    self.on_key(digit, now, out);
                }
            }
            // Only says who calls; the call begins with `start`.
            Message::Connected { .. } => {}
            Message::Start(start) => self.on_start(&start, now),
            Message::Stop { stream_sid } => {
                // A stream that stops before it starts is over all the same.
                if self.phase == Phase::Greeting || self.is_of_our_stream(stream_sid.as_deref()) {
                    self.end(EndReason::CallerHungUp);
                }
            }
            Message::Unknown { .. } => self.stats.drop(Drop::UnknownEvent),
        }
        if !self.phase.is_ended() {
            // Every 20 ms, that is.
            self.settle_playback(now, out);
        }
    }

    fn on_start(&mut self, start: &Start<'_>, now: Now) {
        if self.phase != Phase::Greeting {
            self.stats.drop(Drop::SecondStart);
            return;
        }
        let Some(stream_sid) = start.stream_sid.as_deref().and_then(StreamSid::new) else {
            // Nothing could be sent to a stream without a name. Dropped; START_DEADLINE goes on.
            self.stats.drop(Drop::Malformed);
            return;
        };
        let call_sid = start.call_sid.as_deref().and_then(CallSid::new);
        if let Some(expected) = self.expected_call_sid
            && call_sid != Some(expected)
        {
            self.note("The stream's start names another call than its ticket.".to_owned());
            self.end(EndReason::NotAuthorized);
            return;
        }
        if let Some(format) = &start.media_format
            && !is_pcmu(format)
        {
            let encoding: String = format.encoding.chars().take(64).collect();
            self.note(format!(
                "The stream's media format is {encoding:?} at {} Hz with {} channels; \
                 only mu-law at 8000 Hz, mono, is relayed.",
                format.sample_rate, format.channels
            ));
            self.end(EndReason::UnsupportedMedia);
            return;
        }
        self.stream_sid = Some(stream_sid);
        self.arm_guard(now);
        self.encoder = Encoder::new(stream_sid.as_str());
        let parameters: Vec<_> = start
            .parameters
            .iter()
            .filter(|(name, value)| {
                name.chars().count() + value.chars().count() <= limit::PARAMETER_CHARS_MAX
            })
            .take(limit::PARAMETERS_MAX)
            .map(|(name, value)| (name.clone().into_owned(), value.clone().into_owned()))
            .collect();
        let dropped = start.parameters.len() - parameters.len();
        self.stats.drops[Drop::Parameter as usize] += dropped as u64;
        self.facts.push_back(Fact::Started {
            stream_sid,
            call_sid,
            parameters,
        });
        self.enter(Phase::Dialing);
        self.timers.clear(Deadline::Start);
        self.timers
            .set(Deadline::Upstream, now.mono + limit::UPSTREAM_DEADLINE);
        self.dial = true;
        self.arm_first_words(now);
        self.arm_duration(now);
    }

    /// The hot path, caller to model.
    fn on_media(&mut self, media: &Media<'_>, now: Now, out: &mut impl Output) {
        if self.phase == Phase::Greeting {
            self.stats.drop(Drop::BeforeStart);
            return;
        }
        if !self.is_of_our_stream(media.stream_sid.as_deref()) {
            return;
        }
        if !matches!(media.track.as_deref(), None | Some("inbound")) {
            // B21: our own voice, when both tracks were asked for.
            self.stats.drop(Drop::OutboundTrack);
            self.between += 1;
            return;
        }
        if !base64::is_valid(&media.payload) {
            self.stats.drop(Drop::BadBase64);
            return;
        }
        let bytes = base64::decoded_len(&media.payload) as u64;
        self.stats.inbound_frames += 1;
        self.stats.inbound_bytes += bytes;
        self.stats.sequence_gaps += u64::from(self.is_after_gap(media));
        self.last_media = now.mono;
        if self.speech_open {
            self.timers
                .set(Deadline::Pad, now.mono + limit::SILENCE_PAD_AFTER);
        }

        let gap = self.clock.observe(media.timestamp, bytes, now.mono);
        self.stats.stamp_anomalies += u64::from(gap.anomaly);
        if gap.too_long {
            self.stats.drop(Drop::GapTooLong);
        }
        if gap.fill > AudioMs(0) {
            self.on_fill(gap.fill, out);
        }
        if bytes == 0 {
            return; // a frame without audio: counted, and nothing to pass on
        }
        if self.phase == Phase::Ready {
            self.append(&media.payload, bytes, out);
        } else {
            let early = self.early();
            let dropped = early.push_frame(&media.payload, bytes);
            let held = early.frame_bytes();
            self.on_early_dropped(dropped);
            self.stats.held_bytes_peak = self.stats.held_bytes_peak.max(held);
        }
    }

    /// Whether this frame's number does not follow the last one's: the chunk's number, or where a carrier gives none,
    /// the message's, which keys, marks and the other track may have had a share in.
    fn is_after_gap(&mut self, media: &Media<'_>) -> bool {
        let between = std::mem::take(&mut self.between);
        let sequence = media.sequence_number;
        let last_sequence = self.sequence;
        self.sequence = sequence.or(last_sequence);
        if let Some(chunk) = media.chunk {
            let last = self.chunk.replace(chunk);
            return last.is_some_and(|last| last.wrapping_add(1) != chunk);
        }
        let (Some(last), Some(sequence)) = (last_sequence, sequence) else {
            return false;
        };
        // 1 where nothing is missing, wherever the count wraps.
        !(1..=between.saturating_add(1)).contains(&sequence.wrapping_sub(last))
    }

    fn on_fill(&mut self, fill: AudioMs, out: &mut impl Output) {
        if self.phase == Phase::Ready {
            self.append_fill(fill, out);
        } else {
            let dropped = self.early().push_fill(fill);
            self.on_early_dropped(dropped);
        }
    }

    /// What holds audio until the session is ready; in an outage less of it.
    fn early(&mut self) -> &mut EarlyAudio {
        let bound = match self.upstream.in_outage() && self.upstream.was_ready() {
            true => self.policy.reconnect.hold_ms.into(),
            false => limit::EARLY_AUDIO_MS_MAX,
        };
        self.early
            .get_or_insert_with(|| Box::new(EarlyAudio::bounded(AudioMs(bound))))
    }

    fn on_early_dropped(&mut self, dropped: Dropped) {
        self.stats.drops[Drop::EarlyAudio as usize] += dropped.pieces;
        self.stats.inbound_bytes_dropped += dropped.bytes;
    }

    /// The session is ready: what was held goes out in one burst, in order, and its memory is given back.
    pub(super) fn release_early(&mut self, out: &mut impl Output) {
        let Some(early) = self.early.take() else {
            return;
        };
        let pieces = early.iter();
        #[cfg(feature = "planted-bugs")]
        let pieces = {
            let mut pieces: Vec<_> = pieces.collect();
            if planted::is(planted::Planted::EarlyReversed) {
                pieces.reverse();
            }
            pieces.into_iter()
        };
        for piece in pieces {
            match piece {
                Piece::Frame(text, bytes) => self.append(text, bytes, out),
                Piece::Fill(fill) => self.append_fill(fill, out),
            }
        }
    }

    fn append(&mut self, text: &[u8], bytes: u64, out: &mut impl Output) {
        let parts = [APPEND_PREFIX, text, APPEND_SUFFIX];
        let class = self.class_of_audio(bytes);
        if self.send(out, Leg::Realtime, class, &parts) {
            self.stats.inbound_frames_sent += 1;
            self.stats.inbound_bytes_sent += bytes;
        } else {
            self.stats.drop(Drop::OutboxFull);
            self.stats.inbound_bytes_dropped += bytes;
        }
    }

    /// Whether audio goes out at once, or may wait for what follows it: a frame of the usual 20 ms beside what may wait
    /// is enough. Longer frames are enough by themselves.
    fn class_of_audio(&mut self, bytes: u64) -> Class {
        if self.policy.coalesce_ms == 0 {
            return Class::Audio;
        }
        self.joining += bytes;
        let enough = AudioMs(u64::from(self.policy.coalesce_ms) + FRAME_MS).pcmu_bytes();
        if self.joining < enough {
            return Class::Joining;
        }
        self.joining = 0;
        Class::Audio
    }

    fn append_fill(&mut self, fill: AudioMs, out: &mut impl Output) {
        self.stats.fills += 1;
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::FillMissing) {
            self.stats.filled_bytes += fill.pcmu_bytes();
            return;
        }
        self.stats.filled_bytes += self.append_silence(fill, out);
    }

    /// Appends silence in pieces; how many bytes of it found room.
    fn append_silence(&mut self, silence: AudioMs, out: &mut impl Output) -> u64 {
        let mut left = silence.pcmu_bytes();
        let mut sent = 0;
        while left > 0 {
            let bytes = left.min(SILENCE_APPEND_BYTES);
            let (slashes, tail) = silence_text(bytes);
            let parts = [APPEND_PREFIX, slashes, tail, APPEND_SUFFIX];
            if self.send(out, Leg::Realtime, Class::Audio, &parts) {
                sent += bytes;
            } else {
                self.stats.drop(Drop::OutboxFull);
            }
            left -= bytes;
        }
        sent
    }

    /// `Deadline::Pad`: nothing has come for a while and speech is open, so the model's turn detection waits for audio
    /// that does not come. Once per silence: the next frame sets the deadline again.
    pub(super) fn on_mute(&mut self, out: &mut impl Output) {
        if self.phase != Phase::Ready || !self.speech_open {
            return;
        }
        let pad = AudioMs(limit::SILENCE_PAD_MS);
        self.stats.padded_bytes += self.append_silence(pad, out);
        self.clock.padded(pad);
    }

    fn on_mark(&mut self, name: Option<&str>, now: Now) {
        let Some(mark) = name.and_then(|name| self.marks.returned(name)) else {
            self.stats.drop(Drop::UnknownMark);
            return;
        };
        self.stats.marks_returned += 1;
        self.timers.clear(Deadline::FirstMark);
        if mark.flushed {
            // The `clear` sent it back. One that was really played may be among them: heard less is the safe side.
            self.stats.marks_flushed += 1;
            self.on_mark_back(0, now);
            return;
        }
        if !self.playback.on_mark(mark.offset, now.mono) {
            self.stats.marks_early += 1;
        }
        self.facts.push_back(Fact::MarkReturned {
            name: mark.position.name(),
        });
        self.on_mark_back(mark.position.item, now);
        self.end_when_heard(now);
    }

    /// Whether a message belongs to this stream; drops and counts it when not. One that names no stream is not
    /// ours either: Twilio always names it, so what does not is no carrier's (B06).
    fn is_of_our_stream(&mut self, sid: Option<&str>) -> bool {
        let Some(ours) = &self.stream_sid else {
            self.stats.drop(Drop::BeforeStart);
            return false;
        };
        if sid.is_some_and(|sid| ours.is(sid)) {
            return true;
        }
        self.on_foreign();
        false
    }

    fn on_foreign(&mut self) {
        self.stats.drop(Drop::ForeignStream);
        self.foreign += 1;
        if self.foreign >= limit::FOREIGN_STREAM_MAX {
            self.note("Messages of another stream kept coming.".to_owned());
            self.end(EndReason::NotAuthorized);
        }
    }
}

/// Whether a stream's audio is PCMU as we relay it. Compatible carriers spell it differently.
fn is_pcmu(format: &MediaFormat<'_>) -> bool {
    const NAMES: [&str; 6] = [
        "audio/x-mulaw",
        "audio/mulaw",
        "audio/pcmu",
        "audio/ulaw",
        "pcmu",
        "mulaw",
    ];
    NAMES
        .iter()
        .any(|name| name.eq_ignore_ascii_case(&format.encoding))
        && format.sample_rate == 8_000
        && format.channels == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::audio::g711;

    #[test]
    fn silence_is_mu_law_ff_at_every_length() {
        for bytes in (0..20).chain([7_999, 8_000]) {
            let (slashes, tail) = silence_text(bytes);
            let mut expected = Vec::new();
            g711::silence_base64_into(bytes as usize, &mut expected);
            assert_eq!([slashes, tail].concat(), expected, "{bytes}");
            let mut decoded = Vec::new();
            assert!(base64::decode_into(&expected, &mut decoded));
            assert_eq!(decoded, vec![0xFF; bytes as usize]);
        }
    }

    #[test]
    fn mu_law_is_taken_in_every_spelling_and_nothing_else() {
        let format = |encoding: &'static str, sample_rate, channels| MediaFormat {
            encoding: encoding.into(),
            sample_rate,
            channels,
        };
        for name in [
            "audio/x-mulaw",
            "audio/mulaw",
            "audio/PCMU",
            "PCMU",
            "audio/pcmu",
        ] {
            assert!(is_pcmu(&format(name, 8000, 1)), "{name}");
        }
        assert!(!is_pcmu(&format("audio/x-alaw", 8000, 1)));
        assert!(!is_pcmu(&format("audio/x-l16", 8000, 1)));
        assert!(!is_pcmu(&format("", 8000, 1)));
        assert!(!is_pcmu(&format("audio/x-mulaw", 16000, 1)));
        assert!(!is_pcmu(&format("audio/x-mulaw", 8000, 2)));
    }
}
