//! What the keys mean together: the safety of defaults, the secrets, config.toml itself.

use super::super::*;
use super::*;
use crate::call::policy::Policy;
use crate::proto::realtime::settings::{OutputTokens, Settings};
use std::fmt::Write as _;

const REFERENCE: &str = include_str!("../../config.toml");

fn load(vars: &[(&str, &str)]) -> Loaded {
    with_file(None, vars)
}

fn with_file(text: Option<&str>, vars: &[(&str, &str)]) -> Loaded {
    let vars = vars
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    load_text(text, "config.toml", &vars)
}

fn config(vars: &[(&str, &str)]) -> Config {
    let loaded = load(vars);
    loaded
        .config
        .unwrap_or_else(|| panic!("{:?}", loaded.problems))
}

/// The text of all errors; panics when there are none.
fn errors(vars: &[(&str, &str)]) -> String {
    let loaded = load(vars);
    assert!(loaded.config.is_none(), "{vars:?} was accepted");
    let mut text = String::new();
    for problem in &loaded.problems {
        if problem.severity == Severity::Error {
            writeln!(text, "{problem}").expect("a string takes it");
        }
    }
    text
}

/// config.toml with the keys that it only mentions (`# key = value`) switched on.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.starts_with("[[")
                || rest.split_once(" = ").is_some_and(|(key, _)| {
                    key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
                })
        })
    };
    REFERENCE
        .lines()
        .map(|line| match is_key(line) {
            true => &line[2..],
            false => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_reference_file_says_exactly_the_defaults() {
    let loaded = with_file(Some(REFERENCE), &[]);
    assert_eq!(
        loaded.config,
        Some(Config::default()),
        "{:?}",
        loaded.problems
    );
}

#[test]
fn every_key_of_the_schema_stands_in_the_reference_file() {
    let loaded = with_file(Some(&uncommented()), &[]);
    assert!(!has_errors(&loaded.problems), "{:?}", loaded.problems);
    for (key, _, source) in &loaded.shown {
        assert!(
            matches!(source, file::Source::File(_)),
            "{key} is not in config.toml"
        );
    }
    let mut values = file::Values::defaults();
    file::apply(&mut values, "config.toml", &uncommented(), &mut Vec::new());
    for list in schema::LISTS {
        for key in list.keys {
            let path = format!("{}.0.{}", list.path, key.path);
            assert!(
                values.tables(list.path)[0].is_set(key.path)
                    && values.source(&path) != values.source(list.path),
                "{path} is not in config.toml"
            );
        }
    }
}

#[test]
fn every_key_of_the_reference_file_is_explained_above_it() {
    let lines: Vec<&str> = REFERENCE.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        let key = line.strip_prefix("# ").unwrap_or(line);
        let is_key = key
            .split_once(" = ")
            .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        if is_key {
            assert!(
                n > 0 && lines[n - 1].starts_with("# "),
                "line {}: {line}",
                n + 1
            );
        }
    }
}

#[test]
fn the_defaults_listen_on_loopback_with_the_simulated_model_and_say_so() {
    let loaded = load(&[]);
    let config = loaded.config.expect("defaults fit");
    assert!(config.listen.is_loopback() && config.realtime.simulated);
    assert_eq!(config.listen.port, 3000);
    assert_eq!(config.listen.admin, None);
    assert!(config.relay.workers >= 1);
    assert_eq!(loaded.problems.len(), 1);
    assert_eq!(loaded.problems[0].severity, Severity::Note);
    assert!(loaded.problems[0].to_string().contains("simulated"));
}

#[test]
fn a_key_switches_the_simulated_model_off() {
    assert!(!config(&[("OPENAI_API_KEY", "sk-1")]).realtime.simulated);
    assert!(
        !config(&[("OPENAI_REALTIME_API_KEY", "sk-1")])
            .realtime
            .simulated
    );
}

#[test]
fn another_endpoint_on_a_loopback_bind_needs_no_key() {
    for url in ["ws://127.0.0.1:9/v1/realtime", "wss://model.example.com/x"] {
        let config = config(&[("VOXRELAY__REALTIME__URL", url)]);
        assert!(!config.realtime.simulated && config.realtime.api_keys.is_empty());
        assert_eq!(config.realtime.url, url);
    }
    let text = errors(&[(
        "VOXRELAY__REALTIME__URL",
        "wss://api.openai.com/v1/realtime?x=1",
    )]);
    assert!(text.contains("OPENAI_API_KEY"), "{text}");
}

#[test]
fn an_open_bind_without_secrets_names_both_at_once() {
    let text = errors(&[("LISTEN", "0.0.0.0")]);
    assert!(
        text.contains("TWILIO_AUTH_TOKEN") && text.contains("OPENAI_API_KEY"),
        "{text}"
    );
    let text = errors(&[("LISTEN", "127.0.0.1,::")]);
    assert!(
        text.contains("TWILIO_AUTH_TOKEN"),
        "one open address is enough: {text}"
    );
}

#[test]
fn insecure_allows_an_open_bind_and_warns() {
    let loaded = load(&[("LISTEN", "0.0.0.0"), ("VOXRELAY__DEV__INSECURE", "true")]);
    let config = loaded.config.expect("allowed");
    assert!(config.realtime.simulated && config.dev.insecure);
    assert!(
        loaded
            .problems
            .iter()
            .any(|p| p.severity == Severity::Warning)
    );
}

#[test]
fn an_open_bind_with_all_secrets_has_an_admin_port_on_loopback() {
    let config = config(&[
        ("LISTEN", "0.0.0.0"),
        ("TWILIO_AUTH_TOKEN", "t"),
        ("OPENAI_API_KEY", "sk-1"),
        ("PUBLIC_URL", "https://voice.example.com/"),
    ]);
    assert_eq!(
        config.listen.admin,
        Some(SocketAddr::from(([127, 0, 0, 1], 9464)))
    );
    assert_eq!(
        config.listen.public_url.as_deref(),
        Some("https://voice.example.com")
    );
}

#[test]
fn an_auth_token_needs_the_public_address() {
    let text = errors(&[("TWILIO_AUTH_TOKEN", "t")]);
    assert!(text.contains("PUBLIC_URL"), "{text}");
}

#[test]
fn the_public_address_is_an_origin_and_warns_where_streams_would_be_plain() {
    for bad in [
        "voice.example.com",
        "wss://a",
        "https://a/path",
        "https://u@a",
        "https://a?x",
    ] {
        assert!(
            errors(&[("PUBLIC_URL", bad)]).contains("listen.public_url"),
            "{bad}"
        );
    }
    let loaded = load(&[("PUBLIC_URL", "http://localhost:3000")]);
    assert!(loaded.config.is_some());
    assert!(loaded.problems.iter().any(|p| p.what.contains("ws://")));
}

#[test]
fn plain_ws_to_the_model_is_for_loopback_hosts() {
    let url = (
        "VOXRELAY__REALTIME__URL",
        "ws://model.example.com/v1/realtime",
    );
    assert!(errors(&[url]).contains("unencrypted"));
    config(&[url, ("VOXRELAY__DEV__INSECURE", "true")]);
    assert!(errors(&[("VOXRELAY__REALTIME__URL", "https://a/b")]).contains("wss://"));
}

#[test]
fn the_agent_s_settings_are_proven_as_the_endpoint_would() {
    let text = errors(&[("VOXRELAY__AGENT__TRANSCRIPTION_LANGUAGE", "en")]);
    assert!(text.contains("agent.transcription_language"), "{text}");
    let agent = config(&[
        ("VOXRELAY__AGENT__NOISE_REDUCTION", "far_field"),
        ("VOXRELAY__AGENT__MAX_OUTPUT_TOKENS", "100"),
    ])
    .agent;
    assert_eq!(agent.max_output_tokens, Some(OutputTokens::Max(100)));
    assert!(agent.noise_reduction.is_some());
    assert_eq!(config(&[]).agent, Settings::default());
    assert_eq!(config(&[]).policy, Policy::default());
}

#[test]
fn admin_words_and_addresses() {
    for (text, want) in [
        ("none", None),
        ("", None),
        ("auto", None),
        ("[::1]:9", Some("[::1]:9")),
    ] {
        let config = config(&[("VOXRELAY__LISTEN__ADMIN", text)]);
        assert_eq!(
            config.listen.admin,
            want.map(|w| w.parse().expect("an address")),
            "{text}"
        );
    }
    errors(&[("VOXRELAY__LISTEN__ADMIN", "9464")]);
    errors(&[("VOXRELAY__LISTEN__ADMIN", "127.0.0.1:3000")]);
}

#[test]
fn tls_needs_both_files() {
    let text = errors(&[("VOXRELAY__LISTEN__TLS__CERT_FILE", "c.pem")]);
    assert!(text.contains("listen.tls.key_file"), "{text}");
    let text = errors(&[("VOXRELAY__LISTEN__TLS__KEY_FILE", "k.pem")]);
    assert!(text.contains("listen.tls.cert_file"), "{text}");
}

#[test]
fn addresses_may_have_brackets_and_doubles_but_must_be_addresses() {
    let config = config(&[("LISTEN", "127.0.0.1,[::1],127.0.0.1")]);
    assert_eq!(config.listen.addresses.len(), 2);
    assert!(errors(&[("LISTEN", "localhost")]).contains("IP address"));
    assert!(errors(&[("VOXRELAY__LISTEN__ADDRESSES", "")]).contains("no address"));
}

#[test]
fn zero_is_a_temperature_and_absence_is_not() {
    assert_eq!(config(&[]).realtime.temperature, None);
    let config = config(&[("VOXRELAY__REALTIME__TEMPERATURE", "0")]);
    assert_eq!(config.realtime.temperature, Some(0.0));
    errors(&[("VOXRELAY__REALTIME__TEMPERATURE", "NaN")]);
}

#[test]
fn secrets_come_from_keys_lists_and_files_without_doubles() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys");
    std::fs::write(&path, "# ours\nsk-c\n\n sk-a \n").expect("written");
    let config = config(&[
        ("OPENAI_API_KEY", "sk-a"),
        ("VOXRELAY__REALTIME__API_KEYS", "sk-b,sk-a"),
        (
            "VOXRELAY__REALTIME__API_KEY_FILE",
            path.to_str().expect("text"),
        ),
    ]);
    let keys: Vec<_> = config
        .realtime
        .api_keys
        .iter()
        .map(Secret::expose)
        .collect();
    assert_eq!(keys, ["sk-a", "sk-b", "sk-c"]);
}

#[test]
fn credentials_count_where_nothing_else_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("openai_api_key"), "sk-cred\n").expect("written");
    std::fs::write(dir.path().join("twilio_auth_token"), "token\n").expect("written");
    let place = ("CREDENTIALS_DIRECTORY", dir.path().to_str().expect("text"));
    let config = config(&[place, ("PUBLIC_URL", "https://a.example")]);
    assert_eq!(config.realtime.api_keys, [Secret::new("sk-cred")]);
    assert_eq!(config.carrier.auth_tokens, [Secret::new("token")]);
    let config = self::config(&[
        place,
        ("PUBLIC_URL", "https://a.example"),
        ("OPENAI_API_KEY", "sk-env"),
    ]);
    assert_eq!(config.realtime.api_keys, [Secret::new("sk-env")]);
}

#[test]
fn a_missing_file_of_secrets_is_an_error() {
    let text = errors(&[("VOXRELAY__REALTIME__API_KEY_FILE", "/nonexistent/key")]);
    assert!(text.contains("/nonexistent/key"), "{text}");
}

#[test]
fn a_secret_that_cannot_be_a_header_is_refused_without_being_shown() {
    let text = errors(&[("OPENAI_API_KEY", "sk-hidden\r\nX: y")]);
    assert!(
        text.contains("realtime.api_key") && !text.contains("hidden"),
        "{text}"
    );
}

#[test]
fn no_secret_is_ever_printed() {
    let loaded = with_file(
        Some(
            "[realtime]\napi_keys = [\"hidden-2\"]\n[carrier]\nauth_tokens = [\"hidden-3\"]\nwrong = \"hidden-4\"\n",
        ),
        &[
            ("OPENAI_API_KEY", "hidden-1"),
            ("TWILIO_AUTH_TOKEN", "hidden-5"),
            ("PUBLIC_URL", "https://a.example"),
            ("VOXRELAY__REALTIME__API_KEYZ", "hidden-6"),
        ],
    );
    let mut text = format!("{loaded:?}");
    for problem in &loaded.problems {
        write!(text, "{problem}").expect("a string takes it");
    }
    let good = config(&[("OPENAI_API_KEY", "hidden-7")]);
    write!(text, "{good:?} {good:#?}").expect("a string takes it");
    assert!(!text.contains("hidden"), "{text}");
    assert!(
        text.contains("\"set\""),
        "that there is a secret may be known"
    );
}

#[test]
fn all_kinds_of_problems_come_in_one_go() {
    let loaded = with_file(
        Some("[listen]\nprot = 1\naddresses = [\"0.0.0.0\"]\n[relay]\ncalls_max = 0\n"),
        &[("PORT", "x"), ("PUBLIC_URL", "nonsense")],
    );
    let errors = loaded
        .problems
        .iter()
        .filter(|p| p.severity == Severity::Error);
    // The unknown key, the bound, the port, the address, the model's key, the carrier's secret.
    assert_eq!(errors.count(), 6, "{:#?}", loaded.problems);
    assert!(loaded.problems.iter().all(|p| !p.fix.is_empty()));
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let loaded = super::super::load(Some(Path::new("/nonexistent/voxrelay.toml")), &Vars::new());
    assert!(loaded.config.is_none());
    assert!(
        loaded.problems[0]
            .to_string()
            .contains("/nonexistent/voxrelay.toml")
    );
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("c.toml");
    std::fs::write(&path, "[listen]\nport = 3456\n").expect("written");
    let loaded = super::super::load(Some(&path), &Vars::new());
    assert_eq!(loaded.config.map(|c| c.listen.port), Some(3456));
    assert_eq!(loaded.file.as_deref(), Some(path.as_path()));
}
