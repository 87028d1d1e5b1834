//! Stream paths that reach control: ordinary requests, and upgrades that go back through the desk.

use super::*;
use crate::base::route::STREAM_ALIASES;
use crate::bus::command::{AdmitAnswer, ToDesk};

const UPGRADE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn upgrade(path: &str) -> String {
    let lines = UPGRADE.map(|(name, value)| format!("{name}: {value}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        lines.concat()
    )
}

/// Takes the next order as the desk and answers it.
fn decide(rig: &mut Rig, answer: AdmitAnswer) -> String {
    match rig.desk.blocking_recv().expect("an order") {
        ToDesk::Admit {
            head,
            peer,
            request_id,
            answer: to,
        } => {
            assert!(!request_id.is_empty());
            assert!(peer.is_some_and(|peer| peer.ip().is_loopback()));
            to.send(answer).expect("awaited");
            String::from_utf8(head).expect("text")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn ordinary_requests_to_every_stream_path_have_their_answers() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    for alias in STREAM_ALIASES {
        let path = match alias.has_id {
            true => format!("{}CA1", alias.prefix),
            false => alias.prefix.to_owned(),
        };
        let answer = client.get(&path);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (426, "upgrade_required"),
            "{path}"
        );
        assert_eq!(answer.header("upgrade"), "websocket");
        assert_eq!(answer.header("connection"), "Upgrade");
        let health = client.request("POST", &path, &[], b"");
        assert_eq!(
            (health.status, &health.json()["status"]),
            (200, &"ok".into()),
            "{path}"
        );
        assert_eq!(client.request("PUT", &path, &[], b"").status, 405, "{path}");
    }
}

#[test]
fn ids_that_cannot_be_are_bad_requests() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    for path in [
        "/media-stream/",
        "/media-stream/a/b",
        "/api/twilio/media-stream/a/",
        "/streams/x",
    ] {
        let answer = client.get(path);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_request"),
            "{path}"
        );
    }
}

#[test]
fn an_upgrade_on_a_kept_alive_connection_goes_back_through_the_desk_with_every_byte() {
    let mut rig = Rig::new(Config::default());
    let mut client = rig.connect();
    assert_eq!(client.get("/livez").status, 200);
    // The first frame comes with the request, as an eager client may send it.
    client.send(
        upgrade("/media-stream/CA1?token=t")
            .into_bytes()
            .into_iter()
            .chain(*b"early")
            .collect::<Vec<_>>(),
    );
    let accept = AdmitAnswer::Accept {
        accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into(),
        ticket: 77,
    };
    let head = decide(&mut rig, accept);
    assert!(
        head.starts_with("GET /media-stream/CA1?token=t HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.to_lowercase()
            .contains("sec-websocket-key: dghlihnhbxbszsbub25jzq=="),
        "{head}"
    );
    let answer = client.answer(false);
    assert_eq!(answer.status, 101);
    assert_eq!(
        answer.header("sec-websocket-accept"),
        "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    );
    assert!(answer.header("upgrade").eq_ignore_ascii_case("websocket"));
    assert!(answer.header("content-length").is_empty());
    let connection = match rig.desk.blocking_recv().expect("the connection") {
        ToDesk::Admitted {
            ticket: 77,
            connection,
        } => connection,
        other => panic!("{other:?}"),
    };
    client.send("later");
    let mut server = TcpStream::from(connection.fd);
    let mut bytes = connection.plaintext;
    while bytes.len() < 10 {
        let mut chunk = [0; 16];
        let n = server.read(&mut chunk).expect("readable");
        assert_ne!(n, 0, "cut after {bytes:?}");
        bytes.extend_from_slice(&chunk[..n]);
    }
    assert_eq!(bytes, b"earlylater");
    server.write_all(b"down").expect("writable");
    while client.read.len() < 4 {
        assert_ne!(client.fill(), 0);
    }
    assert_eq!(client.read, b"down");
}

#[test]
fn a_refused_upgrade_gets_the_desk_s_answer_and_the_connection_ends() {
    let mut rig = Rig::new(Config::default());
    for (path, status) in [
        ("/media-stream/CA1", 403),
        ("/nowhere", 404),
        ("/conformance/echo", 404),
    ] {
        let mut client = rig.connect();
        client.send(upgrade(path));
        let refusal = AdmitAnswer::Refuse {
            status,
            headers: vec![("Sec-WebSocket-Version", "13".into())],
            body: "{\"error\":{\"code\":\"x\"}}".into(),
        };
        decide(&mut rig, refusal);
        let answer = client.answer(true);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, "x"),
            "{path}"
        );
        assert_eq!(answer.header("connection"), "close");
        assert_eq!(answer.header("sec-websocket-version"), "13");
        assert!(client.is_closed());
    }
}

#[test]
fn a_desk_that_is_gone_or_says_nothing_is_a_503() {
    let mut rig = Rig::new(Config::default());
    let mut client = rig.connect();
    client.send(upgrade("/media-stream/CA1"));
    drop(rig.desk.blocking_recv().expect("an order"));
    assert_eq!(client.answer(true).status, 503);
    rig.desk.close();
    let mut client = rig.connect();
    client.send(upgrade("/media-stream/CA1"));
    assert_eq!(client.answer(true).status, 503);
}

#[test]
fn a_client_that_leaves_before_the_101_hands_nothing_over() {
    let mut rig = Rig::new(Config::default());
    let mut client = rig.connect();
    client.send(upgrade("/media-stream/CA1"));
    let order = rig.desk.blocking_recv().expect("an order");
    drop(client);
    drop(order);
    assert_eq!(rig.get("/livez").status, 200);
    assert!(rig.desk.try_recv().is_err());
}
