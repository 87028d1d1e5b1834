//! Conversation items, kept byte by byte as the model sent them. Core.
//!
//! Their content may have any shape, and a shape that we do not know today is what somebody will ask for tomorrow. So an
//! item is JSON that nobody here takes apart: numbers keep their digits, objects the order of their members, strings their
//! escapes.

use crate::base::limit::REALTIME_MESSAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;

/// The longest that is kept: what a message of the model can hold, less room for our own words around it in a journal entry.
pub const RAW_BYTES_MAX: usize = REALTIME_MESSAGE_BYTES_MAX - 64 * 1024;

/// A JSON value as its own text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// Keeps `text`, without the white space around it; `None` when it is no JSON value, or longer than `RAW_BYTES_MAX`.
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > RAW_BYTES_MAX {
            return None;
        }
        RawValue::from_string(text.trim().to_owned()).ok().map(Self)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Raw {}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One item of a call's conversation, as S1's `realtimeConversation` has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The model's id, empty when it gave none.
    pub item_id: String,
    /// The item itself.
    pub item: Raw,
}

/// A call's items in the order in which they joined the conversation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Items(Vec<Item>);

impl Items {
    /// Adds an item, or puts it in place of what was known of it: it is told of when it joins and again when it is complete.
    pub fn put(&mut self, item: Item) {
        let known = self
            .0
            .iter_mut()
            .rev()
            .find(|known| !item.item_id.is_empty() && known.item_id == item.item_id);
        match known {
            Some(known) => *known = item,
            None => self.0.push(item),
        }
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `realtimeConversation`: a JSON array of the items alone.
    pub fn conversation(&self) -> String {
        let mut text = String::from("[");
        for (n, item) in self.0.iter().enumerate() {
            if n > 0 {
                text.push(',');
            }
            text.push_str(item.item.as_str());
        }
        text.push(']');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = r#"{"id":"item_1", "content":[{"type":"audio","transcript":"もしもし、\u306f\u3044 🎌"}],"z":1,"a":1.10,"n":123456789012345678901234567890,"a":null}"#;

    #[test]
    fn an_item_comes_back_byte_by_byte() {
        let item = Item {
            item_id: "item_1".into(),
            item: Raw::new(ODD).unwrap(),
        };
        let bytes = serde_json::to_vec(&item).unwrap();
        let back: Item = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back.item.as_str(), ODD);
        let mut items = Items::default();
        items.put(back);
        assert_eq!(items.conversation(), format!("[{ODD}]"));
    }

    #[test]
    fn white_space_inside_is_kept_and_around_it_is_not() {
        assert_eq!(Raw::new(" [ 1 ,\n2 ] ").unwrap().as_str(), "[ 1 ,\n2 ]");
    }

    #[test]
    fn what_is_no_json_is_not_kept() {
        for text in ["", "{", "{}{}", "nul", "{'a':1}", "\u{0}"] {
            assert_eq!(Raw::new(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_deep_item_is_no_danger() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let raw = Raw::new(&deep).unwrap();
        let bytes = serde_json::to_vec(&raw).unwrap();
        let back: Raw = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(back.as_str().len(), 200_000);
    }

    #[test]
    fn an_item_is_replaced_in_its_place_and_one_without_an_id_never() {
        let item = |id: &str, n: u32| Item {
            item_id: id.into(),
            item: Raw::new(&n.to_string()).unwrap(),
        };
        let mut items = Items::default();
        for (id, n) in [("a", 1), ("b", 2), ("", 3), ("a", 4), ("", 5)] {
            items.put(item(id, n));
        }
        assert_eq!(items.conversation(), "[4,2,3,5]");
    }
}
