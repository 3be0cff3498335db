//! Keys of the six tables and the extent record. Keys sort as bytes, so numbers in them are big-endian.
//!
//! | table   | key                        | value                                   |
//! |---------|----------------------------|-----------------------------------------|
//! | inodes  | inode                      | `InodeRec`                              |
//! | dirents | directory, name            | `Dirent`                                |
//! | cookies | directory, cookie          | `Dirent`, then the name                 |
//! | extents | inode, first file block    | `ExtentRec`                             |
//! | xattrs  | inode, name                | the value                               |
//! | orphans | inode                      | one byte: 0 = unlinked, 1 = being cut   |
//!
//! Beside them: `free` (first block -> count, both u64) and `meta` (name -> bytes), written only by checkpoints.

use crate::base::{BlockNo, Ino};

use super::fs_inode::{take_u32, take_u64};

/// The tables that operations change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TableId {
    Inodes = 0,
    Dirents = 1,
    Cookies = 2,
    Extents = 3,
    Xattrs = 4,
    Orphans = 5,
}

impl TableId {
    pub const ALL: [TableId; 6] = [
        TableId::Inodes,
        TableId::Dirents,
        TableId::Cookies,
        TableId::Extents,
        TableId::Xattrs,
        TableId::Orphans,
    ];

    pub fn from_byte(byte: u8) -> Option<TableId> {
        Self::ALL.get(usize::from(byte)).copied()
    }

    /// The name of the table in redb.
    pub const fn name(self) -> &'static str {
        match self {
            TableId::Inodes => "inodes",
            TableId::Dirents => "dirents",
            TableId::Cookies => "cookies",
            TableId::Extents => "extents",
            TableId::Xattrs => "xattrs",
            TableId::Orphans => "orphans",
        }
    }
}

/// Key of `inodes` and `orphans`.
pub fn key_ino(ino: Ino) -> Vec<u8> {
    ino.0.to_be_bytes().to_vec()
}

/// Key of `dirents` and `xattrs`.
pub fn key_name(ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + name.len());
    key.extend_from_slice(&ino.0.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Key of `cookies` and `extents`.
pub fn key_pair(ino: Ino, second: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key.extend_from_slice(&second.to_be_bytes());
    key
}

/// Takes `key_ino` apart (also the first half of the other keys).
pub fn ino_of_key(key: &[u8]) -> Option<Ino> {
    key.first_chunk::<8>().map(|bytes| Ino(u64::from_be_bytes(*bytes)))
}

/// Takes the second half of `key_pair`.
pub fn second_of_key(key: &[u8]) -> Option<u64> {
    if key.len() != 16 {
        return None;
    }
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// Where a run of file blocks lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtentRec {
    pub start: BlockNo,
    /// Blocks, never 0.
    pub count: u32,
    /// Allocated by fallocate and never written: reads as zeros.
    pub unwritten: bool,
}

impl ExtentRec {
    pub const BYTES: usize = 16;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&u32::from(self.unwritten).to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<ExtentRec> {
        let mut at = bytes;
        let start = BlockNo(take_u64(&mut at)?);
        let (count, flags) = (take_u32(&mut at)?, take_u32(&mut at)?);
        (at.is_empty() && count > 0 && flags <= 1).then_some(ExtentRec {
            start,
            count,
            unwritten: flags == 1,
        })
    }
}

/// What the tables cover of the log: written in the transaction of each checkpoint, under one key of `meta`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogMeta {
    /// Last record whose operations are in the tables.
    pub applied: u64,
    /// Block of the ring where the record after it starts (or, if it did not fit there, 0).
    pub next_pos: u64,
    pub next_seq: u64,
    pub log_id: u128,
    /// Hash of record `applied`.
    pub prev_hash: [u8; 32],
    /// The next inode number to give out.
    pub next_ino: u64,
}

impl LogMeta {
    pub const BYTES: usize = 80;

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        for field in [self.applied, self.next_pos, self.next_seq, self.next_ino] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.log_id.to_le_bytes());
        out.extend_from_slice(&self.prev_hash);
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<LogMeta> {
        let mut at = bytes;
        let (applied, next_pos) = (take_u64(&mut at)?, take_u64(&mut at)?);
        let (next_seq, next_ino) = (take_u64(&mut at)?, take_u64(&mut at)?);
        let log_id = u128::from(take_u64(&mut at)?) | u128::from(take_u64(&mut at)?) << 64;
        let prev_hash = at.try_into().ok()?;
        Some(LogMeta { applied, next_pos, next_seq, log_id, prev_hash, next_ino })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_numbers_and_come_apart() {
        assert!(key_pair(Ino(1), 255) < key_pair(Ino(1), 256));
        assert!(key_pair(Ino(1), u64::MAX) < key_pair(Ino(2), 0));
        assert_eq!(ino_of_key(&key_name(Ino(7), b"x")), Some(Ino(7)));
        assert_eq!(second_of_key(&key_pair(Ino(7), 9)), Some(9));
        assert_eq!(second_of_key(&key_ino(Ino(7))), None);
        for (byte, table) in TableId::ALL.iter().enumerate() {
            assert_eq!(*table as usize, byte);
        }
    }

    #[test]
    fn an_extent_of_no_blocks_is_refused() {
        let rec = ExtentRec { start: BlockNo(5), count: 3, unwritten: true };
        assert_eq!(ExtentRec::decode(&rec.encode()), Some(rec));
        assert_eq!(ExtentRec::decode(&ExtentRec { count: 0, ..rec }.encode()), None);
    }
}
