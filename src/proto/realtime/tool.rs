//! The tools that a model may call: what it is told about each, and who carries it out.
//!
//! Core. The definitions go into `session.update`; a call of one comes back as `response.output_item.done`.
//! Built-in tools have a schema of their own here, so that the model and the code that carries them out can't
//! disagree.

use crate::base::secret::Secret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// How long an HTTP tool may take, ms, when nobody says otherwise.
pub const TIMEOUT_MS_DEFAULT: u32 = 5_000;
/// What it may be set to. Above a minute the caller has hung up.
pub const TIMEOUT_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// Tries after the first, when nobody says otherwise.
pub const RETRIES_DEFAULT: u32 = 2;
/// What they may be set to.
pub const RETRIES_MAX: u32 = 5;
/// What an HTTP tool may answer, bytes, when nobody says otherwise: some 4,000 tokens.
pub const RESPONSE_BYTES_DEFAULT: u32 = 16 * 1024;
/// What it may be set to; a whole context window is not much more.
pub const RESPONSE_BYTES: std::ops::RangeInclusive<u32> = 64..=256 * 1024;
/// Tools of one agent. Each costs tokens in every response.
pub const TOOLS_MAX: usize = 128;
/// A tool's name (function names elsewhere in the vendor's API are bound alike).
pub const NAME_BYTES_MAX: usize = 64;
/// A tool's description, bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// A tool's schema as JSON, bytes.
pub const PARAMETERS_BYTES_MAX: usize = 16 * 1024;

/// One tool.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ToolForm")]
pub struct Tool {
    /// What the model calls it by: `^[a-zA-Z0-9_-]{1,64}$`, unique within an agent.
    pub name: String,
    /// What it does and when to use it, for the model.
    pub description: String,
    /// JSON schema of its arguments: an object of type "object".
    pub parameters: Map<String, Value>,
    /// Who carries it out.
    pub kind: ToolKind,
}

/// Who carries a tool out.
#[derive(Clone, Debug, PartialEq)]
pub enum ToolKind {
    /// A server of the user's.
    Http(HttpTool),
    /// voxrelay itself.
    Builtin(Builtin),
}

/// A tool that is a POST of JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpTool {
    /// `https://…`; `http://` only to loopback hosts, unless `dev.insecure`.
    pub url: String,
    /// Signs the request; empty: unsigned.
    pub secret: Secret,
    /// From the start of one try to the end of its answer, ms.
    pub timeout_ms: u32,
    /// Tries after the first.
    pub retries: u32,
    /// The longest answer, bytes; a longer one is an error for the model.
    pub response_bytes_max: u32,
}

/// What voxrelay can do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Builtin {
    /// Hang up once everything said was heard.
    EndCall,
    /// Hand the caller over to a person.
    TransferToHuman,
    /// Play tones to the caller's side.
    SendDtmf,
    /// Keep a note with the call's record.
    TakeNote,
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::EndCall,
        Self::TransferToHuman,
        Self::SendDtmf,
        Self::TakeNote,
    ];

    /// Its kind in the configuration, and its name where none is given.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndCall => "end_call",
            Self::TransferToHuman => "transfer_to_human",
            Self::SendDtmf => "send_dtmf",
            Self::TakeNote => "take_note",
        }
    }

    /// What the model is told where no description is given.
    pub fn description(self) -> &'static str {
        match self {
            Self::EndCall => {
                "Ends the phone call. Say goodbye first. Use it when the caller has said goodbye or wants to stop."
            }
            Self::TransferToHuman => {
                "Hands the caller over to a human colleague. Use it when the caller asks for a person or you can't help."
            }
            Self::SendDtmf => {
                "Presses telephone keys, for menus and extensions that ask for digits."
            }
            Self::TakeNote => {
                "Writes a short note into the record of this call. The caller does not hear it."
            }
        }
    }

    /// The JSON schema of its arguments.
    pub fn parameters(self) -> Map<String, Value> {
        let (properties, required) = match self {
            Self::EndCall => (
                json!({"reason": {"type": "string", "description": "Why the call ends, in a few words."}}),
                json!([]),
            ),
            Self::TransferToHuman => (
                json!({
                    "reason": {"type": "string", "description": "Why the caller needs a person."},
                    "summary": {"type": "string", "description": "What the colleague should know, in a sentence or two."},
                }),
                json!(["reason"]),
            ),
            Self::SendDtmf => (
                json!({
                    "digits": {
                        "type": "string",
                        "pattern": "^[0-9A-D*#w]{1,32}$",
                        "description": "Keys to press, in order; w waits half a second.",
                    },
                }),
                json!(["digits"]),
            ),
            Self::TakeNote => (
                json!({"text": {"type": "string", "description": "The note."}}),
                json!(["text"]),
            ),
        };
        match json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        }) {
            Value::Object(schema) => schema,
            _ => unreachable!("an object was written"),
        }
    }
}

/// A tool as it is written: everything but the kind's own needs may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ToolForm {
    /// "http" (also when empty), or a built-in tool's name.
    pub kind: String,
    /// Empty: a built-in tool's own.
    pub name: String,
    /// Empty: a built-in tool's own.
    pub description: String,
    /// Empty: no arguments, or a built-in tool's own.
    pub parameters: Map<String, Value>,
    /// HTTP only.
    pub url: String,
    /// HTTP only.
    pub secret: Secret,
    /// HTTP only.
    pub timeout_ms: Option<u32>,
    /// HTTP only.
    pub retries: Option<u32>,
    /// HTTP only.
    pub response_bytes_max: Option<u32>,
}

impl TryFrom<ToolForm> for Tool {
    type Error = &'static str;

    fn try_from(form: ToolForm) -> Result<Self, Self::Error> {
        if matches!(form.kind.as_str(), "" | "http") {
            if form.url.is_empty() {
                return Err("has no url; write where it is to be asked, or a built-in kind");
            }
            let mut parameters = form.parameters;
            if parameters.is_empty() {
                parameters.insert("type".into(), json!("object"));
                parameters.insert("properties".into(), json!({}));
            }
            return Ok(Self {
                name: form.name,
                description: form.description,
                parameters,
                kind: ToolKind::Http(HttpTool {
                    url: form.url,
                    secret: form.secret,
                    timeout_ms: form.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT),
                    retries: form.retries.unwrap_or(RETRIES_DEFAULT),
                    response_bytes_max: form.response_bytes_max.unwrap_or(RESPONSE_BYTES_DEFAULT),
                }),
            });
        }
        let builtin = Builtin::ALL
            .into_iter()
            .find(|builtin| builtin.as_str() == form.kind)
            .ok_or(
                "has an unknown kind; write http, end_call, transfer_to_human, send_dtmf or take_note",
            )?;
        if !form.url.is_empty()
            || !form.secret.is_empty()
            || form.timeout_ms.is_some()
            || form.retries.is_some()
            || form.response_bytes_max.is_some()
        {
            return Err(
                "is built in, so url, secret, timeout_ms, retries and response_bytes_max have no use; leave them out",
            );
        }
        if !form.parameters.is_empty() {
            return Err("is built in and has arguments of its own; leave parameters out");
        }
        let mut tool = Self::builtin(builtin);
        if !form.name.is_empty() {
            tool.name = form.name;
        }
        if !form.description.is_empty() {
            tool.description = form.description;
        }
        Ok(tool)
    }
}

impl Tool {
    /// A built-in tool under its own name.
    pub fn builtin(builtin: Builtin) -> Self {
        Self {
            name: builtin.as_str().to_owned(),
            description: builtin.description().to_owned(),
            parameters: builtin.parameters(),
            kind: ToolKind::Builtin(builtin),
        }
    }

    /// What is wrong with it, each with what to write instead.
    pub(super) fn problems(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let mut demand = |fine: bool, key, problem: String| {
            if !fine {
                problems.push((key, problem));
            }
        };
        demand(
            is_tool_name(&self.name),
            "name",
            "is no name for a tool; write 1 to 64 letters, digits, _ and -".to_owned(),
        );
        demand(
            self.description.len() <= DESCRIPTION_BYTES_MAX,
            "description",
            format!(
                "{} bytes long; shorten to at most {DESCRIPTION_BYTES_MAX}",
                self.description.len()
            ),
        );
        demand(
            self.parameters.get("type").and_then(Value::as_str) == Some("object"),
            "parameters",
            "is no schema for arguments; write a JSON schema with type = \"object\"".to_owned(),
        );
        demand(
            self.parameters
                .get("properties")
                .is_none_or(Value::is_object),
            "parameters.properties",
            "is no object; write one schema for each argument, by name".to_owned(),
        );
        let length = serde_json::to_string(&self.parameters).map_or(0, |text| text.len());
        demand(
            length <= PARAMETERS_BYTES_MAX,
            "parameters",
            format!("{length} bytes of JSON; shorten to at most {PARAMETERS_BYTES_MAX}"),
        );
        if let ToolKind::Http(http) = &self.kind {
            demand(
                (http.url.starts_with("https://") || http.url.starts_with("http://"))
                    && http.url.bytes().all(|byte| byte.is_ascii_graphic()),
                "url",
                "is no URL; write one that begins with https://".to_owned(),
            );
            demand(
                TIMEOUT_MS.contains(&http.timeout_ms),
                "timeout_ms",
                format!(
                    "{} is out of bounds; write {} to {}",
                    http.timeout_ms,
                    TIMEOUT_MS.start(),
                    TIMEOUT_MS.end()
                ),
            );
            demand(
                http.retries <= RETRIES_MAX,
                "retries",
                format!("{} are too many; write 0 to {RETRIES_MAX}", http.retries),
            );
            demand(
                RESPONSE_BYTES.contains(&http.response_bytes_max),
                "response_bytes_max",
                format!(
                    "{} is out of bounds; write {} to {}",
                    http.response_bytes_max,
                    RESPONSE_BYTES.start(),
                    RESPONSE_BYTES.end()
                ),
            );
        }
        problems
    }
}

/// `^[a-zA-Z0-9_-]{1,64}$`
pub fn is_tool_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(text: &str) -> Result<Tool, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_built_in_tool_needs_only_its_kind() {
        for builtin in Builtin::ALL {
            let tool = form(&format!("kind = \"{}\"", builtin.as_str())).expect("enough");
            assert_eq!(tool, Tool::builtin(builtin));
            assert_eq!(tool.problems(), []);
            assert!(!tool.description.is_empty());
        }
        let tool = form("kind = \"end_call\"\nname = \"bye\"\ndescription = \"Ends it.\"");
        let tool = tool.expect("both may be its own");
        assert_eq!(
            (tool.name.as_str(), tool.description.as_str()),
            ("bye", "Ends it.")
        );
    }

    #[test]
    fn an_http_tool_has_bounds_of_its_own_or_the_defaults() {
        let tool = form("name = \"look_up\"\nurl = \"https://tools.example/x\"").expect("enough");
        assert_eq!(tool.problems(), []);
        assert_eq!(
            tool.kind,
            ToolKind::Http(HttpTool {
                url: "https://tools.example/x".into(),
                secret: Secret::default(),
                timeout_ms: 5_000,
                retries: 2,
                response_bytes_max: 16_384,
            })
        );
        assert_eq!(tool.parameters["type"], "object");
    }

    #[test]
    fn what_does_not_fit_the_kind_is_refused() {
        for bad in [
            "",
            "kind = \"http\"\nname = \"x\"",
            "kind = \"hang_up\"",
            "kind = \"end_call\"\nurl = \"https://a\"",
            "kind = \"end_call\"\nretries = 0",
            "kind = \"end_call\"\nparameters = { type = \"object\" }",
            "url = \"https://a\"\nname = \"x\"\nmethod = \"GET\"",
        ] {
            assert!(form(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_bound_of_a_tool_is_named() {
        let keys = |change: fn(&mut Tool, &mut HttpTool)| {
            let mut tool = form("name = \"x\"\nurl = \"https://a/\"").expect("enough");
            let ToolKind::Http(mut http) = tool.kind.clone() else {
                panic!("an HTTP tool");
            };
            change(&mut tool, &mut http);
            tool.kind = ToolKind::Http(http);
            let keys = tool.problems().into_iter().map(|(key, _)| key);
            keys.collect::<Vec<_>>()
        };
        assert_eq!(keys(|_, _| ()), [""; 0]);
        assert_eq!(keys(|t, _| t.name = "a".repeat(64)), [""; 0]);
        assert_eq!(keys(|t, _| t.name = "a".repeat(65)), ["name"]);
        assert_eq!(keys(|t, _| t.name = String::new()), ["name"]);
        assert_eq!(keys(|t, _| t.name = "look up".into()), ["name"]);
        assert_eq!(
            keys(|t, _| t.description = "x".repeat(4_097)),
            ["description"]
        );
        assert_eq!(keys(|t, _| t.parameters = Map::new()), ["parameters"]);
        assert_eq!(
            keys(|t, _| drop(t.parameters.insert("properties".into(), json!([])))),
            ["parameters.properties"]
        );
        assert_eq!(
            keys(|t, _| drop(
                t.parameters
                    .insert("$comment".into(), json!("x".repeat(16_384)))
            )),
            ["parameters"]
        );
        for bad in ["ftp://a", "tools", "https://a b"] {
            let mut tool = form("name = \"x\"\nurl = \"https://a/\"").expect("enough");
            if let ToolKind::Http(http) = &mut tool.kind {
                http.url = bad.into();
            }
            assert_eq!(tool.problems().len(), 1, "{bad}");
        }
        assert_eq!(keys(|_, h| h.timeout_ms = 100), [""; 0]);
        assert_eq!(keys(|_, h| h.timeout_ms = 99), ["timeout_ms"]);
        assert_eq!(keys(|_, h| h.timeout_ms = 60_001), ["timeout_ms"]);
        assert_eq!(keys(|_, h| h.retries = 5), [""; 0]);
        assert_eq!(keys(|_, h| h.retries = 6), ["retries"]);
        assert_eq!(
            keys(|_, h| h.response_bytes_max = 63),
            ["response_bytes_max"]
        );
        assert_eq!(
            keys(|_, h| h.response_bytes_max = 262_145),
            ["response_bytes_max"]
        );
    }

    #[test]
    fn a_tool_s_secret_is_not_printed() {
        let tool = form("name = \"x\"\nurl = \"https://a/\"\nsecret = \"hidden\"").expect("enough");
        assert!(!format!("{tool:?}").contains("hidden"));
    }
}
