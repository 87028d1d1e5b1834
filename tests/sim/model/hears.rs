//! What the scripted model does with what the relay tells it.

use super::{Model, Step};
use crate::carrier::{Act, Outgoing};
use crate::check::{Judge, Note, Seen};
use crate::trouble::Setup;
use crate::ws;
use serde_json::{Map, Value, json};

impl Model {
    /// Something of the relay's arrived.
    pub fn handle(&mut self, seen: Seen, now: u64, judge: &mut Judge, out: &mut Vec<Outgoing>) {
        if self.closed {
            return;
        }
        match seen {
            Seen::Ping(payload) => out.push(Outgoing {
                bytes: ws::write(ws::PONG, &payload, None),
                note: Note::Other,
                line: "pong".to_owned(),
            }),
            Seen::Close(code) if self.script.answers_close => {
                if self.ready && self.dice.percent(40) {
                    // It was on its way.
                    self.stray_delta(judge, out);
                }
                self.closed = true;
                out.push(Outgoing {
                    bytes: ws::write(ws::CLOSE, &code.to_be_bytes(), None),
                    note: Note::Other,
                    line: "close".to_owned(),
                });
                self.acts.push(Act::Eof);
            }
            Seen::Append if self.ready && !self.hears => {
                // Nobody speaks to a session that is given no audio.
                self.hears = true;
                let at = now + self.dice.millis(20, 1_200);
                self.plan(at, Step::Turn);
            }
            Seen::Event(event) => self.event(&event, now, judge, out),
            _ => {}
        }
    }

    fn event(
        &mut self,
        event: &Map<String, Value>,
        now: u64,
        judge: &mut Judge,
        out: &mut Vec<Outgoing>,
    ) {
        match event["type"].as_str().unwrap_or_default() {
            "session.update" => {
                let turn = &event["session"]["audio"]["input"]["turn_detection"];
                if let Some(flag) = turn["create_response"].as_bool() {
                    self.create_response = flag;
                }
                if let Some(flag) = turn["interrupt_response"].as_bool() {
                    self.interrupt_response = flag;
                }
                if self.script.setup != Setup::Unconfirmed {
                    let at = now + self.dice.millis(0, 90);
                    self.plan(at, Step::Updated);
                }
            }
            "response.create" => {
                if let Some(active) = &self.active {
                    let id = self.response_id(active.number);
                    let tag = event["response"]["metadata"]["voxrelay"].as_str();
                    let tag = tag.unwrap_or_default().to_owned();
                    let create = event["event_id"].as_str().unwrap_or_default().to_owned();
                    let refusal = json!({"type": "error", "event_id": "event_e", "error": {
                        "type": "invalid_request_error",
                        "code": "conversation_already_has_active_response",
                        "message": format!("Conversation already has an active response in progress: {id}. Wait until the response is finished before creating a new one."),
                        "param": null, "event_id": null}});
                    self.send(out, &refusal, Note::CreateRefused { tag, create });
                } else {
                    let metadata = event.get("response").and_then(|r| r.get("metadata"));
                    self.begin(metadata.cloned(), now, judge, out);
                }
            }
            "response.cancel" => match &self.active {
                Some(_) => self.cancel(now),
                None => self.error(out, "response_cancel_not_active", Note::Other),
            },
            "conversation.item.truncate" => {
                let id = event["item_id"].as_str().unwrap_or_default();
                let ms = event["audio_end_ms"].as_u64().unwrap_or(u64::MAX);
                let have = judge
                    .items
                    .iter()
                    .find(|item| item.id == id)
                    .map_or(0, |item| item.bytes.len() as u64 / 8);
                if ms > have || self.script.refuses_truncation && !self.refused {
                    self.refused = true;
                    let event = json!({"type": "error", "event_id": "event_e", "error": {
                        "type": "invalid_request_error", "code": "invalid_value",
                        "message": format!("Audio content of {have}ms is already shorter than {ms}ms"),
                        "param": null, "event_id": null}});
                    self.send(out, &event, Note::TruncateRefused);
                } else {
                    let event = json!({"type": "conversation.item.truncated",
                        "event_id": "event_u", "item_id": id, "content_index": 0,
                        "audio_end_ms": ms});
                    self.send(out, &event, Note::Other);
                }
            }
            "conversation.item.delete" => {
                let event = json!({"type": "conversation.item.deleted", "event_id": "event_v",
                    "item_id": event["item_id"]});
                self.send(out, &event, Note::Other);
            }
            "conversation.item.create" => {
                for kind in ["conversation.item.added", "conversation.item.done"] {
                    let event = json!({"type": kind, "event_id": "event_w",
                        "previous_item_id": null, "item": event["item"]});
                    self.send(out, &event, Note::Other);
                }
            }
            _ => {}
        }
    }
}
