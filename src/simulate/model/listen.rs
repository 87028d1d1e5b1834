//! The session's ear: the input buffer, turns, transcription. Pure.

use super::*;
use crate::proto::audio::base64;
use vad::Edge;

/// Less than this in the buffer can't be committed, ms.
const COMMIT_MS_MIN: f64 = 100.0;
/// Caller audio costs ten tokens a second.
const TOKENS_PER_SECOND_IN: u64 = 10;

impl Model {
    /// No answer is ever sent for audio that is sound.
    pub(super) fn on_append(&mut self, audio: &str) -> Result<(), ApiError> {
        if base64::decoded_len(audio.as_bytes()) > APPEND_BYTES_MAX {
            let message = "Invalid 'audio': longer than 15 MiB.";
            return Err(ApiError::new("string_above_max_length", message).at("audio"));
        }
        let mut bytes = Vec::new();
        if !base64::decode_into(audio.as_bytes(), &mut bytes) {
            let message = "Invalid 'audio'. Expected base64-encoded audio bytes.";
            return Err(ApiError::new("invalid_value", message).at("audio"));
        }
        self.counts.appends += 1;
        self.counts.appended_bytes += bytes.len() as u64;
        self.buffered_bytes += bytes.len() as u64;
        if self.keeps_audio {
            self.kept.appended.push(Passed {
                at: self.now.mono,
                payload: audio.into(),
            });
        }
        if self.options.mode == Mode::Echo {
            if self.session.is_configured {
                self.echo(audio, bytes.len() as u64);
            }
            return Ok(());
        }
        let Some(settings) = self.session.turn_detection() else {
            return Ok(());
        };
        // Before a right `session.update` this reads telephone bytes as 24 kHz PCM: noise, as the real one hears it.
        let format = self.session.input_format();
        let samples = format.decode(&bytes);
        for edge in self.vad.push(&samples, format.rate(), &settings) {
            match edge {
                Edge::Started { audio_start_ms } => self.on_speech_started(audio_start_ms),
                Edge::Stopped { audio_end_ms } => self.on_speech_stopped(audio_end_ms),
            }
        }
        Ok(())
    }

    pub(super) fn on_commit(&mut self) -> Result<(), ApiError> {
        let format = self.session.input_format();
        let buffered_ms = self.buffered_bytes as f64 / format.bytes_per_ms() as f64;
        if buffered_ms < COMMIT_MS_MIN {
            return Err(ApiError::new(
                "input_audio_buffer_commit_empty",
                format!(
                    "Error committing input audio buffer: buffer too small. Expected at least 100ms of \
                     audio, but buffer only has {buffered_ms:.2}ms of audio."
                ),
            ));
        }
        let id = match self.turn_item.take() {
            Some(id) => id,
            None => self.rng.id("item_", 21),
        };
        self.vad.reset();
        self.commit(id);
        Ok(())
    }

    fn on_speech_started(&mut self, audio_start_ms: u64) {
        self.idle = None;
        self.kept.speech_started.push(self.now.mono);
        let id = self.rng.id("item_", 21);
        self.turn_item = Some(id.clone());
        self.emit(
            "input_audio_buffer.speech_started",
            json!({"audio_start_ms": audio_start_ms, "item_id": id}),
        );
        if self.session.detection_flag("interrupt_response") {
            self.interrupt();
        }
    }

    fn on_speech_stopped(&mut self, audio_end_ms: u64) {
        self.kept.speech_stopped.push(self.now.mono);
        let id = match self.turn_item.take() {
            Some(id) => id,
            None => self.rng.id("item_", 21),
        };
        self.emit(
            "input_audio_buffer.speech_stopped",
            json!({"audio_end_ms": audio_end_ms, "item_id": id}),
        );
        self.commit(id);
        self.answer_turn();
    }

    /// Nobody spoke for the idle time after an answer.
    pub(super) fn on_idle(&mut self) {
        let id = self.rng.id("item_", 21);
        let end = self.vad.position_ms();
        let timeout = self.session.idle_timeout_ms().unwrap_or(0);
        self.emit(
            "input_audio_buffer.timeout_triggered",
            json!({"audio_start_ms": end.saturating_sub(timeout), "audio_end_ms": end, "item_id": id}),
        );
        self.commit(id);
        self.answer_turn();
    }

    fn answer_turn(&mut self) {
        if self.session.detection_flag("create_response")
            && let Err(error) = self.create_response(None)
        {
            self.refuse(error, None);
        }
    }

    /// Makes the buffer a user item and starts its transcription.
    fn commit(&mut self, id: String) {
        let format = self.session.input_format();
        let audio_ms = self.buffered_bytes / format.bytes_per_ms();
        self.buffered_bytes = 0;
        let item = Item::caller(&id);
        let json = item.json.clone();
        let previous = self.conversation.push(item);
        self.emit(
            "input_audio_buffer.committed",
            json!({"previous_item_id": previous, "item_id": id}),
        );
        self.emit_item(&json, previous.as_deref());
        self.transcribe(id, audio_ms);
    }

    /// Transcription is asynchronous: it comes at any time from here on, even after the answer.
    fn transcribe(&mut self, item_id: String, audio_ms: u64) {
        let turn = self.counts.turns as usize;
        self.counts.turns += 1;
        let Some(model) = self.session.transcription_model() else {
            return;
        };
        let audio_tokens = audio_ms * TOKENS_PER_SECOND_IN / 1000;
        let text = match self.options.heard.get(turn) {
            Some(text) => text.clone(),
            None => format!("(simulated transcript of turn {})", turn + 1),
        };
        let text_tokens = tokens(&text);
        let usage = if model == "whisper-1" {
            json!({"type": "duration", "seconds": audio_ms as f64 / 1000.0})
        } else {
            json!({
                "type": "tokens",
                "total_tokens": audio_tokens + text_tokens,
                "input_tokens": audio_tokens,
                "input_token_details": {"text_tokens": 0, "audio_tokens": audio_tokens},
                "output_tokens": text_tokens,
            })
        };
        let mut after = self.rng.millis(250, 600);
        for piece in text.split_inclusive(' ') {
            let fields = json!({"item_id": item_id, "content_index": 0, "delta": piece});
            let kind = "conversation.item.input_audio_transcription.delta";
            self.schedule(after, kind, fields);
            after += self.rng.millis(5, 30);
        }
        let kind = "conversation.item.input_audio_transcription.completed";
        let fields =
            json!({"item_id": item_id, "content_index": 0, "transcript": text, "usage": usage});
        self.schedule(after, kind, fields);
    }
}

/// About four characters are a token.
pub(super) fn tokens(text: &str) -> u64 {
    text.chars().count().div_ceil(4) as u64
}
