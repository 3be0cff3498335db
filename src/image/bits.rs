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

/// The bits of a group and, a bit a word, which of its words have any: whoever looks for the next set bit passes over
/// 64 empty words at a time.
struct Group {
    words: Box<[u64]>,
    filled: Box<[u64]>,
}

impl Default for Group {
    fn default() -> Group {
        Group {
            words: vec![0; GROUP_WORDS].into_boxed_slice(),
            filled: vec![0; GROUP_WORDS.div_ceil(64)].into_boxed_slice(),
        }
    }
}

impl Group {
    fn set(&mut self, index: usize, word: u64) {
        self.words[index] = word;
        let (filled, bit) = (&mut self.filled[index / 64], 1 << (index % 64));
        *filled = if word == 0 { *filled & !bit } else { *filled | bit };
    }

    /// First set bit at or after `from`.
    fn first(&self, from: u64) -> Option<u64> {
        let word = self.words.get((from / 64) as usize)? & (u64::MAX << (from % 64));
        if word != 0 {
            return Some(from / 64 * 64 + u64::from(word.trailing_zeros()));
        }
        let index = scan(&self.filled, from / 64 + 1, true)?;
        Some(index * 64 + u64::from(self.words[index as usize].trailing_zeros()))
    }
}

pub(super) struct Bitmap {
    blocks: u64,
    groups: BTreeMap<u64, Group>,
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
            let (bits, index) = (self.groups.entry(group).or_default(), (bit / 64) as usize);
            let word = bits.words[index];
            let mask = (u64::MAX >> (64 - part)) << (bit % 64);
            let new = if value { word | mask } else { word & !mask };
            if new != word {
                self.count = self.count + u64::from(new.count_ones()) - u64::from(word.count_ones());
                bits.set(index, new);
                self.dirty.insert((group, (bit / BLOCK_BITS) as usize));
            }
            at += part;
        }
    }

    pub fn has(&self, block: BlockNo) -> bool {
        let (group, bit) = (block.0 / GROUP_BITS, block.0 % GROUP_BITS);
        self.groups.get(&group).is_some_and(|bits| bits.words[(bit / 64) as usize] & 1 << (bit % 64) != 0)
    }

    /// First run of set bits at or after `from`; ends at the end of a group at the latest.
    pub fn next(&self, from: BlockNo) -> Option<(BlockNo, u64)> {
        if self.count == 0 {
            return None;
        }
        for (group, bits) in self.groups.range(from.0 / GROUP_BITS..) {
            let base = group * GROUP_BITS;
            let start = from.0.saturating_sub(base);
            let Some(first) = bits.first(start) else { continue };
            let end = scan(&bits.words, first, false).unwrap_or(GROUP_BITS);
            return Some((BlockNo(base + first), end - first));
        }
        None
    }

    /// A copy of another bitmap's bits.
    pub fn copy_from(&mut self, other: &Bitmap) {
        self.clear();
        for (group, bits) in &other.groups {
            let copy = Group { words: bits.words.clone(), filled: bits.filled.clone() };
            self.groups.insert(*group, copy);
            self.dirty.extend((0..BITMAP_BLOCKS).map(|block| (*group, block)));
        }
        self.count = other.count;
    }

    /// Clears everything; what was set becomes dirty.
    pub fn clear(&mut self) {
        for (group, bits) in &mut self.groups {
            for (index, word) in bits.words.iter_mut().enumerate().filter(|(_, word)| **word != 0) {
                *word = 0;
                self.dirty.insert((*group, index * 64 / BLOCK_BITS as usize));
            }
            bits.filled.fill(0);
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
        if let Some(bits) = self.groups.get(&group) {
            let words = &bits.words[sector * SECTOR_WORDS..][..SECTOR_WORDS];
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
                self.groups.entry(group).or_default().set(sector * SECTOR_WORDS + index, word);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every run as `next` finds them, from the start.
    fn runs(bits: &Bitmap) -> Vec<(u64, u64)> {
        let (mut at, mut out) = (0, Vec::new());
        while let Some((first, count)) = bits.next(BlockNo(at)) {
            out.push((first.0, count));
            at = first.0 + count;
        }
        out
    }

    /// The same from a plain set, cut at the ends of groups.
    fn plain(set: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let mut out: Vec<(u64, u64)> = Vec::new();
        for bit in set {
            match out.last_mut() {
                Some((first, count)) if *first + *count == *bit && !bit.is_multiple_of(GROUP_BITS) => {
                    *count += 1
                }
                _ => out.push((*bit, 1)),
            }
        }
        out
    }

    #[test]
    fn the_next_run_is_that_of_a_plain_set() {
        let blocks = 3 * GROUP_BITS - 77;
        let (mut bits, mut set, mut seed) = (Bitmap::new(blocks), BTreeSet::new(), 1u64);
        let mut roll = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % limit
        };
        for round in 0..400 {
            // Near each other, near the ends of words and groups, and far away.
            let first = match roll(4) {
                0 => roll(blocks),
                1 => GROUP_BITS * (1 + roll(2)) - roll(200),
                2 => blocks - 1 - roll(300),
                _ => roll(5_000),
            };
            let (count, value) = (1 + roll(300), roll(5) > 1);
            bits.put(BlockNo(first), count, value);
            for bit in first..(first + count).min(blocks) {
                if value {
                    set.insert(bit)
                } else {
                    set.remove(&bit)
                };
            }
            assert_eq!((runs(&bits), bits.count()), (plain(&set), set.len() as u64), "round {round}");
            let from = roll(blocks);
            assert_eq!(bits.next(BlockNo(from)).map(|(first, _)| first.0), set.range(from..).next().copied());
        }
        bits.clear();
        assert_eq!((bits.next(BlockNo(0)), bits.count()), (None, 0));
    }

    #[test]
    fn what_was_loaded_is_found() {
        let mut bits = Bitmap::new(2 * GROUP_BITS);
        let mut payload = [0; SECTOR_PAYLOAD];
        payload[9] = 0x80;
        bits.load(1, 3, Some(&payload));
        let at = GROUP_BITS + (3 * SECTOR_PAYLOAD as u64 + 9) * 8 + 7;
        assert_eq!(bits.next(BlockNo(5)), Some((BlockNo(at), 1)));
        bits.put(BlockNo(at), 1, false);
        assert_eq!(bits.next(BlockNo(0)), None);
    }
}
