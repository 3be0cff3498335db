//! Real mounts of the program on this machine: what applications see, and what is left after signals and kills.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test with real programs, files and time"
)]
#![allow(unsafe_code, reason = "mmap, and ioctls by number")]

mod harness;
mod mounted;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use harness::{need, say};
use nix::fcntl::{FallocateFlags, OFlag, RenameFlags};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Pid, Whence};
use twinfs::base::Pages;
use twinfs::sys::xattr;

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinfs");

/// Whether mounts work here; a skip is seen and counted. In CI it is a failure.
fn can_mount(name: &str) -> bool {
    need::have_mounts(name, &[])
}

/// An image with a mount point, and the process that serves it.
struct Rig {
    root: PathBuf,
    child: Option<Child>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    fn new() -> Rig {
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let root = std::env::temp_dir().join(format!("twinfs-mount-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("mnt")).unwrap();
        let rig = Rig { root, child: None };
        let made = rig.twinfs(&["mkfs", "-q", rig.image().to_str().unwrap(), "256M"]);
        assert!(made.status.success(), "{made:?}");
        assert!(made.stdout.is_empty() && made.stderr.is_empty(), "{made:?}");
        rig
    }

    fn mounted() -> Rig {
        let mut rig = Rig::new();
        rig.mount();
        rig
    }

    fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    fn mnt(&self) -> PathBuf {
        self.root.join("mnt")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mnt().join(name)
    }

    fn twinfs(&self, args: &[&str]) -> Output {
        Command::new(PROGRAM).args(args).current_dir(&self.root).stdin(Stdio::null()).output().unwrap()
    }

    fn is_mounted(&self) -> bool {
        twinfs::sys::mount::mounted_at(&self.mnt()).unwrap().is_some()
    }

    fn mount(&mut self) {
        self.mount_with(&[]);
    }

    fn mount_with(&mut self, more: &[&str]) {
        let child = Command::new(PROGRAM)
            .args(["mount", "--standalone", "--foreground"])
            .args(more)
            .args([self.image(), self.mnt()])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        wait_until("the mount", || self.is_mounted() && nix::sys::statvfs::statvfs(&self.mnt()).is_ok());
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
    }

    fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(!self.is_mounted());
    }

    fn remount(&mut self) {
        self.terminate();
        self.mount();
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap_or(0)), Signal::SIGTERM);
            let _ = child.wait();
        }
        while matches!(twinfs::sys::mount::mounted_at(&self.mnt()), Ok(Some(_))) {
            if twinfs::sys::mount::detach(&self.mnt()).is_err() {
                break;
            }
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done() {
        assert!(Instant::now() < deadline, "waited 40 s for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn every_kind_of_file_and_attribute_survives_a_remount() {
    if !can_mount("every_kind_of_file_and_attribute_survives_a_remount") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::create_dir(rig.at("dir")).unwrap();
    fs::write(rig.at("dir/file"), "content").unwrap();
    fs::set_permissions(rig.at("dir/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::hard_link(rig.at("dir/file"), rig.at("hard")).unwrap();
    std::os::unix::fs::symlink("dir/file", rig.at("soft")).unwrap();
    nix::unistd::mkfifo(&rig.at("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
    let device = nix::sys::stat::makedev(1, 3);
    nix::sys::stat::mknod(&rig.at("null"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), device).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(rig.at("socket")).unwrap();
    std::os::unix::fs::chown(rig.at("dir"), Some(12), Some(34)).unwrap();
    xattr::set(&rig.at("dir/file"), OsStr::new("user.note"), &vec![b'x'; 65_536]).unwrap();
    xattr::set(&rig.at("dir/file"), OsStr::new("trusted.t"), b"t").unwrap();
    let old = std::time::UNIX_EPOCH - Duration::from_millis(1_500);
    File::open(rig.at("dir/file")).unwrap().set_modified(old).unwrap();
    fs::write(rig.at("null"), "swallowed").unwrap();
    let see = |rig: &Rig| {
        let meta = |name: &str| fs::symlink_metadata(rig.at(name)).unwrap();
        let file = meta("dir/file");
        assert_eq!(fs::read_to_string(rig.at("soft")).unwrap(), "content");
        assert_eq!((file.mode() & 0o7777, file.nlink(), file.size()), (0o4711, 2, 7));
        assert_eq!((file.mtime(), file.mtime_nsec()), (-2, 500_000_000));
        assert_eq!(file.ino(), meta("hard").ino());
        assert_eq!((meta("dir").uid(), meta("dir").gid(), meta("dir").nlink()), (12, 34, 2));
        assert!(meta("fifo").file_type().is_fifo() && meta("socket").file_type().is_socket());
        assert!(meta("null").file_type().is_char_device() && meta("null").rdev() == device);
        assert_eq!(xattr::get(&rig.at("dir/file"), OsStr::new("user.note")).unwrap().len(), 65_536);
        assert_eq!(xattr::list(&rig.at("dir/file")).unwrap().len(), 2);
    };
    see(&rig);
    rig.remount();
    see(&rig);
}

#[test]
fn every_time_that_a_call_can_set_is_kept_or_clamped_and_none_stops_the_mount() {
    if !can_mount("every_time_that_a_call_can_set_is_kept_or_clamped_and_none_stops_the_mount") {
        return;
    }
    let mut rig = Rig::mounted();
    // Before the smallest second there is only the clamp of the kernel, which also takes its nanoseconds.
    let times = [
        (i64::MIN, 0),
        (i64::MIN + 1, 999_999_999),
        (-86_400, 1),
        (-1, 999_999_999),
        (0, 1),
        (4_294_967_296, 123_456_789),
        (1 << 40, 7),
        (i64::MAX, 0),
    ];
    for (number, (secs, nanos)) in times.iter().enumerate() {
        let path = rig.at(&format!("t{number}"));
        let file = writable(&path);
        let time = nix::sys::time::TimeSpec::new(*secs, *nanos);
        nix::sys::stat::futimens(&file, &time, &time).unwrap();
    }
    rig.remount();
    for (number, time) in times.iter().enumerate() {
        let meta = fs::metadata(rig.at(&format!("t{number}"))).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), *time);
        assert_eq!((meta.atime(), meta.atime_nsec()), *time);
    }
}

#[test]
fn a_default_acl_is_inherited_and_enforced_by_the_kernel() {
    if !can_mount("a_default_acl_is_inherited_and_enforced_by_the_kernel") {
        return;
    }
    let rig = Rig::mounted();
    fs::create_dir(rig.at("d")).unwrap();
    // user::rwx user:65534:r-x group::--- mask::r-x other::---
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 5, 65_534), (4, 0, u32::MAX), (16, 5, u32::MAX), (32, 0, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&perm.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    xattr::set(&rig.at("d"), OsStr::new("system.posix_acl_default"), &acl).unwrap();
    xattr::set(&rig.at("d"), OsStr::new("system.posix_acl_access"), &acl).unwrap();
    fs::set_permissions(&rig.root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(rig.at("d/f"), "for nobody").unwrap();
    assert_eq!(fs::metadata(rig.at("d/f")).unwrap().mode() & 0o777, 0o640, "666 masked by the list");
    let nobody = |script: &str| {
        let file = rig.at("d/f");
        let mut shell = Command::new("setpriv");
        shell.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script, "sh"]).arg(file);
        shell.stderr(Stdio::null()).output().unwrap()
    };
    assert_eq!(nobody("cat \"$1\"").stdout, b"for nobody");
    assert!(!nobody("echo x >> \"$1\"").status.success());
    fs::set_permissions(rig.at("d/f"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!nobody("cat \"$1\"").status.success(), "chmod moved the mask");
}

#[test]
fn a_shared_mapping_and_reads_see_each_other() {
    if !can_mount("a_shared_mapping_and_reads_see_each_other") {
        return;
    }
    let mut rig = Rig::mounted();
    let file = writable(&rig.at("m"));
    file.set_len(8192).unwrap();
    let length = std::num::NonZeroUsize::new(8192).unwrap();
    let flags = nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE;
    // SAFETY: a fresh mapping of a file of this length, unmapped below, used only in between.
    unsafe {
        let map = nix::sys::mman::mmap(None, length, flags, nix::sys::mman::MapFlags::MAP_SHARED, &file, 0)
            .unwrap();
        let bytes = std::slice::from_raw_parts_mut(map.as_ptr().cast::<u8>(), 8192);
        bytes[5000] = b'M';
        let mut seen = [0];
        file.read_exact_at(&mut seen, 5000).unwrap();
        assert_eq!(&seen, b"M");
        file.write_all_at(b"W", 100).unwrap();
        assert_eq!(bytes[100], b'W');
        bytes[8191] = b'L';
        nix::sys::mman::msync(map, 8192, nix::sys::mman::MsFlags::MS_SYNC).unwrap();
        nix::sys::mman::munmap(map, 8192).unwrap();
    }
    drop(file);
    rig.kill();
    rig.mount();
    let content = fs::read(rig.at("m")).unwrap();
    assert_eq!((content[5000], content[100], content[8191]), (b'M', b'W', b'L'), "msync made it stable");
}

#[test]
fn two_appending_processes_lose_no_line() {
    if !can_mount("two_appending_processes_lose_no_line") {
        return;
    }
    let rig = Rig::mounted();
    let script = "for i in $(seq 500); do echo $1 $i >> \"$2\"; done";
    let start =
        |name: &str| Command::new("sh").args(["-c", script, "sh", name]).arg(rig.at("log")).spawn().unwrap();
    for mut child in [start("a"), start("b")] {
        assert!(child.wait().unwrap().success());
    }
    let text = fs::read_to_string(rig.at("log")).unwrap();
    let lines: BTreeSet<&str> = text.lines().collect();
    assert_eq!((text.lines().count(), lines.len()), (1_000, 1_000));
}

/// Data and size by either, times as well by O_SYNC; nobody calls fsync(2).
#[test]
fn what_is_written_with_o_sync_or_o_dsync_is_stable_when_the_write_returns() {
    let name = "what_is_written_with_o_sync_or_o_dsync_is_stable_when_the_write_returns";
    if !can_mount(name) {
        return;
    }
    let mut rig = Rig::mounted();
    for (file, flag) in [("s", OFlag::O_SYNC), ("d", OFlag::O_DSYNC)] {
        File::create(rig.at(file)).unwrap().sync_all().unwrap();
        File::open(rig.mnt()).unwrap().sync_all().unwrap();
        for n in 0..5_u8 {
            let mut log =
                OpenOptions::new().append(true).custom_flags(flag.bits()).open(rig.at(file)).unwrap();
            log.write_all(&vec![n + 1; 5_000]).unwrap();
            // At once: before any timer commits.
            rig.kill();
            drop(log);
            rig.mount();
            let content = fs::read(rig.at(file)).unwrap();
            let wrong = (0..content.len()).find(|at| content[*at] != (at / 5_000) as u8 + 1);
            assert_eq!((content.len(), wrong), ((usize::from(n) + 1) * 5_000, None), "{file}, write {n}");
        }
    }
}

#[test]
fn direct_writes_are_stable_when_they_return() {
    if !can_mount("direct_writes_are_stable_when_they_return") {
        return;
    }
    let mut rig = Rig::mounted();
    let direct = OpenOptions::new()
        .write(true)
        .create(true)
        .custom_flags(OFlag::O_DIRECT.bits())
        .open(rig.at("d"))
        .unwrap();
    for n in 0..8_u8 {
        let mut page = Pages::zeroed(1);
        page.fill(n + 1);
        direct.write_all_at(&page, u64::from(n) * 4096).unwrap();
    }
    drop(direct);
    rig.kill();
    rig.mount();
    let content = fs::read(rig.at("d")).unwrap();
    let wrong: Vec<usize> = (0..8 * 4096).filter(|at| content[*at] != (at / 4096) as u8 + 1).collect();
    assert!(content.len() == 8 * 4096 && wrong.is_empty());
}

#[test]
fn an_unlinked_file_is_usable_until_it_is_closed_and_then_its_space_returns() {
    if !can_mount("an_unlinked_file_is_usable_until_it_is_closed_and_then_its_space_returns") {
        return;
    }
    let rig = Rig::mounted();
    let free = || nix::sys::statvfs::statvfs(&rig.mnt()).unwrap().blocks_free();
    let before = free();
    let mut file = writable(&rig.at("gone"));
    file.write_all(&vec![7; 8 << 20]).unwrap();
    fs::remove_file(rig.at("gone")).unwrap();
    assert!(!rig.at("gone").exists());
    file.sync_all().unwrap();
    assert!(free() + 2000 < before, "8 MiB are in use: {} of {before}", free());
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut all = Vec::new();
    file.read_to_end(&mut all).unwrap();
    assert!(all.len() == 8 << 20 && all.iter().all(|b| *b == 7));
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    drop(file);
    wait_until("the space to return", || free() + 200 > before);
}

#[test]
fn rename_replaces_refuses_and_exchanges() {
    if !can_mount("rename_replaces_refuses_and_exchanges") {
        return;
    }
    let rig = Rig::mounted();
    fs::write(rig.at("a"), "A").unwrap();
    fs::write(rig.at("b"), "B").unwrap();
    let rename = |from: &str, to: &str, flags| {
        let cwd = nix::fcntl::AT_FDCWD;
        nix::fcntl::renameat2(cwd, &rig.at(from), cwd, &rig.at(to), flags)
    };
    assert_eq!(rename("a", "b", RenameFlags::RENAME_NOREPLACE), Err(nix::errno::Errno::EEXIST));
    rename("a", "b", RenameFlags::RENAME_EXCHANGE).unwrap();
    assert_eq!(fs::read(rig.at("a")).unwrap(), b"B");
    rename("a", "b", RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(rig.at("b")).unwrap(), b"B");
    fs::create_dir_all(rig.at("d/e")).unwrap();
    assert_eq!(errno(fs::rename(rig.at("d"), rig.at("d/e/f"))), nix::errno::Errno::EINVAL as i32);
    rename("b", "w", RenameFlags::RENAME_WHITEOUT).unwrap();
    let white = fs::symlink_metadata(rig.at("b")).unwrap();
    assert!(white.file_type().is_char_device() && white.rdev() == 0);
}

#[test]
fn holes_are_found_punched_and_filled() {
    if !can_mount("holes_are_found_punched_and_filled") {
        return;
    }
    let rig = Rig::mounted();
    let file = writable(&rig.at("sparse"));
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    file.sync_all().unwrap();
    let seek = |at, whence| nix::unistd::lseek(&file, at, whence);
    assert_eq!(seek(0, Whence::SeekData), Ok(1 << 20));
    assert_eq!(seek(1 << 20, Whence::SeekHole), Ok((1 << 20) + 4096));
    assert_eq!(seek(2 << 20, Whence::SeekData), Err(nix::errno::Errno::ENXIO));
    assert!(file.metadata().unwrap().blocks() <= 64, "{}", file.metadata().unwrap().blocks());
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&file, punch, (1 << 20) + 100, 50).unwrap();
    let mut bytes = [9; 200];
    file.read_exact_at(&mut bytes, 1 << 20).unwrap();
    assert!(bytes[..100] == [1; 100] && bytes[100..150] == [0; 50] && bytes[150..] == [1; 50]);
    nix::fcntl::fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 4 << 20, 1 << 20).unwrap();
    file.sync_all().unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.size(), 4 << 20);
    assert!(meta.blocks() >= 2048, "preallocation counts: {}", meta.blocks());
    let copy = writable(&rig.at("copy"));
    // The standard library copies between files with copy_file_range(2).
    (&file).seek(SeekFrom::Start(1 << 20)).unwrap();
    assert_eq!(std::io::copy(&mut (&file).take(200), &mut &copy).unwrap(), 200);
    assert_eq!(fs::read(rig.at("copy")).unwrap(), bytes);
}

#[test]
fn a_listing_of_ten_thousand_names_under_change_misses_and_repeats_nothing() {
    if !can_mount("a_listing_of_ten_thousand_names_under_change_misses_and_repeats_nothing") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::create_dir(rig.at("big")).unwrap();
    for n in 0..10_000 {
        File::create(rig.at(&format!("big/stay-{n}"))).unwrap();
    }
    let mut seen = Vec::new();
    for (n, entry) in fs::read_dir(rig.at("big")).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        if n % 10 == 0 {
            File::create(rig.at(&format!("big/new-{n}"))).unwrap();
            let _ = fs::remove_file(rig.at(&format!("big/new-{}", n.saturating_sub(10))));
        }
    }
    let stay: Vec<&String> = seen.iter().filter(|name| name.starts_with("stay-")).collect();
    assert_eq!((stay.len(), stay.iter().collect::<BTreeSet<_>>().len()), (10_000, 10_000));
    rig.remount();
    let again = fs::read_dir(rig.at("big"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with("stay-"));
    assert_eq!(again.count(), 10_000);
    fs::remove_dir_all(rig.at("big")).unwrap();
}

#[test]
fn statfs_counts_what_is_used() {
    if !can_mount("statfs_counts_what_is_used") {
        return;
    }
    let rig = Rig::mounted();
    let stat = || nix::sys::statvfs::statvfs(&rig.mnt()).unwrap();
    let before = stat();
    assert_eq!(before.fragment_size(), 4096);
    assert!(before.blocks() > 40_000 && before.blocks_free() > 30_000 && before.files_free() > 1_000);
    let mut file = writable(&rig.at("f"));
    file.write_all(&vec![1; 16 << 20]).unwrap();
    file.sync_all().unwrap();
    let used = before.blocks_free() - stat().blocks_free();
    assert!((4096..6000).contains(&used), "16 MiB took {used} blocks");
    assert_eq!(file.metadata().unwrap().blocks(), (16 << 20) / 512);
}

#[test]
fn a_full_image_says_so_and_keeps_working() {
    if !can_mount("a_full_image_says_so_and_keeps_working") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::write(rig.at("precious"), "keep").unwrap();
    let mut file = writable(&rig.at("fill"));
    let chunk = vec![3; 1 << 20];
    let mut failed = 0;
    for _ in 0..300 {
        failed = errno(file.write_all(&chunk));
        if failed != 0 {
            break;
        }
    }
    assert_eq!(failed, nix::errno::Errno::ENOSPC as i32);
    drop(file);
    fs::remove_file(rig.at("fill")).unwrap();
    wait_until("room", || fs::write(rig.at("after"), vec![5; 4 << 20]).is_ok());
    rig.remount();
    assert_eq!(fs::read(rig.at("precious")).unwrap(), b"keep");
    assert!(fs::read(rig.at("after")).unwrap() == vec![5; 4 << 20]);
}

#[test]
fn sigterm_unmounts_and_everything_written_is_there_afterwards() {
    if !can_mount("sigterm_unmounts_and_everything_written_is_there_afterwards") {
        return;
    }
    let mut rig = Rig::mounted();
    for n in 0..200 {
        fs::write(rig.at(&format!("f{n}")), vec![n as u8; n * 37]).unwrap();
    }
    rig.terminate();
    assert_eq!(fs::read_dir(rig.mnt()).unwrap().count(), 0);
    rig.mount();
    for n in 0..200 {
        assert_eq!(fs::read(rig.at(&format!("f{n}"))).unwrap(), vec![n as u8; n * 37]);
    }
}

#[test]
fn after_a_kill_the_dead_mount_is_replaced_and_every_fsynced_byte_is_there() {
    if !can_mount("after_a_kill_the_dead_mount_is_replaced_and_every_fsynced_byte_is_there") {
        return;
    }
    let mut rig = Rig::mounted();
    for round in 0..3 {
        let mut log = OpenOptions::new().append(true).create(true).open(rig.at("log")).unwrap();
        for n in 0..50 {
            writeln!(log, "{round} {n}").unwrap();
            log.sync_data().unwrap();
        }
        fs::write(rig.at("tmp"), format!("state {round}")).unwrap();
        File::open(rig.at("tmp")).unwrap().sync_all().unwrap();
        fs::rename(rig.at("tmp"), rig.at("state")).unwrap();
        File::open(rig.mnt()).unwrap().sync_all().unwrap();
        writeln!(log, "not synced").unwrap();
        rig.kill();
        assert!(rig.is_mounted(), "the dead mount stays");
        assert_eq!(nix::sys::statvfs::statvfs(&rig.mnt()).err(), Some(nix::errno::Errno::ENOTCONN));
        drop(log);
        rig.mount();
        let text = fs::read_to_string(rig.at("log")).unwrap();
        for n in 0..50 {
            assert!(text.lines().any(|line| line == format!("{round} {n}")), "lost {round} {n}");
        }
        assert_eq!(fs::read_to_string(rig.at("state")).unwrap(), format!("state {round}"));
    }
}

/// What nobody asks to be stable: names, small appends, and files too `large` for a record. One thread makes one after
/// another and notes when each call had returned.
fn make_until(rig: &Rig, end: Instant, large: bool) -> Vec<(Instant, String)> {
    let mut made = Vec::new();
    let mut log = OpenOptions::new().append(true).create(true).open(rig.at("log")).unwrap();
    for n in 0.. {
        let name = match n % 20 {
            0 if large => {
                let name = format!("large{n}");
                fs::write(rig.at(&name), vec![7; LARGE]).unwrap();
                name
            }
            5 | 10 | 15 => {
                let name = format!("small{n}");
                fs::write(rig.at(&name), "x").unwrap();
                name
            }
            _ => {
                writeln!(log, "line{n};").unwrap();
                format!("line{n};")
            }
        };
        made.push((Instant::now(), name));
        if Instant::now() >= end {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    made
}

/// Bytes of a file that does not go into a record of the log.
const LARGE: usize = 200_000;

/// The mount is killed at the worst moments of the timer, which runs since the mount, also where somebody else's fsync
/// came just before it ended: that must not begin the second anew for those who do not ask.
#[test]
fn what_was_written_is_stable_within_a_second_without_being_asked_for() {
    if !can_mount("what_was_written_is_stable_within_a_second_without_being_asked_for") {
        return;
    }
    let mut rig = Rig::mounted();
    let mut oldest = Duration::ZERO;
    // When others call fsync, and when the kill comes, in milliseconds since the mount.
    let often: Vec<u64> = (1..39).map(|n| n * 50).collect();
    let rounds: [(&[u64], u64); 8] = [
        (&[], 780),
        (&[], 1_580),
        (&[], 1_750),
        (&[700], 1_450),
        (&[350, 700], 1_480),
        (&[700, 1_500], 2_250),
        (&[850, 1_700], 2_500),
        (&often, 1_950),
    ];
    for (syncs, kill_at) in rounds {
        rig.terminate();
        rig.mount();
        let mounted = Instant::now();
        let other = writable(&rig.at("other"));
        let made = std::thread::scope(|scope| {
            scope.spawn(move || {
                for at in syncs {
                    let at = mounted + Duration::from_millis(*at);
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
                    other.write_all_at(b"y", 0).unwrap();
                    other.sync_all().unwrap();
                }
            });
            // A large file has the small ones written beside it, long before the timer.
            make_until(&rig, mounted + Duration::from_millis(kill_at), syncs.is_empty())
        });
        let killed = Instant::now();
        rig.kill();
        rig.mount();
        let log = fs::read_to_string(rig.at("log")).unwrap_or_default();
        let kept = |name: &str| match name.strip_prefix("large") {
            Some(_) => fs::read(rig.at(name)).is_ok_and(|content| content == vec![7; LARGE]),
            None if name.starts_with("small") => fs::read(rig.at(name)).is_ok_and(|content| content == b"x"),
            None => log.contains(name),
        };
        let lost = made.iter().filter(|(_, name)| !kept(name)).map(|(at, _)| killed - *at).max();
        let lost = lost.unwrap_or_default();
        say(&format!(
            "timer: fsync beside at {syncs:?}, killed at {kill_at} ms: lost the last {} ms",
            lost.as_millis()
        ));
        oldest = oldest.max(lost);
        for name in made.iter().map(|(_, name)| name).filter(|name| !name.starts_with("line")) {
            let _ = fs::remove_file(rig.at(name));
        }
        let _ = fs::remove_file(rig.at("log"));
    }
    assert!(oldest <= Duration::from_secs(1), "a write {oldest:?} before the kill was lost");
}

#[test]
fn the_helper_of_mount_8_is_silent_returns_when_the_mount_answers_and_applies_its_options() {
    if !can_mount("the_helper_of_mount_8_is_silent_returns_when_the_mount_answers_and_applies_its_options") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::write(rig.at("f"), "here").unwrap();
    rig.terminate();
    let before = fs::read(rig.image()).unwrap();
    let helper = rig.root.join("mount.fuse.twinfs");
    std::os::unix::fs::symlink(PROGRAM, &helper).unwrap();
    let call = |args: &[&str]| Command::new(&helper).args(args).current_dir(&rig.root).output().unwrap();
    let done =
        call(&["image", "mnt", "-n", "-o", "ro,nosuid,noatime,_netdev,nofail,x-systemd.mount-timeout=9"]);
    assert!(done.status.success() && done.stdout.is_empty() && done.stderr.is_empty(), "{done:?}");
    assert_eq!(fs::read(rig.at("f")).unwrap(), b"here");
    assert_eq!(errno(File::create(rig.at("g"))), nix::errno::Errno::EROFS as i32);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let line = mounts.lines().find(|l| l.contains(rig.mnt().to_str().unwrap())).unwrap();
    assert!(line.starts_with("image ") && line.contains(" fuse.twinfs "), "{line}");
    assert!(line.contains("ro,nosuid,noatime"), "{line}");
    let ended = rig.twinfs(&["umount", "mnt"]);
    assert!(ended.status.success() && !rig.is_mounted(), "{ended:?}");
    wait_until("the daemon to let go", || rig.twinfs(&["mkfs", "-f", "-n", "image"]).status.success());
    assert!(before == fs::read(rig.image()).unwrap(), "a read-only mount changed the image");
    // Again, read-write, at once after the unmount: the lock of a leaving daemon is waited for.
    for n in 0..3 {
        let done = call(&["image", "mnt", "-o", "rw"]);
        assert!(done.status.success(), "{done:?}");
        fs::write(rig.at("n"), n.to_string()).unwrap();
        assert!(rig.twinfs(&["umount", "mnt"]).status.success());
    }
    assert!(call(&["image", "mnt"]).status.success());
    assert_eq!(fs::read(rig.at("n")).unwrap(), b"2");
    assert!(rig.twinfs(&["umount", "--force", "mnt"]).status.success());
    let wrong = call(&["image", "mnt", "-o", "quux"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("quux"), "{wrong:?}");
}

#[test]
fn a_mount_point_with_files_and_a_missing_image_are_refused_in_one_line() {
    if !can_mount("a_mount_point_with_files_and_a_missing_image_are_refused_in_one_line") {
        return;
    }
    let rig = Rig::new();
    fs::create_dir_all(rig.root.join("full/x")).unwrap();
    for (image, dir, word) in
        [("image", "full", "not empty"), ("image", "image", "not a directory"), ("nothing", "mnt", "nothing")]
    {
        let refused = rig.twinfs(&["mount", "--standalone", image, dir]);
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(32), "{text}");
        assert!(text.contains(word) && text.lines().count() == 1, "{text}");
    }
    let again = rig.twinfs(&["mkfs", "image"]);
    assert!(!again.status.success(), "an image is not overwritten unasked");
}

#[test]
fn going_down_keeps_what_was_done_and_answers_errors_until_the_next_mount() {
    if !can_mount("going_down_keeps_what_was_done_and_answers_errors_until_the_next_mount") {
        return;
    }
    let mut rig = Rig::mounted();
    fs::write(rig.at("before"), "kept").unwrap();
    let root = File::open(rig.mnt()).unwrap();
    nix::ioctl_read!(going_down, b'X', 125, u32);
    let mut flag = 0;
    // SAFETY: the request takes a pointer to a 32-bit word, which outlives the call.
    unsafe { going_down(root.as_raw_fd(), &raw mut flag) }.unwrap();
    assert_eq!(errno(File::create(rig.at("after"))), nix::errno::Errno::EIO as i32);
    drop(root);
    rig.terminate();
    rig.mount();
    assert_eq!(fs::read(rig.at("before")).unwrap(), b"kept");
    assert!(!rig.at("after").exists());
}

#[test]
fn an_immutable_file_is_immutable() {
    if !can_mount("an_immutable_file_is_immutable") {
        return;
    }
    let rig = Rig::mounted();
    fs::write(rig.at("f"), "x").unwrap();
    let chattr = |what: &str| Command::new("chattr").arg(what).arg(rig.at("f")).status().unwrap().success();
    assert!(chattr("+i"));
    assert_eq!(errno(fs::remove_file(rig.at("f"))), nix::errno::Errno::EPERM as i32);
    assert!(fs::write(rig.at("f"), "y").is_err());
    assert!(chattr("-i"));
    fs::remove_file(rig.at("f")).unwrap();
}
