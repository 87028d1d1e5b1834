//! A model that calls HTTP tools, through the real binary: what the tool's server is asked, and what the model is told,
//! also where the server hangs, floods or points elsewhere.
//!
//! Method: a daemon with tools configured, a scripted model and a server that the test answers for by hand. Whatever a
//! tool does, the call's audio must go on, and every call of a tool is answered once, with one `response.create` at the end.

mod common;

use common::daemon::{Daemon, Launch};
use common::metric;
use common::model::Model;
use common::pair::Pair;
use common::tool::{Asked, ToolServer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

const SECRET: &str = "whsec_Zm9vYmFy";

/// A call whose model may call `look_up` (signed) and `slow` (300 ms, 1 KiB, one try), both at `server`.
struct Stage {
    daemon: Daemon,
    server: ToolServer,
    pair: Pair,
    /// Responses of the model's so far: each has an id of its own.
    responses: usize,
    _model: Model,
}

impl Stage {
    async fn new() -> Self {
        let server = ToolServer::start().await;
        let mut model = Model::plain().await;
        let config = format!(
            "[[agent.tools]]\nname = \"look_up\"\nurl = \"{}\"\nsecret = \"{SECRET}\"\n\n\
             [[agent.tools]]\nname = \"slow\"\nurl = \"{}\"\ntimeout_ms = 300\nretries = 0\n\
             response_bytes_max = 1024\n",
            server.url("/tools/look_up?v=1"),
            server.url("/tools/slow"),
        );
        let daemon = Launch::serve(&model.url).config(&config).start().await;
        let pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
        Self {
            daemon,
            server,
            pair,
            responses: 0,
            _model: model,
        }
    }

    /// The model calls tools (call id, name, arguments) in one response, and the response is done.
    async fn calls(&mut self, calls: &[(&str, &str, &str)]) {
        self.responses += 1;
        let id = format!("resp_t{}", self.responses);
        let model = &mut self.pair.model;
        model
            .send(
                json!({"type": "response.created", "event_id": "e", "response":
                {"id": id, "object": "realtime.response", "status": "in_progress"}}),
            )
            .await;
        for (n, (call_id, name, arguments)) in calls.iter().enumerate() {
            model
                .send(json!({"type": "response.output_item.done", "event_id": "e", "response_id": id,
                    "output_index": n, "item": {"id": format!("item_{call_id}"), "object": "realtime.item",
                        "type": "function_call", "status": "completed", "call_id": call_id,
                        "name": name, "arguments": arguments}}))
                .await;
        }
        model
            .send(json!({"type": "response.done", "event_id": "e", "response":
                {"id": id, "object": "realtime.response", "status": "completed"}}))
            .await;
    }

    /// The model is told of a failure in words, and asked for a response; the call goes on.
    async fn told_of_failure(&mut self, call_id: &str, outcome: &str) -> String {
        let output = self.output(call_id).await;
        let output: Value = serde_json::from_str(&output).expect("JSON");
        let error = output["error"].as_str().expect("an error").to_owned();
        assert!(
            error.contains("Tell the caller") || error.contains("Ask"),
            "{error}"
        );
        assert!(
            !error.contains("127.0.0.1") && !error.contains(SECRET),
            "{error}"
        );
        self.response_is_wanted().await;
        self.pair.round_trip().await;
        self.daemon
            .counted(metric::TOOL_CALLS, &[("outcome", outcome)], 1.0)
            .await;
        error
    }

    async fn output(&mut self, call_id: &str) -> String {
        let event = self.pair.model.event().await;
        assert_eq!(event["type"], "conversation.item.create", "{event}");
        assert_eq!(event["item"]["type"], "function_call_output", "{event}");
        assert_eq!(event["item"]["call_id"], call_id, "{event}");
        event["item"]["output"].as_str().expect("text").to_owned()
    }

    /// One `response.create`, and nothing behind it.
    async fn response_is_wanted(&mut self) {
        let event = self.pair.model.event().await;
        assert_eq!(event["type"], "response.create", "{event}");
        self.pair.model.settle().await;
    }
}

/// HMAC-SHA256 as RFC 2104 section 2 writes it, for keys of at most a block.
fn hmac(key: &[u8], text: &[u8]) -> String {
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8, text: &[u8]| -> Vec<u8> {
        let mut bytes: Vec<u8> = block.iter().map(|byte| byte ^ pad).collect();
        bytes.extend_from_slice(text);
        Sha256::digest(&bytes).to_vec()
    };
    let outer = padded(0x5c, &padded(0x36, text));
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks a signature as `docs/tools.md` tells servers to.
fn is_signed(asked: &Asked, secret: &str) -> bool {
    let header = asked.header("x-voxrelay-signature").expect("signed");
    let (t, v1) = header.split_once(',').expect("two parts");
    let t = t.strip_prefix("t=").expect("a time");
    let v1 = v1.strip_prefix("v1=").expect("a signature");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let secs: u64 = t.parse().expect("seconds");
    assert!(now.as_secs().abs_diff(secs) < 300, "{header}");
    let signed = [t.as_bytes(), b".", &asked.body].concat();
    v1 == hmac(secret.as_bytes(), &signed)
}

#[test]
fn our_own_hmac_is_the_standards() {
    // RFC 4231 section 4.3.
    assert_eq!(
        hmac(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
}

#[tokio::test]
async fn a_tool_is_asked_with_a_signature_and_its_answer_brings_a_response() {
    let mut stage = Stage::new().await;
    // Digits and escapes go through as the model wrote them.
    let arguments = r#"{"id":12345678901234567890,"name":"Zo\u00eb \"Z\""}"#;
    stage.calls(&[("call_1", "look_up", arguments)]).await;
    let asked = stage.server.asked().await;
    assert_eq!(asked.request_line, "POST /tools/look_up?v=1 HTTP/1.1");
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("idempotency-key"), Some("call_1"));
    assert!(is_signed(&asked, SECRET));
    assert!(!is_signed(&asked, "another"));
    let body = asked.json();
    assert_eq!(body["toolCallId"], "call_1");
    assert_eq!(body["name"], "look_up");
    assert!(body["callId"].as_str().is_some_and(|id| !id.is_empty()));
    let text = std::str::from_utf8(&asked.body).expect("UTF-8");
    assert!(text.contains(arguments), "{text}");
    // Nobody waits for a tool: the caller is heard meanwhile.
    stage.pair.round_trip().await;
    asked.answer(r#"{"open":"nine to five"}"#).await;
    assert_eq!(stage.output("call_1").await, r#"{"open":"nine to five"}"#);
    stage.response_is_wanted().await;
    stage.pair.round_trip().await;
    stage
        .daemon
        .counted(metric::TOOL_CALLS, &[("outcome", "ok")], 1.0)
        .await;
    stage.pair.hang_up().await;
}

#[tokio::test]
async fn parallel_calls_are_answered_in_order_with_one_response() {
    let mut stage = Stage::new().await;
    stage
        .calls(&[
            ("call_1", "look_up", r#"{"n":1}"#),
            ("call_2", "look_up", r#"{"n":2}"#),
        ])
        .await;
    // Both are asked before either is answered.
    let mut both = [stage.server.asked().await, stage.server.asked().await];
    both.sort_by_key(|asked| asked.json()["toolCallId"].to_string());
    let [first, second] = both;
    assert_eq!(second.json()["arguments"], json!({"n": 2}));
    second.answer("\"two\"").await;
    stage.pair.round_trip().await;
    first.answer("\"one\"").await;
    assert_eq!(stage.output("call_1").await, "\"one\"");
    assert_eq!(stage.output("call_2").await, "\"two\"");
    stage.response_is_wanted().await;
    stage.pair.round_trip().await;
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_the_model_is_told() {
    let mut stage = Stage::new().await;
    stage.calls(&[("call_1", "slow", "{}")]).await;
    let asked = stage.server.asked().await;
    let error = stage.told_of_failure("call_1", "timeout").await;
    assert!(error.contains("did not answer in time"), "{error}");
    asked.abandoned().await;

    // And one that hangs in the middle of its answer.
    stage.calls(&[("call_2", "slow", "{}")]).await;
    let asked = stage.server.asked().await;
    assert!(
        asked.header("x-voxrelay-signature").is_none(),
        "it has no secret"
    );
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"a\"";
    let (_, error) = tokio::join!(
        asked.hang_after(head),
        stage.told_of_failure("call_2", "timeout")
    );
    assert!(error.contains("did not answer in time"), "{error}");
}

#[tokio::test]
async fn a_huge_answer_is_not_read_to_its_end() {
    // A gigabyte announced, a gigabyte in chunks, and an endless one that announces nothing.
    let piece = vec![b'a'; 64 * 1024];
    let chunk = [b"10000\r\n", &piece[..], b"\r\n"].concat();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n";
    let mut stage = Stage::new().await;
    for (n, (framing, piece)) in [
        ("Content-Length: 1073741824\r\n\r\n", &piece),
        ("Transfer-Encoding: chunked\r\n\r\n", &chunk),
        ("Connection: close\r\n\r\n", &piece),
    ]
    .into_iter()
    .enumerate()
    {
        let call_id = format!("call_{n}");
        stage.calls(&[(&call_id, "slow", "{}")]).await;
        let asked = stage.server.asked().await;
        let head = format!("{head}{framing}");
        let (taken, error) = tokio::join!(
            asked.answer_without_end(&head, piece),
            stage.told_of_failure(&call_id, "too_long")
        );
        assert!(error.contains("too long"), "{error}");
        // What the sockets between us hold, and no more.
        assert!(taken < 64 * 1024 * 1024, "{framing}: {taken} bytes");
    }
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let mut stage = Stage::new().await;
    let mut elsewhere = ToolServer::start().await;
    for status in [301, 302, 303, 307, 308] {
        let call_id = format!("call_{status}");
        stage.calls(&[(&call_id, "look_up", "{}")]).await;
        let location = elsewhere.url("/tools/look_up");
        let answer = format!(
            "HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        stage
            .server
            .asked()
            .await
            .answer_raw(answer.as_bytes())
            .await;
        let error = stage.told_of_failure(&call_id, "http_error").await;
        assert!(error.contains("asked elsewhere"), "{error}");
    }
    assert!(!elsewhere.was_contacted());
}

#[tokio::test]
async fn a_server_that_breaks_off_is_unreachable() {
    let mut stage = Stage::new().await;
    stage.calls(&[("call_1", "look_up", "{}")]).await;
    drop(stage.server.asked().await);
    let error = stage.told_of_failure("call_1", "unreachable").await;
    assert!(error.contains("can't be reached"), "{error}");
}

#[tokio::test]
async fn a_tool_that_nobody_defined_is_answered_in_words() {
    let mut stage = Stage::new().await;
    stage.calls(&[("call_1", "rm_rf", "{}")]).await;
    let output = stage.output("call_1").await;
    let output: Value = serde_json::from_str(&output).expect("JSON");
    let error = output["error"].as_str().expect("an error");
    assert!(error.contains("no tool named \"rm_rf\""), "{error}");
    stage.response_is_wanted().await;
    stage.pair.round_trip().await;
    stage
        .daemon
        .counted(metric::TOOL_CALLS, &[("outcome", "unknown_tool")], 1.0)
        .await;
}

#[tokio::test]
async fn arguments_that_are_no_json_object_are_answered_in_words_and_reach_no_server() {
    let mut stage = Stage::new().await;
    for (n, arguments) in ["{\"id\":", "not JSON", "[1]", "\"text\"", "7"]
        .into_iter()
        .enumerate()
    {
        let call_id = format!("call_{n}");
        stage.calls(&[(&call_id, "look_up", arguments)]).await;
        let output = stage.output(&call_id).await;
        let output: Value = serde_json::from_str(&output).expect("JSON");
        assert!(output["error"].is_string(), "{output}");
        stage.response_is_wanted().await;
    }
    stage.pair.round_trip().await;
    stage
        .daemon
        .counted(metric::TOOL_CALLS, &[("outcome", "bad_arguments")], 5.0)
        .await;
    assert!(!stage.server.was_contacted());
}
