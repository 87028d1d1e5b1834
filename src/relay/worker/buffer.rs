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
    /// Which buffers are ours: guards against a completion that names one twice.
    ours: Vec<bool>,
    /// How many are lent.
    pub(super) lent: usize,
}

impl BufferGroup {
    /// `count` (a power of two) buffers of `size` bytes, all lent.
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
            ours: vec![true; usize::from(count)],
            lent: 0,
        };
        for index in 0..count {
            group.give_back(index);
        }
        Ok(group)
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

/// Names a send slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SlotId(u32);

/// Buffers for sends: one per leg with a send in flight, kept and reused, never returned to the allocator.
#[derive(Default)]
pub(super) struct SendSlots {
    // Boxed, so that a slot's bytes stay where they are when the list grows.
    all: Vec<Box<[u8]>>,
    free: Vec<SlotId>,
}

impl SendSlots {
    /// Bytes in a slot: `limit::SEND_BYTES_MAX` of plaintext, sealed.
    pub(super) const BYTES: usize = Tls::sealed_len_max(limit::SEND_BYTES_MAX);

    /// A free slot; a new one when all are lent.
    pub(super) fn take(&mut self) -> SlotId {
        self.free.pop().unwrap_or_else(|| {
            self.all.push(vec![0; Self::BYTES].into_boxed_slice());
            self.free.reserve(self.all.len());
            SlotId(self.all.len() as u32 - 1)
        })
    }

    /// A slot's bytes, to be filled. Must not be called while the slot is in a send.
    pub(super) fn bytes_mut(&mut self, slot: SlotId) -> &mut [u8] {
        &mut self.all[slot.0 as usize]
    }

    /// A slot's bytes.
    pub(super) fn bytes(&self, slot: SlotId) -> &[u8] {
        &self.all[slot.0 as usize]
    }

    /// The send is over.
    pub(super) fn give_back(&mut self, slot: SlotId) {
        debug_assert!(!self.free.contains(&slot), "a slot comes home once");
        self.free.push(slot);
    }

    /// Slots in sends now.
    pub(super) fn lent(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_came_home_is_used_again() {
        let mut slots = SendSlots::default();
        let (a, b) = (slots.take(), slots.take());
        assert_ne!(a, b);
        slots.bytes_mut(a)[0] = 7;
        slots.give_back(a);
        assert_eq!(slots.lent(), 1);
        assert_eq!(slots.take(), a);
        assert_eq!(slots.bytes(a)[0], 7);
    }

    #[test]
    #[should_panic(expected = "the kernel names a lent buffer")]
    fn a_buffer_named_twice_is_a_fault() {
        let mut group = BufferGroup::new(0, 2, 64).expect("memory");
        let _ = group.take(1, 10);
        let _ = group.take(1, 10);
    }
}
