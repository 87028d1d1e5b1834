//! The command line and the configuration, seen from outside: what is said, and with which exit code.

mod common;

use common::carrier::Carrier;
use common::daemon::{Launch, SECRET_KEY};
use common::model::Model;
use common::pair::Pair;

const TOKEN: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

fn check() -> Launch {
    Launch::bare().arg("check")
}

#[tokio::test]
async fn the_default_configuration_is_good() {
    let finished = check().run().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[tokio::test]
async fn the_shipped_configuration_is_good() {
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml"))
        .expect("config.toml is in the repository");
    let finished = check().config(&shipped).run().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[tokio::test]
async fn an_unknown_key_names_the_nearest() {
    let finished = check().config("[listen]\nprot = 3000\n").run().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let all = finished.all();
    assert!(all.contains("prot"), "{all}");
    assert!(
        all.contains("listen.port") || all.contains("`port`") || all.contains("port?"),
        "{all}"
    );

    let finished = check().env("VOXRELAY__REALTIME__MODLE", "x").run().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(
        finished.all().contains("realtime.model")
            || finished.all().contains("VOXRELAY__REALTIME__MODEL"),
        "{finished:?}"
    );
}

#[tokio::test]
async fn all_problems_are_reported_at_once() {
    let finished = check()
        .config(
            "[listen]\nport = 99999\n\n[relay]\nworkers = \"many\"\n\n[realtime]\nurl = \"ftp://x\"\n\n[reley]\ndrain_secs = 1\n",
        )
        .run()
        .await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for named in ["listen.port", "relay.workers", "realtime.url", "reley"] {
        assert!(
            finished.all().contains(named),
            "{named} is not named: {finished:?}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_not_toml_is_one_problem_with_its_line() {
    let finished = check().config("[listen]\nport = \n").run().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.all().contains('2'), "{finished:?}");
    assert!(!finished.all().contains("panicked"), "{finished:?}");
}

#[tokio::test]
async fn serve_checks_before_it_binds() {
    let finished = Launch::bare()
        .config("[listen]\nprot = 3000\n")
        .arg("serve")
        .run()
        .await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.all().contains("listening"), "{finished:?}");
}

#[tokio::test]
async fn a_public_bind_without_a_key_or_a_secret_is_an_error() {
    for command in ["check", "serve"] {
        let finished = Launch::bare()
            .env("VOXRELAY__LISTEN__PORT", "0")
            .env("VOXRELAY__LISTEN__ADDRESSES", "0.0.0.0")
            .arg(command)
            .run()
            .await;
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let all = finished.all();
        assert!(all.contains("OPENAI_API_KEY"), "{all}");
        assert!(all.contains("TWILIO_AUTH_TOKEN"), "{all}");
    }
    // A key alone does not let strangers in.
    let finished = Launch::bare()
        .env("VOXRELAY__LISTEN__ADDRESSES", "0.0.0.0")
        .env("OPENAI_API_KEY", SECRET_KEY)
        .arg("check")
        .run()
        .await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
}

#[tokio::test]
async fn an_auth_token_without_a_public_url_is_an_error() {
    let finished = check().env("TWILIO_AUTH_TOKEN", TOKEN).run().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.all().contains("PUBLIC_URL"), "{finished:?}");
    assert!(!finished.all().contains(TOKEN), "{finished:?}");
}

#[tokio::test]
async fn the_old_names_are_understood() {
    for (name, value) in [
        ("PORT", "99999"),
        ("OPENAI_API_KEY", "\u{1}"),
        ("PUBLIC_URL", "not a url"),
    ] {
        let finished = check().env(name, value).run().await;
        assert_eq!(finished.code, Some(1), "{name}: {finished:?}");
    }
}

#[tokio::test]
async fn secrets_are_never_printed() {
    let mut model = Model::plain().await;
    let finished = check()
        .env("OPENAI_API_KEY", SECRET_KEY)
        .env("TWILIO_AUTH_TOKEN", TOKEN)
        .env("PUBLIC_URL", "https://voice.example.com")
        .env("VOXRELAY__REALTIME__URL", &model.url)
        .run()
        .await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for secret in [SECRET_KEY, TOKEN] {
        assert!(!finished.all().contains(secret), "{finished:?}");
    }

    // Nor by a daemon that logs as much as it can, through a whole call and a refusal.
    let mut daemon = Launch::serve(&model.url)
        .env("VOXRELAY__LOG__LEVEL", "debug")
        .start()
        .await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    pair.round_trip().await;
    pair.hang_up().await;
    let refused = Model::refusing(401).await;
    let mut second = Launch::serve(&refused.url)
        .env("VOXRELAY__LOG__LEVEL", "debug")
        .start()
        .await;
    let mut carrier = Carrier::dial(&second, "/media-stream/CA2").await;
    carrier.start().await;
    carrier.closed().await;
    for daemon in [&mut daemon, &mut second] {
        let health = common::http::get(daemon.addr, "/health").await;
        let metrics = daemon.metrics().await;
        daemon.signal("TERM").await;
        daemon.ended().await;
        for text in [daemon.output.text(), health.text(), metrics] {
            assert!(!text.contains(SECRET_KEY), "{text}");
        }
    }
}

#[tokio::test]
async fn a_busy_port_is_one_sentence_and_exit_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = taken.local_addr().expect("address").port().to_string();
    let finished = Launch::bare().env("PORT", &port).arg("serve").run().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.all().contains(&port), "{finished:?}");
    assert!(!finished.all().contains("panicked"), "{finished:?}");
}

#[tokio::test]
async fn the_version_names_the_commit() {
    let finished = Launch::bare().arg("--version").run().await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(
        finished.stdout.contains(env!("CARGO_PKG_VERSION")),
        "{finished:?}"
    );
    let commit = finished
        .stdout
        .split(|c: char| !c.is_ascii_alphanumeric())
        .any(|word| word.len() >= 7 && word.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(commit, "no commit in {:?}", finished.stdout);
}

#[tokio::test]
async fn every_command_has_help() {
    for words in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["demo", "--help"],
        &["simulate", "--help"],
        &["simulate", "model", "--help"],
        &["simulate", "carrier", "--help"],
        &["simulate", "echo-client", "--help"],
    ] {
        let launch = words
            .iter()
            .fold(Launch::bare(), |launch, word| launch.arg(word));
        let finished = launch.run().await;
        assert_eq!(finished.code, Some(0), "{words:?}: {finished:?}");
        assert!(finished.stdout.contains("Usage"), "{words:?}: {finished:?}");
        // A first sentence that says what it does.
        assert!(
            finished
                .stdout
                .lines()
                .next()
                .is_some_and(|line| line.len() > 10),
            "{finished:?}"
        );
    }
}

#[tokio::test]
async fn an_unknown_command_is_an_error() {
    let finished = Launch::bare().arg("swerve").run().await;
    assert!(
        matches!(finished.code, Some(code) if code != 0),
        "{finished:?}"
    );
    assert!(finished.stderr.contains("swerve"), "{finished:?}");
}
