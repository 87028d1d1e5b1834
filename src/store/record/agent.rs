//! An agent: everything that decides how a call of its is led. Core.
//!
//! What the model is told and how the call is led stays an object of the keys that `[agent]` of the configuration has.
//! `config` proves them, for an agent of config.toml and for one of the API alike; here they are kept as they were
//! given, so that a store written by another version loses no key that this one does not know.

use super::template::{self, List, Lists, TemplateError, Variables};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// An agent's name, bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Numbers that one agent answers.
pub const NUMBERS_MAX: usize = 256;
/// Lists of one agent, entries of one list, and bytes of one entry.
pub const LISTS_MAX: usize = 32;
/// See `LISTS_MAX`.
pub const ENTRIES_MAX: usize = 1_000;
/// See `LISTS_MAX`.
pub const ENTRY_BYTES_MAX: usize = 4 * 1024;

/// The settings that are templates, as paths below the agent.
pub const TEMPLATES: [&str; 6] = [
    "instructions",
    "greeting",
    "silence.nudge_text",
    "silence.second_nudge_text",
    "silence.goodbye_text",
    "unavailable_message",
];
/// What every call has for its templates; stream parameters come on top of them.
pub const VARIABLES: [&str; 3] = ["caller", "called", "agent"];

/// Who answers a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The speech model.
    #[default]
    Realtime,
    /// People in a conference; no model.
    Conference,
}

/// An agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Its key: `[A-Za-z0-9_.-]`, 1 to 64 bytes.
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Who answers.
    #[serde(default)]
    pub mode: Mode,
    /// Whether its calls are recorded.
    #[serde(default)]
    pub recording: bool,
    /// The called numbers that it answers, E.164.
    #[serde(default)]
    pub numbers: Vec<String>,
    /// What its templates draw from.
    #[serde(default)]
    pub lists: Lists,
    /// The keys of `[agent]`: session settings, greeting, tools, limits, `on_model_unavailable` and all others.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

/// The members of an agent's JSON.
const MEMBERS: [&str; 7] = [
    "name",
    "description",
    "mode",
    "recording",
    "numbers",
    "lists",
    "settings",
];

impl Agent {
    /// Reads what somebody wrote: a member that we do not know is an error here, where a mistake can still be corrected. What
    /// is stored is read leniently, since a newer program may have written it.
    pub fn from_json(value: Value) -> Result<Self, String> {
        let members = value.as_object().into_iter().flatten();
        for (name, _) in members {
            if !MEMBERS.contains(&name.as_str()) {
                return Err(format!(
                    "unknown member {name:?}; an agent has {}, and the model's settings stand in `settings`",
                    MEMBERS.join(", ")
                ));
            }
        }
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    /// Its version: the SHA-256 of its content, the first 128 bits in hex. The order of keys does not matter.
    pub fn version(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        let mut canonical = String::new();
        write_canonical(&value, &mut canonical);
        let digest = Sha256::digest(canonical.as_bytes());
        let mut hex = String::with_capacity(32);
        for byte in &digest[..16] {
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }

    /// All problems at once: the key and one sentence. What stands in `settings` is `config`'s to prove, but for the
    /// templates, which need the lists.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut demand = |fine: bool, key: &str, sentence: String| {
            if !fine {
                problems.push((key.to_owned(), sentence));
            }
        };
        demand(
            is_name(&self.name),
            "name",
            format!("write 1 to {NAME_BYTES_MAX} letters, digits, dots, dashes or underscores"),
        );
        demand(
            self.numbers.len() <= NUMBERS_MAX,
            "numbers",
            format!(
                "{} are too many; write at most {NUMBERS_MAX}",
                self.numbers.len()
            ),
        );
        for (n, number) in self.numbers.iter().enumerate() {
            demand(
                is_e164(number),
                &format!("numbers.{n}"),
                "is no number in E.164; write for example +15550100".to_owned(),
            );
            demand(
                !self.numbers[..n].contains(number),
                &format!("numbers.{n}"),
                "is there twice; leave one out".to_owned(),
            );
        }
        demand(
            self.lists.len() <= LISTS_MAX,
            "lists",
            format!(
                "{} are too many; write at most {LISTS_MAX}",
                self.lists.len()
            ),
        );
        for (name, list) in &self.lists {
            let key = format!("lists.{name}");
            demand(
                template::is_name(name),
                &key,
                "is no list's name; write letters, digits and underscores".to_owned(),
            );
            demand(
                list.len() <= ENTRIES_MAX,
                &key,
                format!(
                    "{} entries are too many; write at most {ENTRIES_MAX}",
                    list.len()
                ),
            );
            let longest = match list {
                List::Texts(texts) => texts.iter().map(String::len).max(),
                List::Map(map) => map.iter().map(|(a, b)| a.len() + b.len()).max(),
            };
            demand(
                longest.unwrap_or_default() <= ENTRY_BYTES_MAX,
                &key,
                format!("has an entry of more than {ENTRY_BYTES_MAX} bytes; shorten it"),
            );
        }
        for path in TEMPLATES {
            if let Some(text) = self.text(path) {
                for error in template::faults(path, text, &self.lists, &VARIABLES) {
                    // Any stream parameter may be a variable; whether a call has it is known when it comes.
                    if !matches!(error.fault, template::Fault::NoVariable(_)) {
                        demand(false, path, error.to_string());
                    }
                }
            }
        }
        problems
    }

    /// The settings with all templates rendered for one call.
    pub fn rendered(
        &self,
        variables: &Variables,
        seed: u64,
    ) -> Result<Map<String, Value>, TemplateError> {
        let mut settings = self.settings.clone();
        for path in TEMPLATES {
            if let Some(Value::String(text)) = find(&mut settings, path) {
                *text = template::render(path, text, &self.lists, variables, seed)?;
            }
        }
        Ok(settings)
    }

    /// For showing: the secrets of its tools replaced by whether there is one.
    pub fn redacted(&self) -> Agent {
        let mut shown = self.clone();
        for value in shown.settings.values_mut() {
            redact(value);
        }
        shown
    }

    fn text(&self, path: &str) -> Option<&str> {
        let mut parts = path.split('.');
        let mut value = self.settings.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        value.as_str()
    }
}

fn find<'m>(map: &'m mut Map<String, Value>, path: &str) -> Option<&'m mut Value> {
    let mut parts = path.split('.');
    let mut value = map.get_mut(parts.next()?)?;
    for part in parts {
        value = value.get_mut(part)?;
    }
    Some(value)
}

fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), &value) {
                    ("secret", Value::String(text)) => {
                        let shown = if text.is_empty() { "" } else { "***" };
                        *value = Value::String(shown.to_owned());
                    }
                    _ => redact(value),
                }
            }
        }
        _ => {}
    }
}

/// JSON with the members of every object in the order of their names.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (n, (name, value)) in members.into_iter().enumerate() {
                let comma = if n > 0 { "," } else { "" };
                let _ = write!(out, "{comma}{}:", Value::String(name.clone()));
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, value) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_canonical(value, out);
            }
            out.push(']');
        }
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// ITU-T E.164: a plus, then at most fifteen digits, the first of them no zero.
fn is_e164(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (2..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// An agent with its versions. An old one stays as long as calls may name it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentRow {
    /// The journal position of the last entry that is in here.
    pub applied: u64,
    /// The version in force; `None` when it was deleted.
    pub current: Option<String>,
    /// When it was first put, and last changed: ms since 1970.
    pub created_ms: u64,
    /// See `created_ms`.
    pub updated_ms: u64,
    /// All versions.
    pub versions: std::collections::BTreeMap<String, Agent>,
}

impl AgentRow {
    /// The agent in force.
    pub fn agent(&self) -> Option<&Agent> {
        self.versions.get(self.current.as_ref()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent(value: Value) -> Agent {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_version_is_the_content_and_nothing_else() {
        let one = agent(json!({"name": "a", "settings": {"voice": "marin", "speed": 1.0}}));
        let same = agent(json!({"settings": {"speed": 1.0, "voice": "marin"}, "name": "a"}));
        let other = agent(json!({"name": "a", "settings": {"voice": "cedar", "speed": 1.0}}));
        assert_eq!(one.version(), same.version());
        assert_ne!(one.version(), other.version());
        assert_eq!(one.version().len(), 32);
        // The order of a list is content.
        let list = |v| agent(json!({"name": "a", "lists": {"l": v}})).version();
        assert_ne!(list(json!(["x", "y"])), list(json!(["y", "x"])));
        // Written down, so that no later change gives every stored agent a new version unnoticed.
        assert_eq!(agent(json!({"name": "a"})).version(), PINNED);
    }
    const PINNED: &str = "4a8fe8c3cfc3144d561ddb4fbae21af2";

    #[test]
    fn unset_and_default_are_one_version() {
        let short = agent(json!({"name": "a"}));
        let long = agent(json!({"name": "a", "mode": "realtime", "recording": false, "lists": {}}));
        assert_eq!(short.version(), long.version());
    }

    #[test]
    fn all_problems_are_named_with_their_keys() {
        let bad = agent(json!({
            "name": "a b",
            "numbers": ["+15550100", "0049", "+15550100"],
            "lists": {"no good": ["x"], "long": ["x".repeat(5_000)]},
            "settings": {
                "instructions": "{{pick stories}} {{anything}}",
                "silence": {"nudge_text": "{{pick"},
            },
        }));
        let keys: Vec<String> = bad.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "name",
                "numbers.1",
                "numbers.2",
                "lists.long",
                "lists.no good",
                "instructions",
                "silence.nudge_text"
            ]
        );
        assert!(agent(json!({"name": "a-1.b_C"})).problems().is_empty());
    }

    #[test]
    fn unknown_members_are_refused_from_people_and_taken_from_the_journal() {
        let value = json!({"name": "a", "voice": "x"});
        let wrong = Agent::from_json(value.clone());
        assert!(wrong.unwrap_err().contains("\"voice\""));
        assert_eq!(
            agent(value),
            Agent::from_json(json!({"name": "a"})).unwrap()
        );
        for wrong in [
            json!(null),
            json!([]),
            json!({}),
            json!({"name": "a", "mode": "x"}),
        ] {
            assert!(Agent::from_json(wrong).is_err());
        }
        // The list of members is that of the struct.
        let all = serde_json::to_value(agent(json!({"name": "a"}))).unwrap();
        assert!(all.as_object().unwrap().keys().eq(MEMBERS));
    }

    #[test]
    fn rendering_touches_templates_alone() {
        let one = agent(json!({
            "name": "a",
            "lists": {"l": ["only"]},
            "settings": {
                "instructions": "{{pick l}} for {{caller}}",
                "voice": "{{pick l}}",
                "silence": {"nudge_text": "{{pick l}}?", "nudge_after_ms": 5},
            },
        }));
        let variables = [("caller".to_owned(), "+1555".to_owned())].into();
        let settings = one.rendered(&variables, 1).unwrap();
        assert_eq!(
            Value::Object(settings),
            json!({
                "instructions": "only for +1555",
                "voice": "{{pick l}}",
                "silence": {"nudge_text": "only?", "nudge_after_ms": 5},
            })
        );
        let error = one.rendered(&Variables::new(), 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "instructions: there is no value for \"caller\" in this call"
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let one = agent(json!({
            "name": "a",
            "settings": {"tools": [{"name": "t", "secret": "geheim"}, {"name": "u", "secret": ""}]},
        }));
        let shown = serde_json::to_string(&one.redacted()).unwrap();
        assert!(!shown.contains("geheim"));
        assert!(shown.contains("***"));
    }
}
