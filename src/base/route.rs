//! The one route table: which paths are media streams, and what their ids are.

use percent_encoding::percent_decode_str;

/// What a stream path does with its call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamMode {
    /// With call record and store.
    Full,
    /// A debug route of one of the older backends: relays, keeps nothing.
    Simple,
}

impl StreamMode {
    /// For logs and lists.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Simple => "simple",
        }
    }
}

/// One alias of the media-stream endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamAlias {
    /// The path as routers write it, with `{id}` for the id segment.
    pub pattern: &'static str,
    /// The fixed part; with an id, it ends in `/`.
    pub prefix: &'static str,
    /// Whether an id segment follows.
    pub has_id: bool,
    /// What it does with its call.
    pub mode: StreamMode,
}

/// Every media-stream path that the replaced backends served.
pub const STREAM_ALIASES: &[StreamAlias] = &[
    StreamAlias {
        pattern: "/api/twilio/media-stream/{callId}",
        prefix: "/api/twilio/media-stream/",
        has_id: true,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/media-stream/{callSid}",
        prefix: "/media-stream/",
        has_id: true,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/api/twilio/media-stream-simple",
        prefix: "/api/twilio/media-stream-simple",
        has_id: false,
        mode: StreamMode::Simple,
    },
    StreamAlias {
        pattern: "/media-stream",
        prefix: "/media-stream",
        has_id: false,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/api/voice/stream",
        prefix: "/api/voice/stream",
        has_id: false,
        mode: StreamMode::Full,
    },
    StreamAlias {
        pattern: "/streams",
        prefix: "/streams",
        has_id: false,
        mode: StreamMode::Full,
    },
];

/// The echo endpoint of the WebSocket conformance suite; open only when a switch says so.
pub const CONFORMANCE_ECHO: &str = "/conformance/echo";

/// The longest id in a path, after percent-decoding. A ticket fits (`base::token`).
pub const ID_BYTES_MAX: usize = 128;
/// The longest token taken from a query.
pub const QUERY_TOKEN_BYTES_MAX: usize = 256;

/// What a request target stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// A media stream.
    Stream {
        /// Under which of its names.
        alias: &'static StreamAlias,
        /// The id segment, decoded: 1 to 128 bytes of `[A-Za-z0-9_.:-]`. `None` exactly on aliases without one.
        id: Option<String>,
        /// `token` of the query string, decoded, where it is not empty and fits.
        query_token: Option<String>,
        /// The `?` came percent-encoded inside the path and was put right; to be counted.
        repaired: bool,
    },
    /// A media stream's path with an id that can't be one (or with one where none may be): 400, with the reason.
    BadId(&'static str),
    /// `CONFORMANCE_ECHO`.
    ConformanceEcho,
    /// No stream: control's business.
    Other,
}

/// Resolves a request target in origin form (`/path?query`).
///
/// An encoded question mark (`%3Ftoken=…`, seen from carriers that encode the whole URL into the path) ends the path of a
/// stream as a plain one would; what follows it is decoded and joins the query.
pub fn resolve(path_and_query: &str) -> Resolved {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    if path == CONFORMANCE_ECHO {
        return Resolved::ConformanceEcho;
    }
    let (path, encoded_query) = cut_encoded_query(path);
    for alias in STREAM_ALIASES {
        let Some(rest) = path.strip_prefix(alias.prefix) else {
            continue;
        };
        let id = match (alias.has_id, rest) {
            (true, segment) => match decode_id(segment) {
                Ok(id) => Some(id),
                Err(reason) => return Resolved::BadId(reason),
            },
            (false, "") => None,
            // `/media-stream/…` belongs to the alias with an id, `/streams-x` to nobody.
            (false, _) if !rest.starts_with('/') || has_id_form(alias) => continue,
            (false, "/") => return Resolved::BadId("trailing slash"),
            (false, _) => return Resolved::BadId("extra path segment"),
        };
        let repaired_query = encoded_query.map(|q| percent_decode_str(q).decode_utf8_lossy());
        let query_token = repaired_query
            .as_deref()
            .and_then(query_token)
            .or_else(|| query.and_then(query_token));
        return Resolved::Stream {
            alias,
            id,
            query_token,
            repaired: encoded_query.is_some(),
        };
    }
    Resolved::Other
}

/// Cuts a path at an encoded question mark.
fn cut_encoded_query(path: &str) -> (&str, Option<&str>) {
    let at = path
        .as_bytes()
        .windows(3)
        .position(|w| w.eq_ignore_ascii_case(b"%3F"));
    match at {
        Some(at) => (&path[..at], Some(&path[at + 3..])),
        None => (path, None),
    }
}

/// Whether another alias takes ids below this fixed path.
fn has_id_form(fixed: &StreamAlias) -> bool {
    STREAM_ALIASES
        .iter()
        .any(|alias| alias.has_id && alias.prefix.strip_suffix('/') == Some(fixed.prefix))
}

fn decode_id(segment: &str) -> Result<String, &'static str> {
    match segment.split_once('/') {
        None => {}
        Some((_, "")) => return Err("trailing slash"),
        Some(_) => return Err("extra path segment"),
    }
    if segment.is_empty() {
        return Err("empty id");
    }
    // Bytes that are no valid encoding stay as they are, and `%` is not among the allowed bytes.
    let id: Vec<u8> = percent_decode_str(segment).collect();
    if id.len() > ID_BYTES_MAX {
        return Err("id too long");
    }
    if !id
        .iter()
        .all(|&b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b))
    {
        return Err("byte not allowed in an id");
    }
    if id == b"." || id == b".." {
        return Err("dot segment");
    }
    // ASCII by the check above.
    String::from_utf8(id).map_err(|_| "byte not allowed in an id")
}

fn query_token(query: &str) -> Option<String> {
    let raw = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))?;
    let token = percent_decode_str(raw).decode_utf8().ok()?;
    (!token.is_empty() && token.len() <= QUERY_TOKEN_BYTES_MAX).then(|| token.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(target: &str) -> (&'static str, Option<String>, Option<String>, bool) {
        match resolve(target) {
            Resolved::Stream {
                alias,
                id,
                query_token,
                repaired,
            } => (alias.pattern, id, query_token, repaired),
            other => panic!("{target}: {other:?}"),
        }
    }

    #[test]
    fn every_alias_resolves_to_itself_and_to_no_other() {
        for alias in STREAM_ALIASES {
            let target = match alias.has_id {
                true => format!("{}CA123", alias.prefix),
                false => alias.prefix.to_owned(),
            };
            let (pattern, id, _, _) = stream(&target);
            assert_eq!(pattern, alias.pattern);
            assert_eq!(id.as_deref(), alias.has_id.then_some("CA123"));
        }
    }

    #[test]
    fn no_two_aliases_overlap() {
        for (i, a) in STREAM_ALIASES.iter().enumerate() {
            assert_eq!(a.has_id, a.prefix.ends_with('/'));
            assert_eq!(a.has_id, a.pattern.ends_with('}'));
            assert!(a.pattern.starts_with(a.prefix));
            for b in &STREAM_ALIASES[i + 1..] {
                assert_ne!(a.prefix, b.prefix);
                // A path that two aliases could take would need one id prefix inside the other.
                let nested = a.prefix.starts_with(b.prefix) || b.prefix.starts_with(a.prefix);
                assert!(
                    !(a.has_id && b.has_id && nested),
                    "{} {}",
                    a.pattern,
                    b.pattern
                );
                if a.has_id != b.has_id {
                    let (with, without) = if a.has_id { (a, b) } else { (b, a) };
                    assert!(!without.prefix.starts_with(with.prefix));
                }
            }
            assert!(!CONFORMANCE_ECHO.starts_with(a.prefix));
        }
    }

    #[test]
    fn ids_are_one_decoded_segment() {
        for (target, id) in [
            ("/media-stream/CA0123", "CA0123"),
            ("/media-stream/a%2Eb", "a.b"),
            ("/api/twilio/media-stream/%41_:.-z", "A_:.-z"),
            ("/media-stream/x.1234.mac?x=1", "x.1234.mac"),
        ] {
            assert_eq!(stream(target).1.as_deref(), Some(id), "{target}");
        }
        let longest = "x".repeat(128);
        assert_eq!(stream(&format!("/media-stream/{longest}")).1, Some(longest));
        assert_eq!(
            stream(&format!("/media-stream/{}", "%78".repeat(128))).1,
            Some("x".repeat(128))
        );
    }

    #[test]
    fn bad_ids_are_named() {
        for (target, reason) in [
            ("/media-stream/", "empty id"),
            ("/media-stream/?token=x", "empty id"),
            ("/api/twilio/media-stream/", "empty id"),
            ("/media-stream/a/", "trailing slash"),
            ("/media-stream/a/b", "extra path segment"),
            ("/media-stream//a", "extra path segment"),
            ("/media-stream//", "trailing slash"),
            ("/media-stream/a%2Fb", "byte not allowed in an id"),
            ("/media-stream/a%00", "byte not allowed in an id"),
            ("/media-stream/a%zz", "byte not allowed in an id"),
            ("/media-stream/a%4", "byte not allowed in an id"),
            ("/media-stream/a b", "byte not allowed in an id"),
            ("/media-stream/%FF%FE", "byte not allowed in an id"),
            ("/media-stream/.", "dot segment"),
            ("/media-stream/%2e%2E", "dot segment"),
            ("/streams/", "trailing slash"),
            ("/streams/abc", "extra path segment"),
            ("/api/voice/stream/", "trailing slash"),
            ("/api/twilio/media-stream-simple/x", "extra path segment"),
        ] {
            assert_eq!(resolve(target), Resolved::BadId(reason), "{target}");
        }
        let long = format!("/media-stream/{}", "x".repeat(129));
        assert_eq!(resolve(&long), Resolved::BadId("id too long"));
    }

    #[test]
    fn other_paths_are_no_streams() {
        for target in [
            "/",
            "",
            "*",
            "/health",
            "/stream",
            "/streamsx",
            "/streams.",
            "/Streams",
            "/media-streams",
            "/media-stream-simple",
            "/api/twilio/media-stream",
            "/api/twilio/voice",
            "//media-stream",
            "http://example.com/media-stream",
            "/conformance/echo/",
            "/conformance",
        ] {
            assert_eq!(resolve(target), Resolved::Other, "{target}");
        }
        assert_eq!(resolve("/conformance/echo"), Resolved::ConformanceEcho);
        assert_eq!(resolve("/conformance/echo?x"), Resolved::ConformanceEcho);
    }

    #[test]
    fn tokens_come_from_the_query_and_an_encoded_question_mark_is_repaired() {
        for (target, token, repaired) in [
            ("/streams?token=abc", Some("abc"), false),
            ("/streams?a=1&token=a%2Eb&token=c", Some("a.b"), false),
            ("/streams?token=", None, false),
            ("/streams?tokens=1", None, false),
            ("/streams?token=%FF", None, false),
            ("/streams%3Ftoken=abc", Some("abc"), true),
            ("/streams%3ftoken%3Dabc%26x%3D1", Some("abc"), true),
            ("/streams%3Fx=1?token=abc", Some("abc"), true),
            ("/media-stream/CA1%3Ftoken=abc", Some("abc"), true),
            ("/media-stream%3Ftoken=abc", Some("abc"), true),
        ] {
            let (_, _, got, fixed) = stream(target);
            assert_eq!((got.as_deref(), fixed), (token, repaired), "{target}");
        }
        assert_eq!(
            stream("/media-stream/CA1%3Ftoken=abc").1.as_deref(),
            Some("CA1")
        );
        assert_eq!(
            resolve("/media-stream/%3Ftoken=abc"),
            Resolved::BadId("empty id")
        );
        let long = format!("/streams?token={}", "x".repeat(QUERY_TOKEN_BYTES_MAX + 1));
        assert_eq!(stream(&long).2, None);
    }

    proptest! {
        #[test]
        fn any_target_resolves_and_ids_keep_their_promise(tail in "\\PC{0,40}", which in 0usize..6) {
            let target = format!("{}{tail}", STREAM_ALIASES[which].prefix);
            if let Resolved::Stream { alias, id, .. } = resolve(&target) {
                prop_assert_eq!(alias.has_id, id.is_some());
                if let Some(id) = id {
                    prop_assert!(!id.is_empty() && id.len() <= ID_BYTES_MAX);
                    prop_assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:-".contains(&b)));
                }
            }
            let _ = resolve(&tail);
        }
    }
}
