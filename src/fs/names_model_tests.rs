//! A second, simple file system in memory to compare `Fs` with, and random operations on both.

use std::collections::BTreeMap;

use crate::base::{FastMap, Ino};
use crate::format::{FileKind, Time};
use crate::fs::{Ctx, Fallocate, Fs, FsError, NewNode, Node, Place, RenameHow, SetAttr, SetXattr};

type Id = u64;
const ROOT: Id = 1;

#[derive(Clone, Debug)]
struct MNode {
    kind: FileKind,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    target: Vec<u8>,
    data: Vec<u8>,
    names: BTreeMap<Vec<u8>, Id>,
    parent: Id,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    mtime: Time,
    ctime: Time,
}

impl MNode {
    fn new(kind: FileKind, mode: u32, now: Time) -> MNode {
        MNode {
            kind,
            mode,
            nlink: if kind == FileKind::Dir { 2 } else { 1 },
            uid: 0,
            gid: 0,
            target: Vec::new(),
            data: Vec::new(),
            names: BTreeMap::new(),
            parent: ROOT,
            xattrs: BTreeMap::new(),
            mtime: now,
            ctime: now,
        }
    }
}

/// The model, and which inode of the real one each of its nodes is.
#[derive(Clone)]
pub(super) struct Model {
    nodes: BTreeMap<Id, MNode>,
    inos: FastMap<Id, Ino>,
    next: Id,
    seed: u64,
    now: Time,
    pub(super) log: Vec<String>,
}

fn kind_of(result: &Result<(), FsError>) -> String {
    format!("{result:?}")
}

impl Model {
    pub(super) fn new(seed: u64) -> Model {
        let root = MNode::new(FileKind::Dir, 0o755, super::tests::NOW);
        Model {
            nodes: BTreeMap::from([(ROOT, root)]),
            inos: FastMap::from_iter([(ROOT, Ino::ROOT)]),
            next: 2,
            seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            now: Time { secs: 1_000_000, nanos: 0 },
            log: Vec::new(),
        }
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 11) % below
    }

    fn pick(&mut self, wanted: impl Fn(&MNode) -> bool) -> Option<Id> {
        let found: Vec<Id> =
            self.nodes.iter().filter(|(_, n)| n.nlink > 0 && wanted(n)).map(|(id, _)| *id).collect();
        (!found.is_empty()).then(|| found[self.random(found.len() as u64) as usize])
    }

    fn dir(&mut self) -> Id {
        self.pick(|n| n.kind == FileKind::Dir).unwrap()
    }

    fn name(&mut self) -> Vec<u8> {
        vec![b'a' + self.random(6) as u8]
    }

    fn node(&mut self, id: Id) -> &mut MNode {
        self.nodes.get_mut(&id).unwrap()
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.nodes[&dir].names.get(name).copied()
    }

    fn touch(&mut self, dir: Id) {
        let now = self.now;
        let node = self.node(dir);
        (node.mtime, node.ctime) = (now, now);
    }

    /// One random operation on both; panics where they differ.
    pub(super) fn step(&mut self, fs: &Fs) {
        self.now.secs += 1;
        let ctx = Ctx { now: self.now, umask: 0o022, ..Ctx::default() };
        match self.random(100) {
            0..22 => self.make(fs, &ctx),
            22..32 => self.link(fs, &ctx),
            32..48 => self.remove(fs, &ctx),
            48..64 => self.rename(fs, &ctx),
            64..82 => self.data(fs, &ctx),
            82..90 => self.attributes(fs, &ctx),
            _ => self.xattr(fs, &ctx),
        }
    }

    fn agree(&mut self, what: String, real: Result<(), FsError>, model: Result<(), FsError>) -> bool {
        self.log.push(format!("{what}: {real:?}"));
        assert_eq!(kind_of(&real), kind_of(&model), "{}", self.log.join("\n"));
        model.is_ok()
    }

    fn make(&mut self, fs: &Fs, ctx: &Ctx) {
        let (dir, name) = (self.dir(), self.name());
        let kinds =
            [FileKind::File, FileKind::Dir, FileKind::File, FileKind::Dir, FileKind::Symlink, FileKind::Fifo];
        let kind = kinds[self.random(6) as usize];
        let target: &[u8] = if kind == FileKind::Symlink { b"some/where" } else { b"" };
        let mode = if kind == FileKind::Symlink { 0o777 } else { 0o666 };
        let real = fs.make(ctx, self.inos[&dir], &name, NewNode { kind, mode, rdev: 0, target });
        let model = if self.child(dir, &name).is_some() { Err(FsError::Exists) } else { Ok(()) };
        let what = format!("make {kind:?} {dir}/{name:?}");
        let Ok(Node { ino, .. }) = real else {
            self.agree(what, real.map(|_| ()), model);
            return;
        };
        self.agree(what, Ok(()), model);
        let id = self.next;
        self.next += 1;
        let umasked = if kind == FileKind::Symlink { mode } else { mode & !0o022 };
        let mut node = MNode::new(kind, umasked, ctx.now);
        node.target = target.to_vec();
        node.parent = dir;
        self.nodes.insert(id, node);
        self.inos.insert(id, ino);
        self.node(dir).names.insert(name, id);
        if kind == FileKind::Dir {
            self.node(dir).nlink += 1;
        }
        self.touch(dir);
    }

    fn link(&mut self, fs: &Fs, ctx: &Ctx) {
        let Some(id) = self.pick(|_| true) else { return };
        let (dir, name) = (self.dir(), self.name());
        let real = fs.link(ctx, self.inos[&id], self.inos[&dir], &name).map(|_| ());
        let model = match (self.nodes[&id].kind, self.child(dir, &name)) {
            (FileKind::Dir, _) => Err(FsError::NotPermitted),
            (_, Some(_)) => Err(FsError::Exists),
            _ => Ok(()),
        };
        if self.agree(format!("link {id} {dir}/{name:?}"), real, model) {
            self.node(dir).names.insert(name, id);
            self.touch(dir);
            let now = self.now;
            self.node(id).nlink += 1;
            self.node(id).ctime = now;
            fs.forget(self.inos[&id], 1);
        }
    }

    fn remove(&mut self, fs: &Fs, ctx: &Ctx) {
        let (dir, name, is_rmdir) = (self.dir(), self.name(), self.random(2) == 0);
        let ino = self.inos[&dir];
        let real = if is_rmdir { fs.rmdir(ctx, ino, &name) } else { fs.unlink(ctx, ino, &name) };
        let model = match self.child(dir, &name).map(|id| (&self.nodes[&id], is_rmdir)) {
            None => Err(FsError::NotFound),
            Some((node, true)) if node.kind != FileKind::Dir => Err(FsError::NotDir),
            Some((node, false)) if node.kind == FileKind::Dir => Err(FsError::IsDir),
            Some((node, true)) if !node.names.is_empty() => Err(FsError::NotEmpty),
            Some(_) => Ok(()),
        };
        if self.agree(format!("remove {dir}/{name:?} rmdir={is_rmdir}"), real, model) {
            let id = self.node(dir).names.remove(&name).unwrap();
            if is_rmdir {
                self.node(dir).nlink -= 1;
            }
            self.touch(dir);
            self.lose(fs, id);
        }
    }

    /// A name of `id` went; without any, nobody may reach it and its number is given back.
    fn lose(&mut self, fs: &Fs, id: Id) {
        let now = self.now;
        let node = self.node(id);
        node.nlink = if node.kind == FileKind::Dir { 0 } else { node.nlink - 1 };
        node.ctime = now;
        if node.nlink == 0 {
            let ino = self.inos.remove(&id).unwrap();
            self.nodes.remove(&id);
            assert!(fs.getattr(ino).is_ok(), "freed while somebody holds it");
            fs.forget(ino, 1);
            fs.reap().unwrap();
            assert_eq!(fs.getattr(ino), Err(FsError::Stale), "not freed although nobody holds it");
        }
    }

    fn is_below(&self, mut at: Id, above: Id) -> bool {
        loop {
            if at == above {
                return true;
            }
            if at == ROOT {
                return false;
            }
            at = self.nodes[&at].parent;
        }
    }

    fn rename(&mut self, fs: &Fs, ctx: &Ctx) {
        let (d1, n1, d2, n2) = (self.dir(), self.name(), self.dir(), self.name());
        let (no_replace, exchange) = match self.random(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        let how = RenameHow { no_replace, exchange, whiteout: false };
        let (from, to) = (Place { dir: self.inos[&d1], name: &n1 }, Place { dir: self.inos[&d2], name: &n2 });
        let real = fs.rename(ctx, from, to, how);
        let (source, target) = (self.child(d1, &n1), self.child(d2, &n2));
        let model = self.rename_outcome(source, target, d1, d2, how);
        let what = format!("rename {d1}/{n1:?} {d2}/{n2:?} {how:?}");
        if !self.agree(what, real, model) || source == target {
            return;
        }
        let source = source.unwrap();
        self.node(d1).names.remove(&n1);
        self.node(d2).names.insert(n2.clone(), source);
        let dir_moves = |n: &MNode| n.kind == FileKind::Dir;
        for (moved, old, new) in
            [Some((source, d1, d2)), target.filter(|_| exchange).map(|t| (t, d2, d1))].into_iter().flatten()
        {
            let now = self.now;
            self.node(moved).ctime = now;
            if dir_moves(self.node(moved)) {
                self.node(old).nlink -= 1;
                self.node(new).nlink += 1;
                self.node(moved).parent = new;
            }
        }
        self.touch(d1);
        self.touch(d2);
        match target {
            Some(target) if exchange => {
                self.node(d1).names.insert(n1, target);
            }
            Some(target) => {
                if dir_moves(self.node(target)) {
                    self.node(d2).nlink -= 1;
                }
                self.lose(fs, target);
            }
            None => {}
        }
    }

    fn rename_outcome(
        &self,
        source: Option<Id>,
        target: Option<Id>,
        d1: Id,
        d2: Id,
        how: RenameHow,
    ) -> Result<(), FsError> {
        let Some(source) = source else { return Err(FsError::NotFound) };
        let source_dir = self.nodes[&source].kind == FileKind::Dir;
        let Some(target) = target else {
            return match (how.exchange, source_dir && self.is_below(d2, source)) {
                (true, _) => Err(FsError::NotFound),
                (_, true) => Err(FsError::Invalid),
                _ => Ok(()),
            };
        };
        let target_dir = self.nodes[&target].kind == FileKind::Dir;
        if how.exchange {
            let loops = source != target
                && (source_dir && self.is_below(d2, source) || target_dir && self.is_below(d1, target));
            return if loops { Err(FsError::Invalid) } else { Ok(()) };
        }
        if how.no_replace {
            return Err(FsError::Exists);
        }
        if source == target {
            return Ok(());
        }
        match (source_dir, target_dir) {
            (true, _) if self.is_below(d2, source) => Err(FsError::Invalid),
            (true, false) => Err(FsError::NotDir),
            (false, true) => Err(FsError::IsDir),
            (true, true) if !self.nodes[&target].names.is_empty() => Err(FsError::NotEmpty),
            _ => Ok(()),
        }
    }

    fn data(&mut self, fs: &Fs, ctx: &Ctx) {
        let Some(id) = self.pick(|n| n.kind == FileKind::File) else { return };
        let ino = self.inos[&id];
        let (offset, len) = (self.random(60_000), 1 + self.random(20_000));
        let end = (offset + len) as usize;
        let fill = self.random(256) as u8;
        let how = self.random(8);
        let outcome = match how {
            0 => fs.setattr(ctx, ino, SetAttr { size: Some(offset), ..SetAttr::default() }).map(|_| ()),
            1 => fs.fallocate(ctx, ino, offset, len, Fallocate::PunchHole),
            2 => fs.fallocate(ctx, ino, offset, len, Fallocate::Allocate),
            3 => fs.fallocate(ctx, ino, offset, len, Fallocate::ZeroRange),
            _ => fs.write(ctx, ino, offset, &vec![fill; len as usize], false),
        };
        self.agree(format!("data {how} of {id} at {offset}+{len}"), outcome, Ok(()));
        let now = self.now;
        let node = self.node(id);
        let have = node.data.len();
        match how {
            0 => node.data.resize(offset as usize, 0),
            1 => node.data[have.min(offset as usize)..have.min(end)].fill(0),
            2 => node.data.resize(have.max(end), 0),
            3 => {
                node.data.resize(have.max(end), 0);
                node.data[offset as usize..end].fill(0);
            }
            _ => {
                node.data.resize(have.max(end), 0);
                node.data[offset as usize..end].fill(fill);
            }
        }
        if how == 0 || how > 3 {
            (node.mtime, node.ctime) = (now, now);
        } else {
            // Whether an allocation that changes no byte moves the times is left open.
            let rec = fs.getattr(ino).unwrap().rec;
            (node.mtime, node.ctime) = (rec.mtime, rec.ctime);
        }
    }

    fn attributes(&mut self, fs: &Fs, ctx: &Ctx) {
        let Some(id) = self.pick(|n| n.kind != FileKind::Symlink) else { return };
        let ino = self.inos[&id];
        let (mode, uid) = (self.random(0o1000) as u32, self.random(3) as u32);
        let set = match self.random(3) {
            0 => SetAttr { mode: Some(mode), ..SetAttr::default() },
            1 => SetAttr { uid: Some(uid), gid: Some(uid + 1), ..SetAttr::default() },
            _ => SetAttr { mtime: Some(Time { secs: -7, nanos: 5 }), ..SetAttr::default() },
        };
        self.agree(format!("setattr {id} {set:?}"), fs.setattr(ctx, ino, set).map(|_| ()), Ok(()));
        let now = self.now;
        let node = self.node(id);
        node.mode = set.mode.unwrap_or(node.mode);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        node.mtime = set.mtime.unwrap_or(node.mtime);
        node.ctime = now;
    }

    fn xattr(&mut self, fs: &Fs, ctx: &Ctx) {
        let Some(id) = self.pick(|_| true) else { return };
        let ino = self.inos[&id];
        let name = [b"user.".to_vec(), self.name()].concat();
        let value = vec![7; self.random(300) as usize];
        let had = self.nodes[&id].xattrs.contains_key(&name);
        let now = self.now;
        if self.random(3) == 0 {
            let model = if had { Ok(()) } else { Err(FsError::NoAttr) };
            if self.agree(format!("removexattr {id} {name:?}"), fs.removexattr(ctx, ino, &name), model) {
                self.node(id).xattrs.remove(&name);
                self.node(id).ctime = now;
            }
            return;
        }
        let (how, model) = match self.random(3) {
            0 => (SetXattr::Create, if had { Err(FsError::Exists) } else { Ok(()) }),
            1 => (SetXattr::Replace, if had { Ok(()) } else { Err(FsError::NoAttr) }),
            _ => (SetXattr::Either, Ok(())),
        };
        let real = fs.setxattr(ctx, ino, &name, &value, how);
        if self.agree(format!("setxattr {id} {name:?} {how:?}"), real, model) {
            self.node(id).xattrs.insert(name, value);
            self.node(id).ctime = now;
        }
    }

    /// Walks both from the root and compares everything.
    pub(super) fn compare(&self, fs: &Fs) {
        let mut seen = 0;
        let mut left = vec![ROOT];
        while let Some(dir) = left.pop() {
            seen += 1;
            self.compare_node(fs, dir, self.inos[&dir]);
            let listed: BTreeMap<Vec<u8>, Ino> = list(fs, self.inos[&dir]).into_iter().collect();
            let expected: BTreeMap<Vec<u8>, Ino> =
                self.nodes[&dir].names.iter().map(|(name, id)| (name.clone(), self.inos[id])).collect();
            assert_eq!(listed, expected, "names of {dir}\n{}", self.log.join("\n"));
            for id in self.nodes[&dir].names.values() {
                match self.nodes[id].kind {
                    FileKind::Dir => left.push(*id),
                    _ => self.compare_node(fs, *id, self.inos[id]),
                }
            }
        }
        assert!(seen > 0);
    }

    fn compare_node(&self, fs: &Fs, id: Id, ino: Ino) {
        let node = &self.nodes[&id];
        let rec = fs.getattr(ino).unwrap().rec;
        let context = || format!("node {id} ({ino:?})\n{}", self.log.join("\n"));
        assert_eq!(
            (rec.kind(), rec.mode & 0o7777, rec.nlink, rec.uid, rec.gid),
            (node.kind, node.mode, node.nlink, node.uid, node.gid),
            "{}",
            context()
        );
        assert_eq!((rec.mtime, rec.ctime), (node.mtime, node.ctime), "{}", context());
        let mut names = Vec::new();
        for (name, value) in &node.xattrs {
            assert_eq!(&fs.getxattr(ino, name).unwrap(), value, "{}", context());
            names.extend_from_slice(name);
            names.push(0);
        }
        assert_eq!(fs.listxattr(&Ctx::default(), ino).unwrap(), names, "{}", context());
        match node.kind {
            FileKind::Dir => assert_eq!(rec.parent, self.inos[&node.parent], "{}", context()),
            FileKind::Symlink => assert_eq!(fs.readlink(ino).unwrap(), node.target, "{}", context()),
            FileKind::File => {
                assert_eq!(rec.size, node.data.len() as u64, "{}", context());
                let real = fs.read(ino, 0, 200_000).unwrap();
                let wrong = real.iter().zip(&node.data).position(|(a, b)| a != b);
                assert!(
                    real.len() == node.data.len() && wrong.is_none(),
                    "differs at {wrong:?} {}",
                    context()
                );
            }
            _ => {}
        }
    }

    /// After a remount nobody holds anything yet: the model's hold on each inode is taken again.
    pub(super) fn hold_all(&self, fs: &Fs) {
        for (id, ino) in &self.inos {
            if *id != ROOT {
                fs.remember(*ino);
            }
        }
    }
}

/// All names of a directory but the two dots, fetched three at a time.
pub(super) fn list(fs: &Fs, dir: Ino) -> Vec<(Vec<u8>, Ino)> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let items = fs.readdir(dir, after, 3).unwrap();
        let Some(last) = items.last() else { return found };
        after = last.cookie;
        found
            .extend(items.into_iter().filter(|i| i.name != b"." && i.name != b"..").map(|i| (i.name, i.ino)));
    }
}
