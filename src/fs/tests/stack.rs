//! The engine on a real image on a disk in memory: what a file costs at the bottom.

use super::*;
use crate::base::{BlockNo, Generation, NodeId, VolumeId};
use crate::format::{ResyncMark, State};
use crate::fs::rules::Rules;
use crate::image::{self, Blocks, Disk, Image, LocalBlocks, MemDisk, OpenOptions};

const MIB: usize = 1 << 20;

fn state() -> State {
    State {
        volume: VolumeId(7),
        node: NodeId::A,
        incarnation: 0x77,
        record: None,
        gens: Vec::new(),
        bitmap_base: Generation(0),
        full: false,
        resync: ResyncMark::None,
        diverged: false,
        apart: crate::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

pub(super) fn local(disk: &Arc<MemDisk>) -> Arc<LocalBlocks> {
    let image = Image::open(disk.clone(), &OpenOptions::read_write()).unwrap();
    Arc::new(LocalBlocks::new(Arc::new(image)).unwrap())
}

/// A disk with an image with an empty file system.
pub(super) fn disk(len: u64, al_slots: u32, ring_blocks: u64) -> Arc<MemDisk> {
    let disk = Arc::new(MemDisk::new(len));
    let options = image::FormatOptions { state: state(), uuid: 1, label: "t".to_string(), al_slots };
    image::format(&(disk.clone() as Arc<dyn Disk>), &options).unwrap();
    let blocks = local(&disk);
    let opts =
        FormatOptions { log_id: 77, now: NOW, ring_blocks: Some(ring_blocks), ..FormatOptions::default() };
    Store::format(blocks.clone(), &opts).unwrap();
    blocks.flush().unwrap();
    blocks.image().close().unwrap();
    disk
}

/// S3: flushes of the disk, by what is fsynced: small 1, large overwrite 1, large fresh 2, each 1 more when cold.
#[test]
fn flush_count_table() {
    flush_counts(Rules::default());
    for off in [
        Rules { ring_not_pinned: true, ..Rules::default() },
        Rules { skip_fresh_flush: true, ..Rules::default() },
    ] {
        let story = std::panic::AssertUnwindSafe(|| off.open_with(|| flush_counts(off)));
        assert!(std::panic::catch_unwind(story).is_err(), "nothing notices that a rule is off: {off:?}");
    }
}

fn flush_counts(rules: Rules) {
    let disk = disk(200 << 20, 16, 1024);
    let blocks = local(&disk);
    let store = open_on(blocks.clone());
    store.core_write().rules = rules;
    assert!(store.back_ahead(25_000).unwrap());
    let ino = create(&store, b"file");
    fsync(&store, ino);
    let count = |at: usize, len: usize| {
        let before = disk.counts().flushes;
        store.write(ino, at as u64, &vec![(before % 251) as u8; len], NOW).unwrap();
        fsync(&store, ino);
        disk.counts().flushes - before
    };
    let hot_blocks = || blocks.image().hot_ranges().iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(count(0, 4096), 1, "small fresh");
    assert_eq!(count(0, 4096), 1, "small overwrite");
    let mut seen = [0, 0];
    for n in 1..10 {
        let (before, flushes) = (hot_blocks(), count(n * MIB, MIB));
        let cold = hot_blocks() > before;
        assert_eq!(flushes, if cold { 3 } else { 2 }, "large fresh, cold: {cold}");
        seen[usize::from(cold)] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    assert_eq!(count(8 * MIB, MIB), 1, "large overwrite, hot");
    // Others push the extent out of the activity log.
    for n in 10..90 {
        count(n * MIB, MIB);
    }
    let ring = store.core_read().ring.clone();
    assert!(blocks.image().is_hot(BlockNo(ring.first), ring.blocks), "all of the log stays hot");
    assert_eq!(count(8 * MIB, MIB), 2, "large overwrite, cold");
    assert_eq!(count(8 * MIB, MIB), 1, "and hot again");
    assert_eq!(count(0, 4096), 1, "small, always hot");
}

pub(super) fn open_on(blocks: Arc<LocalBlocks>) -> Store {
    Store::open(blocks, &StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() }).unwrap()
}

/// W19: the host fills up under a sparse image: the application is told, and everything acknowledged stays.
#[test]
fn host_disk_full_under_sparse_image() {
    full_host();
    let off = Rules { ignore_backing: true, ..Rules::default() };
    let told = std::panic::catch_unwind(|| off.open_with(full_host));
    assert!(told.is_err(), "nothing notices that the rule is off");
}

fn full_host() {
    let disk = disk(400 << 20, 16, 1024);
    let store = open_on(local(&disk));
    let ino = create(&store, b"f");
    store.write(ino, 0, &[7; 100_000], NOW).unwrap();
    fsync(&store, ino);
    disk.limit_room(Some(9 << 20));
    let mut at = MIB as u64;
    let error = loop {
        match store.write(ino, at, &vec![8; MIB], NOW) {
            Ok(()) => at += MIB as u64,
            Err(error) => break error,
        }
        assert!(at < 300 << 20, "the host has not that much room");
    };
    assert_eq!(error, crate::fs::FsError::NoSpace);
    store.sync().unwrap();
    store.checkpoint().unwrap();
    assert!(store.statfs().available < 1024, "statfs promises what the host has not");
    // Names and small changes still fit the reserve; deleting always works.
    for n in 0..20 {
        create(&store, format!("n{n}").as_bytes());
    }
    fsync(&store, ino);
    let again = open_on(local(&Arc::new(disk.fork())));
    assert_eq!(again.read(ino, 0, 100_000).unwrap(), vec![7; 100_000]);
    assert_eq!(again.inode(ino).unwrap().unwrap().size, at);
    unlink(&store, b"f");
    fsync(&store, Ino::ROOT);
    store.checkpoint().unwrap();
    let next = create(&store, b"next");
    store.write(next, 0, &vec![9; MIB], NOW).unwrap();
    fsync(&store, next);
    store.close().unwrap();
}
