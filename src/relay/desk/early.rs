//! Connections to the model for calls that a webhook has announced: dialled before their streams come, and closed when
//! nobody comes for them.

use super::Desk;
use super::dial::{Cancel, attempts, discard};
use crate::base::id::CallId;
use crate::transport::Established;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a connection that was dialled for an announced call waits for it.
const EARLY_LIFE: Duration = Duration::from_secs(20);
/// Of them at once; calls past it are dialled when they start.
const EARLY_MAX: usize = 256;

/// Connections for calls that a webhook has announced; `None` while they are dialled.
#[derive(Debug, Default)]
pub(super) struct Early {
    calls: RefCell<HashMap<CallId, Option<Established>>>,
    changed: Notify,
}

impl Early {
    /// The announced call's connection, waited for if it is being dialled. `None`: there is none.
    pub(super) async fn take(&self, call_id: CallId, deadline: Instant) -> Option<Established> {
        loop {
            let changed = self.changed.notified();
            if self.calls.borrow().get(&call_id)?.is_some() {
                let early = self.calls.borrow_mut().remove(&call_id).flatten();
                return early.filter(is_open);
            }
            if timeout_at(deadline, changed).await.is_err() {
                self.calls.borrow_mut().remove(&call_id);
                return None;
            }
        }
    }
}

/// Whether the model has not ended the connection while it waited: then a fresh one serves the call better.
fn is_open(connection: &Established) -> bool {
    let mut fds = [PollFd::new(&connection.fd, PollFlags::RDHUP)];
    // An answer that can't be had is no reason to throw a connection away.
    let _ = poll(&mut fds, Some(&Timespec::default()));
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    !fds[0].revents().intersects(gone)
}

/// `ToDesk::Predial`: dials once for a call that is announced, and closes the connection when nobody comes for it.
pub(super) async fn predial(desk: Rc<Desk>, call_id: CallId) {
    {
        let mut calls = desk.early.calls.borrow_mut();
        if calls.len() >= EARLY_MAX || calls.contains_key(&call_id) {
            return;
        }
        calls.insert(call_id, None);
    }
    let outcome = attempts(&desk, call_id, true, &Cancel::default()).await;
    let unclaimed = {
        let mut calls = desk.early.calls.borrow_mut();
        match (calls.get_mut(&call_id), outcome) {
            (Some(place), Ok(upstream)) => {
                *place = Some(upstream);
                None
            }
            // The call is gone, or has given up waiting.
            (None, Ok(upstream)) => Some(upstream),
            (_, Err(_)) => {
                calls.remove(&call_id);
                None
            }
        }
    };
    desk.early.changed.notify_waiters();
    if let Some(upstream) = unclaimed {
        return discard(desk, upstream).await;
    }
    tokio::time::sleep(EARLY_LIFE).await;
    let late = desk.early.calls.borrow_mut().remove(&call_id).flatten();
    if let Some(upstream) = late {
        tracing::info!(call_id = %call_id, "nobody came for an early connection");
        discard(desk, upstream).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_connection_that_ended_while_it_waited_is_told_from_an_open_one() {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let early = Established {
            fd: OwnedFd::from(ours),
            tls: None,
            ciphertext: Vec::new(),
            plaintext: Vec::new(),
            peer: None,
        };
        assert!(is_open(&early));
        drop(theirs);
        assert!(!is_open(&early));
    }
}
