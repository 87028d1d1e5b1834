//! The call's side of its tools: what `ToolBox` decides becomes events, audio, facts and an end. Core; part of `Call`.

use super::fact::{EndReason, Leg};
use super::outbox::Class;
#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::playback::TONES;
use super::responses::{Want, Why};
use super::state::Phase;
use super::tools::{ToolAction, ToolCall, ToolResult};
use super::{Call, Output};
use crate::base::limit;
use crate::base::time::{Mono, Now};
use crate::base::unit::AudioMs;
use crate::proto::audio::{base64, dtmf};
use crate::proto::realtime::client_event::{self, NewItem};
use crate::proto::realtime::server_event::{AudioDelta, Item};
use std::borrow::Cow;
use std::time::Duration;

/// Names our outputs.
const OUTPUT_EVENT_ID: &str = "vr_tool_output";
/// Tones go out in messages of this much audio, bytes: 200 ms, as a mark follows each.
const TONE_CHUNK_BYTES: usize = 1_600;
/// How much longer than it lasts the goodbye may take, where no mark says that it was heard.
const GOODBYE_MARGIN: Duration = Duration::from_millis(500);

/// What of the tools' affairs is the call's own.
#[derive(Debug, Default)]
pub(super) struct ToolWork {
    /// The model ended the call.
    ending: Option<Ending>,
}

/// A call that the model has ended.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// It ends then, should no mark say earlier that the goodbye was heard.
    at: Mono,
    /// And then even if it was not: the carrier does not take it.
    by: Mono,
    /// Where the goodbye ends on the ledger's line: what comes behind it is not waited for.
    end: u64,
}

impl Ending {
    /// Waits for what is left, now that it is heard up to `heard`.
    fn wait(&mut self, heard: u64, now: Now) {
        let left = AudioMs::from_pcmu_bytes(self.end.saturating_sub(heard));
        let at = now.mono + Duration::from_millis(left.0) + GOODBYE_MARGIN;
        self.at = at.min(self.by);
    }
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

    /// A response is done. `asks`: a response for answers of tools is about to be asked for, and serves these as well.
    pub(super) fn on_tools_done(
        &mut self,
        response_id: Option<&str>,
        cancelled: bool,
        asks: bool,
        now: Now,
        out: &mut impl Output,
    ) {
        self.tools.handle_response_done(response_id, cancelled, now);
        if asks {
            self.tools.forget_wish();
        }
        #[cfg(feature = "planted-bugs")]
        if planted::is(Planted::ToolsTooEarly) && self.tools.is_working() && !cancelled {
            let (why, instructions) = (Why::Tools, None);
            self.want(Want { why, instructions }, now, out);
        }
        self.work(now, out);
    }

    /// The earliest deadline of the tools.
    pub(super) fn tool_timeout(&self) -> Option<Mono> {
        [
            self.tools.poll_timeout(),
            self.tool_work.ending.map(|e| e.at),
        ]
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
        if let Some(ending) = &mut self.tool_work.ending
            && ending.at <= now.mono
        {
            self.playback.advance(now.mono);
            let (heard, ..) = self.playback.offsets();
            if heard < ending.end && now.mono < ending.by {
                // The carrier took some of it late.
                ending.wait(heard, now);
            } else {
                self.end(EndReason::EndedByModel);
            }
            return true;
        }
        let acted = self.tools.handle_timeout(now);
        self.work(now, out);
        acted
    }

    /// Ends a call that the model has ended, once its goodbye was heard.
    pub(super) fn end_when_heard(&mut self, now: Now) {
        if self.tool_work.ending.is_some() {
            self.playback.advance(now.mono);
            #[cfg(feature = "planted-bugs")]
            if planted::is(Planted::HungUpUnheard) {
                self.end(EndReason::EndedByModel);
                return;
            }
            // A carrier that lags behind the clock says so by its marks.
            if !self.playback.is_unheard() && self.marks.none_out() {
                self.end(EndReason::EndedByModel);
            }
        }
    }

    /// Whether the model has ended the call, and only its goodbye is still to be heard.
    pub(super) fn is_ending(&self) -> bool {
        self.tool_work.ending.is_some()
    }

    /// Where the model has ended the call, and is gone: what came of its last words is heard then.
    pub(super) fn hear_ending(&mut self, now: Now) {
        if self.is_ending() {
            self.tool_work.ending = Some(self.ending(now));
        }
    }

    /// The goodbye goes on only now.
    pub(super) fn put_off_ending(&mut self, by: Mono, now: Now) {
        let (heard, ..) = self.playback.offsets();
        if let Some(ending) = &mut self.tool_work.ending {
            ending.by = ending.by.max(by);
            ending.wait(heard, now);
        }
    }

    /// The end of a call of which nothing more is to be heard than what came until now.
    fn ending(&self, now: Now) -> Ending {
        // At most what may wait to be heard at all: `unplayed_ms_max`.
        let heard = self.playback.silent_at(now.mono) + self.pause_left();
        let (.., end) = self.playback.offsets();
        Ending {
            at: heard + GOODBYE_MARGIN,
            by: heard + limit::WRITE_STALL_DEADLINE,
            end,
        }
    }

    /// The caller spoke into the goodbye: the call goes on, and the model may end it again.
    pub(super) fn keep_going(&mut self) {
        self.tool_work.ending = None;
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
                    // A session that is not set up takes nothing but its update; then it is told with the conversation.
                    if self.phase == Phase::Ready {
                        #[cfg(feature = "planted-bugs")]
                        if planted::is(Planted::OutputTwice) {
                            self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
                        }
                        self.send(out, Leg::Realtime, Class::Control, &[event.as_bytes()]);
                    }
                    self.history.output(tool_call_id.as_str(), &output);
                }
                ToolAction::WantResponse => {
                    #[cfg(feature = "planted-bugs")]
                    if planted::is(Planted::ToolsUnasked) {
                        continue;
                    }
                    let want = Want {
                        why: Why::Tools,
                        instructions: None,
                    };
                    self.want(want, now, out);
                }
                ToolAction::EndCall { reason } => {
                    self.note(format!("the model ended the call: {reason:?}"));
                    self.end_item(now, out);
                    self.playback.advance(now.mono);
                    self.tool_work.ending = Some(self.ending(now));
                    self.end_when_heard(now);
                }
                ToolAction::PlayDtmf(digits) => self.play_keys(&digits, now, out),
                ToolAction::Report(fact) => self.facts.push_back(fact),
            }
        }
    }

    /// Tones for the caller's side, behind the audio that is already queued: on the same way as the model's audio, as
    /// an item without a name, so that a caller who speaks cuts them like any other.
    fn play_keys(&mut self, digits: &dtmf::Digits, now: Now, out: &mut impl Output) {
        let mut tones = Vec::new();
        dtmf::tones_into(digits, &mut tones);
        for chunk in tones.chunks(TONE_CHUNK_BYTES) {
            let mut text = Vec::new();
            base64::encode_into(chunk, &mut text);
            let delta = AudioDelta {
                response_id: None,
                item_id: None,
                content_index: TONES,
                delta: Cow::Owned(text),
            };
            self.on_delta(&delta, now, out);
        }
        self.end_item(now, out);
    }
}
