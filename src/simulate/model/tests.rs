//! One session, driven in virtual time: order of events, quirks, refusals, faults.

mod hostile;

use super::options::{Fault, Profile};
use super::*;
use crate::proto::audio::{base64, g711};

/// A session and its clock.
struct Bench {
    model: Model,
    now: Mono,
    end: Option<Output>,
}

const START: Mono = Mono(5_000_000_000);

impl Bench {
    fn with(options: Options) -> Self {
        let opened = upgrade::Opened {
            model: "gpt-realtime".into(),
            is_beta: false,
        };
        Self {
            model: Model::new(options, &opened, at(START)),
            now: START,
            end: None,
        }
    }

    /// A session that is set up for a telephone.
    fn ready(options: Options) -> Self {
        let mut bench = Self::with(options);
        bench.send(telephone());
        bench.advance(100);
        bench
    }

    fn send(&mut self, event: Value) {
        self.model
            .handle_text(event.to_string().as_bytes(), at(self.now));
    }

    /// Everything that may be sent by now.
    fn drain(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(output) = self.model.poll_output() {
            match output {
                Output::Text(text) => events.push(match serde_json::from_str(&text) {
                    Ok(event) => event,
                    Err(_) => json!({"type": "(garbage)"}),
                }),
                Output::Raw(_) => events.push(json!({"type": "(raw)"})),
                end => self.end = Some(end),
            }
        }
        events
    }

    /// Lets time pass, waking at every deadline.
    fn advance(&mut self, ms: u64) -> Vec<Value> {
        let until = self.now + Duration::from_millis(ms);
        let mut events = self.drain();
        while let Some(due) = self.model.poll_timeout().filter(|due| *due <= until) {
            assert!(due >= self.now, "a deadline in the past");
            self.now = due;
            self.model.handle_timeout(at(due));
            events.extend(self.drain());
        }
        self.now = until;
        self.model.handle_timeout(at(until));
        events.extend(self.drain());
        events
    }

    /// Appends `ms` of audio in 20 ms frames, in real time.
    fn append(&mut self, ms: u64, byte: impl Fn(usize) -> u8) -> Vec<Value> {
        let mut events = Vec::new();
        for _ in 0..ms / 20 {
            let frame: Vec<u8> = (0..160).map(&byte).collect();
            self.send(json!({"type": "input_audio_buffer.append", "audio": encode(&frame)}));
            events.extend(self.advance(20));
        }
        events
    }

    fn speak(&mut self, ms: u64) -> Vec<Value> {
        self.append(ms, |i| {
            g711::from_linear(if (i / 10) % 2 == 0 { 9000 } else { -9000 })
        })
    }

    fn silence(&mut self, ms: u64) -> Vec<Value> {
        self.append(ms, |_| 0xFF)
    }
}

fn at(mono: Mono) -> Now {
    Now {
        mono,
        unix_ms: 1_800_000_000_000 + mono.0 / 1_000_000,
    }
}

fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    base64::encode_into(bytes, &mut text);
    String::from_utf8(text).expect("ASCII")
}

fn telephone() -> Value {
    json!({"type": "session.update", "session": {"type": "realtime",
        "audio": {
            "input": {"format": {"type": "audio/pcmu"},
                "transcription": {"model": "gpt-4o-mini-transcribe"},
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 500}},
            "output": {"format": {"type": "audio/pcmu"}, "voice": "marin"}}}})
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|e| e["type"].as_str().expect("a type"))
        .collect()
}

/// The kinds, each run of deltas once, rate limits and transcription (which may come anywhere) left out.
fn shape(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = kinds(events)
        .into_iter()
        .filter(|kind| {
            !kind.contains("input_audio_transcription") && *kind != "rate_limits.updated"
        })
        .map(|kind| {
            kind.strip_prefix("response.output_audio_transcript.delta")
                .map_or(kind, |_| "(text)")
        })
        .map(|kind| {
            kind.strip_prefix("response.output_audio.delta")
                .map_or(kind, |_| "(audio)")
        })
        .collect();
    let mut seen = [false; 2];
    kinds.retain(|kind| match *kind {
        "(text)" => !std::mem::replace(&mut seen[0], true),
        "(audio)" => !std::mem::replace(&mut seen[1], true),
        _ => true,
    });
    kinds
}

fn find<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let found = events.iter().find(|event| event["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {:?}", kinds(events)))
}

fn error_code(events: &[Value]) -> &str {
    find(events, "error")["error"]["code"]
        .as_str()
        .expect("a code")
}

#[test]
fn the_session_is_announced_first_with_the_server_s_defaults() {
    let mut bench = Bench::with(Options::default());
    let events = bench.drain();
    assert_eq!(kinds(&events), ["session.created"]);
    let session = &events[0]["session"];
    assert_eq!(
        session["audio"]["input"]["format"],
        json!({"type": "audio/pcm", "rate": 24000})
    );
    assert_eq!(session["expires_at"], 1_800_000_005 + 3600);
}

#[test]
fn an_update_is_echoed_whole_after_its_latency() {
    let mut bench = Bench::with(Options::default());
    bench.drain();
    bench.send(telephone());
    assert_eq!(bench.advance(66), [] as [Value; 0]);
    let events = bench.advance(2);
    assert_eq!(kinds(&events), ["session.updated"]);
    let audio = &events[0]["session"]["audio"];
    assert_eq!(audio["output"]["format"], json!({"type": "audio/pcmu"}));
    assert_eq!(audio["input"]["turn_detection"]["prefix_padding_ms"], 300);
}

#[test]
fn a_rejected_update_leaves_the_session_as_it_was() {
    let mut bench = Bench::with(Options::default());
    let mut update = telephone();
    update["event_id"] = json!("vr_1");
    update["session"]["temperature"] = json!(0.8);
    bench.send(update);
    let events = bench.advance(200);
    assert_eq!(kinds(&events), ["session.created", "error"]);
    let error = &events[1]["error"];
    assert_eq!(error["code"], "unknown_parameter");
    assert_eq!(error["param"], "session.temperature");
    assert_eq!(error["event_id"], "vr_1");
    assert_eq!(bench.model.session.input_format(), session::Format::Pcm24);
}

#[test]
fn a_spoken_turn_has_the_recorded_order() {
    let mut bench = Bench::ready(Options::default());
    let mut events = bench.silence(1000);
    events.extend(bench.speak(800));
    events.extend(bench.silence(8000));
    assert_eq!(
        shape(&events),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "(text)",
            "(audio)",
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
        ]
    );
    assert_eq!(
        find(&events, "input_audio_buffer.speech_started")["audio_start_ms"],
        700
    );
    assert_eq!(
        find(&events, "input_audio_buffer.speech_stopped")["audio_end_ms"],
        2300
    );
    // The id that `speech_started` foretold is the item's.
    let foretold = &find(&events, "input_audio_buffer.speech_started")["item_id"];
    assert_eq!(
        &find(&events, "conversation.item.added")["item"]["id"],
        foretold
    );
    let done = &find(&events, "response.done")["response"];
    assert_eq!(done["status"], "completed");
    assert!(done["usage"]["output_token_details"]["audio_tokens"].as_u64() > Some(20));
    assert_eq!(done["output"][0]["content"][0].get("audio"), None);
    let completed = find(
        &events,
        "conversation.item.input_audio_transcription.completed",
    );
    assert_eq!(&completed["item_id"], foretold);
}

#[test]
fn the_transcript_of_a_response_is_the_sum_of_its_deltas() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "response.create"}));
    let events = bench.advance(10_000);
    let text: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_audio_transcript.delta")
        .map(|event| event["delta"].as_str().expect("text"))
        .collect();
    let done = find(&events, "response.output_audio_transcript.done");
    assert_eq!(done["transcript"], text.as_str());
    assert_eq!(text, Options::default().lines[0]);
}

#[test]
fn a_second_response_is_refused_while_one_is_active() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "response.create"}));
    let id = find(&bench.drain(), "response.created")["response"]["id"].clone();
    bench.send(json!({"type": "response.create", "event_id": "vr_9"}));
    let events = bench.drain();
    assert_eq!(
        error_code(&events),
        "conversation_already_has_active_response"
    );
    assert_eq!(
        events[0]["error"]["message"],
        format!(
            "Conversation already has an active response in progress: {}. Wait until the response is \
             finished before creating a new one.",
            id.as_str().expect("an id")
        )
    );
    // One outside the conversation may run beside it.
    bench.send(
        json!({"type": "response.create", "response": {"conversation": "none",
        "output_modalities": ["text"], "metadata": {"purpose": "summary"}}}),
    );
    let created = find(&bench.drain(), "response.created")["response"].clone();
    assert_eq!(created["conversation_id"], Value::Null);
    assert_eq!(created["metadata"]["purpose"], "summary");
    let events = bench.advance(10_000);
    assert_eq!(
        kinds(&events)
            .iter()
            .filter(|k| **k == "response.done")
            .count(),
        2
    );
    find(&events, "response.output_text.done");
}

#[test]
fn cancelling_nothing_is_an_error_and_cancelling_something_is_not() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "response.cancel"}));
    assert_eq!(error_code(&bench.drain()), "response_cancel_not_active");
    bench.send(json!({"type": "response.create"}));
    bench.send(json!({"type": "response.cancel"}));
    let events = bench.drain();
    let done = &find(&events, "response.done")["response"];
    assert_eq!(
        done["status_details"],
        json!({"type": "cancelled", "reason": "client_cancelled"})
    );
    assert_eq!(done["output"], json!([]));
    assert_eq!(done["usage"]["total_tokens"], 0);
    assert!(!kinds(&events).contains(&"error"));
}

#[test]
fn speech_interrupts_a_running_response() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "response.create"}));
    let mut events = bench.advance(600);
    events.extend(bench.speak(600));
    let kinds = kinds(&events);
    let place = |kind: &str| kinds.iter().position(|k| *k == kind).expect(kind);
    let started = place("input_audio_buffer.speech_started");
    assert!(started < place("response.output_audio.done"));
    assert!(place("response.output_audio.done") < place("response.done"));
    let late = kinds[started..]
        .iter()
        .filter(|k| **k == "response.output_audio.delta");
    assert!(late.count() <= 1);
    let done = &find(&events, "response.done")["response"];
    assert_eq!(done["status"], "cancelled");
    assert_eq!(done["status_details"]["reason"], "turn_detected");
    assert_eq!(done["output"][0]["status"], "incomplete");
}

#[test]
fn without_interrupt_response_the_answer_goes_on() {
    let mut bench = Bench::ready(Options::default());
    let mut update = telephone();
    update["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] = json!(false);
    bench.send(update);
    bench.send(json!({"type": "response.create"}));
    let mut events = bench.advance(600);
    events.extend(bench.speak(400));
    events.extend(bench.advance(10_000));
    assert_eq!(
        find(&events, "response.done")["response"]["status"],
        "completed"
    );
}

#[test]
fn truncation_knows_how_much_was_sent() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "response.create"}));
    let events = bench.advance(10_000);
    let bytes: usize = events
        .iter()
        .filter(|event| event["type"] == "response.output_audio.delta")
        .map(|event| base64::decoded_len(event["delta"].as_str().expect("text").as_bytes()))
        .sum();
    let (ms, item) = (
        bytes as u64 / 8,
        &find(&events, "response.output_audio.done")["item_id"],
    );
    let mut truncate = |end: u64| {
        bench.send(
            json!({"type": "conversation.item.truncate", "event_id": "vr_t", "item_id": item,
            "content_index": 0, "audio_end_ms": end}),
        );
        bench.drain()
    };
    let refused = truncate(ms + 60);
    assert_eq!(
        refused[0]["error"],
        json!({"type": "invalid_request_error", "code": "invalid_value", "param": null, "event_id": null,
            "message": format!("Audio content of {ms}ms is already shorter than {}ms", ms + 60)})
    );
    let done = truncate(ms - 100);
    assert_eq!(done[0]["type"], "conversation.item.truncated");
    assert_eq!(done[0]["audio_end_ms"], ms - 100);
}

#[test]
fn audio_before_the_session_is_set_is_noise() {
    // Telephone bytes read as 24 kHz PCM: speech starts and never stops (reference section 7, trap 17).
    let mut bench = Bench::with(Options::default());
    let mut events = bench.append(2000, |i| (i * 37 % 251) as u8);
    events.extend(bench.append(4000, |i| (i * 37 % 251) as u8));
    let kinds = kinds(&events);
    assert!(kinds.contains(&"input_audio_buffer.speech_started"));
    assert!(!kinds.contains(&"input_audio_buffer.speech_stopped"));
}

#[test]
fn an_empty_commit_says_what_is_missing() {
    let mut bench = Bench::ready(Options::default());
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    let events = bench.drain();
    assert_eq!(error_code(&events), "input_audio_buffer_commit_empty");
    assert!(
        events[0]["error"]["message"]
            .as_str()
            .expect("text")
            .ends_with("buffer too small. Expected at least 100ms of audio, but buffer only has 0.00ms of audio.")
    );
    bench.silence(100);
    bench.send(json!({"type": "input_audio_buffer.commit"}));
    assert_eq!(
        kinds(&bench.drain()),
        [
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done"
        ]
    );
    bench.send(json!({"type": "input_audio_buffer.clear"}));
    assert_eq!(kinds(&bench.drain()), ["input_audio_buffer.cleared"]);
}

#[test]
fn what_is_malformed_is_refused_and_the_session_goes_on() {
    let mut bench = Bench::ready(Options::default());
    for (text, code) in [
        ("{\"type\":", "invalid_json"),
        ("[]", "invalid_event"),
        ("{}", "missing_required_parameter"),
        ("{\"type\":\"response.cancelled\"}", "invalid_value"),
        (
            "{\"type\":\"input_audio_buffer.append\"}",
            "missing_required_parameter",
        ),
        (
            "{\"type\":\"input_audio_buffer.append\",\"audio\":\"abc\"}",
            "invalid_value",
        ),
        (
            "{\"type\":\"input_audio_buffer.append\",\"audio\":7}",
            "invalid_type",
        ),
        ("{\"type\":\"output_audio_buffer.clear\"}", "invalid_event"),
        (
            "{\"type\":\"conversation.item.delete\",\"item_id\":\"x\"}",
            "item_delete_invalid_item_id",
        ),
        (
            "{\"type\":\"conversation.item.retrieve\",\"item_id\":\"x\"}",
            "item_retrieve_invalid_item_id",
        ),
    ] {
        bench.model.handle_text(text.as_bytes(), at(bench.now));
        let events = bench.drain();
        assert_eq!(error_code(&events), code, "{text}");
    }
    bench.model.handle_binary(at(bench.now));
    assert_eq!(error_code(&bench.drain()), "invalid_event");
    assert!(!bench.model.has_ended());
}

#[test]
fn appends_are_never_answered() {
    let mut bench = Bench::ready(Options::default());
    assert_eq!(bench.silence(2000), [] as [Value; 0]);
    assert_eq!(bench.model.counts().appends, 100);
}

#[test]
fn the_echo_sends_every_chunk_back_unchanged() {
    let mut bench = Bench::ready(Options {
        mode: Mode::Echo,
        ..Options::default()
    });
    let chunks = ["//8=", "fn5+f35/", "AAAA"];
    let mut events = Vec::new();
    for chunk in chunks {
        bench.send(json!({"type": "input_audio_buffer.append", "audio": chunk}));
        events.extend(bench.drain());
    }
    let back: Vec<&str> = events
        .iter()
        .filter(|event| event["type"] == "response.output_audio.delta")
        .map(|event| event["delta"].as_str().expect("text"))
        .collect();
    assert_eq!(back, chunks);
    assert_eq!(
        kinds(&events)
            .iter()
            .filter(|k| **k == "response.created")
            .count(),
        1
    );
}

#[test]
fn a_session_expires_with_an_error_and_1001() {
    let mut bench = Bench::ready(Options {
        session_life: Duration::from_secs(3600),
        ..Options::default()
    });
    assert_eq!(bench.advance(3_599_000), [] as [Value; 0]);
    let events = bench.advance(1_000);
    let text = "Your session hit the maximum duration of 60 minutes.";
    assert_eq!(events[0]["error"]["code"], "session_expired");
    assert_eq!(events[0]["error"]["message"], text);
    assert_eq!(bench.end, Some(Output::Close(1001, text.into())));
    assert!(bench.model.has_ended());
    assert_eq!(bench.model.poll_timeout(), None);
}

#[test]
fn the_beta_protocol_is_closed_after_its_error() {
    let opened = upgrade::Opened {
        model: "gpt-realtime".into(),
        is_beta: true,
    };
    let mut model = Model::new(Options::default(), &opened, at(START));
    let Some(Output::Text(text)) = model.poll_output() else {
        panic!("an error first");
    };
    assert!(text.contains("beta_api_shape_disabled"));
    assert_eq!(
        model.poll_output(),
        Some(Output::Close(
            4000,
            "invalid_request_error.beta_api_shape_disabled".into()
        ))
    );
}

#[test]
fn nobody_speaking_triggers_the_idle_timeout() {
    let mut bench = Bench::ready(Options::default());
    let mut update = telephone();
    update["session"]["audio"]["input"]["turn_detection"]["idle_timeout_ms"] = json!(5000);
    bench.send(update);
    bench.send(json!({"type": "response.create"}));
    let events = bench.advance(20_000);
    let kinds = shape(&events);
    let done = kinds
        .iter()
        .position(|k| *k == "response.done")
        .expect("done");
    assert_eq!(
        kinds[done + 1..done + 6],
        [
            "input_audio_buffer.timeout_triggered",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created"
        ]
    );
}

#[test]
fn faults_happen_at_their_event() {
    let bench = |harm: Harm, after_events: u64| {
        Bench::ready(Options {
            faults: vec![Fault { harm, after_events }],
            ..Options::default()
        })
    };
    let mut reset = bench(Harm::Reset, 1);
    assert_eq!((reset.drain().len(), reset.end), (0, Some(Output::Reset)));
    let closed = bench(Harm::Close(1011), 0);
    assert!(matches!(closed.end, Some(Output::Close(1011, _))));
    let mut stalled = bench(Harm::Stall(None), 2);
    stalled.send(json!({"type": "response.create"}));
    assert_eq!(stalled.advance(60_000), [] as [Value; 0]);
    let mut paused = bench(Harm::Stall(Some(Duration::from_secs(5))), 2);
    paused.send(json!({"type": "response.create"}));
    assert_eq!(paused.advance(4_000), [] as [Value; 0]);
    assert_eq!(kinds(&paused.advance(2_000))[0], "response.created");
    let mut failed = bench(Harm::FailResponse, 2);
    failed.send(json!({"type": "response.create"}));
    let events = failed.advance(5_000);
    let done = &find(&events, "response.done")["response"];
    assert_eq!(done["status"], "failed");
    assert_eq!(
        done["status_details"]["error"]["code"],
        "rate_limit_exceeded"
    );
    assert!(!kinds(&events).contains(&"error"));
    let mut garbled = Bench::with(Options {
        faults: vec![
            Fault {
                harm: Harm::Garbage,
                after_events: 1,
            },
            Fault {
                harm: Harm::BadFrame,
                after_events: 1,
            },
        ],
        ..Options::default()
    });
    assert_eq!(
        kinds(&garbled.drain()),
        ["session.created", "(garbage)", "(raw)"]
    );
}

#[test]
fn unknown_fields_and_events_come_when_asked_for() {
    let mut bench = Bench::ready(Options {
        unknown_every: 5,
        obfuscation: true,
        ..Options::default()
    });
    bench.send(json!({"type": "response.create"}));
    let events = bench.advance(10_000);
    assert!(kinds(&events).contains(&"session.unlisted"));
    assert!(events.iter().any(|event| event.get("x_unlisted").is_some()));
    let delta = find(&events, "response.output_audio_transcript.delta");
    assert!(delta["obfuscation"].is_string());
    assert_eq!(
        find(&events, "response.output_audio.delta").get("obfuscation"),
        None
    );
}

#[test]
fn the_same_seed_gives_the_same_session() {
    let run = |seed: u64, profile: Profile| {
        let mut bench = Bench::ready(Options {
            seed,
            profile,
            ..Options::default()
        });
        let mut events = bench.speak(600);
        events.extend(bench.silence(6000));
        events
    };
    assert_eq!(run(3, Profile::Ms350), run(3, Profile::Ms350));
    assert_ne!(run(3, Profile::Ms250), run(4, Profile::Ms250));
}
