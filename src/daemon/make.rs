//! A node's image of a volume, made new: with an empty filesystem on the first node, blank on the second.
//!
//! Decides the first record. Does not know where the configuration comes from. Invariant: an image or anything else
//! that is there already is not overwritten.
#![allow(clippy::disallowed_methods, reason = "a shell: makes files")]

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::base::{BlockNo, Generation, Members, NodeId, Pages, Record};
use crate::config::{self, Config};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::fs::{FormatOptions as FsFormat, Store};
use crate::image::{self, Blocks, Disk, Image, ImageError, LocalBlocks, OpenOptions, Probe};
use crate::sys::disk::FileDisk;
use crate::sys::lock::ImageLock;
use crate::sys::{clock, random};

use super::{DaemonError, NodeFile, volume_id};

/// Between the name of an image that was put aside and when that was, in seconds since 1970.
pub const ASIDE: &str = ".replaced-";

/// What is said of a copy that was replaced by another one.
pub const OUT_OF_USE: &str = "this copy was replaced by another one (\"twinfs replace\") and is not used any more: \
    take its disk out, or wipe it with \"twinfs mkfs --force\" and remove it; \"twinfs mount --standalone\" shows what \
    it holds";

/// How long a daemon that was just stopped may take to let go of the image.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Which of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// The one with the filesystem: sole member and primary by record.
    First,
    /// Blank: becomes a member by a resync.
    Second,
    /// Blank by its record, but `plant` fills it from a copy: the resync compares.
    Seeded,
}

/// What `make_image` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Now,
    /// This node's copy of this volume was there already and is left alone.
    Before,
}

/// Makes `me`'s image of `volume` and its node state file.
pub fn make_image(
    config: &Config,
    volume: &config::Volume,
    me: NodeId,
    copy: Copy,
    state_dir: &Path,
) -> Result<Made, DaemonError> {
    let path = volume.image_on(me);
    let wrong = |text: String| DaemonError::Image { path: path.clone(), text };
    let file = NodeFile::open(state_dir, &volume.name).map_err(DaemonError::State)?;
    if !path.exists() {
        // Everybody's files are in it.
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
        file.and_then(|file| file.set_len(volume.size)).map_err(|e| wrong(e.to_string()))?;
    }
    // Its text names the image already.
    let lock = ImageLock::take(path, LOCK_WAIT).map_err(|e| DaemonError::Config(e.to_string()))?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, true).map_err(|e| wrong(e.to_string()))?);
    match image::probe(&*disk).map_err(|e| wrong(e.to_string()))? {
        Probe::Blank => {}
        Probe::TwinfsImage { .. } => {
            if file.is_out_of_use(&owner(&disk, config, volume, me).map_err(wrong)?) {
                return Err(wrong(OUT_OF_USE.to_string()));
            }
            return Ok(Made::Before);
        }
        Probe::OtherSignature { name } => {
            return Err(wrong(format!("holds {name} data and is left alone; give another image")));
        }
    }
    let state =
        State { retired: file.replaced(), ..first_state(config, volume, me, copy, file.boot_epoch()) };
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
    file.note_start(&state).map_err(DaemonError::State)?;
    Ok(Made::Now)
}

/// The record of the image at hand, if it is `me`'s copy of this volume.
fn owner(
    disk: &Arc<dyn Disk>,
    config: &Config,
    volume: &config::Volume,
    me: NodeId,
) -> Result<State, String> {
    let options = OpenOptions::read_only().volume(volume_id(config, &volume.name));
    let state = Image::open(Arc::clone(disk), &options).map_err(|e| e.to_string())?.state();
    if state.node != me {
        let other = &config.node(state.node).name;
        return Err(format!("it is the copy of node {other}; each node has its own image"));
    }
    Ok(state)
}

/// The volume that `file` holds a copy of.
pub fn seed_of<'a>(config: &'a Config, file: &Path) -> Result<&'a config::Volume, DaemonError> {
    let wrong = |text: String| DaemonError::Image { path: file.to_path_buf(), text };
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(file, false).map_err(|e| wrong(e.to_string()))?);
    let id = match image::probe(&*disk).map_err(|e| wrong(e.to_string()))? {
        Probe::TwinfsImage { volume, .. } => volume,
        Probe::Blank | Probe::OtherSignature { .. } => {
            return Err(wrong("is no twinfs image and cannot be a seed".to_string()));
        }
    };
    let found = config.volumes.iter().find(|volume| id == Some(volume_id(config, &volume.name)));
    found.ok_or_else(|| wrong("is a copy of another cluster's volume and cannot be a seed".to_string()))
}

/// Fills `me`'s new image of `volume` from a copy of the other node's, however old; answers how many blocks were good.
/// What does not match its digest in `file`, which may have been copied in use, is left out: the resync brings it.
/// `told` hears how many blocks of how many are done.
pub fn plant(
    config: &Config,
    volume: &config::Volume,
    me: NodeId,
    file: &Path,
    told: &mut dyn FnMut(u64, u64),
) -> Result<u64, DaemonError> {
    seed_of(config, file)?;
    let path = volume.image_on(me);
    let bad = |path: &Path, error: &dyn std::fmt::Display| DaemonError::Image {
        path: path.to_path_buf(),
        text: error.to_string(),
    };
    let (bad_seed, bad_image) = (|e: ImageError| bad(file, &e), |e: ImageError| bad(path, &e));
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(file, false).map_err(|e| bad(file, &e))?);
    let seed = Image::open(disk, &OpenOptions::read_only()).map_err(bad_seed)?;
    // Its text names the image already.
    let _lock = ImageLock::take(path, LOCK_WAIT).map_err(|e| DaemonError::Config(e.to_string()))?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, true).map_err(|e| bad(path, &e))?);
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).map_err(bad_image)?);
    let blocks = LocalBlocks::new(Arc::clone(&image)).map_err(bad_image)?;
    let total = seed.written_bytes().map_err(bad_seed)? / BlockNo::SIZE as u64;
    let (mut done, mut good) = (0, 0);
    for run in seed.written_runs(BlockNo(0)) {
        let (first, count) = run.map_err(bad_seed)?;
        for (at, data) in whole_parts(&seed, first, count.min(image.block_count().saturating_sub(first.0))) {
            blocks.write(at, &data).map_err(|e| bad(path, &e))?;
            good += (data.len() / BlockNo::SIZE) as u64;
        }
        done += count;
        told(done, total);
    }
    blocks.flush().map_err(|e| bad(path, &e))?;
    image.close().map_err(bad_image)?;
    Ok(good)
}

/// The parts of a run that match their digests, with their content.
fn whole_parts(seed: &Image, first: BlockNo, count: u64) -> impl Iterator<Item = (BlockNo, Pages)> + '_ {
    const AT_ONCE: u64 = 256;
    let read = |at: u64, blocks: u64| {
        let mut pages = Pages::zeroed(usize::try_from(blocks).unwrap_or(0));
        seed.read(BlockNo(at), &mut pages).ok().map(|()| (BlockNo(at), pages))
    };
    (first.0..first.0 + count).step_by(AT_ONCE as usize).flat_map(move |at| {
        let blocks = AT_ONCE.min(first.0 + count - at);
        match read(at, blocks) {
            Some(whole) => vec![whole],
            None => (at..at + blocks).filter_map(|block| read(block, 1)).collect(),
        }
    })
}

/// Puts `me`'s image of `volume` aside, so that a new one can be made; answers with its new name, or `None` if there is
/// no image. Refuses while it is in use, and when by its own record no other copy is current; a peer that serves has
/// decided otherwise, and then this copy is the one to give up.
pub fn put_aside(
    config: &Config,
    volume: &config::Volume,
    me: NodeId,
    peer_serves: bool,
) -> Result<Option<PathBuf>, DaemonError> {
    let path = volume.image_on(me);
    let wrong = |text: String| DaemonError::Image { path: path.clone(), text };
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(None) };
    if !meta.is_file() {
        return Err(wrong("is no plain file and cannot be put aside; clear it with \"wipefs -a\"".into()));
    }
    let lock = ImageLock::take(path, LOCK_WAIT).map_err(|e| DaemonError::Config(e.to_string()))?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, false).map_err(|e| wrong(e.to_string()))?);
    // A damaged image has no record to ask; it is what is being replaced.
    if let Ok(state) = owner(&disk, config, volume, me)
        && !peer_serves
        && state.record.is_some_and(|record| record.members == Members::only(me))
    {
        let other = &config.node(me.other()).name;
        return Err(DaemonError::OnlyCopy(format!(
            "{}: left alone: by its record only this copy is current; replace {other}'s, or bring both in sync first",
            path.display()
        )));
    }
    let mut aside = path.clone().into_os_string();
    aside.push(format!("{ASIDE}{}", clock::unix_ms() / 1000));
    let aside = PathBuf::from(aside);
    std::fs::rename(path, &aside).map_err(|e| wrong(e.to_string()))?;
    drop(lock);
    Ok(Some(aside))
}

fn first_state(config: &Config, volume: &config::Volume, me: NodeId, copy: Copy, epoch: u64) -> State {
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
        full: first || copy == Copy::Seeded,
        resync: ResyncMark::None,
        // Above every number that an earlier image of this node can have told the peer, which refuses lower ones as
        // replays: numbers count starts, so seconds outrun them. The node file is for a clock that was set back.
        boot_epoch: epoch.max(clock::unix_ms() / 1000),
        peer_boot_epoch: 0,
        retired: Vec::new(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: 0,
    }
}
