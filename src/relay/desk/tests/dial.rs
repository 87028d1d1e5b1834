//! Dialling: tokio-tungstenite as the model, with TLS and without; refusals and what is tried again.

use super::*;
use crate::base::id::SlotKey;
use crate::call::Leg;
use crate::transport::roots;
use std::sync::Mutex;
use tokio::net::TcpListener;

pub(super) const SLOT: SlotKey = SlotKey {
    index: 3,
    generation: 4,
};

pub(super) fn dialling(url: String, keys: &[&str]) -> Config {
    let mut config = loopback_config();
    config.realtime.url = url;
    config.realtime.api_keys = keys.iter().map(|key| Secret::new(*key)).collect();
    config
}

fn dial_order(once: bool) -> ToDesk {
    ToDesk::Dial {
        worker: WorkerId(1),
        slot: SLOT,
        call_id: CallId::new("c").unwrap(),
        leg: Leg::Realtime,
        dial: 1,
        once,
    }
}

pub(super) async fn dial(house: &House) -> Result<Established, String> {
    house.orders.send(dial_order(false)).await.unwrap();
    answer(house).await
}

async fn redial(house: &House) -> Result<Established, String> {
    house.orders.send(dial_order(true)).await.unwrap();
    answer(house).await
}

async fn answer(house: &House) -> Result<Established, String> {
    match house.workers[1].next().await {
        ToWorker::Upstream {
            slot,
            leg,
            dial,
            outcome,
        } => {
            assert_eq!(dial, 1);
            assert_eq!((slot, leg), (SLOT, Leg::Realtime));
            outcome
                .map(|established| *established)
                .map_err(|failure| failure.text)
        }
        other => panic!("{other:?}"),
    }
}

/// Accepts one connection with tungstenite, sends a text at once and echoes bytes below the frames.
async fn tungstenite_model<S>(socket: S) -> (String, Option<String>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
    let seen = Mutex::new((String::new(), None));
    #[allow(clippy::result_large_err)] // tungstenite's signature
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let key = request
            .headers()
            .get("authorization")
            .map(|v| v.to_str().unwrap().to_owned());
        *seen.lock().unwrap() = (request.uri().to_string(), key);
        Ok(response)
    };
    let mut model = tokio_tungstenite::accept_hdr_async(socket, look)
        .await
        .unwrap();
    let socket = model.get_mut();
    let mut word = [0; 4];
    socket.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"ping");
    socket.write_all(b"pong").await.unwrap();
    socket.flush().await.unwrap();
    seen.into_inner().unwrap()
}

async fn talk_as_relay(established: Established) {
    assert!(established.plaintext.is_empty());
    let mut relay = Stream::from_established(established).unwrap();
    relay.write_all(b"ping").await.unwrap();
    relay.flush().await.unwrap();
    let mut word = [0; 4];
    relay.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"pong");
}

#[tokio::test]
async fn a_plain_model_is_reached_with_the_key_and_the_model_in_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/realtime", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &["sk-test"]));
    let model = async {
        let (socket, _) = listener.accept().await.unwrap();
        tungstenite_model(socket).await
    };
    let relay = async { talk_as_relay(dial(&house).await.unwrap()).await };
    let ((uri, key), ()) = tokio::join!(model, relay);
    assert_eq!(uri, "/v1/realtime?model=m");
    assert_eq!(key.as_deref(), Some("Bearer sk-test"));
}

#[tokio::test]
async fn a_tls_model_is_reached_through_the_ca_file_and_refused_without() {
    let (server, ca) = roots::self_signed(&["localhost"]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, ca).unwrap();
    let mut config = dialling(format!("wss://localhost:{port}"), &["sk-test"]);
    config.realtime.ca_file = Some(ca_file.clone());
    let acceptor = tokio_rustls::TlsAcceptor::from(server);
    let model = async {
        // `localhost` may mean ::1 first, where nobody listens; that is part of the test.
        let (socket, _) = listener.accept().await.unwrap();
        tungstenite_model(acceptor.accept(socket).await.unwrap()).await
    };
    let house = House::new(config.clone());
    let relay = async { talk_as_relay(dial(&house).await.unwrap()).await };
    tokio::join!(model, relay);

    std::fs::write(&ca_file, roots::self_signed(&["localhost"]).unwrap().1).unwrap();
    let house = House::new(config);
    let model = async {
        let (socket, _) = listener.accept().await.unwrap();
        assert!(acceptor.accept(socket).await.is_err());
    };
    let (error, ()) = tokio::join!(dial(&house), model);
    let error = error.unwrap_err();
    assert!(error.starts_with("TLS: "), "{error}");
}

/// Answers each connection with the next of `answers`, then closes; returns the keys it was shown.
pub(super) async fn refusing(listener: &TcpListener, answers: &[&str]) -> Vec<String> {
    let mut keys = Vec::new();
    for answer in answers {
        let (mut socket, _) = listener.accept().await.unwrap();
        let head = read_head(&mut socket).await;
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Authorization: Bearer "));
        keys.push(key.unwrap_or_default().to_owned());
        let text = match answer.split_once('|') {
            Some((status, body)) => format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ),
            None => (*answer).to_owned(),
        };
        socket.write_all(text.as_bytes()).await.unwrap();
    }
    keys
}

#[tokio::test]
async fn refusals_are_retried_or_not_as_their_status_and_body_say() {
    let quota = r#"429 Too Many Requests|{"error":{"code":"insufficient_quota"}}"#;
    let rate = r#"429 Too Many Requests|{"error":{"code":"rate_limit_exceeded"}}"#;
    for (answers, text) in [
        (vec!["401 Unauthorized|{}"], "refused with 401"),
        (vec!["403 Forbidden|{}"], "refused with 403"),
        (vec!["404 Not Found|<html>"], "refused with 404"),
        (vec![quota], "refused with 429, insufficient_quota"),
        (
            vec![r#"429 No|{"error":{"code":"credit_balance_exhausted"}}"#],
            "refused with 429, credit_balance_exhausted",
        ),
        (
            vec![r#"503 No|{"error":{"code":"x","type":"billing_hard_limit_reached"}}"#],
            "refused with 503, billing_hard_limit_reached",
        ),
        (vec![rate, "503 No|", "500 No|"], "refused with 500"),
        (vec!["", "", ""], "closed without an answer"),
        (vec!["rubbish\r\n\r\n"], "the answer is no HTTP"),
        (
            vec![
                "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
            ],
            "the 101 is no WebSocket upgrade",
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let house = House::new(dialling(url, &["sk-only"]));
        let (outcome, keys) = tokio::join!(dial(&house), refusing(&listener, &answers));
        let error = outcome.unwrap_err();
        assert!(error.starts_with(text), "{error}");
        assert!(!error.contains("sk-only"));
        assert_eq!(keys.len(), answers.len());
    }
}

#[tokio::test]
async fn a_refused_key_is_followed_by_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &["sk-a", "sk-b"]));
    let answers = ["401 Unauthorized|{}", "404 Not Found|{}"];
    let (outcome, keys) = tokio::join!(dial(&house), refusing(&listener, &answers));
    assert!(outcome.unwrap_err().starts_with("refused with 404"));
    assert_eq!(keys, ["sk-a", "sk-b"]);
    // The refused one is on its pause.
    let (_, keys) = tokio::join!(dial(&house), refusing(&listener, &answers[1..]));
    assert_eq!(keys, ["sk-b"]);
}

#[tokio::test]
async fn a_second_attempt_succeeds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &[]));
    let model = async {
        refusing(&listener, &["502 Bad Gateway|"]).await;
        let (socket, _) = listener.accept().await.unwrap();
        tungstenite_model(socket).await
    };
    let relay = async { talk_as_relay(dial(&house).await.unwrap()).await };
    let ((_, key), ()) = tokio::join!(model, relay);
    assert_eq!(key, None, "no key, no header");
}

#[tokio::test]
async fn a_model_that_asks_for_a_longer_wait_than_time_holds_is_not_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &["sk-only"]));
    let answer =
        "HTTP/1.1 429 No\r\nRetry-After: 18446744073709551615\r\nContent-Length: 0\r\n\r\n";
    let answers = [answer];
    let (outcome, _) = tokio::join!(dial(&house), refusing(&listener, &answers));
    assert_eq!(outcome.unwrap_err(), "refused with 429");
}

#[tokio::test]
async fn a_refusal_without_an_end_does_not_use_up_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &[]));
    let model = async {
        let (mut held, _) = listener.accept().await.unwrap();
        read_head(&mut held).await;
        let answer = b"HTTP/1.1 503 No\r\nContent-Length: 1000\r\n\r\n{";
        held.write_all(answer).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        tungstenite_model(socket).await;
        drop(held);
    };
    let relay = async { talk_as_relay(dial(&house).await.unwrap()).await };
    tokio::join!(model, relay);
}

#[tokio::test]
async fn a_cancelled_dial_ends_its_socket_and_is_not_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &[]));
    let other = SlotKey { index: 9, ..SLOT };
    let order = |slot| ToDesk::Dial {
        worker: WorkerId(1),
        slot,
        call_id: CallId::new("c").unwrap(),
        leg: Leg::Realtime,
        dial: 1,
        once: false,
    };
    house.orders.send(order(other)).await.unwrap();
    let (mut silent, _) = listener.accept().await.unwrap();
    read_head(&mut silent).await;
    let cancel = ToDesk::CancelDial {
        worker: WorkerId(1),
        slot: other,
    };
    house.orders.send(cancel).await.unwrap();
    assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
    // The only answer is the next dial's; `dial` looks at the slot.
    let model = async {
        let (socket, _) = listener.accept().await.unwrap();
        tungstenite_model(socket).await
    };
    let relay = async { talk_as_relay(dial(&house).await.unwrap()).await };
    tokio::join!(model, relay);
}

#[tokio::test]
async fn a_leg_that_nobody_wants_is_closed_with_a_masked_close_frame() {
    let house = House::new(loopback_config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
    let upstream = Box::new(Established {
        fd: ours.unwrap().into_std().unwrap().into(),
        tls: None,
        ciphertext: Vec::new(),
        plaintext: Vec::new(),
        peer: None,
    });
    house
        .orders
        .send(ToDesk::Discard { upstream })
        .await
        .unwrap();
    let (mut model, _) = theirs.unwrap();
    let mut frame = [0; 8];
    model.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[..2], [0x88, 0x82]);
    let code = [frame[6] ^ frame[2], frame[7] ^ frame[3]];
    assert_eq!(u16::from_be_bytes(code), 1000);
    assert_eq!(model.read(&mut frame).await.unwrap(), 0);
}

#[tokio::test]
async fn nobody_listening_is_an_error_after_the_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let house = House::new(dialling(url, &[]));
    let error = dial(&house).await.unwrap_err();
    assert!(error.starts_with("no connection"), "{error}");
}

#[tokio::test]
async fn a_redial_tries_each_key_of_the_one_endpoint_and_nothing_twice() {
    let quota = r#"429 Too Many Requests|{"error":{"code":"insufficient_quota"}}"#;
    let refused = ["401 Unauthorized|{}", quota];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &["sk-a", "sk-b", "sk-c"]));
    let model = async {
        let keys = refusing(&listener, &refused).await;
        let (socket, _) = listener.accept().await.unwrap();
        (keys, tungstenite_model(socket).await.1)
    };
    let relay = async { talk_as_relay(redial(&house).await.unwrap()).await };
    let ((keys, last), ()) = tokio::join!(model, relay);
    assert_eq!(keys, ["sk-a", "sk-b"]);
    assert_eq!(last.as_deref(), Some("Bearer sk-c"));
    // The one that is left first; then those that were refused a moment ago, before the call is given up.
    let answers = ["401 Unauthorized|{}"; 3];
    let (outcome, mut keys) = tokio::join!(redial(&house), refusing(&listener, &answers));
    assert_eq!(outcome.unwrap_err(), "refused with 401");
    assert_eq!(keys[0], "sk-c");
    keys.sort();
    assert_eq!(keys, ["sk-a", "sk-b", "sk-c"]);
    // What may pass is not tried again by a redial, whose call has its own waits.
    let answers = ["503 No|"];
    let (outcome, _) = tokio::join!(redial(&house), refusing(&listener, &answers));
    assert_eq!(outcome.unwrap_err(), "refused with 503");
}

#[tokio::test]
async fn a_key_that_is_refused_does_not_hide_that_another_may_do_better_later() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &["sk-a", "sk-b"]));
    let rate = r#"429 Too Many Requests|{"error":{"code":"rate_limit_exceeded"}}"#;
    let answers = [rate, "401 Unauthorized|{}"];
    let (outcome, _) = tokio::join!(redial(&house), refusing(&listener, &answers));
    assert_eq!(
        outcome.unwrap_err(),
        "refused with 429, rate_limit_exceeded"
    );
}

#[tokio::test]
async fn an_endpoint_whose_connection_was_of_no_use_is_not_the_next_one() {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let mut config = dialling(String::new(), &[]);
    config.realtime.endpoints = listeners
        .iter()
        .map(|listener| config::EndpointConfig {
            url: format!("ws://{}", listener.local_addr().unwrap()),
            weight: 1,
            api_keys: Vec::new(),
        })
        .collect();
    let house = House::new(config);
    // Which of the two is asked.
    let asked = async || {
        let (at, socket) = tokio::select! {
            first = listeners[0].accept() => (0, first.unwrap().0),
            second = listeners[1].accept() => (1, second.unwrap().0),
        };
        tungstenite_model(socket).await;
        at
    };
    let connect = async || talk_as_relay(redial(&house).await.unwrap()).await;
    let (first, ()) = tokio::join!(asked(), connect());
    let call_id = CallId::new("c").unwrap();
    house
        .orders
        .send(ToDesk::Distrust { call_id })
        .await
        .unwrap();
    for _ in 0..8 {
        let (at, ()) = tokio::join!(asked(), connect());
        assert_ne!(at, first);
    }
}

#[tokio::test]
async fn an_answer_waits_for_a_worker_whose_queue_is_full() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let house = House::new(dialling(url, &[]));
    let mut orders = 0;
    while house.senders[1].send(ToWorker::Stop).is_ok() {
        orders += 1;
    }
    house.orders.send(dial_order(true)).await.unwrap();
    refusing(&listener, &["404 Not Found|"]).await;
    // Another worker's answer comes past it.
    let other = ToDesk::Dial {
        worker: WorkerId(0),
        slot: SLOT,
        call_id: CallId::new("d").unwrap(),
        leg: Leg::Realtime,
        dial: 1,
        once: true,
    };
    house.orders.send(other).await.unwrap();
    refusing(&listener, &["404 Not Found|"]).await;
    let ToWorker::Upstream { .. } = house.workers[0].next().await else {
        panic!("another order");
    };
    for _ in 0..orders {
        let ToWorker::Stop = house.workers[1].next().await else {
            panic!("another order");
        };
    }
    assert_eq!(answer(&house).await.unwrap_err(), "refused with 404");
}

#[test]
fn the_client_part_works_in_a_bare_ring_runtime() {
    let (address, served) = std::sync::mpsc::channel();
    let model = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            tungstenite_model(socket).await
        })
    });
    let url = format!("ws://{}/runCase?case=1", served.recv().unwrap());
    let endpoint = connect_url(&url, "m", None).unwrap();
    tokio_uring::start(async {
        let headers = [("X-Extra", "1")];
        let established = super::super::dial::connect(&endpoint, &headers, None)
            .await
            .unwrap();
        talk_as_relay(established).await;
    });
    assert_eq!(model.join().unwrap().0, "/runCase?case=1&model=m");
}
