//! The tables' pages, read without the library that writes them: head, branches, leaves, checksums.
//!
//! Decides what of the tables can be trusted and what below a broken page can still be saved. Knows no file and no
//! inode. Invariants: nothing is written; no bytes make it panic, loop, or take unbounded memory.

mod catalog;
mod freed;
mod header;
mod page;
mod salvage;
mod walk;

pub use catalog::{Catalog, TableInfo, read_catalog};
pub use freed::{Freed, LISTS};
pub use header::{Commit, HEAD_BYTES, Head, PAGE, PageNo, Root};
pub use page::Widths;
pub use salvage::{Saved, below_broken, unreferenced};
pub use walk::{Broken, Bytes, Trees, Visitor};

#[cfg(test)]
mod tests;
