//! Carrier webhooks: check who asks, announce the call, answer with TwiML that connects it to a stream.
//!
//! The call is in the directory before the answer leaves, so the stream can't come too early. Whatever fails on our
//! side is spoken: a caller who hears a sentence is better off than one who hears the carrier's error.

use super::error::ApiError;
use super::{Shared, after_stream};
use crate::base::id::{CallId, CallSid};
use crate::base::limit::TICKET_LIFE;
use crate::base::token;
use crate::bus::command::ToDesk;
use crate::bus::directory::{Directory, Expected};
use crate::config::Config;
use crate::config::url::{Url, is_host, is_loopback_host, split_port};
use crate::proto::carrier::signature::{body_hash_matches, is_valid, parse_form};
use crate::proto::carrier::twiml::{self, RejectReason};
use crate::telemetry::http_meter;
use crate::telemetry::log::{brief, mask_number};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::Arc;

/// The longest webhook body, bytes. A carrier's is about 1 KiB.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Announced calls at once. They live for `TICKET_LIFE`, so this is more than 1,000 calls a second.
pub const EXPECTED_MAX: usize = 128 * 1024;
/// The longest call id that is taken, bytes. Twilio's are 34.
const CALL_SID_BYTES_MAX: usize = 128;
/// A number, a client's name or a SIP address as it is handed on, characters; longer ones are left out.
const PARTY_CHARS_MAX: usize = 256;

const TEXT_XML: &str = "text/xml; charset=utf-8";
const APOLOGY: &str = "We are sorry, we can't take your call right now. Please try again later.";

/// `POST|GET` on the production paths: a stream of its own path per call.
pub async fn voice(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, request, Mode::Full).await
}

/// `POST|GET /api/twilio/incoming-call`: the debug stream of one of the older backends.
pub async fn voice_simple(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    answer(&shared, request, Mode::Simple).await
}

/// The document of last resort: spoken by the carrier, which hangs up at its end.
pub fn apology() -> Response {
    document(twiml::say(APOLOGY, "en-US"))
}

/// Which stream the TwiML asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Full,
    Simple,
}

fn document(xml: String) -> Response {
    ([(CONTENT_TYPE, TEXT_XML)], xml).into_response()
}

async fn answer(shared: &Shared, request: Request, mode: Mode) -> Response {
    said(match decide(shared, request, mode).await {
        Ok(Answer::Connect(xml)) => Ok(("connect", xml)),
        Ok(Answer::Busy(why)) => Ok((why, twiml::reject(RejectReason::Busy))),
        Err(failure) => Err(failure),
    })
}

/// The answer to a webhook, counted: a label and the document, or why there is none.
pub(super) fn said(decided: Result<(&'static str, String), Failure>) -> Response {
    let (outcome, response) = match decided {
        Ok((outcome, xml)) => (outcome, document(xml)),
        Err(Failure::Refused(outcome, error)) => (outcome, error.into_response()),
        Err(Failure::Internal(why)) => {
            tracing::error!(why, "a webhook was answered with an apology");
            ("internal", apology())
        }
    };
    http_meter::webhook(outcome);
    response
}

enum Answer {
    Connect(String),
    /// The label for the count.
    Busy(&'static str),
}

/// Why a webhook is not answered as it asks.
pub(super) enum Failure {
    /// The label for the count, and the answer.
    Refused(&'static str, ApiError),
    Internal(&'static str),
}

const fn refused(outcome: &'static str, status: StatusCode, message: &'static str) -> Failure {
    Failure::Refused(outcome, ApiError::new(status, message))
}

/// A webhook of the carrier's, proven to be one.
pub(super) struct Webhook {
    headers: HeaderMap,
    params: Vec<(String, String)>,
}

impl Webhook {
    /// A parameter; empty where it is missing.
    pub(super) fn param(&self, name: &str) -> &str {
        let value = self.params.iter().find(|(key, _)| key == name);
        value.map_or("", |(_, value)| value.as_str())
    }
}

/// Reads a webhook and checks who sent it: signature, account, the bound on its call's id.
pub(super) async fn accept(shared: &Shared, request: Request) -> Result<Webhook, Failure> {
    let (parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let body = read(body).await?;
    let is_form = parts.headers.get(CONTENT_TYPE).is_some_and(is_form_type);
    let posted = parts.method == Method::POST;
    // What is signed beside the URL: a form's fields, and nothing else.
    let form = if posted && is_form {
        parse_form(&body)
    } else {
        Vec::new()
    };
    authenticate(
        &shared.config,
        &parts.headers,
        target,
        &form,
        (posted && !is_form).then_some(&body),
    )?;
    let params = if !posted {
        parse_form(parts.uri.query().unwrap_or_default().as_bytes())
    } else if is_form {
        form
    } else {
        json_params(&body)?
    };
    let webhook = Webhook {
        headers: parts.headers,
        params,
    };
    let account = &shared.config.carrier.account_sid;
    if !account.is_empty() && webhook.param("AccountSid") != account {
        tracing::warn!("a webhook came from another account");
        return Err(refused(
            "account",
            StatusCode::FORBIDDEN,
            "This account is not served here.",
        ));
    }
    if webhook.param("CallSid").len() > CALL_SID_BYTES_MAX {
        return Err(refused(
            "call_sid",
            StatusCode::BAD_REQUEST,
            "CallSid is longer than 128 bytes.",
        ));
    }
    Ok(webhook)
}

async fn decide(shared: &Shared, request: Request, mode: Mode) -> Result<Answer, Failure> {
    let webhook = accept(shared, request).await?;
    let param = |name| webhook.param(name);
    if shared.is_draining() || shared.active_calls() >= shared.config.relay.calls_max {
        return Ok(Answer::Busy("busy"));
    }
    if let Some(why) = shared.overload() {
        return Ok(Answer::Busy(why.label()));
    }
    let base = stream_base(&shared.config, &webhook.headers).ok_or(refused(
        "host",
        StatusCode::BAD_REQUEST,
        "The Host header is missing or not valid, and no PUBLIC_URL is set.",
    ))?;
    let call_id = fresh_id().ok_or(Failure::Internal("no entropy for a call id"))?;
    let call_sid = CallSid::new(param("CallSid"));
    if !announce(shared, call_id, call_sid) {
        return Ok(Answer::Busy("busy"));
    }
    if let Some(call_sid) = call_sid {
        let after = &shared.calls.after;
        after.announce(call_id, call_sid, shared.now().unix_ms);
    }
    tracing::info!(
        call = call_id.as_str(),
        call_sid = &*brief(param("CallSid")),
        from = mask_number(param("From")),
        to = mask_number(param("To")),
        "call announced"
    );
    connect(shared, &base, mode, call_id, param("From"), param("To")).map(Answer::Connect)
}

/// The whole body, up to its bound.
async fn read(body: Body) -> Result<Vec<u8>, Failure> {
    match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(bytes) => Ok(bytes.into()),
        Err(error)
            if error
                .source()
                .is_some_and(|source| source.is::<LengthLimitError>()) =>
        {
            Err(refused(
                "too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is longer than 64 KiB.",
            ))
        }
        Err(_) => Err(refused(
            "body",
            StatusCode::BAD_REQUEST,
            "The body could not be read.",
        )),
    }
}

fn is_form_type(value: &axum::http::HeaderValue) -> bool {
    let essence = value.as_bytes().split(|byte| *byte == b';').next();
    essence.is_some_and(|essence| {
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// Checks the carrier's signature, where tokens are configured. `raw` is a body that is no form: the URL then
/// holds its hash. The URL is the public origin and the target as received; no header has a say in it.
fn authenticate(
    config: &Config,
    headers: &HeaderMap,
    target: &str,
    form: &[(String, String)],
    raw: Option<&Vec<u8>>,
) -> Result<(), Failure> {
    if config.carrier.auth_tokens.is_empty() {
        return Ok(());
    }
    let origin = config.listen.public_url.as_deref().unwrap_or_default();
    let url = format!("{origin}{target}");
    let forbid = |outcome, message| {
        tracing::warn!(
            url = &*brief(&without_values(&url)),
            reason = outcome,
            "a webhook was refused"
        );
        Err(refused(outcome, StatusCode::FORBIDDEN, message))
    };
    let mut signatures = headers.get_all("x-twilio-signature").iter();
    let (Some(signature), None) = (signatures.next(), signatures.next()) else {
        return forbid(
            "signature_missing",
            "X-Twilio-Signature is missing or doubled.",
        );
    };
    let tokens: Vec<&str> = config
        .carrier
        .auth_tokens
        .iter()
        .map(|token| token.expose())
        .collect();
    if !is_valid(&tokens, &url, form, signature.to_str().unwrap_or_default()) {
        return forbid(
            "signature_wrong",
            "X-Twilio-Signature does not fit this request.",
        );
    }
    if raw.is_some_and(|body| body_hash_matches(&url, body) != Some(true)) {
        return forbid("body_hash", "bodySHA256 does not fit the body.");
    }
    Ok(())
}

/// The URL with the values of its query left out: a GET webhook has phone numbers there.
fn without_values(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let names = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) => format!("{name}=…"),
        None => "…".to_owned(),
    });
    format!("{path}?{}", names.collect::<Vec<_>>().join("&"))
}

/// The text fields of a JSON object.
fn json_params(body: &[u8]) -> Result<Vec<(String, String)>, Failure> {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let serde_json::Value::Object(fields) = value else {
        return Err(refused(
            "body",
            StatusCode::BAD_REQUEST,
            "The body is neither a form nor a JSON object.",
        ));
    };
    let text =
        |(name, value): (String, serde_json::Value)| Some((name, value.as_str()?.to_owned()));
    Ok(fields.into_iter().filter_map(text).collect())
}

/// `wss://host[:port]` (or `ws://` on loopback) as the carrier shall reach it: the public address, else the request's Host.
/// Forwarding headers have no say: no proxy is trusted yet.
fn stream_base(config: &Config, headers: &HeaderMap) -> Option<String> {
    if let Some(public) = &config.listen.public_url {
        let url = Url::parse(public).ok()?;
        let plain = url.scheme == "http" && is_loopback_host(&url.host);
        return Some(format!(
            "{}://{}",
            if plain { "ws" } else { "wss" },
            url.authority()
        ));
    }
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let authority = host.to_str().ok()?;
    let (host, _) = split_port(authority).ok()?;
    let plain = is_loopback_host(host) && config.listen.tls.is_none();
    is_host(host).then(|| format!("{}://{authority}", if plain { "ws" } else { "wss" }))
}

/// An id that nobody can guess: 128 bits in hexadecimal, so that it is a path segment as it stands.
fn fresh_id() -> Option<CallId> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    let mut text = String::with_capacity(32);
    for byte in bytes {
        write!(text, "{byte:02x}").ok()?;
    }
    CallId::new(&text)
}

/// Puts the call into the directory. `false` when too many wait: those whose time is over leave within seconds.
fn announce(shared: &Shared, call_id: CallId, call_sid: Option<CallSid>) -> bool {
    let now = shared.now().unix_ms;
    let expected = Expected {
        call_sid,
        expires_unix_ms: now + TICKET_LIFE.as_millis() as u64,
    };
    let mut has_room = true;
    shared.directory.rcu(|directory| {
        let mut next = Directory::clone(directory);
        if next.expected.len() >= EXPECTED_MAX {
            next.expected.forget(now);
        }
        has_room = next.expected.len() < EXPECTED_MAX;
        if has_room {
            next.expected.insert(call_id, expected.clone());
        }
        next
    });
    has_room
}

fn connect(
    shared: &Shared,
    base: &str,
    mode: Mode,
    call_id: CallId,
    from: &str,
    to: &str,
) -> Result<String, Failure> {
    let expires = (shared.now().unix_ms + TICKET_LIFE.as_millis() as u64) / 1000;
    let ticket = token::mint(&shared.directory.load().ticket_key, &call_id, expires);
    // With signatures on, the stream proves itself by its own path; the fixed alias is for development.
    let url = if mode == Mode::Simple && shared.config.carrier.auth_tokens.is_empty() {
        format!("{base}/api/twilio/media-stream-simple")
    } else {
        // Only a head start: a desk that is busy dials when the stream is there. A stream on the fixed alias
        // comes without its call's id, so nobody could claim what was dialled for it.
        let _ = shared.desk.try_send(ToDesk::Predial { call_id });
        format!("{base}/api/twilio/media-stream/{ticket}")
    };
    let fits = |party: &&str| !party.is_empty() && party.chars().count() <= PARTY_CHARS_MAX;
    let mut parameters = vec![("ticket", ticket.as_str())];
    parameters.extend(Some(from).filter(fits).map(|from| ("from", from)));
    parameters.extend(Some(to).filter(fits).map(|to| ("to", to)));
    // Where the carrier asks what is to follow when the stream is over. Absolute: a document has no base of its own.
    let action = format!("http{}{}", &base["ws".len()..], after_stream::PATH);
    twiml::connect_stream(&url, &parameters, Some(&action))
        .map_err(|_| Failure::Internal("a stream parameter is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(host: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).expect("a value"));
        headers
    }

    #[test]
    fn the_stream_s_address_is_the_public_one_else_the_host() {
        let mut config = Config::default();
        let base = |config: &Config, host: &str| stream_base(config, &headers(host));
        assert_eq!(
            base(&config, "localhost:3000").as_deref(),
            Some("ws://localhost:3000")
        );
        assert_eq!(
            base(&config, "[::1]:3000").as_deref(),
            Some("ws://[::1]:3000")
        );
        assert_eq!(
            base(&config, "voice.example.com").as_deref(),
            Some("wss://voice.example.com")
        );
        for bad in ["", "a b", "a/b", "a@b", "a:b", "a\"b", "<a>"] {
            assert_eq!(base(&config, bad), None, "{bad}");
        }
        config.listen.public_url = Some("https://voice.example.com:8443".into());
        assert_eq!(
            base(&config, "evil").as_deref(),
            Some("wss://voice.example.com:8443")
        );
        config.listen.public_url = Some("http://localhost:3000".into());
        assert_eq!(
            base(&config, "evil").as_deref(),
            Some("ws://localhost:3000")
        );
        config.listen.public_url = Some("http://voice.example.com".into());
        assert_eq!(
            base(&config, "evil").as_deref(),
            Some("wss://voice.example.com")
        );
    }

    #[test]
    fn no_or_two_hosts_are_refused_and_forwarding_headers_ignored() {
        let config = Config::default();
        assert_eq!(stream_base(&config, &HeaderMap::new()), None);
        let mut two = headers("a.example");
        two.append(HOST, HeaderValue::from_static("b.example"));
        assert_eq!(stream_base(&config, &two), None);
        let mut forwarded = headers("a.example");
        forwarded.insert("x-forwarded-host", HeaderValue::from_static("evil.example"));
        assert_eq!(
            stream_base(&config, &forwarded).as_deref(),
            Some("wss://a.example")
        );
    }

    #[test]
    fn the_logged_url_has_no_values() {
        assert_eq!(without_values("https://a/b"), "https://a/b");
        assert_eq!(
            without_values("https://a/b?From=%2B1415&x"),
            "https://a/b?From=…&…"
        );
    }

    #[test]
    fn fresh_ids_are_segments_that_fit_a_ticket() {
        let id = fresh_id().expect("entropy");
        let other = fresh_id().expect("entropy");
        assert_ne!(id, other);
        let ticket = token::mint(&[7; 32], &id, 1_800_000_000);
        assert!(token::verify(&[7; 32], &ticket, 0).is_ok_and(|found| found.call_id == id));
    }
}
