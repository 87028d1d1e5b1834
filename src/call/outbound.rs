//! The model's events: the session's set-up, its audio on its way to the caller, marks, transcripts, errors. Core; part
//! of `Call`.

use super::answers::LASTING;
use super::cuts::Refused;
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted;
use super::playback::{Place, Standing};
use super::responses::{Want, Why};
use super::state::Phase;
use super::timer::Deadline;
use super::upstream::UPDATE_EVENT_ID;
use super::{Call, Drop, EndReason, Fact, Leg, Output, Speaker};
use crate::base::id::{ItemId, ResponseId};
use crate::base::limit;
use crate::base::time::Now;
use crate::base::unit::AudioMs;
use crate::proto::audio::base64;
use crate::proto::decode::Noticed;
use crate::proto::realtime::server_event::{AudioDelta, KeptItem, ServerEvent, SessionEcho};

/// Errors that say before the session is ready that there will be none: the key, the money, the model, the
/// server (reference: error codes, and `error.type` where the code is null).
pub(super) const UNAVAILABLE: [&str; 15] = [
    "session_expired",
    "beta_api_shape_disabled",
    "invalid_model",
    "model_not_found",
    "model_load_error",
    "invalid_api_key",
    "authentication_error",
    "account_deactivated",
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
    "rate_limit_exceeded",
    "inference_rate_limit_exceeded",
    "server_error",
    "permission_error",
];

impl Call {
    /// An event from the model.
    pub fn handle_realtime(
        &mut self,
        event: ServerEvent<'_>,
        noticed: Noticed,
        now: Now,
        out: &mut impl Output,
    ) {
        if self.phase.is_ended() {
            return;
        }
        self.count_message_in(Leg::Realtime);
        self.stats.unknown_fields += u64::from(noticed.unknown_fields > 0);
        self.on_event(&event, now);
        self.watch_answers(&event, now);
        // Of the model's own audio: tones and what is sent again are no answer.
        let sent_before = match event {
            ServerEvent::AudioDelta(_) => self.stats.outbound_bytes_sent,
            _ => u64::MAX,
        };
        self.note_sign_of_life(&event, now);
        match event {
            ServerEvent::AudioDelta(delta) => {
                self.stats.scan_fallbacks += u64::from(noticed.fallback);
                self.on_delta(&delta, now, out);
            }
            ServerEvent::AudioDone {
                item_id,
                content_index,
                ..
            } => {
                let item_id = known(item_id.as_deref(), ItemId::MAX);
                if self.playback.standing(item_id, content_index) == Standing::Current {
                    self.end_item(now, out);
                }
                self.playback.on_item_done(item_id, content_index);
            }
            ServerEvent::SessionCreated(echo) => self.on_created(&echo, out),
            ServerEvent::SessionUpdated(echo) => self.on_updated(&echo, now, out),
            ServerEvent::SpeechStarted {
                audio_start_ms,
                item_id,
            } => {
                // Before anything else: the caller hears the agent until the carrier has read it.
                self.on_speech_started(audio_start_ms, now, out);
                self.keep_going();
                self.facts.push_back(Fact::SpeechStarted {
                    audio_start_ms,
                    item_id: item(item_id.as_deref()),
                });
                if self.phase == Phase::Ready {
                    self.speech_open = true;
                    self.timers
                        .set(Deadline::Pad, self.last_media + limit::SILENCE_PAD_AFTER);
                }
            }
            ServerEvent::SpeechStopped {
                audio_end_ms,
                item_id,
            } => {
                self.on_speech_stopped(audio_end_ms, now, out);
                self.facts.push_back(Fact::SpeechStopped {
                    audio_end_ms,
                    item_id: item(item_id.as_deref()),
                });
                self.speech_open = false;
                self.timers.clear(Deadline::Pad);
            }
            ServerEvent::ResponseCreated {
                response_id,
                tag,
                out_of_band,
            } => {
                let id = response(response_id.as_deref());
                if !out_of_band {
                    self.responses.on_created(id, tag.as_deref());
                    self.on_response_under_speech(out);
                    self.timers.clear(Deadline::Response);
                    self.send_create(None, now, out);
                }
                if let Some(response_id) = id {
                    self.facts.push_back(Fact::ResponseCreated { response_id });
                }
            }
            ServerEvent::ResponseDone {
                response_id,
                status,
                detail,
                error_type,
                message,
                usage,
                ..
            } => {
                let id = response(response_id.as_deref());
                let before = self.responses.active();
                let (news, event) = self.responses.on_done(id);
                if before.is_some() && self.responses.active().is_none() {
                    self.timers.clear(Deadline::Response);
                }
                if !news {
                    self.send_create(event, now, out);
                    self.stats.responses_repeated += 1;
                    return;
                }
                self.end_response(id, now, out);
                let cancelled = status.as_deref() == Some("cancelled");
                let failed = status.as_deref() == Some("failed");
                let cause =
                    [detail.as_deref(), error_type.as_deref()].map(|name| name.map(str::to_owned));
                if let Some(message) = message {
                    // A failed response has its error here and in no `error` event.
                    self.facts.push_back(Fact::RealtimeError {
                        code: detail.as_deref().unwrap_or("failed").to_owned(),
                        message: message.into_owned(),
                    });
                }
                if let Some(response_id) = id {
                    self.facts.push_back(Fact::ResponseDone {
                        response_id,
                        status: status.unwrap_or_default().into_owned(),
                        detail: detail.map(|text| text.into_owned()),
                        usage,
                    });
                }
                // Last: a tool may end the call, and nothing is reported behind its end. What is asked for next reads the
                // answers of this response's tools, so it goes behind them.
                let asks = event.is_some() && self.responses.is_asked(Why::Tools);
                self.on_tools_done(response_id.as_deref(), cancelled, asks, now, out);
                if !self.phase.is_ended() {
                    self.send_create(event, now, out);
                }
                if failed {
                    self.on_failed_response(cause.each_ref().map(Option::as_deref), now);
                }
            }
            ServerEvent::OutputTranscriptDelta { item_id, delta, .. } => {
                if let Some(item_id) = item(item_id.as_deref()) {
                    self.playback.on_text(item_id, &delta, false);
                }
                self.piece(Speaker::Assistant, item_id.as_deref(), &delta);
            }
            ServerEvent::InputTranscriptDelta { item_id, delta } => {
                self.piece(Speaker::User, item_id.as_deref(), &delta);
            }
            ServerEvent::OutputTranscriptDone {
                item_id,
                transcript,
                ..
            } => {
                if let Some(item_id) = item(item_id.as_deref()) {
                    self.playback.on_text(item_id, &transcript, true);
                }
                self.transcript(Speaker::Assistant, item_id.as_deref(), &transcript, None);
            }
            ServerEvent::InputTranscriptCompleted {
                item_id,
                transcript,
                probability_mean,
            } => self.transcript(
                Speaker::User,
                item_id.as_deref(),
                &transcript,
                probability_mean,
            ),
            ServerEvent::InputTranscriptFailed { code, message } => {
                self.facts.push_back(Fact::RealtimeError {
                    code: code.as_deref().unwrap_or("transcription_failed").to_owned(),
                    message: message.unwrap_or_default().into_owned(),
                });
            }
            ServerEvent::Error {
                kind,
                code,
                message,
                event_id,
                ..
            } => self.on_error(
                kind.as_deref(),
                code.as_deref(),
                message.as_deref(),
                event_id.as_deref(),
                now,
                out,
            ),
            ServerEvent::ItemTruncated {
                item_id,
                content_index,
                ..
            } => {
                if let Some(id) = known(item_id.as_deref(), ItemId::MAX) {
                    self.cuts.on_truncated(id, content_index);
                }
            }
            ServerEvent::OutputItemAdded {
                response_id,
                item: added,
                ..
            } => {
                if added.kind.as_deref() == Some("message")
                    && let Some(item_id) = item(added.id.as_deref())
                {
                    self.cuts
                        .announce(item_id, response(response_id.as_deref()));
                }
            }
            ServerEvent::OutputItemDone {
                response_id,
                item: done,
                ..
            } => {
                self.on_output_item(response_id.as_deref(), &done, now, out);
                // What is complete without audio is text, and was not to be heard.
                if let Some(id) = known(done.id.as_deref(), ItemId::MAX) {
                    self.cuts.on_content(id);
                }
            }
            ServerEvent::Ignored { .. }
            | ServerEvent::ItemAdded { .. }
            | ServerEvent::ItemDone { .. }
            | ServerEvent::ItemDeleted { .. }
            | ServerEvent::ContentPart { .. }
            | ServerEvent::Committed { .. }
            | ServerEvent::InputTimeoutTriggered { .. } => {}
            ServerEvent::RateLimits(limits) => {
                for (name, limit) in [("requests", limits.requests), ("tokens", limits.tokens)] {
                    if let Some(limit) = limit
                        && let Some(remaining) = limit.remaining
                    {
                        self.facts.push_back(Fact::RateLimit {
                            name,
                            remaining,
                            // Saturates; NaN becomes 0.
                            reset_ms: limit.reset_seconds.map(|s| (s * 1000.0) as u64),
                        });
                    }
                }
            }
            ServerEvent::Unknown { .. } => self.stats.drop(Drop::UnknownEvent),
        }
        self.after_event(sent_before, now, out);
    }

    /// What a response consists of shows that it goes on.
    fn note_sign_of_life(&mut self, event: &ServerEvent<'_>, now: Now) {
        let response_id = match event {
            ServerEvent::AudioDelta(AudioDelta { response_id, .. })
            | ServerEvent::AudioDone { response_id, .. }
            | ServerEvent::OutputItemAdded { response_id, .. }
            | ServerEvent::OutputItemDone { response_id, .. }
            | ServerEvent::ContentPart { response_id, .. } => response_id.as_deref(),
            ServerEvent::OutputTranscriptDelta { .. }
            | ServerEvent::OutputTranscriptDone { .. } => None,
            ServerEvent::Ignored { kind } if kind.starts_with("response.") => None,
            _ => return,
        };
        self.on_sign_of_life(known(response_id, ResponseId::MAX), now);
    }

    /// An item of the conversation as the model wrote it, for the record alone.
    pub fn handle_item(&mut self, kept: KeptItem) {
        if !self.phase.is_ended() {
            self.facts.push_back(Fact::Item {
                item_id: item(Some(&kept.id)),
                json: kept.json,
            });
        }
    }

    /// All that a response had to say is there.
    pub(super) fn end_response(&mut self, id: Option<ResponseId>, now: Now, out: &mut impl Output) {
        let id = id.as_ref().map(ResponseId::as_str);
        if let Some(id) = id {
            self.cuts.on_response_done(id);
        }
        self.playback.on_response_done(id);
        self.settle_playback(now, out);
    }

    /// C04: the update goes out when the server is there, and not before.
    fn on_created(&mut self, echo: &SessionEcho<'_>, out: &mut impl Output) {
        if self.phase != Phase::Opening {
            return;
        }
        self.session_id = echo.id.as_deref().unwrap_or_default().to_owned();
        self.configure(Leg::Realtime, out);
        self.enter(Phase::Configuring);
    }

    /// The echo is the only proof of what the model will hear and say: another format is loud static on the phone.
    fn on_updated(&mut self, echo: &SessionEcho<'_>, now: Now, out: &mut impl Output) {
        if !matches!(self.phase, Phase::Configuring | Phase::Ready) {
            return;
        }
        if !is_telephone(echo) {
            let name = |format: &Option<std::borrow::Cow<'_, str>>| -> String {
                format
                    .as_deref()
                    .unwrap_or("none")
                    .chars()
                    .take(64)
                    .collect()
            };
            let (input, output) = (name(&echo.input_format), name(&echo.output_format));
            self.note(format!(
                "The model confirmed audio formats {input:?} in and {output:?} out; \
                 audio/pcmu is needed both ways."
            ));
            self.on_wrong_format(now);
            return;
        }
        if self.phase == Phase::Ready {
            // Formats unchanged.
            self.on_later_update();
            return;
        }
        if let Some(id) = echo.id.as_deref() {
            self.session_id = id.to_owned();
        }
        self.enter(Phase::Ready);
        self.timers.clear(Deadline::Upstream);
        self.facts.push_back(Fact::SessionReady {
            session_id: std::mem::take(&mut self.session_id),
            session_update: std::mem::take(&mut self.session_update),
        });
        self.on_ready(now, out);
        self.release_interrupts(out);
        self.release_early(out);
    }

    /// Audio on a connection that is being left, or is not the call's yet: counted, and not played.
    pub fn handle_left_audio(&mut self, delta: &AudioDelta<'_>) {
        if self.phase.is_ended() {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::LeftAudioUncounted) {
            return;
        }
        if !base64::is_valid(&delta.delta) {
            self.stats.drop(Drop::BadBase64);
            return;
        }
        let bytes = base64::decoded_len(&delta.delta) as u64;
        self.stats.outbound_frames += 1;
        self.stats.outbound_bytes += bytes;
        self.stats.outbound_bytes_dropped += bytes;
        self.stats.drop(Drop::LateDelta);
    }

    /// The hot path, model to caller.
    pub(super) fn on_delta(&mut self, delta: &AudioDelta<'_>, now: Now, out: &mut impl Output) {
        if !base64::is_valid(&delta.delta) {
            self.stats.drop(Drop::BadBase64);
            return;
        }
        let bytes = base64::decoded_len(&delta.delta) as u64;
        self.stats.outbound_frames += 1;
        self.stats.outbound_bytes += bytes;
        if self.phase != Phase::Ready {
            // Its format is not confirmed: it would be noise.
            self.stats.drop(Drop::NoStream);
            #[cfg(feature = "planted-bugs")]
            if planted::is(planted::Planted::DropUncounted) {
                return;
            }
            self.stats.outbound_bytes_dropped += bytes;
            return;
        }
        if bytes == 0 {
            return;
        }
        let response_id = known(delta.response_id.as_deref(), ResponseId::MAX);
        let item_id = known(delta.item_id.as_deref(), ItemId::MAX);
        let part = delta.content_index;
        let muted = response_id.and_then(|id| self.cuts.muted(id));
        let standing = self.playback.standing(item_id, part);
        #[cfg(feature = "planted-bugs")]
        let (muted, standing) = match planted::is(planted::Planted::LateDelta) {
            true if standing == Standing::Closed => (None, Standing::Another),
            true => (None, standing),
            false => (muted, standing),
        };
        if muted.is_some() || standing == Standing::Closed {
            let item_id = item_id.and_then(ItemId::new);
            self.on_late(item_id, part, bytes, muted.unwrap_or(Drop::LateDelta), out);
            return;
        }
        self.playback.advance(now.mono);
        let mut room = true;
        if standing == Standing::Another {
            self.end_item(now, out);
            if let Some(id) = item_id {
                self.cuts.on_content(id);
            }
            let response_id = response_id.and_then(ResponseId::new);
            let item_id = item_id.and_then(ItemId::new);
            room = self.playback.begin(item_id, response_id, part);
        }
        let bound = AudioMs(u64::from(self.policy.unplayed_ms_max)).pcmu_bytes();
        if !room || self.playback.unplayed_bytes() + bytes > bound {
            self.on_overflow(response_id, item_id, part, bytes, Drop::Unplayed, out);
            return;
        }
        let (.., start) = self.playback.offsets();
        if self.hold.paused {
            match self.hold.keep(start, bytes, &delta.delta) {
                true => self.playback.queue(bytes),
                // More than can be kept came while the caller spoke.
                false => self.on_overflow(response_id, item_id, part, bytes, Drop::Unplayed, out),
            }
            return;
        }
        let (before, after) = self.encoder.media();
        let parts = [before, &delta.delta[..], after];
        // A message of the model's is shorter than 4 GB.
        let class = Class::Playing(bytes as u32);
        if !out.send(Leg::Carrier, class, &parts) {
            self.on_overflow(response_id, item_id, part, bytes, Drop::OutboxFull, out);
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if planted::is(planted::Planted::DeltaDoubled) && self.stats.outbound_frames % 7 == 6 {
            out.send(Leg::Carrier, class, &parts);
        }
        if self.policy.barge_in.confirm_ms > 0 {
            // Only now: what the leg did not take must not come back with an interruption that is taken back. Without room
            // an interruption is final until what is kept was heard.
            self.hold.keep(start, bytes, &delta.delta);
        }
        self.playback.queue(bytes);
        self.stats.carrier_messages_out += 1;
        self.stats.outbound_frames_sent += 1;
        self.stats.outbound_bytes_sent += bytes;
        let unplayed = self.playback.unplayed_ms().0;
        self.stats.unplayed_ms_peak = self.stats.unplayed_ms_peak.max(unplayed);
        if let Some(id) = response_id
            && self.sounding.is_none_or(|last| !last.is(id))
            && let Some(response_id) = ResponseId::new(id)
        {
            self.sounding = Some(response_id);
            self.facts.push_back(Fact::FirstAudio { response_id });
        }
        self.mark_if_due(start + bytes, now, out);
    }

    /// A mark behind the audio that ends at `offset`, when enough went since the last.
    pub(super) fn mark_if_due(&mut self, offset: u64, now: Now, out: &mut impl Output) {
        if self.marks.is_due(offset)
            && let Some(place) = self.playback.place(offset)
        {
            self.send_mark(place, offset, now, out);
        }
    }

    pub(super) fn end_item(&mut self, now: Now, out: &mut impl Output) {
        if !self.hold.paused
            && let Some(place) = self.playback.end_place()
        {
            let (.., queued) = self.playback.offsets();
            self.send_mark(place, queued, now, out);
        }
    }

    fn send_mark(&mut self, place: Place, offset: u64, now: Now, out: &mut impl Output) {
        let Some(position) = self.marks.at(place) else {
            return; // It has one.
        };
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.encoder.mark(position.name().as_str(), &mut text);
        if self.send(out, Leg::Carrier, Class::Mark, &[&text]) {
            if self.stats.marks_sent == 0 {
                self.timers
                    .set(Deadline::FirstMark, now.mono + limit::FIRST_MARK_DEADLINE);
            }
            self.stats.marks_sent += 1;
            self.marks.sent(position, offset);
        }
        self.text = text;
    }

    fn on_error(
        &mut self,
        kind: Option<&str>,
        code: Option<&str>,
        message: Option<&str>,
        event_id: Option<&str>,
        now: Now,
        out: &mut impl Output,
    ) {
        match self.cuts.on_error(code, message, event_id) {
            None => {
                let crossed = code == Some("conversation_already_has_active_response");
                let ours = self.responses.expects_refusal(event_id);
                let event = self.responses.on_error(code, event_id, message);
                if crossed {
                    self.forget_openings();
                }
                self.send_create(event, now, out);
                let answers = self.settings.turn_detection.create_response;
                if crossed && !ours && self.turn_open && answers && !self.was_noise() {
                    // The server wanted to answer the caller by itself, and will not try again.
                    let (why, instructions) = (Why::Owed, None);
                    self.want(Want { why, instructions }, now, out);
                }
            }
            Some(refused) => {
                self.stats.truncates_refused += 1;
                let event = match refused {
                    Refused::Retry(event) => Some(event),
                    Refused::Delete(event) => {
                        self.stats.items_deleted += 1;
                        Some(event)
                    }
                    Refused::Ignore => None,
                };
                if let Some(event) = event {
                    self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
                }
            }
        }
        self.facts.push_back(Fact::RealtimeError {
            code: code.or(kind).unwrap_or("unknown").to_owned(),
            message: message.unwrap_or_default().to_owned(),
        });
        let is = |names: &[&str]| {
            [code, kind]
                .iter()
                .flatten()
                .any(|name| names.contains(name))
        };
        match self.phase {
            // Its close follows; the reason is known now.
            Phase::Ready if is(&["session_expired"]) => {
                self.on_lost(
                    "the session expired".to_owned(),
                    EndReason::RealtimeLost,
                    now,
                );
            }
            Phase::Ready if is(&LASTING) => self.on_lasting([code, kind], now),
            Phase::Opening | Phase::Configuring if is(&UNAVAILABLE) => {
                self.on_try_error([code, kind], now);
            }
            // A single bad field rejects all of the update, and the defaults (24 kHz PCM) would stay in force. It would be
            // refused again.
            Phase::Configuring if event_id == Some(UPDATE_EVENT_ID) => {
                self.end(EndReason::RealtimeSetup);
            }
            Phase::Opening | Phase::Configuring if self.upstream.in_outage() => {
                self.on_stray_error([code, kind], now);
            }
            // Nothing but the update was sent, so what names no event answers it.
            Phase::Configuring if event_id.is_none() => self.end(EndReason::RealtimeSetup),
            _ => {}
        }
    }

    fn piece(&mut self, speaker: Speaker, item_id: Option<&str>, text: &str) {
        self.facts.push_back(Fact::TranscriptDelta {
            speaker,
            item_id: item(item_id).unwrap_or_default(),
            text: text.to_owned(),
        });
    }

    fn transcript(
        &mut self,
        speaker: Speaker,
        item_id: Option<&str>,
        text: &str,
        confidence: Option<f64>,
    ) {
        self.facts.push_back(Fact::Transcript {
            speaker,
            item_id: item(item_id).unwrap_or_default(),
            text: text.to_owned(),
            confidence,
        });
    }
}

/// Whether a session's echo confirms PCMU both ways.
pub(super) fn is_telephone(echo: &SessionEcho<'_>) -> bool {
    is_pcmu(echo.input_format.as_deref()) && is_pcmu(echo.output_format.as_deref())
}

fn is_pcmu(format: Option<&str>) -> bool {
    matches!(format, Some("audio/pcmu" | "g711_ulaw"))
}

/// An id as far as we keep it: an empty one is none, and a longer one is cut, so that what belongs to it
/// stays together.
pub(super) fn known(id: Option<&str>, max: usize) -> Option<&str> {
    id.filter(|id| !id.is_empty())
        .map(|id| &id[..id.floor_char_boundary(max)])
}

pub(super) fn item(id: Option<&str>) -> Option<ItemId> {
    known(id, ItemId::MAX).and_then(ItemId::new)
}

pub(super) fn response(id: Option<&str>) -> Option<ResponseId> {
    known(id, ResponseId::MAX).and_then(ResponseId::new)
}
