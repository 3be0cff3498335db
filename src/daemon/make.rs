//! A node's image of a volume, made new: with an empty filesystem on the first node, blank on the second.
//!
//! Decides the first record. Does not know where the configuration comes from. Invariant: an image or anything else
//! that is there already is not overwritten.
#![allow(clippy::disallowed_methods, reason = "a shell: makes files")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Generation, Members, NodeId, Record};
use crate::config::{self, Config};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::fs::{FormatOptions as FsFormat, Store};
use crate::image::{self, Disk, Image, LocalBlocks, OpenOptions, Probe};
use crate::sys::disk::FileDisk;
use crate::sys::lock::ImageLock;
use crate::sys::{clock, random};

use super::{DaemonError, NodeFile, volume_id};

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The one with the filesystem: sole member and primary by record.
    First,
    /// Blank: becomes a member by a resync.
    Second,
}

/// Makes `me`'s image of `volume` and its node state file.
pub fn make_image(
    config: &Config,
    volume: &config::Volume,
    me: NodeId,
    copy: Copy,
    state_dir: &Path,
) -> Result<(), DaemonError> {
    let path = volume.image_on(me);
    let wrong = |text: String| DaemonError::Image { path: path.clone(), text };
    if !path.exists() {
        let file = std::fs::File::options().write(true).create_new(true).open(path);
        file.and_then(|file| file.set_len(volume.size)).map_err(|e| wrong(e.to_string()))?;
    }
    let lock = ImageLock::take(path, Duration::ZERO).map_err(|e| wrong(e.to_string()))?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, true).map_err(|e| wrong(e.to_string()))?);
    match image::probe(&*disk).map_err(|e| wrong(e.to_string()))? {
        Probe::Blank => {}
        Probe::TwinfsImage { .. } => {
            return Err(wrong("is a twinfs image already and is left alone; remove it to begin anew".into()));
        }
        Probe::OtherSignature { name } => {
            return Err(wrong(format!("holds {name} data and is left alone; remove it to begin anew")));
        }
    }
    let state = first_state(config, volume, me, copy);
    let uuid = random::id128();
    let options =
        image::FormatOptions { state: state.clone(), uuid, label: volume.name.clone(), al_slots: 0 };
    image::format(&disk, &options).map_err(|e| wrong(e.to_string()))?;
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).map_err(|e| wrong(e.to_string()))?);
    if copy == Copy::First {
        let ms = clock::unix_ms();
        let now = crate::format::Time {
            secs: i64::try_from(ms / 1000).unwrap_or(0),
            nanos: u32::try_from(ms % 1000).unwrap_or(0) * 1_000_000,
        };
        let options = FsFormat { log_id: random::id128(), now, uid: 0, gid: 0, ring_blocks: None };
        let blocks = Arc::new(LocalBlocks::new(Arc::clone(&image)).map_err(|e| wrong(e.to_string()))?);
        Store::format(blocks, &options).map_err(|e| wrong(e.to_string()))?;
    }
    image.close().map_err(|e| wrong(e.to_string()))?;
    drop(lock);
    let file = NodeFile::open(state_dir, &volume.name).map_err(DaemonError::State)?;
    file.note_start(&state).map_err(DaemonError::State)
}

fn first_state(config: &Config, volume: &config::Volume, me: NodeId, copy: Copy) -> State {
    let first = copy == Copy::First;
    let made = GenEntry {
        id: Generation(random::id128()),
        minted_by: me,
        at_v: 1,
        reason: GenReason::Made,
        first_txn: 0,
    };
    State {
        volume: volume_id(config, &volume.name),
        node: me,
        incarnation: random::id128(),
        record: first.then_some(Record { v: 1, members: Members::only(me), primary: me }),
        gens: if first { vec![made] } else { Vec::new() },
        bitmap_base: Generation(0),
        full: first,
        resync: ResyncMark::None,
        boot_epoch: 0,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}
