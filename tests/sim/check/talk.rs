//! Who speaks when: the greeting, silence and what it leads to, the longest duration, and the goodbye that is heard before
//! the call ends.

use super::{Judge, Note, string};
use crate::terms::STAGES;
use serde_json::{Map, Value};
use voxrelay::call::EndReason;
use voxrelay::call::policy::FirstSpeaker;

/// How far a time of ours may lie from the relay's.
const A_LITTLE: u64 = 5_000;
/// The relay's clock of what was heard, against ours.
const EAR: u64 = 40_000;
/// A response that does not begin is asked for again after so long.
const NO_ANSWER: u64 = 10_000_000;
/// A goodbye that is not said is waited for so long, and one that was said for its marks.
const GOODBYE_MAX: u64 = 20_000_000;
const MARKS_WAIT: u64 = 500_000;

#[derive(Default)]
pub struct Talk {
    /// `start` was delivered, the first session was confirmed.
    started: Option<u64>,
    ready: Option<u64>,
    /// Somebody said something, or pressed a key.
    spoke: bool,
    /// When a silence began at the earliest, and what it has led to.
    voice: u64,
    stage: usize,
    /// The line was busy at least until here, as far as events tell.
    busy_until: u64,
    /// What was sent is heard by here, were there no way between.
    pub audio_until: u64,
    /// A nudge and a response of the server's own have crossed.
    crossed: bool,
    /// That response, and whether it has been heard.
    crossing: Option<String>,
    crossed_audio: bool,
    greetings: u32,
    /// The connections that were told that time is nearly up.
    warnings: Vec<u32>,
    goodbye: Option<Goodbye>,
    /// The model ended the call: by when it must be over, and what was sent until then.
    ending: Option<(u64, u64)>,
    /// Another response began behind the last words: that one may be cut off.
    behind: bool,
    /// The caller had begun to speak before that, and may mean it.
    interrupted: bool,
    sent: u64,
    lone_done: bool,
    /// A response failed, and was not asked for again.
    failed: bool,
    /// At the end, for when the carrier hears of it: what may not wait there any more.
    must_be_heard: bool,
}

struct Goodbye {
    asked: u64,
    connection: u32,
    response: Option<String>,
    done: bool,
    /// Audio sent until it was said.
    sent: u64,
    /// Because of silence: the caller's return takes it back.
    silent: bool,
}

impl Judge {
    pub(super) fn on_voice(&mut self) {
        self.talk.spoke = true;
        self.talk.voice = self.now;
        self.talk.busy_until = self.now;
        self.talk.stage = 0;
        self.talk.crossed = false;
        self.talk.crossing = None;
        self.talk.crossed_audio = false;
    }

    /// The caller speaks, or presses a key.
    pub(super) fn on_caller(&mut self) {
        self.on_voice();
        self.talk.goodbye.take_if(|goodbye| goodbye.silent);
    }

    pub(super) fn talk_delivered(&mut self, place: usize, note: &Note) {
        let now = self.now;
        let current = self.current == Some(place) && self.at[place].updated;
        let talk = &mut self.talk;
        match note {
            Note::Started => talk.started = Some(now),
            Note::Updated if current => {
                talk.ready.get_or_insert(now);
                talk.busy_until = now;
            }
            Note::SpeechStarted if current => {
                talk.ending = None;
                self.at[place].speech_open = true;
                self.on_caller();
            }
            Note::SpeechStopped => {
                self.at[place].speech_open = false;
                talk.busy_until = now;
            }
            Note::Delta { item, .. } if current => {
                let crosses = talk.crossing.as_ref() == Some(&self.items[*item].response);
                let nudge = self.at[place].active_tag.as_deref() == Some("nudge");
                talk.busy_until = now;
                talk.spoke = true;
                if crosses {
                    // It may be the nudge of a server that does not say our word back. The refusal, when it comes, tells.
                    talk.crossed_audio = true;
                } else if !nudge || talk.crossed_audio {
                    // Behind an answer that passed for it, the nudge itself passes for one.
                    self.on_voice();
                }
            }
            Note::ResponseCreated { id, tag } if current => {
                talk.behind = true;
                if tag.is_none() && self.at[place].creates_tag("nudge") {
                    talk.crossed = true;
                    talk.crossing = Some(id.clone());
                }
                if tag.as_deref() == Some("goodbye")
                    && let Some(goodbye) = &mut talk.goodbye
                {
                    goodbye.response = Some(id.clone());
                }
                talk.busy_until = now;
            }
            Note::ResponseDone { id, failed, .. } => {
                talk.busy_until = now;
                talk.failed |= failed;
                talk.lone_done |= self.at[place].active.is_none();
                if let Some(goodbye) = &mut talk.goodbye
                    && goodbye.response.as_deref() == Some(id)
                {
                    goodbye.done = true;
                    talk.behind = talk.ending.is_some();
                    goodbye.sent = talk.sent;
                }
            }
            _ => {}
        }
    }

    pub(super) fn talk_media(&mut self, len: u64) {
        let talk = &mut self.talk;
        talk.sent += len;
        talk.audio_until = talk.audio_until.max(self.now) + len * 125;
    }

    /// The model has ended the call, and its response is done.
    pub(super) fn on_end_call(&mut self) {
        let by = self.now.max(self.talk.audio_until) + MARKS_WAIT;
        self.talk.ending = Some((by, self.talk.sent));
        self.talk.behind = false;
        let speaks = self.current.is_some_and(|at| self.at[at].speech_open);
        self.talk.interrupted = self.reversible && speaks;
    }

    /// A `response.create` that carries our word.
    pub(super) fn talk_create(&mut self, at: usize, event: &Map<String, Value>, late: bool) {
        let response = &event["response"];
        let tag = response["metadata"]["voxrelay"].as_str();
        let now = self.now;
        let talk = &mut self.talk;
        match tag.expect("what we ask for carries our word") {
            "greeting" => {
                talk.greetings += 1;
                assert_eq!(talk.greetings, 1, "the caller is greeted twice");
                match self.terms.first {
                    FirstSpeaker::Caller => panic!("the caller was to begin"),
                    FirstSpeaker::Agent => {}
                    FirstSpeaker::AfterMs(ms) => {
                        let due = talk.started.expect("it began") + u64::from(ms) * 1_000;
                        assert!(now >= due, "the agent begins too early");
                        assert!(
                            late || !talk.spoke,
                            "the agent begins, and somebody has spoken"
                        );
                    }
                }
            }
            "nudge" => {
                let text = response["instructions"].as_str().unwrap_or_default();
                let stage = (0..2).find(|&n| text.contains(STAGES[n]));
                let stage = stage.expect("a nudge is one of two");
                assert!(
                    talk.stage <= stage,
                    "a second nudge of one kind in one silence"
                );
                talk.crossing = None;
                talk.crossed_audio = false;
                // One that had to wait may be of a silence that is over.
                if !late {
                    talk.stage = stage + 1;
                }
                let since = talk.voice.max(talk.ready.unwrap_or(0));
                assert!(
                    late || now + A_LITTLE >= since + self.terms.stages[stage],
                    "a nudge comes before its silence"
                );
                if !late && self.calm && !self.vanished {
                    assert!(!self.at[at].speech_open, "a nudge into the caller's words");
                    assert!(
                        now + EAR >= talk.audio_until,
                        "a nudge, and {} ms are still to be heard",
                        (talk.audio_until - now) / 1_000
                    );
                }
            }
            "goodbye" => {
                let text = response["instructions"].as_str().unwrap_or_default();
                let again = talk.goodbye.is_some();
                let asked = talk.goodbye.take().map_or(now, |goodbye| goodbye.asked);
                talk.goodbye = Some(Goodbye {
                    asked,
                    connection: self.at[at].number,
                    response: None,
                    done: false,
                    sent: u64::MAX,
                    silent: text.contains(STAGES[2]),
                });
                let started = talk.started.expect("it began");
                match text.contains(STAGES[2]) {
                    true => assert!(
                        again || late || now + A_LITTLE >= talk.voice + self.terms.stages[2],
                        "a goodbye comes before its silence"
                    ),
                    false => assert!(
                        self.terms.duration > 0 && now >= started + self.terms.duration,
                        "a goodbye that nothing led to"
                    ),
                }
            }
            "tools" => self.on_tools_create(at, event),
            "text" => self.on_text_create(at),
            "owed" => {
                assert!(self.at[at].number > 1, "a first session owes nothing");
                self.on_owed_create(string(event, "event_id"));
            }
            "again" => {
                let failed = std::mem::take(&mut talk.failed);
                assert!(
                    failed || late || now + A_LITTLE >= talk.busy_until + NO_ANSWER,
                    "a response is asked for again that did not fail"
                );
            }
            other => panic!("{other} is not a word of ours"),
        }
        self.talk.busy_until = now;
    }

    /// A `response.create` was refused, so its wish stands.
    pub(super) fn talk_refused(&mut self, tag: &str, create: &str) {
        match tag {
            "nudge" if self.talk.crossed_audio => self.on_voice(),
            "nudge" => self.talk.stage = self.talk.stage.saturating_sub(1),
            "owed" => self.on_owed_refused(create),
            "tools" => self.on_tools_refused(create),
            "text" => self.on_text_refused(),
            _ => {}
        }
    }

    /// Something that we tell the model in nobody's name.
    pub(super) fn on_system_text(&mut self, at: usize, text: &str) {
        if text.starts_with("The call ends in") {
            let connection = self.at[at].number;
            assert!(
                !self.talk.warnings.contains(&connection),
                "the model is told twice of the end"
            );
            self.talk.warnings.push(connection);
            let due = self.talk.started.expect("it began") + self.terms.duration;
            assert!(
                self.terms.warning > 0 && self.now + self.terms.warning >= due,
                "the model is told of the end too early"
            );
        }
    }

    /// All that could be said in this step was said.
    pub(super) fn talk_settled(&mut self, model_blocked: bool, carrier_blocked: bool) {
        let now = self.now;
        if self.ended {
            return;
        }
        if carrier_blocked {
            // What may wait there is still to be heard.
            self.talk.busy_until = now;
        }
        let talk = &self.talk;
        if let Some(started) = talk.started
            && self.terms.duration > 0
        {
            let most = started + self.terms.duration + GOODBYE_MAX + 8_000_000;
            assert!(now <= most, "the call is longer than it may be");
        }
        if let Some((by, _)) = talk.ending
            && self.calm
            && !carrier_blocked
            && !talk.interrupted
        {
            assert!(
                now <= by + 200_000,
                "the model has ended the call, and it goes on"
            );
        }
        // One that was taken over in this step is told what is due in the next.
        let ready = |&at: &usize| self.at[at].updated && self.had == Some(self.at[at].number);
        let Some(at) = self.current.filter(ready) else {
            return;
        };
        if model_blocked {
            return;
        }
        let here = &self.at[at];
        let free = here.active.is_none()
            && here.outstanding.is_empty()
            && !here.active_unknown
            && !here.unsure;
        self.tools_settled(at, free);
        self.keys_settled(free);
        let started = talk.started.unwrap_or(now);
        let ready = talk.ready.unwrap_or(now);
        let greets = match self.terms.first {
            FirstSpeaker::Caller => false,
            FirstSpeaker::Agent => true,
            FirstSpeaker::AfterMs(ms) => {
                let due = started + u64::from(ms) * 1_000;
                !talk.spoke && now > due.max(ready) + A_LITTLE
            }
        };
        // An outage before the first words makes them an answer that is owed.
        assert!(
            !greets || talk.greetings > 0 || here.number > 1 || !free,
            "the agent was to begin"
        );
        let warns =
            self.terms.warning > 0 && now > started + self.terms.duration - self.terms.warning;
        assert!(
            !warns
                || !talk.warnings.is_empty()
                || ready + self.terms.warning > started + self.terms.duration
                || here.number > 1,
            "the model is not told that time is nearly up"
        );
        let silent = free && !here.speech_open && talk.goodbye.is_none() && talk.ending.is_none();
        if silent && self.calm && here.number == 1 && !talk.crossed && !talk.lone_done {
            let first = match self.terms.first {
                FirstSpeaker::AfterMs(ms) => started + u64::from(ms) * 1_000,
                _ => 0,
            };
            let since = talk.busy_until.max(talk.audio_until).max(ready).max(first);
            for (n, &stage) in self.terms.stages.iter().enumerate() {
                assert!(
                    stage == 0 || talk.stage > n || now <= since + stage + EAR,
                    "the line is silent, and nothing follows"
                );
            }
        }
    }

    /// The relay says why the call ends.
    pub(super) fn talk_ended(&mut self, reason: EndReason) {
        let now = self.now;
        let talk = &self.talk;
        let alive = self.had.is_some();
        // A server that has never said our word back, and made a response of its own while the goodbye was asked for: that one
        // passes for the goodbye, as it does for any other wish. The other way is worse: with a server that never says our
        // words back, each call would end in seconds of silence.
        let mistaken = self
            .at
            .iter()
            .any(|at| Some(at.number) == self.had && at.unsure);
        let mut last_words = None;
        match reason {
            EndReason::EndedByModel => {
                let (_, sent) = talk.ending.expect("the model has ended the call");
                last_words = Some(sent);
            }
            EndReason::Silence | EndReason::MaxDuration => {
                if reason == EndReason::MaxDuration {
                    let started = talk.started.expect("it began");
                    assert!(now >= started + self.terms.duration, "too short a call");
                }
                match &talk.goodbye {
                    Some(goodbye) if goodbye.done => last_words = Some(goodbye.sent),
                    Some(goodbye) => assert!(
                        now >= goodbye.asked + GOODBYE_MAX
                            || talk.lone_done
                            || !alive
                            || mistaken
                            || self.had != Some(goodbye.connection),
                        "the goodbye was not said"
                    ),
                    None => assert!(!alive || !self.calm, "no goodbye was asked for"),
                }
            }
            _ => {}
        }
        self.talk.must_be_heard = self.calm
            && alive
            && last_words.is_some_and(|sent| !self.talk.behind || sent >= self.talk.sent);
    }

    /// D12: the carrier closes; so much of what it was sent was not played.
    pub fn on_hung_up(&self, waiting: u64) {
        assert!(
            !self.talk.must_be_heard || waiting <= EAR / 125,
            "{} ms of the goodbye are cut off",
            waiting / 8
        );
    }
}
