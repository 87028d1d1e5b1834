//! The one table of keys: what config.toml, and with it the environment, may say.
//!
//! Shell, like all of `config`, but pure data. `file` reads values against it, `prove` gives them their meaning.

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
    key("agent.instructions", Kind::Text, ""),
    key("agent.voice", Kind::Text, ""),
    unset("agent.speed", Kind::Number(0.25, 1.5)),
    key("agent.transcription_model", Kind::Text, ""),
    key("agent.transcription_language", Kind::Text, ""),
    key(
        "agent.noise_reduction",
        Kind::Choice(&["none", "near_field", "far_field"]),
        "none",
    ),
    unset("agent.max_output_tokens", Kind::Integer(1, 4_096)),
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
    key("relay.workers", Kind::Integer(0, 1_024), "0"),
    key("relay.calls_max", Kind::Integer(1, 100_000), "1000"),
    key("relay.drain_secs", Kind::Integer(0, 86_400), "900"),
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

/// The key of this path.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The known key most like `path`: by the whole path, or by its last part alone (a key in the wrong section).
pub fn nearest(path: &str) -> &'static str {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |key: &Key| {
        let whole = strsim::normalized_damerau_levenshtein(path, key.path);
        let part = strsim::normalized_damerau_levenshtein(&last(path), &last(key.path));
        whole.max(part * 0.9)
    };
    KEYS.iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .expect("the schema has keys")
        .path
}
