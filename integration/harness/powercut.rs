//! A disk that loses power: one file `disk` served by FUSE from memory, whose writes are only promised after fsync.
//!
//! Writes go to a pending set; fsync moves it to the durable content. `cut` decides what became of the pending set,
//! freezes the durable content and sends later writes to a void that is still readable, so that whoever uses the disk
//! can be ended in any way. A flush after the cut is not answered before `release` or `restore`: nobody may take the
//! void's word for anything. `restore` throws the void away: what is then read is what the disk held after the cut.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, SessionACL, TimeOrNow, WriteFlags,
};

const SECTOR: usize = 512;
const BLOCK: u64 = 4096;

/// What happens to writes that were not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// None of them reached the disk.
    Drop,
    /// All of them did.
    Keep,
    /// Each 4 KiB block did or did not, by the seed.
    Random(u64),
    /// Each 512-byte sector did or did not: blocks are torn.
    Torn(u64),
}

#[derive(Default)]
struct State {
    size: u64,
    durable: BTreeMap<u64, Box<[u8]>>,
    /// Newest content of blocks that were not flushed, and, after a cut, the void.
    pending: BTreeMap<u64, Box<[u8]>>,
    off: bool,
    flushes: u64,
    /// Says that it flushed, and does not.
    lies: bool,
    /// Every read, write and flush is an error.
    dead: bool,
    /// The next write is, and no other.
    stumbles: bool,
    /// Whoever asked for stability after the cut.
    unanswered: Vec<Unanswered>,
}

enum Unanswered {
    Flush(ReplyEmpty),
    Write(ReplyWrite),
}

impl State {
    fn block(&self, number: u64) -> Option<&[u8]> {
        self.pending.get(&number).or_else(|| self.durable.get(&number)).map(|block| &**block)
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(len as u64));
        let mut out = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let inside = (at % BLOCK) as usize;
            let take = (BLOCK as usize - inside).min((end - at) as usize);
            match self.block(at / BLOCK) {
                Some(block) => out.extend_from_slice(&block[inside..inside + take]),
                None => out.resize(out.len() + take, 0),
            }
            at += take as u64;
        }
        out
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (number, inside) = (at / BLOCK, (at % BLOCK) as usize);
            let take = (BLOCK as usize - inside).min(rest.len());
            let mut block: Box<[u8]> =
                self.block(number).map_or_else(|| vec![0; BLOCK as usize].into(), |old| old.into());
            block[inside..inside + take].copy_from_slice(&rest[..take]);
            self.pending.insert(number, block);
            at += take as u64;
            rest = &rest[take..];
        }
        self.size = self.size.max(at);
    }

    fn flush(&mut self) {
        if !self.off && !self.lies {
            self.flushes += 1;
            self.durable.append(&mut self.pending);
        }
    }

    fn cut(&mut self, cut: Cut) {
        if self.off {
            return;
        }
        self.off = true;
        let mut dice = match cut {
            Cut::Random(seed) | Cut::Torn(seed) => seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            Cut::Drop | Cut::Keep => 1,
        };
        let mut even = || {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            dice >> 63 == 1
        };
        for (number, new) in &self.pending {
            match cut {
                Cut::Drop => {}
                Cut::Keep => drop(self.durable.insert(*number, new.clone())),
                Cut::Random(_) if even() => drop(self.durable.insert(*number, new.clone())),
                Cut::Random(_) => {}
                Cut::Torn(_) => {
                    let mixed = self.durable.entry(*number).or_insert_with(|| vec![0; BLOCK as usize].into());
                    for (old, fresh) in mixed.chunks_mut(SECTOR).zip(new.chunks(SECTOR)) {
                        if even() {
                            old.copy_from_slice(fresh);
                        }
                    }
                }
            }
        }
    }
}

/// The mounted disk. Unmounted when dropped.
pub struct PowerDisk {
    state: Arc<Mutex<State>>,
    dir: PathBuf,
    session: Option<BackgroundSession>,
}

impl PowerDisk {
    /// Mounts a disk of `size` bytes below `dir`; its file is `file()`.
    pub fn mount(dir: &Path, size: u64) -> PowerDisk {
        std::fs::create_dir_all(dir).expect("folder of the disk");
        let state = Arc::new(Mutex::new(State { size, ..State::default() }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("power-cut-disk".into()), MountOption::RW];
        config.acl = SessionACL::All;
        let session =
            fuser::spawn_mount(Server(state.clone()), dir, &config).expect("mounts the power-cut disk");
        PowerDisk { state, dir: dir.to_path_buf(), session: Some(session) }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("disk")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power goes: later writes reach nothing that `restore` keeps.
    pub fn cut(&self, cut: Cut) {
        self.state().cut(cut);
    }

    /// From now on nothing is flushed, whatever is answered.
    pub fn lie(&self) {
        self.state().lies = true;
    }

    /// From now on it does nothing but fail.
    pub fn die(&self) {
        self.state().dead = true;
    }

    /// The next write is an error, and everything after it works.
    pub fn stumble(&self) {
        self.state().stumbles = true;
    }

    /// Lets go of processes that wait for a flush since the cut (with an error): they could not be ended before.
    pub fn release(&self) {
        let unanswered = std::mem::take(&mut self.state().unanswered);
        for reply in unanswered {
            match reply {
                Unanswered::Flush(reply) => reply.error(Errno::EIO),
                Unanswered::Write(reply) => reply.error(Errno::EIO),
            }
        }
    }

    /// The power is back.
    pub fn restore(&self) {
        self.release();
        let mut state = self.state();
        state.pending.clear();
        state.off = false;
        state.lies = false;
    }

    /// After `die`: it works again, with all that was written before.
    pub fn revive(&self) {
        self.state().dead = false;
    }

    /// Blocks written since the last flush.
    pub fn unflushed(&self) -> usize {
        self.state().pending.len()
    }

    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // Detached: a namespace that still holds the mount must not keep the test from ending.
            let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
            drop(session);
        }
    }
}

struct Server(Arc<Mutex<State>>);

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::ZERO;

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let file = ino == FILE;
        let size = if file { self.state().size } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if file { FileType::RegularFile } else { FileType::Directory },
            perm: if file { 0o600 } else { 0o755 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == "disk" {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // As on a real disk the size is given; growing is allowed so that a fresh image can be laid out.
        if let Some(size) = size {
            let mut state = self.state();
            state.size = size.max(state.size);
        }
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Direct: the kernel keeps no copy that would survive the cut.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        if state.dead {
            return reply.error(Errno::EIO);
        }
        let data = state.read(offset, size as usize);
        drop(state);
        reply.data(&data);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut state = self.state();
        if state.dead || std::mem::take(&mut state.stumbles) {
            return reply.error(Errno::EIO);
        }
        state.write(offset, data);
        if flags.0 & (nix::libc::O_DSYNC | nix::libc::O_SYNC) != 0 {
            if state.off {
                return state.unanswered.push(Unanswered::Write(reply));
            }
            state.flush();
        }
        drop(state);
        reply.written(u32::try_from(data.len()).expect("a FUSE write is small"));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut state = self.state();
        if state.dead {
            return reply.error(Errno::EIO);
        }
        if state.off {
            return state.unanswered.push(Unanswered::Flush(reply));
        }
        state.flush();
        drop(state);
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let clears = nix::libc::FALLOC_FL_PUNCH_HOLE | nix::libc::FALLOC_FL_ZERO_RANGE;
        if mode & clears != 0 {
            let mut state = self.state();
            let end = state.size.min(offset.saturating_add(length));
            let mut at = offset;
            while at < end {
                let take = (BLOCK - at % BLOCK).min(end - at);
                state.write(at, &vec![0; take as usize]);
                at += take;
            }
        }
        reply.ok();
    }
}
