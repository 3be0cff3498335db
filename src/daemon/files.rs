//! The filesystem of a promoted volume: opened over the mirror, mounted, gated by the lease.
//!
//! Decides whether a request is answered now, waits, or gets an error. Does not know what a request asks. Invariant:
//! the gate is asked after the data of an answer was taken, so an answer is never older than the right to give it.
#![allow(clippy::disallowed_methods, reason = "a shell: mounts")]

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::base::BlockNo;
use crate::config;
use crate::format::KeptMount;
use crate::fs::{Fs, Store, StoreOptions};
use crate::image::Blocks;
use crate::mirror::Mirror;
use crate::mount::{Gate, Kept, MountOptions, Mounted, Unmounted, Ways};
use crate::node::Event;
use crate::sys::mount::mounted_at;

use super::reflexes::RequestGate;
use super::serving::{Mounter, Served};
use super::shell::LogSlot;
use super::upgrade::{Fate, Waiting};

/// How often a waiting request looks again at the lease by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// For storing where a copy's own changes begin.
const NOTE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    Open,
    Held,
    #[default]
    Stopped,
}

/// The gate of one volume's requests.
#[derive(Default)]
pub struct MountGate {
    mode: Mutex<Mode>,
    changed: Condvar,
    mirror: Mutex<Weak<Mirror>>,
}

impl MountGate {
    /// From now on the lease is this mirror's.
    pub fn ask(&self, mirror: &Arc<Mirror>) {
        *self.mirror.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(mirror);
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
        self.changed.notify_all();
    }

    fn lease_holds(&self) -> bool {
        let mirror = self.mirror.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        mirror.is_some_and(|mirror| mirror.may_answer())
    }
}

impl RequestGate for MountGate {
    fn open(&self) {
        self.set(Mode::Open);
    }
    fn hold(&self) {
        self.set(Mode::Held);
    }
    fn stop(&self) {
        self.set(Mode::Stopped);
    }
}

impl Gate for MountGate {
    fn pass(&self) -> bool {
        let mut mode = *self.mode.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match mode {
                Mode::Stopped => return false,
                // The clock may have run past the lease before any timer noticed: a stopped process that goes on.
                Mode::Open if self.lease_holds() => return true,
                Mode::Open | Mode::Held => {}
            }
            let held = self.mode.lock().unwrap_or_else(PoisonError::into_inner);
            mode = *self.changed.wait_timeout(held, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Opens and mounts one volume.
pub struct Files {
    mirror: Arc<Mirror>,
    place: PathBuf,
    options: MountOptions,
    /// Bytes that serving may take.
    memory: u64,
    gate: Arc<MountGate>,
    log: LogSlot,
    waiting: Arc<Waiting>,
}

impl Files {
    pub fn new(
        mirror: &Arc<Mirror>,
        settings: &config::Volume,
        gate: Arc<MountGate>,
        waiting: Arc<Waiting>,
        log: LogSlot,
    ) -> Files {
        let options = MountOptions {
            source: settings.name.clone(),
            strict_writes: settings.write_ack == config::WriteAck::Strict,
            keep_awake: settings.keep_awake,
            ..MountOptions::default()
        };
        let (place, memory, mirror) = (settings.mount.clone(), settings.memory, Arc::clone(mirror));
        Files { mirror, place, options, memory, gate, log, waiting }
    }

    fn forget_log(&self) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Where a copy that goes on alone begins to differ is stable before anything can be changed in it.
    fn note_log(&self, store: &Store) -> Result<(), String> {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(store.mark());
        self.mirror.deliver(Event::Tick);
        let until = Instant::now() + NOTE_LIMIT;
        while !self.mirror.with_machine(|machine| machine.log_is_noted()) {
            if Instant::now() >= until {
                return Err("where this copy's own changes begin could not be stored".to_string());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Files {
    /// Mounts, or goes on with the mount of a predecessor.
    fn mount_or(&self, kept: Option<Kept>) -> Result<Arc<dyn Served>, String> {
        // A dead mount of ours may lie there; `Mounted` takes it away.
        let there = mounted_at(&self.place).map_err(|e| e.to_string())?.is_some();
        if !there {
            std::fs::create_dir_all(&self.place).map_err(|e| format!("{}: {e}", self.place.display()))?;
        }
        let blocks = Arc::clone(&self.mirror) as Arc<dyn Blocks>;
        let store = Store::open(blocks, &StoreOptions::for_memory(self.memory)).map_err(|e| e.to_string())?;
        self.note_log(&store).inspect_err(|_| self.forget_log())?;
        // It may have grown while nothing was mounted.
        store.grow_volume().map_err(|e| e.to_string())?;
        let fs = Arc::new(Fs::new(store, self.options.atime));
        let gate = Arc::clone(&self.gate) as Arc<dyn Gate>;
        let ways = Ways { gate: Some(gate), desk: None };
        let mounted = match kept {
            Some(kept) => Mounted::take_over(Arc::clone(&fs), kept, &self.options, ways),
            None => Mounted::mount_with(Arc::clone(&fs), &self.place, &self.options, ways),
        };
        let mounted = mounted.map_err(|e| e.to_string())?;
        Ok(Arc::new(Open { fs, mounted: Mutex::new(Some(mounted)), log: Arc::clone(&self.log) }))
    }
}

impl Mounter for Files {
    fn mount(&self) -> Result<Arc<dyn Served>, String> {
        let kept = self.waiting.take();
        let was_kept = kept.is_some();
        let mounted = self.mount_or(kept);
        if was_kept {
            self.waiting.ends(mounted.is_ok());
        }
        mounted
    }

    fn place(&self) -> PathBuf {
        self.place.clone()
    }

    fn keeps(&self) -> bool {
        self.waiting.is_kept()
    }

    fn pause_ms(&self) -> Option<u64> {
        match self.waiting.fate() {
            Fate::Served(ms) => Some(ms),
            _ => None,
        }
    }

    fn give_up(&self) {
        if self.waiting.take().is_some() {
            self.waiting.ends(false);
        }
    }
}

struct Open {
    fs: Arc<Fs>,
    /// Taken by `unmount`.
    mounted: Mutex<Option<Mounted>>,
    log: LogSlot,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Another mount may have begun: its log is not this one's.
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.as_ref().is_some_and(|mark| Arc::ptr_eq(mark, &self.fs.store().mark())) {
            *log = None;
        }
    }
}

impl Open {
    fn with<T>(&self, body: impl FnOnce(&Mounted) -> T) -> Result<T, String> {
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        mounted.as_ref().map(body).ok_or_else(|| "it is unmounted".to_string())
    }
}

impl Served for Open {
    fn sync(&self) -> Result<(), String> {
        self.fs.store().sync().map_err(|e| e.to_string())
    }

    fn grow(&self) -> Result<(), String> {
        self.fs.store().grow_volume().map(|_| ()).map_err(|e| e.to_string())
    }

    fn whose(&self, block: BlockNo) -> Option<String> {
        self.fs.whose(block).ok().map(|whose| whose.to_string())
    }

    fn look(&self, see: &mut dyn FnMut(&Store)) {
        see(self.fs.store());
    }

    fn abort(&self) {
        if let Some(mounted) = &*self.mounted.lock().unwrap_or_else(PoisonError::into_inner) {
            mounted.abort();
        }
    }

    fn pause(&self, limit: Duration) -> Result<(), String> {
        self.with(|mounted| mounted.pause(limit).map_err(|e| e.to_string()))?
    }

    fn resume(&self) {
        // What is unmounted meanwhile needs nobody to go on.
        let _ = self.with(Mounted::resume);
    }

    fn describe(&self) -> Result<KeptMount, String> {
        self.with(Mounted::describe)
    }

    fn retire(&self) {
        let _ = self.with(Mounted::retire);
    }

    fn unmount(&self, limit: Duration) -> Result<bool, String> {
        let mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mounted) = mounted else { return Ok(true) };
        mounted.unmount(limit).map(|how| how == Unmounted::Clean).map_err(|e| e.to_string())
    }
}
