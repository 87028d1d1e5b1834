//! What follows a stream: who may ask, and what an unknown call gets.

use super::webhook::{post, signature, signed_config};
use super::*;
use crate::base::id::{CallId, CallSid, StreamSid};
use crate::call::fact::{Fact, OnModelUnavailable};
use crate::call::{EndReason, Report, Stats};

const PATH: &str = crate::control::after_stream::PATH;
const FORM: &str = "CallSid=CA1&AccountSid=AC1&CallStatus=in-progress";

/// What the workers report of a call whose model was not to be had.
fn end(rig: &Rig, action: OnModelUnavailable) {
    let facts = [
        Fact::Started {
            stream_sid: StreamSid::new("MZ1").expect("fits"),
            call_sid: CallSid::new("CA1"),
            parameters: Vec::new(),
        },
        Fact::ModelUnavailable { action },
        Fact::Ended {
            reason: EndReason::RealtimeUnavailable,
            stats: Box::new(Stats::default()),
        },
    ];
    for fact in facts {
        let report = Report {
            call_id: CallId::new("c1").expect("fits"),
            at: crate::transport::clock::SystemClock::new().now(),
            fact,
        };
        rig.reports.blocking_send(report).expect("control takes it");
    }
}

#[test]
fn nobody_without_the_carriers_signature_learns_or_changes_anything() {
    let rig = Rig::new(signed_config());
    let mut client = rig.connect();
    for wrong in ["", "x", &signature("/api/twilio/voice", FORM)] {
        let headers = [("X-Twilio-Signature", wrong)];
        assert_eq!(post(&mut client, PATH, &headers, FORM).status, 403);
    }
    let header = signature(PATH, FORM);
    let signed = [("X-Twilio-Signature", header.as_str())];
    let answer = post(&mut client, PATH, &signed, FORM);
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").starts_with("text/xml"));
    assert!(
        answer.text().ends_with("<Response></Response>") || answer.text().ends_with("<Response/>")
    );
    let other = FORM.replace("CA1", "CA2");
    assert_eq!(post(&mut client, PATH, &signed, &other).status, 403);
}

#[test]
fn a_call_without_a_name_or_of_another_account_is_nobodys() {
    let mut config = Config::default();
    config.carrier.account_sid = "AC1".into();
    let rig = Rig::new(config);
    end(&rig, OnModelUnavailable::HangUp);
    let mut client = rig.connect();
    let answer = post(&mut client, PATH, &[], "AccountSid=AC1");
    assert!(answer.status == 200 && !answer.text().contains("Hangup"));
    let other = FORM.replace("AC1", "AC2");
    assert_eq!(post(&mut client, PATH, &[], &other).status, 403);
    let long = format!("AccountSid=AC1&CallSid={}", "x".repeat(129));
    assert_eq!(post(&mut client, PATH, &[], &long).status, 400);
}

#[test]
fn each_action_has_its_document_and_texts_are_escaped() {
    for (action, document) in [
        (
            OnModelUnavailable::Message("Sorry & <bye>".to_owned()),
            "<Response><Say>Sorry &amp; &lt;bye&gt;</Say><Hangup/></Response>",
        ),
        (
            OnModelUnavailable::Conference("A&B".to_owned()),
            "<Response><Dial><Conference>A&amp;B</Conference></Dial></Response>",
        ),
        (OnModelUnavailable::HangUp, "<Response><Hangup/></Response>"),
    ] {
        let rig = Rig::new(Config::default());
        end(&rig, action);
        // The reports are taken in order with ours, or a moment later: then the request waits.
        let mut client = rig.connect();
        let mut answer = post(&mut client, PATH, &[], FORM);
        while answer.text().ends_with("<Response></Response>")
            || answer.text().ends_with("<Response/>")
        {
            // Not even its start has been read.
            answer = post(&mut client, PATH, &[], FORM);
        }
        assert!(answer.text().ends_with(document), "{}", answer.text());
        // Asked again, it says the same; a GET has its parameters in the query.
        let again = client.get(&format!("{PATH}?{FORM}"));
        assert_eq!(again.text(), answer.text());
    }
}
