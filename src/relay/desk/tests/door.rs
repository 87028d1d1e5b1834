//! What comes in at the door: upgrades, answers, hand-over to workers and to control, tickets, caps.

use super::*;
use crate::base::token::mint;
use crate::bus::command::AdmitAnswer;
use crate::transport::{ServerName, roots};

#[tokio::test]
async fn a_good_upgrade_goes_to_a_worker_with_the_bytes_behind_it() {
    let house = House::new(loopback_config());
    for (path, id) in [
        ("/media-stream/CA1", Some("CA1")),
        ("/api/twilio/media-stream/call-1", Some("call-1")),
        ("/api/twilio/media-stream-simple", None),
        ("/media-stream", None),
        ("/api/voice/stream", None),
        ("/streams?token=x", None),
    ] {
        let mut client = house.connect().await;
        let request = format!("{}early", get(path));
        client.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(
            head.contains(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")),
            "{head}"
        );
        let (call_id, sid, mut carrier) = house.workers[0].adopted().await;
        match id {
            Some(id) => assert_eq!(call_id.as_str(), id),
            None => assert_eq!(call_id.as_str().len(), 32),
        }
        assert_eq!(sid, None);
        assert_eq!(carrier.plaintext, b"early");
        assert_eq!(carrier.peer, Some(client.local_addr().unwrap()));
        carrier.plaintext.clear();
        talk(&mut client, carrier).await;
        let order = ToDesk::Ended {
            worker: WorkerId(0),
            call_id,
        };
        house.orders.send(order).await.unwrap();
    }
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_understood() {
    let house = House::new(loopback_config());
    let mut client = house.connect().await;
    client.set_nodelay(true).unwrap();
    for byte in get("/streams").into_bytes() {
        client.write_all(&[byte]).await.unwrap();
    }
    assert!(read_head(&mut client).await.contains(" 101 "));
    house.workers[0].adopted().await;
}

struct Files {
    _folder: tempfile::TempDir,
    files: config::TlsFiles,
}

impl Files {
    fn new() -> (Self, String) {
        let folder = tempfile::tempdir().unwrap();
        let files = config::TlsFiles {
            cert_file: folder.path().join("cert.pem"),
            key_file: folder.path().join("key.pem"),
        };
        let made = Self {
            _folder: folder,
            files,
        };
        let ca = made.renew();
        (made, ca)
    }

    fn renew(&self) -> String {
        let made = roots::make_certificate(&["localhost"]).unwrap();
        std::fs::write(&self.files.cert_file, made.cert_pem).unwrap();
        std::fs::write(&self.files.key_file, made.key_pem).unwrap();
        made.ca_pem
    }
}

async fn connect_tls(house: &House, ca: &str) -> io::Result<Stream> {
    let config = roots::client_config_from_pem(ca).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    Stream::connect(house.address(), Some((config, name))).await
}

#[tokio::test]
async fn tls_connections_are_handed_over_with_their_state() {
    let (files, ca) = Files::new();
    let mut config = loopback_config();
    config.listen.tls = Some(files.files.clone());
    let mut house = House::new(config);

    let mut client = connect_tls(&house, &ca).await.unwrap();
    client
        .write_all(format!("{}early", get("/streams")).as_bytes())
        .await
        .unwrap();
    assert!(read_head(&mut client).await.contains(" 101 "));
    let (_, _, mut carrier) = house.workers[0].adopted().await;
    assert_eq!(std::mem::take(&mut carrier.plaintext), b"early");
    talk(&mut client, carrier).await;

    let mut client = connect_tls(&house, &ca).await.unwrap();
    let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut established = house.http.recv().await.unwrap().established;
    assert_eq!(
        std::mem::take(&mut established.plaintext),
        request.as_bytes()
    );
    talk(&mut client, established).await;

    let mut client = connect_tls(&house, &ca).await.unwrap();
    client.write_all(get("/nowhere").as_bytes()).await.unwrap();
    let mut answer = String::new();
    // Ends with close_notify, or this would be an error.
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_reload_takes_the_new_certificate_and_keeps_the_old_one_on_an_error() {
    let (files, old) = Files::new();
    let mut config = loopback_config();
    config.listen.tls = Some(files.files.clone());
    let house = House::new(config);
    connect_tls(&house, &old).await.unwrap();

    std::fs::write(&files.files.key_file, "rubbish").unwrap();
    reload(&house).await;
    connect_tls(&house, &old).await.unwrap();

    let new = files.renew();
    reload(&house).await;
    connect_tls(&house, &new).await.unwrap();
    assert!(connect_tls(&house, &old).await.is_err());
}

/// Returns when the desk has obeyed: it takes its orders one after the other, and answers the second.
async fn reload(house: &House) {
    house.orders.send(ToDesk::ReloadTls).await.unwrap();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let order = ToDesk::Admit {
        head: b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        peer: None,
        request_id: String::new(),
        answer,
    };
    house.orders.send(order).await.unwrap();
    answered.await.unwrap();
}

#[tokio::test]
async fn refusals_arrive_whole_with_status_and_json() {
    let house = House::new(loopback_config());
    let long = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(17_000)
    );
    let version = get("/streams").replace("Version: 13", "Version: 8");
    let doubled = get("/streams").replace("Host: x\r\n", "Host: x\r\nUpgrade: websocket\r\n");
    for (request, status, code) in [
        (
            "GET /streams HTTP/1.1\r\nHost: x\r\n\r\n",
            426,
            "not_an_upgrade",
        ),
        (version.as_str(), 426, "upgrade_version"),
        (doubled.as_str(), 400, "upgrade_header"),
        (get("/nowhere").as_str(), 404, "unknown_path"),
        (get("/conformance/echo").as_str(), 404, "unknown_path"),
        (get("/media-stream/").as_str(), 400, "bad_id"),
        (get("/media-stream/a%20b").as_str(), 400, "bad_id"),
        ("DELETE /streams HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method"),
        (long.as_str(), 431, ""),
        ("GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505, ""),
        ("\x01\x02\x03\r\n\r\n", 400, ""),
        (
            "POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            "head_smuggling",
        ),
    ] {
        let answer = house.ask(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.contains("Connection: close"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let got = body["error"]["code"].as_str().unwrap();
        assert!(got == code || code.is_empty(), "{got}");
        assert!(body["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn an_answer_is_not_lost_to_a_reset_when_the_peer_goes_on_sending() {
    let house = House::new(loopback_config());
    let mut client = house.connect().await;
    let request = format!("{}{}", get("/nowhere"), "x".repeat(40_000));
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("}}"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_slow_head_gets_408_and_a_slow_handshake_is_cut() {
    let deadlines = Deadlines {
        tls_accept: Duration::from_millis(50),
        head: Duration::from_millis(50),
    };
    let house = House::with(loopback_config(), deadlines);
    for begun in ["", "GET / HT"] {
        let answer = house.ask(begun).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    let (files, _) = Files::new();
    let mut config = loopback_config();
    config.listen.tls = Some(files.files.clone());
    let house = House::with(config, deadlines);
    assert_eq!(house.ask("").await, "");
}

#[tokio::test]
async fn ordinary_requests_go_to_control_whole() {
    let mut house = House::new(loopback_config());
    for request in [
        "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /streams HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    ] {
        let mut client = house.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let mut established = house.http.recv().await.unwrap().established;
        assert_eq!(
            std::mem::take(&mut established.plaintext),
            request.as_bytes()
        );
        assert!(established.peer.is_some());
        talk(&mut client, established).await;
    }
}

#[tokio::test]
async fn a_full_queue_to_control_is_answered_503() {
    let house = House::new(loopback_config());
    let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = house.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        waiting.push(client);
    }
    while house.http.len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(house.ask(request).await.starts_with("HTTP/1.1 503 "));
}

#[tokio::test]
async fn a_ticket_opens_its_call_once() {
    let house = House::new(loopback_config());
    house.expect("call-7", "CA7");
    let call_id = CallId::new("call-7").unwrap();
    let ticket = mint(&[9; 32], &call_id, 99_999_999_999);
    for path in [
        format!("/media-stream/{ticket}"),
        format!("/streams?token={ticket}"),
    ] {
        let answer = match path.starts_with("/media-stream") {
            true => {
                let mut client = house.connect().await;
                client.write_all(get(&path).as_bytes()).await.unwrap();
                read_head(&mut client).await
            }
            false => house.ask(&get(&path)).await,
        };
        if path.starts_with("/media-stream") {
            assert!(answer.contains(" 101 "), "{answer}");
            let (adopted, sid, _) = house.workers[0].adopted().await;
            assert_eq!(adopted, call_id);
            assert_eq!(sid.unwrap().as_str(), "CA7");
        } else {
            assert!(
                answer.contains(" 403 ") && answer.contains("ticket_reused"),
                "{answer}"
            );
        }
    }
    for (key, expires, code) in [
        (8, 99_999_999_999, "ticket_forged"),
        (9, 1, "ticket_expired"),
    ] {
        let ticket = mint(&[key; 32], &call_id, expires);
        let answer = house.ask(&get(&format!("/media-stream/{ticket}"))).await;
        assert!(
            answer.contains(" 403 ") && answer.contains(code),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn with_auth_tokens_the_signature_is_needed_and_checked() {
    let mut config = loopback_config();
    config.carrier.auth_tokens = vec![Secret::new("old"), Secret::new("secret")];
    config.listen.public_url = Some("https://voice.example.com".into());
    let house = House::new(config);
    let url = "wss://voice.example.com/media-stream/CA1";
    let signature = crate::proto::carrier::signature::sign("secret", url, &[]);
    let signed = |text: &str| {
        get("/media-stream/CA1").replace(
            "Host: x\r\n",
            &format!("Host: x\r\nX-Twilio-Signature: {text}\r\n"),
        )
    };

    let mut client = house.connect().await;
    client
        .write_all(signed(&signature).as_bytes())
        .await
        .unwrap();
    assert!(read_head(&mut client).await.contains(" 101 "));
    house.workers[0].adopted().await;

    let answer = house.ask(&signed("bm90IGEgc2lnbmF0dXJl")).await;
    assert!(
        answer.contains(" 403 ") && answer.contains("signature_wrong"),
        "{answer}"
    );
    let answer = house.ask(&get("/media-stream/CA1")).await;
    assert!(
        answer.contains(" 403 ") && answer.contains("signature_missing"),
        "{answer}"
    );
}

#[tokio::test]
async fn calls_are_capped_spread_and_drained() {
    let mut config = loopback_config();
    config.relay.calls_max = 2;
    let house = House::new(config);
    let mut clients = Vec::new();
    let mut first = None;
    for worker in 0..2 {
        let mut client = house.connect().await;
        client.write_all(get("/streams").as_bytes()).await.unwrap();
        read_head(&mut client).await;
        let (call_id, _, carrier) = house.workers[worker].adopted().await;
        first.get_or_insert(call_id);
        clients.push((client, carrier));
    }
    let answer = house.ask(&get("/streams")).await;
    assert!(
        answer.contains(" 503 ") && answer.contains("Retry-After: "),
        "{answer}"
    );

    let ended = ToDesk::Ended {
        worker: WorkerId(1),
        call_id: first.unwrap(),
    };
    house.orders.send(ended).await.unwrap();
    let mut client = house.connect().await;
    client.write_all(get("/streams").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.contains(" 101 "));
    house.workers[1].adopted().await;

    house.orders.send(ToDesk::Drain).await.unwrap();
    let answer = house.ask(&get("/streams")).await;
    assert!(
        answer.contains(" 503 ") && answer.contains("draining"),
        "{answer}"
    );
}

#[tokio::test]
async fn strangers_are_capped_by_address_and_places_come_back() {
    let mut config = loopback_config();
    config.listen.connections_per_address = 1;
    let house = House::new(config);
    let held = house.connect().await;
    // Accepted in order: the second one is over the bound.
    let answer = house.ask("").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("\r\nRetry-After: 5\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    drop(held);
    // The place comes back as soon as the desk has seen the end.
    loop {
        let mut client = house.connect().await;
        client.write_all(get("/streams").as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        client.read_exact(&mut begin).await.unwrap();
        if &begin == b"HTTP/1.1 101" {
            break;
        }
        assert_eq!(&begin, b"HTTP/1.1 503");
    }
    // An admitted stream is no stranger any more.
    let (_, _, carrier) = house.workers[0].adopted().await;
    loop {
        let mut client = house.connect().await;
        client.write_all(get("/streams").as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        client.read_exact(&mut begin).await.unwrap();
        if &begin == b"HTTP/1.1 101" {
            break;
        }
    }
    drop(carrier);
}

#[tokio::test]
async fn a_connection_with_control_keeps_its_place_until_it_ends() {
    let mut config = loopback_config();
    config.listen.connections_per_address = 2;
    // The bound of the world is not this machine's.
    config.listen.connections_max = 1;
    let mut house = House::new(config);
    let request = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut with_control = Vec::new();
    let mut clients = Vec::new();
    for keep_alive in [true, false] {
        let mut client = house.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
        let connection = house.http.recv().await.unwrap();
        assert_eq!(connection.keep_alive, keep_alive, "half is room for calls");
        with_control.push(connection);
    }
    assert!(house.ask("").await.starts_with("HTTP/1.1 503 "));
    drop(with_control.pop());
    let mut client = house.connect().await;
    client.write_all(request.as_bytes()).await.unwrap();
    house.http.recv().await.unwrap();
}

#[tokio::test]
async fn the_echo_route_needs_its_switch() {
    let mut config = loopback_config();
    config.dev.conformance_echo = true;
    let house = House::new(config);
    let mut client = house.connect().await;
    client
        .write_all(get("/conformance/echo").as_bytes())
        .await
        .unwrap();
    assert!(read_head(&mut client).await.contains(" 101 "));
    match house.workers[0].next().await {
        ToWorker::Echo {
            leg, done: None, ..
        } => talk(&mut client, *leg).await,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn control_gets_the_same_admission_for_its_connections() {
    let house = House::new(loopback_config());
    let admit = async |head: &str| {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let order = ToDesk::Admit {
            head: head.as_bytes().to_vec(),
            peer: None,
            request_id: "r7".into(),
            answer,
        };
        house.orders.send(order).await.unwrap();
        answered.await.unwrap()
    };
    let AdmitAnswer::Accept { accept, ticket } = admit(&get("/media-stream/CA5")).await else {
        panic!()
    };
    assert_eq!(accept, ACCEPT);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = Stream::connect(listener.local_addr().unwrap(), None)
        .await
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let connection = Stream::accept(tcp, None)
        .await
        .unwrap()
        .into_established()
        .unwrap();
    let order = ToDesk::Admitted {
        ticket,
        connection: Box::new(connection),
    };
    house.orders.send(order).await.unwrap();
    let (call_id, _, carrier) = house.workers[0].adopted().await;
    assert_eq!(call_id.as_str(), "CA5");
    talk(&mut client, carrier).await;

    for (head, expected) in [
        (get("/media-stream/"), 400),
        (get("/nowhere"), 404),
        ("GET /health HTTP/1.1\r\nHost: x\r\n\r\n".into(), 404),
        ("GET / HT".into(), 404),
        ("\r\nrubbish\r\n\r\n".into(), 400),
    ] {
        match admit(&head).await {
            AdmitAnswer::Refuse { status, body, .. } => {
                assert_eq!(status, expected, "{head}");
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body["error"]["requestId"], "r7");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_desk_ends_while_connections_are_open() {
    let house = House::new(loopback_config());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = house.connect().await;
        client.write_all(b"GET / HT").await.unwrap();
        clients.push(client);
    }
    // Joins the desk's thread: a ring operation left behind would hang here.
    drop(house);
    for mut client in clients {
        assert!(matches!(client.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    }
}
