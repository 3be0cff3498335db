//! Buffers aligned to 4 KiB for O_DIRECT, without unsafe code: a vector of aligned pages seen as bytes.
//!
//! Large ones lie inside one huge page and are used again. The disk gets a megabyte as one piece instead of 256
//! scattered ones, and nobody waits for the kernel to clear new pages: reading with O_DIRECT, 1 MiB at a time, went
//! from 1.1-1.9 to 2.8-3.2 GB/s on a virtio disk.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, OnceLock, PoisonError};

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Bytes in a page: the alignment that O_DIRECT is given.
pub const PAGE: usize = 4096;

/// From so many pages on a buffer lies in a slab, up to the size of a huge page.
const LARGE: usize = 64;
const HUGE: usize = 512;
/// Enough for a whole huge page wherever the allocation starts.
const SLAB: usize = 2 * HUGE - 1;
/// Free slabs that are kept, 2 MiB each: as many as threads that read and write at once.
const KEPT: usize = 8;

static FREE: Mutex<Vec<Vec<Page>>> = Mutex::new(Vec::new());
static ADVISE: OnceLock<fn(&mut [u8])> = OnceLock::new();

/// `advise` is called once with the memory of every new slab, before it is touched: whoever may call the kernel can ask
/// for a huge page. The first caller wins.
pub fn advise_slabs_with(advise: fn(&mut [u8])) {
    let _ = ADVISE.set(advise);
}

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// A buffer of whole pages, aligned to 4 KiB; dereferences to its bytes.
#[derive(Default)]
pub struct Pages {
    store: Vec<Page>,
    first: usize,
    count: usize,
}

impl Pages {
    /// `count` pages of zeros.
    pub fn zeroed(count: usize) -> Pages {
        if (LARGE..=HUGE).contains(&count) {
            let mut pages = Pages::in_slab(count);
            pages.fill(0);
            return pages;
        }
        Pages { store: vec![Page([0; PAGE]); count], first: 0, count }
    }

    /// A copy of `bytes`, padded with zeros to whole pages.
    pub fn copy_of(bytes: &[u8]) -> Pages {
        let count = bytes.len().div_ceil(PAGE);
        let mut pages =
            if (LARGE..=HUGE).contains(&count) { Pages::in_slab(count) } else { Pages::zeroed(count) };
        pages[..bytes.len()].copy_from_slice(bytes);
        pages[bytes.len()..].fill(0);
        pages
    }

    /// Whole pages one behind the other; each part is one page.
    pub fn gathered(parts: &[&[u8]]) -> Pages {
        let mut pages = if (LARGE..=HUGE).contains(&parts.len()) {
            Pages::in_slab(parts.len())
        } else {
            Pages::zeroed(parts.len())
        };
        for (slot, part) in pages.chunks_exact_mut(PAGE).zip(parts) {
            slot.copy_from_slice(part);
        }
        pages
    }

    /// Whether `bytes` could be handed to O_DIRECT as it is.
    pub fn is_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(PAGE) && bytes.len().is_multiple_of(PAGE)
    }

    /// With whatever the slab held before.
    fn in_slab(count: usize) -> Pages {
        let used = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let store = used.or_else(new_slab).unwrap_or_else(|| vec![Page([0; PAGE]); count]);
        let first = if store.len() == SLAB { aligned_in(&store) } else { 0 };
        Pages { store, first, count }
    }
}

/// `None` if there is no memory for one.
fn new_slab() -> Option<Vec<Page>> {
    let mut store = Page::new_vec_zeroed(SLAB).ok()?;
    let first = aligned_in(&store);
    if let Some(advise) = ADVISE.get() {
        advise(store[first..first + HUGE].as_mut_bytes());
    }
    Some(store)
}

/// The page of a slab that begins a huge one.
fn aligned_in(store: &[Page]) -> usize {
    let page = store.as_ptr().addr() / PAGE;
    page.next_multiple_of(HUGE) - page
}

impl Clone for Pages {
    fn clone(&self) -> Pages {
        Pages::copy_of(self)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.store.len() == SLAB {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            if free.len() < KEPT {
                free.push(std::mem::take(&mut self.store));
            }
        }
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.store[self.first..self.first + self.count].as_bytes()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.store[self.first..self.first + self.count].as_mut_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_padded_with_zeros() {
        let pages = Pages::copy_of(&[7; 5000]);
        assert!(Pages::is_aligned(&pages));
        assert_eq!(pages.len(), 8192);
        assert!(pages[..5000].iter().all(|b| *b == 7) && pages[5000..].iter().all(|b| *b == 0));
    }

    #[test]
    fn what_a_slab_held_before_is_never_seen_again() {
        for _ in 0..2 * KEPT {
            let full: Vec<Pages> = (0..3).map(|_| Pages::copy_of(&vec![7; HUGE * PAGE])).collect();
            assert!(full.iter().all(|pages| pages.as_ptr().addr().is_multiple_of(HUGE * PAGE)));
            drop(full);
            let zeros = Pages::zeroed(LARGE);
            assert!(zeros.len() == LARGE * PAGE && zeros.iter().all(|b| *b == 0));
            let part = Pages::copy_of(&vec![9; LARGE * PAGE + 1]);
            assert!(part.len() == (LARGE + 1) * PAGE && part[LARGE * PAGE + 1..].iter().all(|b| *b == 0));
            assert_eq!(part.clone()[..], part[..]);
        }
    }
}
