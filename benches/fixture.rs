//! A session that is ready for audio, and frames for it: what the benches and the instruction count drive alike.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use voxrelay::base::id::CallId;
use voxrelay::base::time::{Mono, Now};
use voxrelay::call::Leg;
use voxrelay::call::session::{Session, Setup};
use voxrelay::proto::realtime::settings::Settings;
use voxrelay::proto::ws::writer::{Kind, write_frame};

const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";

/// One unfragmented text frame as this leg's peer sends it.
pub fn frame(leg: Leg, text: &str) -> Vec<u8> {
    let mask = (leg == Leg::Carrier).then_some([0x9f, 0x81, 0x37, 0x60]);
    let mut bytes = Vec::new();
    write_frame(&mut bytes, Kind::Text, mask, &[text.as_bytes()]);
    bytes
}

/// Lends `bytes` to the session and does a shell's turn; the bytes that went out.
pub fn turn(session: &mut Session, leg: Leg, bytes: &mut [u8], now: Now) -> usize {
    let used = session.handle_input(leg, bytes, now);
    debug_assert_eq!(used, bytes.len());
    while session.poll_intent().is_some() {}
    let mut out = 0;
    for leg in [Leg::Realtime, Leg::Carrier] {
        let len = black_box(session.poll_transmit(leg, 16 * 1024)).len();
        if len > 0 {
            session.handle_taken(leg, len, now);
            session.handle_sent(leg, now);
            out += len;
        }
    }
    while session.poll_fact().is_some() {}
    black_box(session.poll_timeout());
    out
}

/// A call that has its carrier and its model.
pub fn ready() -> Session {
    let now = Now::default();
    let mut session = Session::new(
        Setup {
            call_id: CallId::new("bench").expect("short"),
            settings: Arc::new(Settings::default()),
            policy: Arc::default(),
            expected_call_sid: None,
            mode: voxrelay::base::route::StreamMode::Full,
            seed: [1; 32],
        },
        now,
    );
    let start = format!(r#"{{"event":"start","start":{{"callSid":"CA1"}},"streamSid":"{SID}"}}"#);
    turn(
        &mut session,
        Leg::Carrier,
        &mut frame(Leg::Carrier, &start),
        now,
    );
    session.handle_upstream(Ok(()), now);
    for event in [
        r#"{"type":"session.created","session":{"id":"s"}}"#,
        r#"{"type":"session.updated","session":{"audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#,
    ] {
        turn(
            &mut session,
            Leg::Realtime,
            &mut frame(Leg::Realtime, event),
            now,
        );
    }
    assert_eq!(session.phase(), voxrelay::call::state::Phase::Ready);
    session
}

/// The caller's `n`th 20 ms.
pub fn media(n: u64) -> Vec<u8> {
    let payload = "fn5/".repeat(53) + "fg==";
    frame(
        Leg::Carrier,
        &format!(
            r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{}","payload":"{payload}"}},"streamSid":"{SID}"}}"#,
            n + 2,
            n + 1,
            61 + n * 20
        ),
    )
}

/// A delta of `groups` times 3 bytes and 2 of audio.
pub fn delta(groups: usize) -> Vec<u8> {
    let payload = "fn5/".repeat(groups) + "fn4=";
    frame(
        Leg::Realtime,
        &format!(
            r#"{{"type":"response.output_audio.delta","event_id":"event_7dT0aQmP2xLw9Zc4Rk1Vb","response_id":"resp_7dT0aQmP2xLw9Zc4Rk1Vb","item_id":"item_7dT0aQmP2xLw9Zc4Rk1Vb","output_index":0,"content_index":0,"delta":"{payload}"}}"#
        ),
    )
}

/// Both clocks, `ms` after their beginning.
pub fn now(ms: u64) -> Now {
    Now {
        mono: Mono(0) + Duration::from_millis(ms),
        unix_ms: ms,
    }
}

/// The model's word that the caller speaks.
pub fn speech_started() -> Vec<u8> {
    frame(
        Leg::Realtime,
        r#"{"type":"input_audio_buffer.speech_started","event_id":"event_1","audio_start_ms":120,"item_id":"item_u"}"#,
    )
}
