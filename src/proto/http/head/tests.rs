//! Heads that are taken, heads that are not, and each of them cut at each offset.

use proptest::prelude::*;

use super::*;

const GET: &str = "GET /media-stream HTTP/1.1\r\n";

fn request(text: &str) -> Result<Parsed<RequestHead<'_>>, HeadError> {
    parse_request(text.as_bytes())
}

/// The refusal of a request whose lines after the first are `lines`, with a Host of its own.
fn refused(lines: &str) -> Option<HeadError> {
    parse_request(format!("{GET}Host: a\r\n{lines}\r\n").as_bytes()).err()
}

fn assert_cut_anywhere(head: &[u8]) {
    for cut in 0..head.len() {
        assert_eq!(
            parse_request(&head[..cut]),
            Ok(Parsed::Partial),
            "cut at {cut}"
        );
    }
}

#[test]
fn a_request_is_read_with_its_lines_in_order() {
    let text = "GET /media-stream?x=1 HTTP/1.1\r\nHost: relay.example:8080\r\nX-A:  one \t\r\nx-a: two\r\nEmpty:\r\n\r\n\x01\x05";
    let Ok(Parsed::Complete { head, len }) = request(text) else {
        panic!("{:?}", request(text));
    };
    assert_eq!(&text[len..], "\x01\x05");
    assert_eq!((head.method, head.target), ("GET", "/media-stream?x=1"));
    assert_eq!(head.minor_version, 1);
    assert_eq!(head.headers.first("x-a"), Some("one"));
    assert_eq!(head.headers.first("missing"), None);
    assert_eq!(head.headers.first("empty"), Some(""));
    let all: Vec<&[u8]> = head.headers.all("X-a").collect();
    assert_eq!(all, [b"one", b"two"]);
    assert_cut_anywhere(&text.as_bytes()[..len]);
}

#[test]
fn a_response_is_read_with_its_status() {
    let text = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let Ok(Parsed::Complete { head, len }) = parse_response(text) else {
        panic!("{:?}", parse_response(text));
    };
    assert_eq!(
        (head.status, head.reason, head.minor_version),
        (101, "Switching Protocols", 1)
    );
    assert_eq!(
        (len, head.headers.first("upgrade")),
        (text.len(), Some("websocket"))
    );
    for cut in 0..text.len() {
        assert_eq!(parse_response(&text[..cut]), Ok(Parsed::Partial), "{cut}");
    }
    let bare = parse_response(b"HTTP/1.1 204\r\n\r\n");
    assert!(matches!(bare, Ok(Parsed::Complete { .. })), "{bare:?}");
    for bad in [
        "HTTP/1.1 099 x\r\n",
        "HTTP/1.1 600 x\r\n",
        "HTTP/1.1 10 x\r\n",
        "ICY 200 OK\r\n",
    ] {
        let refused = parse_response(bad.as_bytes());
        assert!(
            matches!(refused, Err(HeadError::Syntax(_))),
            "{bad} {refused:?}"
        );
    }
    assert_eq!(
        parse_response(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        ),
        Err(HeadError::Smuggling("length and transfer-encoding"))
    );
    assert_eq!(parse_response(b"HTTP/2 200 \r\n"), Err(HeadError::Version));
}

#[test]
fn tokens_are_found_in_lists_over_lines_without_case() {
    let text =
        format!("{GET}Host: a\r\nConnection: keep-alive,\t UPGRADE \r\nConnection: ,x\r\n\r\n");
    let Ok(Parsed::Complete { head, .. }) = request(&text) else {
        panic!("{:?}", request(&text));
    };
    for (token, found) in [
        ("upgrade", true),
        ("keep-alive", true),
        ("X", true),
        ("up", false),
        ("", false),
    ] {
        assert_eq!(
            head.headers.has_token("connection", token),
            found,
            "{token}"
        );
    }
}

#[test]
fn smuggling_shapes_are_refused() {
    for (lines, reason) in [
        (
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "length and transfer-encoding",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "length and transfer-encoding",
        ),
        ("Content-Length: 3\r\nContent-Length: 3\r\n", "two lengths"),
        ("Content-Length: 3\r\ncontent-length: 4\r\n", "two lengths"),
        ("Content-Length: 3, 3\r\n", "content-length"),
        ("Content-Length: +3\r\n", "content-length"),
        ("Content-Length: -3\r\n", "content-length"),
        ("Content-Length: 0x3\r\n", "content-length"),
        ("Content-Length: 3 4\r\n", "content-length"),
        ("Content-Length:\r\n", "content-length"),
        ("Content-Length: 18446744073709551616\r\n", "content-length"),
        ("Transfer-Encoding: gzip\r\n", "transfer-encoding"),
        ("Transfer-Encoding: identity\r\n", "transfer-encoding"),
        ("Transfer-Encoding: chunked, gzip\r\n", "transfer-encoding"),
        (
            "Transfer-Encoding: chunked, chunked\r\n",
            "transfer-encoding",
        ),
        ("Transfer-Encoding: xchunked\r\n", "transfer-encoding"),
        ("Transfer-Encoding: \"chunked\"\r\n", "transfer-encoding"),
        ("Transfer-Encoding:\r\n", "transfer-encoding"),
        (
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding",
        ),
        ("X: a\r\n b\r\n", "line folding"),
        ("X: a\r\n\tb\r\n", "line folding"),
        ("X : a\r\n", "space in a header name"),
        ("X\t: a\r\n", "space in a header name"),
        ("X: a\n", "bare LF"),
        ("X: a\n\r\n", "bare LF"),
        ("X: a\r\r\n", "bare CR"),
        ("X: a\rY: b\r\n", "bare CR"),
        ("Host: b\r\n", "two hosts"),
        ("Host: a\r\n", "two hosts"),
    ] {
        assert_eq!(
            refused(lines),
            Some(HeadError::Smuggling(reason)),
            "{lines:?}"
        );
    }
    assert_eq!(
        request("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Err(HeadError::Smuggling("transfer-encoding"))
    );
    assert_eq!(
        request(&format!("{GET} Host: a\r\n")),
        Err(HeadError::Smuggling("line folding"))
    );
    assert_eq!(HeadError::Smuggling("").status(), 400);
    assert_eq!(HeadError::Smuggling("").label(), "head_smuggling");
}

#[test]
fn shapes_that_only_look_like_smuggling_are_taken() {
    for lines in [
        "Content-Length: 0\r\n",
        "Content-Length: 9999999999999999999\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, Chunked\r\n",
        "X: a b\tc : d\r\n",
        "X:a\r\n",
        "X: \u{e9}\r\n",
    ] {
        let text = format!("{GET}Host: a\r\n{lines}\r\n");
        assert!(
            matches!(request(&text), Ok(Parsed::Complete { .. })),
            "{lines:?}"
        );
        assert_cut_anywhere(text.as_bytes());
    }
}

#[test]
fn what_is_not_http_is_a_syntax_error() {
    for text in [
        " GET / HTTP/1.1\r\n\r\n",
        "\tGET / HTTP/1.1\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\n\r\n",
        "GET  / HTTP/1.1\r\n\r\n",
        "GET /  HTTP/1.1\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTQ/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "G\u{e9}T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX(y): x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01\u{fc}",
    ] {
        let refused = request(text);
        assert!(
            matches!(refused, Err(HeadError::Syntax(_))),
            "{text:?} {refused:?}"
        );
    }
    assert_eq!(HeadError::Syntax("").status(), 400);
    assert_eq!(HeadError::Syntax("").label(), "head_syntax");
}

#[test]
fn another_version_is_answered_505() {
    for text in [
        "GET / HTTP/2.0\r\n\r\n",
        "GET / HTTP/1.2\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "GET / HTTP/0.9\r\n",
    ] {
        assert_eq!(request(text), Err(HeadError::Version), "{text:?}");
    }
    assert_eq!(HeadError::Version.status(), 505);
    assert_eq!(HeadError::Version.label(), "http_version");
    let old = "GET / HTTP/1.0\r\n\r\n";
    assert!(matches!(request(old), Ok(Parsed::Complete { head, .. }) if head.minor_version == 0));
}

#[test]
fn an_error_is_found_with_the_byte_that_makes_it_one() {
    for (good, bad) in [
        ("", " "),
        ("GET / HTTP/1.1", "\n"),
        ("GET / HTTP/1.1\r", "X"),
        ("GET / HTTP/", "2"),
        ("GET / HTTP/1.1\r\n", " "),
        ("GET / HTTP/1.1\r\nHost: a\r\n", "\t"),
        ("GET / HTTP/1.1\r\nHost", " "),
        ("GET / HTTP/1.1\r\nHost: a", "\n"),
        ("GET / HTTP/1.1\r\nHost: a\r", "b"),
        ("GET / HTTP/1.1\r\nHost: a", "\0"),
        ("GET /", "\x7f"),
        ("GET", "\r"),
    ] {
        assert_eq!(request(good), Ok(Parsed::Partial), "{good:?}");
        let text = format!("{good}{bad}");
        let refused = request(&text);
        assert!(refused.is_err(), "{good:?} then {bad:?}: {refused:?}");
    }
}

#[test]
fn sixteen_kib_are_the_most_that_a_head_may_have() {
    let start = format!("{GET}Host: a\r\nX: ");
    let fill = HEAD_BYTES_MAX - start.len() - 4;
    let fits = format!("{start}{}\r\n\r\n", "x".repeat(fill));
    assert!(matches!(
        request(&fits),
        Ok(Parsed::Complete {
            len: HEAD_BYTES_MAX,
            ..
        })
    ));
    assert_eq!(request(&fits[..HEAD_BYTES_MAX - 1]), Ok(Parsed::Partial));
    // What follows a head of that length is not part of it.
    assert!(matches!(
        request(&format!("{fits}body")),
        Ok(Parsed::Complete {
            len: HEAD_BYTES_MAX,
            ..
        })
    ));
    let over = format!("{start}{}\r\n\r\n", "x".repeat(fill + 1));
    assert_eq!(request(&over), Err(HeadError::TooLarge));
    assert_eq!(request(&over[..HEAD_BYTES_MAX]), Err(HeadError::TooLarge));
    assert_eq!(
        request(&"x".repeat(HEAD_BYTES_MAX)),
        Err(HeadError::TooLarge)
    );
    assert_eq!(HeadError::TooLarge.status(), 431);
    assert_eq!(HeadError::TooLarge.label(), "head_too_large");
}

#[test]
fn sixty_four_lines_are_the_most_that_a_head_may_have() {
    let lines = |n: usize| format!("{GET}Host: a\r\n{}", "X: y\r\n".repeat(n - 1));
    let fits = lines(HEADERS_MAX) + "\r\n";
    assert!(
        matches!(request(&fits), Ok(Parsed::Complete { head, .. }) if head.headers.0.len() == HEADERS_MAX)
    );
    // Already without the empty line.
    assert_eq!(request(&lines(HEADERS_MAX + 1)), Err(HeadError::TooLarge));
}

#[test]
fn a_written_response_reads_back() {
    for (status, reason) in [
        (400, "Bad Request"),
        (404, "Not Found"),
        (405, "Method Not Allowed"),
        (426, "Upgrade Required"),
        (431, "Request Header Fields Too Large"),
        (503, "Service Unavailable"),
        (505, "HTTP Version Not Supported"),
        (599, ""),
    ] {
        let mut out = Vec::new();
        write_response(
            &mut out,
            status,
            &[("Retry-After", "1")],
            "application/json",
            b"{}",
        );
        let Ok(Parsed::Complete { head, len }) = parse_response(&out) else {
            panic!("{:?}", parse_response(&out));
        };
        assert_eq!((head.status, head.reason), (status, reason));
        assert_eq!(&out[len..], b"{}");
        assert_eq!(head.headers.first("content-length"), Some("2"));
        assert_eq!(head.headers.first("connection"), Some("close"));
        assert_eq!(head.headers.first("content-type"), Some("application/json"));
        assert_eq!(head.headers.first("retry-after"), Some("1"));
    }
    let mut out = Vec::new();
    write_response(
        &mut out,
        426,
        &[("Upgrade", "websocket")],
        "text/plain",
        b"",
    );
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.contains("\r\nConnection: close, Upgrade\r\n"),
        "{text}"
    );
}

/// A valid request head in bytes.
fn valid_head() -> impl Strategy<Value = Vec<u8>> {
    let line = (
        "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}",
        "[ \t]{0,2}",
        proptest::collection::vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80..=0xFFu8], 0..20),
    )
        .prop_filter("no header with rules of its own", |(name, ..)| {
            !["host", "content-length", "transfer-encoding"]
                .contains(&name.to_ascii_lowercase().as_str())
        })
        .prop_map(|(name, space, value)| {
            [name.as_bytes(), b":", space.as_bytes(), &value, b"\r\n"].concat()
        });
    (
        "[A-Z!#$%&'*+.^_`|~-]{1,10}",
        "/[!-~]{0,20}",
        0..2u8,
        proptest::collection::vec(line, 0..6),
    )
        .prop_map(|(method, target, minor, lines)| {
            let mut head =
                format!("{method} {target} HTTP/1.{minor}\r\nHost: a.example\r\n").into_bytes();
            head.extend(lines.concat());
            head.extend(b"\r\n");
            head
        })
}

proptest! {
    #[test]
    fn each_prefix_of_a_valid_head_is_partial_and_the_whole_complete(
        head in valid_head(),
        tail in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        assert_cut_anywhere(&head);
        let with_tail = [&*head, &tail].concat();
        for bytes in [&head, &with_tail] {
            match parse_request(bytes) {
                Ok(Parsed::Complete { len, .. }) => prop_assert_eq!(len, head.len()),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn nothing_about_any_bytes_contradicts_itself(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            (valid_head(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut head, at, byte)| {
                let at = at.index(head.len());
                head[at] = byte;
                head
            }),
        ],
    ) {
        super::property::assert_consistent(&bytes);
    }
}
