//! The model: what a tree contains after each operation, in a few maps.
//!
//! Knows nothing of disks and crashes. Answers whether an operation is possible, so that enumerations can leave out
//! what must fail. Inode numbers are the real ones.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use twinfs::format::FileKind;
use twinfs::fs::Fallocate;

use super::words::Op;

pub const ROOT: u64 = 1;
pub const SECTOR: usize = 512;

#[derive(Clone)]
pub struct Node {
    pub kind: FileKind,
    pub perms: u32,
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

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: BTreeMap::from([(ROOT, Arc::new(Node::new(FileKind::Dir)))]), held: BTreeMap::new() }
    }
}

impl Node {
    pub fn new(kind: FileKind) -> Node {
        let perms = match kind {
            FileKind::Dir => 0o755,
            FileKind::Symlink => 0o777,
            _ => 0o644,
        };
        Node {
            kind,
            perms,
            target: String::new(),
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
            data: Arc::default(),
        }
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
        match op {
            Op::Make(kind, path) => self.enter(path, fresh, Node::new(*kind))?,
            Op::Symlink(target, path) => {
                self.enter(path, fresh, Node { target: target.clone(), ..Node::new(FileKind::Symlink) })?;
            }
            Op::Link(from, to) => {
                let ino = self.find(from).filter(|ino| self.kind(*ino) != FileKind::Dir)?;
                if self.names_of(ino) == 0 {
                    return None;
                }
                let (dir, name) = self.free_place(to)?;
                self.node(dir).names.insert(name.to_string(), ino);
            }
            Op::Unlink(path) | Op::Rmdir(path) => {
                let ino = self.find(path).filter(|ino| *ino != ROOT)?;
                let node = &self.nodes[&ino];
                if (node.kind == FileKind::Dir) != matches!(op, Op::Rmdir(_)) || !node.names.is_empty() {
                    return None;
                }
                let (dir, name) = self.place(path)?;
                self.node(dir).names.remove(name);
            }
            Op::Rename(from, to) => effect.replaced_by = self.rename(from, to)?,
            Op::Exchange(from, to) => self.exchange(from, to)?,
            Op::Write(path, from, to) => effect.content = Some(self.write(path, *from, *to, seed)?),
            Op::Range(how, path, from, to) => effect.content = Some(self.range(*how, path, *from, *to)?),
            Op::Truncate(path, size) => {
                let ino = self.file(path)?;
                Arc::make_mut(&mut self.node(ino).data).resize(*size as usize, 0);
                effect.content = Some(ino);
            }
            Op::Chmod(path, mode) => {
                let ino = self.find(path).filter(|ino| self.kind(*ino) != FileKind::Symlink)?;
                self.node(ino).perms = *mode;
            }
            Op::SetXattr(path, name, value) => {
                let ino = self.find(path)?;
                self.node(ino).xattrs.insert(name.clone(), value.clone());
            }
            Op::RemoveXattr(path, name) => {
                let ino = self.find(path)?;
                if !self.nodes[&ino].xattrs.contains_key(name) {
                    return None;
                }
                self.node(ino).xattrs.remove(name);
            }
            Op::Hold(path, label) => {
                let ino = self.find(path)?;
                self.held.insert(label.clone(), ino);
            }
            Op::Release(label) => drop(self.held.remove(label)?),
            Op::Fsync(path) | Op::Fdatasync(path) => drop(self.find(path)?),
            Op::Sync | Op::Writeback | Op::Checkpoint | Op::Begin => {}
            Op::Remount => self.held.clear(),
        }
        Some(effect)
    }

    fn enter(&mut self, path: &str, ino: u64, node: Node) -> Option<()> {
        let (dir, name) = self.free_place(path)?;
        self.node(dir).names.insert(name.to_string(), ino);
        self.nodes.insert(ino, Arc::new(node));
        Some(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Option<Option<u64>> {
        let ino = self.find(from).filter(|ino| *ino != ROOT)?;
        let ((from_dir, old), (to_dir, new)) = (self.place(from)?, self.place(to)?);
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
        }
        self.node(from_dir).names.remove(old);
        self.node(to_dir).names.insert(new.to_string(), ino);
        Some(target.map(|_| ino))
    }

    fn exchange(&mut self, from: &str, to: &str) -> Option<()> {
        let (one, other) = (self.find(from)?, self.find(to)?);
        let ((from_dir, old), (to_dir, new)) = (self.place(from)?, self.place(to)?);
        let loops = |moved: u64, into: u64| self.kind(moved) == FileKind::Dir && self.is_below(into, moved);
        if one == other || loops(one, to_dir) || loops(other, from_dir) {
            return None;
        }
        self.node(from_dir).names.insert(old.to_string(), other);
        self.node(to_dir).names.insert(new.to_string(), one);
        Some(())
    }

    fn write(&mut self, path: &str, from: u64, to: u64, seed: u64) -> Option<u64> {
        let ino = self.file(path)?;
        let data = Arc::make_mut(&mut self.node(ino).data);
        data.resize(data.len().max(to as usize), 0);
        data[from as usize..to as usize].copy_from_slice(&filling(seed, from, to));
        Some(ino)
    }

    fn range(&mut self, how: Fallocate, path: &str, from: u64, to: u64) -> Option<u64> {
        let ino = self.file(path)?;
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
    pub fn set_content(&mut self, ino: u64, data: Vec<u8>) {
        self.node(ino).data = Arc::new(data);
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
        line(text, path, ino, node.kind, node.perms, links);
        let _ = write!(text, "{}", node.target);
        for (name, value) in &node.xattrs {
            let _ = write!(text, " {name}={value}");
        }
        text.push('\n');
        for (name, child) in &node.names {
            self.list(*child, &format!("{path}/{name}"), counts, text);
        }
    }
}

/// The start of a line of a listing.
pub fn line(text: &mut String, path: &str, ino: u64, kind: FileKind, perms: u32, links: u32) {
    let shown = if path.is_empty() { "/" } else { path };
    let _ = write!(text, "{shown} {kind:?} {perms:o} inode {ino} links {links} ");
}
