//! Connections to the model that wait for a call: kept alive, taken, replaced, closed.
//!
//! Method: the real daemon between a scripted carrier and a scripted endpoint, over TLS and without. Each connection is
//! driven by hand, so which one a call speaks on is seen by its `session.update`.

mod common;

use common::carrier::{Carrier, FRAME_BYTES};
use common::daemon::{Daemon, Launch, sum};
use common::http::post_form;
use common::model::{Connection, Model};
use common::tls::Authority;
use common::{audio, base64};

const ENDED: &str = "voxrelay_idle_upstreams_ended_total";
const WAITING: &str = "voxrelay_idle_upstreams";
const ATTEMPTS: &str = "voxrelay_dial_attempts_total";

fn pool(url: &str, size: usize) -> Launch {
    Launch::serve(url).env("VOXRELAY__REALTIME__WARM_POOL", &size.to_string())
}

/// The call's session comes up on this connection, and a frame goes each way, byte for byte.
async fn carries(carrier: &mut Carrier, model: &mut Connection) {
    assert_eq!(model.event().await["type"], "session.update");
    model.confirm().await;
    let up = audio(1, FRAME_BYTES);
    carrier.media(&up).await;
    assert_eq!(model.appended(up.len()).await, up);
    let down = base64(&audio(2, 3 * FRAME_BYTES));
    model.delta("item_1", &down).await;
    assert_eq!(carrier.media_payload().await, down);
}

async fn hang_up(mut carrier: Carrier, mut model: Connection) {
    carrier.stop().await;
    assert_eq!(model.closed().await, Some(1000));
    assert_eq!(carrier.closed().await, Some(1000));
}

/// A webhook's call, and its stream's path.
async fn ring(daemon: &Daemon, call_sid: &str) -> String {
    let form = [
        ("CallSid", call_sid),
        ("From", "+15550100"),
        ("To", "+15550199"),
    ];
    let answer = post_form(daemon.addr, "/api/twilio/voice", &form, &[]).await;
    let text = answer.text();
    let url = text.split("url=\"").nth(1).expect("a stream");
    let url = url.split('"').next().expect("a stream");
    let at = url.find("/api/").expect("a path");
    url[at..].to_owned()
}

#[tokio::test]
async fn a_warm_pool_is_alive_and_gives_calls_its_connections_and_fills_again() {
    let authority = Authority::new();
    let mut model = Model::tls(&authority.identity()).await;
    let launch = pool(&model.url, 2);
    let ca = launch.file("ca.pem", &authority.pem);
    let daemon = launch.env("VOXRELAY__REALTIME__CA_FILE", &ca).start().await;
    let mut first = model.accept().await;
    let mut second = model.accept().await;
    for connection in [&mut first, &mut second] {
        connection.settle().await;
        connection.send_session_created().await;
        connection.settle().await;
    }
    daemon.counted(WAITING, &[("kind", "warm")], 2.0).await;
    // The two are as old as each other, so either may be the call's.
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    let (mut taken, mut other) = tokio::select! {
        event = first.event() => {
            assert_eq!(event["type"], "session.update");
            (first, second)
        }
        event = second.event() => {
            assert_eq!(event["type"], "session.update");
            (second, first)
        }
    };
    taken.confirm().await;
    let up = audio(1, FRAME_BYTES);
    carrier.media(&up).await;
    assert_eq!(taken.appended(up.len()).await, up);
    // The one that was taken is replaced.
    let mut third = model.accept().await;
    third.send_session_created().await;
    third.settle().await;
    other.settle().await;
    daemon
        .counted(ENDED, &[("kind", "warm"), ("outcome", "adopted")], 1.0)
        .await;
    daemon.counted(WAITING, &[("kind", "warm")], 2.0).await;
    assert_eq!(sum(&daemon.metrics().await, ATTEMPTS, &[]), 3.0);
    assert!(!model.has_connection());
    hang_up(carrier, taken).await;
    // The next call gets the older one.
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA2").await;
    carrier.start().await;
    carries(&mut carrier, &mut other).await;
    hang_up(carrier, other).await;
}

#[tokio::test]
async fn a_model_that_closes_idle_connections_is_survived() {
    let mut model = Model::plain().await;
    let daemon = pool(&model.url, 1).start().await;
    let mut connection = model.accept().await;
    for way in 0..3 {
        println!("case: {way}");
        connection.settle().await;
        match way {
            0 => connection.close().await,
            1 => connection.shut().await,
            // Neither WebSocket nor silence.
            _ => connection.send_raw(&[0xff; 16]).await,
        }
        daemon
            .counted(
                ENDED,
                &[("kind", "warm"), ("outcome", "lost")],
                f64::from(way + 1),
            )
            .await;
        connection = model.accept().await;
    }
    connection.send_session_created().await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    carries(&mut carrier, &mut connection).await;
    hang_up(carrier, connection).await;
}

#[tokio::test]
async fn an_announced_call_s_connection_is_alive_and_is_the_call_s() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url)
        .env("VOXRELAY__RELAY__WORKERS", "2")
        .start()
        .await;
    // More than one, so that each must find its own worker.
    let mut calls = Vec::new();
    for n in 0..4 {
        let path = ring(&daemon, &format!("CA{n:032}")).await;
        let mut early = model.accept().await;
        early.send_session_created().await;
        early.settle().await;
        calls.push((n, path, early));
    }
    daemon.counted(WAITING, &[("kind", "predial")], 4.0).await;
    for (n, path, mut early) in calls.into_iter().rev() {
        let mut carrier = Carrier::dial(&daemon, &path).await;
        carrier.call_sid = format!("CA{n:032}");
        carrier.start().await;
        carries(&mut carrier, &mut early).await;
        hang_up(carrier, early).await;
    }
    daemon
        .counted(ENDED, &[("kind", "predial"), ("outcome", "adopted")], 4.0)
        .await;
    assert_eq!(sum(&daemon.metrics().await, ATTEMPTS, &[]), 4.0);
    assert!(!model.has_connection());
}

#[tokio::test]
async fn a_caller_who_is_gone_before_the_start_takes_the_connection_along() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let path = ring(&daemon, "CA00000000000000000000000000000007").await;
    let mut early = model.accept().await;
    early.settle().await;
    let carrier = Carrier::dial(&daemon, &path).await;
    carrier.drop_connection();
    assert_eq!(early.closed().await, Some(1000));
    daemon
        .counted(ENDED, &[("kind", "predial"), ("outcome", "cancelled")], 1.0)
        .await;
}

#[tokio::test]
async fn a_call_whose_stream_never_came_gives_its_connection_up_when_the_carrier_says_so() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let call_sid = "CA00000000000000000000000000000009";
    ring(&daemon, call_sid).await;
    let mut early = model.accept().await;
    early.settle().await;
    let form = [("CallSid", call_sid), ("CallStatus", "completed")];
    let asked = post_form(daemon.addr, "/api/twilio/after-stream", &form, &[]);
    let (answer, closed) = tokio::join!(asked, early.closed());
    assert_eq!((answer.status, closed), (200, Some(1000)));
    daemon
        .counted(ENDED, &[("kind", "predial"), ("outcome", "cancelled")], 1.0)
        .await;
}

#[tokio::test]
async fn the_drain_closes_what_waits_and_dials_nothing_for_it() {
    let mut model = Model::plain().await;
    let mut daemon = pool(&model.url, 2)
        .env("VOXRELAY__RELAY__DRAIN_SECS", "600")
        .start()
        .await;
    let mut waiting = vec![model.accept().await, model.accept().await];
    // A live call keeps the daemon up meanwhile.
    for connection in &mut waiting {
        connection.send_session_created().await;
        connection.settle().await;
    }
    daemon.counted(WAITING, &[("kind", "warm")], 2.0).await;
    let mut carrier = Carrier::dial(&daemon, "/media-stream/CA1").await;
    carrier.start().await;
    let [one, two] = &mut waiting[..] else {
        panic!("two connections");
    };
    let at = tokio::select! {
        _ = one.event() => 0,
        _ = two.event() => 1,
    };
    let mut live = waiting.remove(at);
    live.confirm().await;
    waiting.push(model.accept().await);
    waiting[1].settle().await;
    ring(&daemon, "CA00000000000000000000000000000008").await;
    waiting.push(model.accept().await);
    waiting[2].settle().await;
    daemon.signal("TERM").await;
    for connection in &mut waiting {
        assert_eq!(connection.closed().await, Some(1001));
    }
    let up = audio(1, FRAME_BYTES);
    carrier.media(&up).await;
    assert_eq!(live.appended(up.len()).await, up);
    assert!(daemon.is_running());
    hang_up(carrier, live).await;
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(!model.has_connection());
}
