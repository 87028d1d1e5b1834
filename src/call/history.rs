//! What was said in a call, as text: the shadow of the model's conversation, from which another session is told
//! again what the lost one knew. Core; part of `Call`.
//!
//! Nothing of a session survives its connection: no conversation, no audio, no id. What can be told again is
//! text: the caller's transcripts, the agent's words *as heard*, and the tools' calls with their answers
//! (reference: "Reconnect"; assistant audio is refused).
//!
//! Entries stand where the model has them: a turn of the caller's from its commit, though its transcript comes later.

use crate::base::id::ItemId;
use crate::proto::realtime::client_event::{NewItem, item_create};
use std::collections::VecDeque;

/// Entries kept; the oldest go first.
pub const ENTRIES_MAX: usize = 400;
/// Text kept over all entries; the oldest go first. A long call's talk is about 1 KB a minute.
pub const TEXT_BYTES_MAX: usize = 128 * 1024;
/// Of one entry; the rest is cut off.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024;
/// What a call of a tool without an answer is answered with: a call that stays open confuses the model.
pub const LOST_OUTPUT: &str =
    r#"{"error":"The connection was interrupted, and the result of this call is unknown."}"#;

/// Room made with the first entry: an ordinary call's turns, so that they allocate nothing but their words.
const ENTRIES_AT_ONCE: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The caller's words, or the keys that were pressed.
    User,
    /// The agent's.
    Assistant,
    /// What we told the model.
    System,
    /// A tool was called.
    Call,
    /// A tool answered.
    Output,
}

/// One entry.
#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    item_id: Option<ItemId>,
    /// Of a session that is gone: its id is another session's to use.
    old: bool,
    /// Of a tool's call or answer.
    call_id: String,
    /// Of a tool's call.
    name: String,
    text: String,
    /// The text is final: later pieces and transcripts change nothing.
    closed: bool,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.text.len() + self.name.len() + self.call_id.len()
    }
}

/// The conversation so far, oldest first.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: VecDeque<Entry>,
    /// Sum of `Entry::bytes`.
    bytes: usize,
    /// Entries that had to go.
    forgotten: u64,
}

impl History {
    /// A turn of the caller's has its place; its words come later, or never.
    pub fn user_turn(&mut self, item_id: Option<ItemId>) {
        if item_id.is_some() && self.position(item_id).is_none() {
            self.push(Kind::User, item_id, String::new());
        }
    }

    /// The words of a turn of the caller's. Some servers send several versions; the last counts.
    pub fn user_said(&mut self, item_id: Option<ItemId>, text: &str) {
        match self.position(item_id) {
            Some(at) => self.set(at, text),
            None => self.push(Kind::User, item_id, text.to_owned()),
        }
    }

    /// Something that we wrote in the caller's name: keys.
    pub fn user_text(&mut self, text: &str) {
        self.push(Kind::User, None, text.to_owned());
    }

    /// Something that we told the model.
    pub fn system_text(&mut self, text: &str) {
        self.push(Kind::System, None, text.to_owned());
    }

    /// The agent begins an item, or goes on with it.
    pub fn assistant_piece(&mut self, item_id: Option<ItemId>, piece: &str) {
        let at = match self.position(item_id) {
            Some(at) => at,
            None => {
                self.push(Kind::Assistant, item_id, String::new());
                self.entries.len() - 1
            }
        };
        let entry = &self.entries[at];
        if !entry.closed && entry.text.len() + piece.len() <= ENTRY_BYTES_MAX {
            self.entries[at].text.push_str(piece);
            self.bytes += piece.len();
            self.shrink();
        }
    }

    /// All of the agent's words in one item, unless it was cut before.
    pub fn assistant_said(&mut self, item_id: Option<ItemId>, text: &str) {
        match self.position(item_id) {
            Some(at) if self.entries[at].closed => {}
            Some(at) => self.set(at, text),
            None => self.push(Kind::Assistant, item_id, text.to_owned()),
        }
    }

    /// An item was interrupted: these of its words were heard. Nothing that comes later changes them.
    pub fn cut(&mut self, item_id: ItemId, text: &str) {
        if self.position(Some(item_id)).is_none() {
            // Cut before any of its words came: those that still come were not heard.
            self.push(Kind::Assistant, Some(item_id), String::new());
        }
        if let Some(at) = self.position(Some(item_id)) {
            // First: `set` may let the oldest go, and then the place is another's.
            self.entries[at].closed = true;
            self.set(at, text);
        }
    }

    /// A tool is called; the same call twice is one.
    pub fn call(&mut self, call_id: &str, name: &str, arguments: &str) {
        if self.has(Kind::Call, call_id) {
            return;
        }
        self.push(Kind::Call, None, arguments.to_owned());
        self.name_last(call_id, name);
    }

    /// A tool has answered; the first answer counts.
    pub fn output(&mut self, call_id: &str, output: &str) {
        if self.has(Kind::Output, call_id) {
            return;
        }
        self.push(Kind::Output, None, output.to_owned());
        self.name_last(call_id, "");
    }

    /// Whether nothing with words is there.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.text.is_empty())
    }

    /// Whether the agent has said anything.
    pub fn agent_spoke(&self) -> bool {
        let mut spoken = self.entries.iter();
        spoken.any(|entry| entry.kind == Kind::Assistant && !entry.text.is_empty())
    }

    /// Whether the caller's newest turn still waits for its words.
    pub fn awaits_words(&self) -> bool {
        let mut newest = self.entries.iter().rev();
        newest
            .find(|entry| entry.kind == Kind::User)
            .is_some_and(|entry| entry.text.is_empty())
    }

    /// Entries that had to go for want of room.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The events that tell another session of it, oldest first, and how many there were. `is_open`: the tool's call is still
    /// to be answered, so its answer comes later.
    pub fn tell(&self, is_open: impl Fn(&str) -> bool, mut send: impl FnMut(&str)) -> usize {
        let mut told = 0;
        let mut say = |item: NewItem<'_>| {
            send(&item_create(item, None, None, ""));
            told += 1;
        };
        for entry in &self.entries {
            let text = entry.text.as_str();
            match entry.kind {
                Kind::User if !text.is_empty() => say(NewItem::UserText(text)),
                Kind::Assistant if !text.is_empty() => say(NewItem::AssistantText(text)),
                Kind::System if !text.is_empty() => say(NewItem::SystemText(text)),
                Kind::User | Kind::Assistant | Kind::System => {}
                Kind::Call => {
                    say(NewItem::FunctionCall {
                        call_id: &entry.call_id,
                        name: &entry.name,
                        arguments: text,
                    });
                    if !self.has(Kind::Output, &entry.call_id) && !is_open(&entry.call_id) {
                        say(NewItem::FunctionCallOutput {
                            call_id: &entry.call_id,
                            output: LOST_OUTPUT,
                        });
                    }
                }
                // Its call went first, or was forgotten: an answer alone would be refused.
                Kind::Output if self.has(Kind::Call, &entry.call_id) => {
                    say(NewItem::FunctionCallOutput {
                        call_id: &entry.call_id,
                        output: text,
                    });
                }
                Kind::Output => {}
            }
        }
        told
    }

    /// Ids mean nothing to another session, and its own may be the same: what is there is closed, and its ids are only good
    /// for `cut_old`.
    pub fn forget_ids(&mut self) {
        for entry in &mut self.entries {
            entry.old = true;
            entry.closed = true;
        }
    }

    /// An item of a session that is gone was still playing, and was interrupted: these of its words were heard.
    pub fn cut_old(&mut self, item_id: ItemId, text: &str) {
        let mut entries = self.entries.iter();
        if let Some(at) = entries.rposition(|entry| entry.old && entry.item_id == Some(item_id)) {
            self.set(at, text);
        }
    }

    fn position(&self, item_id: Option<ItemId>) -> Option<usize> {
        let id = item_id?;
        self.entries
            .iter()
            .rposition(|entry| !entry.old && entry.item_id == Some(id))
    }

    fn has(&self, kind: Kind, call_id: &str) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| entry.kind == kind && entry.call_id == call_id)
    }

    fn name_last(&mut self, call_id: &str, name: &str) {
        if let Some(entry) = self.entries.back_mut() {
            entry.call_id = call_id.to_owned();
            entry.name = name.to_owned();
            self.bytes += call_id.len() + name.len();
        }
        self.shrink();
    }

    fn set(&mut self, at: usize, text: &str) {
        let entry = &mut self.entries[at];
        self.bytes -= entry.text.len();
        text[..text.floor_char_boundary(ENTRY_BYTES_MAX)].clone_into(&mut entry.text);
        self.bytes += entry.text.len();
        self.shrink();
    }

    fn push(&mut self, kind: Kind, item_id: Option<ItemId>, mut text: String) {
        text.truncate(text.floor_char_boundary(ENTRY_BYTES_MAX));
        self.bytes += text.len();
        if self.entries.capacity() == 0 {
            self.entries.reserve(ENTRIES_AT_ONCE);
        }
        self.entries.push_back(Entry {
            kind,
            item_id,
            old: false,
            call_id: String::new(),
            name: String::new(),
            text,
            closed: false,
        });
        self.shrink();
    }

    /// Never touches the newest entry, which alone always fits.
    fn shrink(&mut self) {
        while self.entries.len() > 1
            && (self.entries.len() > ENTRIES_MAX || self.bytes > TEXT_BYTES_MAX)
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> Option<ItemId> {
        ItemId::new(text)
    }

    fn told(history: &History) -> Vec<String> {
        let mut events = Vec::new();
        history.tell(|_| false, |event| events.push(event.to_owned()));
        events
            .iter()
            .map(|event| {
                let value: serde_json::Value = serde_json::from_str(event).expect("JSON");
                assert_eq!(value["type"], "conversation.item.create");
                let item = &value["item"];
                let text = item["content"][0]["text"].as_str();
                let text = text
                    .or(item["arguments"].as_str())
                    .or(item["output"].as_str());
                format!(
                    "{} {}",
                    item["role"]
                        .as_str()
                        .or(item["type"].as_str())
                        .unwrap_or("?"),
                    text.unwrap_or("?")
                )
            })
            .collect()
    }

    #[test]
    fn words_of_an_item_that_was_cut_before_they_came_were_not_heard() {
        let mut history = History::default();
        history.user_said(id("u1"), "Wait");
        history.cut(ItemId::new("a1").unwrap(), "");
        history.assistant_piece(id("a1"), "We open");
        history.assistant_said(id("a1"), "We open at nine.");
        assert!(!history.agent_spoke());
    }

    #[test]
    fn a_cut_that_lets_the_oldest_go_closes_its_own_entry() {
        let mut history = History::default();
        let long = "x".repeat(ENTRY_BYTES_MAX);
        for n in 0..TEXT_BYTES_MAX / ENTRY_BYTES_MAX {
            history.user_said(id(&format!("u{n}")), &long);
        }
        history.assistant_piece(id("a1"), &"y".repeat(ENTRY_BYTES_MAX + 1));
        history.cut(ItemId::new("a1").unwrap(), &"y".repeat(ENTRY_BYTES_MAX / 2));
        history.assistant_piece(id("a1"), "z");
        assert!(history.entries.back().is_some_and(|entry| {
            entry.closed && entry.text.len() == ENTRY_BYTES_MAX / 2 && !entry.text.contains('z')
        }));
    }

    #[test]
    fn a_turn_stands_where_it_was_committed_though_its_words_come_later() {
        let mut history = History::default();
        history.user_turn(id("u1"));
        history.assistant_piece(id("a1"), "We op");
        history.assistant_piece(id("a1"), "en at nine.");
        history.user_said(id("u1"), "When do you open?");
        history.assistant_said(id("a1"), "We open at nine.");
        assert_eq!(
            told(&history),
            ["user When do you open?", "assistant We open at nine."]
        );
    }

    #[test]
    fn what_was_cut_stays_cut() {
        let mut history = History::default();
        history.assistant_piece(id("a1"), "We open at nine and close at");
        history.cut(ItemId::new("a1").unwrap(), "We open at");
        history.assistant_piece(id("a1"), " five.");
        history.assistant_said(id("a1"), "We open at nine and close at five.");
        assert_eq!(told(&history), ["assistant We open at"]);
        history.cut(ItemId::new("a1").unwrap(), "We open");
        assert_eq!(told(&history), ["assistant We open"]);
        history.cut(ItemId::new("a1").unwrap(), "");
        assert!(
            told(&history).is_empty(),
            "an item of which nothing was heard is not told"
        );
    }

    #[test]
    fn a_call_without_an_answer_gets_one_and_an_answer_without_a_call_is_left_out() {
        let mut history = History::default();
        history.call("c1", "look_up", "{}");
        history.call("c1", "look_up", "{}");
        history.output("c1", "42");
        history.output("c1", "43");
        history.call("c2", "look_up", "{\"a\":1}");
        history.output("c9", "never asked");
        assert_eq!(
            told(&history),
            [
                "function_call {}".to_owned(),
                "function_call_output 42".to_owned(),
                "function_call {\"a\":1}".to_owned(),
                format!("function_call_output {LOST_OUTPUT}"),
            ]
        );
    }

    #[test]
    fn ids_of_a_lost_session_change_nothing_any_more() {
        let mut history = History::default();
        history.assistant_piece(id("a1"), "Hello");
        history.forget_ids();
        history.assistant_piece(id("a1"), "Again");
        assert_eq!(told(&history), ["assistant Hello", "assistant Again"]);
        // But what played on and was interrupted later is told as it was heard.
        history.forget_ids();
        history.assistant_piece(id("a1"), "Third");
        history.cut_old(ItemId::new("a1").unwrap(), "Ag");
        assert_eq!(
            told(&history),
            ["assistant Hello", "assistant Ag", "assistant Third"]
        );
    }

    proptest! {
        #[test]
        fn it_is_bounded_whatever_comes(
            steps in proptest::collection::vec((0u8..6, 0u8..40, 0usize..20_000), 0..600)
        ) {
            let mut history = History::default();
            for (what, name, len) in steps {
                let item = ItemId::new(&format!("i{name}"));
                let text = "é".repeat(len / 2);
                match what {
                    0 => history.user_turn(item),
                    1 => history.user_said(item, &text),
                    2 => history.assistant_piece(item, &text),
                    3 => history.call(&format!("c{name}"), "t", &text),
                    4 => history.output(&format!("c{name}"), &text),
                    _ => history.cut(item.unwrap(), &text[..len / 4 * 2]),
                }
                let bytes: usize = history.entries.iter().map(Entry::bytes).sum();
                prop_assert_eq!(bytes, history.bytes);
                prop_assert!(history.entries.len() <= ENTRIES_MAX);
                prop_assert!(bytes <= TEXT_BYTES_MAX + ENTRY_BYTES_MAX);
            }
        }
    }
}
