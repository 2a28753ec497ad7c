//! Zeroed memory on cache-line or page boundaries.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// A run of f32 values, zero at first, aligned to 64 bytes, or to huge pages where it fills one.
#[derive(Debug)]
pub(crate) struct Arena {
    start: *mut f32,
    len: usize,
}

// SAFETY: an arena owns its memory; shared access goes through raw pointers whose users answer for it.
unsafe impl Send for Arena {}
// SAFETY: as above; `&Arena` alone gives no access to the values.
unsafe impl Sync for Arena {}

impl Arena {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let len = len.max(1);
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above 0.
        let start = unsafe { alloc_zeroed(layout) }.cast::<f32>();
        if start.is_null() {
            handle_alloc_error(layout);
        }
        advise_huge_pages(start, layout);
        Self { start, len }
    }

    /// The first value.
    pub(crate) fn as_ptr(&self) -> *mut f32 {
        self.start
    }

    /// All values.
    #[cfg(test)]
    pub(crate) fn values(&mut self) -> &mut [f32] {
        // SAFETY: the arena's own memory, borrowed as the arena is.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn layout(len: usize) -> Layout {
        let align = if len * size_of::<f32>() < HUGE_PAGE { 64 } else { HUGE_PAGE };
        Layout::array::<f32>(len).and_then(|l| l.align_to(align)).expect("arena sizes are far below isize::MAX")
    }
}

/// Asks for huge pages: a tile touches a page for every channel, more than the first-level TLB holds. The system may
/// well refuse.
fn advise_huge_pages(start: *mut f32, layout: Layout) {
    #[cfg(target_os = "linux")]
    if layout.size() >= HUGE_PAGE {
        // SAFETY: the range is the allocation's, on a page boundary; the advice does not change what it holds.
        unsafe { libc::madvise(start.cast(), layout.size(), libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, layout);
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.start.cast(), Self::layout(self.len)) }
    }
}
