//! What a request's head asks for, and the answers that the desk writes itself.
//!
//! | target | request | answer |
//! |---|---|---|
//! | media stream | GET, upgrade in order | admission |
//! | | GET without upgrade, other version | 426 |
//! | | broken or doubled upgrade headers | 400 |
//! | | POST | control (health) |
//! | | other methods | 405 |
//! | media stream with a bad id | any | 400 |
//! | `/conformance/echo`, when switched on | GET, upgrade in order | echo |
//! | anything else | `Upgrade: websocket` | 404 |
//! | | ordinary | control |

use super::admit::Refusal;
use crate::base::route::{Resolved, StreamAlias, resolve};
use crate::proto::http::head::{RequestHead, write_response};
use crate::proto::http::upgrade::{Accept, UpgradeError, check_request};

/// What a head asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// A media stream.
    Stream(StreamRequest),
    /// The conformance suite's echo.
    Echo(Accept),
    /// Ordinary HTTP.
    Control,
    /// Nothing that we give.
    Refuse(Answer),
}

/// A well-formed upgrade request for a media stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StreamRequest {
    pub(super) accept: Accept,
    pub(super) alias: &'static StreamAlias,
    pub(super) id: Option<String>,
    /// A token from the query, else from `X-Voxrelay-Ticket`.
    pub(super) token: Option<String>,
    pub(super) repaired: bool,
    pub(super) signature: Option<String>,
    pub(super) target: String,
}

/// A refusal with the header lines that its status calls for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) refusal: Refusal,
    pub(super) headers: &'static [(&'static str, &'static str)],
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            headers: &[],
        }
    }
}

impl From<UpgradeError> for Answer {
    fn from(error: UpgradeError) -> Self {
        let message = match error {
            UpgradeError::NotAnUpgrade => "this is a WebSocket endpoint",
            UpgradeError::Method => "only GET upgrades",
            UpgradeError::HttpVersion => "an upgrade needs HTTP/1.1",
            UpgradeError::Header(_) => "an upgrade header is missing, doubled or wrong",
            UpgradeError::Version => "only WebSocket version 13",
            UpgradeError::Key => "Sec-WebSocket-Key is not base64 of 16 bytes",
        };
        Self {
            refusal: Refusal::new(error.status(), error.label(), message),
            headers: error.headers(),
        }
    }
}

impl Answer {
    /// The JSON body.
    pub(super) fn body(&self, request_id: &str) -> String {
        let Refusal { code, message, .. } = self.refusal;
        serde_json::json!({
            "error": { "code": code, "message": message, "requestId": request_id }
        })
        .to_string()
    }

    /// The header lines that the status calls for.
    pub(super) fn headers(&self) -> Vec<(&'static str, String)> {
        let own = self.headers.iter();
        let mut headers: Vec<_> = own
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let retry_after = self.refusal.retry_after;
        headers.extend(retry_after.map(|secs| ("Retry-After", secs.to_string())));
        headers
    }

    /// The whole response.
    pub(super) fn write(&self, request_id: &str) -> Vec<u8> {
        let headers = self.headers();
        let mut lines = vec![("X-Request-Id", request_id)];
        lines.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
        let mut out = Vec::new();
        let body = self.body(request_id);
        write_response(
            &mut out,
            self.refusal.status,
            &lines,
            "application/json",
            body.as_bytes(),
        );
        out
    }
}

/// Decides by the head alone. `echo`: the conformance route is open.
pub(super) fn classify(head: &RequestHead<'_>, echo: bool) -> Door {
    let refuse = |status, code, message| Door::Refuse(Refusal::new(status, code, message).into());
    let target = head.origin_form();
    match resolve(target) {
        Resolved::Stream {
            alias,
            id,
            query_token,
            repaired,
        } => match head.method {
            "GET" => match check_request(head) {
                Ok(accept) => {
                    let header_token = head.headers.first("x-voxrelay-ticket");
                    Door::Stream(StreamRequest {
                        accept,
                        alias,
                        id,
                        token: query_token.or_else(|| header_token.map(str::to_owned)),
                        repaired,
                        signature: head.headers.first("x-twilio-signature").map(str::to_owned),
                        target: target.to_owned(),
                    })
                }
                Err(error) => Door::Refuse(error.into()),
            },
            "POST" => Door::Control,
            _ => Door::Refuse(Answer {
                refusal: Refusal::new(405, "method", "a stream path takes GET and POST"),
                headers: &[("Allow", "GET, POST")],
            }),
        },
        Resolved::BadId(reason) => refuse(400, "bad_id", reason),
        Resolved::ConformanceEcho if echo => match check_request(head) {
            Ok(accept) => Door::Echo(accept),
            Err(error) => Door::Refuse(error.into()),
        },
        Resolved::ConformanceEcho | Resolved::Other => {
            // Other protocols than websocket (h2c, say) are offers that may be passed over.
            if head.headers.has_token("upgrade", "websocket") {
                refuse(404, "unknown_path", "no WebSocket endpoint has this path")
            } else {
                Door::Control
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::head::{Parsed, parse_request};

    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn door(line: &str, headers: &str, echo: bool) -> Door {
        let text = format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        match parse_request(text.as_bytes()).unwrap() {
            Parsed::Complete { head, .. } => classify(&head, echo),
            Parsed::Partial => panic!("partial"),
        }
    }

    fn status(door: Door) -> u16 {
        match door {
            Door::Refuse(answer) => answer.refusal.status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_stream_alias_upgrades_and_answers_ordinary_requests() {
        for alias in crate::base::route::STREAM_ALIASES {
            let path = match alias.has_id {
                true => format!("{}CA1", alias.prefix),
                false => alias.prefix.to_owned(),
            };
            match door(&format!("GET {path}"), UPGRADE, false) {
                Door::Stream(request) => assert_eq!(request.alias, alias),
                other => panic!("{other:?}"),
            }
            assert_eq!(status(door(&format!("GET {path}"), "", false)), 426);
            assert_eq!(door(&format!("POST {path}"), "", false), Door::Control);
            assert_eq!(status(door(&format!("PUT {path}"), "", false)), 405);
        }
    }

    #[test]
    fn a_426_names_protocol_and_version() {
        let Door::Refuse(answer) = door("GET /streams", "", false) else {
            panic!()
        };
        let text = String::from_utf8(answer.write("r1")).unwrap();
        assert!(text.starts_with("HTTP/1.1 426 "), "{text}");
        assert!(text.contains("\r\nUpgrade: websocket\r\n"), "{text}");
        assert!(
            text.contains("\r\nConnection: close, Upgrade\r\n"),
            "{text}"
        );
        assert!(text.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{text}");
        assert!(text.ends_with(
            r#"{"error":{"code":"not_an_upgrade","message":"this is a WebSocket endpoint","requestId":"r1"}}"#
        ));
    }

    #[test]
    fn bad_requests_have_their_statuses() {
        let version = UPGRADE.replace("13", "8");
        let doubled = format!("{UPGRADE}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        for (line, headers, expected) in [
            ("GET /streams", version.as_str(), 426),
            ("GET /streams", doubled.as_str(), 400),
            ("GET /media-stream/", UPGRADE, 400),
            ("GET /media-stream/a/b", "", 400),
            ("GET /nowhere", UPGRADE, 404),
            ("GET /conformance/echo", UPGRADE, 404),
            ("POST /nowhere", UPGRADE, 404),
        ] {
            assert_eq!(status(door(line, headers, false)), expected, "{line}");
        }
    }

    #[test]
    fn everything_ordinary_goes_to_control() {
        for line in [
            "GET /",
            "GET /health",
            "POST /api/twilio/voice",
            "OPTIONS *",
            "GET /conformance/echo",
        ] {
            assert_eq!(door(line, "", false), Door::Control, "{line}");
        }
        let h2c = "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n";
        assert_eq!(door("GET /health", h2c, false), Door::Control);
    }

    #[test]
    fn the_echo_is_behind_its_switch() {
        assert!(matches!(
            door("GET /conformance/echo", UPGRADE, true),
            Door::Echo(_)
        ));
        assert_eq!(status(door("GET /conformance/echo", "", true)), 426);
    }

    #[test]
    fn a_target_in_absolute_form_means_its_path() {
        for (target, path) in [
            ("http://x/media-stream/CA1?a=b", "/media-stream/CA1?a=b"),
            ("HTTPS://x:1/streams", "/streams"),
        ] {
            match door(&format!("GET {target}"), UPGRADE, false) {
                Door::Stream(request) => assert_eq!(request.target, path),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(door("GET http://x/health", "", false), Door::Control);
        assert_eq!(status(door("GET http://x", UPGRADE, false)), 404);
        assert_eq!(status(door("GET ftp://x/streams", UPGRADE, false)), 404);
    }

    #[test]
    fn tokens_come_from_query_then_header() {
        let headers = format!("{UPGRADE}X-Voxrelay-Ticket: h\r\nX-Twilio-Signature: s\r\n");
        for (line, token) in [("GET /streams", "h"), ("GET /streams?token=q", "q")] {
            let Door::Stream(request) = door(line, &headers, false) else {
                panic!()
            };
            assert_eq!(request.token.as_deref(), Some(token));
            assert_eq!(request.signature.as_deref(), Some("s"));
        }
    }
}
