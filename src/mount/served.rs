//! What the requests share: who asks and when, answers that wait for a commit, writes that wait for room.
//!
//! Decides which answers wait. Does not know the layout of requests. Invariant: a write at the dirty limit is kept
//! whole with its reply until there is room; it is never answered short.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    Generation, INodeNo, OpenFlags, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyWrite, Request,
};

use crate::base::Ino;
use crate::fs::{Ctx, DirItem, Fallocate, FilePart, Fs, FsError, Node, Ticket};
use crate::sys::wake::Awake;

use super::attr::{attr, from_clock};
use super::commits::Answer;
use super::desk::Desk;
use super::errno::errno;
use super::park::Parking;
use super::threads::FsThreads;
use super::worker::{self, Watched};

/// Nobody else changes the tree while we serve it, so the kernel may keep what it knows.
pub(super) const TTL: Duration = Duration::from_secs(10 * 365 * 86_400);
const O_DIRECT: i32 = nix::fcntl::OFlag::O_DIRECT.bits();
/// A write of this many bytes is one of a stream.
const STREAM: usize = 256 << 10;
/// Directory entries fetched at once: for a reply of one page, and at most.
const LISTING_FIRST: usize = 32;
const LISTING_MAX: usize = 512;
/// Between two tries of a write that found no room although writeback ran.
const ROOM_WAIT: Duration = Duration::from_millis(5);

/// A file system with its threads, as requests see it.
pub(super) struct Served {
    pub(super) fs: Arc<Fs>,
    pub(super) threads: Arc<FsThreads>,
    /// Every write is answered only when it is stable.
    pub(super) strict_writes: bool,
    /// Every change of a name is answered only when it is stable.
    pub(super) dir_sync: Arc<AtomicBool>,
    /// Asked before every answer; `None`: nobody can take the right to serve away.
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) watched: Arc<Watched>,
    pub(super) awake: Arc<Awake>,
    pub(super) parking: Arc<Parking>,
    /// How the mount is handed on; `None`: not by itself.
    pub(super) desk: Option<Arc<Desk>>,
}

/// Whether an answer may be given at this moment.
pub trait Gate: Send + Sync {
    /// Waits while that is open; `false`: never again, answer with an error.
    fn pass(&self) -> bool;
}

/// What was found or done, if the gate still lets it out. Asked after the data was taken: an answer is never older than
/// the right to give it.
pub(super) fn vouch<T>(gate: Option<&Arc<dyn Gate>>, outcome: Result<T, FsError>) -> Result<T, FsError> {
    match gate {
        Some(gate) if !gate.pass() => Err(FsError::Io("this node may not serve any more".to_string())),
        _ => outcome,
    }
}

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn reply_entry(outcome: Result<Node, FsError>, reply: ReplyEntry) {
    match outcome {
        Ok(node) => reply.entry(&TTL, &attr(&node), Generation(u64::from(node.rec.generation))),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_empty(outcome: Result<(), FsError>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_written(outcome: Result<usize, FsError>, reply: ReplyWrite) {
    match outcome {
        Ok(bytes) => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Served {
    pub(super) fn vouch<T>(&self, outcome: Result<T, FsError>) -> Result<T, FsError> {
        vouch(self.gate.as_ref(), outcome)
    }

    /// Runs one request. After a panic memory is not trusted: no more changes.
    pub(super) fn guarded(&self, body: impl FnOnce(&Served)) {
        let _inside = self.parking.enter();
        let _caught_here = worker::enter(&self.watched);
        self.awake.asked();
        self.caught(body);
    }

    fn caught(&self, body: impl FnOnce(&Served)) {
        if catch_unwind(AssertUnwindSafe(|| body(self))).is_err() {
            self.fs.distrust();
            tracing::error!("a request failed inside twinfs; the file system is read-only now");
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a shell: reads the clock")]
    pub(super) fn ctx(&self, req: &Request, umask: u32) -> Ctx {
        Ctx { uid: req.uid(), gid: req.gid(), pid: req.pid(), umask, now: from_clock(SystemTime::now()) }
    }

    /// Answers a change of names: at once, or with `dirsync` when it is stable.
    pub(super) fn after_change(&self, answer: impl FnOnce(Result<(), FsError>) + Send + 'static) {
        if let Err(error) = self.vouch(Ok(())) {
            return answer(Err(error));
        }
        if !self.dir_sync.load(Ordering::Relaxed) {
            return answer(Ok(()));
        }
        match self.fs.fsync_names() {
            Ok(ticket) => when_stable(&self.threads, self.gate.clone(), ticket, answer),
            Err(error) => answer(Err(error)),
        }
    }

    /// Calls `answer` once everything done so far is stable, the content of files included.
    pub(super) fn when_all_is_stable(&self, answer: impl FnOnce(Result<(), FsError>) + Send + 'static) {
        match self.fs.fsync_all() {
            Ok(ticket) => when_stable(&self.threads, self.gate.clone(), ticket, answer),
            Err(error) => answer(Err(error)),
        }
    }

    pub(super) fn made(&self, outcome: Result<Node, FsError>, reply: ReplyEntry) {
        match outcome {
            Ok(node) => self.after_change(move |stable| reply_entry(stable.map(|()| node), reply)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn changed(&self, outcome: Result<(), FsError>, reply: ReplyEmpty) {
        match outcome {
            Ok(()) => self.after_change(move |stable| reply_empty(stable, reply)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(super) fn fsync(&self, ticket: Result<Ticket, FsError>, reply: ReplyEmpty) {
        match ticket {
            Ok(ticket) => {
                let answer = move |stable| reply_empty(stable, reply);
                when_stable(&self.threads, self.gate.clone(), ticket, answer);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// O_DIRECT, and every write under `strict_writes`, is answered when stable; O_SYNC sends its own FSYNC.
    #[allow(clippy::too_many_arguments, reason = "the fields of one request")]
    pub(super) fn write(
        &self,
        ctx: Ctx,
        ino: Ino,
        offset: u64,
        data: &[u8],
        drop_set_id: bool,
        flags: OpenFlags,
        reply: ReplyWrite,
    ) {
        let stable = self.strict_writes || flags.0 & O_DIRECT != 0;
        let len = data.len();
        let outcome = self.fs.write(&ctx, ino, offset, data, drop_set_id);
        if len >= STREAM {
            self.threads.write_back_soon();
        }
        match outcome {
            Err(FsError::WouldBlock | FsError::NoSpace) => {
                let data = data.to_vec();
                self.when_there_is_room(
                    move |fs| fs.write(&ctx, ino, offset, &data, drop_set_id).map(|()| len),
                    move |room, written| answer_write(room, ino, written, stable, reply),
                );
            }
            other => {
                let written = self.vouch(other.map(|()| len));
                let room = Room { fs: &self.fs, threads: &self.threads, gate: self.gate.clone() };
                answer_write(room, ino, written, stable, reply);
            }
        }
    }

    pub(super) fn fallocate(
        &self,
        ctx: Ctx,
        ino: Ino,
        offset: u64,
        len: u64,
        how: Fallocate,
        reply: ReplyEmpty,
    ) {
        match self.fs.fallocate(&ctx, ino, offset, len, how) {
            Err(FsError::WouldBlock | FsError::NoSpace) => self.when_there_is_room(
                move |fs| fs.fallocate(&ctx, ino, offset, len, how).map(|()| 0),
                move |_, done| reply_empty(done.map(|_| ()), reply),
            ),
            other => reply_empty(self.vouch(other), reply),
        }
    }

    /// A copy reads, so it may wait for the disk: it never runs on a thread that reads requests.
    pub(super) fn copy(&self, ctx: Ctx, from: FilePart, to: FilePart, len: u64, reply: ReplyWrite) {
        self.when_there_is_room(
            move |fs| fs.copy_range(&ctx, from, to, len).map(|n| usize::try_from(n).unwrap_or(0)),
            move |_, done| reply_written(done, reply),
        );
    }

    /// Tries `attempt` on the slow thread until it does not meet the dirty limit, then gives its outcome to `answer`. A
    /// full volume is asked once more after a checkpoint, which makes freed space usable.
    fn when_there_is_room(
        &self,
        mut attempt: impl FnMut(&Fs) -> Result<usize, FsError> + Send + 'static,
        answer: impl FnOnce(Room<'_>, Result<usize, FsError>) + Send + 'static,
    ) {
        let fs = Arc::clone(&self.fs);
        let threads = Arc::clone(&self.threads);
        let gate = self.gate.clone();
        self.threads.slowly(Box::new(move || {
            let mut cleaned = false;
            let outcome = loop {
                match attempt(&fs) {
                    Err(FsError::NoSpace) if !cleaned => {
                        cleaned = true;
                        // What cannot be freed now is no reason not to look for room elsewhere.
                        let _ = fs.reap();
                        let room = fs.store().sync().and_then(|()| fs.store().checkpoint());
                        if let Err(error) = room {
                            break Err(error);
                        }
                    }
                    Err(FsError::WouldBlock) => {
                        if let Err(error) = fs.store().writeback(false) {
                            break Err(error);
                        }
                        std::thread::park_timeout(ROOM_WAIT);
                    }
                    other => break other,
                }
            };
            let outcome = vouch(gate.as_ref(), outcome);
            answer(Room { fs: &fs, threads: &threads, gate }, outcome);
        }));
    }

    /// Calls `add` with the entries of a directory until it answers that no more fit. How many do is not known before:
    /// a few are fetched at first, then more and more.
    pub(super) fn list(
        &self,
        dir: Ino,
        mut after: u64,
        mut add: impl FnMut(&DirItem) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        let mut count = LISTING_FIRST;
        loop {
            let items = self.vouch(self.fs.readdir(dir, after, count))?;
            for item in &items {
                if add(item)? {
                    return Ok(());
                }
                after = item.cookie;
            }
            if items.len() < count {
                return Ok(());
            }
            count = (count * 2).min(LISTING_MAX);
        }
    }

    /// Fills a listing with attributes; every entry in it but `.` and `..` counts as a look-up.
    pub(super) fn list_with_attributes(
        &self,
        dir: Ino,
        after: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<(), FsError> {
        self.list(dir, after, |item| {
            let node = match self.fs.getattr(item.ino) {
                // The name went away since it was listed.
                Err(FsError::Stale) => return Ok(false),
                other => other?,
            };
            let generation = Generation(u64::from(node.rec.generation));
            let name = OsStr::from_bytes(&item.name);
            if reply.add(INodeNo(item.ino.0), item.cookie, name, &TTL, &attr(&node), generation) {
                return Ok(true);
            }
            if item.name != b"." && item.name != b".." {
                self.fs.remember(item.ino);
            }
            Ok(false)
        })
    }
}

/// What an answer needs that may have to wait for a commit.
struct Room<'a> {
    fs: &'a Fs,
    threads: &'a FsThreads,
    gate: Option<Arc<dyn Gate>>,
}

/// Calls `answer` once `ticket` is stable and the gate lets it out.
fn when_stable(
    threads: &FsThreads,
    gate: Option<Arc<dyn Gate>>,
    ticket: Ticket,
    answer: impl FnOnce(Result<(), FsError>) + Send + 'static,
) {
    threads.when_stable(ticket, let_out(gate, answer));
}

/// `answer` behind the gate. A process that was stopped while its peer had acknowledged already finds the commit done
/// when it wakes, long after another node took over: what is stable is still not an answer that it may give.
fn let_out(gate: Option<Arc<dyn Gate>>, answer: impl FnOnce(Result<(), FsError>) + Send + 'static) -> Answer {
    Box::new(move |stable| answer(stable.and_then(|()| vouch(gate.as_ref(), Ok(())))))
}

fn answer_write(room: Room<'_>, ino: Ino, written: Result<usize, FsError>, stable: bool, reply: ReplyWrite) {
    match written {
        Ok(bytes) if stable => match room.fs.fsync(ino, true) {
            Ok(ticket) => {
                let answer = move |done: Result<(), FsError>| reply_written(done.map(|()| bytes), reply);
                when_stable(room.threads, room.gate, ticket, answer);
            }
            Err(error) => reply.error(errno(&error)),
        },
        other => reply_written(other, reply),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests with threads and time")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;
    use crate::base::KeepAwake;
    use crate::fs::{Atime, Store};

    struct Shut;

    impl Gate for Shut {
        fn pass(&self) -> bool {
            false
        }
    }

    /// W23: what is stable is no answer for a node that may not serve any more.
    #[test]
    fn paused_owner_late_replies() {
        let fs = Arc::new(Fs::new(Store::for_tests(), Atime::Never));
        let threads = FsThreads::start(Arc::clone(&fs)).unwrap();
        let answered = |gate: Option<Arc<dyn Gate>>| {
            let (tell, told) = channel();
            when_stable(&threads, gate, fs.fsync_all().unwrap(), move |done| tell.send(done).unwrap());
            told.recv().unwrap()
        };
        assert_eq!(answered(None), Ok(()));
        assert!(answered(Some(Arc::new(Shut))).is_err());
    }

    /// A change may be half done in memory when a part of the program panics: it must not become a record.
    #[test]
    fn after_a_panic_the_file_system_is_read_only_and_nothing_of_memory_reaches_the_disk() {
        for worker in [true, false] {
            let fs = Arc::new(Fs::new(Store::for_tests(), Atime::Never));
            let threads = Arc::new(FsThreads::start(Arc::clone(&fs)).unwrap());
            let served = Served {
                fs: Arc::clone(&fs),
                threads: Arc::clone(&threads),
                strict_writes: false,
                dir_sync: Arc::default(),
                gate: None,
                watched: Watched::new(Arc::clone(&fs), std::path::PathBuf::from("/nowhere")),
                awake: Awake::new(KeepAwake::Off),
                parking: Arc::default(),
                desk: None,
            };
            let ctx = Ctx::default();
            fs.create(&ctx, Ino::ROOT, b"before", 0o644).unwrap();
            if worker {
                served.caught(|_| panic!("a request panics"));
            } else {
                threads.read(Box::new(|| panic!("a thread panics")));
                while fs.create(&ctx, Ino::ROOT, b"x", 0o644) != Err(FsError::ReadOnly) {
                    std::thread::yield_now();
                    let _ = fs.unlink(&ctx, Ino::ROOT, b"x");
                }
            }
            assert!(matches!(fs.create(&ctx, Ino::ROOT, b"after", 0o644), Err(FsError::ReadOnly)));
            assert!(fs.lookup(Ino::ROOT, b"before").is_ok(), "reading goes on");
            let (tell, told) = channel();
            when_stable(&threads, None, fs.fsync_all().unwrap(), move |done| tell.send(done).unwrap());
            assert!(told.recv().unwrap().is_err(), "an fsync is never a success again");
            for outcome in [fs.store().commit().map(|_| ()), fs.store().checkpoint(), fs.store().sync()] {
                assert_eq!(outcome, Err(FsError::ReadOnly));
            }
        }
    }

    const FSYNCS: usize = 400;

    /// The 99th percentile of one small fsync every 2 ms.
    fn p99(fs: &Arc<Fs>, threads: &Arc<FsThreads>, ino: Ino) -> Duration {
        let mut took: Vec<Duration> = Vec::new();
        for n in 0..FSYNCS {
            std::thread::sleep(Duration::from_millis(2));
            fs.write(&Ctx::default(), ino, (n as u64 % 64) * 4096, &[n as u8; 4096], false).unwrap();
            let begun = Instant::now();
            let (tell, told) = channel();
            threads.when_stable(fs.fsync(ino, true).unwrap(), Box::new(move |done| tell.send(done).unwrap()));
            told.recv().unwrap().unwrap();
            took.push(begun.elapsed());
        }
        took.sort();
        took[FSYNCS * 99 / 100]
    }

    /// Ends the stream however the measuring ends.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// p99 of a small fsync alone and beside a stream, and the MiB that were streamed meanwhile.
    fn alone_and_beside_a_stream(drag_all: bool) -> (Duration, Duration, u64) {
        let path = std::env::temp_dir().join(format!("twinfs-p99-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let store = crate::cli::standalone::tests::fresh_store(&path, 2 << 30);
        store.drag_everything(drag_all);
        let fs = Arc::new(Fs::new(store, Atime::Never));
        let threads = Arc::new(FsThreads::start(Arc::clone(&fs)).unwrap());
        let ctx = Ctx::default();
        let mail = fs.create(&ctx, Ino::ROOT, b"mail", 0o600).unwrap().ino;
        let stream = fs.create(&ctx, Ino::ROOT, b"stream", 0o600).unwrap().ino;
        let alone = p99(&fs, &threads, mail);
        let stop = AtomicBool::new(false);
        let (beside, bytes) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (chunk, mut bytes) = (vec![7; 1 << 20], 0u64);
                while !stop.load(Ordering::Relaxed) {
                    match fs.write(&ctx, stream, bytes % (1 << 30), &chunk, false) {
                        Ok(()) => bytes += 1 << 20,
                        Err(FsError::WouldBlock) => fs.store().writeback(false).unwrap(),
                        Err(error) => panic!("{error}"),
                    }
                }
                bytes
            });
            let stopped = Stop(&stop);
            let beside = p99(&fs, &threads, mail);
            drop(stopped);
            (beside, writer.join().unwrap())
        });
        let _ = std::fs::remove_file(&path);
        (alone, beside, bytes >> 20)
    }

    /// S1, S5: a small fsync beside a writer that streams takes at most three times as long as alone. By the clock, so
    /// only on request (the runner counts it as ignored); `fs::tests` counts what is written instead.
    #[test]
    #[ignore = "by the clock, on a quiet machine: cargo test --release --lib fsync_4k_beside -- --ignored"]
    fn fsync_4k_beside_streaming_writer_p99() {
        let (alone, beside, streamed) = alone_and_beside_a_stream(false);
        println!("p99 alone {alone:?}, beside {streamed} MiB streamed {beside:?}");
        let limit = 3 * alone.max(Duration::from_millis(1));
        assert!(beside <= limit, "alone {alone:?}, beside a stream {beside:?}");
        let (_, dragged, _) = alone_and_beside_a_stream(true);
        println!("p99 when every fsync drags everything along: {dragged:?}");
        assert!(dragged > limit, "nothing notices that the rule is off: {dragged:?}");
    }
}
