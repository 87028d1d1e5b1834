//! What the workers report: logged as the life of each call, remembered for `/health`, copied to whoever taps.
//!
//! Numbers are masked and words are not logged: a transcript is the caller's.

use super::after_stream::AfterStream;
use crate::base::id::CallId;
use crate::bus::report::{ReportInbox, ReportSender};
use crate::call::{Fact, Report};
use crate::telemetry::log::{brief, mask_number};
use crate::telemetry::meter::rate_limit;
use crate::telemetry::name::side;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Parameters of our own TwiML that hold a phone number.
const NUMBERS: [&str; 2] = ["from", "to"];

/// Parameters that hold a secret.
const SECRETS: [&str; 2] = ["ticket", "token"];
/// Live calls that are remembered; reports can be lost under load, so an end may not be seen.
const LIVE_MAX: usize = 16 * 1024;
/// Of each call, parameters and characters of one's name or value.
const PARAMETERS_MAX: usize = 16;
const PARAMETER_CHARS_MAX: usize = 64;

/// What is remembered of calls: the live ones, the last that ended, and what is to follow their streams.
#[derive(Debug, Default)]
pub struct Calls {
    /// For the carrier, which asks when a stream is over.
    pub after: AfterStream,
    live: Mutex<BTreeMap<String, LiveCall>>,
    ended: AtomicU64,
    last: Mutex<Option<LastEnded>>,
}

/// A live call, as far as it has told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveCall {
    /// What its path does with it.
    pub mode: &'static str,
    /// When it came, milliseconds since 1970.
    pub since_unix_ms: u64,
    /// From `start`.
    pub stream_sid: String,
    /// From `start`.
    pub call_sid: String,
    /// From `start`: cut short, without secrets, numbers masked.
    pub parameters: Vec<(String, String)>,
}

/// The call that ended last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEnded {
    /// Whose end.
    pub call_id: CallId,
    /// Its metric label.
    pub reason: &'static str,
    /// When, milliseconds since 1970.
    pub at_unix_ms: u64,
}

impl Calls {
    /// Calls that ended since the start.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// The last of them.
    pub fn last_ended(&self) -> Option<LastEnded> {
        *self
            .last
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The first `max` live calls by id.
    pub fn live(&self, max: usize) -> Vec<(String, LiveCall)> {
        let live = self.lock_live();
        let first = live.iter().take(max);
        first.map(|(id, call)| (id.clone(), call.clone())).collect()
    }

    fn lock_live(&self) -> MutexGuard<'_, BTreeMap<String, LiveCall>> {
        self.live
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn note_live(&self, report: &Report) {
        let id = report.call_id.as_str();
        let mut live = self.lock_live();
        match &report.fact {
            Fact::Admitted { mode } if live.len() < LIVE_MAX => {
                let call = LiveCall {
                    mode: mode.label(),
                    since_unix_ms: report.at.unix_ms,
                    ..LiveCall::default()
                };
                live.insert(id.to_owned(), call);
            }
            Fact::Started {
                stream_sid,
                call_sid,
                parameters,
            } => {
                if let Some(call) = live.get_mut(id) {
                    call.stream_sid = stream_sid.as_str().to_owned();
                    call.call_sid = call_sid
                        .map(|sid| sid.as_str().to_owned())
                        .unwrap_or_default();
                    call.parameters = shown(parameters);
                }
            }
            Fact::Ended { .. } => {
                live.remove(id);
            }
            _ => {}
        }
    }

    fn note(&self, report: &Report) {
        self.after.note(report);
        self.note_live(report);
        if let Fact::Ended { reason, .. } = &report.fact {
            self.ended.fetch_add(1, Ordering::Relaxed);
            let last = LastEnded {
                call_id: report.call_id,
                reason: reason.label(),
                at_unix_ms: report.at.unix_ms,
            };
            *self
                .last
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(last);
        }
    }
}

/// Parameters as they may be shown and logged.
fn shown(parameters: &[(String, String)]) -> Vec<(String, String)> {
    let short = |text: &str| -> String { text.chars().take(PARAMETER_CHARS_MAX).collect() };
    let open = parameters
        .iter()
        .filter(|(name, _)| !SECRETS.contains(&name.as_str()));
    open.take(PARAMETERS_MAX)
        // A number may stand under any name.
        .map(|(name, value)| (short(name), mask_number(value)))
        .collect()
}

/// Takes reports until all workers are gone. A tap that is full or gone misses reports: it is a view, not a record.
pub async fn drain(mut inbox: ReportInbox, calls: &Calls, tap: Option<ReportSender>) {
    while let Some(report) = inbox.recv().await {
        calls.note(&report);
        log(&report);
        if let Some(tap) = &tap {
            let _ = tap.try_send(report);
        }
    }
}

fn log(report: &Report) {
    let call = report.call_id.as_str();
    match &report.fact {
        Fact::Started {
            stream_sid,
            call_sid,
            parameters,
        } => {
            let number = |name: &str| {
                let (_, value) = parameters.iter().find(|(key, _)| key == name)?;
                Some(mask_number(value))
            };
            let [from, to] = NUMBERS.map(number);
            let call_sid = call_sid.as_ref().map(|sid| sid.as_str());
            let mut others = shown(parameters);
            others.retain(|(name, _)| !NUMBERS.contains(&name.as_str()));
            tracing::info!(call, %stream_sid, call_sid, from, to, parameters = ?others, "call started");
        }
        Fact::Admitted { mode } => {
            tracing::info!(call, mode = mode.label(), "stream with its worker");
        }
        Fact::SessionReady { session_id, .. } => {
            let session_id = &*brief(session_id);
            tracing::info!(call, session_id, "model session ready");
        }
        Fact::Ended { reason, stats } => {
            tracing::info!(
                call,
                reason = reason.label(),
                side = side(reason.side()),
                inbound_frames = stats.inbound_frames,
                outbound_frames = stats.outbound_frames,
                filled_bytes = stats.filled_bytes,
                dropped_messages = stats.drops.iter().sum::<u64>(),
                "call ended"
            );
        }
        Fact::RealtimeError { code, message } => {
            let (code, message) = (&*brief(code), &*brief(message));
            tracing::warn!(call, code, message, "the model reported an error");
        }
        Fact::Reconnecting {
            attempt,
            wait_ms,
            cause,
        } => tracing::warn!(
            call,
            attempt,
            wait_ms,
            cause = &*brief(cause),
            "upstream lost"
        ),
        Fact::Reconnected {
            gap_ms,
            attempts,
            items,
        } => tracing::info!(call, gap_ms, attempts, items, "upstream again"),
        Fact::RolledOver { items } => tracing::info!(call, items, "session rolled over"),
        Fact::ModelUnavailable { action } => {
            let action = action.label();
            tracing::warn!(call, action, "model unavailable");
        }
        Fact::Nudged { stage } => tracing::info!(call, stage, "silence"),
        Fact::Goodbye { reason } => tracing::info!(call, reason = reason.label(), "goodbye"),
        Fact::Turn(turn) => {
            let ms = |time: Option<std::time::Duration>| time.map(|time| time.as_millis() as u64);
            tracing::debug!(
                call,
                created_ms = ms(turn.created),
                first_delta_ms = ms(turn.first_delta),
                first_byte_ms = ms(turn.first_byte),
                first_mark_ms = ms(turn.first_mark),
                "turn"
            );
        }
        Fact::Turns(summary) => {
            let stages = summary.stages().map(|(name, mean, longest)| {
                format!("{name} {}/{}", mean.as_millis(), longest.as_millis())
            });
            let mean_and_longest_ms = stages.collect::<Vec<_>>().join(", ");
            tracing::debug!(
                call,
                turns = summary.turns,
                mean_and_longest_ms,
                "turns of the call"
            );
        }
        // What the model called it is its words; how it went is ours.
        Fact::ToolFinished { outcome, took, .. } => {
            tracing::info!(
                call,
                outcome = outcome.label(),
                ms = took.as_millis() as u64,
                "tool call answered"
            );
        }
        Fact::RateLimit {
            name,
            remaining,
            reset_ms,
        } => {
            rate_limit(name, *remaining);
            if *remaining == 0 {
                tracing::warn!(
                    call,
                    limit = name,
                    reset_ms,
                    "the model's account has nothing left"
                );
            }
        }
        Fact::Note { text } => tracing::warn!(call, note = &*brief(text), "call note"),
        Fact::ResponseDone {
            response_id,
            status,
            detail,
            ..
        } => {
            let (status, detail) = (&*brief(status), detail.as_deref().map(brief));
            tracing::debug!(call, %response_id, status, detail = detail.as_deref(), "response done");
        }
        Fact::ResponseCreated { response_id } => {
            tracing::debug!(call, %response_id, "response created");
        }
        Fact::FirstAudio { response_id } => {
            tracing::debug!(call, %response_id, "first audio towards the caller");
        }
        Fact::SpeechStarted { audio_start_ms, .. } => {
            tracing::debug!(call, audio_start_ms, "caller speaks");
        }
        Fact::SpeechStopped { audio_end_ms, .. } => {
            tracing::debug!(call, audio_end_ms, "caller stopped speaking");
        }
        Fact::Transcript {
            speaker,
            item_id,
            text,
            ..
        } => {
            let characters = text.chars().count();
            tracing::debug!(call, ?speaker, %item_id, characters, "transcript");
        }
        Fact::Heard {
            item_id,
            heard_ms,
            total_ms,
            ..
        } => {
            tracing::debug!(call, %item_id, heard_ms, total_ms, "item heard");
        }
        Fact::BargeIn { unplayed_ms, items } => {
            tracing::debug!(call, unplayed_ms, items, "caller interrupted");
        }
        Fact::Cut {
            item_id,
            audio_end_ms,
        } => {
            tracing::debug!(call, %item_id, audio_end_ms, "item cut");
        }
        // A digit may belong to a PIN; deltas and marks are many and say nothing that their wholes do not.
        Fact::Dtmf { .. } => tracing::debug!(call, "key pressed"),
        Fact::NoteTaken { .. } => tracing::debug!(call, "note taken"),
        Fact::TranscriptDelta { .. } | Fact::MarkReturned { .. } | Fact::Item { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::ItemId;
    use crate::base::route::StreamMode;
    use crate::base::time::Now;
    use crate::bus::report::report_queue;
    use crate::call::{EndReason, Speaker, Stats};

    fn report(fact: Fact) -> Report {
        let at = Now {
            unix_ms: 5,
            ..Now::default()
        };
        Report {
            call_id: CallId::new("c1").expect("fits"),
            at,
            fact,
        }
    }

    fn ended() -> Report {
        report(Fact::Ended {
            reason: EndReason::CallerHungUp,
            stats: Box::new(Stats::default()),
        })
    }

    #[tokio::test]
    async fn ends_are_remembered_and_the_tap_gets_every_report() {
        let (sender, inbox) = report_queue(8);
        let (tap, mut tapped) = report_queue(8);
        let dtmf = report(Fact::Dtmf { digit: '1' });
        sender.send(dtmf.clone()).await.expect("room");
        sender.send(ended()).await.expect("room");
        drop(sender);
        let calls = Calls::default();
        drain(inbox, &calls, Some(tap)).await;
        assert_eq!(calls.ended(), 1);
        let last = calls.last_ended().expect("one ended");
        assert_eq!((last.reason, last.at_unix_ms), ("caller_hung_up", 5));
        assert_eq!(tapped.recv().await, Some(dtmf));
        assert_eq!(tapped.recv().await, Some(ended()));
        assert_eq!(tapped.recv().await, None);
    }

    #[tokio::test]
    async fn live_calls_are_listed_with_their_mode_and_what_start_said() {
        let calls = Calls::default();
        calls.note(&report(Fact::Admitted {
            mode: StreamMode::Simple,
        }));
        assert_eq!(calls.live(9)[0].1.mode, "simple");
        calls.note(&report(Fact::Started {
            stream_sid: crate::base::id::StreamSid::new("MZ1").expect("fits"),
            call_sid: crate::base::id::CallSid::new("CA1"),
            parameters: vec![
                ("ticket".into(), "secret".into()),
                ("campaign".into(), "spring".into()),
                ("from".into(), "+14155550100".into()),
            ],
        }));
        let (id, call) = calls.live(9).remove(0);
        assert_eq!((id.as_str(), call.call_sid.as_str()), ("c1", "CA1"));
        let parameters: Vec<_> = call
            .parameters
            .iter()
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(parameters, ["spring", "+1415*****00"]);
        calls.note(&ended());
        assert!(calls.live(9).is_empty());
    }

    #[tokio::test]
    async fn a_full_tap_holds_nobody_up() {
        let (sender, inbox) = report_queue(8);
        let (tap, mut tapped) = report_queue(1);
        for _ in 0..3 {
            sender.send(ended()).await.expect("room");
        }
        drop(sender);
        let calls = Calls::default();
        drain(inbox, &calls, Some(tap)).await;
        assert_eq!(calls.ended(), 3);
        assert!(tapped.recv().await.is_some());
        assert!(tapped.recv().await.is_none());
    }

    /// What these facts look like in the log, at every level.
    fn logged(facts: impl IntoIterator<Item = Fact>) -> String {
        use std::sync::{Arc, Mutex};
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().expect("no panic under it").extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            for fact in facts {
                log(&report(fact));
            }
        });
        let text = lines.0.lock().expect("no panic under it").clone();
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn no_peer_s_text_makes_a_long_line_or_a_second_one() {
        let long = || "x\n".repeat(1_500_000);
        let text = logged([
            Fact::SessionReady {
                session_id: long(),
                session_update: String::new(),
            },
            Fact::RealtimeError {
                code: long(),
                message: long(),
            },
            Fact::Note { text: long() },
            Fact::ResponseDone {
                response_id: crate::base::id::ResponseId::new("r").expect("fits"),
                status: long(),
                detail: Some(long()),
                usage: None,
            },
        ]);
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.len() < 2_000));
    }

    #[test]
    fn words_and_numbers_are_not_logged_at_any_level() {
        let item_id = ItemId::new("item").expect("fits");
        let facts = [
            Fact::Started {
                stream_sid: crate::base::id::StreamSid::new("MZ1").expect("fits"),
                call_sid: None,
                parameters: vec![
                    ("from".into(), "+14155550100".into()),
                    ("ticket".into(), "secret-ticket".into()),
                ],
            },
            Fact::Transcript {
                speaker: Speaker::User,
                item_id,
                text: "secret words".into(),
                confidence: None,
            },
            Fact::TranscriptDelta {
                speaker: Speaker::User,
                item_id,
                text: "secret delta".into(),
            },
            Fact::Dtmf { digit: '7' },
        ];
        let text = logged(facts);
        assert!(
            text.contains("call started") && text.contains("+1415*****00"),
            "{text}"
        );
        assert!(
            !text.contains("secret") && !text.contains("5550100"),
            "{text}"
        );
        assert!(
            !text.contains('7'.to_string().as_str()) || !text.contains("digit"),
            "{text}"
        );
    }
}
