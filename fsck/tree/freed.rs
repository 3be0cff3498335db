//! The library's lists of pages that it means to free: it acts on them without a look.
//!
//! Decides whether every page of a list can be and is listed once.

use super::header::{PageNo, u64_at};
use super::walk::{Broken, Trees, Visitor};

/// Names of the lists in the catalogue of the library's own tables.
pub const LISTS: [&str; 2] = ["data_pages_unreachable", "system_pages_unreachable"];

/// What the lists name.
#[derive(Debug, Default)]
pub struct Freed {
    pages: Vec<PageNo>,
    /// Lists shorter than they say.
    short: usize,
}

impl Visitor for Freed {
    fn entry(&mut self, _key: &[u8], value: &[u8]) {
        let count = value.first_chunk().map(|raw| usize::from(u16::from_le_bytes(*raw)));
        match count.and_then(|count| value.get(2..2 + count * 8)) {
            Some(list) => {
                self.pages.extend((0..list.len() / 8).filter_map(|n| u64_at(list, n * 8)).map(PageNo))
            }
            None => self.short += 1,
        }
    }

    fn broken(&mut self, _broken: Broken) {}
}

impl Freed {
    /// How many entries cannot be: outside the tables, listed twice, or not there.
    pub fn wrong(&self, trees: &Trees<'_>) -> usize {
        let len = trees.bytes.len();
        let mut places: Vec<(u64, usize)> =
            self.pages.iter().filter_map(|page| trees.head.place(*page, len)).collect();
        places.sort_unstable();
        let twice = places.windows(2).filter(|pair| pair[0].0 + pair[0].1 as u64 > pair[1].0).count();
        self.short + (self.pages.len() - places.len()) + twice
    }
}
