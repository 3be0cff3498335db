//! The table of tables: name, root, length and widths of each.
//!
//! Decides the bytes of a table's entry in the outer tree. Does not know what the tables are for.

use std::collections::BTreeMap;

use super::header::{Root, u32_at, u64_at};
use super::page::Widths;
use super::walk::{Broken, Trees, Visitor};

/// A plain table; the other kind has several values for a key.
const PLAIN: u8 = 3;
/// Fixed part of an entry, before the names of the types.
const FIXED: usize = 64;

/// One table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// `None`: the table is empty.
    pub root: Option<Root>,
    pub length: u64,
    pub widths: Widths,
    /// False: a kind that this program does not read.
    pub plain: bool,
}

impl TableInfo {
    pub fn decode(bytes: &[u8]) -> Option<TableInfo> {
        if bytes.len() < FIXED {
            return None;
        }
        let root = match bytes[9] {
            0 => None,
            _ => Some(Root::decode(&bytes[10..42])?),
        };
        let width = |at: usize| match bytes[at] {
            0 => Some(None),
            _ => u32_at(bytes, at + 1).map(|width| Some(width as usize)),
        };
        let widths = Widths { key: width(42)?, value: width(47)? };
        // A width of zero would make a page of any number of entries.
        let sane = |width: Option<usize>| width.is_none_or(|width| (1..=65_536).contains(&width));
        let plain = bytes[0] == PLAIN && sane(widths.key) && (sane(widths.value) || widths.value == Some(0));
        Some(TableInfo { root, length: u64_at(bytes, 1)?, widths, plain })
    }
}

/// All tables of a commit, and the pages of the outer tree that do not count.
#[derive(Default)]
pub struct Catalog {
    pub tables: BTreeMap<String, TableInfo>,
    pub broken: Vec<Broken>,
    /// Names whose entry is not readable.
    pub unreadable: Vec<String>,
}

impl Visitor for Catalog {
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        let name = String::from_utf8_lossy(key).into_owned();
        match TableInfo::decode(value) {
            Some(info) => {
                self.tables.insert(name, info);
            }
            None => self.unreadable.push(name),
        }
    }

    fn broken(&mut self, broken: Broken) {
        self.broken.push(broken);
    }
}

/// Reads the outer tree.
pub fn read_catalog(trees: &Trees<'_>, root: Option<Root>) -> Catalog {
    let mut catalog = Catalog::default();
    if let Some(root) = root {
        trees.walk(root, Widths::default(), &mut catalog);
    }
    catalog
}
