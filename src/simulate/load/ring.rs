//! The load tester's ring: many sockets, one thread, one `io_uring_enter` for each wake-up. Shell.
//!
//! A driver of its own and not the relay's, which it must be able to disagree with. Everything unsafe of the load tester
//! is here: memory that the kernel writes (one group of provided buffers) and memory that it reads (the bytes of a send,
//! which are moved in with the operation and come back with its completion).
#![allow(unsafe_code)]

use io_uring::{IoUring, cqueue, opcode, types};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Submission entries; a full queue is submitted and goes on.
const SQ_ENTRIES: u32 = 4096;
/// Completion entries: every connection of a big run at once, with room.
const CQ_ENTRIES: u32 = 32 * 1024;
/// Provided buffers: a power of two. A burst of more waits for the next turn.
const BUFFERS: u16 = 2048;
/// Bytes of each: a talk delta of 400 ms in base64 fits.
const BUFFER_BYTES: usize = 8 * 1024;
/// Gathering ends early when so many have come.
const GATHER_COMPLETIONS: usize = 64;
const PAGE: usize = 4096;
const GROUP: u16 = 0;

/// Which connection an operation belongs to; a number that was used before is told by its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the connection.
    pub index: u32,
    /// Counts the uses of that index; 28 bits travel.
    pub generation: u32,
}

const GENERATION_MASK: u32 = (1 << 28) - 1;

impl Key {
    /// The same index, used anew.
    pub fn next(self) -> Key {
        Key {
            index: self.index,
            generation: (self.generation + 1) & GENERATION_MASK,
        }
    }
}

/// What came.
#[derive(Debug)]
pub enum Completion {
    /// What was watched is ready, or broken.
    Ready(Key),
    /// Bytes in a provided buffer; give it back. `more`: the receive goes on.
    Received {
        /// Whose.
        key: Key,
        /// For `Ring::take` and `Ring::give_back`.
        buffer: u16,
        /// How many bytes.
        len: usize,
        /// The receive goes on by itself.
        more: bool,
    },
    /// The receive is over: the peer's end (0) or a negated errno.
    Ended(Key, i32),
    /// A send is over; all of its bytes went, or `error` is the negated errno.
    Sent {
        /// Whose.
        key: Key,
        /// The memory, empty again.
        bytes: Vec<u8>,
        /// Negated errno, or 0.
        error: i32,
    },
}

/// A send under way. `bytes` are neither moved nor changed until its completion.
struct Lent {
    key: Key,
    fd: RawFd,
    bytes: Vec<u8>,
    sent: usize,
}

const WATCH: u64 = 1;
const RECEIVE: u64 = 2;
const SEND: u64 = 3;

fn tag(kind: u64, key: Key) -> u64 {
    kind << 60 | u64::from(key.generation) << 32 | u64::from(key.index)
}

/// One allocation at page alignment, freed when dropped.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes, PAGE).expect("a few megabytes at page alignment");
        // SAFETY: the layout is not empty: both callers ask for at least one entry.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self { start, layout }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// The buffers that receives pick from: each is the kernel's, or ours between its completion and `give_back`.
struct Buffers {
    entries: Region,
    memory: Region,
    tail: u16,
    ours: Vec<bool>,
}

impl Buffers {
    fn new() -> Self {
        let mut buffers = Self {
            entries: Region::new(usize::from(BUFFERS) * size_of::<types::BufRingEntry>()),
            memory: Region::new(usize::from(BUFFERS) * BUFFER_BYTES),
            tail: 0,
            ours: vec![true; usize::from(BUFFERS)],
        };
        (0..BUFFERS).for_each(|index| buffers.give_back(index));
        buffers
    }

    fn take(&mut self, index: u16, len: usize) -> &mut [u8] {
        let place = usize::from(index);
        assert!(
            place < self.ours.len() && len <= BUFFER_BYTES,
            "the kernel names a buffer of the group"
        );
        self.ours[place] = true;
        // SAFETY: inside `memory` by the assertion. The kernel has completed this buffer and gets it again only by
        // `give_back`, which needs `&mut self` and so can't run while this borrow lives.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start.as_ptr().add(place * BUFFER_BYTES),
                len,
            )
        }
    }

    fn give_back(&mut self, index: u16) {
        let place = usize::from(index);
        assert!(self.ours[place], "only what is ours can be lent");
        self.ours[place] = false;
        let base = self.entries.start.as_ptr().cast::<types::BufRingEntry>();
        // SAFETY: `tail & (BUFFERS - 1)` is inside the ring of entries; the kernel reads an entry only after the tail has
        // passed it. The tail overlays reserved bytes of the first entry, which `set_*` never touch.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (BUFFERS - 1)));
            entry.set_addr(self.memory.start.as_ptr().add(place * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// The ring. Made and used by one thread.
pub struct Ring {
    ring: IoUring,
    buffers: Option<Buffers>,
    lent: Option<Vec<Option<Lent>>>,
    free: Vec<u32>,
    outstanding: usize,
    /// Waiting can gather for a minimum time (6.12).
    min_wait: bool,
    /// `io_uring_enter` calls so far.
    pub enters: u64,
}

impl Ring {
    /// Sets it up. Errs where io_uring is not to be had; `voxrelay check` says why.
    pub fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(CQ_ENTRIES)
            .setup_clamp()
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun();
        let ring = match builder.build(SQ_ENTRIES) {
            // Before 6.1 the task-run flags are unknown; everything else still works.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let mut builder = IoUring::builder();
                builder.setup_cqsize(CQ_ENTRIES).setup_clamp();
                builder.build(SQ_ENTRIES)?
            }
            other => other?,
        };
        let buffers = Buffers::new();
        // SAFETY: the region is page aligned, holds `BUFFERS` entries, and outlives the ring's use of it (see `drop`).
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries.start.as_ptr() as u64,
                BUFFERS,
                GROUP,
                0,
            )?;
        }
        Ok(Self {
            min_wait: ring.params().is_feature_min_timeout(),
            ring,
            buffers: Some(buffers),
            lent: Some(Vec::new()),
            free: Vec::new(),
            outstanding: 0,
            enters: 0,
        })
    }

    fn push(&mut self, entry: &io_uring::squeue::Entry) -> io::Result<()> {
        // SAFETY: push demands that buffers and descriptors stay valid until the completion. Receives use the group and
        // sends use `lent`, both owned by this ring; whoever owns a descriptor closes it after its last completion.
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

    /// Receives until the peer's end or an error. A socket that does not block is answered EAGAIN: set it to block.
    pub fn receive(&mut self, fd: RawFd, key: Key) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(types::Fd(fd), GROUP)
            .build()
            .user_data(tag(RECEIVE, key));
        self.push(&entry)
    }

    /// Completes when `fd` is readable (again and again) or, for `writable`, once when it can be written.
    pub fn watch(&mut self, fd: RawFd, key: Key, writable: bool) -> io::Result<()> {
        let events = if writable {
            libc::POLLOUT
        } else {
            libc::POLLIN
        };
        let entry = opcode::PollAdd::new(types::Fd(fd), events as u32)
            .multi(!writable)
            .build()
            .user_data(tag(WATCH, key));
        self.push(&entry)
    }

    /// Sends all of `bytes`. One at a time for each descriptor, or they may mix.
    pub fn send(&mut self, fd: RawFd, key: Key, bytes: Vec<u8>) -> io::Result<()> {
        let lent = self.lent.as_mut().expect("taken in drop alone");
        let place = self.free.pop().unwrap_or_else(|| {
            lent.push(None);
            lent.len() as u32 - 1
        });
        lent[place as usize] = Some(Lent {
            key,
            fd,
            bytes,
            sent: 0,
        });
        self.send_rest(place)
    }

    fn send_rest(&mut self, place: u32) -> io::Result<()> {
        let lent = self.lent.as_ref().expect("taken in drop alone");
        let Some(lent) = &lent[place as usize] else {
            return Ok(());
        };
        let rest = &lent.bytes[lent.sent..];
        // The bytes' address is that of the heap, which stays when the `Vec` itself is moved.
        let entry = opcode::Send::new(types::Fd(lent.fd), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .user_data(SEND << 60 | u64::from(place));
        self.push(&entry)
    }

    /// The bytes that a completion put into a buffer.
    pub fn take(&mut self, buffer: u16, len: usize) -> &mut [u8] {
        self.buffers
            .as_mut()
            .expect("taken in drop alone")
            .take(buffer, len)
    }

    /// Lends a buffer to the kernel again.
    pub fn give_back(&mut self, buffer: u16) {
        self.buffers
            .as_mut()
            .expect("taken in drop alone")
            .give_back(buffer);
    }

    /// Submits what is queued, waits for one completion or until `timeout`, and appends all that came. With `gather`, and
    /// where the kernel can, it stays that long for more to come along.
    pub fn wait(
        &mut self,
        timeout: Duration,
        gather: Option<Duration>,
        out: &mut Vec<Completion>,
    ) -> io::Result<()> {
        self.enters += 1;
        let time = types::Timespec::from(timeout);
        let mut args = types::SubmitArgs::new().timespec(&time);
        let mut want = 1;
        if let Some(least) = gather.filter(|least| self.min_wait && *least < timeout) {
            args = args.min_wait_usec(least.as_micros() as u32);
            want = GATHER_COMPLETIONS;
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
        let lent = self.lent.as_mut().expect("taken in drop alone");
        // Allocates only when a peer took a part, which is rare.
        let mut unfinished = Vec::new();
        for cqe in self.ring.completion() {
            let (data, result) = (cqe.user_data(), cqe.result());
            let more = cqueue::more(cqe.flags());
            if !more {
                self.outstanding -= 1;
            }
            let key = Key {
                index: data as u32,
                generation: (data >> 32) as u32 & GENERATION_MASK,
            };
            match data >> 60 {
                WATCH => out.push(Completion::Ready(key)),
                RECEIVE => match cqueue::buffer_select(cqe.flags()) {
                    Some(buffer) if result > 0 => out.push(Completion::Received {
                        key,
                        buffer,
                        len: result as usize,
                        more,
                    }),
                    Some(buffer) => {
                        // An end that still took a buffer: it goes home by the same way.
                        out.push(Completion::Received {
                            key,
                            buffer,
                            len: 0,
                            more: true,
                        });
                        out.push(Completion::Ended(key, result));
                    }
                    None => out.push(Completion::Ended(key, result)),
                },
                SEND => {
                    let place = data as u32;
                    let Some(operation) = lent[place as usize].as_mut() else {
                        continue;
                    };
                    operation.sent += result.max(0) as usize;
                    if result > 0 && operation.sent < operation.bytes.len() {
                        unfinished.push(place);
                        continue;
                    }
                    if let Some(mut operation) = lent[place as usize].take() {
                        self.free.push(place);
                        operation.bytes.clear();
                        out.push(Completion::Sent {
                            key: operation.key,
                            bytes: operation.bytes,
                            error: result.min(0),
                        });
                    }
                }
                _ => {}
            }
        }
        for place in unfinished {
            self.send_rest(place)?;
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may still write to or read from what is outstanding after the ring's descriptor is closed: that
        // memory is left to the process's end.
        if self.outstanding > 0 {
            std::mem::forget(self.buffers.take());
            std::mem::forget(self.lent.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    const KEY: Key = Key {
        index: 7,
        generation: 3,
    };

    fn until<T>(ring: &mut Ring, mut found: impl FnMut(&mut Ring, Completion) -> Option<T>) -> T {
        loop {
            let mut out = Vec::new();
            ring.wait(Duration::from_secs(5), None, &mut out)
                .expect("wait");
            assert!(!out.is_empty(), "nothing came in five seconds");
            for completion in out {
                if let Some(found) = found(ring, completion) {
                    return found;
                }
            }
        }
    }

    #[test]
    fn bytes_go_both_ways_and_memory_comes_home() {
        let mut ring = Ring::new().expect("io_uring");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ring.receive(ours.as_raw_fd(), KEY).expect("armed");
        ring.send(ours.as_raw_fd(), KEY, b"ping".to_vec())
            .expect("queued");
        let empty = until(&mut ring, |_, completion| match completion {
            Completion::Sent { key, bytes, error } => {
                assert_eq!((key, error), (KEY, 0));
                Some(bytes)
            }
            _ => None,
        });
        assert!(empty.is_empty() && empty.capacity() >= 4);
        let mut got = [0; 4];
        theirs.read_exact(&mut got).expect("read");
        assert_eq!(&got, b"ping");
        theirs.write_all(b"pong!").expect("write");
        let text = until(&mut ring, |ring, completion| match completion {
            Completion::Received {
                key, buffer, len, ..
            } => {
                assert_eq!(key, KEY);
                let text = ring.take(buffer, len).to_vec();
                ring.give_back(buffer);
                Some(text)
            }
            _ => None,
        });
        assert_eq!(text, b"pong!");
        drop(theirs);
        let end = until(&mut ring, |_, completion| match completion {
            Completion::Ended(key, result) => Some((key, result)),
            _ => None,
        });
        assert_eq!(end, (KEY, 0));
    }

    #[test]
    fn a_send_that_the_peer_takes_in_pieces_arrives_whole() {
        let mut ring = Ring::new().expect("io_uring");
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let bytes: Vec<u8> = (0..2_000_000u32).map(|i| (i % 251) as u8).collect();
        ring.send(ours.as_raw_fd(), KEY, bytes.clone())
            .expect("queued");
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; 2_000_000];
            theirs.read_exact(&mut got).expect("read");
            got
        });
        until(&mut ring, |_, completion| {
            matches!(completion, Completion::Sent { error: 0, .. }).then_some(())
        });
        assert!(reader.join().expect("reader") == bytes);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_of_the_send() {
        let mut ring = Ring::new().expect("io_uring");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        ring.send(ours.as_raw_fd(), KEY, b"x".to_vec())
            .expect("queued");
        let error = until(&mut ring, |_, completion| match completion {
            Completion::Sent { error, .. } => Some(error),
            _ => None,
        });
        assert_eq!(error, -libc::EPIPE);
    }
}
