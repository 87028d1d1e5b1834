//! Orders between the desk, the workers and control.
//!
//! To a worker: a bounded queue and an eventfd that its ring watches. Full means the sender is told, and refuses the call.
//! To the desk: a bounded tokio queue, since the desk is async. Full means the same.

use super::load::{Load, LoadCell};
use crate::base::id::{CallId, SlotKey, WorkerId};
use crate::base::time::Now;
use crate::call::fact::Turn;
use crate::call::session::{Command, Setup};
use crate::call::tools::ToolResult;
use crate::call::{DialFailure, Leg};
use crate::transport::Established;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// What a worker can be told.
#[derive(Debug)]
pub enum ToWorker {
    /// A new call: the carrier leg is upgraded.
    Adopt {
        /// The session's settings.
        setup: Box<Setup>,
        /// The carrier leg.
        carrier: Box<Established>,
    },
    /// The answer to `ToDesk::Dial`.
    Upstream {
        /// Which session asked.
        slot: SlotKey,
        /// As which leg.
        leg: Leg,
        /// From the order: an answer to an older one is none.
        dial: u32,
        /// The leg, upgraded; or why not.
        outcome: Result<Box<Established>, DialFailure>,
    },
    /// The answer to a `ToolRequest`.
    ToolResult {
        /// Which session asked.
        slot: SlotKey,
        /// What the model is told.
        result: ToolResult,
    },
    /// A connection to the model for a call that is not here yet: kept alive until a call takes it. Its end, whatever it
    /// is, comes back as `ToDesk::IdleOver`.
    Idle {
        /// Upgraded.
        upstream: Box<Established>,
        /// The announced call that it was dialled for; `None`: for the first that asks.
        call_id: Option<CallId>,
        /// The desk's number of the endpoint: given back with the end.
        endpoint: u16,
        /// Closed when nobody has come so long.
        life: Duration,
    },
    /// The idle connection of this announced call is not wanted any more; `None`: none of them is.
    DropIdle {
        /// Whose.
        call_id: Option<CallId>,
    },
    /// An order for one call; unknown calls are ignored.
    Call {
        /// Whose.
        call_id: CallId,
        /// What.
        command: Command,
    },
    /// An order for every call.
    All {
        /// What.
        command: Command,
    },
    /// Where the time of a call's latest turns went. Asked of every worker, since only it knows its calls.
    Turns {
        /// Whose.
        call_id: CallId,
        /// `None`: no such call lives on this worker.
        answer: tokio::sync::oneshot::Sender<Option<CallTurns>>,
    },
    /// An echo connection of the conformance suite.
    Echo {
        /// Upgraded.
        leg: Box<Established>,
        /// Our side of it.
        role: crate::proto::ws::Role,
        /// Told the number of messages echoed, and the last text, when it is over.
        done: Option<tokio::sync::oneshot::Sender<EchoOutcome>>,
    },
    /// End every call, and the thread once nothing lives any more.
    Stop,
}

/// How a connection's wait for a call ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum IdleEnd {
    /// A call has it.
    Adopted,
    /// Nobody came in time.
    Expired,
    /// The call that it waited for is over, or has another.
    Cancelled,
    /// The model closed it, broke it, or was silent.
    Lost,
    /// The daemon takes no more calls.
    Drained,
}

impl IdleEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [IdleEnd; 5] = [
        IdleEnd::Adopted,
        IdleEnd::Expired,
        IdleEnd::Cancelled,
        IdleEnd::Lost,
        IdleEnd::Drained,
    ];

    /// A bounded metric label.
    pub fn label(self) -> &'static str {
        match self {
            IdleEnd::Adopted => "adopted",
            IdleEnd::Expired => "expired",
            IdleEnd::Cancelled => "cancelled",
            IdleEnd::Lost => "lost",
            IdleEnd::Drained => "drained",
        }
    }
}

/// The latest turns of a live call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallTurns {
    /// When the worker answered, by the clock that the turns were stamped with.
    pub at: Now,
    /// Oldest first, at most `call::trace::TURNS_KEPT`; the newest may still be open.
    pub turns: Vec<Turn>,
}

/// What an echo connection did.
#[derive(Debug, Default)]
pub struct EchoOutcome {
    /// Messages sent back.
    pub messages: u64,
    /// The last text message, at most 64 KiB of it.
    pub last_text: Vec<u8>,
}

/// What the desk can be told.
#[derive(Debug)]
pub enum ToDesk {
    /// Connect a call to the model.
    Dial {
        /// Who asks.
        worker: WorkerId,
        /// For which session.
        slot: SlotKey,
        /// For the log.
        call_id: CallId,
        /// As which leg the connection is wanted: given back with it.
        leg: Leg,
        /// Its number among those of the session: given back with the answer.
        dial: u32,
        /// One attempt only: whoever asks has a schedule of its own.
        once: bool,
    },
    /// The call ended while its dial was out: give it up. No answer follows.
    CancelDial {
        /// Who asked.
        worker: WorkerId,
        /// For which session.
        slot: SlotKey,
    },
    /// The connection that a call was given last was of no use: its endpoint is left alone for a while.
    Distrust {
        /// Whose.
        call_id: CallId,
    },
    /// A model leg that came after its call's end: close it in order.
    Discard {
        /// The leg, upgraded.
        upstream: Box<Established>,
    },
    /// A webhook has announced a call: connect to the model already, if that is wanted, and keep the connection for it a while.
    Predial {
        /// Which.
        call_id: CallId,
    },
    /// An announced call has no use any more for what `Predial` brings.
    Forget {
        /// Which.
        call_id: CallId,
    },
    /// A `ToWorker::Idle` is over.
    IdleOver {
        /// Where it was.
        worker: WorkerId,
        /// For whom; `None`: it was kept warm.
        call_id: Option<CallId>,
        /// From the order.
        endpoint: u16,
        /// The call that has it, where it was kept warm and `how` is `Adopted`.
        taken_by: Option<CallId>,
        /// How.
        how: IdleEnd,
        /// After what time.
        age: Duration,
    },
    /// A worker's call is over: its place counts again.
    Ended {
        /// Whose.
        worker: WorkerId,
        /// Which.
        call_id: CallId,
    },
    /// An upgrade request for a stream on a connection that is with control: the same admission as at the door.
    Admit {
        /// The request's head, whole, as received or re-written by control.
        head: Vec<u8>,
        /// The peer.
        peer: Option<std::net::SocketAddr>,
        /// Names the request in an error's body.
        request_id: String,
        /// The answer's head to write. When it is a 101, the connection follows as `Admitted`.
        answer: tokio::sync::oneshot::Sender<AdmitAnswer>,
    },
    /// The connection of an `Admit` that was answered with a 101.
    Admitted {
        /// From the answer.
        ticket: u64,
        /// After the 101 was written.
        connection: Box<Established>,
    },
    /// Load the listener's certificate again.
    ReloadTls,
    /// Take no new calls; say so to whoever asks.
    Drain,
    /// Close the listeners and end the thread.
    Stop,
}

/// What the desk says to `ToDesk::Admit`.
#[derive(Debug, PartialEq, Eq)]
pub enum AdmitAnswer {
    /// Answer 101 with this `Sec-WebSocket-Accept`, then hand the connection over under this number.
    Accept {
        /// The header's value.
        accept: String,
        /// For `ToDesk::Admitted`.
        ticket: u64,
    },
    /// Answer with this status, these header lines and this body, and close.
    Refuse {
        /// HTTP status.
        status: u16,
        /// What the status calls for.
        headers: Vec<(&'static str, String)>,
        /// JSON.
        body: String,
    },
}

/// The sending half of a worker's queue.
#[derive(Clone, Debug)]
pub struct WorkerSender {
    queue: SyncSender<ToWorker>,
    wake: Arc<OwnedFd>,
    load: Arc<LoadCell>,
}

/// The receiving half: the worker watches `wake_fd` and then drains the queue.
#[derive(Debug)]
pub struct WorkerInbox {
    queue: Receiver<ToWorker>,
    wake: Arc<OwnedFd>,
    load: Arc<LoadCell>,
}

/// A worker's queue of `capacity` orders.
pub fn worker_queue(capacity: usize) -> std::io::Result<(WorkerSender, WorkerInbox)> {
    let (sender, receiver) = sync_channel(capacity);
    let wake = Arc::new(eventfd()?);
    let load = Arc::new(LoadCell::default());
    let sender = WorkerSender {
        queue: sender,
        wake: wake.clone(),
        load: load.clone(),
    };
    Ok((
        sender,
        WorkerInbox {
            queue: receiver,
            wake,
            load,
        },
    ))
}

#[allow(unsafe_code)] // one call that std does not wrap
fn eventfd() -> std::io::Result<OwnedFd> {
    // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that we own alone.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}

impl WorkerSender {
    /// Calls that live on this worker, as it last said.
    pub fn live(&self) -> usize {
        self.load().live
    }

    /// How busy this worker is, as it last said.
    pub fn load(&self) -> Load {
        self.load.read()
    }

    /// Queues an order and wakes the worker. Gives the order back when the queue is full or the worker is gone.
    #[allow(clippy::result_large_err)] // the order itself comes back, so that its descriptor is not lost
    pub fn send(&self, order: ToWorker) -> Result<(), ToWorker> {
        self.queue.try_send(order).map_err(|error| match error {
            TrySendError::Full(order) | TrySendError::Disconnected(order) => order,
        })?;
        wake::ring(self.wake.as_raw_fd());
        Ok(())
    }
}

#[allow(unsafe_code)] // two calls on a raw descriptor
mod wake {
    use std::os::fd::RawFd;

    /// Adds one to an eventfd's counter. A full counter wakes as well as a fresh one, and nothing else can fail on our own.
    pub(super) fn ring(fd: RawFd) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is 8 readable bytes that outlive the call; the descriptor is held by the caller.
        let _ = unsafe { libc::write(fd, one.as_ptr().cast(), one.len()) };
    }

    /// Sets an eventfd's counter to zero; it is non-blocking, so this never waits.
    pub(super) fn clear(fd: RawFd) {
        let mut count = [0u8; 8];
        // SAFETY: the buffer is 8 writable bytes that outlive the call; the descriptor is held by the caller.
        let _ = unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
    }
}

impl WorkerInbox {
    /// The eventfd that becomes readable when orders wait.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Makes the eventfd quiet. Call it before taking the orders, so that none is slept over.
    pub fn clear(&self) {
        wake::clear(self.wake.as_raw_fd());
    }

    /// The next order.
    pub fn next(&self) -> Option<ToWorker> {
        self.queue.try_recv().ok()
    }

    /// Where this worker says how busy it is.
    pub fn load(&self) -> &LoadCell {
        &self.load
    }
}

/// Orders to the desk.
pub type DeskSender = tokio::sync::mpsc::Sender<ToDesk>;
/// The desk's end.
pub type DeskInbox = tokio::sync::mpsc::Receiver<ToDesk>;

/// The desk's queue of `capacity` orders.
pub fn desk_queue(capacity: usize) -> (DeskSender, DeskInbox) {
    tokio::sync::mpsc::channel(capacity)
}
