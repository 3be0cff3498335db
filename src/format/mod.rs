//! Bytes on disk: fixed little-endian structs with sizes asserted at compile time, and the plain values they encode.
//!
//! Decides where each byte lies. Does not know devices, files or peers.

mod fs_inode;
mod fs_log;
mod fs_super;
mod fs_tables;
mod state;

pub use fs_inode::{COOKIE_FIRST, Dirent, FileKind, InodeRec, MODE_TYPE_MASK, Time};
pub use fs_log::{ChainHash, LogOp, LogRecord, open_record, record_blocks, record_len, seal_record};
pub use fs_super::{CHUNK_BLOCKS, FsSuper};
pub use fs_tables::{ExtentRec, LogMeta, TableId, ino_of_key, key_ino, key_name, key_pair, second_of_key};
pub use state::{GenEntry, GenReason, ResyncMark, State};
