//! Another program goes on with a mount: applications wait for a moment and see no error, and whatever goes wrong ends
//! as a crash does.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test with real programs, files and time"
)]

mod harness;

use std::fs::{self, File, OpenOptions, ReadDir};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::{need, say, wait_for};
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

const PROGRAM: &str = env!("CARGO_BIN_EXE_twinfs");
const UPGRADES: usize = 5;
/// Names in the directory that is being listed: several fillings of a reader's buffer, so that every upgrade falls
/// between two requests of one listing.
const NAMES: usize = 9_000;

/// An image with its mount, served in the foreground.
struct Rig {
    root: PathBuf,
    child: Option<Child>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    fn mounted(options: &str) -> Rig {
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let root = std::env::temp_dir().join(format!("twinfs-upgrade-{}-{number}", std::process::id()));
        fs::create_dir_all(root.join("mnt")).unwrap();
        let mut rig = Rig { root, child: None };
        let made = Command::new(PROGRAM).args(["mkfs", "-q"]).arg(rig.image()).arg("256M").status().unwrap();
        assert!(made.success());
        rig.mount(options);
        rig
    }

    fn image(&self) -> PathBuf {
        self.root.join("image")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join("mnt").join(name)
    }

    fn mount(&mut self, options: &str) {
        let mut command = Command::new(PROGRAM);
        // Relative, as an administrator types it: the successor must not depend on where it runs.
        command.current_dir(&self.root).args(["mount", "--standalone", "-F", "-o", options, "image", "mnt"]);
        self.child = Some(command.stdin(Stdio::null()).spawn().unwrap());
        let there = || twinfs::sys::mount::mounted_at(&self.at("").parent().unwrap().join("mnt"));
        assert!(wait_for(Duration::from_secs(40), || {
            there().unwrap().is_some() && nix::sys::statvfs::statvfs(&self.root.join("mnt")).is_ok()
        }));
    }

    fn upgrade(&self, program: &Path) -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["--json", "upgrade", "--program"]).arg(program).arg(self.root.join("mnt"));
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn terminate(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// A program that says it can go on, and then does this.
    fn script(&self, body: &str) -> PathBuf {
        let path = self.root.join("successor");
        fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = upgrade ] && exit 0\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[track_caller]
    fn check(&self) {
        let program = Path::new(PROGRAM).with_file_name("fsck-twinfs");
        let found = Command::new(program).arg("-n").arg(self.image()).output().unwrap();
        assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        while matches!(twinfs::sys::mount::mounted_at(&self.root.join("mnt")), Ok(Some(_))) {
            if twinfs::sys::mount::detach(&self.root.join("mnt")).is_err() {
                break;
            }
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Applications that never stop; the first error ends one of them.
struct Crowd {
    stop: Arc<AtomicBool>,
    errors: Arc<Mutex<Vec<String>>>,
    longest: Arc<Mutex<Duration>>,
    threads: Vec<JoinHandle<u64>>,
}

impl Crowd {
    fn start(dir: &Path) -> Crowd {
        let stop = Arc::default();
        let mut crowd = Crowd { stop, errors: Arc::default(), longest: Arc::default(), threads: Vec::new() };
        let base = dir.to_path_buf();
        for n in 0..2 {
            let mut log = open(&base.join(format!("log{n}")));
            crowd.add("append and fsync", move |round| {
                log.write_all(&round.to_le_bytes())?;
                log.sync_all()
            });
        }
        let place = base.clone();
        crowd.add("make, rename and remove", move |round| {
            let [new, old] = ["new", "old"].map(|name| place.join(name));
            let mut file = File::options().write(true).create_new(true).open(&new)?;
            file.write_all(&round.to_le_bytes())?;
            fs::rename(&new, &old)?;
            fs::hard_link(&old, place.join("link"))?;
            fs::create_dir(place.join("folder"))?;
            fs::remove_dir(place.join("folder"))?;
            fs::remove_file(place.join("link"))?;
            fs::remove_file(&old)
        });
        let shared = open(&base.join("pages"));
        crowd.add("write and read back", move |round| {
            let (at, page) = (round % 512 * 4096, vec![round as u8; 4096]);
            shared.write_all_at(&page, at)?;
            let mut back = vec![0; 4096];
            shared.read_exact_at(&mut back, at)?;
            if back == page { Ok(()) } else { Err(std::io::Error::other("something else was read")) }
        });
        crowd.add("list and look", move |_| {
            let names = fs::read_dir(base.join("many"))?.take(50);
            names.into_iter().try_for_each(|entry| entry?.metadata().map(|_| ()))?;
            nix::sys::statvfs::statvfs(&base).map(|_| ()).map_err(Into::into)
        });
        crowd
    }

    fn add(&mut self, what: &'static str, mut work: impl FnMut(u64) -> std::io::Result<()> + Send + 'static) {
        let (stop, errors, longest) =
            (Arc::clone(&self.stop), Arc::clone(&self.errors), Arc::clone(&self.longest));
        self.threads.push(std::thread::spawn(move || {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return round;
                }
                let began = Instant::now();
                if let Err(error) = work(round) {
                    errors.lock().unwrap().push(format!("{what}, round {round}: {error}"));
                    return round;
                }
                let mut longest = longest.lock().unwrap();
                *longest = longest.max(began.elapsed());
            }
            0
        }));
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.errors.lock().unwrap().is_empty(), "{:?}", self.errors.lock().unwrap());
    }

    fn longest(&self) -> Duration {
        std::mem::take(&mut self.longest.lock().unwrap())
    }

    #[track_caller]
    fn end(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let errors = Arc::clone(&self.errors);
        let rounds = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(errors.lock().unwrap().is_empty(), "{:?}", errors.lock().unwrap());
        rounds
    }
}

/// What applications hold open over the upgrades.
struct Holdings {
    listing: ReadDir,
    seen: Vec<String>,
    nameless: File,
    temporary: File,
    content: File,
    flock: Flock<File>,
    range: File,
    sqlite: Child,
    statements: ChildStdin,
    dir: PathBuf,
}

fn whole_file_lock(kind: i32) -> nix::libc::flock {
    nix::libc::flock { l_type: kind as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 }
}

impl Holdings {
    fn take(dir: &Path) -> Holdings {
        fs::create_dir(dir.join("many")).unwrap();
        for n in 0..NAMES {
            File::create(dir.join(format!("many/a-name-of-some-length-{n:06}"))).unwrap();
        }
        let mut nameless = open(&dir.join("nameless"));
        nameless.write_all(&vec![7; 1 << 20]).unwrap();
        fs::remove_file(dir.join("nameless")).unwrap();
        let mut temporary = open(&dir.join("temporary"));
        temporary.write_all(b"not synced before the upgrade").unwrap();
        fs::remove_file(dir.join("temporary")).unwrap();
        fs::write(dir.join("content"), vec![42; 3 << 20]).unwrap();
        let flock = Flock::lock(open(&dir.join("flock")), FlockArg::LockExclusiveNonblock).unwrap();
        let range = open(&dir.join("range"));
        fcntl(&range, FcntlArg::F_OFD_SETLK(&whole_file_lock(nix::libc::F_WRLCK))).unwrap();
        let mut sqlite = sqlite(dir).spawn().unwrap();
        let mut statements = sqlite.stdin.take().unwrap();
        let begin =
            "CREATE TABLE t (n INTEGER); BEGIN EXCLUSIVE; INSERT INTO t VALUES (1);\n.shell touch begun\n";
        statements.write_all(begin.as_bytes()).unwrap();
        assert!(wait_for(Duration::from_secs(20), || dir.join("begun").exists()));
        let listing = fs::read_dir(dir.join("many")).unwrap();
        let content = File::open(dir.join("content")).unwrap();
        let dir = dir.to_path_buf();
        Holdings {
            listing,
            seen: Vec::new(),
            nameless,
            temporary,
            content,
            flock,
            range,
            sqlite,
            statements,
            dir,
        }
    }

    fn list(&mut self, count: usize) {
        let names = self.listing.by_ref().take(count);
        self.seen.extend(names.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    }

    #[track_caller]
    fn check(&mut self, round: usize) {
        self.list(NAMES / UPGRADES);
        let mut all = Vec::new();
        self.nameless.seek(SeekFrom::Start(0)).unwrap();
        self.nameless.read_to_end(&mut all).unwrap();
        assert!(all.len() == 1 << 20 && all.iter().all(|byte| *byte == 7 + round as u8), "upgrade {round}");
        self.nameless.write_all_at(&vec![8 + round as u8; 1 << 20], 0).unwrap();
        let mut text = vec![0; 29];
        self.temporary.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(text, b"not synced before the upgrade");
        nix::fcntl::posix_fadvise(&self.content, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .unwrap();
        all.clear();
        self.content.seek(SeekFrom::Start(0)).unwrap();
        self.content.read_to_end(&mut all).unwrap();
        assert!(all.len() == 3 << 20 && all.iter().all(|byte| *byte == 42));
        let other = Flock::lock(open(&self.dir.join("flock")), FlockArg::LockExclusiveNonblock);
        assert!(other.is_err(), "upgrade {round}: the flock is gone");
        let range = open(&self.dir.join("range"));
        let taken = fcntl(&range, FcntlArg::F_OFD_SETLK(&whole_file_lock(nix::libc::F_WRLCK)));
        assert!(taken.is_err(), "upgrade {round}: the lock of a range is gone");
        // Its transaction is locked with POSIX locks.
        let other = sqlite(&self.dir).arg("INSERT INTO t VALUES (99);").output().unwrap();
        assert!(String::from_utf8_lossy(&other.stderr).contains("locked"), "upgrade {round}: {other:?}");
        self.statements.write_all(format!("INSERT INTO t VALUES ({});\n", round + 2).as_bytes()).unwrap();
    }

    #[track_caller]
    fn end(mut self) {
        self.list(usize::MAX);
        let mut once = self.seen.clone();
        once.sort();
        once.dedup();
        assert_eq!((self.seen.len(), once.len()), (NAMES, NAMES), "names are missing or came twice");
        self.statements.write_all(b"COMMIT;\n.quit\n").unwrap();
        drop(self.statements);
        assert!(self.sqlite.wait().unwrap().success());
        let sum = sqlite(&self.dir).arg("SELECT count(*), max(n) FROM t; PRAGMA integrity_check;").output();
        let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
        assert_eq!(sum, format!("{}|{}\nok\n", UPGRADES + 1, UPGRADES + 1));
        drop(self.flock);
        assert!(Flock::lock(open(&self.dir.join("flock")), FlockArg::LockExclusiveNonblock).is_ok());
        drop(self.range);
    }
}

fn sqlite(dir: &Path) -> Command {
    let mut command = Command::new("sqlite3");
    command.current_dir(dir).args(["-bail", "base"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn standalone(options: &str) {
    let mut rig = Rig::mounted(options);
    let dir = rig.root.join("mnt");
    let free = |rig: &Rig| nix::sys::statvfs::statvfs(&rig.root.join("mnt")).unwrap().blocks_free();
    let before = free(&rig);
    let mut holdings = Holdings::take(&dir);
    let crowd = Crowd::start(&dir);
    let pid = rig.child.as_ref().unwrap().id();
    for round in 0..UPGRADES {
        std::thread::sleep(Duration::from_millis(300));
        crowd.check();
        let usual = crowd.longest();
        let done = rig.upgrade(Path::new(PROGRAM));
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{text} {}", String::from_utf8_lossy(&done.stderr));
        let json: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
        holdings.check(round);
        crowd.check();
        say(&format!(
            "{options}, upgrade {}: requests waited {} ms; longest round of an application {:?}, before {usual:?}",
            round + 1,
            json["pause_ms"],
            crowd.longest()
        ));
    }
    assert!(rig.child.as_mut().unwrap().try_wait().unwrap().is_none(), "process {pid} goes on");
    let rounds = crowd.end();
    assert!(rounds.iter().all(|count| *count > 20), "somebody hardly got on: {rounds:?}");
    for (n, count) in rounds[..2].iter().enumerate() {
        let log = fs::read(dir.join(format!("log{n}"))).unwrap();
        let expected: Vec<u8> = (0..*count).flat_map(u64::to_le_bytes).collect();
        assert!(log == expected, "log{n}");
    }
    holdings.end();
    fs::remove_dir_all(dir.join("many")).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    // What was open without a name is freed as ever: nothing is left but what the tables grew by.
    assert!(wait_for(Duration::from_secs(20), || free(&rig) + 2_000 > before), "{} of {before}", free(&rig));
    rig.terminate();
    rig.check();
}

#[test]
fn applications_see_no_error_in_five_upgrades_of_a_mount() {
    let name = "applications_see_no_error_in_five_upgrades_of_a_mount";
    if need::have_mounts(name, &[("sqlite3", "sqlite3")]) {
        standalone("threads=1");
        standalone("threads=4");
    }
}

#[test]
fn a_program_that_cannot_go_on_is_refused_and_nothing_stops() {
    if !need::have_mounts("a_program_that_cannot_go_on_is_refused_and_nothing_stops", &[]) {
        return;
    }
    let mut rig = Rig::mounted("rw");
    let mut file = open(&rig.at("file"));
    file.write_all(b"one").unwrap();
    for program in ["/bin/false", "/etc/passwd"] {
        let refused = rig.upgrade(Path::new(program));
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && text.contains(program), "{text}");
        file.write_all(b"more").unwrap();
        file.sync_all().unwrap();
    }
    let done = rig.upgrade(Path::new(PROGRAM));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    drop(file);
    rig.terminate();
    rig.check();
}

#[test]
fn a_successor_that_dies_ends_the_mount_as_a_crash_does() {
    if !need::have_mounts("a_successor_that_dies_ends_the_mount_as_a_crash_does", &[]) {
        return;
    }
    for body in ["kill -9 $$", "exit 3", "exec \"$0.real\" mount --kept 999999 image mnt"] {
        let mut rig = Rig::mounted("rw");
        fs::copy(PROGRAM, rig.root.join("successor.real")).unwrap();
        let mut file = open(&rig.at("file"));
        file.write_all(b"synced").unwrap();
        file.sync_all().unwrap();
        let done = rig.upgrade(&rig.script(body));
        assert!(!done.status.success(), "{body}");
        let error = file.write_all(b"more").and_then(|()| file.sync_all()).unwrap_err();
        let errno = error.raw_os_error().unwrap();
        let gone = [nix::errno::Errno::ENOTCONN as i32, nix::errno::Errno::ECONNABORTED as i32];
        assert!(gone.contains(&errno), "{body}: {error}");
        drop(file);
        rig.child.take().unwrap().wait().unwrap();
        rig.mount("rw");
        assert_eq!(fs::read(rig.at("file")).unwrap(), b"synced", "{body}");
        rig.terminate();
        rig.check();
    }
}
