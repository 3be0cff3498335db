//! A sparse bitmap over the blocks of an image, in groups as they lie on disk.
//!
//! Decides nothing. Does no I/O. Invariants: a bit beyond the last block is never set; a block of the bitmap whose bits
//! changed in memory is in `dirty` until it is written.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::BlockNo;
use crate::format::{BITMAP_SECTORS, GROUP_EXTENTS, SECTOR_PAYLOAD};

const GROUP_BITS: u64 = GROUP_EXTENTS * 1024;
const GROUP_WORDS: usize = (GROUP_BITS / 64) as usize;
const SECTOR_WORDS: usize = SECTOR_PAYLOAD / 8;
/// 4 KiB blocks of one bitmap of a group, and the bits of each.
pub(super) const BITMAP_BLOCKS: usize = BITMAP_SECTORS / 8;
const BLOCK_BITS: u64 = GROUP_BITS / BITMAP_BLOCKS as u64;

pub(super) struct Bitmap {
    blocks: u64,
    groups: BTreeMap<u64, Box<[u64]>>,
    count: u64,
    dirty: BTreeSet<(u64, usize)>,
}

impl Bitmap {
    pub fn new(blocks: u64) -> Bitmap {
        Bitmap { blocks, groups: BTreeMap::new(), count: 0, dirty: BTreeSet::new() }
    }

    /// There are more blocks now.
    pub fn grow(&mut self, blocks: u64) {
        self.blocks = blocks;
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sets or clears a run.
    pub fn put(&mut self, first: BlockNo, count: u64, value: bool) {
        let end = first.0.saturating_add(count).min(self.blocks);
        let mut at = first.0;
        while at < end {
            let (group, bit) = (at / GROUP_BITS, at % GROUP_BITS);
            let part = (64 - bit % 64).min(end - at);
            if !value && !self.groups.contains_key(&group) {
                at += (GROUP_BITS - bit).min(end - at);
                continue;
            }
            let words = self.groups.entry(group).or_insert_with(|| vec![0; GROUP_WORDS].into_boxed_slice());
            let word = &mut words[(bit / 64) as usize];
            let mask = (u64::MAX >> (64 - part)) << (bit % 64);
            let new = if value { *word | mask } else { *word & !mask };
            if new != *word {
                self.count = self.count + u64::from(new.count_ones()) - u64::from(word.count_ones());
                *word = new;
                self.dirty.insert((group, (bit / BLOCK_BITS) as usize));
            }
            at += part;
        }
    }

    pub fn has(&self, block: BlockNo) -> bool {
        let (group, bit) = (block.0 / GROUP_BITS, block.0 % GROUP_BITS);
        self.groups.get(&group).is_some_and(|words| words[(bit / 64) as usize] & 1 << (bit % 64) != 0)
    }

    /// First run of set bits at or after `from`; ends at the end of a group at the latest.
    pub fn next(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        for (group, words) in self.groups.range(from.0 / GROUP_BITS..) {
            let base = group * GROUP_BITS;
            let start = from.0.saturating_sub(base);
            let Some(first) = scan(words, start, true) else { continue };
            let end = scan(words, first, false).unwrap_or(GROUP_BITS);
            return Some((BlockNo(base + first), end - first));
        }
        None
    }

    /// A copy of another bitmap's bits.
    pub fn copy_from(&mut self, other: &Bitmap) {
        self.clear();
        for (group, words) in &other.groups {
            self.groups.insert(*group, words.clone());
            self.dirty.extend((0..BITMAP_BLOCKS).map(|block| (*group, block)));
        }
        self.count = other.count;
    }

    /// Clears everything; what was set becomes dirty.
    pub fn clear(&mut self) {
        for (group, words) in &mut self.groups {
            for (index, word) in words.iter_mut().enumerate().filter(|(_, word)| **word != 0) {
                *word = 0;
                self.dirty.insert((*group, index * 64 / BLOCK_BITS as usize));
            }
        }
        self.count = 0;
    }

    /// Whether bits of the extent differ from those on disk.
    pub fn is_dirty_at(&self, extent: u64) -> bool {
        self.dirty.contains(&Bitmap::place(extent))
    }

    /// (group, block of the bitmap) of an extent.
    pub fn place(extent: u64) -> (u64, usize) {
        (extent / GROUP_EXTENTS, ((extent % GROUP_EXTENTS) * 1024 / BLOCK_BITS) as usize)
    }

    pub fn dirty(&self) -> Vec<(u64, usize)> {
        self.dirty.iter().copied().collect()
    }

    pub fn written(&mut self, place: (u64, usize)) {
        self.dirty.remove(&place);
    }

    /// Payload of a sector of a group.
    pub fn sector(&self, group: u64, sector: usize) -> [u8; SECTOR_PAYLOAD] {
        let mut out = [0; SECTOR_PAYLOAD];
        if let Some(words) = self.groups.get(&group) {
            let words = &words[sector * SECTOR_WORDS..][..SECTOR_WORDS];
            for (bytes, word) in out.chunks_exact_mut(8).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes());
            }
        }
        out
    }

    /// Takes a sector read from disk; `None` (damaged) sets all its bits: a superset is safe.
    pub fn load(&mut self, group: u64, sector: usize, payload: Option<&[u8]>) {
        let first = group * GROUP_BITS + (sector * SECTOR_WORDS * 64) as u64;
        let Some(payload) = payload else {
            self.put(BlockNo(first), (SECTOR_WORDS * 64) as u64, true);
            return;
        };
        for (index, bytes) in payload.chunks_exact(8).enumerate() {
            let mut raw = [0; 8];
            raw.copy_from_slice(bytes);
            let word = u64::from_le_bytes(raw);
            let at = first + index as u64 * 64;
            if word != 0 && at < self.blocks {
                let word = if self.blocks - at < 64 { word & ((1 << (self.blocks - at)) - 1) } else { word };
                let words =
                    self.groups.entry(group).or_insert_with(|| vec![0; GROUP_WORDS].into_boxed_slice());
                words[sector * SECTOR_WORDS + index] = word;
                self.count += u64::from(word.count_ones());
            }
        }
    }
}

/// First bit at or after `from` that equals `value`.
fn scan(words: &[u64], from: u64, value: bool) -> Option<u64> {
    let mut index = (from / 64) as usize;
    let mut mask = u64::MAX << (from % 64);
    while let Some(word) = words.get(index) {
        let hit = if value { *word } else { !*word } & mask;
        if hit != 0 {
            return Some(index as u64 * 64 + u64::from(hit.trailing_zeros()));
        }
        mask = u64::MAX;
        index += 1;
    }
    None
}
