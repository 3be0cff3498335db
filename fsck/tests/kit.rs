//! Making images, damaging them below and above their digests, and reading every file of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use redb::{Database, ReadableTable, StorageBackend, TableDefinition};

use twinfs::base::{BlockNo, Generation, Ino, Members, NodeId, Record, VolumeId};
use twinfs::format::{
    CHUNK_BLOCKS, Dirent, FileKind, FsSuper, GenEntry, GenReason, Geometry, InodeRec, LABEL_COPIES, Label,
    ResyncMark, State, Superblock, TableId, Time,
};
use twinfs::fs::{Fallocate, Store, StoreOptions};
use twinfs::image::{self, Blocks, Disk, Image, LocalBlocks, MemDisk, OpenOptions};

use crate::Outcome;
use crate::examine::examine;
use crate::findings::{Findings, Progress};
use crate::medium::Stop;
use crate::options::{Options, ProgressTo, Repair};
use crate::settle;

pub const BLOCK: usize = 4096;
pub const IMAGE_BYTES: u64 = 40 << 20;
const FILES: u32 = 400;

pub fn state(members: Members) -> State {
    let first =
        GenEntry { id: Generation(5), minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 };
    State {
        volume: VolumeId(77),
        node: NodeId::A,
        incarnation: 99,
        record: Some(Record { v: 1, members, primary: NodeId::A }),
        gens: vec![first],
        bitmap_base: Generation(5),
        full: false,
        resync: ResyncMark::None,
        diverged: false,
        apart: twinfs::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

/// One thing in the tree, as a user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub ino: u64,
    pub mode: u32,
    pub nlink: u32,
    pub size: u64,
    pub mtime: Time,
    pub bytes: Vec<u8>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub type Tree = BTreeMap<String, Thing>;

pub fn disk(of: &Arc<MemDisk>) -> Arc<dyn Disk> {
    of.clone()
}

pub fn open_blocks(of: &Arc<MemDisk>) -> Arc<LocalBlocks> {
    let image = Image::open(disk(of), &OpenOptions::read_write()).expect("opens the image");
    Arc::new(LocalBlocks::new(Arc::new(image)).expect("opens its blocks"))
}

fn add(store: &Store, dir: Ino, name: &[u8], kind: FileKind, change: impl FnOnce(&mut InodeRec)) -> Ino {
    let mut op = store.begin();
    let ino = op.alloc_ino();
    let mut rec = InodeRec::new(kind, Time { secs: 1_700_000_000, nanos: 5 });
    rec.mode |= 0o644;
    change(&mut rec);
    if kind == FileKind::Dir {
        (rec.nlink, rec.parent) = (2, dir);
        let mut parent = op.inode(dir).unwrap().unwrap();
        parent.nlink += 1;
        op.put_inode(dir, &parent);
    }
    op.put_inode(ino, &rec);
    op.put_dirent(dir, name, Dirent { ino, kind, cookie: 0 }).unwrap();
    op.finish().unwrap();
    ino
}

/// A filesystem with folders, files of many sizes, a hard link, a symlink, holes and attributes. The newest changes
/// are in the log only. `close`: in order, or as a crash leaves it.
pub fn make(close: bool) -> Arc<MemDisk> {
    let medium = Arc::new(MemDisk::new(IMAGE_BYTES));
    let options = image::FormatOptions {
        state: state(Members::only(NodeId::A)),
        uuid: 1,
        label: "test".into(),
        al_slots: 16,
    };
    image::format(&disk(&medium), &options).unwrap();
    let blocks = open_blocks(&medium);
    let format = twinfs::fs::FormatOptions { log_id: 42, ring_blocks: Some(512), ..Default::default() };
    Store::format(blocks.clone(), &format).unwrap();
    let store = Store::open(blocks.clone(), &StoreOptions::default()).unwrap();
    let now = Time { secs: 1_700_000_001, nanos: 0 };
    let mut dir = Ino::ROOT;
    for level in 0..3 {
        dir = add(&store, dir, format!("dir{level}").as_bytes(), FileKind::Dir, |_| {});
    }
    for n in 0..FILES {
        let file = add(&store, dir, format!("file{n:05}").as_bytes(), FileKind::File, |_| {});
        let len = (n as usize * 977) % 9000;
        let content: Vec<u8> = (0..len).map(|at| (at as u32 * 31 + n) as u8).collect();
        store.write(file, 0, &content, now).unwrap();
        if n % 100 == 50 {
            store.sync().unwrap();
            store.checkpoint().unwrap();
        }
        if n % 9 == 0 {
            let mut op = store.begin();
            op.put_xattr(file, b"user.colour", format!("green{n}").as_bytes());
            op.finish().unwrap();
        }
    }
    special(&store, dir, now);
    store.sync().unwrap();
    store.checkpoint().unwrap();
    let late = add(&store, Ino::ROOT, b"late", FileKind::File, |_| {});
    store.write(late, 0, &[7; 5000], now).unwrap();
    let mut op = store.begin();
    op.put_xattr(late, b"user.big", &[9; 30_000]);
    op.finish().unwrap();
    store.sync().unwrap();
    if close {
        store.close().unwrap();
        drop(store);
        blocks.image().close().unwrap();
    }
    medium
}

fn special(store: &Store, dir: Ino, now: Time) {
    let target = b"../file1";
    add(store, dir, b"link", FileKind::Symlink, |rec| {
        rec.target = target[..].into();
        rec.size = target.len() as u64;
    });
    add(store, dir, b"fifo", FileKind::Fifo, |_| {});
    let holes = add(store, Ino::ROOT, b"holes", FileKind::File, |_| {});
    for n in 0..40 {
        store.write(holes, n * 20_000, &[n as u8 + 1; 4096], now).unwrap();
    }
    let reserved = add(store, Ino::ROOT, b"reserved", FileKind::File, |_| {});
    store.fallocate(reserved, Fallocate::Allocate, 0, 100_000, now).unwrap();
    let linked = add(store, Ino::ROOT, b"linked", FileKind::File, |rec| rec.nlink = 2);
    store.write(linked, 0, b"one file, two names", now).unwrap();
    let mut op = store.begin();
    op.put_dirent(dir, b"again", Dirent { ino: linked, kind: FileKind::File, cookie: 0 }).unwrap();
    op.finish().unwrap();
}

/// Reads every file through the filesystem itself.
pub fn tree(of: &Arc<MemDisk>) -> Tree {
    let copy = Arc::new(of.fork());
    let store = Store::open(open_blocks(&copy), &StoreOptions::default()).expect("opens the filesystem");
    let mut out = Tree::new();
    read_dir(&store, Ino::ROOT, "", &mut out);
    // It can be written and checkpointed as well.
    let file = add(&store, Ino::ROOT, b"new file", FileKind::File, |_| {});
    store.write(file, 0, &[1; 100_000], Time::default()).unwrap();
    store.sync().unwrap();
    store.checkpoint().unwrap();
    store.close().unwrap();
    out
}

fn read_dir(store: &Store, dir: Ino, path: &str, out: &mut Tree) {
    for (_, name, entry) in store.dirents_after(dir, 0, usize::MAX).unwrap() {
        let path = format!("{path}/{}", String::from_utf8_lossy(&name));
        let rec = store.inode(entry.ino).unwrap().expect("the inode of a name");
        let bytes = match rec.kind() {
            FileKind::File => {
                store.read(entry.ino, 0, rec.size as usize).unwrap_or_else(|_| b"unreadable".to_vec())
            }
            _ => rec.target.to_vec(),
        };
        let mut xattrs = Vec::new();
        for name in store.xattr_names(entry.ino).unwrap() {
            let value = store.xattr(entry.ino, &name).unwrap().unwrap();
            xattrs.push((name, value));
        }
        let (mode, nlink, size, mtime) = (rec.mode, rec.nlink, rec.size, rec.mtime);
        let thing = Thing { ino: entry.ino.0, mode, nlink, size, mtime, bytes, xattrs };
        out.insert(path.clone(), thing);
        if entry.kind == FileKind::Dir {
            read_dir(store, entry.ino, &path, out);
        }
    }
}

pub fn options(repair: Repair) -> Options {
    Options {
        image: None,
        contents: true,
        repair,
        force: false,
        progress: ProgressTo::Nowhere,
        no_title: true,
        json: false,
    }
}

/// What an examination said and what became of it.
pub struct Said {
    pub lines: Vec<String>,
    pub notes: Vec<String>,
    pub lossy: u64,
    pub end: &'static str,
}

impl Said {
    pub fn has(&self, words: &str) -> bool {
        self.lines.iter().chain(&self.notes).any(|line| line.contains(words))
    }
}

pub fn fsck(of: &Arc<MemDisk>, options: &Options) -> Said {
    let below = disk(of);
    let mut findings = Findings::default();
    let outcome =
        examine(&below, options.contents, &mut findings, &mut Progress::silent(), |examined, findings| {
            settle(&below, &|_| Err("it cannot grow".to_string()), options, examined, findings)
        });
    let end = match outcome {
        Ok((_, Outcome::Nothing)) => "nothing",
        Ok((_, Outcome::Repaired)) => "repaired",
        Ok((_, Outcome::Left(_))) => "left",
        Ok((_, Outcome::Failed(text))) => {
            findings.note(format!("failed: {text}"));
            "failed"
        }
        Err(Stop::Damaged) => "damaged",
        Err(Stop::Unusable(_)) => "unusable",
    };
    Said { lines: findings.report(), notes: findings.notes().to_vec(), lossy: findings.lossy(), end }
}

/// Finds the damage without touching it, repairs it, finds nothing the second time.
#[track_caller]
pub fn find_and_repair(of: &Arc<MemDisk>, words: &str) -> Said {
    let before = of.allocated();
    let found = fsck(of, &options(Repair::Nothing));
    assert!(found.has(words), "`{words}` is not in {:#?} {:#?}", found.lines, found.notes);
    assert!(before == of.allocated(), "an examination wrote");
    let repaired = fsck(of, &options(Repair::Everything));
    assert_eq!(repaired.end, "repaired", "{words}: {:#?} {:#?}", repaired.lines, repaired.notes);
    let again = fsck(of, &options(Repair::Nothing));
    assert!(again.lines.is_empty() && again.end == "nothing", "{words}: still {:#?}", again.lines);
    repaired
}

/// Everything is as it was, but for paths that `except` names and what lies in lost+found.
#[track_caller]
pub fn same(before: &Tree, after: &Tree, except: &[&str], words: &str) {
    let excepted = |path: &str| path.starts_with("/lost+found") || except.iter().any(|e| path.contains(e));
    for (path, thing) in before.iter().filter(|(path, _)| !excepted(path)) {
        match after.get(path) {
            None => panic!("{words}: {path} is gone"),
            Some(now) => {
                assert!(now == thing, "{words}: {path} differs: {:?} {:?}", brief(thing), brief(now))
            }
        }
    }
    for path in after.keys().filter(|path| !excepted(path)) {
        assert!(before.contains_key(path), "{words}: {path} is new");
    }
}

fn brief(thing: &Thing) -> (u64, u32, u32, u64, usize) {
    (thing.ino, thing.mode, thing.nlink, thing.size, thing.bytes.len())
}

/// Where the parts of an image lie.
pub struct Places {
    pub slots: [u64; 2],
    pub geometry: Geometry,
}

pub fn places(of: &Arc<MemDisk>) -> Places {
    let mut bytes = [0; 512];
    of.read_at(LABEL_COPIES[0], &mut bytes).unwrap();
    let label = Label::decode(&bytes).unwrap();
    let slot = |at: u64| {
        let mut bytes = vec![0; label.slot_bytes as usize];
        of.read_at(at, &mut bytes).unwrap();
        Superblock::decode(&bytes, label.incarnation).ok()
    };
    let newest = label.slots.into_iter().filter_map(slot).max_by_key(|sup| sup.seq).unwrap();
    Places { slots: label.slots, geometry: newest.geometry }
}

impl Places {
    pub fn touched(&self, of: &Arc<MemDisk>) -> Vec<u64> {
        let image = Image::open(disk(of), &OpenOptions::read_only()).unwrap();
        let touched = |extent: &u64| image.summary(twinfs::base::ExtentNo(*extent)).unwrap().touched;
        (0..self.geometry.extents).filter(touched).collect()
    }
}

/// Turns bytes of the medium over, below every digest.
pub fn spoil(of: &Arc<MemDisk>, at: u64, len: usize) {
    let mut bytes = vec![0; len];
    of.read_at(at, &mut bytes).unwrap();
    bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = byte.wrapping_mul(5).wrapping_add(n as u8 | 1));
    of.corrupt(at, &bytes);
}

pub fn flip(of: &Arc<MemDisk>, at: u64) {
    let mut byte = [0];
    of.read_at(at, &mut byte).unwrap();
    of.corrupt(at, &[byte[0] ^ 0x10]);
}

pub fn fs_super(of: &Arc<MemDisk>) -> FsSuper {
    let image = Arc::new(Image::open(disk(of), &OpenOptions::read_only()).unwrap());
    twinfs::offline::superblock(&image).unwrap().0
}

/// The tables on the image, opened with the library through the image's own writes: damage with right digests.
#[derive(Clone)]
pub struct Space {
    blocks: Arc<LocalBlocks>,
    sup: FsSuper,
    len: Arc<Mutex<u64>>,
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Space")
    }
}

impl Space {
    fn home(&self, page: u64) -> io::Result<BlockNo> {
        let chunk = self.sup.chunks.iter().find(|(index, _)| *index == page / CHUNK_BLOCKS);
        let (_, first) = chunk.ok_or_else(|| io::Error::other("a new chunk"))?;
        Ok(BlockNo(first + page % CHUNK_BLOCKS))
    }

    fn each(
        &self,
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let inside = (at % BLOCK as u64) as usize;
            let step = (BLOCK - inside).min(len - done);
            each(at / BLOCK as u64, inside, done..done + step)?;
            done += step;
        }
        Ok(())
    }
}

impl StorageBackend for Space {
    fn len(&self) -> io::Result<u64> {
        Ok(*self.len.lock().unwrap())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let len = out.len();
        self.each(offset, len, |page, inside, range| {
            let mut content = vec![0; BLOCK];
            if let Ok(home) = self.home(page) {
                self.blocks.read(home, &mut content).map_err(io::Error::other)?;
            }
            out[range.clone()].copy_from_slice(&content[inside..inside + range.len()]);
            Ok(())
        })
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        *self.len.lock().unwrap() = len;
        Ok(())
    }
    fn sync_data(&self) -> io::Result<()> {
        self.blocks.flush().map_err(io::Error::other)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.each(offset, data.len(), |page, inside, range| {
            let home = self.home(page)?;
            let mut content = vec![0; BLOCK];
            self.blocks.read(home, &mut content).map_err(io::Error::other)?;
            content[inside..inside + range.len()].copy_from_slice(&data[range]);
            self.blocks.write(home, &content).map_err(io::Error::other)
        })
    }
}

type Blob = &'static [u8];

pub struct Editor<'a> {
    pub txn: &'a redb::WriteTransaction,
}

impl Editor<'_> {
    pub fn put(&self, table: TableId, key: &[u8], value: &[u8]) {
        let definition: TableDefinition<'static, Blob, Blob> = TableDefinition::new(table.name());
        self.txn.open_table(definition).unwrap().insert(key, value).unwrap();
    }
    pub fn del(&self, table: TableId, key: &[u8]) {
        let definition: TableDefinition<'static, Blob, Blob> = TableDefinition::new(table.name());
        assert!(self.txn.open_table(definition).unwrap().remove(key).unwrap().is_some());
    }
    pub fn get(&self, table: TableId, key: &[u8]) -> Vec<u8> {
        let definition: TableDefinition<'static, Blob, Blob> = TableDefinition::new(table.name());
        let stored = self.txn.open_table(definition).unwrap();
        stored.get(key).unwrap().expect("the entry").value().to_vec()
    }
    pub fn inode(&self, ino: u64, change: impl FnOnce(&mut InodeRec)) {
        let key = twinfs::format::key_ino(Ino(ino));
        let mut rec = InodeRec::decode(&self.get(TableId::Inodes, &key)).unwrap();
        change(&mut rec);
        self.put(TableId::Inodes, &key, &rec.encode());
    }
    pub fn free(&self, start: u64, count: Option<u64>) {
        let definition: TableDefinition<'static, u64, u64> = TableDefinition::new("free");
        let mut stored = self.txn.open_table(definition).unwrap();
        match count {
            Some(count) => drop(stored.insert(start, count).unwrap()),
            None => drop(stored.remove(start).unwrap()),
        }
    }
    pub fn meta(&self, value: &[u8]) {
        let definition: TableDefinition<'static, &str, Blob> = TableDefinition::new("meta");
        self.txn.open_table(definition).unwrap().insert("log", value).unwrap();
    }
}

/// Changes the tables behind the filesystem's back.
pub fn edit(of: &Arc<MemDisk>, change: impl FnOnce(&Editor<'_>)) {
    let sup = fs_super(of);
    let blocks = open_blocks(of);
    let space = Space { blocks: blocks.clone(), len: Arc::new(Mutex::new(sup.tables_len)), sup: sup.clone() };
    let db: Database = redb::Builder::new().create_with_backend(space.clone()).unwrap();
    let mut txn = db.begin_write().unwrap();
    txn.set_two_phase_commit(true);
    txn.set_quick_repair(true);
    change(&Editor { txn: &txn });
    txn.commit().unwrap();
    drop(db);
    let len = *space.len.lock().unwrap();
    crate::rebuild::point(&*blocks, &FsSuper { tables_len: len, ..sup }).unwrap();
    blocks.image().close().unwrap();
}

/// Writes a block with a right digest.
pub fn write_block(of: &Arc<MemDisk>, block: BlockNo, content: &[u8]) {
    let blocks = open_blocks(of);
    blocks.write(block, content).unwrap();
    blocks.flush().unwrap();
    blocks.image().close().unwrap();
}

/// Every how many-th of `all` is tried: some six, or all of them in a long run.
pub fn sample(all: usize) -> usize {
    if std::env::var_os("TWINFS_LONG").is_some() { 1 } else { (all / 6).max(1) }
}

/// A copy that a test may damage.
pub fn copy(of: &Arc<MemDisk>) -> Arc<MemDisk> {
    Arc::new(of.fork())
}
