use super::*;
use proptest::prelude::*;

fn want(why: Why) -> Want {
    Want {
        why,
        instructions: None,
    }
}

fn id(id: &str) -> Option<ResponseId> {
    ResponseId::new(id)
}

#[test]
fn a_wish_goes_out_at_once_when_the_slot_is_free_and_waits_when_not() {
    let mut slot = Responses::default();
    let event = slot.want(want(Why::Greeting)).expect("free");
    assert_eq!(
        event,
        r#"{"type":"response.create","event_id":"vr_create_1","response":{"metadata":{"voxrelay":"greeting"}}}"#
    );
    assert_eq!(slot.want(want(Why::Tools)), None);
    slot.on_created(id("r1"), Some("greeting"));
    assert_eq!(slot.want(want(Why::Tools)), None);
    let (news, event) = slot.on_done(id("r1"));
    assert!(news && event.unwrap().contains("tools"));
}

#[test]
fn wishes_of_one_kind_are_one_and_the_latest_decides() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), None);
    for n in 0..10 {
        let instructions = Some(format!("say {n}"));
        let why = Why::Nudge;
        assert_eq!(slot.want(Want { why, instructions }), None);
    }
    let event = slot.on_done(id("r1")).1.unwrap();
    assert!(event.contains("say 9"));
    slot.on_created(id("r2"), Some("nudge"));
    assert_eq!(slot.on_done(id("r2")), (true, None));
}

#[test]
fn a_wish_refused_because_the_server_was_faster_is_sent_again_when_that_is_done() {
    let code = Some("conversation_already_has_active_response");
    // With the server's own response known before the error, and after, and never.
    for order in 0..3 {
        let mut slot = Responses::default();
        assert!(slot.want(want(Why::Tools)).is_some());
        if order == 0 {
            slot.on_created(id("r1"), None);
        }
        assert_eq!(slot.on_error(code, None, None), None);
        if order == 1 {
            slot.on_created(id("r1"), None);
        }
        let event = slot.on_done(id("r1")).1.expect("again");
        assert!(event.contains("vr_create_2") && event.contains("tools"));
    }
}

#[test]
fn a_response_of_the_servers_own_does_not_answer_ours() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), Some("greeting"));
    slot.on_done(id("r1"));
    assert!(slot.want(want(Why::Tools)).is_some());
    slot.on_created(id("r2"), None);
    slot.want(want(Why::Nudge));
    assert_eq!(
        slot.on_done(id("r2")),
        (true, None),
        "ours is still to come"
    );
    slot.on_created(id("r3"), Some("tools"));
    assert!(slot.on_done(id("r3")).1.unwrap().contains("nudge"));
}

#[test]
fn a_wish_refused_late_is_sent_again_also_where_our_word_does_not_come_back() {
    for event_id in [None, Some("vr_create_1")] {
        let mut slot = Responses::default();
        slot.want(want(Why::Tools));
        slot.on_created(id("r1"), None);
        assert_eq!(slot.on_done(id("r1")), (true, None));
        // Another of the server's own, and only that one was in our way.
        slot.on_created(id("r2"), None);
        let code = Some("conversation_already_has_active_response");
        assert_eq!(slot.on_error(code, event_id, None), None);
        assert!(slot.on_done(id("r2")).1.unwrap().contains("tools"));
    }
}

#[test]
fn an_error_without_an_event_id_is_of_the_wish_that_the_named_response_was_in_the_way_of() {
    let mut slot = Responses::default();
    slot.want(want(Why::Text));
    slot.on_created(id("r1"), None);
    slot.want(want(Why::Tools));
    assert!(slot.on_done(id("r1")).1.unwrap().contains("tools"));
    // Both are out. The first was refused because of the server's own.
    let code = Some("conversation_already_has_active_response");
    let text = Some("Conversation already has an active response in progress: r1.");
    assert_eq!(slot.on_error(code, None, text), None);
    slot.on_created(id("r2"), Some("tools"));
    assert!(slot.on_done(id("r2")).1.unwrap().contains("text"));
    slot.on_created(id("r3"), Some("text"));
    assert_eq!(slot.on_done(id("r3")), (true, None));
}

#[test]
fn a_response_with_the_word_of_an_older_wish_leaves_the_newer_one_asked() {
    let mut slot = Responses::default();
    slot.want(want(Why::Tools));
    slot.want(want(Why::Nudge));
    // Of a response that nobody announced: perhaps the answer to the first.
    assert!(slot.on_done(id("r1")).1.unwrap().contains("nudge"));
    slot.on_created(id("r2"), Some("tools"));
    let code = Some("conversation_already_has_active_response");
    assert_eq!(slot.on_error(code, None, None), None);
    assert!(slot.on_done(id("r2")).1.unwrap().contains("nudge"));
}

#[test]
fn a_wish_is_refused_and_asked_again_though_one_before_it_is_answered_meanwhile() {
    let mut slot = Responses::default();
    assert!(slot.want(want(Why::Goodbye)).is_some());
    // Two responses of the server's own pass for the answers.
    slot.on_created(id("r1"), None);
    assert_eq!(slot.want(want(Why::Tools)), None);
    assert!(slot.on_done(id("r1")).1.unwrap().contains("tools"));
    assert_eq!(slot.on_done(id("r2")).1, None);
    slot.on_created(id("r3"), Some("goodbye"));
    let code = Some("conversation_already_has_active_response");
    assert_eq!(slot.on_error(code, None, Some("r3 is in the way")), None);
    assert!(slot.on_done(id("r3")).1.unwrap().contains("tools"));
}

#[test]
fn a_done_that_comes_twice_frees_the_slot_once() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), None);
    assert_eq!(slot.on_done(id("r1")), (true, None));
    assert!(slot.want(want(Why::Tools)).is_some());
    assert_eq!(slot.want(want(Why::Nudge)), None);
    assert_eq!(
        slot.on_done(id("r1")),
        (false, None),
        "not of what was asked"
    );
    slot.on_created(id("r1"), None);
    assert!(slot.is_owed(), "nor does it begin again");
    slot.on_created(id("r2"), Some("tools"));
    assert!(slot.on_done(id("r2")).1.is_some());
}

#[test]
fn a_done_without_a_created_counts() {
    let mut slot = Responses::default();
    slot.want(want(Why::Tools));
    assert_eq!(slot.on_done(id("r1")), (true, None));
    assert!(!slot.is_busy());
}

#[test]
fn a_response_beside_the_conversation_does_not_free_the_slot() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), None);
    assert_eq!(slot.want(want(Why::Tools)), None);
    assert_eq!(slot.on_done(id("beside")), (true, None));
    assert_eq!(slot.active(), id("r1"));
}

#[test]
fn a_cancel_goes_to_what_is_active_and_once() {
    let mut slot = Responses::default();
    assert_eq!(slot.cancel(), None);
    slot.on_created(id("r1"), None);
    let event = slot.cancel().unwrap();
    assert!(event.contains(r#""response_id":"r1""#));
    assert_eq!(slot.cancel(), None);
    assert_eq!(
        slot.on_error(Some("response_cancel_not_active"), None, None),
        None
    );
    slot.on_done(id("r1"));
    assert_eq!(slot.cancel(), None);
    slot.on_created(id("r2"), None);
    assert!(slot.cancel().is_some());
}

#[test]
fn a_wish_that_is_refused_for_itself_is_gone_and_the_next_follows() {
    let mut slot = Responses::default();
    slot.want(want(Why::Nudge));
    slot.want(want(Why::Tools));
    let event = slot.on_error(Some("invalid_value"), Some("vr_create_1"), None);
    assert!(event.unwrap().contains("tools"));
    assert_eq!(
        slot.on_error(Some("invalid_value"), Some("other"), None),
        None
    );
    assert!(slot.is_owed());
}

#[test]
fn an_answer_that_never_comes_is_not_waited_for() {
    let mut slot = Responses::default();
    slot.want(want(Why::Nudge));
    slot.want(want(Why::Tools));
    assert!(slot.is_owed());
    assert!(slot.on_timeout().unwrap().contains("tools"));
    assert_eq!(slot.on_timeout(), None);
    assert!(!slot.is_owed() && !slot.is_busy());
    slot.on_created(id("r"), None);
    assert!(!slot.is_owed());
}

#[test]
fn a_response_that_fell_silent_frees_the_slot_and_its_late_end_ends_nothing_else() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), None);
    slot.want(want(Why::Tools));
    assert!(slot.is_of_active(id("r1").as_ref().map(ResponseId::as_str)));
    assert!(slot.is_of_active(None) && !slot.is_of_active(Some("r2")));
    assert!(slot.on_timeout().unwrap().contains("tools"));
    assert_eq!(slot.on_done(id("r1")), (false, None));
    assert!(slot.is_owed(), "the next one is still to begin");
    assert!(!slot.is_of_active(None));
}

#[test]
fn what_waits_outlives_a_session() {
    let mut slot = Responses::default();
    slot.on_created(id("r1"), None);
    slot.want(want(Why::Tools));
    slot.on_session_lost();
    assert!(slot.is_wanted(Why::Tools) && !slot.is_busy());
    assert!(slot.resume().is_some());
    slot.withdraw(Why::Tools);
    assert_eq!(slot.on_done(id("r2")), (true, None));
}

/// A server as the reference describes it: one response at a time, and events on their way in both directions.
#[derive(Default)]
struct Server {
    active: Option<u32>,
    count: u32,
    /// On their way to us.
    events: VecDeque<(&'static str, u32, bool)>,
    /// Our creates on their way there.
    creates: VecDeque<String>,
    made: Vec<String>,
    refused: u32,
}

impl Server {
    fn begin(&mut self, ours: bool) {
        self.count += 1;
        self.active = Some(self.count);
        self.events.push_back(("created", self.count, ours));
    }

    fn read(&mut self) {
        let Some(create) = self.creates.pop_front() else {
            return;
        };
        if self.active.is_some() {
            self.refused += 1;
            self.events.push_back(("error", 0, true));
        } else {
            self.made.push(create);
            self.begin(true);
        }
    }

    fn finish(&mut self, twice: bool) {
        if let Some(n) = self.active.take() {
            self.events.push_back(("done", n, false));
            if twice {
                self.events.push_back(("done", n, false));
            }
        }
    }
}

proptest! {
    #[test]
    fn every_wish_is_made_and_no_two_creates_are_out_at_once(
        steps in proptest::collection::vec(0u8..8, 1..300),
        tags in any::<bool>(),
    ) {
        let mut server = Server::default();
        let mut slot = Responses::default();
        let mut wished = 0u32;
        // It is known whether this server says our word back.
        slot.on_created(id("r0"), tags.then_some("x"));
        slot.on_done(id("r0"));
        let deliver = |slot: &mut Responses, server: &mut Server| {
            let Some((what, n, ours)) = server.events.pop_front() else {
                return;
            };
            let id = ResponseId::new(&format!("r{n}"));
            let event = match what {
                "created" => {
                    slot.on_created(id, (ours && tags).then_some("tools"));
                    None
                }
                "done" => slot.on_done(id).1,
                _ => slot.on_error(Some("conversation_already_has_active_response"), None, None),
            };
            server.creates.extend(event);
        };
        for step in steps {
            match step {
                0 => {
                    wished += 1;
                    let event = slot.want(want(Why::Tools));
                    server.creates.extend(event);
                }
                1 | 2 => deliver(&mut slot, &mut server),
                3 => server.read(),
                4 => server.finish(false),
                5 => server.finish(true),
                // The server answers the caller by itself.
                6 if server.active.is_none() => server.begin(false),
                _ => {}
            }
            // Else one of ours and one of the server's own can't be told apart: then one is refused, and sent again.
            prop_assert!(!tags || server.creates.len() <= 1, "two creates on their way");
            prop_assert!(slot.waiting.len() <= 1);
        }
        // Everything arrives in the end.
        for _ in 0..200 {
            server.read();
            server.finish(false);
            deliver(&mut slot, &mut server);
        }
        prop_assert!(!slot.is_busy() && !slot.is_wanted(Why::Tools));
        prop_assert!(server.made.len() as u32 <= wished);
        prop_assert_eq!(server.made.is_empty(), wished == 0);
    }
}
