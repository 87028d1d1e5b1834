use super::*;
use proptest::prelude::*;

fn ms(ms: u64) -> Mono {
    Mono(1_000_000_000 + ms * 1_000_000)
}

/// A ledger that is written to as a call does it: received and queued at once, sent when said.
#[derive(Default)]
struct Ledger(Playback);

impl Ledger {
    fn new() -> Self {
        let mut ledger = Self::default();
        ledger.0.advance(ms(0));
        ledger
    }

    fn queue(&mut self, item: &str, audio_ms: u64) {
        if self.0.standing(Some(item), 0) != Standing::Current {
            assert!(self.0.begin(ItemId::new(item), ResponseId::new("r"), 0));
        }
        self.0.queue(audio_ms * 8);
    }

    /// Queued and taken by the socket at once.
    fn say(&mut self, item: &str, audio_ms: u64, at: u64) {
        self.queue(item, audio_ms);
        self.0.on_sent(audio_ms * 8, ms(at));
    }

    fn heard(&mut self, item: &str, at: u64) -> u64 {
        self.0.advance(ms(at));
        self.0.item(item, 0).expect("on the ledger").2.0
    }

    fn cut(&mut self, at: u64) -> Vec<(String, u64, u64)> {
        self.0.advance(ms(at));
        std::iter::from_fn(|| self.0.take_cut())
            .map(|cut| (cut.item_id.unwrap().to_string(), cut.heard.0, cut.total.0))
            .collect()
    }
}

#[test]
fn nothing_is_heard_of_what_only_waits_to_be_sent() {
    let mut ledger = Ledger::new();
    ledger.queue("a", 500);
    assert_eq!(ledger.heard("a", 10_000), 0);
    ledger.0.on_sent(100 * 8, ms(10_000));
    assert_eq!(ledger.heard("a", 10_050), 50);
    assert_eq!(ledger.heard("a", 20_000), 100, "never past what was sent");
}

#[test]
fn what_was_sent_plays_in_real_time_from_the_first_byte() {
    let mut ledger = Ledger::new();
    ledger.say("a", 1_000, 2_000);
    assert_eq!(ledger.heard("a", 2_000), 0);
    assert_eq!(ledger.heard("a", 2_001), 1);
    assert_eq!(ledger.heard("a", 2_999), 999);
    assert_eq!(ledger.heard("a", 3_000), 1_000);
    assert_eq!(ledger.heard("a", 9_000), 1_000);
}

#[test]
fn many_small_steps_of_the_clock_lose_nothing() {
    let mut ledger = Ledger::new();
    ledger.say("a", 60_000, 0);
    for ns in (0..1_000_000_000u64).step_by(77_777) {
        ledger.0.advance(Mono(ms(0).0 + ns));
    }
    assert_eq!(ledger.heard("a", 1_000), 1_000);
}

#[test]
fn a_pause_between_items_is_not_heard_as_audio() {
    let mut ledger = Ledger::new();
    ledger.say("a", 200, 0);
    ledger.0.on_item_done(Some("a"), 0);
    assert_eq!(ledger.heard("a", 5_000), 200);
    ledger.say("b", 300, 5_000);
    assert_eq!(ledger.heard("b", 5_100), 100);
    assert_eq!(ledger.0.take_settled().unwrap().heard, AudioMs(200));
    assert_eq!(ledger.heard("b", 5_150), 150);
}

#[test]
fn an_item_sent_in_bursts_stands_still_while_nothing_is_there_to_play() {
    let mut ledger = Ledger::new();
    ledger.say("a", 200, 0);
    assert_eq!(ledger.heard("a", 1_000), 200);
    ledger.say("a", 200, 1_000);
    assert_eq!(ledger.heard("a", 1_050), 250);
    ledger.say("a", 1_000, 1_100);
    assert_eq!(ledger.heard("a", 1_200), 400);
    assert_eq!(ledger.heard("a", 1_700), 900);
}

#[test]
fn a_second_item_is_heard_when_the_first_is_over() {
    let mut ledger = Ledger::new();
    ledger.say("a", 300, 0);
    ledger.say("b", 300, 0);
    assert_eq!(ledger.heard("b", 299), 0);
    assert_eq!(ledger.heard("b", 450), 150);
    assert_eq!(ledger.heard("a", 450), 300);
}

#[test]
fn a_clear_between_two_items_leaves_nothing_of_the_first_in_the_second() {
    let mut ledger = Ledger::new();
    ledger.say("a", 10_000, 0);
    assert_eq!(ledger.cut(400), [("a".to_owned(), 400, 10_000)]);
    assert!(!ledger.0.is_unheard());
    ledger.say("b", 1_000, 500);
    assert_eq!(ledger.heard("b", 700), 200);
    assert_eq!(ledger.cut(700), [("b".to_owned(), 200, 1_000)]);
}

#[test]
fn a_cut_gives_each_item_its_own_milliseconds() {
    let mut ledger = Ledger::new();
    ledger.say("a", 300, 0);
    ledger.say("b", 300, 0);
    ledger.queue("c", 40);
    assert_eq!(
        ledger.cut(450),
        [
            ("a".to_owned(), 300, 300),
            ("b".to_owned(), 150, 300),
            ("c".to_owned(), 0, 40)
        ]
    );
    assert_eq!(ledger.cut(460), []);
}

#[test]
fn what_is_heard_is_whole_milliseconds_rounded_down() {
    let mut ledger = Ledger::new();
    assert!(ledger.0.begin(ItemId::new("a"), None, 0));
    ledger.0.queue(1_607);
    ledger.0.on_sent(1_607, ms(0));
    ledger.0.advance(Mono(ms(0).0 + 100_900_000));
    let cut = ledger.0.take_cut().unwrap();
    assert_eq!(
        (cut.heard, cut.total, cut.whole),
        (AudioMs(100), AudioMs(200), false)
    );
}

#[test]
fn a_mark_in_time_changes_nothing_and_a_late_one_takes_nothing_back() {
    let mut ledger = Ledger::new();
    ledger.say("a", 1_000, 0);
    ledger.0.advance(ms(200));
    assert!(ledger.0.on_mark(200 * 8, ms(200)));
    assert_eq!(ledger.heard("a", 500), 500);
    assert!(ledger.0.on_mark(400 * 8, ms(700)), "300 ms late");
    assert_eq!(ledger.heard("a", 700), 700);
}

#[test]
fn a_mark_a_little_early_moves_what_was_heard_to_its_place() {
    let mut ledger = Ledger::new();
    ledger.say("a", 1_000, 0);
    assert!(ledger.0.on_mark(200 * 8, ms(185)));
    assert_eq!(ledger.heard("a", 185), 200);
    assert_eq!(ledger.heard("a", 285), 300);
}

#[test]
fn marks_returned_at_once_are_bounded_by_the_clock() {
    let mut ledger = Ledger::new();
    ledger.say("a", 5_000, 0);
    for place in (200..=5_000).step_by(200) {
        assert!(!ledger.0.on_mark(place * 8, ms(1)));
    }
    assert_eq!(ledger.heard("a", 100), 100);
}

#[test]
fn marks_out_of_order_never_take_back_what_was_heard() {
    let mut ledger = Ledger::new();
    ledger.say("a", 1_000, 0);
    assert!(ledger.0.on_mark(600 * 8, ms(600)));
    assert!(ledger.0.on_mark(200 * 8, ms(600)));
    assert!(ledger.0.on_mark(400 * 8, ms(601)));
    assert_eq!(ledger.heard("a", 601), 601);
}

#[test]
fn without_any_mark_the_clock_alone_is_followed() {
    let mut ledger = Ledger::new();
    ledger.say("a", 700, 0);
    ledger.0.on_item_done(Some("a"), 0);
    ledger.0.advance(ms(699));
    assert_eq!(ledger.0.take_settled(), None);
    ledger.0.advance(ms(700));
    let settled = ledger.0.take_settled().unwrap();
    assert!(settled.whole && settled.heard == AudioMs(700));
}

#[test]
fn a_mark_beyond_what_was_sent_proves_nothing() {
    let mut ledger = Ledger::new();
    ledger.queue("a", 1_000);
    ledger.0.on_sent(10 * 8, ms(0));
    assert!(ledger.0.on_mark(1_000 * 8, ms(0)));
    assert_eq!(
        ledger.heard("a", 0),
        10,
        "within the drift allowed, and no further"
    );
}

#[test]
fn items_that_take_turns_keep_their_own_counts() {
    let mut ledger = Ledger::new();
    ledger.say("a", 100, 0);
    ledger.say("b", 100, 0);
    ledger.say("a", 100, 0);
    assert_eq!(ledger.heard("a", 150), 100);
    assert_eq!(ledger.heard("a", 250), 150);
    assert_eq!(
        ledger.cut(250),
        [("b".to_owned(), 100, 100), ("a".to_owned(), 150, 200)]
    );

    let mut ledger = Ledger::new();
    ledger.say("a", 100, 0);
    ledger.say("b", 100, 0);
    ledger.say("a", 100, 0);
    assert_eq!(
        ledger.cut(50),
        [("b".to_owned(), 0, 100), ("a".to_owned(), 50, 200)]
    );
}

#[test]
fn two_parts_of_one_item_are_two_things() {
    let mut playback = Playback::default();
    let id = ItemId::new("a");
    assert!(playback.begin(id, None, 0));
    playback.queue(80);
    assert_eq!(playback.standing(Some("a"), 1), Standing::Another);
    assert!(playback.begin(id, None, 1));
    playback.queue(80);
    playback.on_sent(160, ms(0));
    playback.advance(ms(15));
    let cut: Vec<_> = std::iter::from_fn(|| playback.take_cut()).collect();
    assert_eq!((cut[0].content_index, cut[0].heard), (0, AudioMs(10)));
    assert_eq!((cut[1].content_index, cut[1].heard), (1, AudioMs(5)));
}

#[test]
fn a_part_that_is_over_does_not_close_the_next() {
    let mut ledger = Ledger::new();
    ledger.say("a", 100, 0);
    ledger.0.on_item_done(Some("a"), 0);
    ledger.0.advance(ms(100));
    assert!(ledger.0.take_settled().is_some());
    assert_eq!(ledger.0.standing(Some("a"), 0), Standing::Closed);
    assert_eq!(ledger.0.standing(Some("a"), 1), Standing::Another);
    ledger.say("b", 100, 200);
    ledger.cut(250);
    for part in 0..3 {
        assert_eq!(ledger.0.standing(Some("b"), part), Standing::Closed);
    }
}

#[test]
fn an_item_is_settled_once_it_is_complete_and_heard() {
    let mut ledger = Ledger::new();
    ledger.say("a", 100, 0);
    ledger.0.advance(ms(500));
    assert_eq!(ledger.0.take_settled(), None, "more may come");
    assert_eq!(ledger.0.standing(Some("a"), 0), Standing::Current);
    ledger.0.on_response_done(Some("other"));
    assert_eq!(ledger.0.take_settled(), None);
    ledger.0.on_response_done(Some("r"));
    assert!(ledger.0.take_settled().unwrap().whole);
    assert_eq!(ledger.0.take_settled(), None);
    assert_eq!(ledger.0.standing(Some("a"), 0), Standing::Closed);
}

#[test]
fn what_was_refused_makes_an_item_less_than_whole() {
    let mut ledger = Ledger::new();
    ledger.say("a", 100, 0);
    ledger.0.refuse(Some("a"), 0, 800);
    ledger.0.advance(ms(500));
    let settled = ledger.0.take_settled().unwrap();
    assert_eq!(
        (settled.heard, settled.total, settled.whole),
        (AudioMs(100), AudioMs(200), false)
    );
}

#[test]
fn the_table_is_bounded_and_its_memory_is_reused() {
    let mut playback = Playback::default();
    for n in 0..RUNS_MAX {
        assert!(playback.begin(ItemId::new(&format!("i{n}")), None, 0));
        playback.queue(8);
    }
    assert!(!playback.begin(ItemId::new("more"), None, 0));
    let capacity = playback.runs.capacity();
    for n in 0..10_000u64 {
        playback.on_sent(8, ms(n));
        playback.on_response_done(None);
        playback.advance(ms(n + 1));
        while playback.take_settled().is_some() {}
        assert!(playback.begin(ItemId::new(&format!("j{n}")), None, 0));
        playback.queue(8);
    }
    assert_eq!(playback.runs.capacity(), capacity);
}

#[test]
fn the_time_of_silence_is_when_all_that_was_sent_has_played() {
    let mut ledger = Ledger::new();
    assert_eq!(ledger.0.silent_at(ms(5)), ms(5));
    ledger.say("a", 300, 10);
    assert_eq!(ledger.0.silent_at(ms(10)), ms(310));
    ledger.0.advance(ms(200));
    assert_eq!(ledger.0.silent_at(ms(200)), ms(310));
    assert_eq!(ledger.0.unplayed_ms(), AudioMs(110));
}

#[test]
fn text_is_cut_where_the_audio_was_and_between_words() {
    let text = "Good morning, how can I help you today?";
    for (heard, expected) in [
        (0, ""),
        (1, ""),
        (100, ""),
        (110, "Good"),
        (200, "Good"),
        (340, "Good morning,"),
        (500, "Good morning, how"),
        (999, "Good morning, how can I help you"),
        (1_000, text),
        (2_000, text),
    ] {
        assert_eq!(heard_text(text, heard, 1_000), expected, "{heard}");
    }
    assert_eq!(heard_text("こんにちは世界", 500, 1_000), "こんに");
    assert_eq!(heard_text("", 1, 2), "");
    assert_eq!(heard_text("abc", 0, 0), "abc");
}

#[test]
fn an_items_text_goes_with_it() {
    let mut ledger = Ledger::new();
    let id = ItemId::new("a").unwrap();
    ledger.0.on_text(id, "One two ", false);
    ledger.0.on_text(id, "three four", false);
    ledger.say("a", 1_000, 0);
    ledger.0.advance(ms(500));
    assert_eq!(ledger.0.take_cut().unwrap().text, "One two");
    ledger.0.on_text(id, "late", false);
    assert!(
        ledger.0.texts.is_empty(),
        "nothing is kept for an item that is over"
    );
}

#[test]
fn kept_text_is_bounded() {
    let mut playback = Playback::default();
    for n in 0..100 {
        let id = ItemId::new(&format!("i{n}")).unwrap();
        for _ in 0..100 {
            playback.on_text(id, &"é".repeat(500), false);
        }
        playback.on_text(id, "é", false);
    }
    assert_eq!(playback.texts.len(), TEXTS_MAX);
    assert!(
        playback
            .texts
            .iter()
            .all(|(_, text)| text.len() <= TEXT_BYTES_MAX)
    );
}

proptest! {
    /// Against a carrier that plays byte by byte.
    #[test]
    fn the_ledger_hears_what_a_plain_queue_plays(
        steps in proptest::collection::vec((0u8..6, 0u64..400), 1..200)
    ) {
        let mut playback = Playback::default();
        playback.advance(ms(0));
        // (item, byte of the item) in the order they play; how far, in eighths of a millisecond.
        let mut queue: VecDeque<(u32, u64)> = VecDeque::new();
        let mut unsent: VecDeque<(u32, u64)> = VecDeque::new();
        let mut heard: Vec<u64> = vec![0];
        let mut sizes: Vec<u64> = vec![0];
        let mut at = 0;
        let mut item = 0u32;
        for (what, n) in steps {
            match what {
                0 | 1 => {
                    if what == 0 || item == 0 {
                        item += 1;
                        heard.push(0);
                        sizes.push(0);
                        if !playback.begin(ItemId::new(&format!("i{item}")), None, 0) {
                            return Ok(());
                        }
                    }
                    playback.queue(n);
                    for _ in 0..n {
                        sizes[item as usize] += 1;
                        unsent.push_back((item, sizes[item as usize]));
                    }
                }
                2 => {
                    let n = n.min(unsent.len() as u64);
                    queue.extend(unsent.drain(..n as usize));
                    playback.on_sent(n, ms(at));
                }
                3 => {
                    at += n;
                    for _ in 0..n * 8 {
                        if let Some((item, byte)) = queue.pop_front() {
                            heard[item as usize] = byte;
                        }
                    }
                    playback.advance(ms(at));
                }
                4 if n < 40 => {
                    let mut cut = Vec::new();
                    while let Some(settled) = playback.take_cut() {
                        cut.push(settled);
                    }
                    for settled in cut {
                        let id = settled.item_id.unwrap();
                        let n: usize = id.as_str()[1..].parse().unwrap();
                        prop_assert_eq!(settled.heard.0, heard[n] / 8);
                        prop_assert_eq!(settled.total.0, sizes[n] / 8);
                        prop_assert_eq!(settled.whole, heard[n] == sizes[n]);
                    }
                    queue.clear();
                    unsent.clear();
                    item += 1;
                    heard.push(0);
                    sizes.push(0);
                    let id = ItemId::new(&format!("i{item}"));
                    prop_assert!(playback.begin(id, None, 0));
                }
                _ => {}
            }
            let (h, s, q) = playback.offsets();
            prop_assert!(h <= s && s <= q);
            prop_assert_eq!(s - h, queue.len() as u64);
            prop_assert_eq!(q - s, unsent.len() as u64);
        }
    }
}
