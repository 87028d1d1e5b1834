//! The conversation: its items in order, and what clients may do to them. Pure.

use super::error::ApiError;
use serde_json::{Value, json};

/// One item. Its JSON is what `item` members show.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name.
    pub id: String,
    /// As events show it.
    pub json: Value,
    /// Model audio that was sent of it, ms; `None` when it is not a model's audio message.
    pub audio_ms: Option<u64>,
}

impl Item {
    /// What a caller said: audio whose transcript comes later.
    pub fn caller(id: &str) -> Self {
        Self {
            id: id.to_string(),
            json: json!({
                "id": id, "object": "realtime.item", "type": "message", "status": "completed",
                "role": "user", "content": [{"type": "input_audio", "transcript": null}],
            }),
            audio_ms: None,
        }
    }

    /// A model's message that has just begun.
    pub fn assistant(id: &str, speaks: bool) -> Self {
        Self {
            id: id.to_string(),
            json: json!({
                "id": id, "object": "realtime.item", "type": "message", "status": "in_progress",
                "role": "assistant", "content": [],
            }),
            audio_ms: speaks.then_some(0),
        }
    }
}

/// The items, oldest first.
#[derive(Debug, Default)]
pub struct Conversation {
    items: Vec<Item>,
}

impl Conversation {
    /// The newest item's id.
    pub fn last_id(&self) -> Option<String> {
        self.items.last().map(|item| item.id.clone())
    }

    /// Appends; the id of the one before.
    pub fn push(&mut self, item: Item) -> Option<String> {
        let previous = self.last_id();
        self.items.push(item);
        previous
    }

    /// The item, if it is there.
    pub fn find(&mut self, id: &str) -> Option<&mut Item> {
        self.items.iter_mut().find(|item| item.id == id)
    }

    /// The id of the item before this one.
    pub fn previous_of(&self, id: &str) -> Option<String> {
        let at = self.items.iter().position(|item| item.id == id)?;
        at.checked_sub(1).map(|at| self.items[at].id.clone())
    }

    /// Whether the model has spoken in this conversation.
    pub fn has_spoken(&self) -> bool {
        self.items.iter().any(|item| item.audio_ms > Some(0))
    }

    /// `conversation.item.create` with an item that `schema::check` accepted; `id` is used when it brings none.
    /// The item and the id of the one before it.
    pub fn create(
        &mut self,
        mut json: Value,
        after: Option<&str>,
        id: String,
    ) -> Result<(Value, Option<String>), ApiError> {
        let id = match json["id"].as_str() {
            Some(id) if self.items.iter().any(|item| item.id == id) => {
                return Err(ApiError::new(
                    "item_create_duplicate_item_id",
                    format!("Error adding item: an item with id '{id}' already exists."),
                )
                .at("item.id"));
            }
            Some(id) => id.to_string(),
            None => id,
        };
        let at = match after {
            None => self.items.len(),
            Some("root") => 0,
            Some(after) => match self.items.iter().position(|item| item.id == after) {
                Some(at) => at + 1,
                None => {
                    return Err(ApiError::new(
                        "item_create_invalid_previous_item_id",
                        format!(
                            "Error adding item: the previous item with id '{after}' does not exist."
                        ),
                    )
                    .at("previous_item_id"));
                }
            },
        };
        json["id"] = json!(id);
        json["object"] = json!("realtime.item");
        if json["status"].is_null() {
            json["status"] = json!("completed");
        }
        let previous = at.checked_sub(1).map(|at| self.items[at].id.clone());
        let item = Item {
            id,
            json: json.clone(),
            audio_ms: None,
        };
        self.items.insert(at, item);
        Ok((json, previous))
    }

    /// `conversation.item.retrieve`.
    pub fn retrieve(&mut self, id: &str) -> Result<Value, ApiError> {
        self.find(id).map(|item| item.json.clone()).ok_or_else(|| {
            ApiError::new(
                "item_retrieve_invalid_item_id",
                format!("Error retrieving item: the item with id '{id}' does not exist."),
            )
            .at("item_id")
        })
    }

    /// `conversation.item.delete`.
    pub fn delete(&mut self, id: &str) -> Result<(), ApiError> {
        let before = self.items.len();
        self.items.retain(|item| item.id != id);
        if self.items.len() < before {
            return Ok(());
        }
        Err(ApiError::new(
            "item_delete_invalid_item_id",
            format!("Error deleting item: the item with id '{id}' does not exist."),
        )
        .at("item_id"))
    }

    /// `conversation.item.truncate`: keeps audio up to `audio_end_ms` and forgets the transcript.
    pub fn truncate(&mut self, id: &str, audio_end_ms: u64) -> Result<(), ApiError> {
        let Some(item) = self.find(id) else {
            return Err(ApiError::new(
                "item_truncate_invalid_item_id",
                format!("Error truncating item: the item with id '{id}' does not exist."),
            )
            .at("item_id"));
        };
        match &mut item.audio_ms {
            // The real one answers these two without param and event_id.
            None | Some(0) => Err(ApiError::new(
                "unsupported_content_type",
                "Only model output audio messages can be truncated",
            )
            .without_id()),
            Some(audio_ms) if audio_end_ms > *audio_ms => Err(ApiError::new(
                "invalid_value",
                format!("Audio content of {audio_ms}ms is already shorter than {audio_end_ms}ms"),
            )
            .without_id()),
            Some(audio_ms) => {
                *audio_ms = audio_end_ms;
                if let Some(part) = item.json["content"]
                    .get_mut(0)
                    .and_then(Value::as_object_mut)
                {
                    part.remove("transcript");
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(ms: u64) -> Conversation {
        let mut conversation = Conversation::default();
        let mut item = Item::assistant("item_a", true);
        item.audio_ms = Some(ms);
        conversation.push(item);
        conversation
    }

    #[test]
    fn truncation_beyond_the_audio_has_the_exact_text() {
        let error = spoken(3700).truncate("item_a", 3760).expect_err("too long");
        assert_eq!(error.code, "invalid_value");
        assert_eq!(
            error.message,
            "Audio content of 3700ms is already shorter than 3760ms"
        );
        let json = error.to_json(Some("vr_1"));
        assert!(json["param"].is_null() && json["event_id"].is_null());
    }

    #[test]
    fn truncation_holds_for_the_next_one() {
        let mut conversation = spoken(3700);
        assert_eq!(conversation.truncate("item_a", 3700), Ok(()));
        assert_eq!(conversation.truncate("item_a", 1000), Ok(()));
        assert!(conversation.truncate("item_a", 1001).is_err());
    }

    #[test]
    fn only_model_audio_can_be_truncated() {
        let mut conversation = spoken(0);
        conversation.push(Item::caller("item_u"));
        for id in ["item_a", "item_u"] {
            let error = conversation.truncate(id, 0).expect_err("no audio");
            assert_eq!(error.code, "unsupported_content_type");
        }
        assert!(conversation.truncate("item_x", 0).is_err());
    }

    #[test]
    fn items_are_placed_after_root_or_a_known_one() {
        let mut conversation = Conversation::default();
        let mut create = |id: &str, after: Option<&str>| {
            conversation
                .create(json!({"id": id, "type": "message"}), after, String::new())
                .map(|(_, previous)| previous)
                .map_err(|e| e.code)
        };
        assert_eq!(create("a", None), Ok(None));
        assert_eq!(create("b", None), Ok(Some("a".into())));
        assert_eq!(create("c", Some("root")), Ok(None));
        assert_eq!(create("d", Some("a")), Ok(Some("a".into())));
        assert_eq!(
            create("e", Some("x")),
            Err("item_create_invalid_previous_item_id")
        );
        assert_eq!(create("a", None), Err("item_create_duplicate_item_id"));
    }
}
