//! Tools: every call that is to be acted on is answered once in each session that knows it, in order; a response is asked
//! for once the last answer of a response is there, and not before.

use super::{Judge, string};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// How much longer than a tool's own time an answer may take: the relay's margin of two seconds, and a little.
const MARGIN: u64 = 2_000_000;
/// `end_call` waits for its response so long.
const END_CALL: u64 = 10_000_000;
const A_LITTLE: u64 = 5_000;

/// What the scripted model asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Http,
    EndCall,
    /// Keys to be played, and such as there are none.
    Keys,
    BadKeys,
    Note,
    Transfer,
    /// A name that nobody defined.
    Unknown,
    /// Arguments that are no JSON object.
    NoObject,
    /// Cut off in the middle: never acted on.
    Cut,
}

/// One call of a tool by the model.
pub struct Call {
    pub id: String,
    pub response: String,
    pub kind: Kind,
    pub name: &'static str,
    pub arguments: String,
    connection: u32,
    /// When the relay had it.
    known: Option<u64>,
    asked: bool,
    /// The first answer that the relay was handed, and when.
    given: Option<(u64, String)>,
    /// What its own session was told.
    answered: Option<String>,
}

/// The calls of one response.
struct Round {
    connection: u32,
    response: String,
    calls: Vec<usize>,
    /// The response is done; whether it was cancelled.
    done: Option<bool>,
    /// It was not done in time, and its `end_call` counts without that.
    overdue: bool,
    /// What asked for a response on its account.
    served: Option<String>,
}

#[derive(Default)]
pub struct Tools {
    pub calls: Vec<Call>,
    rounds: Vec<Round>,
    /// Calls that a later session was told of.
    told: BTreeSet<(u32, String)>,
    outputs: BTreeSet<(u32, String)>,
}

impl Judge {
    /// The model calls a tool; its number.
    pub fn new_call(
        &mut self,
        response: &str,
        connection: u32,
        kind: Kind,
        name: &'static str,
        arguments: String,
    ) -> usize {
        let n = self.tools.calls.len();
        self.tools.calls.push(Call {
            id: format!("call_{n}"),
            response: response.to_owned(),
            kind,
            name,
            arguments,
            connection,
            known: None,
            asked: false,
            given: None,
            answered: None,
        });
        n
    }

    pub(super) fn on_call(&mut self, n: usize, place: usize) {
        let call = &mut self.tools.calls[n];
        if !self.at[place].updated || self.current != Some(place) || call.kind == Kind::Cut {
            return;
        }
        call.known = Some(self.now);
        let (connection, response) = (call.connection, call.response.clone());
        let kind = call.kind;
        let round = |round: &Round| round.connection == connection && round.response == response;
        match self.tools.rounds.iter_mut().find(|r| round(r)) {
            Some(round) => round.calls.push(n),
            None => self.tools.rounds.push(Round {
                connection,
                response,
                calls: vec![n],
                done: None,
                overdue: false,
                served: None,
            }),
        }
        if kind == Kind::Keys {
            self.expect_tones(n);
        }
    }

    pub(super) fn on_round_done(&mut self, place: usize, response: &str, cancelled: bool) {
        let connection = self.at[place].number;
        let mut ends = false;
        for round in &mut self.tools.rounds {
            if round.connection == connection && round.response == response && round.done.is_none()
            {
                round.done = Some(cancelled);
                let calls = round.calls.iter().map(|&n| &self.tools.calls[n]);
                let mut calls = calls.filter(|_| !cancelled && !round.overdue);
                ends |= calls.any(|call| call.kind == Kind::EndCall);
            }
        }
        if ends {
            self.on_end_call();
        }
    }

    /// A step begins: the model has ended a call also where it never says that its response is done.
    pub(super) fn end_calls_in_time(&mut self) {
        let connection = self.current.map(|at| self.at[at].number);
        let (now, calls) = (self.now, &self.tools.calls);
        let ends = |&n: &usize| {
            let call = &calls[n];
            let waits = call.kind == Kind::EndCall && call.answered.is_none();
            waits && call.known.is_some_and(|known| now >= known + END_CALL)
        };
        let mut overdue = false;
        for round in &mut self.tools.rounds {
            if Some(round.connection) == connection
                && round.done.is_none()
                && !round.overdue
                && round.calls.iter().any(ends)
            {
                round.overdue = true;
                overdue = true;
            }
        }
        if overdue {
            self.on_end_call();
        }
    }

    /// The relay asks for an HTTP tool.
    pub fn on_tool_asked(&mut self, id: &str, name: &str, arguments: &str) {
        let call = self.tools.calls.iter_mut().find(|call| call.id == id);
        let call = call.expect("a tool is asked on the model's behalf");
        assert!(call.known.is_some(), "{id} is asked and was not called");
        assert_eq!(call.kind, Kind::Http, "{id} is nobody's outside");
        assert_eq!((call.name, call.arguments.as_str()), (name, arguments));
        assert!(!call.asked, "{id} is asked twice");
        call.asked = true;
    }

    /// The relay is handed a tool's answer.
    pub fn on_tool_answered(&mut self, id: &str, output: &str) {
        let now = self.now;
        if let Some(call) = self.tools.calls.iter_mut().find(|call| call.id == id) {
            call.given.get_or_insert_with(|| (now, output.to_owned()));
        }
    }

    /// A `function_call` item goes to the model: a later session is told of it.
    pub(super) fn on_call_told(&mut self, at: usize, item: &Map<String, Value>) {
        let id = string(item, "call_id");
        let connection = self.at[at].number;
        let call = self.tools.calls.iter().find(|call| call.id == id);
        let call = call.expect("a call that is told was made");
        assert!(
            call.connection < connection,
            "{id} is told to its own session"
        );
        assert_eq!(string(item, "name"), call.name);
        assert!(
            self.tools.told.insert((connection, id.to_owned())),
            "{id} is told twice"
        );
    }

    /// An answer goes to the model.
    pub(super) fn on_output(&mut self, at: usize, item: &Map<String, Value>) {
        let (id, output) = (string(item, "call_id"), string(item, "output"));
        let connection = self.at[at].number;
        let calls = &mut self.tools.calls;
        let n = calls.iter().position(|call| call.id == id);
        let n = n.expect("an answer answers a call");
        assert!(
            self.tools.outputs.insert((connection, id.to_owned())),
            "{id} is answered twice in one session"
        );
        let known = calls[n].known.expect("what is answered was asked");
        if calls[n].connection != connection {
            assert!(
                self.tools.told.contains(&(connection, id.to_owned())),
                "{id} is answered in a session that was not told of it"
            );
            let before = calls[n].answered.as_deref();
            assert!(
                before.is_none_or(|before| before == output),
                "{id} was answered otherwise before"
            );
            return;
        }
        let round = self.tools.rounds.iter().find(|r| r.calls.contains(&n));
        let round = round.expect("it was delivered");
        for &other in round.calls.iter().take_while(|&&other| other != n) {
            assert!(
                calls[other].answered.is_some(),
                "{id} is answered before call_{other}, which came first"
            );
        }
        let call = &mut calls[n];
        let failed = serde_json::from_str::<Value>(output).is_ok_and(|v| v["error"].is_string());
        let overdue = self.now >= known + self.terms.tool_allowed + MARGIN;
        match call.kind {
            Kind::Http if !call.asked => assert!(failed, "{id} was never asked"),
            Kind::Http => match &call.given {
                Some((_, given)) if given == output => {}
                _ => assert!(failed && overdue, "{id}: {output} is nobody's answer"),
            },
            Kind::EndCall => assert!(
                !failed || round.done != Some(false),
                "{id}: the call ends, and the model is told that it does not"
            ),
            Kind::Keys | Kind::Note => assert!(!failed, "{id}: {output}"),
            Kind::BadKeys | Kind::Transfer | Kind::Unknown | Kind::NoObject => {
                assert!(failed, "{id}: {output}");
            }
            Kind::Cut => panic!("{id} was cut off, and is answered"),
        }
        call.answered = Some(output.to_owned());
    }

    /// A response is asked for on account of answers.
    pub(super) fn on_tools_create(&mut self, at: usize, event: &Map<String, Value>) {
        let connection = self.at[at].number;
        let mut served = false;
        for round in &mut self.tools.rounds {
            let calls = &self.tools.calls;
            let answered = round.calls.iter().all(|&n| calls[n].answered.is_some());
            // What was wanted in a session that was lost may be asked for in the next.
            let due = round.served.is_none()
                && (round.is_due(calls) && answered || round.connection < connection);
            if due {
                served = true;
                round.served = Some(string(event, "event_id").to_owned());
            }
        }
        assert!(
            served || self.at[at].unsure,
            "a response is asked for, and no answer is new or one is still to come"
        );
    }

    pub(super) fn on_tools_refused(&mut self, create: &str) {
        for round in &mut self.tools.rounds {
            if round.served.as_deref() == Some(create) {
                round.served = None;
            }
        }
    }

    /// All that could be said in this step was said. `free`: the model could be asked for a response.
    pub(super) fn tools_settled(&self, at: usize, free: bool) {
        let connection = self.at[at].number;
        for round in &self.tools.rounds {
            if round.connection != connection {
                continue;
            }
            let calls = round.calls.iter().map(|&n| &self.tools.calls[n]);
            let bounds = calls.clone().filter_map(|call| {
                let extra = match call.kind {
                    Kind::Http => self.terms.tool_allowed + MARGIN,
                    Kind::EndCall => END_CALL,
                    _ => 0,
                };
                Some(call.known? + extra + A_LITTLE)
            });
            let answered = calls.clone().all(|call| call.answered.is_some());
            let by = bounds.max().unwrap_or(0);
            assert!(
                answered || self.now <= by,
                "calls of {} are not answered",
                round.response
            );
            for call in calls {
                assert!(
                    call.kind != Kind::Http || call.asked || call.answered.is_some(),
                    "{} is not asked",
                    call.id
                );
            }
            assert!(
                !free || !answered || !round.is_due(&self.tools.calls) || round.served.is_some(),
                "the calls of {} are answered, and no response is asked for",
                round.response
            );
        }
        let told = self.tools.told.iter().filter(|(c, _)| *c == connection);
        for told in told {
            let call = self.tools.calls.iter().find(|call| call.id == told.1);
            // One that runs is answered when it has.
            let known = call.and_then(|call| call.known);
            let runs = known.is_some_and(|known| {
                self.now <= known + self.terms.tool_allowed + MARGIN + A_LITTLE
            });
            assert!(
                runs || self.tools.outputs.contains(told),
                "{} is told without an answer",
                told.1
            );
        }
    }
}

impl Round {
    /// Brings a response once its calls are answered.
    fn is_due(&self, calls: &[Call]) -> bool {
        let ends = self.calls.iter().any(|&n| calls[n].kind == Kind::EndCall);
        self.done == Some(false) && !ends
    }
}
