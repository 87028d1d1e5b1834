//! One call, driven in virtual time: order, numbering, marks, quirks, ends.

use super::options::Key;
use super::*;
use std::sync::Arc;

struct Bench {
    carrier: Carrier,
    now: Mono,
    end: Option<Output>,
}

fn at(mono: Mono) -> Now {
    Now { mono, unix_ms: 0 }
}

impl Bench {
    fn with(options: Options) -> Self {
        let now = Mono(7_000_000_000);
        Self {
            carrier: Carrier::new(options, at(now)),
            now,
            end: None,
        }
    }

    fn drain(&mut self) -> Vec<Value> {
        let mut messages = Vec::new();
        while let Some(output) = self.carrier.poll_output() {
            match output {
                Output::Text(text) => {
                    messages.push(serde_json::from_str(&text).expect("the carrier sends JSON"));
                }
                end => self.end = Some(end),
            }
        }
        messages
    }

    fn advance(&mut self, ms: u64) -> Vec<Value> {
        let until = self.now + Duration::from_millis(ms);
        let mut messages = self.drain();
        while let Some(due) = self.carrier.poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.carrier.handle_timeout(at(self.now));
            messages.extend(self.drain());
        }
        self.now = until;
        messages
    }

    fn send(&mut self, message: Value) {
        self.carrier
            .handle_text(message.to_string().as_bytes(), at(self.now));
    }

    /// One order of the server for this stream.
    fn order(&mut self, event: &str, member: Option<(&str, Value)>) {
        let mut message = json!({"event": event, "streamSid": self.carrier.report.stream_sid});
        if let Some((name, value)) = member {
            message[name] = value;
        }
        self.send(message);
    }

    fn media(&mut self, bytes: usize) {
        let mut payload = Vec::new();
        base64::encode_into(&vec![0x11; bytes], &mut payload);
        let payload = String::from_utf8(payload).expect("ASCII");
        self.order("media", Some(("media", json!({"payload": payload}))));
    }

    fn mark(&mut self, name: &str) {
        self.order("mark", Some(("mark", json!({"name": name}))));
    }
}

fn events(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .map(|m| m["event"].as_str().expect("an event"))
        .collect()
}

fn marks(messages: &[Value]) -> Vec<&str> {
    messages
        .iter()
        .filter_map(|m| m["mark"]["name"].as_str())
        .collect()
}

#[test]
fn connected_and_start_come_first_with_strings_that_are_numbers() {
    let mut bench = Bench::with(Options {
        parameters: vec![("tenant".into(), "acme".into())],
        ..Options::default()
    });
    let first = bench.drain();
    assert_eq!(
        first[0],
        json!({"event": "connected", "protocol": "Call", "version": "1.0.0"})
    );
    let start = &first[1];
    assert_eq!(start["sequenceNumber"], "1");
    assert_eq!(
        start["start"]["mediaFormat"],
        json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1})
    );
    assert_eq!(
        start["start"]["customParameters"],
        json!({"tenant": "acme"})
    );
    assert_eq!(start["start"]["streamSid"], start["streamSid"]);
    let media = &bench.advance(20)[0];
    assert_eq!(media["sequenceNumber"], "2");
    assert_eq!(media["media"]["chunk"], "1");
    assert_eq!(media["media"]["track"], "inbound");
    assert_eq!(media["media"]["payload"].as_str().map(str::len), Some(216));
    assert!(media["media"]["timestamp"].is_string());
}

#[test]
fn no_parameters_are_an_empty_object_or_none() {
    let start = |omit_empty_parameters| {
        let options = Options {
            omit_empty_parameters,
            ..Options::default()
        };
        Bench::with(options).drain()[1]["start"].clone()
    };
    assert_eq!(start(false)["customParameters"], json!({}));
    assert_eq!(start(true).get("customParameters"), None);
}

#[test]
fn frames_keep_their_absolute_deadlines_when_a_wake_up_is_late() {
    let mut bench = Bench::with(Options::default());
    bench.drain();
    let start = bench.now;
    // One wake-up after 95 ms: the four frames that were due come at once, the fifth at its own time.
    bench.now = start + Duration::from_millis(95);
    bench.carrier.handle_timeout(at(bench.now));
    assert_eq!(bench.drain().len(), 4);
    assert_eq!(
        bench.carrier.poll_timeout(),
        Some(start + Duration::from_millis(100))
    );
    let later = bench.advance(905);
    assert_eq!(later.len(), 46);
    assert_eq!(later[45]["media"]["chunk"], "50");
}

#[test]
fn the_voice_is_sent_whole_and_then_silence() {
    let voice: Vec<u8> = (0..500).map(|i| (i % 250) as u8).collect();
    let mut bench = Bench::with(Options {
        audio: Arc::from(voice.clone()),
        keeps_audio: true,
        ..Options::default()
    });
    bench.advance(200);
    let mut bytes = Vec::new();
    for passed in &bench.carrier.report().sent {
        assert!(base64::decode_into(passed.payload.as_bytes(), &mut bytes));
    }
    assert_eq!(bytes[..500], voice);
    assert!(bytes[500..].iter().all(|b| *b == 0xFF));
}

#[test]
fn marks_come_back_when_their_audio_has_played() {
    let mut bench = Bench::with(Options::default());
    bench.drain();
    bench.mark("early");
    assert_eq!(marks(&bench.advance(0)), ["early"]);
    bench.media(1600);
    bench.mark("a");
    bench.media(1600);
    bench.mark("b");
    assert_eq!(marks(&bench.advance(199)), [] as [&str; 0]);
    assert_eq!(marks(&bench.advance(2)), ["a"]);
    assert_eq!(marks(&bench.advance(200)), ["b"]);
}

#[test]
fn clear_returns_every_pending_mark_and_cuts_the_audio() {
    let mut bench = Bench::with(Options::default());
    bench.media(8000);
    bench.mark("a");
    bench.mark("b");
    bench.advance(250);
    bench.order("clear", None);
    bench.mark("behind");
    assert_eq!(marks(&bench.drain()), ["a", "b", "behind"]);
    let report = bench.carrier.into_report(at(bench.now));
    assert_eq!(
        (report.bytes_heard, report.bytes_cut, report.clears),
        (2000, 6000, 1)
    );
}

#[test]
fn what_a_server_must_not_send_is_dropped_and_noted() {
    let mut bench = Bench::with(Options::default());
    bench.order(
        "media",
        Some(("media", json!({"payload": "AAAA", "track": "outbound"}))),
    );
    bench.send(json!({"event": "clear", "streamSid": "MZ0"}));
    bench.order("hangup", None);
    bench.carrier.handle_binary(at(bench.now));
    let codes: Vec<u16> = bench
        .carrier
        .report()
        .warnings
        .iter()
        .map(|w| w.code)
        .collect();
    assert_eq!(codes, [31951, 31951, 31951, 31950]);
    assert_eq!(bench.carrier.report().bytes_received, 0);
}

#[test]
fn stop_is_the_last_message_and_the_socket_closes_after_it() {
    let mut bench = Bench::with(Options {
        duration: Some(Duration::from_millis(100)),
        ..Options::default()
    });
    let messages = bench.advance(1_000);
    assert_eq!(
        events(&messages),
        [
            "connected",
            "start",
            "media",
            "media",
            "media",
            "media",
            "media",
            "stop"
        ]
    );
    assert_eq!(messages[7]["sequenceNumber"], "7");
    assert_eq!(bench.end, Some(Output::Close(1000)));
    assert_eq!(bench.carrier.poll_timeout(), None);
}

#[test]
fn a_call_can_also_end_without_stop() {
    for (hang_up, end) in [
        (HangUp::Close, Output::Close(1000)),
        (HangUp::Reset, Output::Reset),
    ] {
        let mut bench = Bench::with(Options {
            duration: Some(Duration::from_millis(40)),
            hang_up,
            ..Options::default()
        });
        assert_eq!(
            events(&bench.advance(100)),
            ["connected", "start", "media", "media"]
        );
        assert_eq!(bench.end, Some(end));
    }
}

#[test]
fn without_a_length_the_caller_waits_for_the_last_answer() {
    let mut bench = Bench::with(Options {
        audio: Arc::from([0x20; 1600]),
        ..Options::default()
    });
    bench.advance(100);
    bench.media(16_000);
    bench.mark("end");
    let messages = bench.advance(3_000);
    assert_eq!(marks(&messages), ["end"]);
    assert!(!events(&messages).contains(&"stop"));
    assert_eq!(events(&bench.advance(1_000)).last(), Some(&"stop"));
}

#[test]
fn a_gap_is_seen_in_the_timestamps_alone() {
    let mut bench = Bench::with(Options {
        gap_frames: 10,
        duration: Some(Duration::from_secs(10)),
        ..Options::default()
    });
    bench.drain();
    let messages = bench.advance(3_000);
    let number = |message: &Value, name: &str| -> u64 {
        let text = message["media"][name].as_str().expect("a string");
        text.parse().expect("a number")
    };
    assert_eq!(messages.len(), 140);
    let jumps: Vec<(u64, u64)> = messages
        .windows(2)
        .map(|pair| {
            (
                number(&pair[1], "timestamp") - number(&pair[0], "timestamp"),
                number(&pair[1], "chunk") - number(&pair[0], "chunk"),
            )
        })
        .filter(|(ms, _)| *ms != 20)
        .collect();
    assert_eq!(jumps, [(220, 1)]);
}

#[test]
fn a_burst_delivers_late_and_loses_nothing() {
    let mut bench = Bench::with(Options {
        burst: Duration::from_millis(400),
        duration: Some(Duration::from_secs(10)),
        ..Options::default()
    });
    bench.drain();
    assert_eq!(bench.advance(3_000).len(), 150);
    assert_eq!(bench.advance(399).len(), 0);
    assert_eq!(bench.advance(1).len(), 20);
    assert_eq!(bench.advance(100).len(), 5);
}

#[test]
fn keys_and_unknown_marks_come_in_their_time() {
    let mut bench = Bench::with(Options {
        keys: vec![Key {
            digit: '7',
            at: Duration::from_millis(500),
        }],
        unknown_mark: true,
        duration: Some(Duration::from_secs(10)),
        ..Options::default()
    });
    bench.drain();
    let messages = bench.advance(2_100);
    let key = messages
        .iter()
        .find(|m| m["event"] == "dtmf")
        .expect("a key");
    assert_eq!(key["dtmf"], json!({"track": "inbound_track", "digit": "7"}));
    assert_eq!(marks(&messages), ["never.sent"]);
    let sequence: Vec<u64> = messages
        .iter()
        .map(|m| {
            m["sequenceNumber"]
                .as_str()
                .expect("a string")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(sequence.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn a_server_that_closes_first_ends_the_call() {
    let mut bench = Bench::with(Options::default());
    bench.carrier.handle_closed(Some(1011), at(bench.now));
    assert!(bench.carrier.has_ended());
    assert_eq!(bench.carrier.report().closed_by_server, Some(1011));
    bench.media(160);
    assert_eq!(bench.carrier.report().bytes_received, 0);
}
