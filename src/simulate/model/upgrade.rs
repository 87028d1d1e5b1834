//! The HTTP request that opens a session: path, query, key. Pure.

use super::options::Options;
use crate::proto::http::head::RequestHead;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// The one path.
pub const PATH: &str = "/v1/realtime";

/// A request that gets its 101.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// From the query.
    pub model: String,
    /// The removed beta protocol was asked for: 101, then an error, then a close.
    pub is_beta: bool,
}

/// A request that gets another status, with a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `{"error": …}`.
    pub body: Value,
}

fn refused(status: u16, kind: &str, code: &str, message: &str) -> Refused {
    Refused {
        status,
        body: json!({"error": {"message": message, "type": kind, "param": null, "code": code}}),
    }
}

/// Checks a request as the endpoint does. That it is a WebSocket upgrade is checked elsewhere.
pub fn check(head: &RequestHead<'_>, options: &Options) -> Result<Opened, Refused> {
    let invalid = "invalid_request_error";
    match options.refuse_upgrade {
        Some(429) => {
            return Err(refused(
                429,
                "requests",
                "rate_limit_exceeded",
                "Rate limit reached for requests.",
            ));
        }
        Some(status) => {
            return Err(refused(
                status,
                "server_error",
                "server_error",
                "The server had an error while processing your request.",
            ));
        }
        None => {}
    }
    let (path, query) = head.target.split_once('?').unwrap_or((head.target, ""));
    if path != PATH {
        return Err(refused(404, invalid, "unknown_url", "Invalid URL."));
    }
    let key = head
        .headers
        .first("authorization")
        .and_then(|value| value.strip_prefix("Bearer "));
    match (&options.api_key, key) {
        (Some(want), Some(got)) if want == got => {}
        (Some(_), Some(_)) => {
            return Err(refused(
                401,
                invalid,
                "invalid_api_key",
                "Incorrect API key provided.",
            ));
        }
        (Some(_), None) => {
            return Err(refused(
                401,
                invalid,
                "missing_api_key",
                "Missing bearer authentication in header.",
            ));
        }
        (None, _) => {}
    }
    let mut models = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("model="));
    let model = match (models.next(), models.next()) {
        (Some(model), None) if !model.is_empty() => percent_decode_str(model).decode_utf8(),
        _ => {
            return Err(refused(
                400,
                invalid,
                "missing_model",
                "You must provide a model parameter.",
            ));
        }
    };
    let Ok(model) = model else {
        return Err(refused(400, invalid, "invalid_model", "Not UTF-8."));
    };
    Ok(Opened {
        model: model.into_owned(),
        is_beta: head.headers.first("openai-beta").is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::http::head::Headers;

    fn ask(target: &str, headers: &[(&str, &str)], options: &Options) -> Result<Opened, u16> {
        let head = RequestHead {
            method: "GET",
            target,
            minor_version: 1,
            headers: Headers(headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect()),
        };
        check(&head, options).map_err(|refused| {
            assert!(refused.body["error"]["message"].is_string());
            refused.status
        })
    }

    #[test]
    fn path_model_and_key_are_needed() {
        let open = Options::default();
        let locked = Options {
            api_key: Some("sk-1".into()),
            ..Options::default()
        };
        let good = "/v1/realtime?model=gpt-realtime";
        assert_eq!(
            ask(good, &[], &open),
            Ok(Opened {
                model: "gpt-realtime".into(),
                is_beta: false
            })
        );
        assert_eq!(ask("/v1/realtime", &[], &open), Err(400));
        assert_eq!(ask("/v1/realtime?model=", &[], &open), Err(400));
        assert_eq!(ask("/v2/realtime?model=x", &[], &open), Err(404));
        assert_eq!(ask(good, &[], &locked), Err(401));
        let bearer = |key| ask(good, &[("Authorization", key)], &locked);
        assert_eq!(bearer("Bearer sk-2"), Err(401));
        assert!(bearer("Bearer sk-1").is_ok());
    }

    #[test]
    fn the_beta_header_is_noticed() {
        let asked = ask(
            "/v1/realtime?model=m",
            &[("OpenAI-Beta", "realtime=v1")],
            &Options::default(),
        );
        assert_eq!(asked.map(|opened| opened.is_beta), Ok(true));
    }

    #[test]
    fn refusals_can_be_ordered() {
        for status in [429, 500] {
            let options = Options {
                refuse_upgrade: Some(status),
                ..Options::default()
            };
            assert_eq!(ask("/v1/realtime?model=m", &[], &options), Err(status));
        }
    }
}
