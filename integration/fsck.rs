//! fsck.twinfs as a program, over real images: a sound one is clean, also after a crash; each damaged structure is
//! named; garbage and truncated images end in an exit code, never in a panic or a hang.
#![allow(clippy::disallowed_methods, reason = "a test with real programs, files and time")]

mod harness;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use twinfs::base::{BlockNo, Generation, Ino, Members, NodeId, Record, VolumeId};
use twinfs::format::{
    Dirent, FileKind, GenEntry, GenReason, InodeRec, LABEL_COPIES, Label, ResyncMark, State, Superblock, Time,
};
use twinfs::fs::{FsError, Store, StoreOptions};
use twinfs::image::{self, Blocks, Disk, DiskError, Image, LocalBlocks};

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
        diverged: false,
        apart: twinfs::format::Apart::default(),
        witness_incarnation: 0,
    }
}

/// Makes an image with folders, files, a hard link, a symlink and attributes. `close`: in order, or as a crash leaves it.
fn make(path: &Path, close: bool) {
    std::fs::File::create(path).expect("image").set_len(IMAGE_BYTES).expect("length");
    let medium = disk(path);
    let options = image::FormatOptions { state: state(), uuid: 1, label: "test".into(), al_slots: 16 };
    image::format(&medium, &options).expect("formats the image");
    let opened = Image::open(disk(path), &image::OpenOptions::read_write()).expect("opens the image");
    let alone = Arc::new(LocalBlocks::new(Arc::new(opened)).expect("opens its blocks"));
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
        alone.image().close().expect("closes the image");
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
    expect(&scratch.image(), &["-fy"], 0, "clean");
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
fn damage_is_reported_repaired_by_as_much_as_was_allowed_and_then_gone() {
    let scratch = Scratch::new("damage");
    make(&scratch.image(), true);
    let (_, sup, slots) = newest_superblock(&scratch.image());
    let geometry = &sup.geometry;
    let group = geometry.group_at(0);
    let page = geometry.page_at(geometry.extents - 1);
    // (where, how it is named, whether a safe repair is enough)
    let cases: &[(&[u64], &str, bool)] = &[
        (&[LABEL_COPIES[0] + 20], "label: copy at 0", true),
        (&[group + 4096 + 100], "bitmaps: Differs", true),
        (&[group + 100], "summary: sector", true),
        (&[geometry.block_at(0) + 9], "one bit is flipped", true),
        (&[page + 40], "digests: extent", false),
        (&[LABEL_COPIES[0] + 20, LABEL_COPIES[1] + 20], "label: made again", false),
    ];
    for (offsets, words, safe) in cases {
        let damaged = with_damage(&scratch, offsets);
        let before = std::fs::read(&damaged).expect("reads");
        expect(&damaged, &["-fn"], 4, words);
        expect(&damaged, &["-f"], 4, words);
        assert!(before == std::fs::read(&damaged).expect("reads"), "{words}: a check wrote");
        if *safe {
            expect(&damaged, &["-fp"], 1, "were repaired, 0 of them with loss");
        } else {
            expect(&damaged, &["-fa"], 4, "run fsck.twinfs -y");
            assert!(before == std::fs::read(&damaged).expect("reads"), "{words}: -a wrote");
            expect(&damaged, &["-fy"], 1, words);
        }
        expect(&damaged, &["-fn"], 0, "125 inodes");
    }
    let both = with_damage(&scratch, &[slots[0] + 50, slots[1] + 50]);
    expect(&both, &["-fn"], 4, "superblock: slot");
    expect(&both, &["-fy"], 1, "both slots are damaged: made again");
    expect(&both, &["-fn"], 0, "125 inodes");
    expect(&with_damage(&scratch, &[slots[1] + 50]), &["-fn"], 0, "the other slot counts");
}

/// Gives the image to a pair.
fn join_pair(path: &Path) {
    let opened = Image::open(disk(path), &image::OpenOptions::read_write()).expect("opens");
    let mut state = opened.state();
    state.record = Some(Record { v: 2, members: Members::BOTH, primary: NodeId::A });
    opened.store(&state).expect("stores");
    opened.close().expect("closes");
}

#[test]
fn the_image_of_a_pair_is_repaired_by_force_only_and_leaves_the_pair_first() {
    let scratch = Scratch::new("pair");
    make(&scratch.image(), true);
    join_pair(&scratch.image());
    expect(&scratch.image(), &["-fy"], 0, "clean");
    let damaged = with_damage(&scratch, &[LABEL_COPIES[1] + 20]);
    let before = std::fs::read(&damaged).expect("reads");
    for letters in ["-fp", "-fy"] {
        let output = fsck(&[letters], &damaged);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), errors.lines().count()), (Some(4), 1), "{errors}");
        assert!(errors.contains("belongs to a pair in sync {A,B}") && errors.contains("--force"), "{errors}");
        assert!(before == std::fs::read(&damaged).expect("reads"), "{letters} wrote");
    }
    expect(&damaged, &["-fy", "--force"], 1, "were repaired");
    let state = Image::open(disk(&damaged), &image::OpenOptions::read_only()).expect("opens").state();
    assert_eq!(state.record.map(|record| (record.v, record.members)), Some((3, Members::only(NodeId::A))));
    let newest = state.gens.last().expect("a generation");
    assert_eq!((state.gens.len(), newest.reason, newest.at_v), (2, GenReason::Standalone, 3));
    assert_eq!(state.bitmap_base, Generation(5));
    expect(&damaged, &["-fn"], 0, "clean");
}

#[test]
fn json_is_one_object_and_progress_goes_where_it_was_sent() {
    let scratch = Scratch::new("json");
    make(&scratch.image(), true);
    let damaged = with_damage(&scratch, &[LABEL_COPIES[1] + 20]);
    let output = fsck(&["-y", "--json"], &damaged);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(answer["findings"][0]["part"], "label", "{answer}");
    assert_eq!((&answer["exit"], &answer["repaired"]), (&1.into(), &true.into()), "{answer}");
    assert_eq!((&answer["inodes"], &answer["schema"]), (&125.into(), &1.into()));
    let output = fsck(&["-n", "-T", "-C1"], &damaged);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let name = damaged.display().to_string();
    let progress: Vec<&str> = said.lines().filter(|line| line.ends_with(&format!(" 100 {name}"))).collect();
    assert!(progress.len() >= 3 && progress.iter().all(|l| l.split(' ').count() == 4), "{said}");
    let silent = fsck(&["-n", "-C0"], &damaged);
    assert!(silent.stderr.is_empty(), "progress without a terminal: {silent:?}");
}

/// A check waits in the opening of a pipe that nobody writes; a signal ends it with its own code.
#[test]
fn a_signal_ends_a_check_with_the_code_for_cancelled() {
    let scratch = Scratch::new("signal");
    let pipe = scratch.0.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("makes a pipe");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fsck-twinfs"))
        .arg("-n")
        .arg(&pipe)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    let status = format!("/proc/{}/status", child.id());
    let term = 1_u64 << (nix::sys::signal::Signal::SIGTERM as u32 - 1);
    // Only once it holds the signal back it would not die of it.
    let ready = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let blocked = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let blocked = blocked.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        blocked.is_some_and(|mask| mask & term != 0) && !text.contains("Threads:\t1\n")
    });
    assert!(ready, "it never began to watch for signals");
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signals");
    assert_eq!(child.wait().expect("ends").code(), Some(32));
}

/// Every line of the examples, on an image of ours, with the helper names beside each other.
#[test]
fn the_examples_of_the_manual_page_work() {
    let scratch = Scratch::new("examples");
    make(&scratch.image(), true);
    let bin = scratch.0.join("bin");
    std::fs::create_dir(&bin).expect("folder");
    let link = |from: &str, to: &str| std::os::unix::fs::symlink(from, bin.join(to)).expect("links");
    link(env!("CARGO_BIN_EXE_fsck-twinfs"), "fsck.twinfs");
    link(env!("CARGO_BIN_EXE_twinfs"), "twinfs");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/fsck.twinfs.8");
    let page = std::fs::read_to_string(page).expect("the page");
    let lines: Vec<String> = page
        .lines()
        .skip_while(|line| *line != ".SH EXAMPLES")
        .skip_while(|line| *line != ".EX")
        .skip(1)
        .take_while(|line| *line != ".EE")
        .map(|line| line.replace("\\-", "-"))
        .collect();
    assert!(lines.len() >= 4, "{lines:?}");
    for line in lines {
        let call = line.replace("/var/lib/twinfs/mail.img", &scratch.image().display().to_string());
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let output = Command::new("timeout").args(["60", "sh", "-c", &call]).env("PATH", path).output();
        let output = output.expect("runs");
        assert_eq!(output.status.code(), Some(0), "{line}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("125"), "{line}: {output:?}");
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
        assert_eq!(std::fs::metadata(&copy).expect("is there").len(), len, "a look changed the image");
    }
    let held =
        twinfs::sys::lock::ImageLock::take(&scratch.image(), std::time::Duration::ZERO).expect("locks");
    expect(&scratch.image(), &["-f"], 8, "in use");
    drop(held);
    let output = fsck(&["-q"], &scratch.image());
    assert_eq!(output.status.code(), Some(16));
}

/// What was cut off is told; what is left can be mounted, and a second look finds nothing.
#[test]
fn a_truncated_image_is_made_whole_again_as_far_as_it_goes() {
    let scratch = Scratch::new("truncated");
    make(&scratch.image(), true);
    let whole = std::fs::read(scratch.image()).expect("reads");
    // A slot; both slots; half of what describes the data; all of it; the tables, too.
    for (cut, files_lost) in [(4096, 0), (30_000, 0), (7 << 19, 0), ((4 << 20) - 65_536, 0), (6 << 20, 125)] {
        let len = IMAGE_BYTES - cut;
        std::fs::write(scratch.image(), &whole[..len as usize]).expect("writes");
        expect(&scratch.image(), &["-f"], 4, "it is truncated");
        assert_eq!(std::fs::metadata(scratch.image()).expect("is there").len(), len);
        let output = fsck(&["-y", "-f"], &scratch.image());
        assert_eq!(output.status.code(), Some(1), "{cut}: {output:?}");
        expect(&scratch.image(), &["-f"], 0, "");
        assert_eq!(std::fs::metadata(scratch.image()).expect("is there").len(), IMAGE_BYTES);
        let tree =
            Command::new(env!("CARGO_BIN_EXE_twinfs")).args(["dump", "tree"]).arg(scratch.image()).output();
        let tree = String::from_utf8(tree.expect("runs").stdout).expect("text");
        println!("{cut}: {} lines of 125", tree.lines().count());
        assert!(tree.lines().count() + files_lost >= 125, "{cut}: {tree}");
    }
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
    let born =
        inode.lines().find(|line| line.starts_with("btime")).and_then(|line| line.split_whitespace().nth(1));
    assert!(born.is_some_and(|born| born.starts_with(|digit: char| digit.is_ascii_digit())), "{inode}");
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

/// Bytes under a right digest that redb does not expect: a mount of them ends with mount(8)'s code and one line that says
/// so, or serves. It is never ended by a signal, and the next examination finds what it found before.
#[test]
fn a_mount_of_tables_that_are_not_tables_ends_in_mounts_own_code_and_one_line() {
    let name = "a_mount_of_tables_that_are_not_tables_ends_in_mounts_own_code_and_one_line";
    if !harness::need::have_mounts(name, &[]) {
        return;
    }
    let scratch = Scratch::new("foreign");
    make(&scratch.image(), true);
    let sound = std::fs::read(scratch.image()).expect("reads");
    let dir = scratch.0.join("mnt");
    std::fs::create_dir(&dir).expect("mount point");
    let (mut refused, mut panics) = (0, 0);
    for nth in 0..24 {
        std::fs::write(scratch.image(), &sound).expect("writes");
        if !spoil_table_page(&scratch.image(), nth) {
            break;
        }
        let mount = Command::new("timeout")
            .args(["-k", "1", "30", env!("CARGO_BIN_EXE_twinfs"), "mount", "--standalone"])
            .args([scratch.image(), dir.clone()])
            .output()
            .expect("runs mount");
        let said = String::from_utf8_lossy(&mount.stderr);
        match mount.status.code() {
            Some(0) => {
                let ended = Command::new(env!("CARGO_BIN_EXE_twinfs")).arg("umount").arg(&dir).status();
                assert!(ended.expect("runs umount").success(), "case {nth}");
            }
            Some(32) => {
                refused += 1;
                panics += usize::from(said.contains("redb does not understand them"));
                assert!(said.lines().count() == 1 && said.contains("fsck"), "case {nth}: {said}");
            }
            other => panic!("case {nth}: {other:?}: {said}"),
        }
        assert!(matches!(fsck(&["-fn"], &scratch.image()).status.code(), Some(0 | 4)), "case {nth}");
    }
    harness::say(&format!(
        "foreign tables: {refused} mounts refused, {panics} of them after a panic of redb"
    ));
    assert!(refused >= 4 && panics >= 1, "{refused} refused, {panics} panics");
}

/// Writes garbage over a part of the `nth` page of the tables that is in use, with a right digest; false if there are
/// not so many.
fn spoil_table_page(image: &Path, nth: usize) -> bool {
    let opened = Image::open(disk(image), &image::OpenOptions::read_write()).expect("opens the image");
    let alone = LocalBlocks::new(Arc::new(opened)).expect("opens its blocks");
    let mut page = vec![0; 4096];
    // The tables of a new filesystem begin this far before the end.
    let first = alone.block_count() - 1024;
    let used = (first..alone.block_count()).filter(|block| {
        let mut page = [0; 4096];
        alone.read(BlockNo(*block), &mut page).is_ok() && page != [0; 4096]
    });
    let Some(block) = used.take(12).nth(nth / 2) else { return false };
    alone.read(BlockNo(block), &mut page).expect("reads");
    match nth % 2 {
        0 => page[2..40].fill(0xFF),
        _ => page.iter_mut().skip(4).for_each(|byte| *byte = byte.wrapping_mul(7).wrapping_add(3)),
    }
    alone.write(BlockNo(block), &page).expect("writes");
    alone.flush().expect("flushes");
    alone.image().close().expect("closes the image");
    true
}
