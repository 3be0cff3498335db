//! Data that an operation on names drags along: never an empty or half a file after a rename over another, or after a
//! rewrite.
//!
//! Decides what has to be in place before the record of such an operation is sealed. Invariant: a record with a rename
//! over a file holds the source's data of that moment, or it is home.

use std::collections::BTreeSet;

use crate::base::Ino;

use super::FsError;
use super::buffers::{DirtyFile, Sweep};
use super::commit::{LARGE, RUN_BYTES, Settled};
use super::core::Core;
use super::data::BLOCK;
use super::store::Store;

/// Bytes of a record that one block of payload takes.
const PAYLOAD_BYTES: u64 = BLOCK + 256;

impl Store {
    /// Before an operation that pulls the data of `ino`: what would not fit its record goes home now.
    pub fn make_pullable(&self, ino: Ino) -> Result<(), FsError> {
        let fits = {
            let core = self.core_read();
            core.files.get(&ino).is_none_or(|file| record_bytes(file) <= core.ring.record_max() / 4)
        };
        let mut sweep = Sweep::default();
        while !fits && self.settle_file(ino, false, &mut sweep)? == Settled::Full {
            self.commit()?;
        }
        Ok(())
    }

    /// Takes along the data of files whose new name or cut waits in the open transaction.
    pub(super) fn settle_pulls(&self) -> Result<(), FsError> {
        if self.rules().skip_pulls {
            return Ok(());
        }
        for _ in 0..8 {
            let due: BTreeSet<Ino> = {
                let core = self.core_read();
                core.pulls
                    .keys()
                    .chain(core.rewrites.iter())
                    .filter(|ino| core.is_dirty(ino))
                    .copied()
                    .collect()
            };
            if due.is_empty() {
                break;
            }
            for ino in due {
                self.settle_pull(ino)?;
            }
        }
        Ok(())
    }

    /// Puts what is dirty of such a file into the open transaction, or home. What is written to it afterwards is no
    /// part of that moment.
    pub(super) fn settle_pull(&self, ino: Ino) -> Result<(), FsError> {
        let mut settled = self.settle_file(ino, true, &mut Sweep::of_pull())?;
        if settled == Settled::Full {
            // What the record has no room for goes home.
            settled = self.settle_file(ino, false, &mut Sweep::of_pull())?;
        }
        let mut core = self.core_write();
        match settled {
            Settled::Done => {
                core.rewrites.remove(&ino);
                core.pull_is_done(ino);
            }
            // `is_record_full` counts what pulls will take, so that this does not happen; without the data there must
            // be no such record.
            Settled::Full if core.pulls.contains_key(&ino) => {
                let error = FsError::Io(format!("the record has no room for the data of inode {}", ino.0));
                core.failed.get_or_insert(error.clone());
                return Err(error);
            }
            Settled::Full => {}
        }
        Ok(())
    }

    /// What a record has to hold must not grow until it is sealed.
    pub(super) fn settle_pull_before_write(&self, ino: Ino) -> Result<(), FsError> {
        let pulled = {
            let core = self.core_read();
            !core.rules().skip_pulls && core.pulls.contains_key(&ino)
        };
        if pulled { self.settle_pull(ino) } else { Ok(()) }
    }
}

impl Core {
    /// The log does not know all of the file yet: data, or only how far it reaches, when the buffers of a write were
    /// zeroed away.
    fn is_dirty(&self, ino: &Ino) -> bool {
        self.files.contains_key(ino)
    }

    /// The record that holds the open transaction needs the data that is dirty now.
    pub(super) fn pull(&mut self, ino: Ino) {
        if let Some(file) = self.files.get(&ino) {
            let bytes = record_bytes(file);
            self.pull_bytes += bytes - self.pulls.insert(ino, bytes).unwrap_or(0).min(bytes);
        }
    }

    pub(super) fn pull_is_done(&mut self, ino: Ino) {
        let bytes = self.pulls.remove(&ino).unwrap_or(0);
        self.pull_bytes = if self.pulls.is_empty() { 0 } else { self.pull_bytes.saturating_sub(bytes) };
    }

    /// Whether an operation that came in since `settle_pulls` needs another one before its record is sealed.
    pub(super) fn pull_is_due(&self) -> bool {
        !self.rules().skip_pulls && self.pulls.keys().any(|ino| self.is_dirty(ino))
    }
}

/// What the dirty data of a file would take in a record: small runs whole, of large ones where they lie.
fn record_bytes(file: &DirtyFile) -> u64 {
    let (mut bytes, mut run, mut next) = (0, 0, 0);
    let mut add = |run: u64| bytes += RUN_BYTES + if run < LARGE as u64 { run * PAYLOAD_BYTES } else { 0 };
    for at in file.pages.keys() {
        if *at != next {
            add(run);
            run = 0;
        }
        (run, next) = (run + 1, at + 1);
    }
    add(run);
    bytes
}
