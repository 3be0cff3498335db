//! Blocks that do not match their digest: asked from the peer, answered, repaired under the same interval lock.
//!
//! Invariants: what is written as a repair matches the digest kept here; a suspect block (the un-flushed window of a
//! crash) takes the content of a member if that has a good one, and is blessed only if no member can tell; what the
//! peer gave is answered even if the disk does not take it.

use crate::base::{BlockNo, Pages};
use crate::image::{BlocksError, DiskError, ImageError, RangeGuard};
use crate::node::{Finding, LinkId, Trouble};
use crate::wire::Message;

use super::ops::Undone;
use super::{Key, Mirror, Payload};

/// Blocks that are asked for at once where every read goes over the link: 256 KiB, as much as the kernel reads ahead
/// in one request.
const FETCHES_MAX: usize = 64;

/// What the peer answered.
#[derive(Clone, Debug)]
pub(super) enum Fetched {
    /// A content that matches the digest kept there.
    Content(Payload),
    /// It has none.
    NotThere,
    /// There is no peer, or not the one that was asked any more.
    NoPeer,
}

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
        if self.has_left() {
            return Ok(self.read_over_link(first, out)?);
        }
        match self.image.read(first, out) {
            Err(ImageError::Rotten { .. }) => {}
            done => return Ok(done?),
        }
        for (block, part) in (first.0..).map(BlockNo).zip(out.chunks_exact_mut(BlockNo::SIZE)) {
            match self.image.read(block, part) {
                Err(ImageError::Rotten { .. }) => {}
                done => {
                    done?;
                    continue;
                }
            }
            let given = self.repair(guard, block, hot)?;
            match (self.image.read(block, part), given) {
                (Err(ImageError::Rotten { .. }), Some(payload)) => part.copy_from_slice(payload.data()),
                (done, _) => done?,
            }
        }
        Ok(())
    }

    /// Reads the peer's copy, which is the only one. Behind what was sent before: the peer executes both in order.
    fn read_over_link(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        let blocks: Vec<BlockNo> = (first.0..).map(BlockNo).take(out.len() / BlockNo::SIZE).collect();
        for (asked, part) in blocks.chunks(FETCHES_MAX).zip(out.chunks_mut(FETCHES_MAX * BlockNo::SIZE)) {
            let ids: Vec<Option<u64>> = asked.iter().map(|block| self.ask(*block)).collect();
            let answers: Vec<Fetched> =
                ids.into_iter().map(|id| self.answered(id)).collect::<Result<_, _>>()?;
            for ((block, page), answer) in asked.iter().zip(part.chunks_exact_mut(BlockNo::SIZE)).zip(answers)
            {
                match answer {
                    Fetched::Content(payload) => page.copy_from_slice(payload.data()),
                    Fetched::NotThere => return Err(BlocksError::Rotten(*block)),
                    Fetched::NoPeer => return Err(BlocksError::Stopped),
                }
            }
        }
        Ok(())
    }

    /// Makes the block match its digest; answers with what it then holds if the peer gave it.
    fn repair<E: From<BlocksError> + From<ImageError>>(
        &self,
        guard: &RangeGuard,
        block: BlockNo,
        hot: &dyn Fn(BlockNo) -> Result<(), E>,
    ) -> Result<Option<Payload>, E> {
        let suspect = self.image.is_suspect(block);
        let offered = self.fetch(block)?;
        let member = self.with_machine(|machine| machine.peer_is_member());
        let healed = match &offered {
            Fetched::Content(payload) => self.image.heal(guard, block, payload.data()),
            Fetched::NotThere | Fetched::NoPeer => Err(ImageError::WrongRepair { block }),
        };
        match (healed, offered) {
            (Ok(()), Fetched::Content(payload)) => {
                if !suspect {
                    self.found(Finding { block, trouble: Trouble::Rotten, repaired: true });
                }
                Ok(Some(payload))
            }
            // Any mix of what two members had un-flushed is a legal state: the peer's content will do.
            (Err(ImageError::WrongRepair { .. }), Fetched::Content(payload)) if suspect && member => {
                hot(block)?;
                self.image.write(guard, block, payload.data(), &payload.digests())?;
                Ok(Some(payload))
            }
            // What anybody else has may be older than what was flushed here.
            (Err(ImageError::WrongRepair { .. }), _) if suspect => {
                hot(block)?;
                // Before it counts as good: the peer may hold another content.
                self.image.mark(block, 1)?;
                self.image.mark_to_copy(block, 1)?;
                self.image.bless(guard, block)?;
                Ok(None)
            }
            // A medium that could not read it at first may have since.
            (Err(ImageError::WrongRepair { .. }), _)
                if self.image.read(block, &mut vec![0; BlockNo::SIZE]).is_ok() =>
            {
                Ok(None)
            }
            (Err(ImageError::WrongRepair { .. }), _) => {
                self.found(Finding { block, trouble: Trouble::Lost, repaired: false });
                Err(BlocksError::Rotten(block).into())
            }
            // The content is right, the disk does not take it.
            (
                Err(error @ ImageError::Disk(DiskError::Io(_) | DiskError::Full)),
                Fetched::Content(payload),
            ) => {
                self.not_repaired(block, &error);
                Ok(Some(payload))
            }
            (done, _) => {
                done?;
                Ok(None)
            }
        }
    }

    /// A disk that takes no write is not used any more; one that is full may be used when it is not.
    pub(super) fn not_repaired(&self, block: BlockNo, error: &ImageError) {
        self.fault(&format!("block {} could not be repaired", block.0), error);
        if matches!(error, ImageError::Disk(DiskError::Io(_))) {
            self.disk_failed();
        }
    }

    /// Asks the peer for a block.
    pub(super) fn fetch(&self, block: BlockNo) -> Result<Fetched, ImageError> {
        let id = self.ask(block);
        self.answered(id)
    }

    /// The question's number; `None`: there is nobody to ask.
    fn ask(&self, block: BlockNo) -> Option<u64> {
        let mut core = self.lock();
        let link = core.link?;
        let id = core.next_op;
        core.next_op += 1;
        core.fetches.insert(id, None);
        self.env.send(link, Message::Fetch { id, block }, Payload::default());
        Some(id)
    }

    fn answered(&self, id: Option<u64>) -> Result<Fetched, ImageError> {
        let Some(id) = id else { return Ok(Fetched::NoPeer) };
        let waited =
            self.env.wait(Key::Fetch(id), &mut || self.lock().fetches.get(&id).is_none_or(Option::is_some));
        let answer = self.lock().fetches.remove(&id).flatten();
        match waited {
            Ok(()) => Ok(answer.unwrap_or(Fetched::NoPeer)),
            Err(_) => Err(ImageError::Disk(DiskError::Dead)),
        }
    }

    /// Answers the peer's `Fetch` with a content that matches the digest kept here, or with none. A block that is in
    /// use is read beside whoever uses it: what matches its digest was whole at that moment, and who asked for it has
    /// it locked or compares it with a digest of its own.
    pub(super) fn answer_fetch(&self, link: LinkId, id: u64, block: BlockNo) {
        let mut data = Pages::zeroed(1);
        // A copy that was left is as old as the failure of its disk.
        let inside = block.0 < self.image.block_count() && !self.has_left();
        let guard = inside.then(|| self.image.try_lock(block, 1)).flatten();
        let found = inside && self.image.read(block, &mut data).is_ok();
        if let Some(guard) = guard {
            self.unlock(guard);
        }
        let payload = if found { Payload::blocks(data) } else { Payload::default() };
        self.env.send(link, Message::Block { id, block, found }, payload);
    }
}
