//! Runs a workload on a real filesystem and writes its history: what reached the disk, what the tree was when, and what
//! was promised to be stable.
//!
//! Decides what counts as a promise. Compares nothing (`judge` and `model` do). Invariant: an operation that the model
//! allows must succeed.

use std::collections::BTreeMap;
use std::sync::Arc;

use twinfs::base::Ino;
use twinfs::format::FileKind;
use twinfs::fs::{Ctx, FilePart, FsError, NewNode, Place, RenameHow, SetAttr, SetXattr, Store};

use super::disk::{CrashDisk, Event, Snapshot};
use super::tree::{Effect, Tree, clock, explicit, filling, list_bytes};
use super::words::{Op, show};
use super::{Mounted, mount};

/// When the threads of a mount would do their work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Never: everything waits for the fsync.
    Idle,
    /// Dirty data goes home after each operation, unflushed.
    Writeback,
    /// A checkpoint behind each fsync.
    CheckpointBehind,
    /// Data home and a checkpoint after each operation.
    Busy,
}

pub const STYLES: [Style; 4] = [Style::Idle, Style::Writeback, Style::CheckpointBehind, Style::Busy];

/// Where workloads start: an image, and what it holds.
#[derive(Clone)]
pub struct Start {
    pub image: Snapshot,
    pub tree: Tree,
    /// Tells the writes that made it from those that follow.
    pub seed: u64,
}

impl Start {
    /// An empty filesystem.
    pub fn empty(image: Snapshot) -> Start {
        Start { image, tree: Tree::default(), seed: 0 }
    }

    /// What these operations leave: unmounted, or as it lies there when the power goes behind a sync.
    pub fn prepared(image: Snapshot, ops: &[Op], clean: bool) -> Start {
        let mut runner = Runner::start(&Start::empty(image), Style::Idle, &nothing).expect("starts");
        for op in ops.iter().chain([&Op::Sync]) {
            runner.step(op).expect("prepares");
        }
        let mounted = runner.mounted.take().expect("mounted");
        if clean {
            mounted.unmount().expect("unmounts");
            return Start { image: runner.disk.freeze(), tree: runner.tree, seed: runner.seed };
        }
        Start { image: runner.disk.freeze(), tree: runner.tree, seed: runner.seed }
    }
}

/// Versions of one file: the state in which each became current.
pub type Versions = Vec<(usize, Arc<Vec<u8>>)>;

/// All that is known of a run.
pub struct History {
    pub base: Snapshot,
    pub events: Vec<Event>,
    /// Events behind each state; state 0 is the start of the recording.
    pub ends: Vec<usize>,
    /// Names and attributes at each state.
    pub listings: Vec<Arc<str>>,
    pub files: BTreeMap<u64, Versions>,
    /// Events, and the state whose names were stable behind them.
    pub stable: Vec<(usize, usize)>,
    /// The same for the content of single files.
    pub synced: BTreeMap<u64, Vec<(usize, usize)>>,
    /// From this state on the content of this file is at least what it was then.
    pub pulls: Vec<(usize, u64)>,
    /// In this state somebody set the times of this inode.
    pub timed: Vec<(usize, u64)>,
    /// The tree at each state.
    pub trees: Vec<Tree>,
    pub words: String,
    pub style: Style,
}

/// A workload while it runs.
pub struct Runner<'a> {
    pub disk: Arc<CrashDisk>,
    pub mounted: Option<Mounted>,
    pub tree: Tree,
    style: Style,
    /// Called with each store that was opened.
    on_open: &'a dyn Fn(&Store),
    seed: u64,
    history: History,
}

fn list_name(default: bool) -> &'static [u8] {
    if default { b"system.posix_acl_default" } else { b"system.posix_acl_access" }
}

pub fn nothing(_: &Store) {}

impl<'a> Runner<'a> {
    pub fn start(start: &Start, style: Style, on_open: &'a dyn Fn(&Store)) -> Result<Runner<'a>, String> {
        let disk = Arc::new(start.image.disk());
        let mounted = mount(&disk)?;
        on_open(mounted.store());
        let history = History {
            base: disk.record(),
            events: Vec::new(),
            ends: Vec::new(),
            listings: Vec::new(),
            files: BTreeMap::new(),
            stable: Vec::new(),
            synced: BTreeMap::new(),
            pulls: Vec::new(),
            timed: Vec::new(),
            trees: Vec::new(),
            words: String::new(),
            style,
        };
        let mut runner = Runner {
            disk,
            mounted: Some(mounted),
            tree: start.tree.clone(),
            style,
            on_open,
            seed: start.seed,
            history,
        };
        runner.begin();
        Ok(runner)
    }

    /// How many operations there were, over all that led here.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn live(&self) -> &Mounted {
        self.mounted.as_ref().expect("mounted")
    }

    /// What there is now is the start: stable, and not cut.
    pub fn begin(&mut self) {
        let history = &mut self.history;
        history.trees = vec![self.tree.clone()];
        history.base = self.disk.record();
        history.ends = vec![0];
        history.listings = vec![self.tree.listing().into()];
        history.files = self.tree.files().map(|(ino, data)| (ino, vec![(0, data)])).collect();
        history.stable = vec![(0, 0)];
        history.synced.clear();
        history.pulls.clear();
        history.timed.clear();
    }

    /// One operation on both sides; panics nowhere: what the model allows must succeed.
    pub fn step(&mut self, op: &Op) -> Result<(), String> {
        self.seed += 1;
        let fresh = self.perform(op).map_err(|error| format!("{op}: {error}"))?;
        let Some(effect) = self.tree.apply(op, fresh, self.seed) else {
            return Err(format!("{op}: succeeded, but the model says that it cannot"));
        };
        self.tree.forget_unnamed();
        self.threads(op).map_err(|error| format!("behind {op}: {error}"))?;
        self.note(op, effect)
    }

    /// Does it; answers the number of a new inode, else 0.
    fn perform(&mut self, op: &Op) -> Result<u64, FsError> {
        if *op == Op::Remount {
            return self.remount().map(|()| 0).map_err(FsError::Io);
        }
        let (fs, tree) = (&self.live().fs, &self.tree);
        let ctx = Ctx { umask: 0o022, now: clock(self.seed), ..Ctx::default() };
        let ino = |path: &str| tree.find(path).map(Ino).ok_or(FsError::NotFound);
        let place = |path: &'_ str| -> Result<(Ino, String), FsError> {
            let (dir, name) = tree.place(path).ok_or(FsError::NotFound)?;
            Ok((Ino(dir), name.to_string()))
        };
        match op {
            Op::Make(kind, path) => {
                let (dir, name) = place(path)?;
                let mode = if *kind == FileKind::Dir { 0o777 } else { 0o666 };
                let new = NewNode { kind: *kind, mode, rdev: 0, target: b"" };
                let made = fs.make(&ctx, dir, name.as_bytes(), new)?.ino;
                fs.forget(made, 1);
                return Ok(made.0);
            }
            Op::Symlink(target, path) => {
                let (dir, name) = place(path)?;
                let made = fs.symlink(&ctx, dir, name.as_bytes(), target.as_bytes())?.ino;
                fs.forget(made, 1);
                return Ok(made.0);
            }
            Op::Link(from, to) => {
                let (dir, name) = place(to)?;
                let linked = fs.link(&ctx, ino(from)?, dir, name.as_bytes())?.ino;
                fs.forget(linked, 1);
            }
            Op::Unlink(path) | Op::Rmdir(path) => {
                let (dir, name) = place(path)?;
                match op {
                    Op::Unlink(_) => fs.unlink(&ctx, dir, name.as_bytes())?,
                    _ => fs.rmdir(&ctx, dir, name.as_bytes())?,
                }
                fs.reap()?;
            }
            Op::Rename(from, to)
            | Op::RenameNew(from, to)
            | Op::RenameWhiteout(from, to)
            | Op::Exchange(from, to) => {
                let ((from_dir, old), (to_dir, new)) = (place(from)?, place(to)?);
                let (from, to) = (
                    Place { dir: from_dir, name: old.as_bytes() },
                    Place { dir: to_dir, name: new.as_bytes() },
                );
                let how = RenameHow {
                    no_replace: matches!(op, Op::RenameNew(..)),
                    exchange: matches!(op, Op::Exchange(..)),
                    whiteout: matches!(op, Op::RenameWhiteout(..)),
                };
                fs.rename(&ctx, from, to, how)?;
                fs.reap()?;
                if how.whiteout {
                    let left = fs.lookup(from.dir, from.name)?.ino;
                    fs.forget(left, 1);
                    return Ok(left.0);
                }
            }
            Op::Write(path, from, to) => {
                fs.write(&ctx, ino(path)?, *from, &filling(self.seed, *from, *to), false)?;
            }
            Op::Range(how, path, from, to) => fs.fallocate(&ctx, ino(path)?, *from, to - from, *how)?,
            Op::Copy(source, from, to, path, at) => {
                let (source, target) = (ino(source)?, ino(path)?);
                let at = FilePart { ino: target, offset: *at };
                fs.copy_range(&ctx, FilePart { ino: source, offset: *from }, at, to - from)?;
            }
            Op::Truncate(path, size) => {
                let set = SetAttr { size: Some(*size), ..SetAttr::default() };
                fs.setattr(&ctx, ino(path)?, set)?;
            }
            Op::Chmod(path, mode) => {
                let set = SetAttr { mode: Some(*mode), ..SetAttr::default() };
                fs.setattr(&ctx, ino(path)?, set)?;
            }
            Op::Chown(path, uid, gid) => {
                let set = SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() };
                fs.setattr(&ctx, ino(path)?, set)?;
            }
            Op::Times(path, accessed, changed) => {
                let (atime, mtime) = explicit(*accessed, *changed);
                let set = SetAttr { atime: Some(atime), mtime: Some(mtime), ..SetAttr::default() };
                fs.setattr(&ctx, ino(path)?, set)?;
            }
            Op::SetFlags(path, flags) => fs.set_flags(&ctx, ino(path)?, *flags)?,
            Op::SetList(default, path, list) => {
                fs.setxattr(&ctx, ino(path)?, list_name(*default), &list_bytes(list), SetXattr::Either)?;
            }
            Op::RemoveList(default, path) => fs.removexattr(&ctx, ino(path)?, list_name(*default))?,
            Op::SetXattr(path, name, value) => {
                fs.setxattr(&ctx, ino(path)?, name.as_bytes(), value.as_bytes(), SetXattr::Either)?;
            }
            Op::RemoveXattr(path, name) => fs.removexattr(&ctx, ino(path)?, name.as_bytes())?,
            Op::Hold(path, _) => fs.remember(ino(path)?),
            Op::Release(label) => {
                fs.forget(ino(&format!("@{label}"))?, 1);
                fs.reap()?;
            }
            Op::Fsync(path) | Op::Fdatasync(path) => {
                let ticket = fs.fsync(ino(path)?, matches!(op, Op::Fdatasync(_)))?;
                assert!(fs.store().commit()? >= ticket, "the commit did not cover the ticket");
            }
            Op::Sync => {
                let ticket = fs.fsync_all()?;
                assert!(fs.store().commit()? >= ticket, "the commit did not cover the ticket");
            }
            Op::Timer => {
                fs.store().fsync_ticket(None, false);
                fs.store().commit()?;
            }
            Op::Writeback => fs.store().writeback(true)?,
            Op::Checkpoint => fs.store().checkpoint()?,
            Op::Begin | Op::Remount => {}
        }
        Ok(0)
    }

    fn remount(&mut self) -> Result<(), String> {
        self.mounted.take().expect("mounted").unmount()?;
        let mounted = mount(&self.disk)?;
        (self.on_open)(mounted.store());
        self.mounted = Some(mounted);
        Ok(())
    }

    /// What the threads of a mount do meanwhile.
    fn threads(&mut self, op: &Op) -> Result<(), FsError> {
        let store = self.live().store();
        let home = match self.style {
            Style::Idle | Style::CheckpointBehind => false,
            Style::Writeback | Style::Busy => true,
        };
        if home {
            store.writeback(true)?;
        }
        let checkpoint = match self.style {
            Style::Idle | Style::Writeback => false,
            Style::CheckpointBehind => op.persists(),
            Style::Busy => true,
        };
        if checkpoint { store.checkpoint() } else { Ok(()) }
    }

    fn note(&mut self, op: &Op, effect: Effect) -> Result<(), String> {
        if *op == Op::Begin {
            let ticket = self.live().fs.fsync_all().map_err(|error| error.to_string())?;
            let done = self.live().store().commit().map_err(|error| error.to_string())?;
            assert!(done >= ticket, "the commit did not cover the ticket");
            self.begin();
            return Ok(());
        }
        let (state, moment) = (self.history.ends.len(), self.disk.moment());
        let history = &mut self.history;
        history.ends.push(moment);
        let listing = self.tree.listing();
        let same = history.listings.last().is_some_and(|last| **last == *listing);
        let shared = history.listings.last().filter(|_| same).cloned();
        history.listings.push(shared.unwrap_or_else(|| listing.into()));
        history.trees.push(self.tree.clone());
        if let Op::Make(FileKind::File, path) = op {
            let ino = self.tree.find(path).expect("made");
            history.files.insert(ino, vec![(state, Arc::default())]);
        }
        if let Some(ino) = effect.content {
            let data = self.tree.nodes[&ino].data.clone();
            history.files.entry(ino).or_default().push((state, data));
        }
        if let Op::Times(path, ..) = op {
            history.timed.push((state, self.tree.find(path).expect("timed")));
        }
        if let Some(ino) = effect.replaced_by.filter(|ino| self.tree.kind(*ino) == FileKind::File) {
            history.pulls.push((state, ino));
        }
        match op {
            Op::Fsync(path) | Op::Fdatasync(path) => {
                history.stable.push((moment, state));
                let ino = self.tree.find(path).expect("synced");
                history.synced.entry(ino).or_default().push((moment, state));
            }
            Op::Sync | Op::Remount => {
                history.stable.push((moment, state));
                for ino in history.files.keys() {
                    history.synced.entry(*ino).or_default().push((moment, state));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the recording. The power goes: nothing is closed.
    pub fn finish(self, ops: &[Op]) -> History {
        let mut history = self.history;
        history.events = self.disk.take_events();
        history.words = show(ops);
        history
    }
}

impl Tree {
    fn files(&self) -> impl Iterator<Item = (u64, Arc<Vec<u8>>)> + '_ {
        let files = self.nodes.iter().filter(|(_, node)| node.kind == FileKind::File);
        files.map(|(ino, node)| (*ino, node.data.clone()))
    }
}

/// Runs a workload.
pub fn run(start: &Start, ops: &[Op], style: Style, on_open: &dyn Fn(&Store)) -> Result<History, String> {
    let mut runner = Runner::start(start, style, on_open)?;
    for op in ops {
        runner.step(op).map_err(|why| format!("{}\n  ({style:?}) {why}", show(ops)))?;
    }
    Ok(runner.finish(ops))
}
