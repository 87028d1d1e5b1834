//! The scripted model: one connection of it. It has no ear; who speaks when is drawn from the seed.

mod hears;

use crate::carrier::{Act, Outgoing};
use crate::check::tools::Kind;
use crate::check::{Judge, Note};
use crate::dice::Dice;
use crate::terms::HTTP_TOOL;
use crate::trouble::{Leaves, Script, Setup};
use crate::ws;
use serde_json::{Value, json};

/// Of the server's turn detection, as the relay sets it.
const PREFIX_PADDING_MS: u64 = 300;
const SILENCE_DURATION_MS: u64 = 500;

enum Step {
    Created,
    Updated,
    Turn,
    SpeechStopped,
    Begin,
    Delta {
        response: u64,
        item: usize,
        len: usize,
    },
    ItemDone {
        response: u64,
        item: usize,
    },
    Done {
        response: u64,
        status: &'static str,
    },
    Tool {
        response: u64,
    },
    Ping,
    Leave(Leaves),
}

struct Active {
    number: u64,
    /// Cancelled: so many deltas still slip out.
    late: Option<u64>,
}

pub struct Model {
    pub script: Script,
    dice: Dice,
    connection: u32,
    plan: Vec<(u64, u64, Step)>,
    seq: u64,
    responses: u64,
    active: Option<Active>,
    expires_at: u64,
    create_response: bool,
    interrupt_response: bool,
    ready: bool,
    hears: bool,
    closed: bool,
    refused: bool,
    pub acts: Vec<Act>,
}

impl Model {
    pub fn new(script: Script, connection: u32, mut dice: Dice, now: u64, unix_ms: u64) -> Self {
        let mut model = Self {
            dice: dice.clone(),
            expires_at: unix_ms / 1_000 + script.expires_in_secs,
            script,
            connection,
            plan: Vec::new(),
            seq: 0,
            responses: 0,
            active: None,
            create_response: true,
            interrupt_response: true,
            ready: false,
            hears: false,
            closed: false,
            refused: false,
            acts: Vec::new(),
        };
        if model.script.setup != Setup::Silent {
            model.plan(now + dice.millis(0, 60), Step::Created);
        }
        if let Some((after, how)) = model.script.leaves {
            model.plan(now + after, Step::Leave(how));
        }
        model
    }

    fn plan(&mut self, at: u64, step: Step) {
        self.seq += 1;
        self.plan.push((at, self.seq, step));
    }

    pub fn next(&self) -> Option<u64> {
        if self.closed {
            return None;
        }
        self.plan.iter().map(|(at, ..)| *at).min()
    }

    fn send(&self, out: &mut Vec<Outgoing>, event: &Value, note: Note) {
        let line = event.to_string();
        let bytes = ws::write(ws::TEXT, line.as_bytes(), None);
        out.push(Outgoing { bytes, note, line });
    }

    pub fn act(&mut self, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        while !self.closed {
            let due = (0..self.plan.len())
                .filter(|&i| self.plan[i].0 <= now)
                .min_by_key(|&i| (self.plan[i].0, self.plan[i].1));
            let Some(i) = due else { return };
            let (_, _, step) = self.plan.swap_remove(i);
            self.step(step, now, judge, out);
        }
    }

    fn session(&self, kind: &str, format: &Value) -> Value {
        json!({"type": kind, "event_id": "event_s", "session": {"type": "realtime",
            "object": "realtime.session", "id": "sess_1", "expires_at": self.expires_at,
            "audio": {"input": {"format": format}, "output": {"format": format}}}})
    }

    fn step(&mut self, step: Step, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        match step {
            Step::Created => {
                let pcm = json!({"type": "audio/pcm", "rate": 24000});
                self.send(out, &self.session("session.created", &pcm), Note::Other);
                if self.dice.percent(5) {
                    // Audio in a format that nobody agreed on.
                    self.stray_delta(judge, out);
                }
            }
            Step::Updated => {
                let good = json!({"type": "audio/pcmu"});
                let bad = json!({"type": "audio/pcm", "rate": 24000});
                match self.script.setup {
                    Setup::WrongFormat => {
                        self.send(out, &self.session("session.updated", &bad), Note::Other);
                    }
                    Setup::Refused => self.error(out, "unknown_parameter", Note::Other),
                    _ if self.ready => {
                        self.send(out, &self.session("session.updated", &good), Note::Updated);
                    }
                    _ => {
                        self.ready = true;
                        self.send(out, &self.session("session.updated", &good), Note::Updated);
                        let at = now + self.dice.millis(100, 3_000);
                        self.plan(at, Step::Ping);
                    }
                }
            }
            Step::Turn => self.turn(now, judge, out),
            Step::SpeechStopped => {
                let event = json!({"type": "input_audio_buffer.speech_stopped",
                    "event_id": "event_t", "audio_end_ms": now / 1_000, "item_id": "item_user"});
                self.send(out, &event, Note::SpeechStopped);
                let event = json!({"type": "input_audio_buffer.committed", "event_id": "event_c",
                    "previous_item_id": null, "item_id": "item_user"});
                self.send(out, &event, Note::Other);
                if self.create_response {
                    let at = now + self.dice.millis(5, 250);
                    self.plan(at, Step::Begin);
                }
            }
            Step::Begin => {
                if self.active.is_none() {
                    self.begin(None, now, judge, out);
                }
            }
            Step::Delta {
                response,
                item,
                len,
            } => self.delta(response, item, len, judge, out),
            Step::ItemDone { response, item } => {
                if self.active.as_ref().is_some_and(|a| a.number == response) {
                    self.item_done(item, "completed", judge, out);
                }
            }
            Step::Done { response, status } => {
                if self.active.as_ref().is_some_and(|a| a.number == response) {
                    self.done(status, judge, out);
                }
            }
            Step::Tool { response } => {
                let speaks = |a: &Active| a.number == response && a.late.is_none();
                if self.active.as_ref().is_some_and(speaks) {
                    self.call_tools(response, judge, out);
                }
            }
            Step::Ping => {
                let payload = self.dice.next().to_ne_bytes();
                out.push(Outgoing {
                    bytes: ws::write(ws::PING, &payload, None),
                    note: Note::Ping(payload.to_vec()),
                    line: "ping".to_owned(),
                });
                let at = now + self.dice.millis(500, 20_000);
                self.plan(at, Step::Ping);
            }
            Step::Leave(how) => self.leave(how, out),
        }
    }

    fn leave(&mut self, how: Leaves, out: &mut Vec<Outgoing>) {
        self.closed = true;
        let close = |code: u16| Outgoing {
            bytes: ws::write(ws::CLOSE, &code.to_be_bytes(), None),
            note: Note::Over,
            line: format!("close {code}"),
        };
        match how {
            Leaves::Expired => {
                self.error(out, "session_expired", Note::Over);
                out.push(close(1001));
                self.acts.push(Act::Eof);
            }
            Leaves::Close(code) => {
                out.push(close(code));
                self.acts.push(Act::Eof);
            }
            Leaves::Eof => self.acts.push(Act::Eof),
            Leaves::Reset => self.acts.push(Act::Reset),
            Leaves::Vanishes => self.acts.push(Act::Vanish),
        }
    }

    fn error(&self, out: &mut Vec<Outgoing>, code: &str, note: Note) {
        let event = json!({"type": "error", "event_id": "event_e", "error": {
            "type": "invalid_request_error", "code": code, "message": "No.", "param": null,
            "event_id": null}});
        self.send(out, &event, note);
    }

    /// The caller speaks; perhaps in the middle of an answer.
    fn turn(&mut self, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        if self.dice.percent(self.script.odd) {
            self.odd(judge, out);
        }
        // Its times lie around the words: the padding before them, the silence behind.
        let start = (now / 1_000).saturating_sub(PREFIX_PADDING_MS);
        let event = json!({"type": "input_audio_buffer.speech_started", "event_id": "event_b",
            "audio_start_ms": start, "item_id": "item_user"});
        self.send(out, &event, Note::SpeechStarted);
        let at = now + self.dice.millis(60, 900) + SILENCE_DURATION_MS * 1_000;
        self.plan(at, Step::SpeechStopped);
        let at = at + self.dice.millis(200, self.script.turns_up_to_ms);
        self.plan(at, Step::Turn);
        if self.interrupt_response {
            self.cancel(now);
        }
    }

    fn cancel(&mut self, now: u64) {
        let late = self.dice.between(0, 3);
        let at = now + self.dice.millis(0, 120);
        if let Some(active) = &mut self.active
            && active.late.is_none()
        {
            active.late = Some(late);
            let response = active.number;
            self.plan(
                at,
                Step::Done {
                    response,
                    status: "cancelled",
                },
            );
        }
    }

    fn response_id(&self, number: u64) -> String {
        format!("resp_{}_{number}", self.connection)
    }

    fn begin(
        &mut self,
        metadata: Option<Value>,
        now: u64,
        judge: &mut Judge,
        out: &mut Vec<Outgoing>,
    ) {
        self.responses += 1;
        let number = self.responses;
        let id = self.response_id(number);
        let audio = !self.dice.percent(8);
        self.active = Some(Active { number, late: None });
        let event = json!({"type": "response.created", "event_id": "event_r", "response": {
            "id": id, "object": "realtime.response", "status": "in_progress",
            "status_details": null, "output": [], "conversation_id": "conv_1",
            "metadata": metadata}});
        let mut at = now;
        let mut items = Vec::new();
        if audio {
            for _ in 0..if self.dice.percent(15) { 2 } else { 1 } {
                items.push(judge.new_item(&id, self.connection));
            }
        }
        let tag = event["response"]["metadata"]["voxrelay"].as_str();
        let tag = tag.map(str::to_owned);
        self.send(
            out,
            &event,
            Note::ResponseCreated {
                id: id.clone(),
                tag,
            },
        );
        for &item in &items {
            let event = json!({"type": "response.output_item.added", "event_id": "event_i",
                "response_id": id, "output_index": 0, "item": {"id": judge.items[item].id,
                "object": "realtime.item", "type": "message", "status": "in_progress",
                "role": "assistant", "content": []}});
            self.send(out, &event, Note::Other);
        }
        at += self.dice.millis(5, 300);
        let odd_sizes = self.dice.percent(20);
        for &item in &items {
            let mut left = self.dice.between(1_600, 20_000);
            while left > 0 {
                let len = match odd_sizes {
                    true => self.dice.between(17, 3_999),
                    false => self.dice.pick(&[160, 1_600, 2_000, 2_400]),
                }
                .min(left);
                left -= len;
                let len = len as usize;
                self.plan(
                    at,
                    Step::Delta {
                        response: number,
                        item,
                        len,
                    },
                );
                at += len as u64 * 125 / self.script.speed;
            }
            self.plan(
                at,
                Step::ItemDone {
                    response: number,
                    item,
                },
            );
        }
        if self.dice.percent(self.script.tools) {
            let at = self.dice.between(now, at);
            self.plan(at, Step::Tool { response: number });
        }
        let status = match self.dice.between(0, 19) {
            0 => "failed",
            1 => "incomplete",
            _ => "completed",
        };
        let at = at + self.dice.millis(0, 30);
        self.plan(
            at,
            Step::Done {
                response: number,
                status,
            },
        );
    }

    fn delta(
        &mut self,
        response: u64,
        item: usize,
        len: usize,
        judge: &mut Judge,
        out: &mut Vec<Outgoing>,
    ) {
        match &mut self.active {
            Some(active) if active.number == response => match &mut active.late {
                None => {}
                Some(0) => return,
                Some(late) => *late -= 1,
            },
            _ => return,
        }
        let id = self.response_id(response);
        self.emit_delta(&id, item, len, judge, out);
        if self.dice.percent(20) {
            let event = json!({"type": "response.output_audio_transcript.delta",
                "event_id": "event_x", "response_id": id, "item_id": judge.items[item].id,
                "output_index": 0, "content_index": 0, "delta": "words "});
            self.send(out, &event, Note::Other);
        }
    }

    fn emit_delta(
        &self,
        response: &str,
        item: usize,
        len: usize,
        judge: &mut Judge,
        out: &mut Vec<Outgoing>,
    ) {
        let owner = &mut judge.items[item];
        let start = owner.bytes.len();
        // Bytes that name their item and place, so that no two deltas are alike.
        let salt = (item as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        owner.bytes.extend((start..start + len).map(|i| {
            let block = (i as u64 / 8).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ salt;
            (block >> (8 * (i % 8))) as u8
        }));
        let text = base64_simd::STANDARD.encode_to_string(&owner.bytes[start..]);
        let line = format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_d","response_id":"{response}","item_id":"{}","output_index":0,"content_index":0,"delta":"{text}"}}"#,
            owner.id
        );
        let bytes = ws::write(ws::TEXT, line.as_bytes(), None);
        let line = format!("delta of {} at {start}, {len} bytes", owner.id);
        let note = Note::Delta { item, start, len };
        out.push(Outgoing { bytes, note, line });
    }

    fn item_done(&mut self, item: usize, status: &str, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        let (id, response) = (&judge.items[item].id, &judge.items[item].response);
        for event in [
            json!({"type": "response.output_audio.done", "event_id": "event_o",
                "response_id": response, "item_id": id, "output_index": 0, "content_index": 0}),
            json!({"type": "response.output_audio_transcript.done", "event_id": "event_p",
                "response_id": response, "item_id": id, "output_index": 0, "content_index": 0,
                "transcript": "Words words."}),
            json!({"type": "response.output_item.done", "event_id": "event_q",
                "response_id": response, "output_index": 0, "item": {"id": id, "type": "message",
                "object": "realtime.item", "status": status, "role": "assistant",
                "content": [{"type": "output_audio", "transcript": "Words words."}]}}),
        ] {
            self.send(out, &event, Note::Other);
        }
    }

    fn done(&mut self, status: &str, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        let Some(active) = self.active.take() else {
            return;
        };
        let id = self.response_id(active.number);
        if status == "cancelled" && self.dice.percent(15) {
            self.call_tool(&id, Kind::Cut, judge, out);
        }
        let details = match (status, active.late) {
            ("cancelled", _) => json!({"type": "cancelled", "reason": "turn_detected"}),
            ("failed", _) => json!({"type": "failed", "error": {"type": "server_error",
                "code": null, "message": "The server had an error."}}),
            ("incomplete", _) => json!({"type": "incomplete", "reason": "max_output_tokens"}),
            _ => Value::Null,
        };
        let event = json!({"type": "response.done", "event_id": "event_g", "response": {
            "id": id, "object": "realtime.response", "status": status,
            "status_details": details, "output": [], "usage": null, "metadata": null}});
        let cancelled = status == "cancelled";
        self.send(
            out,
            &event,
            Note::ResponseDone {
                id,
                cancelled,
                failed: status == "failed",
            },
        );
        if self.dice.percent(self.script.odd / 4) {
            self.send(out, &event, Note::Other); // twice
        }
    }

    /// Calls of tools in the middle of an answer, several at once perhaps.
    fn call_tools(&mut self, response: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        let id = self.response_id(response);
        for _ in 0..self.dice.pick(&[1, 1, 1, 2, 3]) {
            let kind = self.dice.pick(&[
                Kind::Http,
                Kind::Http,
                Kind::Http,
                Kind::Http,
                Kind::Keys,
                Kind::Keys,
                Kind::EndCall,
                Kind::Note,
                Kind::Transfer,
                Kind::BadKeys,
                Kind::Unknown,
                Kind::NoObject,
            ]);
            self.call_tool(&id, kind, judge, out);
        }
    }

    fn call_tool(&mut self, id: &str, kind: Kind, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        let (name, arguments) = match kind {
            Kind::Http => (
                HTTP_TOOL,
                format!("{{\"of\":{}}}", self.dice.between(0, 99)),
            ),
            Kind::EndCall => ("end_call", "{\"reason\":\"done\"}".to_owned()),
            Kind::Keys => {
                let digits = self.dice.pick(&["1", "42#", "5w9", "A0", "*8D"]);
                ("send_dtmf", json!({"digits": digits}).to_string())
            }
            Kind::BadKeys => ("send_dtmf", "{\"digits\":\"E\"}".to_owned()),
            Kind::Note => ("take_note", "{\"text\":\"Blue.\"}".to_owned()),
            Kind::Transfer => ("transfer_to_human", "{}".to_owned()),
            Kind::Unknown => ("unheard_of", "{\"a\":1}".to_owned()),
            Kind::NoObject => (
                HTTP_TOOL,
                self.dice.pick(&["{\"a\":", "[1]", "?"]).to_owned(),
            ),
            Kind::Cut => (HTTP_TOOL, "{\"of".to_owned()),
        };
        let n = judge.new_call(id, self.connection, kind, name, arguments.clone());
        let status = if kind == Kind::Cut {
            "incomplete"
        } else {
            "completed"
        };
        let event = json!({"type": "response.output_item.done", "event_id": "event_f",
                "response_id": id, "output_index": 1, "item": {"id": format!("item_f{n}"),
                "type": "function_call", "object": "realtime.item", "status": status,
                "name": name, "call_id": format!("call_{n}"), "arguments": arguments}});
        self.send(out, &event, Note::Call(n));
        if self.dice.percent(5) {
            self.send(out, &event, Note::Other); // twice: acted on once
        }
    }

    fn stray_delta(&self, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        let item = judge.new_item("resp_stray", self.connection);
        self.emit_delta("resp_stray", item, 800, judge, out);
    }

    /// What the reference says may come, at any time.
    fn odd(&mut self, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        match self.dice.between(0, 6) {
            0 => self.send(
                out,
                &json!({"type": "surprise.event", "x": {"y": []}}),
                Note::Other,
            ),
            1 => {
                let code = self.dice.pick(&[
                    "response_cancel_not_active",
                    "input_audio_buffer_commit_empty",
                    "unsupported_content_type",
                    "invalid_event",
                    "item_create_duplicate_item_id",
                ]);
                self.error(out, code, Note::Other);
            }
            2 => {
                let event = json!({"type": "error", "event_id": "event_e", "error": {
                    "type": "server_error", "code": null, "message": "Oops.", "event_id": null}});
                self.send(out, &event, Note::Other);
            }
            3 => {
                let event = json!({"type": "rate_limits.updated", "event_id": "event_l",
                    "rate_limits": [{"name": "tokens", "remaining": 3}]});
                self.send(out, &event, Note::Other);
            }
            4 => self.stray_delta(judge, out),
            5 => {
                let bytes = ws::write(ws::TEXT, b"{\"type\":", None);
                out.push(Outgoing {
                    bytes,
                    note: Note::Other,
                    line: "half an event".to_owned(),
                });
            }
            _ => {
                // Each once: nothing takes the same one for news after others were done.
                let id = format!("resp_unheard_{}", self.seq);
                let event = json!({"type": "response.done", "event_id": "event_g",
                    "response": {"id": id, "status": "cancelled", "output": []}});
                let note = Note::ResponseDone {
                    id,
                    cancelled: true,
                    failed: false,
                };
                self.send(out, &event, note);
            }
        }
    }
}
