//! The only file that knows sled: four calls over one tree of big-endian numbers.
//!
//! Does not know what the lines mean. sled's own flush does not reach the disk, opening may fail, hang or panic after a
//! crash, and its files may grow: every access is guarded, flushed files are synced here, and the caller bounds the
//! size.
//! Invariant: no sled type, error or panic leaves this file.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// Memory for pages.
const CACHE_BYTES: u64 = 4 << 20;
/// The one tree, for ever.
const TREE: &str = "events";

/// The directory cannot be used any more; why does not matter, it is put aside.
#[derive(Debug)]
pub(super) struct Broken;

impl From<sled::Error> for Broken {
    fn from(_: sled::Error) -> Broken {
        Broken
    }
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Broken {
        Broken
    }
}

/// An open directory.
pub(super) struct Store {
    dir: PathBuf,
    db: sled::Db,
    tree: sled::Tree,
}

/// Runs `access`, turning a panic into `Broken`.
fn guarded<T>(access: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(access)).unwrap_or(Err(Broken))
}

impl Store {
    /// Opens `dir` on a thread of its own, within `time`, and reads all of it once, so that damage shows here.
    pub(super) fn open(dir: &Path, time: Duration) -> Result<Store, Broken> {
        let (send, receive) = sync_channel(1);
        let dir = dir.to_path_buf();
        let opener = move || {
            let opened = guarded(|| {
                let config = sled::Config::new().path(&dir).flush_every_ms(None).cache_capacity(CACHE_BYTES);
                let db = config.open()?;
                let tree = db.open_tree(TREE)?;
                for item in &tree {
                    let (key, _) = item?;
                    number(&key).ok_or(Broken)?;
                }
                Ok(Store { dir, db, tree })
            });
            // Too late: nobody listens, and dropping the store closes it.
            let _ = send.send(opened);
        };
        thread::Builder::new().name("history-open".to_string()).spawn(opener)?;
        receive.recv_timeout(time).unwrap_or(Err(Broken))
    }

    /// Adds lines under the next numbers, deletes the oldest beyond `max` entries, and makes it stable.
    pub(super) fn append(&self, lines: &[String], max: u64) -> Result<(), Broken> {
        guarded(|| {
            let mut next = self.newest()?.map_or(1, |newest| newest.saturating_add(1));
            for line in lines {
                self.tree.insert(next.to_be_bytes(), line.as_bytes())?;
                next = next.checked_add(1).ok_or(Broken)?;
            }
            let keep_from = next.saturating_sub(max);
            for item in self.tree.range(..keep_from.to_be_bytes()) {
                self.tree.remove(item?.0)?;
            }
            self.sync()
        })
    }

    /// The newest `count` lines, oldest first.
    pub(super) fn last(&self, count: usize) -> Result<Vec<(u64, String)>, Broken> {
        guarded(|| {
            let mut found = Vec::new();
            for item in self.tree.iter().rev().take(count) {
                let (key, value) = item?;
                let line = String::from_utf8(value.to_vec()).map_err(|_| Broken)?;
                found.push((number(&key).ok_or(Broken)?, line));
            }
            found.reverse();
            Ok(found)
        })
    }

    /// Puts lines with their numbers into a fresh store.
    pub(super) fn restore(&self, lines: &[(u64, String)]) -> Result<(), Broken> {
        guarded(|| {
            for (number, line) in lines {
                self.tree.insert(number.to_be_bytes(), line.as_bytes())?;
            }
            self.sync()
        })
    }

    /// Bytes of its files.
    pub(super) fn size_bytes(&self) -> u64 {
        guarded(|| Ok(self.db.size_on_disk()?)).unwrap_or(0)
    }

    /// Closes an intact store.
    pub(super) fn close(self) {
        let _ = guarded(|| {
            drop(self);
            Ok(())
        });
    }

    /// Lets go of a broken one: its closing may hang, so that it gets a thread to hang in.
    pub(super) fn abandon(self) {
        // Without a thread the closure, and the store in it, is dropped here.
        let _ = thread::Builder::new().name("history-drop".to_string()).spawn(move || self.close());
    }

    fn newest(&self) -> Result<Option<u64>, Broken> {
        match self.tree.last()? {
            Some((key, _)) => Ok(Some(number(&key).ok_or(Broken)?)),
            None => Ok(None),
        }
    }

    /// sled's flush ends in the page cache: the files are synced here.
    fn sync(&self) -> Result<(), Broken> {
        self.db.flush()?;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // A snapshot that sled replaced in between.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(File::open(&self.dir)?.sync_all()?)
    }
}

fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.try_into().ok()?))
}
