//! The model's events: the session's set-up, its audio on its way to the caller, marks, transcripts, errors. Core; part
//! of `Call`.

use super::marks::Position;
use super::outbox::Class;
use super::state::Phase;
use super::timer::Deadline;
use super::upstream::UPDATE_EVENT_ID;
use super::{Call, Drop, EndReason, Fact, Leg, Output, Speaker};
use crate::base::id::{ItemId, ResponseId};
use crate::base::limit;
use crate::base::time::Now;
use crate::proto::audio::base64;
use crate::proto::decode::Noticed;
use crate::proto::realtime::server_event::{AudioDelta, ServerEvent, SessionEcho};

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
        self.on_event(&event, now, out);
        let sent_before = self.stats.outbound_bytes_sent;
        match event {
            ServerEvent::AudioDelta(delta) => {
                self.stats.scan_fallbacks += u64::from(noticed.fallback);
                self.on_delta(&delta, out);
            }
            ServerEvent::AudioDone { item_id, .. } => {
                if self
                    .marks
                    .is_current(known(item_id.as_deref(), ItemId::MAX))
                {
                    self.end_item(out);
                }
            }
            ServerEvent::SessionCreated(echo) => self.on_created(&echo, out),
            ServerEvent::SessionUpdated(echo) => self.on_updated(&echo, now, out),
            ServerEvent::SpeechStarted { audio_start_ms, .. } => {
                self.facts.push_back(Fact::SpeechStarted { audio_start_ms });
                if self.phase == Phase::Ready {
                    self.speech_open = true;
                    self.timers
                        .set(Deadline::Pad, self.last_media + limit::SILENCE_PAD_AFTER);
                }
            }
            ServerEvent::SpeechStopped { audio_end_ms, .. } => {
                self.facts.push_back(Fact::SpeechStopped { audio_end_ms });
                self.speech_open = false;
                self.timers.clear(Deadline::Pad);
            }
            ServerEvent::ResponseCreated { response_id, .. } => {
                if let Some(response_id) = response(response_id.as_deref()) {
                    self.facts.push_back(Fact::ResponseCreated { response_id });
                }
            }
            ServerEvent::ResponseDone {
                response_id,
                status,
                detail,
                message,
                ..
            } => {
                if let Some(message) = message {
                    // A failed response has its error here and in no `error` event.
                    self.facts.push_back(Fact::RealtimeError {
                        code: detail.as_deref().unwrap_or("failed").to_owned(),
                        message: message.into_owned(),
                    });
                }
                if let Some(response_id) = response(response_id.as_deref()) {
                    self.facts.push_back(Fact::ResponseDone {
                        response_id,
                        status: status.unwrap_or_default().into_owned(),
                        detail: detail.map(|text| text.into_owned()),
                    });
                }
            }
            ServerEvent::OutputTranscriptDelta { item_id, delta, .. } => {
                self.piece(Speaker::Assistant, item_id.as_deref(), &delta);
            }
            ServerEvent::InputTranscriptDelta { item_id, delta } => {
                self.piece(Speaker::User, item_id.as_deref(), &delta);
            }
            ServerEvent::OutputTranscriptDone {
                item_id,
                transcript,
                ..
            } => self.transcript(Speaker::Assistant, item_id.as_deref(), &transcript),
            ServerEvent::InputTranscriptCompleted {
                item_id,
                transcript,
                ..
            } => self.transcript(Speaker::User, item_id.as_deref(), &transcript),
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
            ),
            ServerEvent::Ignored { .. }
            | ServerEvent::ItemAdded { .. }
            | ServerEvent::ItemDone { .. }
            | ServerEvent::ItemTruncated { .. }
            | ServerEvent::ItemDeleted { .. }
            | ServerEvent::OutputItemAdded { .. }
            | ServerEvent::OutputItemDone { .. }
            | ServerEvent::ContentPart { .. }
            | ServerEvent::Committed { .. }
            | ServerEvent::InputTimeoutTriggered { .. }
            | ServerEvent::RateLimits(_) => {}
            ServerEvent::Unknown { .. } => self.stats.drop(Drop::UnknownEvent),
        }
        self.after_event(sent_before, now, out);
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
            self.end(EndReason::RealtimeSetup);
            return;
        }
        if self.phase == Phase::Ready {
            return; // a later update, formats unchanged
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
        self.release_early(out);
    }

    /// The hot path, model to caller.
    fn on_delta(&mut self, delta: &AudioDelta<'_>, out: &mut impl Output) {
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
            self.stats.outbound_bytes_dropped += bytes;
            return;
        }
        if bytes == 0 {
            return;
        }
        let item_id = known(delta.item_id.as_deref(), ItemId::MAX);
        if !self.marks.is_current(item_id) {
            self.end_item(out);
            self.marks.begin_item(item_id.and_then(ItemId::new));
        }
        let (before, after) = self.encoder.media();
        let parts = [before, &delta.delta[..], after];
        if !out.send(Leg::Carrier, Class::Audio, &parts) {
            self.stats.drop(Drop::OutboxFull);
            self.stats.outbound_bytes_dropped += bytes;
            return;
        }
        self.stats.carrier_messages_out += 1;
        self.stats.outbound_frames_sent += 1;
        self.stats.outbound_bytes_sent += bytes;
        if let Some(id) = known(delta.response_id.as_deref(), ResponseId::MAX)
            && self.sounding.is_none_or(|last| last.as_str() != id)
            && let Some(response_id) = ResponseId::new(id)
        {
            self.sounding = Some(response_id);
            self.facts.push_back(Fact::FirstAudio { response_id });
        }
        if let Some(position) = self.marks.on_sent(bytes) {
            self.send_mark(position, out);
        }
    }

    fn end_item(&mut self, out: &mut impl Output) {
        if let Some(position) = self.marks.on_item_end() {
            self.send_mark(position, out);
        }
    }

    fn send_mark(&mut self, position: Position, out: &mut impl Output) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.encoder.mark(position.name().as_str(), &mut text);
        if self.send(out, Leg::Carrier, Class::Control, &[&text]) {
            self.stats.marks_sent += 1;
            self.marks.sent(position);
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
    ) {
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
            Phase::Opening | Phase::Configuring
                if self.upstream.in_outage() && is(&UNAVAILABLE) =>
            {
                self.on_try_error([code, kind], now);
            }
            Phase::Opening | Phase::Configuring if is(&UNAVAILABLE) => {
                self.end(EndReason::RealtimeUnavailable);
            }
            // Nothing but the update was sent, so what names no event answers it: a single bad field rejects all
            // of it, and the defaults (24 kHz PCM) would stay in force.
            Phase::Configuring if event_id.is_none_or(|id| id == UPDATE_EVENT_ID) => {
                self.end(EndReason::RealtimeSetup);
            }
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

    fn transcript(&mut self, speaker: Speaker, item_id: Option<&str>, text: &str) {
        self.facts.push_back(Fact::Transcript {
            speaker,
            item_id: item(item_id).unwrap_or_default(),
            text: text.to_owned(),
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

fn response(id: Option<&str>) -> Option<ResponseId> {
    known(id, ResponseId::MAX).and_then(ResponseId::new)
}
