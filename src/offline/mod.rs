//! Reading a volume that nobody uses: what `fsck.twinfs` checks and `twinfs dump` prints.
//!
//! Decides how much of a filesystem can be read without its allocator and transactions. Knows `format` and the read
//! side of `image`, never `fs`: a mistake there must not hide itself here. Invariants: nothing is written; bytes of any
//! kind end in an answer.
#![allow(clippy::disallowed_methods, reason = "a shell: opens an image file")]

mod file;
mod log;
mod tables;

use std::sync::Arc;

use crate::base::{BlockNo, foreign};
use crate::format::{FsSuper, LogMeta, LogOp};
use crate::image::Image;

pub use file::ReadOnlyFile;
pub use log::Record;
pub use tables::{Layered, Tables};

const BLOCK: usize = BlockNo::SIZE;

/// One filesystem as far as it could be read.
pub struct Volume {
    pub sup: FsSuper,
    /// Where the log went on behind the last checkpoint.
    pub meta: LogMeta,
    /// Free runs as of the last checkpoint.
    pub free: Vec<(u64, u64)>,
    /// Sealed records behind the last checkpoint, in order.
    pub records: Vec<Record>,
    /// What is wrong with the log.
    pub log_problems: Vec<String>,
    /// Tables with those records applied.
    pub tables: Layered,
}

impl Volume {
    /// Reads superblock, tables and log. `sup` comes from `superblock`.
    pub fn open(image: &Arc<Image>, sup: FsSuper) -> Result<Volume, String> {
        // redb asserts on some bytes that it does not expect; damaged bytes are an answer here, not a crash.
        let opened = foreign(|| tables::open(image, &sup));
        let opened = opened.unwrap_or_else(|| Err("the tables are not readable".to_string()))?;
        let read = |block: BlockNo, out: &mut [u8]| {
            image.read_as_settled(block, out).map_err(|error| error.to_string())
        };
        let (records, mut log_problems) = log::replay(&sup, &opened.meta, &read);
        let mut tables = Layered { base: opened.stored, changes: std::collections::BTreeMap::new() };
        for record in &records {
            let whole = record.each_op(|op| {
                if let LogOp::Set { table, key, value } = op {
                    tables.changes.entry(table).or_default().insert(key.to_vec(), value.map(<[u8]>::to_vec));
                }
            });
            if !whole {
                log_problems.push(format!("record {}: an operation is not readable", record.seq));
            }
        }
        Ok(Volume { sup, meta: opened.meta, free: opened.free, records, log_problems, tables })
    }
}

/// The newest whole slot of the filesystem superblock, and what is wrong with the other one.
pub fn superblock(image: &Image) -> Result<(FsSuper, Option<String>), String> {
    let (mut newest, mut torn): (Option<FsSuper>, Vec<String>) = (None, Vec::new());
    for slot in 0..2 {
        match slot_of(image, slot) {
            Err(text) => torn.push(format!("slot {slot}: {text}")),
            Ok(sup) if newest.as_ref().is_none_or(|known| known.seq < sup.seq) => newest = Some(sup),
            Ok(_) => {}
        }
    }
    let sup = newest.ok_or_else(|| torn.join("; "))?;
    if sup.block_count > image.block_count() || sup.data_first > sup.block_count {
        return Err(format!("{} blocks on an image of {}", sup.block_count, image.block_count()));
    }
    Ok((sup, torn.pop()))
}

fn slot_of(image: &Image, slot: u64) -> Result<FsSuper, String> {
    let mut head = vec![0; BLOCK];
    image.read_as_settled(BlockNo(slot), &mut head).map_err(|error| error.to_string())?;
    let (first, needed) = FsSuper::peek(&head).ok_or("no superblock")?;
    if first.checked_add(needed as u64).is_none_or(|end| end > image.block_count()) {
        return Err("its continuation lies outside the image".into());
    }
    let mut cont = vec![0; needed * BLOCK];
    if needed > 0 {
        image.read_as_settled(BlockNo(first), &mut cont).map_err(|error| error.to_string())?;
    }
    FsSuper::decode(&head, &cont).ok_or_else(|| "its hash does not match".to_string())
}
