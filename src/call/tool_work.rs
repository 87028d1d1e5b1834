//! The call's side of its tools: what `ToolBox` decides becomes events, audio, facts and an end. Core; part of `Call`.

use super::fact::{EndReason, Leg};
use super::outbox::Class;
use super::state::Phase;
use super::tools::{ToolAction, ToolCall, ToolResult};
use super::{Call, Drop, Output};
use crate::base::time::{Mono, Now};
use crate::proto::audio::{base64, dtmf};
use crate::proto::realtime::client_event::{self, NewItem};
use crate::proto::realtime::server_event::Item;
use std::time::Duration;

/// Names our `response.create` behind tools.
const RESPONSE_EVENT_ID: &str = "vr_tool_response";
/// Names our outputs.
const OUTPUT_EVENT_ID: &str = "vr_tool_output";
/// Tones go out in messages of this much audio, bytes: 200 ms, as a mark follows each.
const TONE_CHUNK_BYTES: usize = 1_600;
/// How long the goodbye may take to be heard before the call ends anyway.
const GOODBYE_MAX: Duration = Duration::from_secs(20);

/// What of the tools' affairs is the call's own.
#[derive(Debug, Default)]
pub(super) struct ToolWork {
    /// A response is under way: the next has to wait.
    responding: bool,
    /// A response is wanted when that one is done. One for however many ask.
    wanted: bool,
    /// The model ended the call; at the latest then.
    ending: Option<Mono>,
}

impl Call {
    /// The next HTTP tool to ask; its answer goes to `handle_tool_result`.
    pub fn poll_tool(&mut self) -> Option<ToolCall> {
        self.tools.poll_request()
    }

    /// A tool's answer.
    pub fn handle_tool_result(&mut self, result: ToolResult, now: Now, out: &mut impl Output) {
        self.tools.handle_result(result, now);
        self.work(now, out);
    }

    pub(super) fn on_output_item(
        &mut self,
        response_id: Option<&str>,
        item: &Item<'_>,
        now: Now,
        out: &mut impl Output,
    ) {
        if self.phase == Phase::Ready {
            self.tools.handle_item_done(response_id, item, now);
            self.work(now, out);
        }
    }

    pub(super) fn on_response_created(&mut self) {
        self.tool_work.responding = true;
    }

    pub(super) fn on_response_done(
        &mut self,
        response_id: Option<&str>,
        cancelled: bool,
        now: Now,
        out: &mut impl Output,
    ) {
        self.tool_work.responding = false;
        self.tools.handle_response_done(response_id, cancelled, now);
        self.work(now, out);
        self.respond(out);
    }

    /// The earliest deadline of the tools.
    pub(super) fn tool_timeout(&self) -> Option<Mono> {
        [self.tools.poll_timeout(), self.tool_work.ending]
            .into_iter()
            .flatten()
            .filter(|_| !self.phase.is_ended())
            .min()
    }

    /// Acts on what of it is due; `false` when nothing is.
    pub(super) fn on_tool_timeout(&mut self, now: Now, out: &mut impl Output) -> bool {
        if self.phase.is_ended() {
            return false;
        }
        if self.tool_work.ending.is_some_and(|at| at <= now.mono) {
            self.end(EndReason::EndedByModel);
            return true;
        }
        let acted = self.tools.handle_timeout(now);
        self.work(now, out);
        acted
    }

    /// Ends a call that the model has ended, once every mark is back: its goodbye was heard.
    pub(super) fn end_when_heard(&mut self) {
        if self.tool_work.ending.is_some() && self.stats.marks_returned >= self.stats.marks_sent {
            self.end(EndReason::EndedByModel);
        }
    }

    fn work(&mut self, now: Now, out: &mut impl Output) {
        while let Some(action) = self.tools.poll() {
            if self.phase.is_ended() {
                continue;
            }
            match action {
                ToolAction::Output {
                    tool_call_id,
                    output,
                } => {
                    let item = NewItem::FunctionCallOutput {
                        call_id: tool_call_id.as_str(),
                        output: &output,
                    };
                    let event = client_event::item_create(item, None, None, OUTPUT_EVENT_ID);
                    self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
                }
                ToolAction::WantResponse => {
                    self.tool_work.wanted = true;
                    self.respond(out);
                }
                ToolAction::EndCall { reason } => {
                    self.note(format!("the model ended the call: {reason:?}"));
                    self.end_item(now, out);
                    self.tool_work.ending = Some(now.mono + GOODBYE_MAX);
                    self.end_when_heard();
                }
                ToolAction::PlayDtmf(digits) => self.play_keys(&digits, now, out),
                ToolAction::Report(fact) => self.facts.push_back(fact),
            }
        }
    }

    /// One response at a time: a second `response.create` would be refused.
    fn respond(&mut self, out: &mut impl Output) {
        if !self.tool_work.wanted || self.tool_work.responding || self.phase != Phase::Ready {
            return;
        }
        let event = client_event::response_create(None, None, RESPONSE_EVENT_ID);
        if self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]) {
            self.tool_work.wanted = false;
            self.tool_work.responding = true;
        }
    }

    /// Tones for the caller's side, behind the audio that is already queued.
    fn play_keys(&mut self, digits: &dtmf::Digits, now: Now, out: &mut impl Output) {
        self.end_item(now, out);
        self.marks.begin_item(None);
        let mut tones = Vec::new();
        dtmf::tones_into(digits, &mut tones);
        let mut text = Vec::new();
        for chunk in tones.chunks(TONE_CHUNK_BYTES) {
            text.clear();
            base64::encode_into(chunk, &mut text);
            let bytes = chunk.len() as u64;
            self.stats.outbound_frames += 1;
            self.stats.outbound_bytes += bytes;
            let (before, after) = self.encoder.media();
            if !out.send(Leg::Carrier, Class::Audio, &[before, &text, after]) {
                self.stats.drop(Drop::OutboxFull);
                self.stats.outbound_bytes_dropped += bytes;
                continue;
            }
            self.stats.carrier_messages_out += 1;
            self.stats.outbound_frames_sent += 1;
            self.stats.outbound_bytes_sent += bytes;
            if let Some(position) = self.marks.on_sent(bytes) {
                self.send_mark(position, now, out);
            }
        }
        self.end_item(now, out);
    }
}
