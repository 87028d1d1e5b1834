//! The voice webhook and the two locks on a stream: the vendor's signature and our ticket.
//!
//! Method: signatures are made by a signer that shares no code with the daemon and is proven against the
//! vendor's published vectors first. TwiML is read by an XML parser and held against what the vendor allows.

mod common;

use common::carrier::{Carrier, Refused};
use common::daemon::{Daemon, Launch};
use common::http::{Response, get, post_form};
use common::model::Model;
use common::pair::Pair;
use common::{base64, within};
use hmac::{Hmac, KeyInit, Mac};
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde_json::json;
use sha1::Sha1;

const TOKEN: &str = "f0e1d2c3b4a5968778695a4b3c2d1e0f";
const PUBLIC: &str = "https://voice.example.com";

/// `X-Twilio-Signature` ("Webhooks Security"): HMAC-SHA1 over the URL and the sorted parameters.
fn sign(token: &str, url: &str, form: &[(&str, &str)]) -> String {
    let mut pairs = form.to_vec();
    pairs.sort();
    pairs.dedup();
    let mut mac = Hmac::<Sha1>::new_from_slice(token.as_bytes()).expect("any key length");
    mac.update(url.as_bytes());
    for (name, value) in pairs {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    base64(&mac.finalize().into_bytes())
}

#[test]
fn the_signer_agrees_with_the_vendors_vectors() {
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    let form = [
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675309"),
        ("Digits", "1234"),
        ("From", "+14158675309"),
        ("To", "+18005551212"),
    ];
    assert_eq!(sign("12345", url, &form), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    assert_eq!(sign("12345", url, &[]), "zYQTYrRWXE7LtzbG4PfP7/bkkGo=");
    assert_eq!(
        sign("12345", "wss://relay.example.net/media/twilio", &[]),
        "gmW8z3udL4yZMhvE9UAqABjV6NE="
    );
}

/// What a TwiML document says, after it was held against the allowed elements and attributes.
#[derive(Debug, Default)]
struct Twiml {
    stream_url: String,
    parameters: Vec<(String, String)>,
    verbs: Vec<String>,
}

impl Twiml {
    fn read(answer: &Response) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let kind = answer.header("content-type").expect("content type");
        assert!(
            kind.starts_with("text/xml") || kind.starts_with("application/xml"),
            "{kind}"
        );
        let text = answer.text();
        assert!(
            text.starts_with('<'),
            "a declaration must be at byte 0: {text}"
        );
        let mut reader = Reader::from_str(&text);
        let mut twiml = Self::default();
        let mut path: Vec<String> = Vec::new();
        loop {
            match reader.read_event().expect("well-formed XML") {
                Event::Start(element) => {
                    twiml.element(&path, &element);
                    path.push(name(&element));
                }
                Event::Empty(element) => twiml.element(&path, &element),
                Event::End(_) => {
                    path.pop();
                }
                Event::Eof => break,
                _ => {}
            }
        }
        assert!(path.is_empty(), "{text}");
        twiml
    }

    fn element(&mut self, path: &[String], element: &BytesStart) {
        let parent = path.join("/");
        let name = name(element);
        let allowed: &[&str] = match (parent.as_str(), name.as_str()) {
            ("", "Response") => &[],
            ("Response", "Connect") => &["action", "method"],
            ("Response", "Say") => &["voice", "language", "loop"],
            ("Response", "Hangup") => &[],
            ("Response", "Redirect") => &["method"],
            ("Response/Connect", "Stream") => &[
                "url",
                "name",
                "track",
                "statusCallback",
                "statusCallbackMethod",
                "connectorName",
            ],
            ("Response/Connect/Stream", "Parameter") => &["name", "value"],
            _ => panic!("<{name}> may not stand in {parent:?}"),
        };
        let mut found = Vec::new();
        for attribute in element.attributes() {
            let attribute = attribute.expect("attribute");
            let key = attribute.key.as_ref().to_owned();
            assert!(
                allowed.contains(&key.as_str()),
                "{name} has no attribute {key}"
            );
            let raw = attribute.value.into_owned();
            let value = quick_xml::escape::unescape(&raw)
                .expect("escapes")
                .into_owned();
            found.push((key, value));
        }
        let value = |key: &str| {
            found
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone())
                .unwrap_or_else(|| panic!("<{name}> without {key}"))
        };
        match name.as_str() {
            "Stream" => self.stream_url = value("url"),
            "Parameter" => {
                let parameter = (value("name"), value("value"));
                assert!(
                    parameter.0.len() + parameter.1.len() <= 500,
                    "{parameter:?}"
                );
                self.parameters.push(parameter);
            }
            _ => {}
        }
        if parent == "Response" {
            self.verbs.push(name);
        }
    }

    /// The path of the stream's URL.
    fn path(&self) -> String {
        let url = &self.stream_url;
        let after = url.find("://").expect("absolute") + 3;
        let slash = url[after..].find('/').expect("a path") + after;
        assert!(!url.contains('?'), "the vendor drops a query: {url}");
        url[slash..].to_owned()
    }

    /// `customParameters` as the vendor makes them of the `<Parameter>`s.
    fn custom_parameters(&self) -> serde_json::Value {
        self.parameters
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

fn name(element: &BytesStart) -> String {
    element.name().as_ref().to_owned()
}

fn call_form(call_sid: &str) -> Vec<(&str, &str)> {
    vec![
        ("CallSid", call_sid),
        ("AccountSid", "AC00000000000000000000000000000001"),
        ("From", "+15005550006"),
        ("To", "+15005550009"),
        ("CallStatus", "ringing"),
        ("Direction", "inbound"),
        ("ApiVersion", "2010-04-01"),
        ("CallerName", ""),
    ]
}

async fn locked(model: &Model) -> Daemon {
    Launch::serve(&model.url)
        .env("TWILIO_AUTH_TOKEN", TOKEN)
        .env("PUBLIC_URL", PUBLIC)
        .start()
        .await
}

/// The webhook as the vendor sends it, signed.
async fn ring(daemon: &Daemon, call_sid: &str) -> Twiml {
    let form = call_form(call_sid);
    let signature = sign(TOKEN, &format!("{PUBLIC}/api/twilio/voice"), &form);
    let answer = post_form(
        daemon.addr,
        "/api/twilio/voice",
        &form,
        &[("X-Twilio-Signature", &signature)],
    )
    .await;
    Twiml::read(&answer)
}

/// The stream's upgrade as the vendor sends it, signed over the URL in the TwiML.
async fn stream(daemon: &Daemon, url: &str, path: &str) -> Result<Carrier, Refused> {
    let signature = sign(TOKEN, url, &[]);
    let connection = daemon.connect().await;
    Carrier::dial_over(connection, path, &[("X-Twilio-Signature", &signature)]).await
}

#[tokio::test]
async fn every_alias_answers_with_a_stream_that_carries_a_call() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    for alias in [
        "/api/twilio/voice",
        "/api/twilio/incoming-call",
        "/api/twilio/incoming",
        "/twilio/incoming-call",
    ] {
        println!("alias: {alias}");
        let call_sid = "CA5d0c1e7a9b3f42c68e71d20a4b95f3e6";
        let answer = post_form(daemon.addr, alias, &call_form(call_sid), &[]).await;
        let twiml = Twiml::read(&answer);
        assert_eq!(
            twiml.verbs.first().map(String::as_str),
            Some("Connect"),
            "{twiml:?}"
        );
        let mut carrier = Carrier::dial(&daemon, &twiml.path()).await;
        carrier.call_sid = call_sid.into();
        carrier.start_with(twiml.custom_parameters()).await;
        let mut realtime = model.accept().await;
        realtime.set_up().await;
        let payload = carrier.media(&common::audio(1, 160)).await;
        assert_eq!(realtime.append().await, payload);
        carrier.stop().await;
        assert_eq!(carrier.closed().await, Some(1000));
    }
}

#[tokio::test]
async fn the_public_url_makes_the_streams_url() {
    let model = Model::plain().await;
    let daemon = locked(&model).await;
    let twiml = ring(&daemon, "CA1").await;
    assert!(
        twiml.stream_url.starts_with("wss://voice.example.com/"),
        "{}",
        twiml.stream_url
    );
    // Whoever calls can't move the stream elsewhere.
    let form = call_form("CA2");
    let signature = sign(TOKEN, &format!("{PUBLIC}/api/twilio/voice"), &form);
    let answer = post_form(
        daemon.addr,
        "/api/twilio/voice",
        &form,
        &[
            ("X-Twilio-Signature", &signature),
            ("X-Forwarded-Host", "evil.example.net"),
            ("X-Forwarded-Proto", "http"),
        ],
    )
    .await;
    let twiml = Twiml::read(&answer);
    assert!(
        twiml.stream_url.starts_with("wss://voice.example.com/"),
        "{}",
        twiml.stream_url
    );
}

#[tokio::test]
async fn what_a_caller_says_cannot_break_the_document() {
    let model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let mut form = call_form("CA\"/><Hangup/>&\u{1}");
    form[2].1 = "\"'<>&\u{0}\u{7}";
    let answer = post_form(daemon.addr, "/api/twilio/voice", &form, &[]).await;
    // A refusal is as good; a document must be well-formed and hold nothing but what we wrote.
    if answer.status == 200 {
        let twiml = Twiml::read(&answer);
        assert_eq!(
            twiml.verbs.first().map(String::as_str),
            Some("Connect"),
            "{twiml:?}"
        );
    } else {
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

#[tokio::test]
async fn an_unsigned_or_forged_webhook_is_403() {
    let model = Model::plain().await;
    let daemon = locked(&model).await;
    let form = call_form("CA1");
    let url = format!("{PUBLIC}/api/twilio/voice");
    let good = sign(TOKEN, &url, &form);
    let mut other_form = form.clone();
    other_form[2].1 = "+15005550000";
    for (what, headers) in [
        ("no signature", None),
        ("an empty one", Some(String::new())),
        ("not base64", Some("!".into())),
        ("another token", Some(sign("another", &url, &form))),
        ("another form", Some(sign(TOKEN, &url, &other_form))),
        (
            "the address instead of the public origin",
            Some(sign(
                TOKEN,
                &format!("http://{}/api/twilio/voice", daemon.addr),
                &form,
            )),
        ),
        ("cut", Some(good[..20].into())),
    ] {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|value| ("X-Twilio-Signature", value.as_str()))
            .collect();
        let answer = post_form(daemon.addr, "/api/twilio/voice", &form, &headers).await;
        assert_eq!(answer.status, 403, "{what}: {answer:?}");
    }
    let answer = post_form(
        daemon.addr,
        "/api/twilio/voice",
        &form,
        &[("X-Twilio-Signature", &good)],
    )
    .await;
    Twiml::read(&answer);
}

#[tokio::test]
async fn an_upgrade_needs_the_signature() {
    let mut model = Model::plain().await;
    let daemon = locked(&model).await;
    // A fixed alias: the signature alone.
    let url = "wss://voice.example.com/media-stream";
    for (what, headers) in [
        ("no signature", vec![]),
        ("another token", vec![sign("another", url, &[])]),
        (
            "another path",
            vec![sign(TOKEN, "wss://voice.example.com/streams", &[])],
        ),
    ] {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|value| ("X-Twilio-Signature", value.as_str()))
            .collect();
        let connection = daemon.connect().await;
        let refused = Carrier::dial_over(connection, "/media-stream", &headers).await;
        assert_eq!(refused.err(), Some(Refused(403)), "{what}");
    }
    let carrier = stream(&daemon, url, "/media-stream").await.expect("signed");
    let mut pair = Pair::with(carrier, &mut model).await;
    pair.round_trip().await;
    pair.hang_up().await;
}

#[tokio::test]
async fn a_ticket_opens_once_and_with_the_signature_only() {
    let mut model = Model::plain().await;
    let daemon = locked(&model).await;
    let call_sid = "CA00000000000000000000000000000077";
    let twiml = ring(&daemon, call_sid).await;
    let path = twiml.path();

    let connection = daemon.connect().await;
    let unsigned = Carrier::dial_over(connection, &path, &[]).await;
    assert_eq!(
        unsigned.err(),
        Some(Refused(403)),
        "a ticket without signature"
    );

    let mut carrier = stream(&daemon, &twiml.stream_url, &path)
        .await
        .expect("first use");
    carrier.call_sid = call_sid.into();
    carrier.start_with(twiml.custom_parameters()).await;
    let mut realtime = model.accept().await;
    realtime.set_up().await;
    let payload = carrier.media(&common::audio(1, 160)).await;
    assert_eq!(realtime.append().await, payload);

    let again = stream(&daemon, &twiml.stream_url, &path).await;
    assert_eq!(again.err(), Some(Refused(403)), "a second use");
    // Nor is it good again when the call is over.
    carrier.stop().await;
    assert_eq!(carrier.closed().await, Some(1000));
    let again = stream(&daemon, &twiml.stream_url, &path).await;
    assert_eq!(again.err(), Some(Refused(403)), "a use after the end");
}

#[tokio::test]
async fn a_forged_or_expired_ticket_is_403() {
    let model = Model::plain().await;
    let daemon = locked(&model).await;
    let twiml = ring(&daemon, "CA1").await;
    let path = twiml.path();
    let (prefix, ticket) = path.rsplit_once('/').expect("a segment");
    let parts: Vec<&str> = ticket.rsplitn(3, '.').collect();
    assert_eq!(parts.len(), 3, "callId.expiry.mac: {ticket}");
    assert!(ticket.len() <= 128, "{ticket}");
    let (mac, expiry, call_id) = (parts[0], parts[1], parts[2]);
    let number: u64 = expiry.parse().expect("the expiry is a number");
    let flipped: String = mac
        .chars()
        .enumerate()
        .map(|(i, c)| match (i, c) {
            (0, '0') => '1',
            (0, _) => '0',
            (_, c) => c,
        })
        .collect();
    for (what, forged) in [
        ("another mac", format!("{call_id}.{expiry}.{flipped}")),
        (
            "a longer life",
            format!("{call_id}.{}.{mac}", number + 1000),
        ),
        ("expired", format!("{call_id}.1.{mac}")),
        ("another call", format!("{call_id}x.{expiry}.{mac}")),
    ] {
        let path = format!("{prefix}/{forged}");
        let url = format!("wss://voice.example.com{path}");
        let refused = stream(&daemon, &url, &path).await;
        assert_eq!(refused.err(), Some(Refused(403)), "{what}: {path}");
    }
    // The announced call's id alone, rightly signed, is not its ticket; an id that nobody announced needs none.
    let plain = format!("{prefix}/{call_id}");
    let url = format!("wss://voice.example.com{plain}");
    let refused = stream(&daemon, &url, &plain).await;
    assert_eq!(refused.err(), Some(Refused(403)), "{plain}");
    let plain = format!("{prefix}/somebody-else");
    let url = format!("wss://voice.example.com{plain}");
    assert!(stream(&daemon, &url, &plain).await.is_ok());
    // The real one is still good.
    assert!(stream(&daemon, &twiml.stream_url, &path).await.is_ok());
}

#[tokio::test]
async fn a_start_for_another_call_closes_with_1008() {
    let mut model = Model::plain().await;
    // What the signed webhook has dialled early is not the stranger's doing.
    let daemon = Launch::serve(&model.url)
        .env("TWILIO_AUTH_TOKEN", TOKEN)
        .env("PUBLIC_URL", PUBLIC)
        .env("VOXRELAY__REALTIME__PREDIAL", "false")
        .start()
        .await;
    let twiml = ring(&daemon, "CA00000000000000000000000000000042").await;
    let mut carrier = stream(&daemon, &twiml.stream_url, &twiml.path())
        .await
        .expect("upgrade");
    carrier.call_sid = "CA00000000000000000000000000000043".into();
    carrier.start_with(twiml.custom_parameters()).await;
    assert_eq!(carrier.closed().await, Some(1008));
    assert!(
        !model.has_connection(),
        "the model was dialled for a stranger"
    );
}

#[tokio::test]
async fn one_address_cannot_use_up_the_door() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url)
        .env("VOXRELAY__LISTEN__CONNECTIONS_PER_ADDRESS", "8")
        .start()
        .await;
    // Calls that are admitted do not count.
    let mut pairs = Vec::new();
    for n in 0..12 {
        pairs.push(Pair::new(&daemon, &mut model, &format!("/media-stream/call-{n}")).await);
    }
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(common::http::Client::connect(daemon.addr).await);
    }
    // The first ones past the cap are closed long before a head would be due.
    let closed = within("refusals", async {
        let mut closed = 0;
        for client in idle.iter_mut().skip(8) {
            client.end().await;
            closed += 1;
        }
        closed
    })
    .await;
    assert_eq!(closed, 32);
    for pair in &mut pairs {
        pair.round_trip().await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_announced_is_only_looked_at_when_unknown_call_is_debug() {
    let mode = async |daemon: &Daemon| -> String {
        let health = get(daemon.addr, "/health").await.json();
        let mode = health["calls"][0]["mode"].as_str().expect("one live call");
        mode.to_owned()
    };
    for (policy, expected) in [("create", "full"), ("debug", "simple")] {
        let mut model = Model::plain().await;
        let daemon = Launch::serve(&model.url)
            .env("VOXRELAY__CARRIER__UNKNOWN_CALL", policy)
            .start()
            .await;
        let mut stranger = Pair::new(&daemon, &mut model, "/media-stream/stranger").await;
        assert_eq!(mode(&daemon).await, expected, "{policy}");
        // It is relayed all the same.
        stranger.round_trip().await;
        stranger.hang_up().await;
        daemon.settled().await;

        // A call that a webhook announced is what its path makes it.
        let answer = post_form(daemon.addr, "/api/twilio/voice", &call_form("CA7"), &[]).await;
        let twiml = Twiml::read(&answer);
        let mut carrier = Carrier::dial(&daemon, &twiml.path()).await;
        carrier.call_sid = "CA7".into();
        carrier.start_with(twiml.custom_parameters()).await;
        let mut realtime = model.accept().await;
        realtime.set_up().await;
        assert_eq!(mode(&daemon).await, "full", "{policy}");
        carrier.stop().await;
        assert_eq!(carrier.closed().await, Some(1000));
    }
}
