//! Vocabulary that every module may use: identifiers, times, digests, aligned buffers, limits.
//!
//! Decides nothing. Does not know disks, links, clocks or configuration.

mod after_split;
mod awake;
mod digest;
mod foreign;
mod ids;
pub mod limits;
mod map;
mod page;
mod record;
mod serial;
mod time;

pub use after_split::AfterSplit;
pub use awake::KeepAwake;
pub use digest::Digest;
pub use foreign::{foreign, hush_foreign, is_foreign};
pub use ids::{BlockNo, ExtentNo, Generation, Ino, NodeId, VolumeId};
pub use map::{FastMap, FastSet};
pub use page::{PAGE, Pages, advise_slabs_with};
pub use record::{Members, Record};
pub use serial::SerialLine;
pub use time::{Moment, Span, WallTime};
