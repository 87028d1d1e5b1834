//! Connections to the model for calls that a webhook has announced: dialled before their streams come, and handed to
//! the worker where the call will be. There each waits (`relay::worker`), as long as its call's ticket is good.
//!
//! ```text
//!   Predial ─▶ dialling ─┬─ 101 ─▶ handed to the reserved worker ─▶ IdleOver: adopted, expired, lost, …
//!                        ├─ failed: forgotten, the call dials for itself
//!                        └─ its call asks (`Dial`) first ─▶ the outcome is that dial's, or time is up
//! ```
//!
//! When a call asks whose connection has been handed on, both are on their way to each other: the worker gives it the
//! connection when it arrives, and the desk does not answer. The queues keep their order, so a connection that ended
//! before the call asked has been reported here before.

use super::Desk;
use super::dial::{Cancel, attempts, discard};
use crate::base::id::{CallId, WorkerId};
use crate::base::limit::{CONNECT_DEADLINE, TICKET_LIFE};
use crate::bus::command::ToWorker;
use crate::transport::Established;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What is known of one announced call's connection.
#[derive(Debug)]
enum State {
    Dialling {
        cancel: Rc<Cancel>,
        /// The call that has asked meanwhile.
        claim: Option<oneshot::Sender<Option<Established>>>,
    },
    Handed(WorkerId),
}

/// Connections for calls that a webhook has announced.
#[derive(Debug, Default)]
pub(super) struct Early(RefCell<HashMap<CallId, State>>);

/// What there is for a call that asks.
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing: dial.
    Nothing,
    /// The connection.
    Here(Established),
    /// Its worker has the connection, or will find it before whatever the desk says now.
    OnItsWay,
}

/// Whether the announced call's connection is with its worker, or on its way there.
pub(super) fn is_handed(desk: &Desk, call_id: CallId) -> bool {
    matches!(desk.early.0.borrow().get(&call_id), Some(State::Handed(_)))
}

/// The announced call's connection, waited for a while if it is being dialled, and for ever forgotten after.
pub(super) async fn take(desk: &Rc<Desk>, call_id: CallId, cancel: &Cancel) -> Taken {
    let mut outcome = match desk.early.0.borrow_mut().get_mut(&call_id) {
        None => return Taken::Nothing,
        Some(State::Handed(_)) => return Taken::OnItsWay,
        Some(State::Dialling { claim, .. }) => {
            let (sender, receiver) = oneshot::channel();
            *claim = Some(sender);
            receiver
        }
    };
    let deadline = Instant::now() + CONNECT_DEADLINE;
    tokio::select! {
        early = &mut outcome => {
            return early.ok().flatten().map_or(Taken::Nothing, Taken::Here);
        }
        () = tokio::time::sleep_until(deadline) => {}
        () = cancel.ordered() => {}
    }
    forget(desk, call_id);
    outcome.close();
    if let Ok(Some(upstream)) = outcome.try_recv() {
        // It came in the same moment.
        super::spawn(discard(desk.clone(), upstream));
    }
    Taken::Nothing
}

/// The call is over, or provided for: what is dialled or kept for it is closed.
pub(super) fn forget(desk: &Desk, call_id: CallId) {
    let state = desk.early.0.borrow_mut().remove(&call_id);
    desk.admission.borrow_mut().unreserve(call_id);
    match state {
        Some(State::Dialling { cancel, .. }) => cancel.give(),
        Some(State::Handed(worker)) => {
            let call_id = Some(call_id);
            drop_idle(desk, worker, ToWorker::DropIdle { call_id });
        }
        None => {}
    }
}

/// `ToDesk::IdleOver` of an announced call's connection.
pub(super) fn on_over(desk: &Desk, call_id: CallId) {
    let mut calls = desk.early.0.borrow_mut();
    if matches!(calls.get(&call_id), Some(State::Handed(_))) {
        calls.remove(&call_id);
        desk.admission.borrow_mut().unreserve(call_id);
    }
}

/// `ToDesk::Drain`: no announced call will be admitted any more. A dial that an admitted one waits for goes on.
pub(super) fn drain(desk: &Desk) {
    desk.early.0.borrow_mut().retain(|call_id, state| {
        if let State::Dialling { cancel, claim } = state {
            if claim.is_some() {
                return true;
            }
            cancel.give();
        }
        desk.admission.borrow_mut().unreserve(*call_id);
        false
    });
    for worker in 0..desk.workers.len() {
        let call_id = None;
        drop_idle(
            desk,
            WorkerId(worker as u16),
            ToWorker::DropIdle { call_id },
        );
    }
}

fn drop_idle(desk: &Desk, worker: WorkerId, order: ToWorker) {
    let sender = desk.workers.get(usize::from(worker.0));
    if sender.is_some_and(|sender| sender.send(order).is_err()) {
        // Its own life ends it.
        desk.meter.queue_full("worker");
    }
}

/// `ToDesk::Predial`: dials once for a call that is announced, and hands the connection to the worker where the call
/// will be.
pub(super) async fn predial(desk: Rc<Desk>, call_id: CallId) {
    let cancel = Rc::new(Cancel::default());
    let worker = {
        let mut calls = desk.early.0.borrow_mut();
        let mut admission = desk.admission_now();
        // More than there may be calls would be for nobody.
        if calls.len() >= desk.config.relay.calls_max
            || calls.contains_key(&call_id)
            || admission.is_draining()
        {
            return;
        }
        let state = State::Dialling {
            cancel: cancel.clone(),
            claim: None,
        };
        calls.insert(call_id, state);
        admission.reserve(call_id)
    };
    let outcome = attempts(&desk, call_id, true, &cancel).await.ok();
    let state = desk.early.0.borrow_mut().remove(&call_id);
    let unwanted = match (outcome, state) {
        // Forgotten too late to keep it from connecting.
        (outcome, None) => outcome,
        (
            outcome,
            Some(State::Dialling {
                claim: Some(claim), ..
            }),
        ) => {
            desk.admission.borrow_mut().unreserve(call_id);
            claim.send(outcome).err().flatten()
        }
        (Some(upstream), Some(_)) => match hand_on(&desk, worker, call_id, upstream) {
            None => {
                let mut calls = desk.early.0.borrow_mut();
                calls.insert(call_id, State::Handed(worker));
                None
            }
            refused => {
                desk.admission.borrow_mut().unreserve(call_id);
                refused
            }
        },
        (None, Some(_)) => {
            desk.admission.borrow_mut().unreserve(call_id);
            None
        }
    };
    if let Some(upstream) = unwanted {
        discard(desk, upstream).await;
    }
}

/// Gives the connection back when the worker takes no orders.
fn hand_on(
    desk: &Desk,
    worker: WorkerId,
    call_id: CallId,
    upstream: Established,
) -> Option<Established> {
    let order = ToWorker::Idle {
        upstream: Box::new(upstream),
        call_id: Some(call_id),
        endpoint: desk.targets.borrow().endpoint_of(call_id),
        life: TICKET_LIFE,
    };
    super::warm::send_idle(desk, worker, order)
}
