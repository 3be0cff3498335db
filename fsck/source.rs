//! Blocks of the image as they lie, each with the answer whether it is what was written there.
//!
//! Decides trust by the digest; a single flipped bit is found by trying all of them against it. Does not know what a
//! block is for. Invariants: nothing is written; what is not right is remembered, so that it can be told and repaired.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twinfs::base::{BlockNo, Digest, ExtentNo, Pages};
use twinfs::format::CHUNK_BLOCKS;
use twinfs::image::{Disk, Image, ImageError, UndoView};

use crate::tree::Bytes;

pub const BLOCK: usize = BlockNo::SIZE;
/// Blocks in which single bits are looked for: each costs some 30 ms.
const BIT_TRIES: u32 = 1000;

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// One bit is flipped; this is what was written.
    Flipped(Box<[u8]>),
    /// The content does not match its digest.
    Rotten,
    /// The digest is lost, or older than the content.
    Unknown,
}

/// Extents whose digests may be older than their content, because the activity log is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    These(BTreeSet<u64>),
    All,
}

impl Default for Stale {
    fn default() -> Stale {
        Stale::These(BTreeSet::new())
    }
}

impl Stale {
    pub fn has(&self, extent: ExtentNo) -> bool {
        match self {
            Stale::All => true,
            Stale::These(extents) => extents.contains(&extent.0),
        }
    }
}

/// The image's data area.
pub struct Source {
    image: Arc<Image>,
    disk: Arc<dyn Disk>,
    pub stale: Stale,
    gone: BlockNo,
    bad: RefCell<BTreeMap<u64, Bad>>,
    suspects: Cell<u64>,
    tries: Cell<u32>,
}

impl Source {
    /// What is kept of the state before a resync.
    pub fn undo(&self) -> UndoView {
        self.image.undo()
    }

    /// Blocks from `gone` on lie behind the end of the medium.
    pub fn new(image: Arc<Image>, disk: Arc<dyn Disk>, stale: Stale, gone: BlockNo) -> Source {
        Source {
            image,
            disk,
            stale,
            gone,
            bad: RefCell::default(),
            suspects: Cell::new(0),
            tries: Cell::new(BIT_TRIES),
        }
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    pub fn block_count(&self) -> u64 {
        self.image.block_count()
    }

    /// Everything met so far that is not right.
    pub fn bad(&self) -> BTreeMap<u64, Bad> {
        self.bad.borrow().clone()
    }

    /// Blocks that were being written when the machine stopped.
    pub fn suspects(&self) -> u64 {
        self.suspects.get()
    }

    /// What lies there; zeros where nothing can be read.
    pub fn raw(&self, block: BlockNo) -> Pages {
        let mut content = Pages::zeroed(1);
        if block.0 >= self.block_count()
            || self.disk.read_at(self.image.geometry().block_at(block.0), &mut content).is_err()
        {
            content.fill(0);
        }
        content
    }

    /// The content of a block, and whether it is what was written there.
    pub fn block(&self, block: BlockNo, out: &mut [u8]) -> bool {
        if let Some(Bad::Flipped(right)) = self.bad.borrow().get(&block.0) {
            out.copy_from_slice(right);
            return true;
        }
        match self.image.digests(block, 1) {
            Ok(digests) => match digests.first().copied().flatten() {
                None => self.unwritten(block, out),
                Some(digest) => self.written(block, digest, out),
            },
            Err(ImageError::OutOfRange { .. }) => {
                out.fill(0);
                false
            }
            Err(_) => {
                out.copy_from_slice(&self.raw(block));
                self.remember(block, Bad::Unknown);
                false
            }
        }
    }

    fn unwritten(&self, block: BlockNo, out: &mut [u8]) -> bool {
        out.fill(0);
        if !self.stale.has(block.extent()) {
            return true;
        }
        let raw = self.raw(block);
        if raw.iter().all(|byte| *byte == 0) && block < self.gone {
            return true;
        }
        out.copy_from_slice(&raw);
        self.remember(block, Bad::Unknown);
        false
    }

    fn written(&self, block: BlockNo, digest: Digest, out: &mut [u8]) -> bool {
        out.copy_from_slice(&self.raw(block));
        if Digest::of(out) == digest {
            return true;
        }
        if self.image.is_suspect(block) {
            self.suspects.set(self.suspects.get() + 1);
            return false;
        }
        // An old digest matches no flip: not worth trying.
        let worth = !self.stale.has(block.extent());
        if let Some(right) = worth.then(|| self.flipped(out, digest)).flatten() {
            out.copy_from_slice(&right);
            self.remember(block, Bad::Flipped(right));
            return true;
        }
        self.remember(block, Bad::Rotten);
        false
    }

    fn remember(&self, block: BlockNo, bad: Bad) {
        self.bad.borrow_mut().insert(block.0, bad);
    }

    /// What was written, if only one bit of it is flipped.
    fn flipped(&self, content: &[u8], digest: Digest) -> Option<Box<[u8]>> {
        let left = self.tries.get().checked_sub(1)?;
        self.tries.set(left);
        let mut tried: Box<[u8]> = content.into();
        for bit in 0..content.len() * 8 {
            tried[bit / 8] ^= 1 << (bit % 8);
            if Digest::of(&tried) == digest {
                return Some(tried);
            }
            tried[bit / 8] ^= 1 << (bit % 8);
        }
        None
    }

    /// Several blocks; false if one of them is not right.
    pub fn run(&self, first: BlockNo, out: &mut [u8]) -> bool {
        let mut good = true;
        for (block, part) in (first.0..).map(BlockNo).zip(out.chunks_mut(BLOCK)) {
            good &= self.block(block, part);
        }
        good
    }

    /// Compares every written block of an extent with its digest.
    pub fn compare(&self, extent: ExtentNo) -> Result<(), ImageError> {
        let mut content = vec![0; BLOCK];
        for block in self.image.mismatches(extent)? {
            self.block(block, &mut content);
        }
        Ok(())
    }
}

/// The address space of the tables on the image.
pub struct TableSpace<'a> {
    pub source: &'a Source,
    /// Chunk -> its first block.
    map: RefCell<BTreeMap<u64, u64>>,
    /// Where a chunk may lie that a newer map had and this one does not.
    spare: RefCell<Vec<u64>>,
    len: u64,
}

/// Chunks beyond those of the map that a newer map may have had.
const NEWER_CHUNKS: u64 = 32;
/// How far from a known chunk an unknown one is looked for.
const NEIGHBOURS: u64 = 16;
const CANDIDATES_MAX: usize = 512;

impl<'a> TableSpace<'a> {
    /// `len` is what the superblock says; garbage may say anything, nothing lies behind the last chunk.
    pub fn new(source: &'a Source, len: u64, map: BTreeMap<u64, u64>, spare: Vec<u64>) -> TableSpace<'a> {
        let bound = map.keys().next_back().map_or(0, |index| index + 1);
        let bytes = |chunks: u64| chunks.saturating_mul(CHUNK_BLOCKS * BLOCK as u64);
        let len = len.min(bytes(bound)).max(bytes(bound.saturating_add(NEWER_CHUNKS)));
        let known: BTreeSet<u64> = map.values().copied().collect();
        // Chunks are taken in rows: an unknown one is mostly a neighbour of a known one.
        let mut near: BTreeSet<u64> = BTreeSet::new();
        for first in known.iter().chain(&spare) {
            for step in (1..=NEIGHBOURS).map(|n| n * CHUNK_BLOCKS) {
                near.extend(first.checked_sub(step));
                near.insert(first.saturating_add(step));
            }
        }
        let free = |first: &u64| {
            let before = known.range(..first.saturating_add(CHUNK_BLOCKS)).next_back();
            before.is_none_or(|known| known.saturating_add(CHUNK_BLOCKS) <= *first)
        };
        let inside = |first: &u64| first.saturating_add(CHUNK_BLOCKS) <= source.block_count();
        let near = near.into_iter().filter(|first| !spare.contains(first) && free(first) && inside(first));
        let spare: Vec<u64> = spare.iter().copied().chain(near).take(CANDIDATES_MAX).collect();
        TableSpace { source, map: RefCell::new(map), spare: RefCell::new(spare), len }
    }

    /// The chunks by now: those of the map, and those that were found.
    pub fn bound(&self) -> BTreeMap<u64, u64> {
        self.map.borrow().clone()
    }

    /// The range with chunk `with` as the home of chunks that have none.
    fn read_with(&self, offset: u64, out: &mut [u8], with: Option<u64>) -> bool {
        let map = self.map.borrow();
        let (mut good, mut done) = (true, 0);
        let mut content = vec![0; BLOCK];
        while done < out.len() {
            let at = offset + done as u64;
            let (page, inside) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
            let step = (BLOCK - inside).min(out.len() - done);
            match map.get(&(page / CHUNK_BLOCKS)).copied().or(with) {
                // Never written: reads as zeros.
                None => content.fill(0),
                Some(first) => {
                    let block = BlockNo(first.saturating_add(page % CHUNK_BLOCKS));
                    good &= self.source.block(block, &mut content);
                }
            }
            out[done..done + step].copy_from_slice(&content[inside..inside + step]);
            done += step;
        }
        good
    }
}

impl Bytes for TableSpace<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> bool {
        self.read_with(offset, out, None)
    }

    fn adopt(&self, offset: u64, len: usize, fits: &mut dyn FnMut(&[u8]) -> bool) {
        let chunk_bytes = CHUNK_BLOCKS * BLOCK as u64;
        let chunks = offset / chunk_bytes..(offset + len as u64).div_ceil(chunk_bytes);
        let Some(missing) = chunks.into_iter().find(|chunk| !self.map.borrow().contains_key(chunk)) else {
            return;
        };
        let spare = self.spare.borrow().clone();
        let mut bytes = vec![0; len];
        let found = spare.iter().position(|first| {
            self.read_with(offset, &mut bytes, Some(*first));
            fits(&bytes)
        });
        if let Some(found) = found {
            let first = spare[found];
            self.map.borrow_mut().insert(missing, first);
            // Nothing else can lie on it.
            self.spare.borrow_mut().retain(|other| other.abs_diff(first) >= CHUNK_BLOCKS);
        }
    }
}
