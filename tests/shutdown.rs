//! Signals: TERM drains and ends, HUP loads the certificate again.

mod common;

use common::carrier::Carrier;
use common::daemon::Launch;
use common::http::get;
use common::model::Model;
use common::pair::Pair;
use common::tls::Authority;
use common::within;
use std::time::Duration;

#[tokio::test]
async fn term_without_calls_ends_at_once_with_0() {
    let model = Model::plain().await;
    for signal in ["TERM", "INT"] {
        let mut daemon = Launch::serve(&model.url).start().await;
        assert_eq!(get(daemon.addr, "/readyz").await.status, 200);
        daemon.signal(signal).await;
        assert_eq!(daemon.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn term_waits_for_a_live_call_and_refuses_new_ones() {
    let mut model = Model::plain().await;
    let mut daemon = Launch::serve(&model.url)
        .env("VOXRELAY__RELAY__DRAIN_SECS", "600")
        .start()
        .await;
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/CA1").await;
    pair.round_trip().await;
    daemon.signal("TERM").await;
    // Readiness fails first; the daemon is alive meanwhile.
    within("readiness to fail", async {
        while get(daemon.addr, "/readyz").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(get(daemon.addr, "/livez").await.status, 200);
    let refused = Carrier::dial_over(daemon.connect().await, "/media-stream/CA2", &[]).await;
    assert_eq!(refused.err().map(|refused| refused.0), Some(503));
    for _ in 0..50 {
        pair.round_trip().await;
    }
    assert!(daemon.is_running());
    pair.hang_up().await;
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn calls_that_outlive_the_drain_are_ended_cleanly() {
    let mut model = Model::plain().await;
    let mut daemon = Launch::serve(&model.url)
        .env("VOXRELAY__RELAY__DRAIN_SECS", "1")
        .start()
        .await;
    let mut pairs = Vec::new();
    for n in 0..3 {
        pairs.push(Pair::new(&daemon, &mut model, &format!("/media-stream/call-{n}")).await);
    }
    daemon.signal("TERM").await;
    for pair in &mut pairs {
        // A close frame on both legs, not a broken connection.
        assert!(pair.model.closed().await.is_some());
        assert!(pair.carrier.closed().await.is_some());
    }
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn hup_loads_the_certificate_again_and_live_calls_go_on() {
    let authority = Authority::new();
    let (old, new) = (authority.identity(), authority.identity());
    let mut model = Model::plain().await;
    let launch = Launch::serve(&model.url);
    let cert = launch.file("cert.pem", &old.cert);
    let key = launch.file("key.pem", &old.key);
    let mut daemon = launch
        .env("VOXRELAY__LISTEN__TLS__CERT_FILE", &cert)
        .env("VOXRELAY__LISTEN__TLS__KEY_FILE", &key)
        .start()
        .await;
    let port = daemon.addr.port();

    let (stream, shown) = authority.connect(port).await.expect("TLS");
    assert_eq!(shown, old.der());
    let carrier = Carrier::dial_over(stream, "/media-stream/CA1", &[])
        .await
        .expect("upgrade");
    let mut pair = Pair::with(carrier, &mut model).await;
    pair.round_trip().await;

    std::fs::write(&cert, &new.cert).expect("write");
    std::fs::write(&key, &new.key).expect("write");
    assert_eq!(
        authority.connect(port).await.expect("TLS").1,
        old.der(),
        "before the signal"
    );
    daemon.signal("HUP").await;
    within("the new certificate", async {
        while authority.connect(port).await.expect("TLS").1 != new.der() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    pair.round_trip().await;

    // Files that do not fit change nothing: the second signal is known to be handled once the log says so.
    std::fs::write(&key, &old.key).expect("write");
    let seen = daemon.output.text().len();
    daemon.signal("HUP").await;
    within(
        "a word about the bad pair",
        daemon.output.find(|text| {
            let later = text[seen..].to_lowercase();
            (later.contains("certificate") || later.contains("tls")).then_some(())
        }),
    )
    .await;
    assert_eq!(
        authority.connect(port).await.expect("TLS").1,
        new.der(),
        "after a bad pair"
    );
    assert!(daemon.is_running());
    pair.round_trip().await;
    pair.hang_up().await;
}

#[tokio::test]
async fn hup_is_heard_during_a_drain() {
    let authority = Authority::new();
    let (old, new) = (authority.identity(), authority.identity());
    let mut model = Model::plain().await;
    let launch = Launch::serve(&model.url);
    let cert = launch.file("cert.pem", &old.cert);
    let key = launch.file("key.pem", &old.key);
    let mut daemon = launch
        .env("VOXRELAY__LISTEN__TLS__CERT_FILE", &cert)
        .env("VOXRELAY__LISTEN__TLS__KEY_FILE", &key)
        .env("VOXRELAY__RELAY__DRAIN_SECS", "600")
        .start()
        .await;
    let port = daemon.addr.port();
    let stream = daemon.connect_tls(&authority).await;
    let carrier = Carrier::dial_over(stream, "/media-stream/CA1", &[])
        .await
        .expect("upgrade");
    let mut pair = Pair::with(carrier, &mut model).await;
    daemon.signal("TERM").await;
    within(
        "the drain",
        daemon
            .output
            .find(|text| text.contains("draining").then_some(())),
    )
    .await;

    std::fs::write(&cert, &new.cert).expect("write");
    std::fs::write(&key, &new.key).expect("write");
    daemon.signal("HUP").await;
    within("the new certificate", async {
        while authority.connect(port).await.expect("TLS").1 != new.der() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // The drain goes on: the call lives, and its end is the daemon's.
    pair.round_trip().await;
    assert!(daemon.is_running());
    pair.hang_up().await;
    assert_eq!(daemon.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_ended_call_leaves_nothing_behind() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    // Whatever is opened once is open after the first call.
    let mut pair = Pair::new(&daemon, &mut model, "/media-stream/first").await;
    pair.round_trip().await;
    pair.hang_up().await;
    daemon.settled().await;
    let before = daemon.descriptors();
    for n in 0..30 {
        let mut pair = Pair::new(&daemon, &mut model, &format!("/media-stream/call-{n}")).await;
        pair.round_trip().await;
        pair.hang_up().await;
    }
    daemon.settled().await;
    within("the descriptors to be closed", async {
        while daemon.descriptors() > before + 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}
