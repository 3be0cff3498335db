//! The filesystem on the image: superblock, chunk map, tables, log ring, free space.
//!
//! Decides what a sound filesystem is, as a mount would see it: the tables as of the last checkpoint with the sealed
//! records of the log on top. Invariant: garbage ends in a finding, never in a panic or an endless walk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use twinfs::base::BlockNo;
use twinfs::format::{CHUNK_BLOCKS, FsSuper, LogOp};
use twinfs::image::Image;
use twinfs::offline::{self, Volume};

use crate::files;
use crate::findings::Findings;
use crate::space::Space;

/// Owner of the tables' chunks: the only blocks that may also stand as free.
const TABLES: &str = "the tables";

/// What was seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub inodes: u64,
    pub records: u64,
    pub free: u64,
    pub blocks: u64,
}

/// Checks the filesystem; `None` if it could not be read so far that its files could be counted.
pub fn check(image: &Arc<Image>, findings: &mut Findings) -> Option<Seen> {
    let (sup, other) = match offline::superblock(image) {
        Ok(found) => found,
        Err(text) => {
            findings.add("filesystem", text);
            return None;
        }
    };
    if let Some(text) = other {
        findings.note(format!("filesystem superblock: {text} (the other slot counts)"));
    }
    let mut space = Space::new(sup.block_count);
    areas(&sup, &mut space, findings);
    let volume = match Volume::open(image, sup) {
        Ok(volume) => volume,
        Err(text) => {
            findings.add("tables", text);
            return None;
        }
    };
    // The tables are trusted no further than their checksums: what slips through must not end the checker.
    match catch_unwind(AssertUnwindSafe(|| walk(&volume, &mut space, findings))) {
        Ok(Ok(seen)) => Some(seen),
        Ok(Err(text)) => {
            findings.add("tables", text);
            None
        }
        Err(_) => {
            findings.add("tables", "not readable: the library that reads them gave up");
            None
        }
    }
}

fn walk(volume: &Volume, space: &mut Space, findings: &mut Findings) -> Result<Seen, String> {
    for (start, count) in &volume.free {
        space.free(BlockNo(*start), *count, "the table", findings);
    }
    volume.log_problems.iter().for_each(|text| findings.add("log", text.clone()));
    for record in &volume.records {
        let source = format!("log record {}", record.seq);
        record.each_op(|op| match op {
            LogOp::Set { .. } => {}
            LogOp::Alloc { start, count } => space.taken(start, count, &source, findings),
            LogOp::Free { start, count } => space.free(start, count, &source, findings),
        });
    }
    let inodes = files::check(&volume.tables, space, findings)?;
    space.finish(TABLES, findings);
    let records = volume.records.len() as u64;
    Ok(Seen { inodes, records, free: space.free_blocks(), blocks: volume.sup.block_count })
}

/// The areas before the data, and the chunks of the tables.
fn areas(sup: &FsSuper, space: &mut Space, findings: &mut Findings) {
    let mut inner = Space::new(sup.data_first);
    inner.used(BlockNo(0), 2, "the superblock", findings);
    inner.used(BlockNo(sup.ring_first), sup.ring_blocks, "the log", findings);
    for first in sup.cont_first.into_iter().filter(|_| sup.cont_blocks > 0) {
        inner.used(BlockNo(first), sup.cont_blocks, "a continuation of the superblock", findings);
    }
    space.used(BlockNo(0), sup.data_first, "the fixed areas", findings);
    let mut last = None;
    for (index, first) in &sup.chunks {
        if last.is_some_and(|last| last >= *index) {
            findings.add("chunk map", format!("chunk {index} is out of order"));
        }
        last = Some(*index);
        space.used(BlockNo(*first), CHUNK_BLOCKS, TABLES, findings);
    }
}
