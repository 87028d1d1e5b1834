//! Voice webhooks: signatures, accounts, limits, and the TwiML.

use super::*;
use crate::base::id::{CallId, CallSid};
use crate::base::token;
use crate::bus::directory::Expected;
use crate::bus::load::{Load, Overload};
use crate::config::Secret;
use crate::proto::carrier::signature::{parse_form, sign};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use sha2::{Digest, Sha256};

const FORM: &str = "application/x-www-form-urlencoded";
const CALL: &str =
    "CallSid=CA1&AccountSid=AC1&From=%2B14155550100&To=%2B14155550199&CallerName=A+%26+B";

/// Element names with their attributes, in order. Panics where it is not XML.
fn elements(xml: &str) -> Vec<(String, Vec<(String, String)>)> {
    assert!(
        xml.starts_with("<?xml"),
        "the declaration is at byte 0: {xml}"
    );
    let mut reader = Reader::from_str(xml);
    let mut found = Vec::new();
    let element = |start: BytesStart<'_>| {
        let attributes = start.attributes().map(|attribute| {
            let attribute = attribute.expect("an attribute");
            let value = quick_xml::escape::unescape(&attribute.value).expect("escaped");
            (attribute.key.as_ref().to_owned(), value.into_owned())
        });
        (start.name().as_ref().to_owned(), attributes.collect())
    };
    loop {
        match reader.read_event().expect("XML") {
            Event::Start(start) | Event::Empty(start) => found.push(element(start)),
            Event::Eof => return found,
            _ => {}
        }
    }
}

fn attribute<'a>(element: &'a (String, Vec<(String, String)>), name: &str) -> &'a str {
    let found = element.1.iter().find(|(key, _)| key == name);
    found.map_or("", |(_, value)| value)
}

/// The stream's URL and its parameters.
fn stream(answer: &Answer) -> (String, Vec<(String, String)>) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/xml"));
    let elements = elements(answer.text());
    let names: Vec<_> = elements.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[..3],
        ["Response", "Connect", "Stream"],
        "{}",
        answer.text()
    );
    let action = attribute(&elements[1], "action");
    let (scheme, rest) = action.split_once("://").expect("absolute");
    let (stream_scheme, _) = attribute(&elements[2], "url")
        .split_once("://")
        .expect("absolute");
    assert_eq!(scheme, stream_scheme.replace("ws", "http"));
    assert!(rest.ends_with("/api/twilio/after-stream"), "{action}");
    let parameters = elements[3..].iter().map(|element| {
        assert_eq!(element.0, "Parameter");
        (
            attribute(element, "name").to_owned(),
            attribute(element, "value").to_owned(),
        )
    });
    (
        attribute(&elements[2], "url").to_owned(),
        parameters.collect(),
    )
}

pub(super) fn post(
    client: &mut Client,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let mut all = vec![("Content-Type", FORM)];
    all.extend(headers);
    client.request("POST", path, &all, body.as_bytes())
}

pub(super) fn signed_config() -> Config {
    let mut config = Config::default();
    config.carrier.auth_tokens = vec![Secret::new("old"), Secret::new("token")];
    config.listen.public_url = Some("https://voice.example.com".into());
    config
}

pub(super) fn signature(path: &str, form: &str) -> String {
    let url = format!("https://voice.example.com{path}");
    sign("token", &url, &parse_form(form.as_bytes()))
}

#[test]
fn the_answer_connects_to_a_stream_with_a_ticket_of_an_announced_call() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    for path in [
        "/api/twilio/voice",
        "/api/twilio/incoming",
        "/twilio/incoming-call",
    ] {
        let (url, parameters) = stream(&post(&mut client, path, &[], CALL));
        let ticket = url
            .strip_prefix("ws://localhost:3000/api/twilio/media-stream/")
            .unwrap_or_else(|| panic!("{url}"));
        let found = token::verify(&KEY, ticket, 0).expect("our ticket");
        let directory = rig.directory.load();
        let expected = directory.expected.get(&found.call_id).expect("announced");
        assert_eq!(expected.call_sid, CallSid::new("CA1"));
        assert!(expected.expires_unix_ms.abs_diff(found.expires_unix_ms) < 2_000);
        let want = [
            ("ticket", ticket),
            ("from", "+14155550100"),
            ("to", "+14155550199"),
        ];
        assert_eq!(parameters, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
    assert_eq!(rig.directory.load().expected.len(), 3);
}

#[test]
fn a_get_webhook_has_its_parameters_in_the_query() {
    let rig = Rig::new(Config::default());
    let (_, parameters) = stream(&rig.get(&format!("/api/twilio/voice?{CALL}")));
    assert_eq!(parameters[1].1, "+14155550100");
}

#[test]
fn the_simple_mode_points_to_its_alias_and_with_signatures_to_a_path_of_its_own() {
    let rig = Rig::new(Config::default());
    let answer = post(&mut rig.connect(), "/api/twilio/incoming-call", &[], CALL);
    let (url, parameters) = stream(&answer);
    assert_eq!(url, "ws://localhost:3000/api/twilio/media-stream-simple");
    assert!(token::verify(&KEY, &parameters[0].1, 0).is_ok());
    let rig = Rig::new(signed_config());
    let path = "/api/twilio/incoming-call";
    let header = signature(path, CALL);
    let answer = post(
        &mut rig.connect(),
        path,
        &[("X-Twilio-Signature", &header)],
        CALL,
    );
    assert!(
        stream(&answer)
            .0
            .starts_with("wss://voice.example.com/api/twilio/media-stream/")
    );
}

#[test]
fn a_signature_is_needed_once_there_is_a_token() {
    let rig = Rig::new(signed_config());
    let mut client = rig.connect();
    let path = "/api/twilio/voice?x=1";
    let good = signature(path, CALL);
    let missing = post(&mut client, path, &[], CALL);
    assert_eq!(
        (missing.status, missing.code().as_str()),
        (403, "forbidden")
    );
    for wrong in [
        "",
        "x",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        &signature(path, "CallSid=CA2"),
    ] {
        assert_eq!(
            post(&mut client, path, &[("X-Twilio-Signature", wrong)], CALL).status,
            403
        );
    }
    let doubled = [
        ("X-Twilio-Signature", good.as_str()),
        ("X-Twilio-Signature", "x"),
    ];
    assert_eq!(post(&mut client, path, &doubled, CALL).status, 403);
    let changed = CALL.replace("CA1", "CA2");
    let header = [("X-Twilio-Signature", good.as_str())];
    assert_eq!(post(&mut client, path, &header, &changed).status, 403);
    assert!(
        rig.directory.load().expected.is_empty(),
        "strangers announce nothing"
    );
    let (url, _) = stream(&post(&mut client, path, &header, CALL));
    assert!(url.starts_with("wss://voice.example.com/"));
}

#[test]
fn headers_have_no_say_in_the_signed_address() {
    let rig = Rig::new(signed_config());
    let path = "/api/twilio/voice";
    let evil = sign(
        "token",
        &format!("https://evil.example{path}"),
        &parse_form(CALL.as_bytes()),
    );
    let headers = [
        ("Host", "evil.example"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "https"),
        ("X-Twilio-Signature", evil.as_str()),
    ];
    assert_eq!(post(&mut rig.connect(), path, &headers, CALL).status, 403);
}

#[test]
fn a_signed_get_covers_its_query() {
    let rig = Rig::new(signed_config());
    let path = format!("/api/twilio/voice?{CALL}");
    let header = signature(&path, "");
    let mut client = rig.connect();
    let signed = [("X-Twilio-Signature", header.as_str())];
    stream(&client.request("GET", &path, &signed, b""));
    let other = path.replace("CA1", "CA2");
    assert_eq!(client.request("GET", &other, &signed, b"").status, 403);
}

#[test]
fn a_json_body_is_held_by_its_hash() {
    let rig = Rig::new(signed_config());
    let body = r#"{"CallSid":"CA7","From":"+14155550100","Depth":{"a":1}}"#;
    let hash: String = Sha256::digest(body)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut client = rig.connect();
    let mut ask = |path: &str, body: &str| {
        let header = signature(path, "");
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Twilio-Signature", header.as_str()),
        ];
        client.request("POST", path, &headers, body.as_bytes())
    };
    let path = format!("/api/twilio/voice?bodySHA256={hash}");
    let (_, parameters) = stream(&ask(&path, body));
    assert_eq!(parameters[1].1, "+14155550100");
    let changed = body.replace("CA7", "CA8");
    assert_eq!(
        ask(&path, &changed).status,
        403,
        "the signature fits, the body does not"
    );
    assert_eq!(ask("/api/twilio/voice", body).status, 403, "no hash at all");
}

#[test]
fn a_body_that_is_neither_form_nor_object_is_refused() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    for body in ["[1]", "{\"a\":", "plain"] {
        let headers = [("Content-Type", "application/json")];
        let answer = client.request("POST", "/api/twilio/voice", &headers, body.as_bytes());
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "bad_request"),
            "{body}"
        );
    }
}

#[test]
fn another_account_is_refused() {
    let mut config = Config::default();
    config.carrier.account_sid = "AC1".into();
    let rig = Rig::new(config);
    let mut client = rig.connect();
    stream(&post(&mut client, "/api/twilio/voice", &[], CALL));
    let other = CALL.replace("AC1", "AC2");
    assert_eq!(
        post(&mut client, "/api/twilio/voice", &[], &other).status,
        403
    );
    assert_eq!(
        post(&mut client, "/api/twilio/voice", &[], "CallSid=CA1").status,
        403
    );
}

#[test]
fn the_body_s_bound_holds_for_a_length_and_for_chunks() {
    let rig = Rig::new(Config::default());
    let fits = format!(
        "{CALL}&Pad={}",
        "x".repeat(webhook_bytes_max() - CALL.len() - 5)
    );
    stream(&post(&mut rig.connect(), "/api/twilio/voice", &[], &fits));
    let answer = post(
        &mut rig.connect(),
        "/api/twilio/voice",
        &[],
        &format!("{fits}x"),
    );
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (413, "payload_too_large")
    );
    let mut client = rig.connect();
    client.send(format!(
        "POST /api/twilio/voice HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\n\
         Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{fits}x\r\n0\r\n\r\n",
        fits.len() + 1
    ));
    assert_eq!(client.answer(true).status, 413);
}

fn webhook_bytes_max() -> usize {
    crate::control::webhook::BODY_BYTES_MAX
}

#[test]
fn when_full_or_draining_the_caller_hears_the_busy_tone() {
    let mut config = Config::default();
    config.relay.calls_max = 2;
    let rig = Rig::new(config);
    let mut client = rig.connect();
    let mut busy = || {
        let answer = post(&mut client, "/api/twilio/voice", &[], CALL);
        let elements = elements(answer.text());
        answer.status == 200
            && elements[1].0 == "Reject"
            && attribute(&elements[1], "reason") == "busy"
    };
    rig.worker.load().set_live(1);
    assert!(!busy());
    rig.worker.load().set_live(2);
    assert!(busy());
    rig.worker.load().set_live(0);
    for overload in [Some(Overload::Busy), Some(Overload::Lag), None] {
        let load = Load {
            overload,
            ..Load::default()
        };
        rig.worker.load().set_measured(&load);
        assert_eq!(busy(), overload.is_some());
    }
    rig.drain();
    assert!(busy());
}

#[test]
fn without_a_usable_host_there_is_no_address_to_give() {
    let rig = Rig::new(Config::default());
    let answer = post(
        &mut rig.connect(),
        "/api/twilio/voice",
        &[("Host", "a@b")],
        CALL,
    );
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "bad_request")
    );
}

#[test]
fn a_directory_full_of_calls_whose_time_is_over_has_room() {
    let rig = Rig::new(Config::default());
    let mut next = Directory::clone(&rig.directory.load());
    for n in 0..crate::control::webhook::EXPECTED_MAX {
        let old = Expected {
            call_sid: None,
            expires_unix_ms: 1,
        };
        let id = CallId::new(&n.to_string()).expect("fits");
        next.expected.insert(id, old);
    }
    rig.directory.store(std::sync::Arc::new(next));
    stream(&post(&mut rig.connect(), "/api/twilio/voice", &[], CALL));
    assert_eq!(rig.directory.load().expected.len(), 1);
}

#[test]
fn hostile_numbers_stay_text_and_overlong_ones_are_left_out() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    let body = "CallSid=CA1&From=%22%3E%3CHangup%2F%3E%26%00&To=".to_owned() + &"9".repeat(600);
    let (_, parameters) = stream(&post(&mut client, "/api/twilio/voice", &[], &body));
    assert_eq!(parameters.len(), 2, "ticket and from: {parameters:?}");
    assert_eq!(parameters[1], ("from".into(), "\"><Hangup/>&".into()));
}

#[test]
fn a_call_id_that_is_none_by_its_length_is_refused() {
    let rig = Rig::new(Config::default());
    let mut client = rig.connect();
    let body = |len| format!("CallSid={}", "C".repeat(len));
    stream(&post(&mut client, "/api/twilio/voice", &[], &body(128)));
    for len in [129, 60_000] {
        let answer = post(&mut client, "/api/twilio/voice", &[], &body(len));
        assert_eq!(answer.status, 400);
    }
}

#[test]
fn the_apology_is_twiml() {
    let answer = crate::control::webhook::apology();
    assert_eq!(answer.status(), 200);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let body = runtime
        .block_on(axum::body::to_bytes(answer.into_body(), 4096))
        .expect("short");
    let elements = elements(std::str::from_utf8(&body).expect("text"));
    assert_eq!(elements[1].0, "Say");
}
