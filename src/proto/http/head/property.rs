//! What holds for any bytes given to the head parsers, for tests and fuzzing.

use super::{HeadError, Parsed, parse_request, parse_response};
use crate::base::limit::{HEAD_BYTES_MAX, HEADERS_MAX};
use crate::proto::http::upgrade;

/// Asserts that the parsers say of a beginning only what stays true of the whole, and that a whole head keeps
/// the rules it was taken by.
pub fn assert_consistent(bytes: &[u8]) {
    let request = parse_request(bytes);
    // All of them for short input; for long input the square of it would take too long.
    let step = bytes.len() / 256 + 1;
    for cut in (0..bytes.len()).step_by(step) {
        match (parse_request(&bytes[..cut]), &request) {
            (Ok(Parsed::Partial), _) => {}
            (Err(error), Err(_)) => assert!(matches!(error.status(), 400 | 431 | 505)),
            (Err(error), other) => panic!("{error:?} at {cut} became {other:?}"),
            (Ok(early), other) => assert_eq!(&Ok::<_, HeadError>(early), other, "cut at {cut}"),
        }
    }
    if let Ok(Parsed::Complete { head, len }) = &request {
        assert!(*len <= HEAD_BYTES_MAX && bytes[..*len].ends_with(b"\r\n\r\n"));
        assert!(head.headers.0.len() <= HEADERS_MAX);
        assert!(head.headers.all("content-length").count() <= 1);
        assert!(head.headers.all("host").count() <= 1);
        assert!(
            head.headers.first("content-length").is_none()
                || head.headers.first("transfer-encoding").is_none()
        );
        // Each LF of the head ends a line that CR began to end.
        let lf = bytes[..*len].iter().filter(|b| **b == b'\n').count();
        assert_eq!(lf, head.headers.0.len() + 2);
        if let Ok(accept) = upgrade::check_request(head) {
            let mut answer = Vec::new();
            upgrade::write_accept(&mut answer, &accept);
            assert!(
                matches!(parse_response(&answer), Ok(Parsed::Complete { head, .. }) if head.status == 101)
            );
        }
    }
    let response = parse_response(bytes);
    for cut in (0..bytes.len()).step_by(step) {
        match (parse_response(&bytes[..cut]), &response) {
            (Ok(Parsed::Partial), _) | (Err(_), Err(_)) => {}
            (Err(error), other) => panic!("{error:?} at {cut} became {other:?}"),
            (Ok(early), other) => assert_eq!(&Ok::<_, HeadError>(early), other, "cut at {cut}"),
        }
    }
}
