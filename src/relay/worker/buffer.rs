//! Memory that the kernel reads and writes: provided buffers for receives, slots for sends. Shell.
//!
//! A provided buffer is either *lent* (the kernel may write into it at any time) or *ours* (between the completion
//! that names it and `give_back`). A send slot is ours until it is submitted and lent until its completion.
#![allow(unsafe_code)]

use crate::base::limit;
use crate::transport::tls::Tls;
use io_uring::{IoUring, types};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

const PAGE: usize = 4096;

/// Buffers that a group lends at first.
const LENT_FIRST: u16 = 128;

/// One allocation with a stated alignment, freed when dropped.
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

impl Region {
    fn new(bytes: usize) -> Self {
        let layout =
            Layout::from_size_align(bytes, PAGE).expect("a few megabytes at page alignment");
        // SAFETY: the layout is not empty (callers ask for at least one entry).
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

/// A ring of equal buffers that the kernel picks from for multishot receives.
pub(super) struct BufferGroup {
    id: u16,
    /// A power of two.
    count: u16,
    size: usize,
    /// The shared ring of `count` entries.
    entries: Region,
    /// `count` times `size` bytes.
    memory: Region,
    /// Our end of the ring, modulo 2^16.
    tail: u16,
    /// Buffers from here on were never lent: with fewer in turn, those that are stay in the core's cache, and the rest costs
    /// no memory until a burst needs it.
    spare: u16,
    /// Which buffers are ours: guards against a completion that names one twice.
    ours: Vec<bool>,
    /// How many are lent.
    pub(super) lent: usize,
}

impl BufferGroup {
    /// `count` (a power of two) buffers of `size` bytes, `LENT_FIRST` of them lent.
    pub(super) fn new(id: u16, count: u16, size: usize) -> io::Result<Self> {
        assert!(
            count.is_power_of_two() && size > 0,
            "the kernel asks for a power of two"
        );
        let mut group = Self {
            id,
            count,
            size,
            entries: Region::new(usize::from(count) * size_of::<types::BufRingEntry>()),
            memory: Region::new(usize::from(count) * size),
            tail: 0,
            spare: 0,
            ours: vec![true; usize::from(count)],
            lent: 0,
        };
        group.lend_more(LENT_FIRST);
        Ok(group)
    }

    /// Lends so many more than ever before, as far as there are any. Whether there were.
    fn lend_more(&mut self, more: u16) -> bool {
        let until = self.count.min(self.spare.saturating_add(more));
        for index in self.spare..until {
            self.give_back(index);
        }
        std::mem::replace(&mut self.spare, until) < until
    }

    /// The kernel found none: lends twice as many from now on. `false`: all were lent already.
    pub(super) fn exhausted(&mut self) -> bool {
        self.lend_more(self.spare)
    }

    /// Registers the group with a ring. The group must outlive the ring's use of it (see `ring::Ring`).
    pub(super) fn register(&self, ring: &IoUring) -> io::Result<()> {
        // SAFETY: the region is page aligned, holds `count` entries and is neither moved nor freed while the ring is in use.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                self.entries.start.as_ptr() as u64,
                self.count,
                self.id,
                0,
            )
        }
    }

    /// The bytes that a completion says it wrote into buffer `index`.
    pub(super) fn take(&mut self, index: u16, len: usize) -> &mut [u8] {
        let place = usize::from(index);
        assert!(
            place < usize::from(self.count) && len <= self.size && !self.ours[place],
            "the kernel names a lent buffer"
        );
        self.ours[place] = true;
        self.lent -= 1;
        // SAFETY: inside `memory` by the assertion; ours alone since the kernel completed it, until `give_back`,
        // which needs `&mut self` and so can't run while this borrow lives.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.start.as_ptr().add(place * self.size), len)
        }
    }

    /// Lends buffer `index` to the kernel again.
    pub(super) fn give_back(&mut self, index: u16) {
        let place = usize::from(index);
        assert!(
            place < usize::from(self.count) && self.ours[place],
            "only what is ours can be lent"
        );
        self.ours[place] = false;
        self.lent += 1;
        let base = self.entries.start.as_ptr().cast::<types::BufRingEntry>();
        // SAFETY: `tail & (count - 1)` is inside the ring; the kernel reads an entry only after the tail below has passed it.
        // The tail field overlays the first entry's reserved bytes, which `set_*` never touch.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(self.memory.start.as_ptr().add(place * self.size) as u64);
            entry.set_len(self.size as u32);
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = types::BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Names a send slot: its number, and at the top whether it is a large one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotId(u32);

const LARGE: u32 = 1 << 31;

/// Buffers for sends: one per leg with a send in flight, kept and reused, never returned to the allocator. Of two sizes,
/// since nearly every send is a frame or two, and a burst of every leg of a full worker needs a slot for each.
#[derive(Default)]
pub(super) struct SendSlots {
    small: Slots,
    large: Slots,
}

#[derive(Default)]
struct Slots {
    // Boxed, so that a slot's bytes stay where they are when the list grows.
    all: Vec<Box<[u8]>>,
    free: Vec<u32>,
}

impl Slots {
    fn take(&mut self, bytes: usize) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(vec![0; bytes].into_boxed_slice());
            self.free.reserve(self.all.len());
            self.all.len() as u32 - 1
        })
    }
}

impl SendSlots {
    /// Bytes in a small slot: two frames of 20 ms, sealed.
    const SMALL_BYTES: usize = 1024;
    /// Bytes in a large slot: `limit::SEND_BYTES_MAX` of plaintext, sealed.
    const LARGE_BYTES: usize = Tls::sealed_len_max(limit::SEND_BYTES_MAX);

    fn slots(&mut self, slot: SlotId) -> (&mut Slots, usize) {
        match slot.0 & LARGE {
            0 => (&mut self.small, slot.0 as usize),
            _ => (&mut self.large, (slot.0 & !LARGE) as usize),
        }
    }

    /// A free slot of at least `bytes`, or the largest; a new one when all are lent.
    pub(super) fn take(&mut self, bytes: usize) -> SlotId {
        match bytes <= Self::SMALL_BYTES {
            true => SlotId(self.small.take(Self::SMALL_BYTES)),
            false => SlotId(self.large.take(Self::LARGE_BYTES) | LARGE),
        }
    }

    /// A slot's bytes, to be filled. Must not be called while the slot is in a send.
    pub(super) fn bytes_mut(&mut self, slot: SlotId) -> &mut [u8] {
        let (slots, at) = self.slots(slot);
        &mut slots.all[at]
    }

    /// A slot's bytes.
    pub(super) fn bytes(&mut self, slot: SlotId) -> &[u8] {
        self.bytes_mut(slot)
    }

    /// The send is over.
    pub(super) fn give_back(&mut self, slot: SlotId) {
        let (slots, at) = self.slots(slot);
        let at = at as u32;
        debug_assert!(!slots.free.contains(&at), "a slot comes home once");
        slots.free.push(at);
    }

    /// Slots in sends now.
    pub(super) fn lent(&self) -> usize {
        let lent = |slots: &Slots| slots.all.len() - slots.free.len();
        lent(&self.small) + lent(&self.large)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_came_home_is_used_again() {
        let mut slots = SendSlots::default();
        let (a, b) = (slots.take(300), slots.take(1024));
        assert_ne!(a, b);
        slots.bytes_mut(a)[0] = 7;
        slots.give_back(a);
        assert_eq!(slots.lent(), 1);
        assert_eq!(slots.take(1), a);
        assert_eq!(slots.bytes(a)[0], 7);
        let large = slots.take(limit::SEND_BYTES_MAX);
        assert!(slots.bytes(large).len() >= Tls::sealed_len_max(limit::SEND_BYTES_MAX));
        slots.give_back(large);
        assert_eq!(slots.lent(), 2);
        assert_eq!(slots.take(1025), large);
    }

    #[test]
    fn a_group_lends_more_when_the_kernel_finds_none_and_never_more_than_it_has() {
        let mut group = BufferGroup::new(0, 512, 64).expect("memory");
        assert_eq!(group.lent, 128);
        assert!(group.exhausted() && group.exhausted());
        assert_eq!(group.lent, 512);
        assert!(!group.exhausted());
        assert_eq!(group.lent, 512);
    }

    #[test]
    #[should_panic(expected = "the kernel names a lent buffer")]
    fn a_buffer_named_twice_is_a_fault() {
        let mut group = BufferGroup::new(0, 2, 64).expect("memory");
        let _ = group.take(1, 10);
        let _ = group.take(1, 10);
    }
}
