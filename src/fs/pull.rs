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
                let mut core = self.core_write();
                let Core { pulls, rewrites, files, .. } = &mut *core;
                let dirty = |ino: &&Ino| files.get(ino).is_some_and(|file| !file.pages.is_empty());
                let due: BTreeSet<Ino> = pulls.iter().chain(rewrites.iter()).filter(dirty).copied().collect();
                rewrites.retain(|ino| !due.contains(ino));
                due
            };
            if due.is_empty() {
                break;
            }
            for ino in due {
                // What the record has no room for goes home.
                if self.settle_file(ino, true, &mut Sweep::default())? == Settled::Full {
                    self.settle_file(ino, false, &mut Sweep::default())?;
                }
            }
        }
        Ok(())
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
