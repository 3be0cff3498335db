//! Crash consistency at every write: workloads on the real image and filesystem over a disk that records.
//!
//! A run keeps what reached the disk, write by write, and what the tree was after each operation. Then for every span
//! between two flushes each subset of its writes (all subsets of a few, else none, all, each alone, each left out and
//! random ones; some torn at 512 bytes) becomes an image. Each image must mount as it is and show a tree that the
//! history explains. Used by the unit tests of `fs`, which can switch rules off, and by the integration target `crash`,
//! which also asks the independent checker.

pub mod disk;
pub mod images;
pub mod judge;
pub mod known;
pub mod model;
pub mod properties;
pub mod random;
pub mod run;
pub mod small_names;
pub mod tree;
pub mod words;

use std::sync::Arc;

use twinfs::base::{Generation, Members, NodeId, Record, VolumeId};
use twinfs::format::{GenEntry, GenReason, ResyncMark, State, Time};
use twinfs::fs::{Atime, FormatOptions, Fs, Store, StoreOptions};
use twinfs::image::{self, Disk, Image, LocalBlocks, OpenOptions};

use disk::{CrashDisk, Snapshot};

/// Two extents: the smallest volume, so that an image costs little.
const SMALL: u64 = 10 << 20;
/// Five extents, for workloads that need room.
pub const ROOMY: u64 = 24 << 20;

pub const NOW: Time = Time { secs: 1_700_000_000, nanos: 1 };

/// A mounted image.
pub struct Mounted {
    pub fs: Fs,
    pub image: Arc<Image>,
}

/// Mounts as `twinfs mount --standalone` does, without the threads.
pub fn mount(disk: &Arc<CrashDisk>) -> Result<Mounted, String> {
    let options = OpenOptions { cache_pages: 64, ..OpenOptions::read_write() };
    let image = Image::open(disk.clone(), &options).map_err(|error| format!("image: {error}"))?;
    let image = Arc::new(image);
    let local = LocalBlocks::new(image.clone()).map_err(|error| format!("blocks: {error}"))?;
    let options = StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() };
    let store = Store::open(Arc::new(local), &options).map_err(|error| format!("mount: {error}"))?;
    Ok(Mounted { fs: Fs::new(store, Atime::Never), image })
}

impl Mounted {
    pub fn store(&self) -> &Store {
        self.fs.store()
    }

    /// A clean end.
    pub fn unmount(self) -> Result<(), String> {
        self.store().close().map_err(|error| format!("close: {error}"))?;
        let Mounted { fs, image } = self;
        drop(fs);
        image.close().map_err(|error| format!("close: {error}"))
    }
}

fn state() -> State {
    let made =
        GenEntry { id: Generation(5), minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 };
    State {
        volume: VolumeId(7),
        node: NodeId::A,
        incarnation: 0x1234_5678_9abc,
        record: Some(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A }),
        gens: vec![made],
        bitmap_base: Generation(0),
        full: true,
        resync: ResyncMark::None,
        diverged: false,
        apart: Default::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

/// A new empty filesystem on `bytes`, closed cleanly.
pub fn format(bytes: u64) -> Snapshot {
    let disk = Arc::new(CrashDisk::new(bytes));
    let as_disk: Arc<dyn Disk> = disk.clone();
    let options = image::FormatOptions { state: state(), uuid: 0xabc, label: String::new(), al_slots: 0 };
    image::format(&as_disk, &options).expect("formats");
    let image = Image::open(as_disk, &OpenOptions::read_write()).expect("opens");
    let image = Arc::new(image);
    let local = LocalBlocks::new(image.clone()).expect("blocks");
    let options = FormatOptions { log_id: 77, now: NOW, ring_blocks: Some(256), ..FormatOptions::default() };
    Store::format(Arc::new(local), &options).expect("formats the filesystem");
    image.close().expect("closes");
    disk.freeze()
}

/// The smallest volume.
pub fn small() -> Snapshot {
    format(SMALL)
}
