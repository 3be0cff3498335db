//! The filesystem's workload: the production filesystem on the watched blocks, beside a model of what it should hold.
//!
//! Decides which operation comes next. Invariant: the model hears of an operation before the filesystem does, and of
//! its acknowledgement after.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::Ino;
use crate::format::FileKind;
use crate::fs::{Atime, Ctx, FormatOptions, Fs, FsError, Place, RenameHow, SetAttr, Store, StoreOptions};
use crate::image::{Blocks, BlocksError};

use super::baton::lock;
use super::env::SimEnv;
use super::model::{Change, Id, Kind, Model, Seen, Tree};
use super::rng::Rng;
use super::sched::Owner;
use super::watch::Watched;
use super::world::{MS, NAMES, World};

const NAMES_MAX: usize = 36;
const FILE_BYTES_MAX: u64 = 96 * 1024;

/// One mounted filesystem.
pub struct Files {
    world: Arc<World>,
    owner: Owner,
    env: Arc<SimEnv>,
    fs: Fs,
    inos: BTreeMap<Id, Ino>,
    rng: Rng,
}

type Done = Result<(), FsError>;

impl Files {
    /// Makes an empty filesystem.
    pub fn format(blocks: Arc<dyn Blocks>) -> Result<(), String> {
        let options = FormatOptions {
            log_id: 0x51a,
            now: crate::format::Time::default(),
            uid: 0,
            gid: 0,
            ring_blocks: Some(512),
        };
        Store::format(blocks, &options).map_err(|error| error.to_string())
    }

    /// Mounts, and compares everything that is there with what may be there.
    pub fn open(
        world: &Arc<World>,
        owner: Owner,
        env: &Arc<SimEnv>,
        blocks: Arc<Watched>,
    ) -> Result<Files, String> {
        let options =
            StoreOptions { dirty_bytes_max: 1 << 20, cache_bytes: 1 << 20, ..StoreOptions::default() };
        let store = Store::open(blocks, &options).map_err(|error| error.to_string())?;
        let rng = world.sched.with_rng(Rng::fork);
        let fs = Fs::new(store, Atime::Never);
        let mut files =
            Files { world: world.clone(), owner, env: env.clone(), fs, inos: BTreeMap::new(), rng };
        let tree = files.walk().map_err(|error| error.to_string())?;
        let mut oracle = lock(&world.oracle);
        oracle.model.found(&tree).map_err(|why| format!("I3: {why}"))?;
        for (path, id) in oracle.model.now.paths() {
            if let Some(seen) = tree.get(&path) {
                files.inos.insert(id, Ino(seen.ino));
            }
        }
        drop(oracle);
        Ok(files)
    }

    /// Everything there is.
    fn walk(&self) -> Result<Tree, FsError> {
        let mut tree = Tree::new();
        let mut todo = vec![(String::new(), Ino::ROOT)];
        while let Some((path, ino)) = todo.pop() {
            let node = self.fs.getattr(ino)?;
            let (kind, content) = match node.rec.kind() {
                FileKind::Dir => (Kind::Dir, Vec::new()),
                FileKind::Symlink => (Kind::Symlink(self.fs.readlink(ino)?), Vec::new()),
                _ => {
                    let len = usize::try_from(node.rec.size).unwrap_or(0);
                    (Kind::File, self.fs.read(ino, 0, len)?)
                }
            };
            if kind == Kind::Dir {
                for (name, below) in self.list(ino)? {
                    let below_path = if path.is_empty() { name } else { format!("{path}/{name}") };
                    todo.push((below_path, below));
                }
            }
            let links = u64::from(node.rec.nlink);
            tree.insert(path, Seen { kind, ino: ino.0, links, content });
        }
        Ok(tree)
    }

    fn list(&self, dir: Ino) -> Result<BTreeMap<String, Ino>, FsError> {
        let (mut found, mut after) = (BTreeMap::new(), 0);
        loop {
            let items = self.fs.readdir(dir, after, 16)?;
            let Some(last) = items.last() else { return Ok(found) };
            after = last.cookie;
            let names =
                items.into_iter().map(|item| (String::from_utf8_lossy(&item.name).into_owned(), item.ino));
            found.extend(names.filter(|(name, _)| name != "." && name != ".."));
        }
    }

    /// One operation.
    pub fn step(&mut self) -> Result<(), String> {
        lock(&self.world.oracle).fs_ops += 1;
        let what = self.rng.below(100);
        let now = self.world.sched.now();
        self.world.sched.note(NAMES[self.owner.node], "file-op", (what, now), String::new);
        let issued = lock(&self.world.oracle).model.issued();
        match self.chosen(what) {
            // The host's disk is full: nothing happened, and nothing was acknowledged.
            Err(FsError::NoSpace) => {
                let mut oracle = lock(&self.world.oracle);
                oracle.model.retract(issued);
                oracle.count("no-room");
                Ok(())
            }
            done => done.map_err(|error| format!("file operation {what}: {error}")),
        }
    }

    /// Tells the model of an acknowledgement; one that reached a node which was replaced in the meantime is no news.
    fn acknowledged(&self, tell: impl FnOnce(&mut Model)) {
        let mut oracle = lock(&self.world.oracle);
        if oracle.server == Some(self.owner) {
            tell(&mut oracle.model);
        }
    }

    fn is_server(&self) -> bool {
        lock(&self.world.oracle).server == Some(self.owner)
    }

    /// What was read may be told to somebody.
    fn may_answer(&self) -> bool {
        self.is_server() && self.world.may_answer(self.owner)
    }

    fn chosen(&mut self, what: u64) -> Done {
        if !self.is_server() {
            // Replaced without knowing it: whatever it still tries must not be acknowledged (`Watched` looks).
            return self.fs.store().sync();
        }
        match what {
            0..12 => self.make(Kind::File),
            12..16 => self.make(Kind::Dir),
            16..19 => {
                let target = format!("to/{}", self.rng.below(1000)).into_bytes();
                self.make(Kind::Symlink(target))
            }
            19..39 => self.write(false),
            39..52 => self.write(true),
            52..66 => self.fsync(),
            66..70 => self.commit(),
            70..72 => self.sync(),
            72..77 => self.rename(),
            77..82 => self.remove(),
            82..86 => self.link(),
            86..90 => self.truncate(),
            90..94 => self.read_check(),
            94..96 => self.list_check(),
            96..98 => self.fs.store().checkpoint(),
            _ => {
                self.fs.reap()?;
                self.fs.store().writeback(self.rng.permille(500))
            }
        }
    }

    fn ctx(&self) -> Ctx {
        Ctx::default()
    }

    fn ino(&self, id: Id) -> Result<Ino, FsError> {
        self.inos.get(&id).copied().ok_or_else(|| FsError::Corrupt(format!("no inode for model file {id}")))
    }

    fn any_dir(&mut self) -> Id {
        let dirs: Vec<Id> = lock(&self.world.oracle).model.now.paths_of_dirs();
        dirs[self.rng.index(dirs.len())]
    }

    /// Every name that is not a directory: (directory, name, id).
    fn names(&self, wanted: impl Fn(&Kind) -> bool) -> Vec<(Id, String, Id)> {
        let oracle = lock(&self.world.oracle);
        let names = &oracle.model.now;
        let entries =
            names.dirs.iter().flat_map(|(dir, entries)| entries.iter().map(move |entry| (dir, entry)));
        entries
            .filter(|(_, (_, id))| names.kinds.get(id).is_some_and(&wanted))
            .map(|(dir, (name, id))| (*dir, name.clone(), *id))
            .collect()
    }

    fn any(&mut self, wanted: impl Fn(&Kind) -> bool) -> Option<(Id, String, Id)> {
        let names = self.names(wanted);
        if names.is_empty() { None } else { Some(names[self.rng.index(names.len())].clone()) }
    }

    fn free_name(&mut self, dir: Id) -> Option<String> {
        let name = format!("n{}", self.rng.below(60));
        let oracle = lock(&self.world.oracle);
        let taken = oracle.model.now.dirs.get(&dir).is_none_or(|entries| entries.contains_key(&name));
        (!taken).then_some(name)
    }

    fn make(&mut self, kind: Kind) -> Done {
        let dir = self.any_dir();
        let Some(name) = self.free_name(dir).filter(|_| self.names(|_| true).len() < NAMES_MAX) else {
            return self.remove();
        };
        let parent = self.ino(dir)?;
        let id = {
            let mut oracle = lock(&self.world.oracle);
            let id = oracle.model.fresh_id();
            oracle.model.issue(Change::Make { dir, name: name.clone(), id, kind: kind.clone() });
            id
        };
        let (ctx, name) = (self.ctx(), name.as_bytes());
        let node = match &kind {
            Kind::File => self.fs.create(&ctx, parent, name, 0o644)?,
            Kind::Dir => self.fs.mkdir(&ctx, parent, name, 0o755)?,
            Kind::Symlink(target) => self.fs.symlink(&ctx, parent, name, target)?,
        };
        self.fs.forget(node.ino, 1);
        self.inos.insert(id, node.ino);
        Ok(())
    }

    fn write(&mut self, append: bool) -> Done {
        let Some((_, _, id)) = self.any(|kind| *kind == Kind::File) else { return self.make(Kind::File) };
        let ino = self.ino(id)?;
        let mut content = lock(&self.world.oracle).model.content(id).to_vec();
        let large = self.rng.permille(60);
        let len = if large { self.rng.range(130_000, 300_000) } else { self.rng.range(1, 14_000) };
        let old = content.len() as u64;
        let offset = if append { old } else { self.rng.below(old.max(1) + 6_000) };
        if old > FILE_BYTES_MAX && append {
            return self.truncate();
        }
        let mut word = self.rng.fork();
        let data: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| word.next().to_le_bytes()).collect();
        let data = &data[..usize::try_from(len).unwrap_or(0)];
        let (start, end) = (usize::try_from(offset).unwrap_or(0), usize::try_from(offset + len).unwrap_or(0));
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(data);
        // One call of the filesystem may become stable in pieces: each prefix in blocks is a version of its own.
        lock(&self.world.oracle).model.write(id, content);
        for _ in 0..8 {
            match self.fs.write(&self.ctx(), ino, offset, data, false) {
                Err(FsError::WouldBlock) => self.fs.store().writeback(true)?,
                Err(FsError::NoSpace) => return self.no_room(id, ino),
                done => return done,
            }
        }
        self.fs.store().sync()?;
        match self.fs.write(&self.ctx(), ino, offset, data, false) {
            Err(FsError::NoSpace) => self.no_room(id, ino),
            done => done,
        }
    }

    /// A write found no room: the file may hold a part of it.
    fn no_room(&self, id: Id, ino: Ino) -> Done {
        let len = usize::try_from(self.fs.getattr(ino)?.rec.size).unwrap_or(0);
        let content = self.fs.read(ino, 0, len)?;
        let mut oracle = lock(&self.world.oracle);
        oracle.count("no-room");
        let taken = oracle.model.cut_short(id, content);
        drop(oracle);
        if let Err(why) = taken {
            self.world.sched.violate(format!("a write without room: {why}"));
        }
        Ok(())
    }

    fn fsync(&mut self) -> Done {
        let Some((_, _, id)) = self.any(|kind| *kind == Kind::File) else { return self.commit() };
        let ticket = self.fs.fsync(self.ino(id)?, false)?;
        while self.fs.store().commit()? < ticket {}
        self.acknowledged(|model| model.fsynced(id));
        lock(&self.world.oracle).count("fsync");
        Ok(())
    }

    fn commit(&mut self) -> Done {
        self.fs.store().commit()?;
        self.acknowledged(Model::committed);
        Ok(())
    }

    fn sync(&mut self) -> Done {
        self.fs.store().sync()?;
        self.acknowledged(Model::synced);
        Ok(())
    }

    fn rename(&mut self) -> Done {
        let Some((from, name, id)) = self.any(|kind| *kind != Kind::Dir) else { return Ok(()) };
        let over = if self.rng.permille(400) { self.any(|kind| *kind == Kind::File) } else { None };
        let (to, new) = match over {
            Some((dir, other, target)) if target != id => (dir, other),
            _ => {
                let dir = self.any_dir();
                let Some(new) = self.free_name(dir) else { return Ok(()) };
                (dir, new)
            }
        };
        let change = Change::Rename { from: (from, name.clone()), to: (to, new.clone()) };
        lock(&self.world.oracle).model.issue(change);
        let (from, to) = (self.ino(from)?, self.ino(to)?);
        let from = Place { dir: from, name: name.as_bytes() };
        let to = Place { dir: to, name: new.as_bytes() };
        self.fs.rename(&self.ctx(), from, to, RenameHow::default())
    }

    fn remove(&mut self) -> Done {
        if self.rng.permille(150) {
            return self.rmdir();
        }
        let Some((dir, name, _)) = self.any(|kind| *kind != Kind::Dir) else { return Ok(()) };
        lock(&self.world.oracle).model.issue(Change::Remove { dir, name: name.clone() });
        self.fs.unlink(&self.ctx(), self.ino(dir)?, name.as_bytes())
    }

    fn rmdir(&mut self) -> Done {
        let empty = {
            let oracle = lock(&self.world.oracle);
            let dirs = &oracle.model.now.dirs;
            let is_empty = |id: &Id| dirs.get(id).is_some_and(BTreeMap::is_empty);
            let mut entries = dirs.iter().flat_map(|(dir, names)| names.iter().map(move |name| (*dir, name)));
            entries.find(|(_, (_, id))| is_empty(id)).map(|(dir, (name, _))| (dir, name.clone()))
        };
        let Some((dir, name)) = empty else { return Ok(()) };
        lock(&self.world.oracle).model.issue(Change::Remove { dir, name: name.clone() });
        self.fs.rmdir(&self.ctx(), self.ino(dir)?, name.as_bytes())
    }

    fn link(&mut self) -> Done {
        let Some((_, _, id)) = self.any(|kind| *kind == Kind::File) else { return Ok(()) };
        let dir = self.any_dir();
        let Some(name) = self.free_name(dir).filter(|_| self.names(|_| true).len() < NAMES_MAX) else {
            return Ok(());
        };
        lock(&self.world.oracle).model.issue(Change::Link { dir, name: name.clone(), id });
        let node = self.fs.link(&self.ctx(), self.ino(id)?, self.ino(dir)?, name.as_bytes())?;
        self.fs.forget(node.ino, 1);
        Ok(())
    }

    fn truncate(&mut self) -> Done {
        let Some((_, _, id)) = self.any(|kind| *kind == Kind::File) else { return Ok(()) };
        let ino = self.ino(id)?;
        let mut content = lock(&self.world.oracle).model.content(id).to_vec();
        let size = self.rng.below(content.len() as u64 + 5_000);
        content.resize(usize::try_from(size).unwrap_or(0), 0);
        lock(&self.world.oracle).model.write(id, content);
        match self.fs.setattr(&self.ctx(), ino, SetAttr { size: Some(size), ..SetAttr::default() }) {
            Err(FsError::NoSpace) => self.no_room(id, ino),
            done => done.map(|_| ()),
        }
    }

    fn read_check(&mut self) -> Done {
        let Some((_, name, id)) = self.any(|kind| *kind == Kind::File) else { return Ok(()) };
        let content = lock(&self.world.oracle).model.content(id).to_vec();
        let read = self.fs.read(self.ino(id)?, 0, content.len() + 100)?;
        if read != content && self.may_answer() {
            let (found, wanted) = (read.len(), content.len());
            let at = read.iter().zip(&content).position(|(a, b)| a != b);
            let text =
                format!("{name}: reads {found} bytes, {wanted} were written; first difference at {at:?}");
            self.world.sched.violate(text);
        }
        Ok(())
    }

    fn list_check(&mut self) -> Done {
        let dir = self.any_dir();
        let found: Vec<String> = self.list(self.ino(dir)?)?.into_keys().collect();
        let wanted: Vec<String> = {
            let oracle = lock(&self.world.oracle);
            oracle.model.now.dirs.get(&dir).map(|names| names.keys().cloned().collect()).unwrap_or_default()
        };
        if found != wanted && self.may_answer() {
            self.world.sched.violate(format!("directory {dir} lists {found:?}, holds {wanted:?}"));
        }
        Ok(())
    }

    /// Unmounts: everything is stable afterwards.
    pub fn close(self) -> Result<(), String> {
        self.env.sleep(MS).map_err(|error| error.to_string())?;
        self.fs.store().sync().map_err(|error| error.to_string())?;
        self.acknowledged(Model::synced);
        self.fs.store().close().map_err(|error| error.to_string())
    }
}

/// The first blocks of an image without a peer, for making the template.
pub struct Local<B> {
    pub blocks: B,
    pub limit: u64,
}

impl<B: Blocks> Blocks for Local<B> {
    fn block_count(&self) -> u64 {
        self.limit
    }
    fn read(&self, first: crate::base::BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        self.blocks.read(first, out)
    }
    fn write(&self, first: crate::base::BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.blocks.write(first, data)
    }
    fn flush(&self) -> Result<(), BlocksError> {
        self.blocks.flush()
    }
    fn write_flush(&self, first: crate::base::BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.blocks.write_flush(first, data)
    }
    fn discard(&self, first: crate::base::BlockNo, count: u64) -> Result<(), BlocksError> {
        self.blocks.discard(first, count)
    }
    fn back(&self, extent: crate::base::ExtentNo) -> Result<(), BlocksError> {
        self.blocks.back(extent)
    }
    fn is_backed(&self, extent: crate::base::ExtentNo) -> bool {
        self.blocks.is_backed(extent)
    }
    fn pin_hot(&self, first: crate::base::BlockNo, count: u64) -> Result<(), BlocksError> {
        self.blocks.pin_hot(first, count)
    }
}
