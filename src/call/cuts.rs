//! What the model was told of what was not heard: responses whose audio is no longer played, truncations that are not
//! answered yet, items that were announced and have no audio. Core; used by `Call` alone.
//!
//! Nothing waits for an answer here. A truncation that is refused is tried once more with the length that the server
//! names, and if it refuses that too, the item is deleted: a model that believes it was heard is worse than one that
//! forgot. The server often names no event in such errors, so they are matched by their numbers, else by age.

use super::fact::Drop;
use crate::base::id::{ItemId, ResponseId};
use crate::proto::realtime::client_event;
use std::collections::VecDeque;

/// Responses of which late audio is dropped. The oldest is forgotten past it: its `response.done` never came.
const MUTED_MAX: usize = 8;
/// Truncations without an answer.
const PENDING_MAX: usize = 16;
/// Items announced and without audio: a response has a few.
const ANNOUNCED_MAX: usize = 8;
/// What the ids of our truncations begin with.
const TRUNCATE_ID: &str = "vr_truncate_";

#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    item_id: ItemId,
    content_index: u64,
    audio_end_ms: u64,
    retried: bool,
}

/// What follows from a refused truncation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Send this: the same with the length that the server has.
    Retry(String),
    /// Send this: the item goes.
    Delete(String),
    /// Nothing: the item is unknown to the server.
    Ignore,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    muted: VecDeque<(ResponseId, Drop)>,
    pending: VecDeque<Pending>,
    announced: VecDeque<(ItemId, Option<ResponseId>)>,
    count: u64,
}

impl Cuts {
    /// No more audio of this response is played; what comes is dropped as `why`.
    pub fn mute(&mut self, id: ResponseId, why: Drop) {
        if self.muted(id.as_str()).is_none() {
            if self.muted.len() == MUTED_MAX {
                self.muted.pop_front();
            }
            self.muted.push_back((id, why));
        }
    }

    /// Why audio of this response is dropped; `None` when it is played.
    pub fn muted(&self, id: &str) -> Option<Drop> {
        let found = self.muted.iter().find(|(muted, _)| muted.is(id));
        found.map(|&(_, why)| why)
    }

    /// A response is done: nothing more of it comes.
    pub fn on_response_done(&mut self, id: &str) {
        self.muted.retain(|(muted, _)| !muted.is(id));
        self.announced
            .retain(|(_, response)| response.is_some_and(|response| !response.is(id)));
    }

    /// A response announced a message.
    pub fn announce(&mut self, item_id: ItemId, response_id: Option<ResponseId>) {
        self.on_content(item_id.as_str());
        if self.announced.len() == ANNOUNCED_MAX {
            self.announced.pop_front();
        }
        self.announced.push_back((item_id, response_id));
    }

    /// A message has audio, or is complete without.
    pub fn on_content(&mut self, item_id: &str) {
        self.announced.retain(|(id, _)| !id.is(item_id));
    }

    /// A message that was announced and has no audio, taken off the list.
    pub fn take_announced(&mut self) -> Option<ItemId> {
        self.announced.pop_front().map(|(id, _)| id)
    }

    /// The event that truncates an item.
    pub fn truncate(&mut self, item_id: ItemId, content_index: u64, audio_end_ms: u64) -> String {
        self.ask(item_id, content_index, audio_end_ms, false)
    }

    /// The event that deletes an item.
    pub fn delete(&mut self, item_id: ItemId) -> String {
        self.count += 1;
        client_event::item_delete(item_id.as_str(), &format!("vr_delete_{}", self.count))
    }

    /// A truncation was taken.
    pub fn on_truncated(&mut self, item_id: &str, content_index: u64) {
        self.pending.retain(|pending| {
            !pending.item_id.is(item_id) || pending.content_index != content_index
        });
    }

    /// An error came. `None`: it does not answer a truncation.
    pub fn on_error(
        &mut self,
        code: Option<&str>,
        message: Option<&str>,
        event_id: Option<&str>,
    ) -> Option<Refused> {
        let lengths = message.and_then(lengths);
        let at = match event_id {
            Some(id) => {
                let number = id.strip_prefix(TRUNCATE_ID)?.parse().ok();
                let of_it = |pending: &Pending| Some(pending.number) == number;
                self.pending.iter().position(of_it)?
            }
            None => {
                let asked = lengths.map(|(_, asked)| asked);
                if asked.is_none() && code != Some("unsupported_content_type") {
                    return None;
                }
                let of_it = |pending: &Pending| Some(pending.audio_end_ms) == asked;
                match asked {
                    // Numbers that fit none are about something else.
                    Some(_) => self.pending.iter().position(of_it)?,
                    None => 0,
                }
            }
        };
        let pending = self.pending.remove(at)?;
        match lengths {
            Some((length, _))
                if !pending.retried && 0 < length && length < pending.audio_end_ms =>
            {
                let event = self.ask(pending.item_id, pending.content_index, length, true);
                Some(Refused::Retry(event))
            }
            None if code == Some("unsupported_content_type") && pending.audio_end_ms > 0 => {
                // It says that there is no audio to forget, yet some of it was heard: let it stand.
                Some(Refused::Ignore)
            }
            None if code.is_some_and(|code| code.contains("not_found")) => Some(Refused::Ignore),
            _ => Some(Refused::Delete(self.delete(pending.item_id))),
        }
    }

    /// The session is gone: what it was told is told to nobody.
    pub fn on_session_lost(&mut self) {
        *self = Self {
            count: self.count,
            ..Self::default()
        };
    }

    fn ask(
        &mut self,
        item_id: ItemId,
        content_index: u64,
        audio_end_ms: u64,
        retried: bool,
    ) -> String {
        self.count += 1;
        if self.pending.len() == PENDING_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            number: self.count,
            item_id,
            content_index,
            audio_end_ms,
            retried,
        });
        let event_id = format!("{TRUNCATE_ID}{}", self.count);
        client_event::truncate(item_id.as_str(), content_index, audio_end_ms, &event_id)
    }
}

/// The length that the server has and the one that was asked for, out of "Audio content of 3700ms is already shorter than
/// 3760ms". The one error text that is read: its numbers stand nowhere else.
fn lengths(message: &str) -> Option<(u64, u64)> {
    let (before, after) = message.split_once("already shorter than")?;
    let number = |text: &str| {
        let from = text.find(|c: char| c.is_ascii_digit())?;
        let digits = &text[from..];
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    Some((number(before)?, number(after)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: &str) -> ItemId {
        ItemId::new(id).unwrap()
    }

    const SHORTER: &str = "Audio content of 3700ms is already shorter than 3760ms";

    #[test]
    fn the_numbers_are_read_out_of_the_error() {
        assert_eq!(lengths(SHORTER), Some((3700, 3760)));
        for other in [
            "",
            "already shorter than",
            "5 already shorter than x",
            "Audio content of 99999999999999999999ms is already shorter than 1ms",
        ] {
            assert_eq!(lengths(other), None, "{other}");
        }
    }

    #[test]
    fn a_refused_truncation_is_tried_once_with_the_servers_length_and_then_the_item_goes() {
        let mut cuts = Cuts::default();
        cuts.truncate(item("a"), 0, 3760);
        let code = Some("invalid_value");
        let Some(Refused::Retry(event)) = cuts.on_error(code, Some(SHORTER), None) else {
            panic!();
        };
        assert!(event.contains(r#""audio_end_ms":3700"#), "{event}");
        let again = "Audio content of 3600ms is already shorter than 3700ms";
        let Some(Refused::Delete(event)) = cuts.on_error(code, Some(again), None) else {
            panic!();
        };
        assert!(event.contains(r#""item_id":"a""#), "{event}");
        assert_eq!(cuts.on_error(code, Some(again), None), None);
    }

    #[test]
    fn an_error_without_an_event_id_is_matched_by_what_was_asked() {
        let mut cuts = Cuts::default();
        cuts.truncate(item("a"), 0, 100);
        cuts.truncate(item("b"), 0, 3760);
        match cuts.on_error(None, Some(SHORTER), None) {
            Some(Refused::Retry(event)) => assert!(event.contains(r#""b""#)),
            other => panic!("{other:?}"),
        }
        cuts.on_truncated("b", 0);
        assert_eq!(cuts.pending.len(), 1);
    }

    #[test]
    fn numbers_that_nobody_asked_for_are_charged_to_none() {
        let mut cuts = Cuts::default();
        cuts.truncate(item("a"), 0, 100);
        assert_eq!(cuts.on_error(None, Some(SHORTER), None), None);
        assert_eq!(cuts.pending.len(), 1);
    }

    #[test]
    fn errors_of_others_are_none_of_ours() {
        let mut cuts = Cuts::default();
        assert_eq!(cuts.on_error(None, Some(SHORTER), None), None);
        cuts.truncate(item("a"), 0, 100);
        assert_eq!(cuts.on_error(Some("invalid_value"), None, None), None);
        assert_eq!(
            cuts.on_error(None, Some(SHORTER), Some("vr_create_1")),
            None
        );
        assert_eq!(
            cuts.on_error(None, Some(SHORTER), Some("vr_truncate_x")),
            None
        );
        assert_eq!(cuts.pending.len(), 1);
    }

    #[test]
    fn an_item_without_audio_is_deleted_and_an_unknown_one_ignored() {
        let mut cuts = Cuts::default();
        cuts.truncate(item("a"), 0, 0);
        assert!(matches!(
            cuts.on_error(Some("unsupported_content_type"), Some("Only model…"), None),
            Some(Refused::Delete(_))
        ));
        cuts.truncate(item("b"), 0, 5);
        assert_eq!(
            cuts.on_error(Some("item_not_found"), None, Some("vr_truncate_3")),
            Some(Refused::Ignore)
        );
    }

    #[test]
    fn all_lists_are_bounded() {
        let mut cuts = Cuts::default();
        for n in 0..1000 {
            cuts.truncate(item(&format!("i{n}")), 0, n);
            cuts.mute(ResponseId::new(&format!("r{n}")).unwrap(), Drop::LateDelta);
            cuts.announce(item(&format!("i{n}")), None);
        }
        assert_eq!(cuts.pending.len(), PENDING_MAX);
        assert_eq!(cuts.muted.len(), MUTED_MAX);
        assert_eq!(cuts.announced.len(), ANNOUNCED_MAX);
        assert_eq!(cuts.muted("r0"), None);
        assert_eq!(cuts.muted("r999"), Some(Drop::LateDelta));
    }
}
