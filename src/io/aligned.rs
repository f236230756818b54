//! Heap memory aligned for direct I/O, for what doesn't come from the shard's pool: metadata and partial blocks.

use crate::base::range::BLOCK;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes at an address that is a multiple of 4 KiB. Zero until written.
#[derive(Debug)]
pub struct AlignedBytes {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is owned and plain bytes; borrows of it follow the borrows of this value.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; a shared borrow only reads.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `length` zero bytes; more than none.
    pub fn zeroed(length: usize) -> AlignedBytes {
        let layout = Self::layout(length);
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        AlignedBytes { base, length }
    }

    /// A copy of `bytes`; more than none.
    pub fn copy_of(bytes: &[u8]) -> AlignedBytes {
        let mut copy = AlignedBytes::zeroed(bytes.len());
        copy.copy_from_slice(bytes);
        copy
    }

    fn layout(length: usize) -> Layout {
        assert!(length > 0, "aligned memory has a size");
        Layout::from_size_align(length, BLOCK as usize).expect("a size of memory that fits the address space")
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is owned, initialised and `length` bytes long.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the value is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) }
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with the same layout.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.length)) };
    }
}
