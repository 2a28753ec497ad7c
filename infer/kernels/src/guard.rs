//! Tests only: an allocator that puts what a test allocates between pages that must not be touched.
//!
//! A load or store outside its allocation then ends the test program, also one of a whole vector, a gather or a prefix
//! read that AddressSanitizer does not see.

/// Runs a test twice: all it allocates ends at such a page the first time, and starts at one the second.
pub(crate) fn both(test: impl Fn()) {
    #[cfg(target_os = "linux")]
    for side in [pages::Side::End, pages::Side::Start] {
        let _guard = pages::Scope::enter(side);
        test();
    }
    #[cfg(not(target_os = "linux"))]
    test();
}

#[cfg(target_os = "linux")]
mod pages {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;
    use std::ops::Range;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Which end of an allocation touches a page that must not be touched.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Side {
        Start,
        End,
    }

    thread_local! {
        static SIDE: Cell<Option<Side>> = const { Cell::new(None) };
    }

    /// While it lives, what its thread allocates is guarded.
    pub(crate) struct Scope;

    impl Scope {
        pub(crate) fn enter(side: Side) -> Self {
            SIDE.set(Some(side));
            Self
        }
    }

    impl Drop for Scope {
        fn drop(&mut self) {
            SIDE.set(None);
        }
    }

    /// A multiple of every page size of Linux.
    const PAGE: usize = 64 << 10;

    /// Addresses far from where the system maps anything by itself: they tell guarded allocations from others.
    const ADDRESSES: Range<usize> = 0x1000_0000_0000..0x5000_0000_0000;

    static NEXT: AtomicUsize = AtomicUsize::new(ADDRESSES.start);

    struct Guarded;

    #[global_allocator]
    static ALLOCATOR: Guarded = Guarded;

    // SAFETY: guarded allocations have pages of their own, which are mapped until they are freed and never used again;
    // all others are the system's.
    unsafe impl GlobalAlloc for Guarded {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promise.
            let Some(side) = SIDE.get() else { return unsafe { System.alloc(layout) } };
            let start = map(layout, side);
            if !start.is_null() {
                // What nobody wrote is NaN.
                // SAFETY: the pages hold the layout.
                unsafe { start.write_bytes(0xff, layout.size()) };
            }
            start
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            match SIDE.get() {
                Some(side) => map(layout, side),
                // SAFETY: the caller's promise.
                None => unsafe { System.alloc_zeroed(layout) },
            }
        }

        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            if !ADDRESSES.contains(&start.addr()) {
                // SAFETY: the caller's promise.
                return unsafe { System.dealloc(start, layout) };
            }
            let pages = start.map_addr(|address| address / PAGE * PAGE - PAGE);
            // SAFETY: what `map` mapped: every allocation starts in the second of its pages.
            unsafe { libc::munmap(pages.cast(), layout.size().next_multiple_of(PAGE) + 2 * PAGE) };
        }
    }

    /// Pages of zeros that hold `layout`, and a page on either side that must not be touched; null on failure.
    fn map(layout: Layout, side: Side) -> *mut u8 {
        let align = layout.align().max(PAGE);
        let len = layout.size().next_multiple_of(PAGE);
        let taken = NEXT.fetch_add(len + 2 * PAGE + align, Ordering::Relaxed);
        let first = (taken + PAGE).next_multiple_of(align);
        let hint = std::ptr::without_provenance_mut(first - PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: asks for fresh pages; a hint replaces nothing.
        let pages = unsafe { libc::mmap(hint, len + 2 * PAGE, libc::PROT_NONE, flags, -1, 0) }.cast::<u8>();
        // SAFETY: the inner pages are those just mapped.
        if pages.cast() != hint
            || unsafe { libc::mprotect(pages.add(PAGE).cast(), len, libc::PROT_READ | libc::PROT_WRITE) } != 0
        {
            return null_mut();
        }
        let place = match side {
            Side::Start => 0,
            Side::End => (first + len - layout.size()) / layout.align() * layout.align() - first,
        };
        // SAFETY: the place and the layout's size behind it lie in the inner pages.
        unsafe { pages.add(PAGE + place) }
    }

    /// How a child process that does `access` ends.
    fn signal_of(access: impl FnOnce()) -> Option<i32> {
        let mut status = 0;
        // SAFETY: the child does nothing but the access before it ends; the parent waits for it.
        unsafe {
            match libc::fork() {
                0 => {
                    access();
                    libc::_exit(0)
                }
                child => assert_eq!(libc::waitpid(child, &raw mut status, 0), child),
            }
        }
        libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
    }

    #[test]
    fn accesses_outside_an_allocation_end_the_program() {
        let segfault = Some(libc::SIGSEGV);
        for (side, len) in [Side::End, Side::Start].into_iter().flat_map(|side| [1, 7, 20_000].map(|len| (side, len))) {
            let scope = Scope::enter(side);
            let mut values = vec![1.0f32; len];
            drop(scope);
            let start = values.as_mut_ptr();
            // SAFETY: inside, and outside where only the child goes, to end there.
            unsafe {
                assert_eq!(signal_of(|| start.add(len - 1).write_volatile(start.read_volatile())), None);
                let outside = if side == Side::End { start.add(len) } else { start.sub(1) };
                assert_eq!(signal_of(|| _ = outside.read_volatile()), segfault, "{side:?}, {len}");
                assert_eq!(signal_of(|| outside.write_volatile(0.0)), segfault, "{side:?}, {len}");
            }
        }
    }
}
