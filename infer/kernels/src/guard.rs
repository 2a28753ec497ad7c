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
    use std::sync::Mutex;
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

    /// For each number of inner pages a list of mappings to use again, since mapping takes long: the first inner value
    /// of each is the next one's address.
    static FREE: [Mutex<Inner>; 32] = [const { Mutex::new(Inner(null_mut())) }; 32];

    /// The first inner page of a mapping, between pages that must not be touched; or null.
    #[derive(Clone, Copy)]
    struct Inner(*mut u8);

    // SAFETY: only one list holds a mapping, behind its lock.
    unsafe impl Send for Inner {}

    struct Guarded;

    #[global_allocator]
    static ALLOCATOR: Guarded = Guarded;

    // SAFETY: guarded allocations have mappings of their own until they are freed; all others are the system's.
    unsafe impl GlobalAlloc for Guarded {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            match side_of(layout) {
                // What nobody wrote is NaN.
                Some(side) => place(layout, side, 0xff),
                // SAFETY: the caller's promise.
                None => unsafe { System.alloc(layout) },
            }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            match side_of(layout) {
                Some(side) => place(layout, side, 0),
                // SAFETY: the caller's promise.
                None => unsafe { System.alloc_zeroed(layout) },
            }
        }

        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            if !ADDRESSES.contains(&start.addr()) {
                // SAFETY: the caller's promise.
                return unsafe { System.dealloc(start, layout) };
            }
            // Every allocation starts in the first inner page.
            let inner = start.map_addr(|address| address / PAGE * PAGE);
            let len = layout.size().next_multiple_of(PAGE);
            match FREE.get(len / PAGE) {
                Some(list) => {
                    let mut first = list.lock().expect("nothing panics under this lock");
                    // SAFETY: the page is writable, and this allocator's again.
                    unsafe { inner.cast::<Inner>().write(*first) };
                    *first = Inner(inner);
                }
                // SAFETY: all that `map` mapped.
                None => _ = unsafe { libc::munmap(inner.sub(PAGE).cast(), len + 2 * PAGE) },
            }
        }
    }

    /// What is to be aligned to more than a page is not guarded, nor what a failing test's backtrace is made of, which
    /// would use up all mappings there may be.
    fn side_of(layout: Layout) -> Option<Side> {
        SIDE.get().filter(|_| layout.align() <= PAGE && !std::thread::panicking())
    }

    /// Memory for `layout`, all bytes `fill`; null on failure.
    fn place(layout: Layout, side: Side, fill: u8) -> *mut u8 {
        let len = layout.size().next_multiple_of(PAGE);
        let mut inner = null_mut();
        if let Some(list) = FREE.get(len / PAGE) {
            let mut first = list.lock().expect("nothing panics under this lock");
            inner = first.0;
            if !inner.is_null() {
                // SAFETY: `dealloc` wrote it.
                *first = unsafe { inner.cast::<Inner>().read() };
            }
        }
        if inner.is_null() {
            inner = map(len);
        }
        if inner.is_null() {
            return inner;
        }
        let at = match side {
            Side::Start => 0,
            Side::End => (len - layout.size()) / layout.align() * layout.align(),
        };
        // SAFETY: the inner pages hold the layout from there on.
        unsafe {
            inner.add(at).write_bytes(fill, layout.size());
            inner.add(at)
        }
    }

    /// `len` bytes of fresh pages, with a page before and one behind that must not be touched; null on failure.
    fn map(len: usize) -> *mut u8 {
        let hint = std::ptr::without_provenance_mut(NEXT.fetch_add(len + 2 * PAGE, Ordering::Relaxed));
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: asks for fresh pages, where the hint replaces nothing, and opens the inner ones.
        unsafe {
            let pages = libc::mmap(hint, len + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            let inner = pages.byte_add(PAGE);
            let opened = pages == hint && libc::mprotect(inner, len, libc::PROT_READ | libc::PROT_WRITE) == 0;
            if opened { inner.cast() } else { null_mut() }
        }
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
