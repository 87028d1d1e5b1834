//! Broken, ambiguous and unwelcome requests at the door of the real binary.
//!
//! Method: raw bytes on a socket, the answer read by the book. Whatever a request does, the daemon then still
//! answers `/health`.

mod common;

use common::carrier::Carrier;
use common::daemon::{Daemon, Launch};
use common::http::{Client, exchange, get, upgrade};
use common::model::Model;
use common::pair::Pair;
use common::{metric, within};

async fn daemon() -> Daemon {
    let model = Model::plain().await;
    Launch::serve(&model.url).start().await
}

/// Sends each request on a connection of its own and expects this status and the end of the connection.
async fn all_refused(daemon: &Daemon, status: u16, requests: &[(&str, String)]) {
    for (what, request) in requests {
        let mut client = Client::connect(daemon.addr).await;
        client.send(request.as_bytes()).await;
        let answer = client.response().await;
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(
            answer.has_token("connection", "close"),
            "{what}: the connection is not to be used again: {answer:?}"
        );
        client.end().await;
    }
    assert_eq!(get(daemon.addr, "/health").await.status, 200);
    daemon
        .counted(metric::REFUSED, &[], requests.len() as f64)
        .await;
}

fn owned<'a>(requests: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
    requests
        .iter()
        .map(|(what, text)| (*what, text.to_string()))
        .collect()
}

#[tokio::test]
async fn a_head_over_16_kib_is_431() {
    let daemon = daemon().await;
    let long = "a".repeat(17 * 1024);
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    all_refused(
        &daemon,
        431,
        &[
            (
                "one long header",
                format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"),
            ),
            (
                "a long head that never ends",
                format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {long}"),
            ),
            (
                "too many headers",
                format!("GET /health HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_head_just_below_16_kib_is_served() {
    let daemon = daemon().await;
    let filler = "a".repeat(15 * 1024);
    let request = format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Long: {filler}\r\n\r\n");
    assert_eq!(exchange(daemon.addr, request.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn smuggling_shapes_are_400() {
    let daemon = daemon().await;
    all_refused(
        &daemon,
        400,
        &owned(&[
            (
                "Content-Length and Transfer-Encoding",
                "POST /media-stream HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            (
                "two lengths that differ",
                "POST /media-stream HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            ),
            (
                "a length that is no number",
                "POST /media-stream HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
            ),
            (
                "obs-fold",
                "GET /health HTTP/1.1\r\nHost: x\r\nX-Folded: a\r\n b\r\n\r\n",
            ),
            ("bare LF", "GET /health HTTP/1.1\nHost: x\n\n"),
            (
                "one bare LF among CRLF",
                "GET /health HTTP/1.1\r\nHost: x\nX-Y: z\r\n\r\n",
            ),
            (
                "a space before the colon",
                "GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
            ),
            ("no HTTP at all", "\u{16}\u{3}\u{1}\r\n\r\n"),
            ("a NUL in a header", "GET /health HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n"),
        ]),
    )
    .await;
}

#[tokio::test]
async fn a_bad_chunk_size_is_400() {
    let daemon = daemon().await;
    for size in ["zz", "-1", "fffffffffffffffff", "5;\n"] {
        let mut client = Client::connect(daemon.addr).await;
        client
            .send(
                format!(
                    "POST /api/twilio/voice HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\
                     Content-Type: application/x-www-form-urlencoded\r\n\r\n{size}\r\nhello\r\n0\r\n\r\n"
                )
                .as_bytes(),
            )
            .await;
        let answer = client.response().await;
        assert_eq!(answer.status, 400, "{size:?}: {answer:?}");
        client.end().await;
    }
    assert_eq!(get(daemon.addr, "/health").await.status, 200);
}

#[tokio::test]
async fn broken_upgrades_are_400() {
    let daemon = daemon().await;
    let addr = daemon.addr;
    let good = upgrade(addr, "/media-stream/CA1", "");
    let without = |line: &str| -> String {
        let kept: Vec<&str> = good
            .split("\r\n")
            .filter(|l| !l.starts_with(line))
            .collect();
        kept.join("\r\n")
    };
    all_refused(
        &daemon,
        400,
        &[
            (
                "two keys",
                upgrade(
                    addr,
                    "/media-stream/CA1",
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                ),
            ),
            (
                "two versions",
                upgrade(addr, "/media-stream/CA1", "Sec-WebSocket-Version: 13\r\n"),
            ),
            (
                "two hosts",
                upgrade(addr, "/media-stream/CA1", "Host: other\r\n"),
            ),
            ("no key", without("Sec-WebSocket-Key")),
            ("no host", without("Host")),
            (
                "a key of another length",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="),
            ),
            (
                "a key that is not base64",
                good.replace("dGhlIHNhbXBsZSBub25jZQ==", "!!!!IHNhbXBsZSBub25jZQ=="),
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn another_websocket_version_is_426_with_ours() {
    let daemon = daemon().await;
    for version in ["8", "0", "14", "13, 8", "x"] {
        let request = upgrade(daemon.addr, "/media-stream/CA1", "").replace(
            "Sec-WebSocket-Version: 13",
            &format!("Sec-WebSocket-Version: {version}"),
        );
        let answer = exchange(daemon.addr, request.as_bytes()).await;
        assert_eq!(answer.status, 426, "{version}: {answer:?}");
        assert_eq!(
            answer.header("sec-websocket-version"),
            Some("13"),
            "{answer:?}"
        );
    }
}

const STREAM_PATHS: [&str; 6] = [
    "/api/twilio/media-stream/call-1",
    "/api/twilio/media-stream-simple",
    "/media-stream",
    "/media-stream/CA1",
    "/api/voice/stream",
    "/streams",
];

#[tokio::test]
async fn an_ordinary_get_of_a_stream_path_is_426() {
    let daemon = daemon().await;
    for path in STREAM_PATHS {
        let answer = get(daemon.addr, path).await;
        assert_eq!(answer.status, 426, "{path}: {answer:?}");
        assert!(
            answer.has_token("upgrade", "websocket"),
            "{path}: {answer:?}"
        );
        assert!(
            answer.has_token("connection", "upgrade"),
            "{path}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_post_to_a_stream_path_is_a_health_check() {
    let daemon = daemon().await;
    let health = get(daemon.addr, "/health").await.json();
    for path in STREAM_PATHS {
        let answer = common::http::post_form(daemon.addr, path, &[], &[]).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let json = answer.json();
        assert_eq!(json["status"], health["status"], "{path}: {json}");
        assert_eq!(json["version"], health["version"], "{path}: {json}");
    }
}

#[tokio::test]
async fn an_unknown_upgrade_path_is_404_and_a_close() {
    let daemon = daemon().await;
    let requests: Vec<(&str, String)> = [
        "/",
        "/nowhere",
        "/api",
        "/streams2",
        "/api/voice",
        "/conformance/echo",
    ]
    .into_iter()
    .map(|path| (path, upgrade(daemon.addr, path, "")))
    .collect();
    all_refused(&daemon, 404, &requests).await;
}

#[tokio::test]
async fn a_bad_call_id_is_400() {
    let daemon = daemon().await;
    let long = format!("/media-stream/{}", "a".repeat(129));
    let requests: Vec<(&str, String)> = [
        "/media-stream/",
        "/api/twilio/media-stream/",
        "/media-stream/a/b",
        "/media-stream/a/",
        "/media-stream/a%2Fb",
        "/media-stream/a%20b",
        "/media-stream/a%0d%0ab",
        "/media-stream/%ff",
        "/media-stream/a%",
        "/media-stream/a%4",
        "/media-stream/<a>",
        long.as_str(),
    ]
    .into_iter()
    .map(|path| (path, upgrade(daemon.addr, path, "")))
    .collect();
    all_refused(&daemon, 400, &requests).await;
}

#[tokio::test]
async fn a_good_call_id_in_every_allowed_character_is_taken() {
    let model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let longest = format!("/media-stream/{}", "a".repeat(128));
    for path in [
        "/media-stream/aZ09_.:-",
        "/media-stream/%41%5f",
        "/media-stream/abc?from=query",
        longest.as_str(),
    ] {
        Carrier::dial(&daemon, path).await;
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_served() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    for byte_by_byte in ["/health", "/media-stream/CA1"] {
        let mut client = Client::connect(daemon.addr).await;
        let request = if byte_by_byte == "/health" {
            "GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()
        } else {
            upgrade(daemon.addr, byte_by_byte, "")
        };
        for byte in request.as_bytes() {
            client.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        let answer = client.response().await;
        if byte_by_byte == "/health" {
            assert_eq!(answer.status, 200, "{answer:?}");
        } else {
            assert_eq!(answer.status, 101, "{answer:?}");
            let (stream, read_ahead) = client.into_parts();
            let carrier = Carrier::after_upgrade(stream, read_ahead).await;
            let mut pair = Pair::with(carrier, &mut model).await;
            pair.round_trip().await;
        }
    }
}

#[tokio::test]
async fn frames_that_come_with_the_upgrade_are_not_lost() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut client = Client::connect(daemon.addr).await;
    let mut bytes = upgrade(daemon.addr, "/media-stream/CA1", "").into_bytes();
    let connected = br#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#;
    let start = br#"{"event":"start","sequenceNumber":"1","streamSid":"MZearly","start":{"accountSid":"AC1","streamSid":"MZearly","callSid":"CA1","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1}}}"#;
    bytes.extend(common::carrier::frame(0x81, Some([1, 2, 3, 4]), connected));
    bytes.extend(common::carrier::frame(0x81, Some([5, 6, 7, 8]), start));
    client.send(&bytes).await;
    assert_eq!(client.response().await.status, 101);
    // The dial proves that `start` was read.
    model.accept().await.set_up().await;
}

#[tokio::test]
async fn a_slow_head_is_cut_and_delays_nobody() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut slow = Client::connect(daemon.addr).await;
    slow.send(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        .await;
    let mut mute = Client::connect(daemon.addr).await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    pair.round_trip().await;
    // Both end without a whole request ever having been sent; a 408 before the end is fine.
    for client in [&mut slow, &mut mute] {
        let last = client.end().await;
        let last = String::from_utf8_lossy(&last);
        assert!(
            last.is_empty() || last.starts_with("HTTP/1.1 408"),
            "{last}"
        );
    }
    pair.round_trip().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let daemon = daemon().await;
    let mut client = Client::connect(daemon.addr).await;
    client
        .send(
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n\
              GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        )
        .await;
    assert_eq!(client.response().await.status, 200);
    assert_eq!(client.response().await.status, 404);
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_connection_is_kept_alive() {
    let daemon = daemon().await;
    let mut client = Client::connect(daemon.addr).await;
    for _ in 0..20 {
        client
            .send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
        assert_eq!(client.response().await.status, 200);
    }
}

#[tokio::test]
async fn head_answers_without_a_body() {
    let daemon = daemon().await;
    let mut client = Client::connect(daemon.addr).await;
    client
        .send(b"HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(client.head_response().await.status, 200);
    // The next answer begins where the first head ended.
    client
        .send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status, 200);
    answer.json();
}

#[tokio::test]
async fn an_unknown_path_is_a_json_404() {
    let daemon = daemon().await;
    for path in ["/", "/nowhere", "/api/nothing", "/media-streams"] {
        let answer = get(daemon.addr, path).await;
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        assert!(
            answer
                .header("content-type")
                .is_some_and(|t| t.starts_with("application/json")),
            "{path}: {answer:?}"
        );
        let error = &answer.json()["error"];
        assert!(
            error["code"].is_string() && error["message"].is_string(),
            "{path}: {error}"
        );
    }
}

#[tokio::test]
async fn the_probes_answer() {
    let daemon = daemon().await;
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(get(daemon.addr, path).await.status, 200, "{path}");
    }
    let health = get(daemon.addr, "/health").await.json();
    assert!(health["version"].is_string(), "{health}");
    assert!(health["uptime"].is_number(), "{health}");
    assert_eq!(health["activeCalls"], 0, "{health}");
}

#[tokio::test]
async fn a_stream_upgrade_on_a_kept_alive_connection_carries_a_call() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut client = Client::connect(daemon.addr).await;
    client
        .send(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(client.response().await.status, 200);
    client
        .send(upgrade(daemon.addr, "/media-stream/CA1", "").as_bytes())
        .await;
    let answer = client.response().await;
    assert_eq!(answer.status, 101, "{answer:?}");
    // RFC 6455 section 1.3: the accept value of this very key.
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    let (stream, read_ahead) = client.into_parts();
    let carrier = Carrier::after_upgrade(stream, read_ahead).await;
    let mut pair = Pair::with(carrier, &mut model).await;
    pair.round_trip().await;
    pair.hang_up().await;
}

#[tokio::test]
async fn a_thousand_bad_upgrades_leave_no_descriptor_behind() {
    let mut daemon = daemon().await;
    let before = daemon.descriptors();
    for _ in 0..1000 {
        let answer = exchange(daemon.addr, upgrade(daemon.addr, "/nowhere", "").as_bytes()).await;
        assert_eq!(answer.status, 404);
    }
    assert!(daemon.is_running());
    // The last closes may still be on their way.
    within("the descriptors to be closed", async {
        while daemon.descriptors() > before + 2 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
}
