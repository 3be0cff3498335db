//! What can still be saved below a page that does not count.
//!
//! Decides in which order it is believed: children that match the checksum a broken branch holds of them are as good
//! as ever; entries of a broken leaf and leaves that nothing refers to any more are told apart as not sure. Does not
//! know what an entry means: whoever asks decides what is plausible.

use std::collections::BTreeSet;

use super::PAGE;
use super::header::PageNo;
use super::page::{Node, Widths, children_of_broken, entries_of_shape, loose_entries};
use super::walk::{Broken, Part, Trees, Visitor};

/// Nested broken pages below one broken page.
const NESTED_MAX: usize = 64;
/// Largest leaf that is looked for where nothing refers to it.
const LOST_LEAF_BYTES: usize = 1 << 18;

/// An entry that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// Its page is as it was written.
    pub sure: bool,
}

struct Below<'a> {
    seen: &'a mut BTreeSet<PageNo>,
    out: &'a mut Vec<Saved>,
    broken: Vec<Broken>,
}

impl Visitor for Below<'_> {
    fn page(&mut self, page: PageNo, _: usize) -> bool {
        self.seen.insert(page)
    }
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.out.push(Saved { key: key.to_vec(), value: value.to_vec(), sure: true });
    }
    fn broken(&mut self, broken: Broken) {
        self.broken.push(broken);
    }
}

/// Saves what a broken page itself still tells. `seen` holds every page that was read as sound and grows; `shape` is
/// the length of keys and values, where all have the same.
pub fn below_broken(
    trees: &Trees<'_>,
    broken: &Broken,
    widths: Widths,
    shape: Option<(usize, usize)>,
    seen: &mut BTreeSet<PageNo>,
) -> Vec<Saved> {
    let mut out = Vec::new();
    let mut todo = vec![broken.clone()];
    let mut done = 0;
    while let Some(next) = todo.pop() {
        done += 1;
        if done > NESTED_MAX {
            break;
        }
        for child in children_of_broken(&next.bytes) {
            let part = Part::whole(child);
            // Only a child that proves itself: pointers of a broken page may be anything.
            if seen.contains(&child.page) || trees.load(part, widths).is_err() {
                continue;
            }
            let mut below = Below { seen: &mut *seen, out: &mut out, broken: Vec::new() };
            trees.walk_part(part, widths, &mut below);
            todo.extend(below.broken);
        }
        let shaped = shape.map(|(key, value)| entries_of_shape(&next.bytes, key, value)).unwrap_or_default();
        for (key, value) in loose_entries(&next.bytes, widths).into_iter().chain(shaped) {
            let (key, value) = (next.bytes[key].to_vec(), next.bytes[value].to_vec());
            if next.covers(&key, widths) {
                out.push(Saved { key, value, sure: false });
            }
        }
    }
    out
}

/// Leaves that nothing sound refers to: children of a branch that is gone, and older versions of pages. Calls `each`
/// with every entry that `wanted` covers.
pub fn unreferenced(
    trees: &Trees<'_>,
    wanted: &[Broken],
    widths: Widths,
    seen: &BTreeSet<u64>,
    each: &mut dyn FnMut(Saved),
) {
    let len = trees.bytes.len();
    let mut offset = PAGE;
    let mut page = vec![0; PAGE as usize];
    while offset + PAGE <= len {
        let at = offset;
        offset += PAGE;
        if seen.contains(&at) || !trees.bytes.read(at, &mut page) || page[0] != 1 {
            continue;
        }
        let Some((bytes, node)) = lost_leaf(trees, at, &page, widths) else { continue };
        let Node::Leaf(entries) = &node else { continue };
        if !node.in_order(&bytes, widths, None, None) {
            continue;
        }
        for (key, value) in entries {
            let (key, value) = (&bytes[key.clone()], &bytes[value.clone()]);
            if wanted.iter().any(|broken| broken.covers(key, widths)) {
                each(Saved { key: key.to_vec(), value: value.to_vec(), sure: false });
            }
        }
    }
}

/// A leaf that starts at `at`: in one page, or as many as its entries need.
fn lost_leaf(trees: &Trees<'_>, at: u64, page: &[u8], widths: Widths) -> Option<(Vec<u8>, Node)> {
    let mut size = PAGE as usize;
    let mut bytes = page.to_vec();
    loop {
        if let Ok(node) = Node::parse(&bytes, widths) {
            return Some((bytes, node));
        }
        size *= 2;
        if size > LOST_LEAF_BYTES || at + size as u64 > trees.bytes.len() {
            return None;
        }
        bytes = vec![0; size];
        if !trees.bytes.read(at, &mut bytes) {
            return None;
        }
    }
}
