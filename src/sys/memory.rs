//! What the kernel is told about memory.
//!
//! Decides nothing.
#![allow(unsafe_code, reason = "madvise")]

use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// Asks for huge pages in this memory; without them everything works, only slower.
pub fn prefer_huge_pages(memory: &mut [u8]) {
    let Some(start) = NonNull::new(memory.as_mut_ptr()) else { return };
    // SAFETY: the range is exactly the slice, which is ours alone, and this advice never changes what memory holds.
    let advised = unsafe { madvise(start.cast(), memory.len(), MmapAdvise::MADV_HUGEPAGE) };
    if let Err(error) = advised {
        tracing::debug!("no huge pages for buffers: {error}");
    }
}
