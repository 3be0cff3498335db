//! One page of a tree: a branch or a leaf, taken apart.
//!
//! Decides which bytes of a page are keys, values and children. `Node::parse` is strict: whatever it answers lies
//! inside the page and in order. `loose_entries` and `loose_children` take what a broken page may still say.

use std::cmp::Ordering;
use std::ops::Range;

use super::header::{PageNo, u32_at, u64_at, u128_at};
use crate::xxh3::checksum;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// Widths of keys and values that have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Widths {
    pub key: Option<usize>,
    pub value: Option<usize>,
}

impl Widths {
    /// Keys of a fixed width are numbers (little-endian), all others are bytes.
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Ordering {
        match self.key {
            Some(8) => u64_at(a, 0).cmp(&u64_at(b, 0)),
            _ => a.cmp(b),
        }
    }
}

/// Child of a branch with the checksum it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    pub page: PageNo,
    pub checksum: u128,
}

/// A page taken apart; ranges are offsets in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    Leaf(Vec<(Range<usize>, Range<usize>)>),
    /// One child more than keys.
    Branch(Vec<Child>, Vec<Range<usize>>),
}

/// Runs of `count` pieces that start at `start`: of one width, or with their ends at `ends_at` in the page.
fn pieces(
    page: &[u8],
    start: usize,
    count: usize,
    width: Option<usize>,
    ends_at: usize,
) -> Option<Vec<Range<usize>>> {
    let mut out = Vec::with_capacity(count.min(page.len()));
    let mut from = start;
    for n in 0..count {
        let end = match width {
            Some(width) => from.checked_add(width)?,
            None => u32_at(page, ends_at + n * 4)? as usize,
        };
        if end < from || end > page.len() {
            return None;
        }
        out.push(from..end);
        from = end;
    }
    Some(out)
}

impl Node {
    pub fn parse(page: &[u8], widths: Widths) -> Result<Node, &'static str> {
        let count = u32_at(page, 0).map_or(0, |head| (head >> 16) as usize);
        if count == 0 {
            return Err("a page of no entries");
        }
        match page.first() {
            Some(&LEAF) => leaf(page, count, widths).ok_or("a leaf whose entries lie outside"),
            Some(&BRANCH) => branch(page, count, widths).ok_or("a branch whose keys lie outside"),
            _ => Err("neither leaf nor branch"),
        }
    }

    /// Where the checksummed part of the page ends.
    pub fn end(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.last().map_or(0, |(_, value)| value.end),
            Node::Branch(_, keys) => keys.last().map_or(0, |key| key.end),
        }
    }

    pub fn checksum(&self, page: &[u8]) -> Option<u128> {
        page.get(..self.end()).and_then(checksum)
    }

    /// Whether all keys ascend and lie in `(low, high]`.
    pub fn in_order(&self, page: &[u8], widths: Widths, low: Option<&[u8]>, high: Option<&[u8]>) -> bool {
        let mut last = low;
        let mut ascends = |key: &Range<usize>| {
            let key = &page[key.clone()];
            let above = last.is_none_or(|last| widths.compare(last, key).is_lt());
            last = Some(key);
            above
        };
        let ordered = match self {
            Node::Leaf(entries) => entries.iter().all(|(key, _)| ascends(key)),
            Node::Branch(_, keys) => keys.iter().all(ascends),
        };
        let fits = high.is_none_or(|high| last.is_none_or(|last| widths.compare(last, high).is_le()));
        ordered && fits
    }
}

fn leaf(page: &[u8], count: usize, widths: Widths) -> Option<Node> {
    let key_ends = 4;
    let value_ends = key_ends + if widths.key.is_none() { count * 4 } else { 0 };
    let start = value_ends + if widths.value.is_none() { count * 4 } else { 0 };
    let keys = pieces(page, start, count, widths.key, key_ends)?;
    let values_at = keys.last()?.end;
    let values = pieces(page, values_at, count, widths.value, value_ends)?;
    Some(Node::Leaf(keys.into_iter().zip(values).collect()))
}

fn branch(page: &[u8], count: usize, widths: Widths) -> Option<Node> {
    let children = loose_children(page, count + 1)?;
    let ends_at = 8 + (count + 1) * 24;
    let start = ends_at + if widths.key.is_none() { count * 4 } else { 0 };
    let keys = pieces(page, start, count, widths.key, ends_at)?;
    Some(Node::Branch(children, keys))
}

/// Children that a branch names, whatever else is wrong with it.
pub fn loose_children(page: &[u8], count: usize) -> Option<Vec<Child>> {
    (0..count)
        .map(|n| {
            let checksum = u128_at(page, 8 + n * 16)?;
            let page = PageNo(u64_at(page, 8 + count * 16 + n * 8)?);
            Some(Child { page, checksum })
        })
        .collect()
}

/// Number of entries that the page claims, if that many fit.
fn claimed(page: &[u8], least: usize) -> Option<usize> {
    let count = u32_at(page, 0).map(|head| (head >> 16) as usize)?;
    (count > 0 && count * least <= page.len()).then_some(count)
}

/// What a broken page may still name as its children.
pub fn children_of_broken(page: &[u8]) -> Vec<Child> {
    claimed(page, 24).and_then(|count| loose_children(page, count + 1)).unwrap_or_default()
}

/// Entries of a broken leaf whose own offsets are sane. Their content is not vouched for.
pub fn loose_entries(page: &[u8], widths: Widths) -> Vec<(Range<usize>, Range<usize>)> {
    if page.first() == Some(&BRANCH) {
        return Vec::new();
    }
    let Some(count) = claimed(page, 8) else { return Vec::new() };
    let key_table = if widths.key.is_none() { count * 4 } else { 0 };
    let value_table = if widths.value.is_none() { count * 4 } else { 0 };
    let start = 4 + key_table + value_table;
    let ends = |at: usize, width: Option<usize>, base: Option<usize>, n: usize| match width {
        Some(width) => base.map(|base| base + width * n),
        None => u32_at(page, at + (n.wrapping_sub(1)) * 4).map(|end| end as usize),
    };
    let key_at = |n: usize| if n == 0 { Some(start) } else { ends(4, widths.key, Some(start), n) };
    let values = key_at(count);
    let value_at = |n: usize| if n == 0 { values } else { ends(4 + key_table, widths.value, values, n) };
    let sane = |from: Option<usize>, to: Option<usize>| match (from, to) {
        (Some(from), Some(to)) if start <= from && from <= to && to <= page.len() => Some(from..to),
        _ => None,
    };
    (0..count)
        .filter_map(|n| Some((sane(key_at(n), key_at(n + 1))?, sane(value_at(n), value_at(n + 1))?)))
        .collect()
}

/// Entries of a leaf whose offsets are lost, where all keys and all values have one length: the number of entries is
/// the one for which the keys ascend.
pub fn entries_of_shape(page: &[u8], key: usize, value: usize) -> Vec<(Range<usize>, Range<usize>)> {
    let most = page.len().saturating_sub(4) / (8 + key + value);
    let keys_at = |count: usize| 4 + count * 8;
    // How many of a thousand neighbours ascend.
    let order = |count: usize| {
        let keys = &page[keys_at(count)..][..count * key];
        let pairs = keys.chunks_exact(key).zip(keys.chunks_exact(key).skip(1));
        pairs.filter(|(a, b)| a < b).count() * 1000 / (count - 1)
    };
    // What is overwritten may be out of order; by a wrong number something always is.
    let best = (4..=most).max_by_key(|count| order(*count)).filter(|count| order(*count) >= 800);
    let Some(count) = best else { return Vec::new() };
    let (keys, values) = (keys_at(count), keys_at(count) + count * key);
    let entry =
        |n: usize| (keys + n * key..keys + (n + 1) * key, values + n * value..values + (n + 1) * value);
    (0..count).map(entry).collect()
}
