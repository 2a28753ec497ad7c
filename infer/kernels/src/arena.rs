//! Zeroed memory on cache-line boundaries.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

/// A run of f32 values, zero at first, aligned to 64 bytes.
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
        Self { start, len }
    }

    /// The first value.
    pub(crate) fn as_ptr(&self) -> *mut f32 {
        self.start
    }

    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len).and_then(|l| l.align_to(64)).expect("arena sizes are far below isize::MAX")
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.start.cast(), Self::layout(self.len)) }
    }
}
