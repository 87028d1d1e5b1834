//! The ring of one worker: arm, submit, wait, complete. Shell.
//!
//! Everything unsafe about io_uring is here and in `buffer`, behind types that own the memory which
//! the kernel may touch: a send slot or a provided buffer lives as long as the ring, and the ring's
//! memory is leaked, not freed, if it is dropped while the kernel still holds an operation.
//!
//! ```text
//!   worker ── recv / send / poll ──► submission queue ──► kernel
//!     ▲                                                     │
//!     └────────── Completion { tag, result, … } ◄───────────┘
//! ```
#![allow(unsafe_code)]

use super::buffer::{BufferGroup, SendSlots, SlotId};
use io_uring::{IoUring, cqueue, opcode, types};
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Submission entries; a full queue is submitted and goes on.
const SQ_ENTRIES: u32 = 4096;
/// Completion entries: a burst of every leg of a full worker, with room.
const CQ_ENTRIES: u32 = 16 * 1024;
/// Gathering ends early when so many have come.
const GATHER_COMPLETIONS: usize = 64;

/// What an operation belongs to. Comes back in its completion; stale ones are recognised by their generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tag {
    /// Orders wait in the inbox.
    Wake,
    /// A cancellation: its own completion says nothing.
    Cancel,
    /// A receive of a leg.
    Receive(LegKey),
    /// A send of a leg.
    Send(LegKey),
}

/// One leg of one call slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LegKey {
    /// Index into the worker's table.
    pub(super) index: u32,
    /// Counts the uses of that index (its low 28 bits travel).
    pub(super) generation: u32,
    /// 0 carrier, 1 realtime, 2 standby.
    pub(super) leg: u8,
}

const GENERATION_BITS: u32 = 28;
/// Generations wrap here, so that what travels in `user_data` compares equal to what is kept.
pub(super) const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

impl Tag {
    // user_data, from the top: kind 2 bits, leg 2, generation 28, index 32.
    fn encode(self) -> u64 {
        let (kind, key) = match self {
            Tag::Wake => return 0,
            Tag::Cancel => return 3 << 62,
            Tag::Receive(key) => (1u64, key),
            Tag::Send(key) => (2u64, key),
        };
        kind << 62
            | u64::from(key.leg & 3) << 60
            | u64::from(key.generation & GENERATION_MASK) << 32
            | u64::from(key.index)
    }

    fn decode(data: u64) -> Tag {
        let key = LegKey {
            index: data as u32,
            generation: (data >> 32) as u32 & GENERATION_MASK,
            leg: (data >> 60) as u8 & 3,
        };
        match data >> 62 {
            1 => Tag::Receive(key),
            2 => Tag::Send(key),
            3 => Tag::Cancel,
            _ => Tag::Wake,
        }
    }
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) tag: Tag,
    /// Bytes, or a negated errno.
    pub(super) result: i32,
    /// The provided buffer that was used.
    pub(super) buffer: Option<u16>,
    /// The multishot operation goes on.
    pub(super) more: bool,
}

/// What the kernel offers, for `check` and the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Completions are run when we ask for them, not by interrupting us (6.1).
    pub defer_taskrun: bool,
    /// Waiting gathers for a minimum time (6.12).
    pub min_wait: bool,
}

/// Sets up a small ring the way a worker does and takes it down again.
///
/// Errs with one sentence that says what to do when io_uring can't be used here.
pub fn probe() -> Result<Features, String> {
    let setup = || -> io::Result<Features> {
        let (ring, defer_taskrun) = build(8, 16)?;
        let group = BufferGroup::new(0, 2, 4096)?;
        group.register(&ring)?;
        let features = Features {
            defer_taskrun,
            min_wait: ring.params().is_feature_min_timeout(),
        };
        ring.submitter().unregister_buf_ring(0)?;
        Ok(features)
    };
    setup().map_err(|error| match error.raw_os_error() {
        Some(libc::ENOSYS) => {
            "this kernel has no io_uring: run Linux 6.1 or newer".to_owned()
        }
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: set sysctl kernel.io_uring_disabled=0, and allow io_uring_setup, \
             io_uring_enter and io_uring_register in the seccomp profile"
                .to_owned()
        }
        Some(libc::EINVAL) => {
            "this kernel's io_uring lacks buffer rings or multishot receive: run Linux 6.1 or newer".to_owned()
        }
        Some(libc::ENOMEM) => {
            "io_uring could not lock its memory: raise the locked-memory limit (ulimit -l, LimitMEMLOCK=)"
                .to_owned()
        }
        _ => format!("io_uring can't be set up: {error}"),
    })
}

fn build(sq: u32, cq: u32) -> io::Result<(IoUring, bool)> {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(cq)
        .setup_clamp()
        .setup_submit_all()
        .setup_single_issuer()
        .setup_defer_taskrun();
    match builder.build(sq) {
        Ok(ring) => Ok((ring, true)),
        // Before 6.1 the two task-run flags are unknown; everything else still works.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(cq).setup_clamp();
            Ok((builder.build(sq)?, false))
        }
        Err(error) => Err(error),
    }
}

/// One worker's ring with its buffers. Must be made and used by one thread.
pub(super) struct Ring {
    ring: IoUring,
    groups: [Option<BufferGroup>; 2],
    slots: Option<SendSlots>,
    /// The `enters` when each group last lent more.
    lent_more_at: [u64; 2],
    /// Operations whose last completion is still to come.
    outstanding: usize,
    /// Waiting can gather for a minimum time (6.12).
    min_wait: bool,
    /// `io_uring_enter` calls so far.
    pub(super) enters: u64,
}

impl Ring {
    /// `groups`: count (a power of two) and size in bytes of the provided buffers, per leg kind.
    pub(super) fn new(groups: [(u16, usize); 2]) -> io::Result<Self> {
        let (ring, _) = build(SQ_ENTRIES, CQ_ENTRIES)?;
        let mut made = [None, None];
        for (id, (count, size)) in groups.into_iter().enumerate() {
            let group = BufferGroup::new(id as u16, count, size)?;
            group.register(&ring)?;
            made[id] = Some(group);
        }
        Ok(Self {
            min_wait: ring.params().is_feature_min_timeout(),
            ring,
            groups: made,
            slots: Some(SendSlots::default()),
            lent_more_at: [0; 2],
            outstanding: 0,
            enters: 0,
        })
    }

    /// The buffers of a leg: carriers have their own, both connections to the model share the other.
    pub(super) fn group(&mut self, leg: u8) -> &mut BufferGroup {
        // Made in `new`, taken only in `drop`.
        self.groups[leg.min(1) as usize]
            .as_mut()
            .expect("made in new")
    }

    /// A leg's receive found no buffer: lends twice as many, once for all that find none in the same wait. `false`: all
    /// were lent already.
    pub(super) fn lend_more(&mut self, leg: u8) -> bool {
        let (group, wait) = (usize::from(leg.min(1)), self.enters);
        if std::mem::replace(&mut self.lent_more_at[group], wait) == wait {
            return true;
        }
        self.group(leg).exhausted()
    }

    pub(super) fn slots(&mut self) -> &mut SendSlots {
        self.slots.as_mut().expect("made in new")
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: push demands that the entry's buffers and descriptors stay valid until it completes. Receives use
        // buffer groups and sends use slots, both owned by this ring; a leg closes its descriptor only after its last completion.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enters += 1;
            match self.ring.submit() {
                Ok(_) => {}
                // A signal, or no memory for the moment: what is queued stays queued.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
        }
        self.outstanding += 1;
        Ok(())
    }

    /// Receives on `fd` into buffers of the leg's group until it ends by itself.
    pub(super) fn receive(&mut self, fd: RawFd, key: LegKey) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fd(fd), u16::from(key.leg.min(1)))
            .build()
            .user_data(Tag::Receive(key).encode());
        self.push(&entry)
    }

    /// Sends `len` bytes of a slot from `start`. The slot stays lent until the completion.
    pub(super) fn send(
        &mut self,
        fd: RawFd,
        key: LegKey,
        slot: SlotId,
        start: usize,
        len: usize,
    ) -> io::Result<()> {
        let bytes = &self.slots().bytes(slot)[start..start + len];
        let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), len as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(Tag::Send(key).encode());
        self.push(&entry)
    }

    /// Completes, again and again, when `fd` becomes readable.
    pub(super) fn watch(&mut self, fd: RawFd) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32)
            .multi(true)
            .build()
            .user_data(Tag::Wake.encode());
        self.push(&entry)
    }

    /// Ends a leg's receive; it completes with ECANCELED. What has arrived is kept by the socket.
    pub(super) fn cancel_receive(&mut self, key: LegKey) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(Tag::Receive(key).encode())
            .build()
            .user_data(Tag::Cancel.encode());
        self.push(&entry)
    }

    /// Cancels everything on `fd`; what is cancelled still completes, with ECANCELED.
    pub(super) fn cancel(&mut self, fd: RawFd) -> io::Result<()> {
        let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(types::Fd(fd)).all())
            .build()
            .user_data(Tag::Cancel.encode());
        self.push(&entry)
    }

    /// Submits what is queued, and waits for nothing.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        self.enters += 1;
        match self.ring.submit() {
            Ok(_) => Ok(()),
            // What is queued stays queued, for the next wait.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Submits what is queued, waits for a completion or until `timeout`, and appends all completions to `out`. With
    /// `gather`, it waits that long (or for `GATHER_COMPLETIONS`) for more to come along before it returns.
    pub(super) fn wait(
        &mut self,
        timeout: Duration,
        gather: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.enters += 1;
        let (time, want, min_wait) = match gather {
            None => (timeout, 1, 0),
            Some(least) if self.min_wait => (timeout, GATHER_COMPLETIONS, least.as_micros() as u32),
            // Older kernels: as many as are wanted, or the time, whichever is first. Under load nothing is lost by
            // coming back empty-handed now and then.
            Some(least) => (timeout.min(least), GATHER_COMPLETIONS, 0),
        };
        let time = types::Timespec::from(time);
        let mut args = types::SubmitArgs::new().timespec(&time);
        if min_wait > 0 {
            args = args.min_wait_usec(min_wait);
        }
        match self.ring.submitter().submit_with_args(want, &args) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => return Err(error),
        }
        for cqe in self.ring.completion() {
            let more = cqueue::more(cqe.flags());
            if !more {
                self.outstanding -= 1;
            }
            out.push(Completion {
                tag: Tag::decode(cqe.user_data()),
                result: cqe.result(),
                buffer: cqueue::buffer_select(cqe.flags()),
                more,
            });
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The watch on the inbox is always outstanding and names no memory. Anything beyond it may still be
        // written to by the kernel after the ring's descriptor is closed: that memory is left to the process's end.
        if self.outstanding > 1 {
            self.groups
                .iter_mut()
                .for_each(|group| std::mem::forget(group.take()));
            std::mem::forget(self.slots.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_trip_through_user_data() {
        for leg in [0, 1, 2] {
            for generation in [0, 1, GENERATION_MASK] {
                for index in [0, 7, u32::MAX] {
                    let key = LegKey {
                        index,
                        generation,
                        leg,
                    };
                    assert_eq!(Tag::decode(Tag::Receive(key).encode()), Tag::Receive(key));
                    assert_eq!(Tag::decode(Tag::Send(key).encode()), Tag::Send(key));
                }
            }
        }
        assert_eq!(Tag::decode(Tag::Wake.encode()), Tag::Wake);
    }

    #[test]
    fn this_machine_can_run_a_worker() {
        probe().expect("io_uring");
    }
}
