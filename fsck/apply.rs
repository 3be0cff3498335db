//! Carrying a plan out, through the image's own path for writes: digests, activity log and marks are kept.
//!
//! Decides the order. Invariant: until the superblock points at new tables, what the old ones and the old log need is
//! not overwritten; so an image whose repair was cut off anywhere is one that can be repaired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use twinfs::base::BlockNo;
use twinfs::format::{FsSuper, LogMeta, State};
use twinfs::image::{Blocks, Disk, Image, LocalBlocks, OpenOptions};
use twinfs::sys::random;

use crate::pair;
use crate::plan::{Plan, Room};
use crate::rebuild::{self, Beside};
use crate::source::{BLOCK, Bad, Source};
use crate::space::{Owner, Space};
use crate::volume::Volume;

/// Transactions are counted up to here at most.
const TXN_MAX: u64 = 1 << 62;

/// An image opened for its repair.
pub struct Repair<'a> {
    image: Arc<Image>,
    blocks: Arc<dyn Blocks>,
    source: &'a Source,
    bad: BTreeMap<u64, Bad>,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Opens the image to write. `state` is what was read before anything was changed.
pub fn open<'a>(disk: &Arc<dyn Disk>, source: &'a Source, state: &State) -> Result<Repair<'a>, String> {
    let image = Arc::new(Image::open(Arc::clone(disk), &OpenOptions::read_write()).map_err(text)?);
    if pair::is_pair(state) {
        pair::leave(&image).map_err(text)?;
    } else {
        // Mends a slot that was torn.
        image.store(&image.state()).map_err(text)?;
        image.store(&image.state()).map_err(text)?;
    }
    let local = LocalBlocks::new(Arc::clone(&image)).map_err(text)?;
    Ok(Repair { image, blocks: Arc::new(local), source, bad: source.bad() })
}

impl Repair<'_> {
    /// Blocks with a flipped bit get it back.
    pub fn heal(&self) -> Result<(), String> {
        for (block, bad) in &self.bad {
            let Bad::Flipped(right) = bad else { continue };
            let block = BlockNo(*block);
            let guard = self.image.lock(block, 1);
            self.image.heal(&guard, block, right).map_err(text)?;
        }
        self.blocks.flush().map_err(text)
    }

    /// Everything that is not right in blocks of one kind of owner: kept as it lies, or forgotten.
    fn settle(&self, space: &Space, wanted: impl Fn(Option<Owner>) -> bool) -> Result<(), String> {
        let mut done = 0_u64;
        for (block, _) in self.bad.iter().filter(|(_, bad)| !matches!(bad, Bad::Flipped(_))) {
            let block = BlockNo(*block);
            let owner = space.owner(block);
            if !wanted(owner) {
                continue;
            }
            match owner {
                Some(Owner::File(_)) => {
                    self.blocks.write(block, &self.source.raw(block)).map_err(text)?;
                }
                _ => self.blocks.discard(block, 1).map_err(text)?,
            }
            done += 1;
            if done.is_multiple_of(4096) {
                self.blocks.flush().map_err(text)?;
            }
        }
        self.blocks.flush().map_err(text)
    }

    /// Blocks of files stay as they lie, free ones are forgotten.
    pub fn settle_files(&self, space: &Space) -> Result<(), String> {
        self.settle(space, |owner| matches!(owner, None | Some(Owner::File(_))))
    }

    /// New tables with what the plan decided, and the superblock that leads to them.
    pub fn rebuild(&self, volume: &Volume<'_>, plan: &Plan) -> Result<(), String> {
        let room = Room::new(&plan.space, volume);
        self.payload(volume, plan)?;
        self.copy(plan)?;
        let last = volume.log.next_seq.saturating_sub(1).max(plan.last_txn).min(TXN_MAX);
        // A log of its own: nothing that lies in the ring can be taken for a part of it.
        let log = LogMeta {
            applied: last,
            next_pos: 0,
            next_seq: last + 1,
            log_id: random::id128(),
            prev_hash: [0; 32],
            next_ino: plan.next_ino,
        };
        let free = plan.space.unused(Some(Owner::Tables));
        let beside = Beside { free: &free, log };
        let sup = rebuild::tables(&self.blocks, &volume.sup, &volume.tables, &beside, room)?;
        rebuild::point(&*self.blocks, &sup).map_err(text)?;
        // Only now nobody needs the old tables and the old log any more.
        self.forget_old(plan, &sup)
    }

    fn forget_old(&self, plan: &Plan, sup: &FsSuper) -> Result<(), String> {
        let written: BTreeSet<BlockNo> = (0..2)
            .flat_map(|seq| FsSuper { seq, ..sup.clone() }.places().0)
            .flat_map(|(first, bytes)| (0..(bytes.len() / BLOCK) as u64).map(move |n| first.plus(n)))
            .collect();
        for (block, _) in self.bad.iter().filter(|(_, bad)| !matches!(bad, Bad::Flipped(_))) {
            let old = match plan.space.owner(BlockNo(*block)) {
                Some(Owner::Tables) => true,
                // The superblock with its continuations and copies was written a moment ago, as far as it is in use.
                Some(Owner::Fixed) => *block >= 2 && !written.contains(&BlockNo(*block)),
                _ => false,
            };
            if old {
                self.blocks.discard(BlockNo(*block), 1).map_err(text)?;
            }
        }
        self.blocks.flush().map_err(text)
    }

    /// The content of a block: what is right, or what lies there.
    fn read(&self, block: BlockNo, out: &mut [u8]) {
        if self.blocks.read(block, out).is_err() {
            out.copy_from_slice(&self.source.raw(block));
        }
    }

    fn copy(&self, plan: &Plan) -> Result<(), String> {
        let mut content = vec![0; BLOCK];
        for copy in &plan.copies {
            rebuild::back(&*self.blocks, copy.to.0, copy.count).map_err(text)?;
            for n in 0..copy.count {
                self.read(copy.from.plus(n), &mut content);
                self.blocks.write(copy.to.plus(n), &content).map_err(text)?;
            }
        }
        self.blocks.flush().map_err(text)
    }

    /// Brings home what the log still carries.
    fn payload(&self, volume: &Volume<'_>, plan: &Plan) -> Result<(), String> {
        let mut content = vec![0; BLOCK];
        let mut last: BTreeMap<BlockNo, BlockNo> = BTreeMap::new();
        for record in &volume.log.records {
            last.extend(record.payload.iter().copied());
        }
        for (home, at) in last {
            // A block that was freed later has no home any more.
            if matches!(plan.space.owner(home), Some(Owner::File(_))) {
                self.read(at, &mut content);
                self.blocks.write(home, &content).map_err(text)?;
            }
        }
        self.blocks.flush().map_err(text)
    }

    /// Leaves an image that opens at once.
    pub fn close(self) -> Result<(), String> {
        self.image.close().map_err(text)
    }
}
