//! An image in the hands of one program: lock, medium, image and file system, opened in this order.
//!
//! Decides when an image that belongs to a pair may be written without the pair. Does not know mounts. Invariant (W24):
//! whoever writes an image whose record names two members has minted a generation and gone solo first.
#![allow(clippy::disallowed_methods, reason = "a shell: opens files")]

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::{Exit, Failure};
use crate::base::{Generation, Members};
use crate::format::{Apart, GenEntry, GenReason, ResyncMark, Since, State};
use crate::fs::{Store, StoreOptions};
use crate::image::{Blocks, Disk, Image, LocalBlocks, OpenOptions, OverlayBlocks};
use crate::sys::disk::FileDisk;
use crate::sys::lock::{ImageLock, LockError};
use crate::sys::random;

/// How long a predecessor may take to let go of the image: after umount a daemon still writes its last blocks.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// An image that nobody else has.
pub struct Taken {
    pub disk: Arc<dyn Disk>,
    lock: ImageLock,
}

/// How to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Changes stay in memory; the image is not written.
    ReadOnly,
    ReadWrite {
        /// Go solo if the record names two members.
        force: bool,
    },
}

/// An open file system and what it stands on.
pub struct Opened {
    pub store: Store,
    image: Arc<Image>,
    access: Access,
    taken: Taken,
}

impl Opened {
    /// Splits off the store; the rest closes the image once the store is closed.
    pub fn split(self) -> (Store, Rest) {
        (self.store, Rest { image: self.image, access: self.access, taken: self.taken })
    }
}

/// What must outlive the store.
pub struct Rest {
    image: Arc<Image>,
    access: Access,
    taken: Taken,
}

impl Rest {
    /// The hold on the image.
    pub fn lock(&self) -> &ImageLock {
        &self.taken.lock
    }

    /// Leaves an image that opens at once. The store is closed, or nothing uses it any more.
    pub fn close(&self) -> anyhow::Result<()> {
        match self.access {
            Access::ReadOnly => Ok(()),
            Access::ReadWrite { .. } => self.image.close().context("closing the image"),
        }
    }
}

/// The medium at `path`.
pub fn open_disk(path: &Path, writable: bool) -> anyhow::Result<Arc<dyn Disk>> {
    let disk = FileDisk::open(path, writable).with_context(|| path.display().to_string())?;
    Ok(Arc::new(disk))
}

/// An image in use ends every command with the same code.
fn taken(lock: Result<ImageLock, LockError>) -> Result<ImageLock, Failure> {
    lock.map_err(|error| Failure::new(Exit::CONFIG, error.to_string()))
}

/// Takes the image for making it new; a missing file is made, `size` sets the length of a file.
pub fn take_for_mkfs(path: &Path, size: Option<u64>) -> anyhow::Result<Taken> {
    let context = || path.display().to_string();
    if !path.exists() {
        // Everybody's files will be in it.
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600).open(path).with_context(context)?;
    }
    let lock = taken(ImageLock::take(path, Duration::ZERO))?;
    if let Some(size) = size {
        let file = std::fs::OpenOptions::new().write(true).open(path).with_context(context)?;
        if file.metadata().with_context(context)?.is_file() {
            file.set_len(size).with_context(context)?;
        }
    }
    Ok(Taken { disk: open_disk(path, true)?, lock })
}

/// Takes and opens the image and its file system, for use within `memory` bytes; waits for a predecessor.
pub fn open(path: &Path, access: Access, memory: u64) -> anyhow::Result<Opened> {
    open_locked(path, taken(ImageLock::take(path, LOCK_WAIT))?, access, memory)
}

/// Opens the image that `lock` holds.
pub fn open_locked(path: &Path, lock: ImageLock, access: Access, memory: u64) -> anyhow::Result<Opened> {
    let context = || path.display().to_string();
    let writable = access != Access::ReadOnly;
    let taken = Taken { disk: open_disk(path, writable)?, lock };
    let open = |options: &OpenOptions| Image::open(Arc::clone(&taken.disk), options).with_context(context);
    let image = Arc::new(match access {
        Access::ReadOnly => open(&OpenOptions::read_only().memory(memory))?,
        Access::ReadWrite { force } => {
            // Opening to write begins the activity log anew; a refusal must not change a byte.
            check_pair(&open(&OpenOptions::read_only())?.state(), force).with_context(context)?;
            open(&OpenOptions::read_write().memory(memory))?
        }
    });
    if writable {
        leave_pair(&image).with_context(context)?;
    }
    let local = LocalBlocks::new(Arc::clone(&image)).with_context(context)?;
    let blocks: Arc<dyn Blocks> = match access {
        Access::ReadOnly => Arc::new(OverlayBlocks::new(local)),
        Access::ReadWrite { .. } => Arc::new(local),
    };
    // Looking at what is left, and going on by force, are what a damaged log is no obstacle to.
    let lose_damaged_log = matches!(access, Access::ReadOnly | Access::ReadWrite { force: true });
    let options = StoreOptions { lose_damaged_log, ..StoreOptions::for_memory(memory) };
    let store = Store::open(blocks, &options).with_context(context)?;
    if writable {
        note_log(&image, &store).with_context(context)?;
    }
    Ok(Opened { store, image, access, taken })
}

/// An image of a pair is written only by the pair, or by force after it has left the pair.
fn check_pair(state: &State, force: bool) -> anyhow::Result<()> {
    if state.resync != ResyncMark::None && !force {
        let text = "the copy is inconsistent: a resync into it was interrupted; let the pair finish it, or read \
                    what there is with -o ro, or use --force";
        return Err(Failure::new(Exit::WOULD_LOSE_DATA, text).into());
    }
    let Some(record) = state.record else {
        let text = "the copy has never been in sync; nothing can be read from it";
        return Err(Failure::new(Exit::WOULD_LOSE_DATA, text).into());
    };
    if record.members != Members::only(state.node) && !force {
        let text = format!(
            "the image belongs to a pair in sync {}; writing to it alone makes it diverge from the other copy. \
             Stop the pair and use -o ro to look, or --force to go on with this copy alone",
            record.members
        );
        return Err(Failure::new(Exit::WOULD_LOSE_DATA, text).into());
    }
    Ok(())
}

/// A rule that a test may switch off (W24).
#[cfg(not(test))]
fn goes_on_as_a_member() -> bool {
    false
}

#[cfg(test)]
use tests::goes_on_as_a_member;

/// What is written from here on is a lineage of its own, unless it is one already.
fn leave_pair(image: &Image) -> anyhow::Result<()> {
    let state = image.state();
    if goes_on_as_a_member() {
        return Ok(());
    }
    let own = state.record.is_some_and(|record| record.members == Members::only(state.node));
    if !own || state.resync != ResyncMark::None {
        image.store(&alone(state, Generation(random::id128())))?;
    } else if state.apart.verdict.is_some() {
        // What was put aside of it is not all of it any more.
        let apart = Apart { verdict: None, ..state.apart };
        image.store(&State { apart, ..state })?;
    }
    Ok(())
}

/// Where a copy that goes on alone begins to differ is stable before anything is changed in it.
fn note_log(image: &Image, store: &Store) -> anyhow::Result<()> {
    let state = image.state();
    if state.apart.since == Since::Untouched {
        let (txn, ino) = store.mark().next();
        let apart = Apart { since: Since::From { txn, ino }, ..state.apart };
        image.store(&State { apart, ..state })?;
    }
    Ok(())
}

/// The state of a copy that goes on without its peer, by force.
fn alone(mut state: State, id: Generation) -> State {
    let base = state.head();
    let since = if state.resync == ResyncMark::None { Since::Untouched } else { Since::Unknown };
    match state.record {
        Some(record) if record.members == Members::BOTH => {
            state.apart = Apart { led: record.primary == state.node, since, verdict: None };
        }
        _ => state.apart = Apart { verdict: None, since: Since::Unknown, ..state.apart },
    }
    if let Some(record) = &mut state.record {
        record.v += 1;
        record.members = Members::only(state.node);
        record.primary = state.node;
        let at_v = record.v;
        state.gens.push(GenEntry {
            id,
            minted_by: state.node,
            at_v,
            reason: GenReason::Standalone,
            first_txn: 0,
        });
    }
    let surplus = state.gens.len().saturating_sub(crate::base::limits::GENERATIONS_MAX);
    state.gens.drain(..surplus);
    state.bitmap_base = base;
    // Half overwritten or not, it is what somebody goes on with: the interrupted resync must not quietly go on over it.
    state.resync = ResyncMark::None;
    state
}

#[cfg(test)]
#[path = "standalone_tests.rs"]
pub(crate) mod tests;
