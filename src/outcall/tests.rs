//! Servers of every kind, all on loopback: each comes to one answer for the model.

use super::*;
use crate::base::id::{SlotKey, WorkerId};
use crate::base::secret::Secret;
use crate::base::time::Mono;
use crate::bus::command::{WorkerInbox, worker_queue};
use crate::bus::tool::tool_queue;
use crate::call::tools::{Outcome, ToolCall, ToolCallId, ToolResult};
use crate::proto::realtime::tool::HttpTool;
use hmac::{Hmac, KeyInit as _, Mac as _};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a server does with one connection, after it has read the request.
enum Answer {
    /// Writes this and closes.
    Bytes(Vec<u8>),
    /// Writes this, then this again and again, until nobody takes it.
    Endless(&'static str, Vec<u8>),
    /// Writes this and then nothing, ever.
    Hang(&'static str),
}

fn whole(status: &str, kind: &str, body: &[u8]) -> Answer {
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Answer::Bytes([head.as_bytes(), body].concat())
}

fn json(body: &str) -> Answer {
    whole("200 OK", "application/json", body.as_bytes())
}

/// A request as the server saw it.
struct Seen {
    head: String,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

async fn read_request(stream: &mut TcpStream) -> Seen {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let seen = Seen {
                head: head.to_owned(),
                body: body.to_owned(),
            };
            let length: usize = seen
                .header("content-length")
                .expect("a length")
                .parse()
                .unwrap();
            if body.len() == length {
                return seen;
            }
        }
        let read = stream.read_buf(&mut bytes).await.expect("a request");
        assert!(read > 0, "the client left");
    }
}

/// A server that gives each connection its next answer, and says what it was asked and, in the end, how much it
/// could write of an endless answer.
struct Server {
    address: SocketAddr,
    seen: mpsc::UnboundedReceiver<Seen>,
    written: mpsc::UnboundedReceiver<u64>,
}

impl Server {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (tell, seen) = mpsc::unbounded_channel();
        let (wrote, written) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _ = tell.send(read_request(&mut stream).await);
                match answer {
                    Answer::Bytes(bytes) => {
                        let _ = stream.write_all(&bytes).await;
                        let _ = stream.shutdown().await;
                    }
                    Answer::Hang(head) => {
                        let _ = stream.write_all(head.as_bytes()).await;
                        // Until the client gives up.
                        let _ = stream.read(&mut [0; 1]).await;
                    }
                    Answer::Endless(head, piece) => {
                        let _ = stream.write_all(head.as_bytes()).await;
                        let mut total = 0;
                        while stream.write_all(&piece).await.is_ok() {
                            total += piece.len() as u64;
                        }
                        let _ = wrote.send(total);
                    }
                }
            }
        });
        Self {
            address,
            seen,
            written,
        }
    }

    fn requests(&mut self) -> Vec<Seen> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).collect()
    }
}

fn call(address: SocketAddr) -> ToolCall {
    ToolCall {
        tool_call_id: ToolCallId::new("call_1").expect("short"),
        name: "look_up".into(),
        tool: HttpTool {
            url: format!("http://{address}/tools/look_up"),
            secret: Secret::default(),
            timeout_ms: 5_000,
            retries: 2,
            response_bytes_max: 16 * 1024,
        },
        arguments: "{\"id\": 12345678901234567890123}".into(),
        expires: Mono(u64::MAX),
    }
}

async fn run(call: &ToolCall) -> ToolResult {
    let tls = crate::transport::roots::outcall_config().expect("roots");
    let client = client(&tls).expect("a client");
    let call_id = CallId::new("call \"one\"").expect("short");
    request::run(
        &client,
        &SystemClock::new(),
        &call_id,
        call,
        &mut Rng::from_u64(1),
    )
    .await
}

fn error(result: &ToolResult) -> String {
    let output: serde_json::Value = serde_json::from_str(&result.output).expect("JSON");
    output["error"].as_str().expect("an error").to_owned()
}

#[tokio::test]
async fn the_request_says_who_asks_for_what_and_is_signed() {
    let mut server = Server::start(vec![json("{\"name\":\"Ada\"}")]).await;
    let mut call = call(server.address);
    call.tool.secret = Secret::new("hidden");
    let result = run(&call).await;
    assert_eq!(
        result,
        ToolResult {
            tool_call_id: call.tool_call_id,
            output: "{\"name\":\"Ada\"}".into(),
            outcome: Outcome::Ok,
        }
    );
    let seen = &server.requests()[0];
    assert!(
        seen.head.starts_with("POST /tools/look_up HTTP/1.1\r\n"),
        "{}",
        seen.head
    );
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("idempotency-key"), Some("call_1"));
    assert_eq!(
        seen.body,
        r#"{"callId":"call \"one\"","toolCallId":"call_1","name":"look_up","arguments":{"id": 12345678901234567890123}}"#
    );
    // As a server would check it.
    let value = seen.header("x-voxrelay-signature").expect("signed");
    let (time, hex) = value.split_once(",v1=").expect("both parts");
    let time = time.strip_prefix("t=").expect("a time");
    let mac = (0..hex.len() / 2)
        .map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("hex"))
        .collect::<Vec<_>>();
    let mut hmac = Hmac::<sha2::Sha256>::new_from_slice(b"hidden").expect("a key");
    hmac.update(format!("{time}.{}", seen.body).as_bytes());
    hmac.verify_slice(&mac).expect("the signature holds");
    assert!(!format!("{:?}", call.tool).contains("hidden"));
}

#[tokio::test]
async fn a_tool_without_a_secret_is_asked_unsigned() {
    let mut server = Server::start(vec![json("{}")]).await;
    run(&call(server.address)).await;
    assert_eq!(server.requests()[0].header("x-voxrelay-signature"), None);
}

#[tokio::test]
async fn a_server_error_is_tried_again_with_the_same_key() {
    let answers = vec![whole("500 Oops", "text/plain", b"no"), json("{\"n\":1}")];
    let mut server = Server::start(answers).await;
    let result = run(&call(server.address)).await;
    assert_eq!(
        (result.outcome, result.output.as_str()),
        (Outcome::Ok, "{\"n\":1}")
    );
    let seen = server.requests();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!(seen[1].header("idempotency-key"), Some("call_1"));
}

#[tokio::test]
async fn tries_are_used_up_and_then_the_model_is_told() {
    let busy = || whole("429 Slow Down", "text/plain", b"later");
    let mut server = Server::start(vec![busy(), busy(), busy(), json("{}")]).await;
    let result = run(&call(server.address)).await;
    assert_eq!(result.outcome, Outcome::HttpError);
    assert!(error(&result).contains("HTTP 429"), "{}", result.output);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_refusal_is_final_and_its_words_reach_the_model() {
    let body = "no customer of that number ".repeat(1_000);
    let refusal = whole("404 Not Found", "text/plain", body.as_bytes());
    let mut server = Server::start(vec![refusal, json("{}")]).await;
    let result = run(&call(server.address)).await;
    assert_eq!(result.outcome, Outcome::HttpError);
    assert!(error(&result).contains("HTTP 404"));
    assert!(result.output.contains("no customer"));
    assert!(result.output.len() < 2_000, "cut");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    elsewhere.set_nonblocking(true).expect("non-blocking");
    let head = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{}/x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        elsewhere.local_addr().expect("bound")
    );
    let server = Server::start(vec![Answer::Bytes(head.into_bytes())]).await;
    let result = run(&call(server.address)).await;
    assert_eq!(result.outcome, Outcome::HttpError);
    assert!(error(&result).contains("not allowed"), "{}", result.output);
    let nobody = elsewhere.accept().expect_err("nobody came");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_and_not_asked_again() {
    for head in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"a\"",
    ] {
        let mut server = Server::start(vec![Answer::Hang(head), json("{}")]).await;
        let mut call = call(server.address);
        call.tool.timeout_ms = 100;
        let result = run(&call).await;
        assert_eq!(result.outcome, Outcome::Timeout, "{head:?}");
        assert!(error(&result).contains("in time"));
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_long_answer_is_cut_off_not_read() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    const GIGABYTE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    for answer in [
        Answer::Endless(CHUNKED, chunk),
        Answer::Endless(GIGABYTE, vec![b'x'; 0x10000]),
        Answer::Endless(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
            vec![b'x'; 0x10000],
        ),
    ] {
        let mut server = Server::start(vec![answer]).await;
        let result = run(&call(server.address)).await;
        assert_eq!(result.outcome, Outcome::TooLong);
        assert!(error(&result).contains("too long"));
        // Nothing but the sockets' buffers took more than we read.
        let written = server.written.recv().await.expect("its end");
        assert!(written < 64 << 20, "{written} bytes went somewhere");
    }
}

#[tokio::test]
async fn the_bound_on_an_answer_is_inclusive() {
    let body = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    let server = Server::start(vec![json(&body(64)), json(&body(65))]).await;
    let mut call = call(server.address);
    call.tool.response_bytes_max = 64;
    assert_eq!(run(&call).await.output, body(64));
    assert_eq!(run(&call).await.outcome, Outcome::TooLong);
}

#[tokio::test]
async fn a_server_that_breaks_off_is_not_asked_again() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"a\"",
        "",
        "not HTTP at all\r\n\r\n",
    ] {
        let answers = vec![Answer::Bytes(bytes.as_bytes().to_vec()), json("{}")];
        let mut server = Server::start(answers).await;
        let result = run(&call(server.address)).await;
        assert_eq!(result.outcome, Outcome::Unreachable, "{bytes:?}");
        error(&result);
        assert_eq!(server.requests().len(), 1, "{bytes:?}");
    }
}

#[tokio::test]
async fn only_json_and_text_are_answers() {
    for (kind, body, outcome) in [
        (
            "application/json; charset=utf-8",
            b"{}".as_slice(),
            Outcome::Ok,
        ),
        ("application/problem+json", b"[1]", Outcome::Ok),
        ("text/plain", b"open until six", Outcome::Ok),
        ("application/json", b"{\"a\":", Outcome::BadContent),
        ("application/json", b"<html>", Outcome::BadContent),
        ("text/plain", b"\xff\xfe", Outcome::BadContent),
        ("image/png", b"\x89PNG", Outcome::BadContent),
        ("application/octet-stream", b"{}", Outcome::BadContent),
    ] {
        let server = Server::start(vec![whole("200 OK", kind, body)]).await;
        let result = run(&call(server.address)).await;
        assert_eq!(result.outcome, outcome, "{kind} {body:?}");
        match outcome {
            Outcome::Ok => assert_eq!(result.output.as_bytes(), body),
            _ => drop(error(&result)),
        }
    }
    let nothing = Answer::Bytes(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_vec());
    let server = Server::start(vec![nothing]).await;
    assert_eq!(run(&call(server.address)).await.output, "{\"ok\":true}");
}

#[tokio::test]
async fn nobody_listening_is_an_answer_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let result = run(&call(address)).await;
    assert_eq!(result.outcome, Outcome::Unreachable);
    assert!(error(&result).contains("can't be reached"));
    // Neither the model nor the caller needs to know where.
    assert!(!result.output.contains("127.0.0.1"));
}

#[tokio::test]
async fn an_order_that_nobody_waits_for_is_not_given() {
    let mut server = Server::start(vec![json("{}")]).await;
    let mut call = call(server.address);
    call.expires = Mono(0);
    assert_eq!(run(&call).await.outcome, Outcome::Timeout);
    assert_eq!(server.requests().len(), 0);
}

async fn next(inbox: &WorkerInbox) -> (SlotKey, ToolResult) {
    loop {
        match inbox.next() {
            Some(ToWorker::ToolResult { slot, result }) => return (slot, result),
            Some(other) => panic!("{other:?}"),
            None => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn one_call_s_slow_tools_leave_room_for_another_s() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let (orders, inbox) = worker_queue(64).expect("eventfd");
    let (requests, tool_inbox) = tool_queue(64);
    let outcall = start(Parts {
        inbox: tool_inbox,
        workers: vec![orders],
        tls: crate::transport::roots::outcall_config().expect("roots"),
        clock: SystemClock::new(),
    })
    .expect("a thread");
    let slow = (0..6).map(|n| ("slow", n));
    for (call_id, index) in slow.chain([("other", 6)]) {
        let request = ToolRequest {
            worker: WorkerId(0),
            slot: SlotKey {
                index,
                generation: 3,
            },
            call_id: CallId::new(call_id).expect("short"),
            call: call(address),
        };
        requests.send(request).await.expect("room");
    }
    // The first five to come are four of the slow call and the other's, though that asked last.
    let mut held = Vec::new();
    for _ in 0..5 {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        held.push((read_request(&mut stream).await.body, stream));
    }
    let of_other = held
        .iter()
        .filter(|(body, _)| body.contains("\"callId\":\"other\""));
    assert_eq!(of_other.count(), 1);
    // Answering lets the rest come.
    let Answer::Bytes(bytes) = json("{}") else {
        unreachable!("whole answers are bytes");
    };
    let mut answered = 0;
    while answered < 7 {
        let mut stream = match held.pop() {
            Some((_, stream)) => stream,
            None => {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                read_request(&mut stream).await;
                stream
            }
        };
        stream.write_all(&bytes).await.expect("taken");
        answered += 1;
    }
    let mut slots = Vec::new();
    for _ in 0..7 {
        let (slot, result) = next(&inbox).await;
        assert_eq!((slot.generation, result.outcome), (3, Outcome::Ok));
        slots.push(slot.index);
    }
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3, 4, 5, 6]);
    // Without senders the thread ends.
    drop(requests);
    outcall.join();
}
