//! The image below the filesystem: label, superblock slots, activity log ring, summary, bitmaps, digest pages.
//!
//! Decides what a sound image is, and what replaces a part that is not: the copy, the other slot, or what costs least
//! trust. Reads the bytes itself; only the question which digest counts for a block after a crash is left to the read
//! side of `image`. Invariant: repairs go to the medium it is given, which keeps them until they are wanted.

mod groups;
mod head;
mod remade;
mod ring;

use std::collections::BTreeSet;
use std::sync::Arc;

use twinfs::base::{BlockNo, ExtentNo};
use twinfs::format::{HEAD_BYTES, Label, State, Superblock};
use twinfs::image::{Disk, Image, OpenOptions};

use crate::findings::{Findings, Progress};
use crate::source::{Source, Stale};

/// Why nothing more can be said about an image.
#[derive(Debug)]
pub enum Stop {
    /// It is no image of ours, or cannot be read: an operational error.
    Unusable(String),
    /// It is one, but too damaged to go on; the findings say so.
    Damaged,
}

/// What was read of an image.
pub struct Medium {
    pub source: Source,
    pub state: State,
    /// Extents whose digests are not all there.
    pub damaged: BTreeSet<u64>,
}

impl Medium {
    /// Extents whose content has to be compared with its digests.
    pub fn to_compare(&self, contents: bool) -> Vec<ExtentNo> {
        let image = self.source.image();
        let all = contents || self.source.stale == Stale::All;
        let stale = |extent: &u64| self.damaged.contains(extent) || self.source.stale.has(ExtentNo(*extent));
        (0..image.extent_count())
            .filter(|extent| all || stale(extent))
            .map(ExtentNo)
            .filter(|extent| image.summary(*extent).is_ok_and(|summary| summary.touched))
            .collect()
    }
}

struct Parts<'a> {
    disk: &'a dyn Disk,
    label: Label,
    sup: Superblock,
    /// The slot that counts.
    slot: usize,
    stale: Stale,
    damaged: BTreeSet<u64>,
    /// Extents in the activity log: their pages are lazy, their truth is in its ring.
    hot: BTreeSet<u64>,
}

/// A file shorter than this part of what it was has lost too much to be worth another look.
const LEAST_PART: u64 = 64;

/// How long the image was, if it lost its end.
pub fn lost_end(disk: &dyn Disk) -> Option<u64> {
    let have = disk.len_bytes();
    head::any_label(disk)
        .map(|label| label.image_bytes)
        .filter(|need| have < *need && *need / LEAST_PART <= have && have > HEAD_BYTES)
}

/// Checks everything below the filesystem and answers with the image as its repair would leave it.
pub fn check(
    disk: &Arc<dyn Disk>,
    have: u64,
    findings: &mut Findings,
    progress: &mut Progress,
) -> Result<Medium, Stop> {
    let label = head::label(&**disk, findings)?;
    let (sup, slot) = head::superblock(&**disk, &label, findings)?;
    let mut parts = Parts {
        disk: &**disk,
        label,
        sup,
        slot,
        stale: Stale::default(),
        damaged: BTreeSet::new(),
        hot: BTreeSet::new(),
    };
    parts.ring(findings);
    progress.pass();
    parts.groups(findings, progress);
    let Parts { stale, damaged, sup, .. } = parts;
    let image = match Image::open(disk.clone(), &OpenOptions::read_only()) {
        Ok(image) => Arc::new(image),
        Err(error) => {
            findings.lose("image", error.to_string());
            return Err(Stop::Damaged);
        }
    };
    let gone = BlockNo(have.saturating_sub(sup.geometry.data) / BlockNo::SIZE as u64);
    let source = Source::new(image, disk.clone(), stale, gone);
    Ok(Medium { source, state: sup.state, damaged })
}
