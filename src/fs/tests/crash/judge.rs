//! Whether an image is what a power cut may leave: it mounts, the checker finds nothing, the history explains the tree.
//!
//! Decides what is acceptable. Names and attributes: exactly those of one moment, not before the last promise and not
//! behind the last write on the image (operations reach the disk in order). Content of a file: each sector as it was in
//! some version not older than the last promise for that file, the size one of those versions' or, while it grew, a
//! whole number of blocks between two; never zeros or foreign bytes in their stead. The time of its last change goes
//! with the content: that of some such version, not older than the last time that somebody set.

use std::collections::BTreeMap;
use std::sync::Arc;

use twinfs::base::Ino;
use twinfs::format::{FileKind, Time};
use twinfs::fs::Ctx;
use twinfs::image::{Disk, Image};

use super::disk::CrashDisk;
use super::images::{Cut, Depth, each_image};
use super::run::History;
use super::tree::{Line, SECTOR, hex};
use super::{Mounted, mount};

/// The independent checker.
#[derive(Clone, Copy)]
pub struct Checker {
    /// Everything that is wrong with an image that nobody uses, down to each block's digest.
    pub image: fn(&Arc<dyn Disk>) -> Vec<String>,
    /// Everything that is wrong with the filesystem on an image that is open.
    pub filesystem: fn(&Arc<Image>, &Arc<dyn Disk>) -> Vec<String>,
}

/// How images are judged.
#[derive(Clone, Copy)]
pub struct Judge {
    pub depth: Depth,
    pub checker: Option<Checker>,
    /// Every so many images the whole image is checked before the mount; its filesystem is checked on all.
    pub whole_checks: u64,
    /// Every so many images all names are removed and made again, and the image is checked once more.
    pub base_checks: u64,
    pub seed: u64,
}

/// What one history came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub images: u64,
    pub workloads: u64,
}

impl Count {
    pub fn add(&mut self, other: Count) {
        self.images += other.images;
        self.workloads += other.workloads;
    }
}

/// The tree on an image.
pub struct Found {
    pub listing: String,
    /// Size and content by inode.
    pub files: BTreeMap<u64, Vec<u8>>,
    /// When each file was changed last.
    pub changed: BTreeMap<u64, Time>,
    /// Blocks of 4 KiB that each file says it has.
    pub blocks: BTreeMap<u64, u64>,
    pub inos: BTreeMap<String, u64>,
}

/// Reads the whole tree.
pub fn look(mounted: &Mounted) -> Result<Found, String> {
    let mut found = Found {
        listing: String::new(),
        files: BTreeMap::new(),
        changed: BTreeMap::new(),
        blocks: BTreeMap::new(),
        inos: BTreeMap::new(),
    };
    look_at(mounted, Ino::ROOT, String::new(), &mut found)?;
    Ok(found)
}

fn look_at(mounted: &Mounted, ino: Ino, path: String, found: &mut Found) -> Result<(), String> {
    let (fs, store) = (&mounted.fs, mounted.store());
    let wrong = |error: twinfs::fs::FsError| format!("{path} (inode {}): {error}", ino.0);
    let rec = store.inode(ino).map_err(wrong)?.ok_or_else(|| format!("{path}: inode {} is gone", ino.0))?;
    let kind = rec.kind();
    let (perms, links, owner, flags) = (rec.mode & 0o7777, rec.nlink, (rec.uid, rec.gid), rec.flags);
    let line = Line {
        path: &path,
        ino: ino.0,
        kind,
        perms,
        links,
        owner,
        flags,
        atime: rec.atime,
        mtime: rec.mtime,
    };
    line.put(&mut found.listing);
    found.listing.push_str(&String::from_utf8_lossy(&rec.target));
    for name in store.xattr_names(ino).map_err(wrong)? {
        let value = fs.getxattr(ino, &name).map_err(wrong)?;
        let name = String::from_utf8_lossy(&name);
        let value = match name.starts_with("system.") {
            true => hex(&value),
            false => String::from_utf8_lossy(&value).into_owned(),
        };
        found.listing.push_str(&format!(" {name}={value}"));
    }
    found.listing.push('\n');
    found.inos.insert(path.clone(), ino.0);
    if kind == FileKind::File && !found.files.contains_key(&ino.0) {
        let data = fs.read(ino, 0, usize::MAX >> 1).map_err(wrong)?;
        if data.len() as u64 != rec.size {
            return Err(format!("{path}: {} bytes are read, the size is {}", data.len(), rec.size));
        }
        found.files.insert(ino.0, data);
        found.changed.insert(ino.0, rec.mtime);
        found.blocks.insert(ino.0, rec.blocks);
    }
    if kind == FileKind::Dir {
        let mut names = store.dirents_after(ino, 0, usize::MAX).map_err(wrong)?;
        names.sort_by(|one, other| one.1.cmp(&other.1));
        for (_, name, entry) in names {
            let name = String::from_utf8_lossy(&name).into_owned();
            look_at(mounted, entry.ino, format!("{path}/{name}"), found)?;
        }
    }
    Ok(())
}

/// Whether a file's content can be explained by versions from `low` on, up to state `high`.
fn explain(found: &[u8], versions: &[&[u8]]) -> Result<(), String> {
    if versions.contains(&found) {
        return Ok(());
    }
    let size = found.len();
    let is = versions.iter().any(|version| version.len() == size);
    let grows = size.is_multiple_of(4096)
        && versions.iter().any(|version| version.len() < size)
        && versions.iter().any(|version| version.len() > size);
    if !is && !grows {
        let known: Vec<usize> = versions.iter().map(|version| version.len()).collect();
        return Err(format!("size {size}, but it had only the sizes {known:?}"));
    }
    for at in (0..size).step_by(SECTOR) {
        let sector = &found[at..(at + SECTOR).min(size)];
        if !versions.iter().any(|version| version.get(at..at + sector.len()) == Some(sector)) {
            let zeros = if sector.iter().all(|byte| *byte == 0) { " (zeros)" } else { "" };
            return Err(format!("bytes {at}.. were never this{zeros}"));
        }
    }
    Ok(())
}

impl History {
    /// The states whose names may be seen in an image: (earliest, latest).
    fn bounds(&self, cut: &Cut) -> (usize, usize) {
        let low = self.stable.iter().filter(|(moment, _)| *moment <= cut.to).map(|(_, state)| *state).max();
        // The operation that the last write belongs to may be seen, and what it found done.
        let high = self.ends.partition_point(|end| *end < cut.seen);
        let low = low.unwrap_or(0);
        (low, high.min(self.ends.len() - 1).max(low))
    }

    fn explain_file(
        &self,
        found: &Found,
        ino: u64,
        cut: &Cut,
        names: usize,
        high: usize,
    ) -> Result<(), String> {
        let (data, changed) = (&found.files[&ino], found.changed[&ino]);
        let Some(versions) = self.files.get(&ino) else { return Err("it never was a file".to_string()) };
        let synced = self.synced.get(&ino).into_iter().flatten();
        let synced = synced.filter(|(moment, _)| *moment <= cut.to).map(|(_, state)| *state);
        let pulled = self.pulls.iter().filter(|(state, of)| *of == ino && *state <= names);
        let low = synced.chain(pulled.map(|(state, _)| *state)).max().unwrap_or(0);
        let first = versions.partition_point(|(state, _)| *state <= low).saturating_sub(1);
        let window: Vec<&[u8]> = versions[first..]
            .iter()
            .filter(|(state, _)| *state <= high)
            .map(|(_, data)| data.as_slice())
            .collect();
        explain(data, &window)?;
        let timed = self.timed.iter().filter(|(state, of)| *of == ino && *state <= names);
        let since = timed.map(|(state, _)| *state).max().unwrap_or(0).max(low);
        let then = self.trees[since..=high].iter().filter_map(|tree| tree.nodes.get(&ino));
        match then.clone().any(|node| node.mtime == changed) {
            true => Ok(()),
            false => {
                let times: Vec<Time> = then.map(|node| node.mtime).collect();
                Err(format!("changed at {changed:?}, but it only was at {times:?}"))
            }
        }
    }

    /// The state of names that explains all of the tree.
    pub fn explain(&self, found: &Found, cut: &Cut) -> Result<usize, String> {
        let (low, high) = self.bounds(cut);
        let mut why = None;
        for state in (low..=high).filter(|state| *self.listings[*state] == *found.listing) {
            let mut files = found.files.keys();
            match files.try_for_each(|ino| {
                self.explain_file(found, *ino, cut, state, high)
                    .map_err(|text| format!("inode {ino}: {text}"))
            }) {
                Ok(()) => return Ok(state),
                Err(text) => why = Some(text),
            }
        }
        match why {
            Some(text) => Err(text),
            None => {
                let mut expected = String::new();
                for state in low..=high {
                    expected.push_str(&format!("state {state}:\n{}", self.listings[state]));
                }
                Err(format!(
                    "these names were never together in states {low}..={high}:\n{}expected one of\n{expected}",
                    found.listing
                ))
            }
        }
    }
}

fn ctx() -> Ctx {
    Ctx { umask: 0o022, ..Ctx::default() }
}

/// All files can be removed, then all directories; then everything can be made again.
fn empty_and_refill(mounted: &Mounted, found: &Found) -> Result<(), String> {
    let fs = &mounted.fs;
    let place = |path: &str| -> Result<(Ino, String), String> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut ino = Ino::ROOT;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            let node = fs.lookup(ino, part.as_bytes()).map_err(|error| format!("{dir}: {error}"))?;
            fs.forget(node.ino, 1);
            ino = node.ino;
        }
        Ok((ino, name.to_string()))
    };
    for ino in found.inos.values().map(|ino| Ino(*ino)) {
        if fs.flags(ino).map_err(|error| error.to_string())? != 0 {
            fs.set_flags(&ctx(), ino, 0).map_err(|error| format!("flags of inode {}: {error}", ino.0))?;
        }
    }
    let mut deepest: Vec<&String> = found.inos.keys().filter(|path| !path.is_empty()).collect();
    deepest.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    let mut dirs = Vec::new();
    for path in &deepest {
        let (dir, name) = place(path)?;
        let rec = fs.lookup(dir, name.as_bytes()).map_err(|error| format!("{path}: {error}"))?;
        fs.forget(rec.ino, 1);
        if rec.rec.kind() == FileKind::Dir {
            dirs.push(path);
        } else {
            fs.unlink(&ctx(), dir, name.as_bytes()).map_err(|error| format!("unlink {path}: {error}"))?;
        }
    }
    for path in &dirs {
        let (dir, name) = place(path)?;
        fs.rmdir(&ctx(), dir, name.as_bytes()).map_err(|error| format!("rmdir {path}: {error}"))?;
    }
    fs.reap().map_err(|error| format!("reap: {error}"))?;
    let root = fs.getattr(Ino::ROOT).map_err(|error| error.to_string())?;
    if root.rec.nlink != 2 {
        return Err(format!("the empty root has {} links", root.rec.nlink));
    }
    let old: Vec<u64> = found.inos.values().copied().collect();
    for path in deepest.iter().rev() {
        let (dir, name) = place(path)?;
        let made = match dirs.contains(&path) {
            true => fs.mkdir(&ctx(), dir, name.as_bytes(), 0o755),
            false => fs.create(&ctx(), dir, name.as_bytes(), 0o644),
        };
        let made = made.map_err(|error| format!("make {path} again: {error}"))?;
        fs.forget(made.ino, 1);
        if old.contains(&made.ino.0) {
            return Err(format!("{path} got inode {}, which was another's", made.ino.0));
        }
    }
    Ok(())
}

/// Makes ten more files; each gets a number that nobody has.
pub fn make_ten_more(mounted: &Mounted, found: &Found) -> Result<(), String> {
    let mut taken: Vec<u64> = found.inos.values().copied().collect();
    for n in 0..10 {
        let name = format!("one-more-{n}");
        let made = mounted.fs.create(&ctx(), Ino::ROOT, name.as_bytes(), 0o644);
        let made = made.map_err(|error| format!("create {name}: {error}"))?;
        mounted.fs.forget(made.ino, 1);
        if taken.contains(&made.ino.0) {
            return Err(format!("{name} got inode {}, which is another's", made.ino.0));
        }
        taken.push(made.ino.0);
    }
    Ok(())
}

fn none(findings: Vec<String>, when: &str) -> Result<(), String> {
    match findings.is_empty() {
        true => Ok(()),
        false => Err(format!("the checker finds {when}:\n  {}", findings.join("\n  "))),
    }
}

impl Judge {
    /// Makes and judges every image of a history.
    pub fn all(&self, history: &History) -> Result<Count, String> {
        self.all_with(history, &|_, _| Ok(()))
    }

    /// The same, and asks `also` about every tree.
    pub fn all_with(
        &self,
        history: &History,
        also: &dyn Fn(&Mounted, &Found) -> Result<(), String>,
    ) -> Result<Count, String> {
        let mut number = self.seed;
        let Judge { depth, seed, .. } = self;
        let images = each_image(&history.base, &history.events, depth, *seed, &mut |base, over, cut| {
            number += 1;
            self.one(history, Arc::new(base.with(over)), cut, number, also).map_err(|why| {
                let (words, style) = (&history.words, history.style);
                format!("{words}\n  ({style:?}, ends {:?})\n  {}\n  {why}", history.ends, cut.show())
            })
        })?;
        Ok(Count { images, workloads: 1 })
    }

    fn one(
        &self,
        history: &History,
        disk: Arc<CrashDisk>,
        cut: &Cut,
        number: u64,
        also: &dyn Fn(&Mounted, &Found) -> Result<(), String>,
    ) -> Result<(), String> {
        let mounted = self.sound(&disk, number)?;
        let found = look(&mounted)?;
        history.explain(&found, cut)?;
        also(&mounted, &found)?;
        if due(self.base_checks, number) {
            empty_and_refill(&mounted, &found)?;
            mounted.unmount()?;
            if let Some(checker) = self.checker {
                let disk: Arc<dyn Disk> = disk;
                none((checker.image)(&disk), "after all was removed and made again")?;
            }
        }
        Ok(())
    }

    /// Mounts an image in which the checker, if there is one, finds nothing.
    pub fn sound(&self, disk: &Arc<CrashDisk>, number: u64) -> Result<Mounted, String> {
        let as_disk: Arc<dyn Disk> = disk.clone();
        if let Some(checker) = self.checker.filter(|_| due(self.whole_checks, number)) {
            none((checker.image)(&as_disk), "before the mount")?;
        }
        let mounted = mount(disk)?;
        if let Some(checker) = self.checker {
            none((checker.filesystem)(&mounted.image, &as_disk), "in the filesystem")?;
        }
        Ok(mounted)
    }
}

/// Whether the image of this number is one of every so many.
fn due(every: u64, number: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}
