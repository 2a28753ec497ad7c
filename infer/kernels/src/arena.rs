//! Zeroed memory on cache-line or page boundaries.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};

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

/// Zeros at first, where vectors do not cross cache lines; huge pages where they fill one.
#[derive(Debug, Default)]
pub struct Aligned(Option<Arena>);

impl Aligned {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        Self((len > 0).then(|| Arena::zeroed(len)))
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the arena's own memory, initialised, borrowed as the buffer is; nobody else has its pointer.
        self.0.as_ref().map_or(&[], |arena| unsafe { std::slice::from_raw_parts(arena.start, arena.len) })
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: the arena's own memory, initialised, borrowed as the buffer is; nobody else has its pointer.
        self.0.as_mut().map_or(&mut [], |arena| unsafe { std::slice::from_raw_parts_mut(arena.start, arena.len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_start_on_a_cache_line_with_zeros() {
        for len in [0, 1, 17, 1 << 20] {
            let mut buffer = Aligned::zeroed(len);
            assert_eq!(buffer.as_ptr().align_offset(if len > 0 { 64 } else { 1 }), 0);
            assert!(buffer.len() == len && buffer.iter().all(|v| *v == 0.0));
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), len as f32);
        }
    }
}
