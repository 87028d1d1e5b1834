//! What both ends of one call know together: which frames went where, what was interrupted, what was heard. Pure.
//!
//! Both simulators live on one thread with one clock, so each can be held against the other while the call runs.

use super::check::{Fault, Kind, Track};
use super::stamp::Way;
use super::tally::Tally;

/// One block plays this long, ns.
pub const BLOCK_NANOS: u64 = 20_000_000;
/// What must be left to hear for a barge-in to need a `clear`: less may be heard before it gets through.
const UNHEARD_MIN: u64 = 300_000_000;

/// A caller that spoke over an answer.
#[derive(Clone, Debug)]
struct Interruption {
    /// When the model said so.
    at: u64,
    /// The answer's frames: from, to.
    blocks: (u32, u32),
    /// How much of it the caller had still to hear, ns, at most.
    unheard: u64,
    /// The answer's item.
    item: String,
    /// What the carrier had heard of it when `clear` came, ms.
    heard_ms: Option<u64>,
    /// What the relay told the model.
    told_ms: Option<u64>,
}

/// The two ends of one call.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Serial number of the call.
    pub call: u32,
    /// Carrier to model.
    pub up: Track,
    /// Model to carrier.
    pub down: Track,
    /// Frames that the carrier sent.
    pub up_sent: u32,
    /// Frames that the model sent.
    pub down_sent: u32,
    /// The model's session that its frames come to.
    pub session: Option<u64>,
    /// Until when what the carrier has will play.
    pub playing_until: u64,
    open: Option<Interruption>,
}

impl Ledger {
    /// A new call's.
    pub fn new(call: u32) -> Self {
        Self {
            call,
            ..Self::default()
        }
    }

    /// A frame arrived at its end.
    pub fn take(&mut self, way: Way, seq: u32, tally: &mut Tally) {
        let track = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        if let Some(kind) = track.take(seq) {
            tally.frame_fault(kind, self.call, way, seq, "");
        }
    }

    /// A block of audio is queued at the carrier.
    pub fn queue(&mut self, now: u64) {
        self.playing_until = self.playing_until.max(now) + BLOCK_NANOS;
    }

    /// What the carrier has still to play, ns.
    pub fn playing(&self, now: u64) -> u64 {
        self.playing_until.saturating_sub(now)
    }

    /// What is still to be heard of everything that the model sent, ns.
    pub fn unheard(&self, now: u64) -> u64 {
        let under_way = u64::from(self.down_sent.saturating_sub(self.down.next()));
        self.playing(now) + under_way * BLOCK_NANOS
    }

    /// The model reported that the caller speaks, over (or after) the answer of these frames.
    pub fn interrupt(&mut self, now: u64, blocks: (u32, u32), item: &str, tally: &mut Tally) {
        let unheard = self.unheard(now);
        if unheard == 0 || blocks.0 == blocks.1 {
            return;
        }
        self.settle(tally);
        tally.barge_ins += 1;
        self.down.cut(blocks.0, blocks.1);
        self.open = Some(Interruption {
            at: now,
            blocks,
            unheard,
            item: item.into(),
            heard_ms: None,
            told_ms: None,
        });
    }

    /// The carrier was told to forget what it has not played.
    pub fn clear(&mut self, now: u64, tally: &mut Tally) {
        tally.clears += 1;
        let left = self.playing(now);
        self.playing_until = self.playing_until.min(now);
        let next = self.down.next();
        match &mut self.open {
            Some(open) if open.heard_ms.is_none() => {
                let came = u64::from(next.saturating_sub(open.blocks.0)) * BLOCK_NANOS;
                open.heard_ms = Some(came.saturating_sub(left) / 1_000_000);
                tally.clear.record(now.saturating_sub(open.at));
                self.down.clear();
            }
            _ => tally.call_fault(Kind::StrangeClear, self.call, "nobody had interrupted"),
        }
    }

    /// The relay told the model how much was heard.
    pub fn truncate(&mut self, item: &str, heard_ms: u64, tally: &mut Tally) {
        tally.truncates += 1;
        match &mut self.open {
            Some(open) if open.item == item && open.told_ms.is_none() => {
                let sent_ms = u64::from(open.blocks.1 - open.blocks.0) * 20;
                if heard_ms > sent_ms {
                    let detail = format!("audio_end_ms {heard_ms} of an item with {sent_ms} ms");
                    tally.call_fault(Kind::Truncation, self.call, detail);
                }
                open.told_ms = Some(heard_ms);
            }
            // The event and the `clear` travel on two connections, and the next turn may already have begun.
            _ => tally.call_fault(
                Kind::Truncation,
                self.call,
                format!("of {item}, which nobody had interrupted"),
            ),
        }
    }

    /// Judges the last interruption: before the next one, and at the call's end.
    pub fn settle(&mut self, tally: &mut Tally) {
        let Some(open) = self.open.take() else {
            return;
        };
        if let (Some(heard), Some(told)) = (open.heard_ms, open.told_ms) {
            tally.truncation.record(heard.abs_diff(told) * 1_000_000);
        }
        if open.unheard < UNHEARD_MIN {
            return;
        }
        let unheard = open.unheard / 1_000_000;
        if open.heard_ms.is_none() {
            let detail = format!("with {unheard} ms unheard");
            tally.call_fault(Kind::NoClear, self.call, detail);
        }
        if open.told_ms.is_none() {
            let detail = format!("none for {}, {unheard} ms unheard", open.item);
            tally.call_fault(Kind::Truncation, self.call, detail);
        }
    }

    /// Whether everything that was sent has arrived, both ways, and an interruption has had its consequences.
    pub fn is_complete(&self) -> bool {
        let is_settled = self.open.as_ref().is_none_or(|open| {
            open.unheard < UNHEARD_MIN || (open.heard_ms.is_some() && open.told_ms.is_some())
        });
        is_settled && self.up.is_complete(self.up_sent) && self.down.is_complete(self.down_sent)
    }

    /// The call is over: what never arrived was lost.
    pub fn finish(&mut self, tally: &mut Tally) {
        self.settle(tally);
        for (way, lost) in [
            (Way::Up, self.up.lost(self.up_sent)),
            (Way::Down, self.down.lost(self.down_sent)),
        ] {
            for (from, to) in lost {
                tally.faults.push(Fault {
                    kind: Kind::Lost,
                    call: self.call,
                    way: Some(way),
                    frame: Some((from, to - from - 1)),
                    detail: String::new(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The model sent fifty blocks and the carrier has forty of them when the caller speaks.
    fn spoken_over() -> (Ledger, Tally) {
        let (mut ledger, mut tally) = (Ledger::new(4), Tally::default());
        ledger.down_sent = 50;
        for seq in 0..40 {
            ledger.take(Way::Down, seq, &mut tally);
            ledger.queue(0);
        }
        ledger.interrupt(100 * MS, (0, 50), "item_1", &mut tally);
        (ledger, tally)
    }

    #[test]
    fn a_barge_in_with_clear_and_truncate_is_in_order() {
        let (mut ledger, mut tally) = spoken_over();
        ledger.clear(101 * MS, &mut tally);
        ledger.truncate("item_1", 104, &mut tally);
        ledger.finish(&mut tally);
        assert_eq!(tally.faults.total(), 0, "{:?}", tally.faults.kept());
        assert_eq!((tally.barge_ins, tally.clears, tally.truncates), (1, 1, 1));
        assert_eq!(tally.truncation.quantiles().max.as_millis(), 3);
        assert_eq!(tally.clear.quantiles().max.as_millis(), 1);
    }

    #[test]
    fn a_barge_in_that_nobody_obeys_is_named() {
        let (mut ledger, mut tally) = spoken_over();
        ledger.finish(&mut tally);
        assert_eq!(tally.faults.count(Kind::NoClear), 1);
        assert_eq!(tally.faults.count(Kind::Truncation), 1);
    }

    #[test]
    fn audio_after_its_clear_is_named() {
        let (mut ledger, mut tally) = spoken_over();
        ledger.clear(101 * MS, &mut tally);
        ledger.take(Way::Down, 40, &mut tally);
        assert_eq!(tally.faults.count(Kind::AfterClear), 1);
        assert!(tally.faults.kept()[0].to_string().contains("call 4"));
    }

    #[test]
    fn a_clear_of_nothing_and_a_truncate_beyond_the_end_are_named() {
        let (mut ledger, mut tally) = (Ledger::new(1), Tally::default());
        ledger.clear(5, &mut tally);
        assert_eq!(tally.faults.count(Kind::StrangeClear), 1);
        let (mut ledger, mut tally) = spoken_over();
        ledger.truncate("item_1", 1001, &mut tally);
        ledger.truncate("item_9", 1, &mut tally);
        assert_eq!(tally.faults.count(Kind::Truncation), 2);
    }

    #[test]
    fn speech_after_everything_was_heard_is_no_barge_in() {
        let (mut ledger, mut tally) = (Ledger::new(1), Tally::default());
        ledger.down_sent = 1;
        ledger.take(Way::Down, 0, &mut tally);
        ledger.queue(0);
        ledger.interrupt(BLOCK_NANOS, (0, 1), "item_1", &mut tally);
        ledger.finish(&mut tally);
        assert_eq!((tally.barge_ins, tally.faults.total()), (0, 0));
    }
}
