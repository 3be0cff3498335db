//! The ring of log records: where the next one goes, and reading them back.
//!
//! Decides positions and where the log ends. Does not know what the operations mean. Invariants: a record is one run
//! of blocks; a checkpoint frees everything up to its record at once; a record never covers one that is not
//! checkpointed; the first miss of magic, log id, sequence or hash chain is the end (W14).

use crate::base::{BlockNo, Pages};
use crate::format::{ChainHash, open_record, record_len};
use crate::image::Blocks;

use super::FsError;

/// Fill levels of the ring, in blocks from its start.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    pub(super) first: u64,
    pub(super) blocks: u64,
    /// Where the next record goes unless it would not fit before the end.
    pub(super) head: u64,
    /// First block that is still needed; `used` tells a full ring from an empty one.
    pub(super) tail: u64,
}

impl Ring {
    /// Blocks that are still needed, with what wrapping skipped.
    pub(super) fn used(&self) -> u64 {
        (self.head + self.blocks - self.tail) % self.blocks
    }

    /// Largest record, in bytes: an eighth of the ring.
    pub(super) fn record_max(&self) -> u64 {
        self.blocks / 8 * BlockNo::SIZE as u64
    }

    /// No commit seals before a checkpoint is done. What is left then holds, each with as much skipped at the wrap, the
    /// record of a commit, of a checkpoint that starts beside it, and of the checkpoint that makes room.
    pub(super) fn is_tight(&self) -> bool {
        self.used() > self.blocks * 7 / 16
    }

    /// Position for a record of `need` blocks, or `None` if it would cover what is still needed.
    pub(super) fn place(&self, need: u64) -> Option<u64> {
        let at = if self.head + need <= self.blocks { self.head } else { 0 };
        let skipped = if at == 0 && self.head != 0 { self.blocks - self.head } else { 0 };
        (self.used() + skipped + need < self.blocks).then_some(at)
    }

    /// Where the head is behind a record at `at`.
    pub(super) fn after(&self, at: u64, blocks: u64) -> u64 {
        (at + blocks) % self.blocks
    }
}

/// A record read back.
pub(super) struct Found {
    pub(super) at: u64,
    pub(super) bytes: Pages,
    pub(super) hash: ChainHash,
}

/// The record `seq` behind `prev`, at `head` or, if the writer wrapped, at the start of the ring.
pub(super) fn find_record(
    blocks: &dyn Blocks,
    ring: &Ring,
    log_id: u128,
    seq: u64,
    prev: &ChainHash,
) -> Result<Option<Found>, FsError> {
    for at in [ring.head, 0] {
        let mut first = Pages::zeroed(1);
        match blocks.read(BlockNo(ring.first + at), &mut first) {
            Ok(()) => {}
            // A block torn by the power cut matches no digest: the log ends here.
            Err(crate::image::BlocksError::Rotten(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        let Some(len) = record_len(&first, log_id, seq) else { continue };
        if len > ring.blocks / 4 + 1 || at + len > ring.blocks {
            continue;
        }
        let mut bytes = Pages::zeroed(len as usize);
        match blocks.read(BlockNo(ring.first + at), &mut bytes) {
            Ok(()) => {}
            Err(crate::image::BlocksError::Rotten(_)) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(hash) = open_record(&bytes, prev).map(|record| record.hash) {
            return Ok(Some(Found { at, bytes, hash }));
        }
        if ring.head == 0 {
            break;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_never_covers_what_is_needed() {
        let mut ring = Ring { first: 100, blocks: 16, head: 10, tail: 4 };
        assert_eq!(ring.used(), 6);
        assert_eq!(ring.place(6), Some(10));
        assert_eq!(ring.place(7), None, "at 0 it would cover 4..7");
        ring.tail = 9;
        assert_eq!(ring.place(7), Some(0));
        ring.tail = 10;
        assert_eq!((ring.used(), ring.place(16)), (0, None));
    }
}
