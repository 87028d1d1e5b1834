//! Allocations, counted by thread: a worker says in the running daemon how many it makes. Shell.
//!
//! Once a call is set up, a relayed frame allocates nothing of ours; that shows as a counter that stands still. It is
//! always on: what it costs is one addition for each allocation, and the path of audio is to have none. Allocations
//! inside rustls (one a record) are counted apart, with `apart`.
#![allow(unsafe_code)] // an allocator is unsafe by its trait

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

thread_local! {
    // `const` and without a destructor, so that the allocator may touch them at any time of a thread.
    static ALL: Cell<u64> = const { Cell::new(0) };
    static APART: Cell<u64> = const { Cell::new(0) };
}

/// An allocator that counts what it is asked for and passes everything on.
#[derive(Debug, Default)]
pub struct Counting<A>(pub A);

fn count() {
    ALL.with(|all| all.set(all.get().wrapping_add(1)));
}

// SAFETY: every call goes to `A` unchanged; counting neither allocates nor unwinds.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are `A`'s demands.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { self.0.realloc(at, layout, size) }
    }
}

/// Runs `of_others`; what it allocates is counted apart.
pub fn apart<T>(of_others: impl FnOnce() -> T) -> T {
    let before = ALL.get();
    let result = of_others();
    let made = ALL.get().wrapping_sub(before);
    APART.with(|apart| apart.set(apart.get().wrapping_add(made)));
    result
}

/// This thread's allocations since it began: ours, and those made in `apart`. Zeros where the counting allocator is not
/// the process's.
pub fn of_thread() -> (u64, u64) {
    let apart = APART.get();
    (ALL.get().wrapping_sub(apart), apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn what_is_made_apart_is_not_ours() {
        let allocator = Counting(System);
        let layout = Layout::from_size_align(16, 8).expect("a layout");
        let make = || {
            // SAFETY: the layout is not empty, and what is made is freed with it at once.
            unsafe {
                let at = allocator.alloc(layout);
                let at = allocator.realloc(at, layout, 16);
                allocator.dealloc(at, layout);
            }
        };
        let (ours, others) = of_thread();
        make();
        assert_eq!(of_thread(), (ours + 2, others));
        apart(make);
        assert_eq!(of_thread(), (ours + 2, others + 2));
    }
}
