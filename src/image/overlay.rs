//! Copy on write in memory over any `Blocks`: what a read-only opening writes (log replay, table recovery) is kept here
//! and forgotten.
//!
//! Invariant: nothing reaches the blocks below.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::{BlockNo, ExtentNo};

use super::{Blocks, BlocksError};

/// Blocks with private changes.
pub struct OverlayBlocks<B> {
    below: B,
    /// Empty: discarded.
    changed: Mutex<BTreeMap<u64, Box<[u8]>>>,
}

impl<B: Blocks> OverlayBlocks<B> {
    pub fn new(below: B) -> OverlayBlocks<B> {
        OverlayBlocks { below, changed: Mutex::new(BTreeMap::new()) }
    }

    fn changed(&self) -> MutexGuard<'_, BTreeMap<u64, Box<[u8]>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        match first.0.checked_add(count).is_some_and(|end| end <= self.below.block_count()) {
            true => Ok(()),
            false => Err(BlocksError::OutOfRange { first, count }),
        }
    }
}

impl<B: Blocks> Blocks for OverlayBlocks<B> {
    fn block_count(&self) -> u64 {
        self.below.block_count()
    }

    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        let count = (out.len() / BlockNo::SIZE) as u64;
        self.check(first, count)?;
        let changed: Vec<(u64, Box<[u8]>)> = self
            .changed()
            .range(first.0..first.0 + count)
            .map(|(block, data)| (*block, data.clone()))
            .collect();
        if (changed.len() as u64) < count {
            self.below.read(first, out)?;
        }
        for (block, data) in changed {
            let at = (block - first.0) as usize * BlockNo::SIZE;
            match data.is_empty() {
                true => out[at..at + BlockNo::SIZE].fill(0),
                false => out[at..at + BlockNo::SIZE].copy_from_slice(&data),
            }
        }
        Ok(())
    }

    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.check(first, (data.len() / BlockNo::SIZE) as u64)?;
        let mut changed = self.changed();
        for (block, content) in (first.0..).zip(data.chunks_exact(BlockNo::SIZE)) {
            changed.insert(block, content.into());
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlocksError> {
        Ok(())
    }

    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write(first, data)
    }

    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.check(first, count)?;
        let mut changed = self.changed();
        for block in first.0..first.0 + count {
            changed.insert(block, Box::default());
        }
        Ok(())
    }

    fn back(&self, _extent: ExtentNo) -> Result<(), BlocksError> {
        Ok(())
    }

    fn is_backed(&self, _extent: ExtentNo) -> bool {
        true
    }

    fn pin_hot(&self, _first: BlockNo, _count: u64) -> Result<(), BlocksError> {
        Ok(())
    }
}
