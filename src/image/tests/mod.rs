//! Tests of the image: crash images, single rules, the golden image.

mod crash;
mod golden;
mod grow;
mod rules;
mod undo;

use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::base::{Generation, Members, NodeId, Record};
use crate::format::{GenEntry, GenReason, ResyncMark};

thread_local! {
    /// The rule that is switched off.
    pub static BROKEN: Cell<&'static str> = const { Cell::new("") };
}

/// Whether `story` does not end well while this thread ignores `rule`.
pub(crate) fn fails_without(rule: &'static str, story: impl FnOnce()) -> bool {
    BROKEN.set(rule);
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(story));
    BROKEN.set("");
    told.is_err()
}

pub fn state(record: Option<Record>) -> State {
    State {
        volume: VolumeId(7),
        node: NodeId::A,
        incarnation: 0x1234_5678_9abc,
        record,
        gens: vec![GenEntry {
            id: Generation(5),
            minted_by: NodeId::A,
            at_v: 1,
            reason: GenReason::Made,
            first_txn: 0,
        }],
        bitmap_base: Generation(0),
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: 0,
    }
}

pub fn solo() -> Option<Record> {
    Some(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A })
}

pub fn options(record: Option<Record>, al_slots: u32) -> FormatOptions {
    FormatOptions { state: state(record), uuid: 0xabc, label: "test".to_string(), al_slots }
}

/// A formatted disk of `len` bytes.
pub fn disk(len: u64, record: Option<Record>, al_slots: u32) -> Arc<MemDisk> {
    let disk = Arc::new(MemDisk::new(len));
    let as_disk: Arc<dyn Disk> = disk.clone();
    format(&as_disk, &options(record, al_slots)).expect("formats");
    disk
}

pub fn open(disk: &Arc<MemDisk>) -> Arc<Image> {
    Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).expect("opens"))
}

pub fn local(disk: &Arc<MemDisk>) -> LocalBlocks {
    LocalBlocks::new(open(disk)).expect("local")
}

/// A block whose content tells its number and version.
pub fn content(block: u64, version: u64) -> Vec<u8> {
    let mut seed = (block << 20) ^ (version.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
    let mut out = Vec::with_capacity(4096);
    while out.len() < 4096 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        out.extend_from_slice(&seed.to_le_bytes());
    }
    out
}

pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

pub fn read(image: &Image, block: u64) -> Result<Vec<u8>, ImageError> {
    let mut out = vec![1; 4096];
    image.read(BlockNo(block), &mut out).map(|()| out)
}
