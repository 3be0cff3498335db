//! Walking the trees: each page against the checksum that its parent holds, each key against its neighbours.
//!
//! Decides which pages of a tree count. A page that does not is told to the visitor and not entered. Invariants:
//! nothing is written; no bytes make a walk endless (keys must ascend through the whole tree, and its depth is bounded)
//! or take more memory than the cache and one path.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use super::header::{Head, PageNo, Root};
use super::page::{Child, Node, Widths};
use crate::findings::Beat;

/// No sound tree is nearly as deep.
const DEPTH_MAX: usize = 40;
/// Pages kept, in bytes.
const CACHE_BYTES: usize = 64 << 20;

/// The address space of the tables.
pub trait Bytes {
    fn len(&self) -> u64;
    /// Fills `out`; false if something of it is not what was written there.
    fn read(&self, offset: u64, out: &mut [u8]) -> bool;
    /// Other content that may belong at `offset`: calls `fits` with each until it says yes, and remembers that.
    fn adopt(&self, _offset: u64, _len: usize, _fits: &mut dyn FnMut(&[u8]) -> bool) {}
}

/// A page that does not count.
#[derive(Clone, Debug)]
pub struct Broken {
    pub page: PageNo,
    pub why: &'static str,
    /// Keys below it lie in `(low, high]`.
    pub low: Option<Vec<u8>>,
    pub high: Option<Vec<u8>>,
    /// What lies there, if it could be found.
    pub bytes: Vec<u8>,
}

impl Broken {
    pub fn covers(&self, key: &[u8], widths: Widths) -> bool {
        self.low.as_ref().is_none_or(|low| widths.compare(low, key).is_lt())
            && self.high.as_ref().is_none_or(|high| widths.compare(key, high).is_le())
    }
}

/// Who is told what a walk meets.
pub trait Visitor {
    /// A sound page; false: not to be entered.
    fn page(&mut self, _page: PageNo, _bytes: usize) -> bool {
        true
    }
    fn entry(&mut self, key: &[u8], value: &[u8]);
    fn broken(&mut self, broken: Broken);
}

/// A sound page in memory.
pub struct Loaded {
    pub bytes: Vec<u8>,
    pub node: Node,
}

/// One part of a tree: where it begins and which keys it may hold.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub child: Child,
    pub low: Option<&'a [u8]>,
    pub high: Option<&'a [u8]>,
    pub depth: usize,
}

impl Part<'_> {
    pub(super) fn whole(child: Child) -> Part<'static> {
        Part { child, low: None, high: None, depth: 0 }
    }
}

/// All trees of one commit.
pub struct Trees<'a> {
    pub bytes: &'a dyn Bytes,
    pub head: Head,
    /// By page and the checksum that it was found to have.
    cache: RefCell<BTreeMap<(PageNo, u128), Rc<Loaded>>>,
    cached: Cell<usize>,
    /// Keys of the library's own tables sort by rules of their own.
    pub ordered: bool,
    /// Told of every entry that a walk passes.
    pub beat: Option<&'a dyn Beat>,
}

impl<'a> Trees<'a> {
    pub fn new(bytes: &'a dyn Bytes, head: Head) -> Trees<'a> {
        Trees { bytes, head, cache: RefCell::default(), cached: Cell::new(0), ordered: true, beat: None }
    }

    /// The page as it lies, sound or not.
    pub(super) fn raw(&self, page: PageNo) -> Option<Vec<u8>> {
        let (offset, len) = self.head.place(page, self.bytes.len())?;
        let mut bytes = vec![0; len];
        self.bytes.read(offset, &mut bytes);
        Some(bytes)
    }

    pub(super) fn load(&self, part: Part<'_>, widths: Widths) -> Result<Rc<Loaded>, Broken> {
        let page = part.child.page;
        if let Some(found) = self.cache.borrow().get(&(page, part.child.checksum)) {
            return Ok(Rc::clone(found));
        }
        let broken = |why, bytes| Broken {
            page,
            why,
            low: part.low.map(<[u8]>::to_vec),
            high: part.high.map(<[u8]>::to_vec),
            bytes,
        };
        if part.depth > DEPTH_MAX {
            return Err(broken("the tree is deeper than any can be", Vec::new()));
        }
        let Some(mut bytes) = self.raw(page) else {
            return Err(broken("it would lie outside the tables", Vec::new()));
        };
        let right = |bytes: &[u8]| {
            Node::parse(bytes, widths).is_ok_and(|node| node.checksum(bytes) == Some(part.child.checksum))
        };
        if !right(&bytes)
            && let Some((offset, len)) = self.head.place(page, self.bytes.len())
        {
            self.bytes.adopt(offset, len, &mut |other| {
                let fits = right(other);
                if fits {
                    bytes.copy_from_slice(other);
                }
                fits
            });
        }
        let node = match Node::parse(&bytes, widths) {
            Ok(node) => node,
            Err(why) => return Err(broken(why, bytes)),
        };
        // The checksum decides, not the digest: a digest that went stale must not lose a page.
        if node.checksum(&bytes) != Some(part.child.checksum) {
            return Err(broken("its checksum does not match", bytes));
        }
        if self.ordered && !node.in_order(&bytes, widths, part.low, part.high) {
            return Err(broken("its keys are out of order", bytes));
        }
        let loaded = Rc::new(Loaded { bytes, node });
        let mut cache = self.cache.borrow_mut();
        if self.cached.get() > CACHE_BYTES {
            cache.clear();
            self.cached.set(0);
        }
        self.cached.set(self.cached.get() + loaded.bytes.len());
        cache.insert((page, part.child.checksum), Rc::clone(&loaded));
        Ok(loaded)
    }

    /// Every entry of the tree in order, as far as its pages are sound.
    pub fn walk(&self, root: Root, widths: Widths, visitor: &mut dyn Visitor) {
        let child = Child { page: root.page, checksum: root.checksum };
        self.walk_part(Part::whole(child), widths, visitor);
    }

    pub(super) fn walk_part(&self, part: Part<'_>, widths: Widths, visitor: &mut dyn Visitor) {
        let loaded = match self.load(part, widths) {
            Ok(loaded) => loaded,
            Err(broken) => return visitor.broken(broken),
        };
        if !visitor.page(part.child.page, loaded.bytes.len()) {
            return;
        }
        match &loaded.node {
            Node::Leaf(entries) => {
                if let Some(beat) = self.beat {
                    beat.beat(entries.len() as u64);
                }
                for (key, value) in entries {
                    visitor.entry(&loaded.bytes[key.clone()], &loaded.bytes[value.clone()]);
                }
            }
            Node::Branch(children, keys) => {
                for (n, child) in children.iter().enumerate() {
                    let key = |n: usize| keys.get(n).map(|range| &loaded.bytes[range.clone()]);
                    let low = n.checked_sub(1).and_then(key).or(part.low);
                    let high = key(n).or(part.high);
                    let below = Part { child: *child, low, high, depth: part.depth + 1 };
                    self.walk_part(below, widths, visitor);
                }
            }
        }
    }

    /// The value of one key, `None` if it is not there or lies below a broken page.
    pub fn get(&self, root: Root, widths: Widths, key: &[u8]) -> Option<Vec<u8>> {
        let mut part = Part::whole(Child { page: root.page, checksum: root.checksum });
        loop {
            let loaded = self.load(part, widths).ok()?;
            match &loaded.node {
                Node::Leaf(entries) => {
                    let at = entries
                        .binary_search_by(|(range, _)| widths.compare(&loaded.bytes[range.clone()], key))
                        .ok()?;
                    return Some(loaded.bytes[entries[at].1.clone()].to_vec());
                }
                Node::Branch(children, keys) => {
                    let below =
                        keys.partition_point(|r| widths.compare(&loaded.bytes[r.clone()], key).is_lt());
                    // The bounds were checked when the whole tree was walked.
                    part =
                        Part { child: *children.get(below)?, low: None, high: None, depth: part.depth + 1 };
                }
            }
        }
    }
}
