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
    let asked = next_delay(250, &DialError::Status(error.clone()));
    assert_eq!(asked, Duration::from_secs(3));
    error.retry_after_secs = Some(u64::MAX);
    let asked = next_delay(250, &DialError::Status(error.clone()));
    assert_eq!(asked, UPSTREAM_DEADLINE);
    error.retry_after_secs = None;
    assert!(next_delay(250, &DialError::Status(error)) < Duration::from_secs(1));
}
