//! fsck.twinfs as a program, over real images: a sound one is clean, also after a crash; each damaged structure is
//! named; garbage and truncated images end in an exit code, never in a panic or a hang.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use twinfs::base::{BlockNo, Digest, ExtentNo, Generation, Ino, Members, NodeId, Record, VolumeId};
use twinfs::format::{
    Dirent, FileKind, GROUP_EXTENTS, GenEntry, GenReason, InodeRec, LABEL_COPIES, Label, ResyncMark, State,
    Superblock, Time,
};
use twinfs::fs::{FsError, Store, StoreOptions};
use twinfs::image::{self, Blocks, BlocksError, Disk, DiskError, Image, ImageError};

const IMAGE_BYTES: u64 = 96 << 20;

/// A file as a medium.
struct FileDisk(std::fs::File, u64);

fn io(error: std::io::Error) -> DiskError {
    DiskError::Io(error.to_string())
}

impl Disk for FileDisk {
    fn len_bytes(&self) -> u64 {
        self.1
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.0.read_exact_at(out, offset).map_err(io)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.0.write_all_at(data, offset).map_err(io)
    }
    fn flush(&self) -> Result<(), DiskError> {
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.zero(offset, len)
    }
    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.write_at(offset, &vec![0; len as usize])
    }
}

/// One image as `Blocks`, without a peer.
struct Alone(Image);

fn blocks_error(error: ImageError) -> BlocksError {
    match error {
        ImageError::Rotten { block } => BlocksError::Rotten(block),
        ImageError::NoSpace { extent } => BlocksError::NoSpace(extent),
        other => BlocksError::Io(other.to_string()),
    }
}

impl Alone {
    fn hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        loop {
            match self.0.make_hot(first, count) {
                Err(ImageError::SlotsBusy) => self.flush()?,
                other => return other.map_err(blocks_error),
            }
        }
    }
}

impl Blocks for Alone {
    fn block_count(&self) -> u64 {
        self.0.block_count()
    }
    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        self.0.read(first, out).map_err(blocks_error)
    }
    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        let digests: Vec<Digest> = data.chunks(4096).map(Digest::of).collect();
        let guard = self.0.lock(first, digests.len() as u64);
        self.hot(first, digests.len() as u64)?;
        self.0.write(&guard, first, data, &digests).map_err(blocks_error)
    }
    fn flush(&self) -> Result<(), BlocksError> {
        let epoch = self.0.flush().map_err(blocks_error)?;
        self.0.confirm(epoch);
        Ok(())
    }
    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write(first, data)?;
        self.flush()
    }
    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        let guard = self.0.lock(first, count);
        self.hot(first, count)?;
        self.0.discard(&guard, first, count).map_err(blocks_error)
    }
    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError> {
        let guard = self.0.lock(extent.first_block(), ExtentNo::BLOCKS);
        self.0.back(&guard, extent).map_err(blocks_error)
    }
    fn is_backed(&self, extent: ExtentNo) -> bool {
        self.0.is_backed(extent)
    }
    fn pin_hot(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.0.pin_hot(first, count).map_err(blocks_error)
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("twinfs-fsck-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("scratch folder");
        Scratch(dir)
    }

    fn image(&self) -> PathBuf {
        self.0.join("image")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("opens the image");
    let len = file.metadata().expect("length").len();
    Arc::new(FileDisk(file, len))
}

fn state() -> State {
    let first =
        GenEntry { id: Generation(5), minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 };
    State {
        volume: VolumeId(77),
        node: NodeId::A,
        incarnation: 99,
        record: Some(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A }),
        gens: vec![first],
        bitmap_base: Generation(5),
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

/// Makes an image with folders, files, a hard link, a symlink and attributes. `close`: in order, or as a crash leaves it.
fn make(path: &Path, close: bool) {
    std::fs::File::create(path).expect("image").set_len(IMAGE_BYTES).expect("length");
    let medium = disk(path);
    let options = image::FormatOptions { state: state(), uuid: 1, label: "test".into(), al_slots: 16 };
    image::format(&medium, &options).expect("formats the image");
    let open = || Image::open(disk(path), &image::OpenOptions::read_write()).expect("opens the image");
    let alone: Arc<Alone> = Arc::new(Alone(open()));
    Store::format(alone.clone(), &twinfs::fs::FormatOptions { log_id: 42, ..Default::default() })
        .expect("makes a filesystem");
    let store = Store::open(alone.clone(), &StoreOptions::default()).expect("opens the filesystem");
    let mut dir = Ino::ROOT;
    for level in 0..3 {
        dir = add(&store, dir, &format!("dir{level}"), FileKind::Dir, |_| {});
        for number in 0..40 {
            let file = add(&store, dir, &format!("file{number}"), FileKind::File, |_| {});
            store
                .write(file, 0, &vec![number as u8 + 1; 3000 * (number + 1)], Time::default())
                .expect("writes");
        }
        store.sync().expect("syncs");
        if level == 1 {
            store.checkpoint().expect("checkpoints");
        }
    }
    add(&store, dir, "link", FileKind::Symlink, |rec| {
        rec.target = b"../file1"[..].into();
        rec.size = 8;
    });
    let mut op = store.begin();
    op.put_xattr(dir, b"user.colour", b"green");
    op.finish().expect("an attribute");
    store.sync().expect("syncs");
    if close {
        store.close().expect("closes the filesystem");
        drop(store);
        alone.0.close().expect("closes the image");
    }
}

fn add(store: &Store, dir: Ino, name: &str, kind: FileKind, change: impl FnOnce(&mut InodeRec)) -> Ino {
    let mut op = store.begin();
    let ino = op.alloc_ino();
    let mut rec = InodeRec::new(kind, Time::default());
    change(&mut rec);
    if kind == FileKind::Dir {
        rec.nlink = 2;
        rec.parent = dir;
        let mut parent = op.inode(dir).expect("reads").expect("the parent");
        parent.nlink += 1;
        op.put_inode(dir, &parent);
    }
    op.put_inode(ino, &rec);
    op.put_dirent(dir, name.as_bytes(), Dirent { ino, kind, cookie: 0 }).expect("a name");
    let done: Result<(), FsError> = op.finish();
    done.expect("finishes");
    ino
}

fn fsck(arguments: &[&str], image: &Path) -> Output {
    // A hang must fail the test, not stop it.
    Command::new("timeout")
        .args(["-k", "1", "60", env!("CARGO_BIN_EXE_fsck-twinfs")])
        .args(arguments)
        .arg(image)
        .output()
        .expect("runs fsck")
}

#[track_caller]
fn expect(image: &Path, arguments: &[&str], code: i32, words: &str) {
    let output = fsck(arguments, image);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "`{words}` is not in:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_sound_image_is_clean_whether_closed_or_left_by_a_crash() {
    let scratch = Scratch::new("clean");
    make(&scratch.image(), true);
    expect(&scratch.image(), &["-f"], 0, "clean");
    expect(&scratch.image(), &["-fn", "-C1"], 0, "125 inodes");
    make(&scratch.image(), false);
    let before = std::fs::read(scratch.image()).expect("reads");
    expect(&scratch.image(), &["-fy"], 0, "125 inodes");
    assert!(before == std::fs::read(scratch.image()).expect("reads"), "fsck wrote to the image");
}

/// Flips a bit of the byte at each offset of a copy and answers what fsck says.
fn with_damage(scratch: &Scratch, offsets: &[u64]) -> PathBuf {
    let copy = scratch.0.join("damaged");
    std::fs::copy(scratch.image(), &copy).expect("copies");
    let file = std::fs::File::options().read(true).write(true).open(&copy).expect("opens");
    for offset in offsets {
        let mut byte = [0];
        file.read_exact_at(&mut byte, *offset).expect("reads");
        file.write_all_at(&[byte[0] ^ 0x10], *offset).expect("writes");
    }
    copy
}

fn newest_superblock(path: &Path) -> (Label, Superblock, [u64; 2]) {
    let medium = disk(path);
    let mut bytes = [0; 512];
    medium.read_at(0, &mut bytes).expect("reads");
    let label = Label::decode(&bytes).expect("label");
    let slot = |at: u64| {
        let mut bytes = vec![0; label.slot_bytes as usize];
        medium.read_at(at, &mut bytes).expect("reads");
        Superblock::decode(&bytes, label.incarnation).ok()
    };
    let slots: Vec<Superblock> = label.slots.into_iter().filter_map(slot).collect();
    let newest = slots.into_iter().max_by_key(|sup| sup.seq).expect("a superblock");
    let places = label.slots;
    (label, newest, places)
}

#[test]
fn every_damaged_structure_of_the_image_is_named() {
    let scratch = Scratch::new("damage");
    make(&scratch.image(), true);
    let (_, sup, slots) = newest_superblock(&scratch.image());
    let geometry = &sup.geometry;
    let opened = Image::open(disk(&scratch.image()), &image::OpenOptions::read_only()).expect("opens");
    let touched =
        (0..geometry.extents).find(|extent| opened.summary(ExtentNo(*extent)).expect("summary").touched);
    let touched = touched.expect("an extent in use");
    let group = geometry.group_at(touched / GROUP_EXTENTS);
    let cases: &[(&[u64], &str)] = &[
        (&[LABEL_COPIES[0] + 20], "label: copy at 0"),
        (&[LABEL_COPIES[1] + 20], "label: copy at 32768"),
        (&[slots[0] + 50, slots[1] + 50], "superblock: slot"),
        (&[group + 100], "summary: sector"),
        (&[group + 4096 + 100], "bitmaps: Differs"),
        (&[group + 9 * 4096 + 100], "bitmaps: ToCopy"),
        (&[geometry.page_at(touched) + 40], "digests: extent"),
        (&[geometry.page_at(touched) + 1100], "digests: extent"),
        (&[geometry.block_at(0) + 9, geometry.block_at(1) + 9], "filesystem: slot"),
        (&[geometry.block_at(0) + 9], "content: block 0 "),
    ];
    for (offsets, words) in cases {
        expect(&with_damage(&scratch, offsets), &["-f"], 4, words);
    }
    let all: Vec<u64> = (0..128).map(|place| geometry.ring_at(place) + 50).collect();
    expect(&with_damage(&scratch, &all), &[], 4, "activity log");
    expect(&with_damage(&scratch, &[LABEL_COPIES[0], LABEL_COPIES[1]]), &[], 8, "not a twinfs image");
}

#[test]
fn a_broken_table_page_is_a_finding_and_not_a_panic() {
    let scratch = Scratch::new("tables");
    make(&scratch.image(), true);
    let (_, sup, _) = newest_superblock(&scratch.image());
    let opened =
        Arc::new(Image::open(disk(&scratch.image()), &image::OpenOptions::read_only()).expect("opens"));
    let (fs_super, _) = twinfs::offline::superblock(&opened).expect("a filesystem");
    // Every page of every chunk in turn would take minutes; each third shows all kinds.
    for page in (0..fs_super.chunks.len() as u64 * 64).step_by(37) {
        let (_, first) = fs_super.chunks[(page / 64) as usize];
        let written = opened.digests(BlockNo(first + page % 64), 1).expect("digests")[0].is_some();
        if written {
            let at = sup.geometry.block_at(first + page % 64) + 700;
            expect(&with_damage(&scratch, &[at]), &["-f"], 4, "does not match its digest");
        }
    }
}

#[test]
fn garbage_truncated_and_missing_images_end_in_an_operational_error() {
    let scratch = Scratch::new("garbage");
    expect(&scratch.0.join("nothing"), &[], 8, "No such file");
    std::fs::write(scratch.image(), b"").expect("writes");
    expect(&scratch.image(), &[], 8, "");
    let mut dice = 7_u64;
    let garbage: Vec<u8> = (0..1 << 20)
        .map(|_| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (dice >> 56) as u8
        })
        .collect();
    std::fs::write(scratch.image(), garbage).expect("writes");
    expect(&scratch.image(), &["-f"], 8, "not a twinfs image");
    make(&scratch.image(), true);
    for len in [512, 40_000, 1 << 20, IMAGE_BYTES / 2, IMAGE_BYTES - 4096] {
        let copy = scratch.0.join("short");
        std::fs::copy(scratch.image(), &copy).expect("copies");
        std::fs::File::options().write(true).open(&copy).expect("opens").set_len(len).expect("cuts");
        let output = fsck(&["-f"], &copy);
        assert!(matches!(output.status.code(), Some(4 | 8)), "{len}: {output:?}");
    }
    let held =
        twinfs::sys::lock::ImageLock::take(&scratch.image(), std::time::Duration::ZERO).expect("locks");
    expect(&scratch.image(), &["-f"], 8, "in use");
    drop(held);
    let output = fsck(&["-q"], &scratch.image());
    assert_eq!(output.status.code(), Some(16));
}

#[test]
fn dump_shows_the_structures_of_an_image_and_changes_nothing() {
    let scratch = Scratch::new("dump");
    make(&scratch.image(), false);
    let before = std::fs::read(scratch.image()).expect("reads");
    let image = scratch.image().display().to_string();
    let dump = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_twinfs"))
            .arg("dump")
            .args(words)
            .arg(&image)
            .output()
            .expect("runs dump");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, tree) = dump(&["tree"]);
    assert_eq!((code, tree.lines().count()), (Some(0), 125), "{tree}");
    assert!(tree.contains("/dir0/dir1/dir2/link -> ../file1"), "{tree}");
    let line = tree.lines().find(|line| line.ends_with("/dir0/file3")).expect("a file");
    let ino = line.split_whitespace().next().expect("its number");
    let (_, inode) = dump(&["inode", ino]);
    assert!(inode.contains("size           12000") && inode.contains("extents"), "{inode}");
    let (_, json) = dump(&["--json", "superblock"]);
    assert!(json.contains("\"schema\":1") && json.contains("\"label\":\"test\""), "{json}");
    let (_, record) = dump(&["record"]);
    assert!(record.contains("members        {A}"), "{record}");
    let (_, block) = dump(&["block", "0"]);
    assert!(block.contains("twinfsB1"), "{block}");
    let (_, log) = dump(&["log"]);
    assert!(log.contains("put dirents") && log.contains("checkpoint: record"), "{log}");
    assert_eq!(dump(&["block", "99999999"]).0, Some(2));
    assert!(before == std::fs::read(scratch.image()).expect("reads"), "dump wrote to the image");
}
