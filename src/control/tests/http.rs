//! Status, errors, limits, the admin listener.

use super::*;
use crate::base::id::CallId;
use crate::base::time::Mono;
use crate::bus::command::{CallTurns, ToWorker};
use crate::call::fact::Turn;
use crate::call::{EndReason, Fact, Report, Stats};

#[test]
fn health_tells_the_build_and_the_calls_on_one_kept_alive_connection() {
    let rig = Rig::new(Config::default());
    rig.worker.load().set_live(3);
    let mut client = rig.connect();
    let health = client.get("/health");
    assert_eq!(health.status, 200);
    let json = health.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["activeCalls"], 3);
    assert_eq!(json["version"], crate::VERSION);
    assert_eq!(json["commit"], crate::COMMIT);
    assert!(json["uptime"].is_u64());
    assert_eq!(client.get("/livez").status, 200);
    assert_eq!(client.get("/readyz").status, 200);
    let head = client.request("HEAD", "/health", &[], b"");
    assert_eq!(head.status, 200);
    assert!(head.header("content-type").contains("json"));
    assert_eq!(client.get("/livez").status, 200, "the HEAD had no body");
}

#[test]
fn bytes_that_the_desk_had_read_come_first() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect_with(b"GET /livez HTTP/1.1\r\nHost: a\r\n");
    client.send("\r\n");
    assert_eq!(client.answer(true).status, 200);
}

#[test]
fn draining_is_not_ready_but_alive() {
    let rig = Rig::new(Config::default());
    rig.drain();
    let ready = rig.get("/readyz");
    assert_eq!((ready.status, ready.code().as_str()), (503, "unavailable"));
    assert_eq!(rig.get("/livez").status, 200);
    assert_eq!(rig.get("/health").json()["status"], "draining");
}

#[test]
fn without_the_desk_nothing_is_ready() {
    let mut rig = Rig::new(Config::default());
    rig.desk.close();
    assert_eq!(rig.get("/readyz").status, 503);
}

#[test]
fn the_last_end_is_remembered() {
    let rig = Rig::new(Config::default());
    let report = Report {
        call_id: CallId::new("c9").expect("fits"),
        at: Now::default(),
        fact: Fact::Ended {
            reason: EndReason::CallerHungUp,
            stats: Box::new(Stats::default()),
        },
    };
    rig.reports.blocking_send(report).expect("room");
    let mut client = rig.connect();
    // The report and the request go different ways: ask until it has arrived.
    let json = loop {
        let json = client.get("/health").json();
        if json["endedCalls"] == 1 {
            break json;
        }
    };
    assert_eq!(json["lastEnded"]["callId"], "c9");
    assert_eq!(json["lastEnded"]["reason"], "caller_hung_up");
}

#[test]
fn unknown_paths_and_methods_have_the_one_error_shape() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    let missing = client.request("GET", "/nothing", &[("X-Request-Id", "abc-1")], b"");
    assert_eq!(
        (missing.status, missing.code().as_str()),
        (404, "not_found")
    );
    assert_eq!(missing.json()["error"]["requestId"], "abc-1");
    assert_eq!(missing.header("x-request-id"), "abc-1");
    let wrong = client.request("DELETE", "/health", &[], b"");
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (405, "method_not_allowed")
    );
    assert!(wrong.header("allow").contains("GET"), "{wrong:?}");
    let invented = client.request("BREW", "/health", &[], b"");
    assert_eq!(invented.status, 405);
    let head = client.request("HEAD", "/nothing", &[], b"");
    assert_eq!(head.status, 404);
    assert_eq!(client.get("/livez").status, 200, "the HEAD had no body");
}

#[test]
fn a_strange_request_id_is_replaced_by_one_of_ours() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    let long = "x".repeat(65);
    for given in ["a b", "<script>", long.as_str()] {
        let answer = client.request("GET", "/livez", &[("X-Request-Id", given)], b"");
        let id = answer.header("x-request-id");
        assert!(!id.is_empty() && id != given, "{id}");
    }
    let (first, second) = (client.get("/livez"), client.get("/livez"));
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[test]
fn what_is_no_http_is_refused_and_closed_and_others_live_on() {
    let rig = Rig::new(Config::default());
    let mut good = rig.connect();
    let mut bad = rig.connect();
    bad.send("\x16\x03\x01 nonsense\r\n\r\n");
    let mut rest = Vec::new();
    // Closed, with or without a 400.
    bad.stream.read_to_end(&mut rest).expect("an end");
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 400"));
    assert_eq!(good.get("/livez").status, 200);
}

#[test]
fn later_heads_have_the_bounds_of_the_first() {
    let rig = Rig::new(Config::default());
    let long = "x".repeat(crate::base::limit::HEAD_BYTES_MAX);
    let many = "X-A: b\r\n".repeat(crate::base::limit::HEADERS_MAX + 1);
    for lines in [format!("X-Long: {long}\r\n"), many] {
        let mut client = rig.connect();
        assert_eq!(client.get("/livez").status, 200);
        client.send(format!(
            "GET /livez HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
        ));
        assert_eq!(client.answer(true).status, 431);
    }
}

#[test]
fn metrics_are_for_this_machine_on_the_main_port() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    let metrics = client.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(
        metrics
            .header("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    for headers in [
        [("Host", "voice.example.com"), ("Accept", "*/*")],
        [("Host", "localhost"), ("X-Forwarded-For", "203.0.113.9")],
        [("Host", "localhost"), ("Forwarded", "for=203.0.113.9")],
    ] {
        assert_eq!(
            client.request("GET", "/metrics", &headers, b"").status,
            404,
            "{headers:?}"
        );
    }
    let mut config = Config::default();
    config.listen.addresses = vec!["0.0.0.0".parse().expect("an address")];
    assert_eq!(Rig::new(config).get("/metrics").status, 404);
}

#[test]
fn the_admin_listener_has_metrics_and_health_and_no_webhooks() {
    let mut config = Config::default();
    config.listen.admin = Some("127.0.0.1:0".parse().expect("an address"));
    let rig = Rig::new(config);
    let address = rig
        .control
        .as_ref()
        .and_then(|control| control.admin)
        .expect("bound");
    let mut client = Client::new(TcpStream::connect(address).expect("connected"));
    assert_eq!(client.get("/metrics").status, 200);
    assert_eq!(client.get("/health").status, 200);
    assert_eq!(client.get("/api/twilio/voice").status, 404);
    assert_eq!(client.get("/media-stream").status, 404);
}

#[test]
fn a_taken_admin_port_is_an_error_that_names_it() {
    let taken = StdListener::bind("127.0.0.1:0").expect("a port");
    let mut config = Config::default();
    config.listen.admin = Some(taken.local_addr().expect("bound"));
    let error = Rig::try_new(config).err().expect("refused");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("listen.admin"));
}

#[test]
fn the_route_table_lists_every_path() {
    let rig = Rig::new(Config::default());
    let json = rig.get("/api/routes").json();
    let routes = json["routes"].as_array().expect("a list");
    let paths: Vec<_> = routes
        .iter()
        .filter_map(|route| route["path"].as_str())
        .collect();
    for alias in crate::base::route::STREAM_ALIASES {
        assert!(paths.contains(&alias.pattern), "{}", alias.pattern);
    }
    for route in router::ROUTES {
        assert!(paths.contains(&route.path), "{}", route.path);
    }
}

#[test]
fn a_connection_without_room_is_answered_once_and_its_place_comes_back() {
    struct Told(std::sync::mpsc::Sender<()>);
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let rig = Rig::new(Config::default());
    let mut held = Vec::new();
    for keep_alive in [true, false] {
        let (told, dropped) = std::sync::mpsc::channel();
        let mut client = rig.connect_as(b"", HttpPlace::new(Told(told)), keep_alive);
        let answer = client.get("/livez");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection") == "close", !keep_alive);
        if keep_alive {
            assert_eq!(client.get("/livez").status, 200);
            assert!(
                dropped.try_recv().is_err(),
                "held while the connection lives"
            );
            held.push(client);
        } else {
            assert!(client.is_closed());
            dropped.recv().expect("given back");
        }
    }
}

#[test]
fn a_bad_head_on_a_kept_alive_connection_is_refused_in_its_turn() {
    let rig = Rig::new(Config::default());
    for (bad, status) in [
        ("GET /livez HTTP/1.1\nHost: x\n\n", 400),
        ("GET /livez HTTP/1.1\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        (
            "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            400,
        ),
        (
            "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", 505),
    ] {
        let mut client = rig.connect();
        client.send(format!(
            "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n{bad}GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
        ));
        assert_eq!(client.answer(true).status, 200);
        let answer = client.answer(true);
        assert_eq!(answer.status, status, "{bad}");
        assert_eq!(answer.header("connection"), "close");
        let id = answer.header("x-request-id");
        assert_eq!(answer.json()["error"]["requestId"], id);
        assert!(client.is_closed());
    }
}

#[test]
fn bodies_of_stream_posts_are_read_and_judged() {
    let rig = Rig::new(Config::default());
    let post = |framing: &str| format!("POST /streams HTTP/1.1\r\nHost: x\r\n{framing}");
    let mut client = rig.connect();
    for body in [
        "Content-Length: 2\r\n\r\n{}",
        "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        client.send(post(body));
        assert_eq!(client.answer(true).status, 200);
    }
    for (body, status) in [
        (
            "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n2 \r\n{}\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (
            format!("Content-Length: 70000\r\n\r\n{}", "x".repeat(70_000)),
            413,
        ),
    ] {
        let mut client = rig.connect();
        client.send(post(&body));
        let answer = client.answer(true);
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, "close")
        );
    }
}

#[test]
fn a_client_that_ends_its_side_is_still_answered() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    client.send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    client
        .stream
        .shutdown(std::net::Shutdown::Write)
        .expect("half closed");
    assert_eq!(client.answer(true).status, 200);
    assert!(client.is_closed());
}

/// The next order to the worker; the request and the order go different ways.
fn ordered(rig: &Rig) -> (CallId, tokio::sync::oneshot::Sender<Option<CallTurns>>) {
    loop {
        match rig.worker.next() {
            Some(ToWorker::Turns { call_id, answer }) => return (call_id, answer),
            Some(other) => panic!("{other:?}"),
            None => std::thread::yield_now(),
        }
    }
}

const ASK_TURNS: &str = "GET /api/calls/c9/turns HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn a_live_calls_turns_are_what_its_worker_says() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    client.send(ASK_TURNS);
    let (call_id, answer) = ordered(&rig);
    assert_eq!(call_id.as_str(), "c9");
    let turn = Turn {
        stopped: Mono(2_000_000_000),
        created: Some(Duration::from_millis(90)),
        first_delta: Some(Duration::from_micros(500_900)),
        ..Turn::default()
    };
    let at = Now {
        mono: Mono(5_000_000_000),
        unix_ms: 1_700_000_003_000,
    };
    let turns = vec![turn];
    answer.send(Some(CallTurns { at, turns })).expect("asked");
    let told = client.answer(true);
    assert_eq!(told.status, 200);
    assert_eq!(
        told.json(),
        serde_json::json!({"callId": "c9", "turns": [{
            "stoppedUnixMs": 1_700_000_000_000_u64, "createdMs": 90, "firstDeltaMs": 500,
            "firstByteMs": null, "firstMarkMs": null,
        }]})
    );
}

#[test]
fn turns_of_an_unknown_call_are_a_404_and_of_a_silent_worker_a_503() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    client.send(ASK_TURNS);
    ordered(&rig).1.send(None).expect("asked");
    let unknown = client.answer(true);
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["message"], "No such call lives.");
    // The worker is gone, or holds the question past the deadline.
    for holds in [false, true] {
        client.send(ASK_TURNS);
        let (_, answer) = ordered(&rig);
        let held = holds.then_some(answer);
        let silent = client.answer(true);
        assert_eq!(
            (silent.status, silent.code().as_str()),
            (503, "unavailable")
        );
        drop(held);
    }
    // An id that no call can have asks nobody.
    let long = format!("/api/calls/{}/turns", "x".repeat(200));
    assert_eq!(client.get(&long).status, 404);
    assert!(rig.worker.next().is_none());
}

#[test]
fn turns_are_for_this_machine_on_the_main_port_and_for_all_on_the_admin_listener() {
    let mut config = Config::default();
    config.listen.admin = Some("127.0.0.1:0".parse().expect("an address"));
    let rig = Rig::new(config);
    let mut client = rig.connect();
    for headers in [
        [("Host", "voice.example.com"), ("Accept", "*/*")],
        [("Host", "localhost"), ("X-Forwarded-For", "203.0.113.9")],
    ] {
        let answer = client.request("GET", "/api/calls/c9/turns", &headers, b"");
        assert_eq!(answer.status, 404, "{headers:?}");
    }
    assert!(rig.worker.next().is_none(), "nobody was asked");
    let control = rig.control.as_ref().expect("runs");
    let address = control.admin.expect("bound");
    let mut client = Client::new(TcpStream::connect(address).expect("connected"));
    client.send(ASK_TURNS.replace("localhost", "voice.example.com"));
    ordered(&rig).1.send(None).expect("asked");
    assert_eq!(
        client.answer(true).json()["error"]["message"],
        "No such call lives."
    );
}
