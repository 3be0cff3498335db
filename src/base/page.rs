//! Buffers aligned to 4 KiB for O_DIRECT, without unsafe code: a vector of aligned pages seen as bytes.

use std::ops::{Deref, DerefMut};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes in a page: the alignment that O_DIRECT is given.
pub const PAGE: usize = 4096;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; PAGE]);

/// A buffer of whole pages, aligned to 4 KiB; dereferences to its bytes.
#[derive(Clone, Default)]
pub struct Pages(Vec<Page>);

impl Pages {
    /// `count` pages of zeros.
    pub fn zeroed(count: usize) -> Pages {
        Pages(vec![Page([0; PAGE]); count])
    }

    /// A copy of `bytes`, padded with zeros to whole pages.
    pub fn copy_of(bytes: &[u8]) -> Pages {
        let mut pages = Pages::zeroed(bytes.len().div_ceil(PAGE));
        pages[..bytes.len()].copy_from_slice(bytes);
        pages
    }

    /// Whether `bytes` could be handed to O_DIRECT as it is.
    pub fn is_aligned(bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(PAGE) && bytes.len().is_multiple_of(PAGE)
    }
}

impl Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
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
}
