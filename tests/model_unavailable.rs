//! The model can't be had: the caller hears what the agent wants said, or is put through.
//!
//! Method: the real daemon, a webhook as the carrier sends it, the stream it asks for, and when that is over the request that
//! the carrier makes of the document's `action`. The documents are compared whole.

mod common;

use common::carrier::Carrier;
use common::daemon::{Daemon, Launch};
use common::http::{Response, post_form};
use common::model::Model;
use serde_json::json;

const CALL_SID: &str = "CA00000000000000000000000000000031";
const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

fn form(call_sid: &str) -> [(&str, &str); 4] {
    [
        ("CallSid", call_sid),
        ("AccountSid", "AC00000000000000000000000000000001"),
        ("From", "+15005550006"),
        ("To", "+15005550009"),
    ]
}

/// An attribute's value in a document of ours.
fn attribute(document: &str, name: &str) -> String {
    let from = document.find(&format!("{name}=\"")).expect(name) + name.len() + 2;
    let to = document[from..].find('"').expect("quoted") + from;
    document[from..to].replace("&amp;", "&")
}

/// The path of an absolute URL.
fn path(url: &str) -> &str {
    let after = url.find("://").expect("absolute") + 3;
    &url[url[after..].find('/').expect("a path") + after..]
}

/// A call as the carrier connects it: its stream, and where to ask when that is over.
async fn call(daemon: &Daemon) -> (Carrier, String) {
    let answer = post_form(daemon.addr, "/api/twilio/voice", &form(CALL_SID), &[]).await;
    let document = answer.text();
    let action = attribute(&document, "action");
    assert!(
        action.starts_with(&format!("http://{}/", daemon.addr)),
        "{action}"
    );
    let mut carrier = Carrier::dial(daemon, path(&attribute(&document, "url"))).await;
    carrier.call_sid = CALL_SID.into();
    let ticket = attribute(
        &document[document.find("\"ticket\"").expect("a ticket")..],
        "value",
    );
    carrier.start_with(json!({"ticket": ticket})).await;
    (carrier, path(&action).to_owned())
}

async fn ask(daemon: &Daemon, action: &str) -> Response {
    let answer = post_form(daemon.addr, action, &form(CALL_SID), &[]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

#[tokio::test]
async fn a_model_that_was_never_there_leads_to_what_the_agent_wants() {
    for (config, document) in [
        (
            "on_model_unavailable = \"message\"\nunavailable_message = \"Tea & <b>cake</b>.\"\n",
            "<Response><Say>Tea &amp; &lt;b&gt;cake&lt;/b&gt;.</Say><Hangup/></Response>",
        ),
        (
            "on_model_unavailable = \"conference\"\nunavailable_conference = \"front-desk\"\n",
            "<Response><Dial><Conference>front-desk</Conference></Dial></Response>",
        ),
        (
            "on_model_unavailable = \"hang_up\"\n",
            "<Response><Hangup/></Response>",
        ),
    ] {
        println!("case: {document}");
        let model = Model::refusing(403).await;
        let daemon = Launch::serve(&model.url)
            .config(&format!("[agent]\n{config}"))
            .start()
            .await;
        let (mut carrier, action) = call(&daemon).await;
        assert_eq!(carrier.closed().await, Some(1011));
        assert_eq!(
            ask(&daemon, &action).await.text(),
            format!("{HEAD}{document}")
        );
        // Asked again: the carrier had no answer the first time.
        assert_eq!(
            ask(&daemon, &action).await.text(),
            format!("{HEAD}{document}")
        );
    }
}

#[tokio::test]
async fn a_model_that_is_lost_leads_there_too_also_when_the_carrier_asks_first() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url)
        .config("[agent]\nunavailable_message = \"Bye.\"\n[agent.reconnect]\ntries = 1\n")
        .start()
        .await;
    let (mut carrier, action) = call(&daemon).await;
    let mut realtime = model.accept().await;
    realtime.set_up().await;
    let asked = ask(&daemon, &action);
    let lost = async {
        realtime.close().await;
        model.accept().await.drop_connection();
        carrier.closed().await
    };
    let (answer, code) = tokio::join!(asked, lost);
    assert_eq!(code, Some(1011));
    assert_eq!(
        answer.text(),
        format!("{HEAD}<Response><Say>Bye.</Say><Hangup/></Response>")
    );
}

#[tokio::test]
async fn a_call_that_ended_well_is_hung_up_and_an_unknown_one_is_nobodys() {
    let mut model = Model::plain().await;
    let daemon = Launch::serve(&model.url).start().await;
    let (mut carrier, action) = call(&daemon).await;
    let mut realtime = model.accept().await;
    realtime.set_up().await;
    let asked = ask(&daemon, &action);
    let ended = async {
        carrier.stop().await;
        carrier.closed().await
    };
    let (answer, code) = tokio::join!(asked, ended);
    assert_eq!(code, Some(1000));
    assert_eq!(
        answer.text(),
        format!("{HEAD}<Response><Hangup/></Response>")
    );
    let stranger = post_form(daemon.addr, &action, &form("CA9"), &[]).await;
    assert_eq!(stranger.status, 200);
    let document = stranger.text();
    assert!(
        document == format!("{HEAD}<Response></Response>")
            || document == format!("{HEAD}<Response/>"),
        "{document}"
    );
}
