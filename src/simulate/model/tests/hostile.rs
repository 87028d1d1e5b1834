//! A session and clients that send anything.

use super::*;
use proptest::prelude::*;

/// Events that are nearly right: a known name, members of any kind.
fn event() -> impl Strategy<Value = String> {
    let kind = prop::sample::select(vec![
        "session.update",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "conversation.item.create",
        "conversation.item.truncate",
        "conversation.item.delete",
        "response.create",
        "response.cancel",
    ]);
    let member = prop::sample::select(vec![
        "null",
        "7",
        "-1",
        "1.5",
        "\"=\"",
        "\"AAA\"",
        "\"////\"",
        "[]",
        "{}",
        "[{}]",
        "{\"type\":\"realtime\",\"audio\":{\"input\":{\"format\":{\"type\":\"audio/pcma\"}}}}",
        "{\"type\":\"realtime\",\"audio\":{\"input\":{\"turn_detection\":null}}}",
        "{\"type\":\"message\",\"role\":\"user\",\"content\":[]}",
    ]);
    let name = prop::sample::select(vec![
        "session",
        "audio",
        "item",
        "item_id",
        "audio_end_ms",
        "content_index",
        "response",
        "response_id",
        "event_id",
        "other",
    ]);
    (kind, prop::collection::vec((name, member), 0..4)).prop_map(|(kind, members)| {
        let members: String = members
            .iter()
            .map(|(n, m)| format!(",\"{n}\":{m}"))
            .collect();
        format!("{{\"type\":\"{kind}\"{members}}}")
    })
}

proptest! {
    /// Whatever a client sends: no panic, every event that leaves is JSON, and time goes on.
    #[test]
    fn no_client_can_break_a_session(
        events in prop::collection::vec(prop_oneof![event(), ".{0,60}"], 1..30),
        echo in any::<bool>(),
    ) {
        let mode = if echo { Mode::Echo } else { Mode::Talk };
        let mut bench = Bench::with(Options { mode, ..Options::default() });
        for text in events {
            bench.model.handle_text(text.as_bytes(), at(bench.now));
            let sent = bench.advance(30);
            prop_assert!(kinds(&sent).iter().all(|kind| *kind != "(garbage)"));
        }
    }
}
