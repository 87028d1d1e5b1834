//! The tool side of a conversation: what the model asks for, who does it, and what the model is told.
//!
//! Core, owned by `Call`. A finished `function_call` item comes in; what comes out is a request for an HTTP tool (done
//! elsewhere, its result handed back in), a decision (hang up, play tones), a fact, or an output for the model.
//!
//! The rules, each with a test:
//!
//! - Every call that is acted on is answered exactly once, whatever happens: a tool that fails, hangs, does not
//!   exist or is asked for nonsense is answered with a sentence that the model can act on, never with silence.
//! - Only items whose status is completed (or absent: compatible servers leave it out) are acted on, once a `call_id`:
//!   a response that is cancelled in mid-call delivers its item with cut-off arguments.
//! - Outputs of one response go out in the order of its calls. After the last, and not before the response is done,
//!   one new response is wanted; not where the response was cancelled (the caller is speaking, and that turn brings
//!   a response by itself) nor where the call is about to end.
//! - `end_call` takes effect when its response is done, so that a goodbye of the same response is known whole. A
//!   caller who speaks into the goodbye cancels both.

#[cfg(test)]
mod tests;

use super::fact::Fact;
#[cfg(feature = "planted-bugs")]
use super::planted::{self, Planted};
use super::policy::ToolLimits;
use crate::base::id::{Inline, ResponseId};
use crate::base::time::{Mono, Now};
use crate::proto::audio::dtmf::Digits;
use crate::proto::realtime::server_event::Item;
use crate::proto::realtime::settings::Settings;
use crate::proto::realtime::tool::{Builtin, HttpTool, ToolKind};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How much later than a tool's own deadline it is given up here: a safety net, should whoever runs it say nothing.
pub const MARGIN: Duration = Duration::from_secs(2);
/// How long `end_call` waits for its response to be done.
pub const END_CALL_WAIT: Duration = Duration::from_secs(10);
/// A note, bytes; longer ones are refused, so that none is kept in part.
pub const NOTE_BYTES_MAX: usize = 4 * 1024;
/// Responses with calls that are not all answered yet. The oldest is given up when there is one more.
const ROUNDS_MAX: usize = 16;
/// Call ids that are remembered, to act once on each.
const SEEN_MAX: usize = 256;

/// The model's name for one call of a tool (the vendor's are at most 32 characters).
pub type ToolCallId = Inline<64>;

/// How a call of a tool went. Each is a metric label.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Outcome {
    /// It did what it was asked.
    Ok,
    /// It answered with an HTTP status that is no success; redirects are among them.
    HttpError,
    /// No whole answer in time.
    Timeout,
    /// No connection, or one that broke.
    Unreachable,
    /// Its answer is longer than the tool may have.
    TooLong,
    /// Its answer is neither JSON nor text.
    BadContent,
    /// Too many at once, or too many in all.
    Busy,
    /// The model named a tool that nobody defined.
    UnknownTool,
    /// The arguments are no JSON object, or not what a built-in tool takes.
    BadArguments,
    /// A built-in tool that can't be had on this call.
    Unavailable,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::HttpError,
        Self::Timeout,
        Self::Unreachable,
        Self::TooLong,
        Self::BadContent,
        Self::Busy,
        Self::UnknownTool,
        Self::BadArguments,
        Self::Unavailable,
    ];

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::HttpError => "http_error",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::TooLong => "too_long",
            Self::BadContent => "bad_content",
            Self::Busy => "busy",
            Self::UnknownTool => "unknown_tool",
            Self::BadArguments => "bad_arguments",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A request for an HTTP tool, to be answered with a `ToolResult`.
#[derive(Clone, PartialEq, Debug)]
pub struct ToolCall {
    /// The model's `call_id`.
    pub tool_call_id: ToolCallId,
    /// The tool's name.
    pub name: String,
    /// Where and how to ask.
    pub tool: HttpTool,
    /// A JSON object as text, proven to be one.
    pub arguments: String,
    /// An answer after this is not waited for.
    pub expires: Mono,
}

/// What became of a `ToolCall`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToolResult {
    /// From the request.
    pub tool_call_id: ToolCallId,
    /// What the model is told: the tool's answer, or `error_output`.
    pub output: String,
    /// How it went.
    pub outcome: Outcome,
}

impl ToolResult {
    /// For a tool that nobody had room to run.
    pub fn busy(tool_call_id: ToolCallId) -> Self {
        Self {
            tool_call_id,
            output: error_output(
                "Too many tools are running at the moment.",
                "Tell the caller that this takes a moment longer, and try again later.",
            ),
            outcome: Outcome::Busy,
        }
    }
}

/// What is to be done, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum ToolAction {
    /// Tell the model: a `function_call_output` item.
    Output {
        /// Which call it answers.
        tool_call_id: ToolCallId,
        /// The text.
        output: String,
    },
    /// Ask for a response, through the one response slot.
    WantResponse,
    /// Hang up once everything said so far was heard.
    EndCall {
        /// Why, in the model's words; may be empty.
        reason: String,
    },
    /// Play these keys to the caller, behind what is already on its way.
    PlayDtmf(Digits),
    /// Report this.
    Report(Fact),
}

/// What was not acted on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ToolStats {
    /// Calls that were cut off, or without an id that an answer could name.
    pub incomplete: u64,
    /// Calls that were acted on before.
    pub duplicate: u64,
    /// Results for unknown or answered calls.
    pub stale_results: u64,
}

/// What is told to a model about a failure: what happened, and what to make of it. JSON.
pub fn error_output(what: &str, advice: &str) -> String {
    json!({ "error": format!("{what} {advice}") }).to_string()
}

/// How long all tries of an HTTP tool and the pauses between them may take together. A try that hangs is not
/// repeated, so this is reached only where a server fails slowly.
pub fn time_allowed(tool: &HttpTool) -> Duration {
    let one = Duration::from_millis(u64::from(tool.timeout_ms));
    if tool.retries == 0 { one } else { 2 * one }
}

#[derive(Debug)]
enum State {
    /// Somebody runs it.
    Running { until: Mono },
    /// `end_call`, until its response is done.
    Ending { reason: String, until: Mono },
    /// Answered, but perhaps not yet its turn.
    Ready { output: String, outcome: Outcome },
}

#[derive(Debug)]
struct Open {
    id: ToolCallId,
    name: String,
    asked: Mono,
    state: State,
}

/// The calls of one response.
#[derive(Debug)]
struct Round {
    response: Option<ResponseId>,
    /// The response is done; whether it was cancelled.
    done: Option<bool>,
    /// The call ends behind it.
    ends: bool,
    /// In the order of the calls; answered ones leave at the front.
    calls: VecDeque<Open>,
}

/// The tools of one call.
///
/// # Contract
///
/// Any `handle_*` at any time, then `poll` and `poll_request` until `None`, and `poll_timeout`. Nothing panics.
#[derive(Debug)]
pub struct ToolBox {
    settings: Arc<Settings>,
    limits: ToolLimits,
    rounds: VecDeque<Round>,
    seen: VecDeque<ToolCallId>,
    /// The response that was done last: its items should all have come before.
    last_done: Option<(ResponseId, bool)>,
    calls: u32,
    requests: VecDeque<ToolCall>,
    actions: VecDeque<ToolAction>,
    stats: ToolStats,
}

impl ToolBox {
    /// The tools of `settings`.
    pub fn new(settings: Arc<Settings>, limits: ToolLimits) -> Self {
        Self {
            settings,
            limits,
            rounds: VecDeque::new(),
            seen: VecDeque::new(),
            last_done: None,
            calls: 0,
            requests: VecDeque::new(),
            actions: VecDeque::new(),
            stats: ToolStats::default(),
        }
    }

    /// `response.output_item.done`: anything but a function call is passed over.
    pub fn handle_item_done(&mut self, response_id: Option<&str>, item: &Item<'_>, now: Now) {
        if item.kind.as_deref() != Some("function_call") {
            return;
        }
        let id = item.call_id.as_deref().and_then(ToolCallId::new);
        let complete = item.status.as_deref().is_none_or(|s| s == "completed");
        let id = match id {
            Some(id) if complete && !id.is_empty() => id,
            _ => {
                self.stats.incomplete += 1;
                return;
            }
        };
        if self.seen.contains(&id) {
            self.stats.duplicate += 1;
            return;
        }
        if self.seen.len() == SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(id);

        let name = item.name.as_deref().unwrap_or_default();
        let arguments = item.arguments.as_deref().unwrap_or_default();
        let state = self.begin(id, name, arguments, now);
        let round = self.round(response_id.and_then(ResponseId::new));
        round.calls.push_back(Open {
            id,
            name: cut(name, 64).to_owned(),
            asked: now.mono,
            state,
        });
        self.settle(now);
    }

    /// `response.done`. Without an id it is taken for whatever is open.
    pub fn handle_response_done(&mut self, response_id: Option<&str>, cancelled: bool, now: Now) {
        let id = response_id.and_then(ResponseId::new);
        if let Some(id) = id {
            self.last_done = Some((id, cancelled));
        }
        for round in &mut self.rounds {
            if id.is_none() || round.response.is_none() || round.response == id {
                round.done.get_or_insert(cancelled);
            }
        }
        self.settle(now);
    }

    /// A request's answer. One that nobody waits for is counted.
    pub fn handle_result(&mut self, result: ToolResult, now: Now) {
        let running = self
            .rounds
            .iter_mut()
            .flat_map(|round| &mut round.calls)
            .find(|open| {
                open.id == result.tool_call_id && matches!(open.state, State::Running { .. })
            });
        match running {
            Some(open) => {
                open.state = State::Ready {
                    output: result.output,
                    outcome: result.outcome,
                };
                self.settle(now);
            }
            None => self.stats.stale_results += 1,
        }
    }

    /// Gives up what is due. `false` when nothing is.
    pub fn handle_timeout(&mut self, now: Now) -> bool {
        let mut acted = false;
        for round in &mut self.rounds {
            for open in &mut round.calls {
                match &mut open.state {
                    State::Running { until } if *until <= now.mono => {
                        acted = true;
                        open.state = State::Ready {
                            output: error_output(
                                "The tool did not answer in time.",
                                "Tell the caller that it can't be done right now, and offer another way.",
                            ),
                            outcome: Outcome::Timeout,
                        };
                    }
                    State::Ending { until, .. } if *until <= now.mono => {
                        acted = true;
                        round.done.get_or_insert(false);
                    }
                    _ => {}
                }
            }
        }
        if acted {
            self.settle(now);
        }
        acted
    }

    /// The model's connection is gone, and its conversation with it. What runs goes on running, and is answered in the next
    /// session, which is told of the call. A call that was to end does not: its goodbye is lost.
    pub fn handle_upstream_lost(&mut self) {
        self.rounds.retain_mut(|round| {
            // Another session may use the same id.
            round.response = None;
            round.done.get_or_insert(false);
            let is_ending = |open: &Open| matches!(open.state, State::Ending { .. });
            round.calls.retain(|open| !is_ending(open));
            !round.calls.is_empty()
        });
        self.last_done = None;
    }

    /// Whether this call is still to be answered.
    pub fn is_open(&self, call_id: &str) -> bool {
        let mut open = self.rounds.iter().flat_map(|round| &round.calls);
        open.any(|open| open.id.as_str() == call_id)
    }

    /// Whether a response will be wanted by itself once what is open is answered.
    pub fn will_ask(&self) -> bool {
        let mut rounds = self.rounds.iter();
        rounds.any(|round| !round.ends && round.done != Some(true) && !round.calls.is_empty())
    }

    /// A response that is asked for already serves what has been answered.
    pub fn forget_wish(&mut self) {
        self.actions
            .retain(|action| *action != ToolAction::WantResponse);
    }

    /// Whether a call of a tool is still to be answered.
    pub fn is_working(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<ToolAction> {
        self.actions.pop_front()
    }

    /// The next tool to ask, answered by `handle_result`.
    pub fn poll_request(&mut self) -> Option<ToolCall> {
        self.requests.pop_front()
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Mono> {
        let open = self.rounds.iter().flat_map(|round| &round.calls);
        open.filter_map(|open| match open.state {
            State::Running { until } | State::Ending { until, .. } => Some(until),
            State::Ready { .. } => None,
        })
        .min()
    }

    /// Calls that are not answered yet.
    pub fn open(&self) -> usize {
        self.rounds.iter().map(|round| round.calls.len()).sum()
    }

    /// What was not acted on so far.
    pub fn stats(&self) -> ToolStats {
        self.stats
    }

    /// Decides about one call: done at once, or begun.
    fn begin(&mut self, id: ToolCallId, name: &str, arguments: &str, now: Now) -> State {
        let running = self
            .rounds
            .iter()
            .flat_map(|round| &round.calls)
            .filter(|open| matches!(open.state, State::Running { .. }))
            .count();
        if self.calls >= self.limits.calls_max {
            return failed(
                Outcome::Busy,
                "No more tools can be used in this phone call.",
                "Go on without them.",
            );
        }
        self.calls += 1;
        let settings = self.settings.clone();
        let Some(tool) = settings.tools.iter().find(|tool| tool.name == name) else {
            return failed(
                Outcome::UnknownTool,
                &format!("There is no tool named {:?}.", cut(name, 64)),
                "Use one of the tools that you were given.",
            );
        };
        if arguments.len() > self.limits.arguments_bytes_max as usize {
            return failed(
                Outcome::BadArguments,
                "The arguments are too long.",
                "Call the tool again with shorter ones.",
            );
        }
        // Compatible servers send no text at all where there are no arguments.
        let arguments = match arguments.trim() {
            "" => "{}",
            text => text,
        };
        let Ok(parsed) = serde_json::from_str::<Map<String, Value>>(arguments) else {
            return failed(
                Outcome::BadArguments,
                "The arguments are not a JSON object.",
                "Call the tool again with arguments that follow its schema.",
            );
        };
        match &tool.kind {
            ToolKind::Builtin(builtin) => self.run(*builtin, &parsed, now),
            ToolKind::Http(_) if running >= self.limits.in_flight_max as usize => failed(
                Outcome::Busy,
                "Too many tools are running at the moment.",
                "Wait for their answers, then call it again.",
            ),
            ToolKind::Http(http) => {
                let expires = now.mono + time_allowed(http);
                #[cfg(feature = "planted-bugs")]
                if planted::is(Planted::ToolAskedTwice) {
                    self.requests.push_back(ToolCall {
                        tool_call_id: id,
                        name: tool.name.clone(),
                        tool: http.clone(),
                        arguments: arguments.to_owned(),
                        expires,
                    });
                }
                self.requests.push_back(ToolCall {
                    tool_call_id: id,
                    name: tool.name.clone(),
                    tool: http.clone(),
                    arguments: arguments.to_owned(),
                    expires,
                });
                State::Running {
                    until: expires + MARGIN,
                }
            }
        }
    }

    fn run(&mut self, builtin: Builtin, arguments: &Map<String, Value>, now: Now) -> State {
        let text = |key: &str| {
            arguments
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or("")
                .trim()
        };
        match builtin {
            Builtin::EndCall => State::Ending {
                reason: cut(text("reason"), 256).to_owned(),
                until: now.mono + END_CALL_WAIT,
            },
            Builtin::TransferToHuman => {
                // The telephone side carries it out once there is one; until then at least people read of it.
                self.actions.push_back(ToolAction::Report(Fact::Note {
                    text: format!(
                        "the model asked for a transfer to a person: {}",
                        cut(text("reason"), 256)
                    ),
                }));
                failed(
                    Outcome::Unavailable,
                    "Nobody can be reached for a transfer on this line.",
                    "Apologise to the caller, say that no colleague can take over right now, and offer to take a message or to help yourself.",
                )
            }
            Builtin::SendDtmf => match Digits::parse(text("digits")) {
                Some(digits) => {
                    self.actions.push_back(ToolAction::PlayDtmf(digits));
                    succeeded(json!({"ok": true, "duration_ms": digits.duration_ms()}))
                }
                None => failed(
                    Outcome::BadArguments,
                    "These are no telephone keys.",
                    "Call the tool again with 1 to 32 of 0-9, A-D, *, # and w.",
                ),
            },
            Builtin::TakeNote => match text("text") {
                "" => failed(
                    Outcome::BadArguments,
                    "The note is empty.",
                    "Call the tool again with the note as text.",
                ),
                note if note.len() > NOTE_BYTES_MAX => failed(
                    Outcome::BadArguments,
                    "The note is too long.",
                    "Call the tool again with a shorter one.",
                ),
                note => {
                    self.actions.push_back(ToolAction::Report(Fact::NoteTaken {
                        text: note.to_owned(),
                    }));
                    succeeded(json!({"ok": true}))
                }
            },
        }
    }

    /// The response's round, made when it has none.
    fn round(&mut self, response: Option<ResponseId>) -> &mut Round {
        let at = self.rounds.iter().position(|round| {
            round.response == response && (response.is_some() || round.done.is_none())
        });
        let at = at.unwrap_or_else(|| {
            if self.rounds.len() == ROUNDS_MAX {
                self.rounds.pop_front();
            }
            let done = match (self.last_done, response) {
                (Some((id, cancelled)), Some(response)) if id == response => Some(cancelled),
                _ => None,
            };
            self.rounds.push_back(Round {
                response,
                done,
                ends: false,
                calls: VecDeque::new(),
            });
            self.rounds.len() - 1
        });
        &mut self.rounds[at]
    }

    /// Lets go what its turn has come for.
    fn settle(&mut self, now: Now) {
        let actions = &mut self.actions;
        self.rounds.retain_mut(|round| {
            if let Some(cancelled) = round.done {
                for open in &mut round.calls {
                    let State::Ending { reason, .. } = &mut open.state else {
                        continue;
                    };
                    let reason = std::mem::take(reason);
                    open.state = if cancelled {
                        failed(
                            Outcome::Unavailable,
                            "The caller spoke again, so the call was not ended.",
                            "Listen to the caller; end the call later.",
                        )
                    } else {
                        if !round.ends {
                            actions.push_back(ToolAction::EndCall { reason });
                        }
                        round.ends = true;
                        succeeded(json!({"ok": true}))
                    };
                }
            }
            #[cfg(feature = "planted-bugs")]
            if planted::is(Planted::OutputsUnordered) {
                let calls = round.calls.make_contiguous();
                calls.sort_by_key(|open| !matches!(open.state, State::Ready { .. }));
            }
            while let Some(Open {
                state: State::Ready { .. },
                ..
            }) = round.calls.front()
            {
                let Some(Open {
                    id,
                    name,
                    asked,
                    state: State::Ready { output, outcome },
                }) = round.calls.pop_front()
                else {
                    break;
                };
                actions.push_back(ToolAction::Output {
                    tool_call_id: id,
                    output,
                });
                actions.push_back(ToolAction::Report(Fact::ToolFinished {
                    name,
                    outcome,
                    took: now.mono.since(asked),
                }));
            }
            let over = round.calls.is_empty() && round.done.is_some();
            if over && round.done == Some(false) && !round.ends {
                actions.push_back(ToolAction::WantResponse);
            }
            !over
        });
    }
}

fn succeeded(output: Value) -> State {
    State::Ready {
        output: output.to_string(),
        outcome: Outcome::Ok,
    }
}

fn failed(outcome: Outcome, what: &str, advice: &str) -> State {
    State::Ready {
        output: error_output(what, advice),
        outcome,
    }
}

/// At most `max` bytes of `text`, no character cut.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}
