//! What is retried, how answers are judged, whose turn it is among the keys.

use super::*;

const KEY: [u8; 16] = [7; 16];

fn refused(status: u16, code: &str) -> DialError {
    DialError::Status(Refused {
        status,
        code: code.into(),
        retry_after_secs: None,
    })
}

#[test]
fn statuses_are_retried_as_the_vendor_says() {
    for status in [408, 429, 500, 502, 503, 504] {
        assert!(refused(status, "").may_retry(), "{status}");
    }
    for status in [200, 301, 400, 401, 403, 404, 405, 501] {
        assert!(!refused(status, "").may_retry(), "{status}");
    }
    assert!(!refused(429, "insufficient_quota").may_retry());
    assert!(refused(429, "rate_limit_exceeded").may_retry());
    assert_eq!(refused(429, "insufficient_quota").label(), "quota");
}

#[test]
fn answers_are_judged_at_every_length() {
    let answer =
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 12\r\nRetry-After: 3\r\n\r\nbody";
    let head = answer.len() - 4;
    for len in 0..head {
        assert_eq!(judge(&answer[..len], &KEY).unwrap(), Judged::More, "{len}");
    }
    for len in head..=answer.len() {
        let expected = Judged::Refused {
            len: head,
            body_len: Some(12),
            refused: Refused {
                status: 429,
                code: String::new(),
                retry_after_secs: Some(3),
            },
        };
        assert_eq!(judge(&answer[..len], &KEY).unwrap(), expected);
    }
}

#[test]
fn a_101_must_be_an_upgrade() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";
    assert!(matches!(
        judge(answer, &KEY),
        Err(DialError::Upgrade("sec-websocket-accept"))
    ));
    assert!(matches!(
        judge(b"\x16\x03\x01 nonsense\r\n\r\n", &KEY),
        Err(DialError::Head(_))
    ));
}

#[test]
fn error_codes_are_found_bounded_and_printable() {
    for (body, code) in [
        (
            r#"{"error":{"code":"insufficient_quota","type":"x"}}"#,
            "insufficient_quota",
        ),
        (
            r#"{"error":{"code":null,"type":"insufficient_quota"}}"#,
            "insufficient_quota",
        ),
        (r#"{"error":"x"}"#, ""),
        (r#"{"error":{"code":"a\nb c"}}"#, "abc"),
        ("<html>", ""),
        ("", ""),
    ] {
        assert_eq!(error_code(body.as_bytes()), code, "{body}");
    }
    let long = format!(r#"{{"error":{{"code":"{}"}}}}"#, "x".repeat(1000));
    assert_eq!(error_code(long.as_bytes()).len(), CODE_CHARS_MAX);
}

#[test]
fn keys_take_turns_and_paused_ones_are_skipped() {
    let now = Instant::now();
    assert_eq!(KeyRing::new(Vec::new()).pick(now), None);
    let mut ring = KeyRing::new(["a", "b", "c"].map(Secret::new).to_vec());
    let turns = |ring: &mut KeyRing, now| [0; 4].map(|_| ring.pick(now).unwrap());
    assert_eq!(turns(&mut ring, now), [0, 1, 2, 0]);
    ring.pause(1, now);
    assert_eq!(turns(&mut ring, now), [2, 0, 2, 0]);
    assert!(ring.has_usable(now));
    ring.pause(0, now + Duration::from_secs(1));
    ring.pause(2, now + Duration::from_secs(2));
    assert!(!ring.has_usable(now));
    assert_eq!(
        turns(&mut ring, now),
        [1, 1, 1, 1],
        "the first to come back"
    );
    assert!(ring.has_usable(now + KEY_PAUSE));
}

#[test]
fn delays_vary_by_a_fifth_and_honour_the_server() {
    for _ in 0..100 {
        let delay = jitter(1000).as_millis();
        assert!((800..=1200).contains(&delay), "{delay}");
    }
    let mut error = Refused {
        status: 429,
        retry_after_secs: Some(3),
        ..Refused::default()
    };
    let asked = next_delay(250, &DialError::Status(error.clone()), false);
    assert_eq!(asked, Duration::from_secs(3));
    assert!(next_delay(250, &DialError::Status(error.clone()), true) < Duration::from_secs(1));
    error.retry_after_secs = Some(u64::MAX);
    let asked = next_delay(250, &DialError::Status(error.clone()), false);
    assert_eq!(asked, UPSTREAM_DEADLINE);
    error.retry_after_secs = None;
    assert!(next_delay(250, &DialError::Status(error), false) < Duration::from_secs(1));
}

#[test]
fn no_text_of_an_error_names_a_key() {
    let ring = KeyRing::new(vec![Secret::new("sk-very-secret")]);
    assert!(!format!("{ring:?}").contains("very"));
}

fn targets(weights: &[u32]) -> Targets {
    let target = |weight: &u32| {
        let endpoint = endpoint::connect_url("ws://127.0.0.1:9", "m", None).expect("a URL");
        Target::new(endpoint, Vec::new(), *weight)
    };
    Targets(weights.iter().map(target).collect())
}

#[test]
fn endpoints_share_by_weight_and_the_last_resort_comes_last() {
    let (targets, now) = (targets(&[1, 3, 0]), Instant::now());
    let mut counts = [0; 3];
    for dice in 0..400 {
        counts[targets.pick(&[], dice, now).expect("one")] += 1;
    }
    assert_eq!(counts, [100, 300, 0]);
    assert_eq!(targets.pick(&[0, 1], 7, now), Some(2));
    assert!(targets.pick(&[0, 1, 2], 7, now).is_some());
}

#[test]
fn an_endpoint_that_failed_is_left_alone_for_a_while() {
    let (mut targets, now) = (targets(&[1, 1]), Instant::now());
    targets.0[0].failed_until = Some(now + ENDPOINT_PAUSE);
    for dice in 0..10 {
        assert_eq!(targets.pick(&[], dice, now), Some(1));
        assert_eq!(targets.pick(&[1], dice, now), Some(0), "the only one left");
    }
    let later = now + ENDPOINT_PAUSE;
    let picked: Vec<_> = (0..2).map(|dice| targets.pick(&[], dice, later)).collect();
    assert_eq!(picked, [Some(0), Some(1)]);
}
