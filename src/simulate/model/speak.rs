//! The session's voice: responses and everything that they send. Pure.

use super::listen::tokens;
use super::response::{Plan, Step, plan};
use super::*;
use crate::proto::audio::base64;
use std::fmt::Write as _;

/// Model audio costs twenty tokens a second.
const TOKENS_PER_SECOND_OUT: u64 = 20;
/// From `response.done` to `rate_limits.updated`.
const RATE_LIMITS_AFTER: Duration = Duration::from_millis(30);
/// Share of responses after which the server says nothing of limits.
const RATE_LIMITS_MISSING: f64 = 0.05;
/// Share of interruptions in which one more delta leaves after `speech_started`.
const LATE_DELTA: f64 = 0.5;

/// How a response ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Completed,
    Cancelled(&'static str),
    Failed,
}

impl Model {
    /// `response.create`, or the server's own after a turn.
    pub(super) fn create_response(&mut self, params: Option<&Value>) -> Result<(), ApiError> {
        let null = Value::Null;
        let params = params.unwrap_or(&null);
        let in_conversation = params["conversation"] != "none";
        if in_conversation && let Some(active) = self.responses.iter().find(|r| r.in_conversation) {
            return Err(ApiError::new(
                "conversation_already_has_active_response",
                format!(
                    "Conversation already has an active response in progress: {}. Wait until the \
                     response is finished before creating a new one.",
                    active.id
                ),
            )
            .without_id());
        }
        let modalities = match &params["output_modalities"] {
            Value::Null => self.session.member("output_modalities"),
            given => given,
        };
        let speaks = modalities[0] != "text";
        self.begin(speaks, in_conversation, params["metadata"].clone(), true);
        Ok(())
    }

    /// Creates a response; `planned` is false for the echo, whose pieces come from the caller.
    fn begin(&mut self, speaks: bool, in_conversation: bool, metadata: Value, planned: bool) {
        let mut response = Response {
            id: self.rng.id("resp_", 21),
            item_id: self.rng.id("item_", 21),
            speaks,
            in_conversation,
            metadata,
            is_open: false,
            audio_bytes: 0,
            text: String::new(),
            fails: std::mem::take(&mut self.fail_next),
            steps: VecDeque::new(),
        };
        self.idle = None;
        let json = self.response_json(
            &response,
            "in_progress",
            Value::Null,
            json!([]),
            Value::Null,
        );
        self.emit("response.created", json!({"response": json}));
        if planned {
            let line = self.responses_made % self.options.lines.len().max(1);
            let request = Plan {
                line: self.options.lines.get(line).cloned().unwrap_or_default(),
                speaks,
                format: self.session.output_format(),
                profile: self.options.profile,
                first_audio: self.options.first_audio,
            };
            response.steps = plan(&request, &mut self.rng, self.now.mono);
        }
        self.responses_made += 1;
        self.responses.push(response);
        if !planned {
            self.open(self.responses.len() - 1);
        }
    }

    /// One appended chunk back, its text unchanged.
    pub(super) fn echo(&mut self, audio: &str, bytes: u64) {
        let index = match self.responses.iter().position(|r| r.in_conversation) {
            Some(index) => index,
            None => {
                self.begin(true, true, Value::Null, false);
                self.responses.len() - 1
            }
        };
        self.send_audio(index, audio, bytes);
    }

    /// The next moment at which a response has something to send, and its index.
    pub(super) fn next_step(&self) -> Option<(Mono, usize)> {
        self.responses
            .iter()
            .enumerate()
            .filter_map(|(index, r)| r.steps.front().map(|(at, _)| (*at, index)))
            .min()
    }

    pub(super) fn on_step(&mut self, index: usize) {
        let Some((_, step)) = self.responses[index].steps.pop_front() else {
            return;
        };
        if self.responses[index].fails && step != Step::Open {
            return self.close(index, End::Failed);
        }
        match step {
            Step::Open => self.open(index),
            Step::Text(text) => {
                let kind = if self.responses[index].speaks {
                    "response.output_audio_transcript.delta"
                } else {
                    "response.output_text.delta"
                };
                self.responses[index].text.push_str(&text);
                let mut fields = self.part_fields(index);
                fields["delta"] = text.into();
                self.emit(kind, fields);
            }
            Step::Audio(bytes) => {
                let mut audio = Vec::with_capacity(bytes.len() * 4 / 3 + 4);
                base64::encode_into(&bytes, &mut audio);
                let audio = String::from_utf8(audio).expect("base64 is ASCII");
                self.send_audio(index, &audio, bytes.len() as u64);
            }
            Step::Close => self.close(index, End::Completed),
        }
    }

    pub(super) fn on_cancel(&mut self, id: Option<&str>) -> Result<(), ApiError> {
        let index = self.responses.iter().position(|r| match id {
            Some(id) => r.id == id,
            None => r.in_conversation,
        });
        let index = index.ok_or_else(|| {
            let message = "Cancellation failed: no active response found";
            ApiError::new("response_cancel_not_active", message)
        })?;
        self.close(index, End::Cancelled("client_cancelled"));
        Ok(())
    }

    /// The caller spoke: the running response ends, sometimes with one more delta on its way.
    pub(super) fn interrupt(&mut self) {
        let Some(index) = self.responses.iter().position(|r| r.in_conversation) else {
            return;
        };
        let response = &self.responses[index];
        let id = response.id.clone();
        let is_audio_next = matches!(response.steps.front(), Some((_, Step::Audio(_))));
        if response.is_open && is_audio_next && self.rng.chance(LATE_DELTA) {
            self.on_step(index);
        }
        // A fault may have ended the response in that very step.
        if self.responses.get(index).is_some_and(|r| r.id == id) {
            self.close(index, End::Cancelled("turn_detected"));
        }
    }

    /// Members that every event about the one part of a response carries.
    fn part_fields(&self, index: usize) -> Value {
        let response = &self.responses[index];
        json!({
            "response_id": response.id, "item_id": response.item_id,
            "output_index": 0, "content_index": 0,
        })
    }

    fn open(&mut self, index: usize) {
        let response = &mut self.responses[index];
        response.is_open = true;
        let (id, speaks, in_conversation) = (
            response.id.clone(),
            response.speaks,
            response.in_conversation,
        );
        let item = Item::assistant(&response.item_id, speaks);
        let json = item.json.clone();
        self.emit(
            "response.output_item.added",
            json!({"response_id": id, "output_index": 0, "item": json}),
        );
        if in_conversation {
            let previous = self.conversation.push(item);
            let fields = json!({"previous_item_id": previous, "item": json});
            self.emit("conversation.item.added", fields);
        }
        let mut fields = self.part_fields(index);
        fields["part"] = if speaks {
            json!({"type": "audio", "transcript": ""})
        } else {
            json!({"type": "text", "text": ""})
        };
        self.emit("response.content_part.added", fields);
    }

    /// The hot event, written by hand: in echo mode there is one for each of the caller's.
    fn send_audio(&mut self, index: usize, audio: &str, bytes: u64) {
        let event_id = self.rng.id("event_", 21);
        let format = self.session.output_format();
        let response = &mut self.responses[index];
        response.audio_bytes += bytes;
        if let Some(item) = self.conversation.find(&response.item_id) {
            item.audio_ms = Some(response.audio_bytes / format.bytes_per_ms());
        }
        let mut text = String::with_capacity(audio.len() + 256);
        write!(
            text,
            "{{\"type\":\"response.output_audio.delta\",\"event_id\":\"{event_id}\",\
             \"response_id\":\"{}\",\"item_id\":\"{}\",\"output_index\":0,\"content_index\":0,\
             \"delta\":\"{audio}\"}}",
            response.id, response.item_id
        )
        .expect("writing to a String");
        self.counts.deltas += 1;
        self.counts.delta_bytes += bytes;
        self.push(text);
    }

    fn close(&mut self, index: usize, end: End) {
        let (status, item_status, details) = match end {
            End::Completed => ("completed", "completed", Value::Null),
            End::Cancelled(reason) => (
                "cancelled",
                "incomplete",
                json!({"type": "cancelled", "reason": reason}),
            ),
            End::Failed => (
                "failed",
                "incomplete",
                json!({"type": "failed", "error": {
                    "type": "rate_limit_exceeded", "code": "rate_limit_exceeded",
                    "message": "Rate limit reached. Please try again in 1.2s.",
                }}),
            ),
        };
        let fields = self.part_fields(index);
        let mut output = json!([]);
        if self.responses[index].is_open {
            let item = self.close_item(index, &fields, item_status);
            output = json!([item]);
        }
        let response = self.responses.remove(index);
        let usage = self.usage(&response);
        let json = self.response_json(&response, status, details, output, usage);
        self.counts.responses_done += 1;
        self.emit("response.done", json!({"response": json}));
        if !self.rng.chance(RATE_LIMITS_MISSING) {
            let remaining = self.rng.between(20_000, 39_999);
            let reset = (40_000 - remaining) as f64 / 1000.0;
            let limits = json!([{"name": "tokens", "limit": 40_000, "remaining": remaining,
                "reset_seconds": reset}]);
            let fields = json!({"rate_limits": limits});
            self.schedule(RATE_LIMITS_AFTER, "rate_limits.updated", fields);
        }
        if let Some(idle) = self.session.idle_timeout_ms() {
            // The server assumes that all of it is played from now on.
            let playback = response.audio_bytes / self.session.output_format().bytes_per_ms();
            self.idle = Some(self.now.mono + Duration::from_millis(idle + playback));
        }
    }

    /// Every `.done` of the part and the item; the item as it is then.
    fn close_item(&mut self, index: usize, fields: &Value, status: &str) -> Value {
        let response = &self.responses[index];
        let (text, speaks) = (response.text.clone(), response.speaks);
        let (item_id, in_conversation) = (response.item_id.clone(), response.in_conversation);
        let response_id = response.id.clone();
        let with = |name: &str, value: Value| {
            let mut fields = fields.clone();
            fields[name] = value;
            fields
        };
        let content = if speaks {
            self.emit("response.output_audio.done", fields.clone());
            self.emit(
                "response.output_audio_transcript.done",
                with("transcript", json!(text)),
            );
            let part = json!({"type": "audio", "transcript": text});
            self.emit("response.content_part.done", with("part", part));
            json!([{"type": "output_audio", "transcript": text}])
        } else {
            self.emit("response.output_text.done", with("text", json!(text)));
            let part = json!({"type": "text", "text": text});
            self.emit("response.content_part.done", with("part", part));
            json!([{"type": "output_text", "text": text}])
        };
        let mut item = Item::assistant(&item_id, speaks).json;
        item["status"] = json!(status);
        item["content"] = content;
        if in_conversation {
            let previous = self.conversation.previous_of(&item_id);
            if let Some(kept) = self.conversation.find(&item_id) {
                kept.json = item.clone();
            }
            let fields = json!({"previous_item_id": previous, "item": item});
            self.emit("conversation.item.done", fields);
        }
        self.emit(
            "response.output_item.done",
            json!({"response_id": response_id, "output_index": 0, "item": item}),
        );
        item
    }

    fn response_json(
        &self,
        response: &Response,
        status: &str,
        details: Value,
        output: Value,
        usage: Value,
    ) -> Value {
        let modality = if response.speaks { "audio" } else { "text" };
        let settings = self.session.output();
        json!({
            "object": "realtime.response",
            "id": response.id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": response.in_conversation.then_some(&self.conversation_id),
            "output_modalities": [modality],
            "max_output_tokens": self.session.member("max_output_tokens"),
            "audio": {"output": {"format": settings["format"], "voice": settings["voice"]}},
            "usage": usage,
            "metadata": response.metadata,
        })
    }

    fn usage(&self, response: &Response) -> Value {
        let per_ms = self.session.output_format().bytes_per_ms();
        let audio_out = response.audio_bytes / per_ms * TOKENS_PER_SECOND_OUT / 1000;
        let text_out = tokens(&response.text);
        let instructions = self.session.member("instructions").as_str();
        let nothing = audio_out + text_out == 0;
        // Each response reads the whole conversation again.
        let text_in = if nothing {
            0
        } else {
            tokens(instructions.unwrap_or("")) + 12
        };
        let audio_in = if nothing {
            0
        } else {
            self.counts.appended_bytes / self.session.input_format().bytes_per_ms() / 100
        };
        let cached = if self.counts.responses_done > 0 {
            text_in / 64 * 64
        } else {
            0
        };
        json!({
            "total_tokens": text_in + audio_in + text_out + audio_out,
            "input_tokens": text_in + audio_in,
            "output_tokens": text_out + audio_out,
            "input_token_details": {
                "text_tokens": text_in, "audio_tokens": audio_in, "image_tokens": 0,
                "cached_tokens": cached,
                "cached_tokens_details": {"text_tokens": cached, "audio_tokens": 0, "image_tokens": 0},
            },
            "output_token_details": {"text_tokens": text_out, "audio_tokens": audio_out},
        })
    }
}
