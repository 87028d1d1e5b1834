//! The one table of keys: what config.toml and the environment may say, of which kind, within which bounds, and
//! what holds when they say nothing.
//!
//! Shell, like all of `config`, but pure data. `file` reads values against it, `prove` gives them their meaning.

use crate::call::policy;

/// What a key's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A list of texts; comma-separated in the environment.
    List,
    /// A list of texts that are never shown.
    SecretList,
    /// A whole number, bounds inclusive.
    Integer(i64, i64),
    /// A number, bounds inclusive.
    Number(f64, f64),
    /// true or false.
    Bool,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number, bounds inclusive, or this word.
    IntegerOr(i64, i64, &'static str),
    /// Anything with names: a table, or JSON as text; in the environment JSON.
    Object,
}

impl Kind {
    /// Whether its values are never shown.
    pub fn is_secret(self) -> bool {
        matches!(self, Kind::Secret | Kind::SecretList)
    }

    /// What would be right here, for error messages.
    pub fn expected(self) -> String {
        match self {
            Kind::Text | Kind::Secret => "a text in quotes".into(),
            Kind::List | Kind::SecretList => "a list of texts".into(),
            Kind::Integer(min, max) => format!("a whole number from {min} to {max}"),
            Kind::Number(min, max) => format!("a number from {min} to {max}"),
            Kind::Bool => "true or false".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::IntegerOr(min, max, word) => {
                format!("a whole number from {min} to {max}, or {word:?}")
            }
            Kind::Object => "a table, or a JSON object as text".into(),
        }
    }
}

/// One key of the schema.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// `section.key`.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// The default as the environment would write it; `None` is unset.
    pub default: Option<&'static str>,
    /// Names that the replaced backends used; an empty value counts as unset.
    pub aliases: &'static [&'static str],
}

const fn key(path: &'static str, kind: Kind, default: &'static str) -> Key {
    Key {
        path,
        kind,
        default: Some(default),
        aliases: &[],
    }
}

const fn alias(mut key: Key, aliases: &'static [&'static str]) -> Key {
    key.aliases = aliases;
    key
}

const fn unset(path: &'static str, kind: Kind) -> Key {
    Key {
        path,
        kind,
        default: None,
        aliases: &[],
    }
}

/// The endpoint that `realtime.url` means when nobody says otherwise.
pub const REALTIME_URL: &str = "wss://api.openai.com/v1/realtime";

const SILENCE_MS: Kind = Kind::Integer(0, 3_600_000);

/// Every key there is, in the order of config.toml.
pub const KEYS: &[Key] = &[
    alias(
        key("listen.addresses", Kind::List, "127.0.0.1"),
        &["LISTEN"],
    ),
    alias(
        key("listen.port", Kind::Integer(0, 65_535), "3000"),
        &["PORT"],
    ),
    alias(key("listen.public_url", Kind::Text, ""), &["PUBLIC_URL"]),
    key("listen.admin", Kind::Text, "auto"),
    key(
        "listen.connections_per_address",
        Kind::Integer(1, 65_536),
        "512",
    ),
    key("listen.connections_max", Kind::Integer(1, 65_536), "4096"),
    key("listen.tls.cert_file", Kind::Text, ""),
    key("listen.tls.key_file", Kind::Text, ""),
    alias(
        key("carrier.account_sid", Kind::Text, ""),
        &["TWILIO_ACCOUNT_SID"],
    ),
    alias(
        key("carrier.auth_token", Kind::Secret, ""),
        &["TWILIO_AUTH_TOKEN"],
    ),
    key("carrier.auth_tokens", Kind::SecretList, ""),
    key("carrier.auth_token_file", Kind::Text, ""),
    key(
        "carrier.unknown_call",
        Kind::Choice(&["create", "reject", "debug"]),
        "create",
    ),
    key("realtime.url", Kind::Text, REALTIME_URL),
    key("realtime.model", Kind::Text, "gpt-realtime"),
    unset("realtime.temperature", Kind::Number(0.0, 2.0)),
    alias(
        key("realtime.api_key", Kind::Secret, ""),
        &["OPENAI_REALTIME_API_KEY", "OPENAI_API_KEY"],
    ),
    key("realtime.api_keys", Kind::SecretList, ""),
    key("realtime.api_key_file", Kind::Text, ""),
    key("realtime.ca_file", Kind::Text, ""),
    key("realtime.predial", Kind::Bool, "true"),
    key("realtime.warm_pool", Kind::Integer(0, 64), "0"),
    key(
        "realtime.warm_max_age_secs",
        Kind::Integer(10, 3_000),
        "300",
    ),
    key("agent.instructions", Kind::Text, ""),
    key("agent.voice", Kind::Text, ""),
    unset("agent.speed", Kind::Number(0.25, 1.5)),
    unset("agent.temperature", Kind::Number(0.0, 2.0)),
    key("agent.transcription_model", Kind::Text, ""),
    key("agent.transcription_language", Kind::Text, ""),
    key("agent.transcription_prompt", Kind::Text, ""),
    key("agent.transcription_logprobs", Kind::Bool, "false"),
    key(
        "agent.noise_reduction",
        Kind::Choice(&["none", "near_field", "far_field"]),
        "none",
    ),
    unset("agent.max_output_tokens", Kind::IntegerOr(1, 4_096, "inf")),
    key("agent.tool_choice", Kind::Text, ""),
    unset("agent.parallel_tool_calls", Kind::Bool),
    unset(
        "agent.truncation",
        Kind::Choice(&["auto", "disabled", "retention_ratio"]),
    ),
    unset("agent.retention_ratio", Kind::Number(0.0, 1.0)),
    unset("agent.retention_tokens_max", Kind::Integer(1, 1_000_000)),
    unset(
        "agent.reasoning_effort",
        Kind::Choice(&["minimal", "low", "medium", "high", "xhigh"]),
    ),
    key("agent.session_extra", Kind::Object, "{}"),
    key(
        "agent.first_speaker",
        Kind::Choice(&["agent", "caller", "after_ms"]),
        "caller",
    ),
    key(
        "agent.first_speaker_after_ms",
        Kind::Integer(1, 60_000),
        "2000",
    ),
    key("agent.greeting", Kind::Text, ""),
    key("agent.greeting_exact", Kind::Bool, "false"),
    key(
        "agent.unplayed_ms_max",
        Kind::Integer(1_000, 600_000),
        "120000",
    ),
    key("agent.max_duration_secs", Kind::Integer(0, 86_400), "3600"),
    key("agent.duration_warning_secs", Kind::Integer(0, 600), "30"),
    key("agent.dtmf", Kind::Choice(&["ignore", "text"]), "text"),
    key("agent.dtmf_pause_ms", Kind::Integer(100, 30_000), "1500"),
    key(
        "agent.on_model_unavailable",
        Kind::Choice(&["message", "conference", "hang_up"]),
        "message",
    ),
    key(
        "agent.unavailable_message",
        Kind::Text,
        policy::UNAVAILABLE_MESSAGE,
    ),
    key("agent.unavailable_conference", Kind::Text, ""),
    key("agent.rollover_before_secs", Kind::Integer(0, 3_000), "180"),
    key(
        "agent.turn_detection.type",
        Kind::Choice(&["server_vad", "semantic_vad", "none"]),
        "server_vad",
    ),
    key(
        "agent.turn_detection.threshold",
        Kind::Number(0.0, 1.0),
        "0.5",
    ),
    key(
        "agent.turn_detection.prefix_padding_ms",
        Kind::Integer(0, 5_000),
        "300",
    ),
    key(
        "agent.turn_detection.silence_duration_ms",
        Kind::Integer(20, 10_000),
        "500",
    ),
    unset(
        "agent.turn_detection.idle_timeout_ms",
        Kind::Integer(5_000, 30_000),
    ),
    key(
        "agent.turn_detection.eagerness",
        Kind::Choice(&["low", "medium", "high", "auto"]),
        "auto",
    ),
    key("agent.turn_detection.create_response", Kind::Bool, "true"),
    key(
        "agent.turn_detection.interrupt_response",
        Kind::Bool,
        "true",
    ),
    key("agent.barge_in.enabled", Kind::Bool, "true"),
    key("agent.barge_in.guard_ms", Kind::Integer(0, 30_000), "0"),
    key("agent.barge_in.confirm_ms", Kind::Integer(0, 2_000), "0"),
    key("agent.silence.nudge_after_ms", SILENCE_MS, "0"),
    key("agent.silence.nudge_text", Kind::Text, policy::NUDGE_TEXT),
    key("agent.silence.second_nudge_after_ms", SILENCE_MS, "0"),
    key(
        "agent.silence.second_nudge_text",
        Kind::Text,
        policy::SECOND_NUDGE_TEXT,
    ),
    key("agent.silence.hang_up_after_ms", SILENCE_MS, "0"),
    key(
        "agent.silence.goodbye_text",
        Kind::Text,
        policy::GOODBYE_TEXT,
    ),
    key("agent.reconnect.tries", Kind::Integer(0, 20), "5"),
    key("agent.reconnect.base_ms", Kind::Integer(10, 60_000), "250"),
    key("agent.reconnect.cap_ms", Kind::Integer(10, 60_000), "4000"),
    key(
        "agent.reconnect.outage_ms",
        Kind::Integer(100, 120_000),
        "10000",
    ),
    key("agent.reconnect.hold_ms", Kind::Integer(0, 10_000), "1000"),
    key("agent.tool_limits.in_flight_max", Kind::Integer(1, 64), "8"),
    key(
        "agent.tool_limits.calls_max",
        Kind::Integer(1, 10_000),
        "500",
    ),
    key(
        "agent.tool_limits.arguments_bytes_max",
        Kind::Integer(64, 262_144),
        "16384",
    ),
    key("relay.workers", Kind::Integer(0, 1_024), "0"),
    key("relay.calls_max", Kind::Integer(1, 100_000), "1000"),
    key("relay.drain_secs", Kind::Integer(0, 86_400), "900"),
    key("relay.pin", Kind::Choice(&["auto", "on", "off"]), "auto"),
    key("relay.gather_us", Kind::Integer(0, 1_000), "1000"),
    key(
        "relay.gather_from_rate",
        Kind::Integer(0, 10_000_000),
        "10000",
    ),
    key("relay.coalesce_ms", Kind::Integer(0, 40), "0"),
    key("relay.busy_max_percent", Kind::Integer(1, 100), "95"),
    key("relay.lag_max_ms", Kind::Integer(0, 10_000), "50"),
    key("store.dir", Kind::Text, "./data"),
    alias(
        key("store.recordings_dir", Kind::Text, "./data/recordings"),
        &["RECORDING_STORAGE_PATH"],
    ),
    key(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "http", "debug"]),
        "info",
    ),
    key(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        "auto",
    ),
    key("dev.insecure", Kind::Bool, "false"),
];

/// A list of tables (`[[section.name]]`), each with these keys; in the environment a JSON array of objects.
#[derive(Clone, Copy, Debug)]
pub struct List {
    /// `section.name`.
    pub path: &'static str,
    /// The keys of one of its tables, by their names alone.
    pub keys: &'static [Key],
}

/// Every list of tables there is.
pub const LISTS: &[List] = &[
    List {
        path: "realtime.endpoints",
        keys: &[
            key("url", Kind::Text, ""),
            key("weight", Kind::Integer(0, 1_000), "1"),
            key("api_key", Kind::Secret, ""),
            key("api_keys", Kind::SecretList, ""),
            key("api_key_file", Kind::Text, ""),
        ],
    },
    List {
        path: "realtime.prices",
        keys: &[
            key("model", Kind::Text, ""),
            key("text_input", Kind::Text, "0"),
            key("text_cached", Kind::Text, "0"),
            key("text_output", Kind::Text, "0"),
            key("audio_input", Kind::Text, "0"),
            key("audio_cached", Kind::Text, "0"),
            key("audio_output", Kind::Text, "0"),
        ],
    },
    List {
        path: "agent.tools",
        keys: &[
            key(
                "kind",
                Kind::Choice(&[
                    "http",
                    "end_call",
                    "transfer_to_human",
                    "send_dtmf",
                    "take_note",
                ]),
                "http",
            ),
            key("name", Kind::Text, ""),
            key("description", Kind::Text, ""),
            key("parameters", Kind::Object, "{}"),
            key("url", Kind::Text, ""),
            key("secret", Kind::Secret, ""),
            unset("timeout_ms", Kind::Integer(100, 60_000)),
            unset("retries", Kind::Integer(0, 5)),
            unset("response_bytes_max", Kind::Integer(64, 262_144)),
        ],
    },
];

/// The key of this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The list of tables of this path.
pub fn find_list(path: &str) -> Option<&'static List> {
    LISTS.iter().find(|list| list.path == path)
}

/// The known key most like `path`: by the whole path, or by its last part alone (a key in the wrong section).
pub fn nearest(path: &str) -> String {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(path, known);
        let part = strsim::normalized_damerau_levenshtein(&last(path), &last(known));
        whole.max(part * 0.9)
    };
    let keys = KEYS.iter().map(|key| key.path.to_owned());
    let lists = LISTS.iter().map(|list| list.path.to_owned());
    keys.chain(lists)
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .expect("the schema has keys")
}

/// The key of a list's table most like `name`.
pub fn nearest_of(list: &List, name: &str) -> &'static str {
    let likeness = |key: &&Key| strsim::normalized_damerau_levenshtein(name, key.path);
    list.keys
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .expect("a list's tables have keys")
        .path
}
