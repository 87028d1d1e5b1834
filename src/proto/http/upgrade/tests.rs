//! RFC 6455 section 1.2's handshake, and each way in which one can be wrong.

use super::super::head::{Parsed, parse_request, parse_response, write_response};
use super::*;

/// Section 1.2's request, with lines taken out, put in or replaced.
fn request(change: impl FnOnce(String) -> String) -> Result<Accept, UpgradeError> {
    let text = change(
        "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
         Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .to_owned(),
    );
    match parse_request(text.as_bytes()) {
        Ok(Parsed::Complete { head, .. }) => check_request(&head),
        other => panic!("{text}: {other:?}"),
    }
}

fn replaced(from: &str, to: &str) -> Result<Accept, UpgradeError> {
    request(|text| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

#[test]
fn section_1_3_key_gives_its_accept_value() {
    let accept = request(|text| text).unwrap();
    assert_eq!(accept.value(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(accept_value("dGhlIHNhbXBsZSBub25jZQ=="), accept.value());
    let mut out = Vec::new();
    write_accept(&mut out, &accept);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
}

#[test]
fn harmless_differences_are_taken() {
    for (from, to) in [
        ("Upgrade: websocket", "upgrade: WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c, websocket"),
        ("Connection: Upgrade", "Connection: keep-alive, upgrade"),
        (
            "Origin: ",
            "Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: ",
        ),
        ("Origin: ", "Content-Length: 0\r\nOrigin: "),
    ] {
        assert!(replaced(from, to).is_ok(), "{to}");
    }
}

#[test]
fn each_fault_has_its_error() {
    use UpgradeError::{Header, HttpVersion, Key, Method, NotAnUpgrade, Version};
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    for (from, to, expected) in [
        ("Upgrade: websocket\r\n", "", NotAnUpgrade),
        ("Upgrade: websocket", "Upgrade: h2c", NotAnUpgrade),
        ("Upgrade: websocket", "Upgrade: websocket2", NotAnUpgrade),
        ("GET", "POST", Method),
        ("GET", "get", Method),
        ("HTTP/1.1", "HTTP/1.0", HttpVersion),
        ("Connection: Upgrade\r\n", "", Header("connection")),
        (
            "Connection: Upgrade",
            "Connection: close",
            Header("connection"),
        ),
        (
            "Connection: Upgrade",
            "Connection: Upgrade\r\nConnection: Upgrade",
            Header("connection"),
        ),
        (
            "Upgrade: websocket",
            "Upgrade: websocket\r\nUpgrade: websocket",
            Header("upgrade"),
        ),
        (
            "Upgrade: websocket",
            "Upgrade: websocket\r\nUpgrade: h2c",
            Header("upgrade"),
        ),
        ("Sec-WebSocket-Version: 13\r\n", "", Version),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 8",
            Version,
        ),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 13, 8",
            Version,
        ),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 013",
            Version,
        ),
        (
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Version: 13",
            Header("sec-websocket-version"),
        ),
        (key, "X: y", Header("sec-websocket-key")),
        (key, "Sec-WebSocket-Key:", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=", Key),
        // 17 bytes, 18 bytes, set bits behind the last byte, another alphabet, quotes.
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXg=", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZXgh", Key),
        (key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR==", Key),
        (key, "Sec-WebSocket-Key: _GhlIHNhbXBsZSBub25jZQ==", Key),
        (key, "Sec-WebSocket-Key: \"GhlIHNhbXBsZSBub25jZ\"==", Key),
        (key, &format!("{key}\r\n{key}"), Header("sec-websocket-key")),
        (
            "Origin: ",
            "Content-Length: 5\r\nOrigin: ",
            Header("content-length"),
        ),
        (
            "Origin: ",
            "Transfer-Encoding: chunked\r\nOrigin: ",
            Header("transfer-encoding"),
        ),
    ] {
        assert_eq!(replaced(from, to), Err(expected), "{to:?}");
    }
}

#[test]
fn each_error_has_its_status_label_and_lines() {
    use UpgradeError::{Header, HttpVersion, Key, Method, NotAnUpgrade, Version};
    for (error, status, label, line) in [
        (
            NotAnUpgrade,
            426,
            "not_an_upgrade",
            "Upgrade: websocket\r\n",
        ),
        (
            Version,
            426,
            "upgrade_version",
            "Sec-WebSocket-Version: 13\r\n",
        ),
        (Method, 405, "upgrade_method", "Allow: GET\r\n"),
        (HttpVersion, 400, "upgrade_http_version", ""),
        (Header("x"), 400, "upgrade_header", ""),
        (Key, 400, "upgrade_key", ""),
    ] {
        assert_eq!((error.status(), error.label()), (status, label));
        let mut out = Vec::new();
        write_response(&mut out, error.status(), error.headers(), "text/plain", b"");
        assert!(String::from_utf8(out).unwrap().contains(line), "{error:?}");
    }
}

const KEY: [u8; 16] = *b"the sample nonce";

#[test]
fn a_written_request_is_a_valid_one() {
    let mut out = Vec::new();
    write_request(
        &mut out,
        "api.example:443",
        "/v1/realtime?model=m",
        &KEY,
        &[("Authorization", "Bearer k")],
    );
    let Ok(Parsed::Complete { head, len }) = parse_request(&out) else {
        panic!("{:?}", parse_request(&out));
    };
    assert_eq!((len, head.target), (out.len(), "/v1/realtime?model=m"));
    assert_eq!(head.headers.first("host"), Some("api.example:443"));
    assert_eq!(head.headers.first("authorization"), Some("Bearer k"));
    let accept = check_request(&head).unwrap();
    let mut answer = Vec::new();
    write_accept(&mut answer, &accept);
    assert_eq!(response(&String::from_utf8(answer).unwrap()), Ok(()));
}

fn response(text: &str) -> Result<(), ResponseError> {
    match parse_response(text.as_bytes()) {
        Ok(Parsed::Complete { head, .. }) => check_response(&head, &KEY),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn an_answer_is_taken_only_when_it_is_exactly_the_one_due() {
    let good = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nDate: now\r\n\r\n";
    assert_eq!(response(good), Ok(()));
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    for (from, to, expected) in [
        (
            "101 Switching Protocols",
            "401 Unauthorized",
            ResponseError::Status(401),
        ),
        (
            "101 Switching Protocols",
            "200 OK",
            ResponseError::Status(200),
        ),
        ("HTTP/1.1", "HTTP/1.0", ResponseError::Header("version")),
        (
            "Upgrade: websocket\r\n",
            "",
            ResponseError::Header("upgrade"),
        ),
        (
            "Upgrade: websocket",
            "Upgrade: h2c",
            ResponseError::Header("upgrade"),
        ),
        (
            "Connection: Upgrade\r\n",
            "",
            ResponseError::Header("connection"),
        ),
        (
            accept,
            "X: y",
            ResponseError::Header("sec-websocket-accept"),
        ),
        (
            "s3pPLM",
            "S3pPLM",
            ResponseError::Header("sec-websocket-accept"),
        ),
        (
            accept,
            &format!("{accept}\r\n{accept}"),
            ResponseError::Header("sec-websocket-accept"),
        ),
        (
            "Date: now",
            "Sec-WebSocket-Extensions: permessage-deflate",
            ResponseError::Header("sec-websocket-extensions"),
        ),
        (
            "Date: now",
            "Sec-WebSocket-Protocol: realtime",
            ResponseError::Header("sec-websocket-protocol"),
        ),
    ] {
        assert_eq!(response(&good.replace(from, to)), Err(expected), "{to:?}");
    }
    assert_eq!(
        response(&good.replace("Connection: Upgrade", "Connection: x, UPGRADE")),
        Ok(())
    );
}
