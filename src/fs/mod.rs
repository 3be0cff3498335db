//! The filesystem over `trait Blocks`.
//!
//! `Store` keeps inodes, names, attributes and data crash-safe; the layer of names gives them POSIX meaning. Does not
//! know that a peer exists, nor the kernel.
//!
//! The data half of `Store` follows in these shapes:
//!
//! ```text
//! Store::format(blocks: Arc<dyn Blocks>, &FormatOptions { log_id: u128, now: Time, uid, gid, ring_blocks: Option<u64> })
//! Store::open(blocks: Arc<dyn Blocks>, &StoreOptions { dirty_bytes_max, cache_bytes }) -> Result<Store, FsError>
//! read(&self, ino, offset: u64, len: usize) -> Result<Vec<u8>, FsError>
//! write(&self, ino, offset: u64, data: &[u8], now: Time) -> Result<(), FsError>      (WouldBlock: writeback, again)
//! set_size(&self, ino, size: u64, now: Time) -> Result<(), FsError>
//! fallocate(&self, ino, how: Fallocate, offset: u64, len: u64, now: Time) -> Result<(), FsError>
//!     enum Fallocate { Allocate, AllocateKeepSize, PunchHole, ZeroRange, ZeroRangeKeepSize }
//! seek_data(&self, ino, offset: u64) -> Result<u64, FsError>       (NoData = ENXIO); seek_hole likewise
//! fsync_ticket(&self, ino: Option<Ino>, data_only: bool) -> Ticket;  commit(&self) -> Result<Ticket, FsError>
//! writeback(&self, all: bool), checkpoint(&self), sync(&self), close(&self) -> Result<(), FsError>
//! needs_writeback(&self), needs_checkpoint(&self) -> bool;  statfs(&self) -> Statfs
//! drop_inode(&self, ino) -> Result<(), FsError>                    (an orphan that nobody has open any more)
//! ```

mod buffers;
mod core;
mod error;
mod op;
mod overlay;
mod store;
mod tables;

pub use error::FsError;
pub use op::Op;
pub use store::Store;
