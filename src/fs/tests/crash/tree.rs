//! The model: what a tree contains after each operation, in a few maps.
//!
//! Knows nothing of disks and crashes. Answers whether an operation is possible, so that enumerations can leave out
//! what must fail. Inode numbers are the real ones.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use twinfs::format::{FileKind, Time};
use twinfs::fs::Fallocate;

use super::NOW;
use super::words::{List, Op};

pub const ROOT: u64 = 1;
pub const SECTOR: usize = 512;

const IMMUTABLE: u32 = 0x10;
const APPEND_ONLY: u32 = 0x20;

#[derive(Clone)]
pub struct Node {
    pub kind: FileKind,
    pub perms: u32,
    pub owner: (u32, u32),
    pub atime: Time,
    pub mtime: Time,
    pub flags: u32,
    /// The own access list, and that for new files.
    pub access: Option<List>,
    pub default: Option<List>,
    pub target: String,
    pub xattrs: BTreeMap<String, String>,
    pub names: BTreeMap<String, u64>,
    pub data: Arc<Vec<u8>>,
}

/// Everything that exists. Inodes without a name stay until the run forgets them.
#[derive(Clone)]
pub struct Tree {
    pub nodes: BTreeMap<u64, Arc<Node>>,
    /// Inodes that `hold` opened.
    pub held: BTreeMap<String, u64>,
}

/// What an operation did beside the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The content of this file changed.
    pub content: Option<u64>,
    /// This file took the place of another.
    pub replaced_by: Option<u64>,
}

/// What a write puts into a file: each sector tells the write and the place.
pub fn filling(seed: u64, from: u64, to: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity((to - from) as usize);
    let mut at = from;
    while at < to {
        let sector = at / SECTOR as u64;
        let end = ((sector + 1) * SECTOR as u64).min(to);
        let mut word = (seed << 32 | sector).wrapping_add(0x9E37_79B9_7F4A_7C15);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) | 0x0101_0101_0101_0101;
        let bytes = word.to_le_bytes();
        out.extend((at..end).map(|n| bytes[(n % 8) as usize]));
        at = end;
    }
    out
}

/// What the clock shows during the operation with this number.
pub fn clock(seed: u64) -> Time {
    Time { secs: 1_700_000_100 + seed as i64, nanos: 5 }
}

/// The times that `times` sets.
pub fn explicit(accessed: i64, changed: i64) -> (Time, Time) {
    (Time { secs: accessed, nanos: 1 }, Time { secs: changed, nanos: 999_999_999 })
}

/// An access list as the kernel passes it.
pub fn list_bytes(list: &List) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut out = 2u32.to_le_bytes().to_vec();
    for ((tag, id), rights) in
        [(1u16, NOBODY), (2, 7), (4, NOBODY), (0x10, NOBODY), (0x20, NOBODY)].iter().zip(list)
    {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&u16::from(*rights).to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

/// The nine bits of a mode with such a list.
fn bits(list: &List) -> u32 {
    let [owner, _, _, mask, others] = list.map(u32::from);
    owner << 6 | mask << 3 | others
}

/// The list with the rights that nine bits leave it, or give it.
fn with_bits(list: &List, bits: u32) -> List {
    let digit = |shift: u32| (bits >> shift & 7) as u8;
    [digit(6), list[1], list[2], digit(3), digit(0)]
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Default for Tree {
    fn default() -> Tree {
        let root = Node::new(FileKind::Dir, NOW);
        Tree { nodes: BTreeMap::from([(ROOT, Arc::new(root))]), held: BTreeMap::new() }
    }
}

impl Node {
    pub fn new(kind: FileKind, now: Time) -> Node {
        let perms = match kind {
            FileKind::Dir => 0o755,
            FileKind::Symlink => 0o777,
            _ => 0o644,
        };
        Node {
            kind,
            perms,
            owner: (0, 0),
            atime: now,
            mtime: now,
            flags: 0,
            access: None,
            default: None,
            target: String::new(),
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
            data: Arc::default(),
        }
    }

    /// Neither immutable nor append-only.
    fn is_free(&self) -> bool {
        self.flags & (IMMUTABLE | APPEND_ONLY) == 0
    }

    /// What a directory hands down to a new node. `mode` is what was asked for, before the umask.
    fn inherit(&mut self, parent: &Node, mode: u32) {
        if parent.perms & 0o2000 != 0 {
            self.owner.1 = parent.owner.1;
            if self.kind == FileKind::Dir {
                self.perms |= 0o2000;
            }
        }
        let Some(list) = parent.default.filter(|_| self.kind != FileKind::Symlink) else { return };
        let own = with_bits(&list, mode & bits(&list));
        self.perms = self.perms & !0o777 | bits(&own);
        self.access = Some(own);
        self.default = parent.default.filter(|_| self.kind == FileKind::Dir);
    }
}

impl Tree {
    /// The inode at a path, or held under `@label`.
    pub fn find(&self, path: &str) -> Option<u64> {
        if let Some(label) = path.strip_prefix('@') {
            return self.held.get(label).copied();
        }
        path.split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .try_fold(ROOT, |dir, name| self.nodes.get(&dir)?.names.get(name).copied())
    }

    fn node(&mut self, ino: u64) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&ino).expect("the inode exists"))
    }

    pub fn kind(&self, ino: u64) -> FileKind {
        self.nodes[&ino].kind
    }

    /// Directory and last name of a path whose directory exists.
    pub fn place<'a>(&self, path: &'a str) -> Option<(u64, &'a str)> {
        let (dir, name) = split(path);
        let dir = self.find(dir)?;
        (self.kind(dir) == FileKind::Dir).then_some((dir, name))
    }

    fn free_place<'a>(&self, path: &'a str) -> Option<(u64, &'a str)> {
        let (dir, name) = self.place(path)?;
        (!self.nodes[&dir].names.contains_key(name)).then_some((dir, name))
    }

    fn is_below(&self, ino: u64, above: u64) -> bool {
        ino == above || self.nodes[&above].names.values().any(|child| self.is_below(ino, *child))
    }

    /// A directory that may gain names.
    fn gains(&self, dir: u64) -> Option<()> {
        (self.nodes[&dir].flags & IMMUTABLE == 0).then_some(())
    }

    /// An inode of which all may change.
    fn free(&self, ino: u64) -> Option<()> {
        self.nodes[&ino].is_free().then_some(())
    }

    /// A file whose content may change from this offset on.
    fn writable(&self, path: &str, from: u64) -> Option<u64> {
        let ino = self.file(path)?;
        let node = &self.nodes[&ino];
        let appends = node.flags & IMMUTABLE == 0 && from >= node.data.len() as u64;
        (node.is_free() || appends).then_some(ino)
    }

    /// A regular file.
    fn file(&self, path: &str) -> Option<u64> {
        self.find(path).filter(|ino| self.kind(*ino) == FileKind::File)
    }

    /// Names of an inode.
    pub fn names_of(&self, ino: u64) -> usize {
        self.nodes.values().flat_map(|node| node.names.values()).filter(|child| **child == ino).count()
    }

    /// Does it; `None` if it cannot be done. `fresh` is the number of a new inode, `seed` tells writes apart.
    pub fn apply(&mut self, op: &Op, fresh: u64, seed: u64) -> Option<Effect> {
        let mut effect = Effect::default();
        let now = clock(seed);
        match op {
            Op::Make(kind, path) => {
                let mode = if *kind == FileKind::Dir { 0o777 } else { 0o666 };
                self.enter(path, fresh, Node::new(*kind, now), mode)?;
            }
            Op::Symlink(target, path) => {
                let node = Node { target: target.clone(), ..Node::new(FileKind::Symlink, now) };
                self.enter(path, fresh, node, 0o777)?;
            }
            Op::Link(from, to) => {
                let ino = self.find(from).filter(|ino| self.kind(*ino) != FileKind::Dir)?;
                if self.names_of(ino) == 0 {
                    return None;
                }
                let (dir, name) = self.free_place(to)?;
                self.gains(dir).and(self.free(ino))?;
                self.node(dir).names.insert(name.to_string(), ino);
                self.node(dir).mtime = now;
            }
            Op::Unlink(path) | Op::Rmdir(path) => {
                let ino = self.find(path).filter(|ino| *ino != ROOT)?;
                let node = &self.nodes[&ino];
                if (node.kind == FileKind::Dir) != matches!(op, Op::Rmdir(_)) || !node.names.is_empty() {
                    return None;
                }
                let (dir, name) = self.place(path)?;
                self.free(dir).and(self.free(ino))?;
                self.node(dir).names.remove(name);
                self.node(dir).mtime = now;
            }
            Op::Rename(from, to) => effect.replaced_by = self.rename(from, to, now)?,
            Op::RenameNew(from, to) => {
                self.free_place(to)?;
                effect.replaced_by = self.rename(from, to, now)?;
            }
            Op::RenameWhiteout(from, to) => {
                if from == to {
                    return None;
                }
                effect.replaced_by = self.rename(from, to, now)?;
                let node = Node { perms: 0, ..Node::new(FileKind::Char, now) };
                self.enter(from, fresh, node, 0)?;
            }
            Op::Exchange(from, to) => self.exchange(from, to, now)?,
            Op::Write(path, from, to) => {
                effect.content = Some(self.put(path, *from, &filling(seed, *from, *to), now)?);
            }
            Op::Copy(source, from, to, path, at) => {
                let (source, target) = (self.file(source)?, self.writable(path, *at)?);
                if source == target && from.abs_diff(*at) < to - from {
                    return None;
                }
                let data = self.nodes[&source].data.clone();
                let end = (*to as usize).min(data.len());
                let part = &data[(*from as usize).min(end)..end];
                if !part.is_empty() {
                    effect.content = Some(self.put(path, *at, part, now)?);
                }
            }
            Op::Range(how, path, from, to) => {
                effect.content = Some(self.range(*how, path, *from, *to, now)?);
            }
            Op::Truncate(path, size) => {
                let ino = self.file(path)?;
                self.free(ino)?;
                let node = self.node(ino);
                Arc::make_mut(&mut node.data).resize(*size as usize, 0);
                node.mtime = now;
                effect.content = Some(ino);
            }
            Op::Chmod(..) | Op::Chown(..) | Op::Times(..) | Op::SetFlags(..) => self.attribute(op)?,
            Op::SetList(..) | Op::RemoveList(..) | Op::SetXattr(..) | Op::RemoveXattr(..) => {
                self.extended(op)?
            }
            Op::Hold(path, label) => {
                let ino = self.find(path)?;
                self.held.insert(label.clone(), ino);
            }
            Op::Release(label) => drop(self.held.remove(label)?),
            Op::Fsync(path) | Op::Fdatasync(path) => drop(self.find(path)?),
            Op::Sync | Op::Timer | Op::Writeback | Op::Checkpoint | Op::Begin => {}
            Op::Remount => self.held.clear(),
        }
        Some(effect)
    }

    fn attribute(&mut self, op: &Op) -> Option<()> {
        let (Op::Chmod(path, _) | Op::Chown(path, ..) | Op::Times(path, ..) | Op::SetFlags(path, _)) = op
        else {
            return None;
        };
        let ino = self.find(path)?;
        let frozen = self.free(ino).is_none();
        let node = self.node(ino);
        match op {
            Op::Chmod(_, mode) if node.kind != FileKind::Symlink && !frozen => {
                node.perms = *mode;
                node.access = node.access.map(|list| with_bits(&list, *mode));
            }
            Op::Chown(_, uid, gid) if !frozen => {
                node.owner = (*uid, *gid);
                if node.kind != FileKind::Dir {
                    // Set-user-id goes, and set-group-id where the group may execute.
                    let group = if node.perms & 0o010 != 0 { 0o2000 } else { 0 };
                    node.perms &= !(0o4000 | group);
                }
            }
            Op::Times(_, accessed, changed) if node.flags & IMMUTABLE == 0 => {
                (node.atime, node.mtime) = explicit(*accessed, *changed);
            }
            Op::SetFlags(_, flags) if matches!(node.kind, FileKind::File | FileKind::Dir) => {
                node.flags = *flags
            }
            _ => return None,
        }
        Some(())
    }

    fn extended(&mut self, op: &Op) -> Option<()> {
        let (Op::SetXattr(path, ..)
        | Op::RemoveXattr(path, _)
        | Op::SetList(_, path, _)
        | Op::RemoveList(_, path)) = op
        else {
            return None;
        };
        let ino = self.find(path)?;
        self.free(ino)?;
        let node = self.node(ino);
        match op {
            Op::SetXattr(_, name, value) => drop(node.xattrs.insert(name.clone(), value.clone())),
            Op::RemoveXattr(_, name) => drop(node.xattrs.remove(name)?),
            Op::SetList(false, _, list) if node.kind != FileKind::Symlink => {
                node.perms = node.perms & !0o777 | bits(list);
                node.access = Some(*list);
            }
            Op::SetList(true, _, list) if node.kind == FileKind::Dir => node.default = Some(*list),
            Op::RemoveList(false, _) => drop(node.access.take()?),
            Op::RemoveList(true, _) => drop(node.default.take()?),
            _ => return None,
        }
        Some(())
    }

    fn enter(&mut self, path: &str, ino: u64, mut node: Node, mode: u32) -> Option<()> {
        let (dir, name) = self.free_place(path)?;
        self.gains(dir)?;
        let parent = self.node(dir);
        node.inherit(parent, mode);
        parent.names.insert(name.to_string(), ino);
        parent.mtime = node.mtime;
        self.nodes.insert(ino, Arc::new(node));
        Some(())
    }

    fn rename(&mut self, from: &str, to: &str, now: Time) -> Option<Option<u64>> {
        let ino = self.find(from).filter(|ino| *ino != ROOT)?;
        let ((from_dir, old), (to_dir, new)) = (self.place(from)?, self.place(to)?);
        self.free(from_dir).and(self.gains(to_dir)).and(self.free(ino))?;
        let is_dir = self.kind(ino) == FileKind::Dir;
        if is_dir && self.is_below(to_dir, ino) {
            return None;
        }
        let target = self.nodes[&to_dir].names.get(new).copied();
        if let Some(target) = target {
            let node = &self.nodes[&target];
            if (node.kind == FileKind::Dir) != is_dir || !node.names.is_empty() {
                return None;
            }
            if target == ino {
                return (from == to).then_some(None);
            }
            self.free(to_dir).and(self.free(target))?;
        }
        self.node(from_dir).names.remove(old);
        self.node(to_dir).names.insert(new.to_string(), ino);
        self.node(from_dir).mtime = now;
        self.node(to_dir).mtime = now;
        Some(target.map(|_| ino))
    }

    fn exchange(&mut self, from: &str, to: &str, now: Time) -> Option<()> {
        let (one, other) = (self.find(from)?, self.find(to)?);
        let ((from_dir, old), (to_dir, new)) = (self.place(from)?, self.place(to)?);
        let loops = |moved: u64, into: u64| self.kind(moved) == FileKind::Dir && self.is_below(into, moved);
        if one == other || loops(one, to_dir) || loops(other, from_dir) {
            return None;
        }
        self.free(from_dir).and(self.free(to_dir)).and(self.free(one)).and(self.free(other))?;
        self.node(from_dir).names.insert(old.to_string(), other);
        self.node(to_dir).names.insert(new.to_string(), one);
        self.node(from_dir).mtime = now;
        self.node(to_dir).mtime = now;
        Some(())
    }

    fn put(&mut self, path: &str, from: u64, bytes: &[u8], now: Time) -> Option<u64> {
        let ino = self.writable(path, from)?;
        let node = self.node(ino);
        let (data, from) = (Arc::make_mut(&mut node.data), from as usize);
        data.resize(data.len().max(from + bytes.len()), 0);
        data[from..from + bytes.len()].copy_from_slice(bytes);
        node.mtime = now;
        Some(ino)
    }

    fn range(&mut self, how: Fallocate, path: &str, from: u64, to: u64, now: Time) -> Option<u64> {
        let ino = self.writable(path, from)?;
        self.node(ino).mtime = now;
        let data = Arc::make_mut(&mut self.node(ino).data);
        let (from, to) = (from as usize, to as usize);
        if matches!(how, Fallocate::Allocate | Fallocate::ZeroRange) {
            data.resize(data.len().max(to), 0);
        }
        if matches!(how, Fallocate::PunchHole | Fallocate::ZeroRange | Fallocate::ZeroRangeKeepSize) {
            let end = to.min(data.len());
            data[from.min(end)..end].fill(0);
        }
        Some(ino)
    }

    /// Drops inodes that have no name and are not held; answers them.
    pub fn forget_unnamed(&mut self) -> Vec<u64> {
        let gone: Vec<u64> = self
            .nodes
            .keys()
            .copied()
            .filter(|ino| *ino != ROOT && self.names_of(*ino) == 0 && !self.held.values().any(|h| h == ino))
            .collect();
        for ino in &gone {
            self.nodes.remove(ino);
        }
        gone
    }

    /// What a power cut left of a file.
    pub fn set_content(&mut self, ino: u64, data: Vec<u8>, changed: Time) {
        self.node(ino).data = Arc::new(data);
        self.node(ino).mtime = changed;
    }

    /// The names and attributes, as `judge` writes what it finds.
    pub fn listing(&self) -> String {
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for node in self.nodes.values() {
            for child in node.names.values() {
                *counts.entry(*child).or_default() += 1;
            }
        }
        let mut text = String::new();
        self.list(ROOT, "", &counts, &mut text);
        text
    }

    fn list(&self, ino: u64, path: &str, counts: &BTreeMap<u64, u32>, text: &mut String) {
        let node = &self.nodes[&ino];
        let links = if node.kind == FileKind::Dir {
            2 + node.names.values().filter(|child| self.kind(**child) == FileKind::Dir).count() as u32
        } else {
            counts.get(&ino).copied().unwrap_or(0)
        };
        let (perms, owner, flags) = (node.perms, node.owner, node.flags);
        let line = Line {
            path,
            ino,
            kind: node.kind,
            perms,
            links,
            owner,
            flags,
            atime: node.atime,
            mtime: node.mtime,
        };
        line.put(text);
        let _ = write!(text, "{}", node.target);
        for (name, list) in [("access", node.access), ("default", node.default)] {
            if let Some(list) = list {
                let _ = write!(text, " system.posix_acl_{name}={}", hex(&list_bytes(&list)));
            }
        }
        for (name, value) in &node.xattrs {
            let _ = write!(text, " {name}={value}");
        }
        text.push('\n');
        for (name, child) in &node.names {
            self.list(*child, &format!("{path}/{name}"), counts, text);
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The start of a line of a listing.
pub struct Line<'a> {
    pub path: &'a str,
    pub ino: u64,
    pub kind: FileKind,
    pub perms: u32,
    pub links: u32,
    pub owner: (u32, u32),
    pub flags: u32,
    pub atime: Time,
    pub mtime: Time,
}

impl Line<'_> {
    pub fn put(&self, text: &mut String) {
        let Line { path, ino, kind, perms, links, owner: (uid, gid), flags, atime, mtime } = self;
        let shown = if path.is_empty() { "/" } else { path };
        let _ =
            write!(text, "{shown} {kind:?} {perms:o} {uid}:{gid} inode {ino} links {links} flags {flags:x} ");
        let _ = write!(text, "read {}.{} ", atime.secs, atime.nanos);
        // The time of a file's last change goes with its data, not with the names.
        if *kind != FileKind::File {
            let _ = write!(text, "changed {}.{} ", mtime.secs, mtime.nanos);
        }
    }
}
