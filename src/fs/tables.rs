//! The tables in redb: six that operations change, `free` and `meta` that only checkpoints write.
//!
//! Decides how redb is named and read. Does not know the log or the overlay. A panic inside redb on foreign bytes is
//! answered as `Corrupt`, wherever it is called: nobody who is being served loses the daemon over it.

use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use crate::base::foreign;
use crate::format::TableId;

use super::FsError;

type Bytes = &'static [u8];

/// The definition of one of the six tables; keys and values are described in `format`.
pub(super) const fn definition(table: TableId) -> TableDefinition<'static, Bytes, Bytes> {
    TableDefinition::new(table.name())
}

/// First block of a free run -> its blocks.
pub(super) const FREE: TableDefinition<'static, u64, u64> = TableDefinition::new("free");
/// What a checkpoint covers and where the log goes on.
pub(super) const META: TableDefinition<'static, &str, Bytes> = TableDefinition::new("meta");

/// The key in `meta` under which `LogMeta` lies.
pub(super) const META_LOG: &str = "log";

pub(super) fn redb_error(error: impl Into<redb::Error>) -> FsError {
    match error.into() {
        redb::Error::Io(error) => FsError::Io(format!("tables: {error}")),
        redb::Error::Corrupted(what) => FsError::Corrupt(format!("tables: {what}")),
        other => FsError::Io(format!("tables: {other}")),
    }
}

/// Calls redb. It trusts what it reads beyond its checksums and panics where that is wrong; its own state is then left
/// behind, and every later call fails the same way.
pub(super) fn guarded<T>(call: impl FnOnce() -> Result<T, FsError>) -> Result<T, FsError> {
    foreign(call).unwrap_or_else(|| Err(not_understood()))
}

/// redb panicked.
pub(super) fn not_understood() -> FsError {
    FsError::Corrupt("tables: redb does not understand them".to_string())
}

/// The database. What it panics about while it is closed has been told before.
pub(super) struct Tables(Option<Database>);

impl Tables {
    pub(super) fn new(db: Database) -> Tables {
        Tables(Some(db))
    }
}

impl std::ops::Deref for Tables {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0.as_ref().expect("it is taken when it is dropped only")
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        let db = self.0.take();
        foreign(|| drop(db));
    }
}

/// The tables as of one checkpoint; stays readable while held.
pub(super) struct Snapshot {
    tables: [ReadOnlyTable<Bytes, Bytes>; 6],
}

impl Snapshot {
    pub(super) fn take(db: &Database) -> Result<Snapshot, FsError> {
        let txn = db.begin_read().map_err(redb_error)?;
        let open = |table| txn.open_table(definition(table)).map_err(redb_error);
        Ok(Snapshot {
            tables: [
                open(TableId::Inodes)?,
                open(TableId::Dirents)?,
                open(TableId::Cookies)?,
                open(TableId::Extents)?,
                open(TableId::Xattrs)?,
                open(TableId::Orphans)?,
            ],
        })
    }

    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Arc<[u8]>>, FsError> {
        guarded(|| {
            let found = self.tables[table as usize].get(key).map_err(redb_error)?;
            Ok(found.map(|guard| Arc::from(guard.value())))
        })
    }

    /// The entries in `[from, to)`.
    pub(super) fn range(&self, table: TableId, from: &[u8], to: &[u8]) -> Result<StoredRange, FsError> {
        let to = if to < from { from } else { to };
        guarded(|| Ok(StoredRange(self.tables[table as usize].range(from..to).map_err(redb_error)?)))
    }

    /// The entries in `[from, to]`, most often wanted from the end.
    pub(super) fn range_to(&self, table: TableId, from: &[u8], to: &[u8]) -> Result<StoredRange, FsError> {
        guarded(|| Ok(StoredRange(self.tables[table as usize].range(from..=to).map_err(redb_error)?)))
    }
}

/// A key with its value, shared with the overlay it came from.
pub(super) type SharedEntry = (Vec<u8>, Arc<[u8]>);
/// A key with its value.
pub(super) type Entry = (Vec<u8>, Vec<u8>);

/// A walk through one table of a snapshot.
pub(super) struct StoredRange(redb::Range<'static, Bytes, Bytes>);

impl StoredRange {
    pub(super) fn next_entry(&mut self) -> Result<Option<Entry>, FsError> {
        guarded(|| owned(self.0.next()))
    }

    pub(super) fn last_entry(&mut self) -> Result<Option<Entry>, FsError> {
        guarded(|| owned(self.0.next_back()))
    }
}

type Found<'a> = Result<(redb::AccessGuard<'a, Bytes>, redb::AccessGuard<'a, Bytes>), redb::StorageError>;

fn owned(found: Option<Found<'_>>) -> Result<Option<Entry>, FsError> {
    let Some(entry) = found else { return Ok(None) };
    let (key, value) = entry.map_err(redb_error)?;
    Ok(Some((key.value().to_vec(), value.value().to_vec())))
}
