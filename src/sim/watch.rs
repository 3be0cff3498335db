//! The blocks that the workload sees: the mirror, with the oracle looking over its shoulder.
//!
//! Decides nothing about an operation. Invariant: every acknowledgement that a caller gets is checked against
//! promises 1 and 2 at the moment it is given.

use std::sync::Arc;

use crate::base::{BlockNo, Digest, ExtentNo};
use crate::image::{Blocks, BlocksError};
use crate::mirror::Mirror;

use super::baton::lock;
use super::oracle::Busy;
use super::sched::Owner;
use super::world::{NAMES, World, node_id};

/// The first `limit` blocks of a mirror, watched.
pub struct Watched {
    pub world: Arc<World>,
    pub owner: Owner,
    pub mirror: Arc<Mirror>,
    pub limit: u64,
}

impl Watched {
    fn changing(
        &self,
        first: BlockNo,
        digests: &[Option<Digest>],
        act: impl FnOnce() -> Result<(), BlocksError>,
    ) -> Result<(), BlocksError> {
        let (node, life) = (self.owner.node, self.owner.life);
        let busy = Busy { node, life, first: first.0, count: digests.len() as u64 };
        let ticket = lock(&self.world.oracle).begin(busy);
        let since = self.world.sched.now();
        let done = act();
        if done.is_ok() {
            lock(&self.world.oracle).end(ticket, Some(digests));
            self.acknowledged(since);
        } else if self.world.with_life(self.owner, |_| ()).is_none() {
            lock(&self.world.oracle).end(ticket, None);
        }
        // A refused operation of a living node may still be under way on either disk: it stays busy until the node
        // stops serving.
        done
    }

    fn acknowledged(&self, since: u64) {
        // A node that slept in between may only tell late what was acknowledged before: harmless, and no new promise.
        if self.world.machine(self.owner.node).paused_until > since {
            return;
        }
        if self.mirror.has_left() {
            return self.acknowledged_for_peer();
        }
        let Some(record) = self.mirror.image().state().record else {
            return self
                .world
                .sched
                .violate(format!("{} acknowledged without a record", NAMES[self.owner.node]));
        };
        let wrong = lock(&self.world.oracle).acknowledged(self.owner.node, record);
        if let Some(text) = wrong {
            self.world.sched.violate(text);
        }
    }

    /// The record in force is the peer's: this node acknowledges until that one serves itself.
    fn acknowledged_for_peer(&self) {
        let peer = 1 - self.owner.node;
        let record = self.world.image_of(peer).and_then(|image| image.state().record);
        let mut oracle = lock(&self.world.oracle);
        oracle.count("acknowledged-for-peer");
        let serves = oracle.server.is_some_and(|server| server.node == peer);
        // A peer that died just now had recorded it as well, and will say so.
        let wrong = record.and_then(|record| match record.members.solo() == Some(node_id(peer)) {
            true => oracle.acknowledged(peer, record),
            false => Some(format!("I1: {} acknowledged for its peer under {record:?}", NAMES[1 - peer])),
        });
        drop(oracle);
        let wrong = wrong.or(serves.then(|| "I1: acknowledged for a peer that serves itself".to_string()));
        if let Some(text) = wrong {
            self.world.sched.violate(text);
        }
    }

    fn flushing(&self, act: impl FnOnce() -> Result<(), BlocksError>) -> Result<(), BlocksError> {
        let covered: Vec<(u64, u64)> =
            lock(&self.world.oracle).done.iter().map(|(block, (version, _))| (*block, *version)).collect();
        let since = self.world.sched.now();
        act()?;
        self.acknowledged(since);
        self.world.check_stable(self.owner.node, &self.mirror, &covered);
        Ok(())
    }
}

fn digests(data: &[u8]) -> Vec<Option<Digest>> {
    data.chunks(BlockNo::SIZE).map(|block| Some(Digest::of(block))).collect()
}

impl Blocks for Watched {
    fn block_count(&self) -> u64 {
        self.limit
    }

    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        self.mirror.read(first, out)
    }

    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.changing(first, &digests(data), || self.mirror.write(first, data))
    }

    fn write_gathered(&self, first: BlockNo, blocks: &[&[u8]]) -> Result<(), BlocksError> {
        let digests: Vec<Option<Digest>> = blocks.iter().map(|block| Some(Digest::of(block))).collect();
        self.changing(first, &digests, || self.mirror.write_gathered(first, blocks))
    }

    fn flush(&self) -> Result<(), BlocksError> {
        self.flushing(|| self.mirror.flush())
    }

    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        let digests = digests(data);
        self.flushing(|| self.changing(first, &digests, || self.mirror.write_flush(first, data)))?;
        let own: Vec<(u64, u64)> = {
            let oracle = lock(&self.world.oracle);
            let range = first.0..first.0 + digests.len() as u64;
            oracle.done.range(range).map(|(block, (version, _))| (*block, *version)).collect()
        };
        self.world.check_stable(self.owner.node, &self.mirror, &own);
        Ok(())
    }

    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        let none = vec![None; usize::try_from(count).unwrap_or(0)];
        self.changing(first, &none, || self.mirror.discard(first, count))
    }

    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError> {
        self.mirror.back(extent)
    }

    fn is_backed(&self, extent: ExtentNo) -> bool {
        self.mirror.is_backed(extent)
    }

    fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.mirror.pin_hot(first, count)
    }
}
