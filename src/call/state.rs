//! The phases of a call and the legal moves between them. Core; used by `Call` alone.
//!
//! ```text
//!                 start ok            connected, 101        session.created
//!   Greeting ───────────────▶ Dialing ──────────────▶ Opening ───────────────▶ Configuring
//!      │      Intent::Dial       │                       │     session.update      │
//!      │                         │                       │                         │ session.updated,
//!      │                         │                       │                         │ both formats PCMU
//!      │                         │                       │                         ▼
//!      │                         │                       │                       Ready
//!      │ stop, close, loss,      │ the same, or          │ the same, or error,     │ stop, close, loss,
//!      │ bad start, START_       │ dial failed,          │ model closed,           │ session_expired,
//!      │ DEADLINE, hang-up       │ UPSTREAM_DEADLINE     │ UPSTREAM_DEADLINE       │ model closed, hang-up
//!      ▼                         ▼                       ▼                         ▼
//!   ┌─────────────────────────────────── Ended(EndReason) ───────────────────────────────────┐
//!   │ no message is acted on any more; the legs go through their closing handshakes          │
//!   └─────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Caller audio is held from `Dialing` until `Ready`, and relayed in `Ready` alone. An outage of the model's
//! connection is the one move back, to `Dialing`: from `Ready`, and from what follows it when a try fails
//! (see `upstream`).

use super::fact::EndReason;

/// Where a call is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The carrier is connected; its `start` is awaited.
    Greeting,
    /// The stream is known; the shell connects to the model.
    Dialing,
    /// Connected to the model; `session.created` is awaited.
    Opening,
    /// Our `session.update` is on its way; `session.updated` is awaited.
    Configuring,
    /// Audio flows both ways.
    Ready,
    /// Over, for this one reason.
    Ended(EndReason),
}

impl Phase {
    /// Whether a call may go from this phase to `next`.
    pub fn may_become(self, next: Phase) -> bool {
        use Phase::*;
        matches!(
            (self, next),
            (Greeting, Dialing)
                | (Dialing, Opening)
                | (Opening, Configuring)
                | (Configuring, Ready)
                | (Opening | Configuring | Ready, Dialing)
                | (Greeting | Dialing | Opening | Configuring | Ready, Ended(_))
        )
    }

    /// Whether the call is over.
    pub fn is_ended(self) -> bool {
        matches!(self, Phase::Ended(_))
    }

    /// Whether caller audio is to be kept or relayed: the stream is known and the call lives.
    pub fn has_stream(self) -> bool {
        !matches!(self, Phase::Greeting | Phase::Ended(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_one_way_on_and_an_outage_leads_back_and_the_end_has_none() {
        let all = [
            Phase::Greeting,
            Phase::Dialing,
            Phase::Opening,
            Phase::Configuring,
            Phase::Ready,
            Phase::Ended(EndReason::CallerHungUp),
        ];
        for (i, from) in all.into_iter().enumerate() {
            for (j, to) in all.into_iter().enumerate() {
                let outage = (2..=4).contains(&i) && to == Phase::Dialing;
                let legal = !from.is_ended() && (j == i + 1 || j == all.len() - 1 || outage);
                assert_eq!(from.may_become(to), legal, "{from:?} to {to:?}");
            }
        }
    }
}
