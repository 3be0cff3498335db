//! Blocks that do not match their digest: asked from the peer, answered, repaired under the same interval lock.
//!
//! Invariants: what is written as a repair matches the digest kept here; a suspect block (the un-flushed window of a
//! crash) takes the content of a member if that has a good one, and is blessed only if no member can tell.

use crate::base::BlockNo;
use crate::image::{BlocksError, DiskError, ImageError, RangeGuard};
use crate::node::LinkId;
use crate::wire::Message;

use super::ops::Undone;
use super::{Key, Mirror, Payload};

impl Mirror {
    pub(super) fn read_healing(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        out: &mut [u8],
    ) -> Result<(), Undone> {
        self.read_or_heal(guard, first, out, &|block| self.hot(block, 1))
    }

    /// Reads a locked range; each block that does not match is repaired first, or the read fails with its number.
    pub(super) fn read_or_heal<E: From<BlocksError> + From<ImageError>>(
        &self,
        guard: &RangeGuard,
        first: BlockNo,
        out: &mut [u8],
        hot: &dyn Fn(BlockNo) -> Result<(), E>,
    ) -> Result<(), E> {
        let blocks = out.len() / BlockNo::SIZE;
        for _ in 0..=blocks {
            match self.image.read(first, out) {
                Err(ImageError::Rotten { block }) => self.repair(guard, block, hot)?,
                done => return Ok(done?),
            }
        }
        Err(BlocksError::Rotten(first).into())
    }

    fn repair<E: From<BlocksError> + From<ImageError>>(
        &self,
        guard: &RangeGuard,
        block: BlockNo,
        hot: &dyn Fn(BlockNo) -> Result<(), E>,
    ) -> Result<(), E> {
        let suspect = self.image.is_suspect(block);
        let offered = self.fetch(block)?;
        let member = self.with_machine(|machine| machine.peer_is_member());
        match offered {
            Some(payload) => match self.image.heal(guard, block, payload.data()) {
                // Any mix of what two members had un-flushed is a legal state: the peer's content will do.
                Err(ImageError::WrongRepair { .. }) if suspect && member => {
                    hot(block)?;
                    Ok(self.image.write(guard, block, payload.data(), &payload.digests())?)
                }
                // What anybody else has may be older than what was flushed here.
                Err(ImageError::WrongRepair { .. }) if suspect => {
                    hot(block)?;
                    Ok(self.image.bless(guard, block)?)
                }
                done => Ok(done?),
            },
            None if suspect => {
                hot(block)?;
                Ok(self.image.bless(guard, block)?)
            }
            None => Err(BlocksError::Rotten(block).into()),
        }
    }

    /// Asks the peer for a block; `None` if there is no peer or it has no good content.
    fn fetch(&self, block: BlockNo) -> Result<Option<Payload>, ImageError> {
        let id = {
            let mut core = self.lock();
            let Some(link) = core.link else { return Ok(None) };
            let id = core.next_op;
            core.next_op += 1;
            core.fetches.insert(id, None);
            self.env.send(link, Message::Fetch { id, block }, Payload::default());
            id
        };
        let waited =
            self.env.wait(Key::Fetch(id), &mut || self.lock().fetches.get(&id).is_none_or(Option::is_some));
        let answer = self.lock().fetches.remove(&id).flatten().flatten();
        match waited {
            Ok(()) => Ok(answer),
            Err(_) => Err(ImageError::Disk(DiskError::Dead)),
        }
    }

    /// Answers the peer's `Fetch` with a content that matches the digest kept here, or with none.
    pub(super) fn answer_fetch(&self, link: LinkId, id: u64, block: BlockNo) {
        let mut data = vec![0; BlockNo::SIZE];
        let guard = (block.0 < self.image.block_count()).then(|| self.image.try_lock(block, 1)).flatten();
        let found = guard.is_some() && self.image.read(block, &mut data).is_ok();
        if let Some(guard) = guard {
            self.unlock(guard);
        }
        let payload = if found { Payload::blocks(&data) } else { Payload::default() };
        self.env.send(link, Message::Block { id, block, found }, payload);
    }
}
