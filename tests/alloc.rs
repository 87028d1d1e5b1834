//! A minute of a call through a whole `Session`, with a counting allocator: once the call is set up and warm, nothing
//! that is relayed, marked, filled or kept alive allocates, and what a call holds stays within its budget.
//!
//! The test plays the carrier (20 ms frames, a lost one now and then, marks returned, pongs) and the model (answers in
//! deltas of 250 ms, faster than real time, turns). Only calls into the session are counted. TLS is not in it, and
//! transcripts are not: they are reported as facts, which may allocate.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use voxrelay::base::id::CallId;
use voxrelay::base::time::{Mono, Now};
use voxrelay::call::session::{Intent, Session, Setup};
use voxrelay::call::{Fact, Leg};
use voxrelay::proto::realtime::settings::Settings;
use voxrelay::proto::ws::writer::{Kind, write_frame};

struct Counting;

thread_local! {
    /// Allocations of this thread. `const` and without a destructor, so that the allocator may touch it at any time.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// Bytes allocated less bytes freed.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// What a call may hold between frames: goal for all of the core's part, both outboxes and decoders included.
const CALL_BYTES_MAX: i64 = 24 * 1024;

fn count(allocated: usize, freed: usize) {
    ALLOCATIONS.with(|n| n.set(n.get() + u64::from(allocated > 0)));
    HELD.with(|n| n.set(n.get() + allocated as i64 - freed as i64));
}

#[allow(unsafe_code)] // an allocator is unsafe by its trait
// SAFETY: every call goes to `System` unchanged; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are `System`'s demands.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SID: &str = "MZ0a9b8c7d6e5f43210123456789abcdef";

/// The session, with what its calls have allocated.
struct Bench {
    session: Session,
    ms: u64,
    allocated: u64,
    held: i64,
    sent: [u64; 2],
    /// Marks that the carrier has to return.
    marks: Vec<String>,
    ended: bool,
}

impl Bench {
    fn now(&self) -> Now {
        Now {
            mono: Mono(0) + Duration::from_millis(self.ms),
            unix_ms: self.ms,
        }
    }

    fn counted<T>(&mut self, f: impl FnOnce(&mut Session, Now) -> T) -> T {
        let now = self.now();
        let (before, held) = (ALLOCATIONS.with(Cell::get), HELD.with(Cell::get));
        let result = f(&mut self.session, now);
        self.allocated += ALLOCATIONS.with(Cell::get) - before;
        self.held += HELD.with(Cell::get) - held;
        result
    }

    fn frame(&mut self, leg: Leg, kind: Kind, text: &str) {
        let mask = (leg == Leg::Carrier).then_some([9, 8, 7, 6]);
        let mut bytes = Vec::new();
        write_frame(&mut bytes, kind, mask, &[text.as_bytes()]);
        let used = self.counted(|session, now| session.handle_input(leg, &mut bytes, now));
        assert_eq!(used, bytes.len());
        self.turn();
    }

    fn turn(&mut self) {
        while let Some(intent) = self.counted(|session, _| session.poll_intent()) {
            if intent == Intent::Dial {
                self.counted(|session, now| session.handle_upstream(Ok(()), now));
            }
        }
        for leg in [Leg::Realtime, Leg::Carrier] {
            loop {
                let before = ALLOCATIONS.with(Cell::get);
                let bytes = self.session.poll_transmit(leg, 16 * 1024);
                self.allocated += ALLOCATIONS.with(Cell::get) - before;
                let len = bytes.len();
                if len == 0 {
                    break;
                }
                if leg == Leg::Carrier {
                    let text = String::from_utf8_lossy(bytes);
                    for part in text.split(r#""mark":{"name":""#).skip(1) {
                        self.marks.push(part.split('"').next().unwrap().to_owned());
                    }
                }
                self.sent[leg as usize] += len as u64;
                self.counted(|session, now| session.handle_taken(leg, len, now));
                self.counted(|session, now| session.handle_sent(leg, now));
            }
        }
        while let Some(fact) = self.counted(|session, _| session.poll_fact()) {
            self.ended |= matches!(fact, Fact::Ended { .. });
        }
    }

    /// One 20 ms step of the call.
    fn step(&mut self, n: u64) {
        self.ms += 20;
        if self
            .counted(|session, _| session.poll_timeout())
            .is_some_and(|due| due <= self.now().mono)
        {
            self.counted(|session, now| session.handle_timeout(now));
            self.turn();
            // Both peers answer what may have been a ping.
            self.frame(Leg::Carrier, Kind::Pong, "");
            self.frame(Leg::Realtime, Kind::Pong, "");
        }
        // One frame in 500 is lost: its place is filled.
        if n % 500 != 499 {
            let stamp = 61 + n * 20;
            let payload = "fn5/".repeat(53) + "fg==";
            self.frame(
                Leg::Carrier,
                Kind::Text,
                &format!(
                    r#"{{"event":"media","sequenceNumber":"{}","media":{{"track":"inbound","chunk":"{}","timestamp":"{stamp}","payload":"{payload}"}},"streamSid":"{SID}"}}"#,
                    n + 2,
                    n + 1
                ),
            );
        }
        // A turn every 10 s: the caller speaks for 2 s, then 6 s of answer come in 2 s.
        let item = n / 500;
        match n % 500 {
            0 => self.frame(
                Leg::Realtime,
                Kind::Text,
                r#"{"type":"input_audio_buffer.speech_started","event_id":"e","audio_start_ms":120,"item_id":"item_u"}"#,
            ),
            100 => self.frame(
                Leg::Realtime,
                Kind::Text,
                r#"{"type":"input_audio_buffer.speech_stopped","event_id":"e","audio_end_ms":920,"item_id":"item_u"}"#,
            ),
            step @ 110..206 if step % 4 == 2 => {
                let delta = "fn5/".repeat(666) + "fn4=";
                self.frame(
                    Leg::Realtime,
                    Kind::Text,
                    &format!(
                        r#"{{"type":"response.output_audio.delta","event_id":"event_{n}","response_id":"resp_{item}","item_id":"item_{item}","output_index":0,"content_index":0,"delta":"{delta}"}}"#
                    ),
                );
            }
            210 => self.frame(
                Leg::Realtime,
                Kind::Text,
                &format!(
                    r#"{{"type":"response.output_audio.done","event_id":"e","response_id":"resp_{item}","item_id":"item_{item}","output_index":0,"content_index":0}}"#
                ),
            ),
            step if step % 12 == 0 && !self.marks.is_empty() => {
                let name = self.marks.remove(0);
                self.frame(
                    Leg::Carrier,
                    Kind::Text,
                    &format!(
                        r#"{{"event":"mark","sequenceNumber":"1","streamSid":"{SID}","mark":{{"name":"{name}"}}}}"#
                    ),
                );
            }
            _ => {}
        }
    }
}

#[test]
fn a_minute_of_a_call_allocates_nothing() {
    let mut bench = Bench {
        session: Session::new(
            Setup {
                call_id: CallId::new("call").unwrap(),
                settings: Arc::new(Settings::default()),
                policy: Arc::default(),
                expected_call_sid: None,
                mode: voxrelay::base::route::StreamMode::Full,
                seed: [3; 32],
            },
            Now::default(),
        ),
        ms: 0,
        allocated: 0,
        held: 0,
        sent: [0; 2],
        marks: Vec::new(),
        ended: false,
    };
    bench.frame(
        Leg::Carrier,
        Kind::Text,
        &format!(r#"{{"event":"start","start":{{"callSid":"CA1"}},"streamSid":"{SID}"}}"#),
    );
    bench.frame(
        Leg::Realtime,
        Kind::Text,
        r#"{"type":"session.created","session":{"id":"sess_1"}}"#,
    );
    bench.frame(
        Leg::Realtime,
        Kind::Text,
        r#"{"type":"session.updated","session":{"audio":{"input":{"format":{"type":"audio/pcmu"}},"output":{"format":{"type":"audio/pcmu"}}}}}"#,
    );
    assert!(bench.allocated > 0, "the counter counts");

    // Warm up with one whole turn and the first gap, which is filled at step 500.
    for n in 0..501 {
        bench.step(n);
    }
    let (before, sent) = (bench.allocated, bench.sent);
    for n in 501..501 + 3_000 {
        bench.step(n);
    }
    assert_eq!(bench.allocated - before, 0, "allocations in a minute");

    let size = std::mem::size_of::<Session>() as i64;
    println!(
        "a call holds {size} bytes itself and about {} on the heap",
        bench.held
    );
    assert!(
        size + bench.held <= CALL_BYTES_MAX,
        "{size} + {}",
        bench.held
    );

    // It was a call: both directions carried audio, gaps were filled, marks came back, and it is still alive.
    assert!(!bench.ended);
    let stats = bench.session.stats();
    assert_eq!(stats.inbound_frames_sent, 3_501 - 7);
    assert_eq!(stats.fills, 7);
    assert_eq!(stats.outbound_frames_sent, 7 * 24);
    assert_eq!(stats.marks_returned, stats.marks_sent);
    assert_eq!(
        stats.inbound_bytes_dropped + stats.outbound_bytes_dropped,
        0
    );
    assert!(bench.sent[0] > sent[0] + 400_000 && bench.sent[1] > sent[1] + 700_000);
}

/// A worker's blocks: a full one comes back empty, as it does from the ring when its write is done.
struct Pool {
    blocks: Vec<Vec<u8>>,
    written: usize,
}

impl voxrelay::call::track::Blocks for Pool {
    fn exchange(
        &mut self,
        _side: voxrelay::call::track::Side,
        mut full: Vec<u8>,
    ) -> Option<Vec<u8>> {
        self.written += full.len();
        full.clear();
        self.blocks.push(full);
        // The one that was given longest ago.
        (self.blocks.len() > 1).then(|| self.blocks.remove(0))
    }
}

/// A minute of a recording: the caller's frames, answers faster than real time, interruptions. Each frame is decoded into
/// its block and allocates nothing.
#[test]
fn a_recording_does_not_allocate() {
    use voxrelay::call::track::{BLOCK_BYTES, Recorder};
    let block = || Vec::with_capacity(BLOCK_BYTES);
    let mut pool = Pool {
        blocks: Vec::with_capacity(8),
        written: 0,
    };
    pool.blocks.extend([block(), block()]);
    let at = |ms: u64| Mono(ms * 1_000_000);
    let mut recorder = Recorder::new(at(0), block(), block());
    let frame = "f".repeat(216); // 162 bytes in groups without padding
    let delta = "d".repeat(2_668);
    let mut line = 0;
    let before = ALLOCATIONS.with(Cell::get);
    for n in 0..3_000u64 {
        let now = at(n * 20);
        recorder.caller(Some(n * 20), frame.as_bytes(), now, &mut pool);
        if n % 250 < 40 {
            recorder.agent(line, delta.as_bytes(), now, &mut pool);
            line += 2_001;
        }
        if n % 500 == 120 {
            recorder.cut(line - 8_000, now, &mut pool);
        }
        recorder.flush(now, &mut pool);
    }
    let (length, counts) = recorder.finish(at(60_000), &mut pool);
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert_eq!((counts.lost_bytes, counts.cuts), (0, 6));
    assert!(length >= 480_000 && pool.written > 480_000);
}
