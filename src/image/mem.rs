//! A disk in memory with a recorder: every write, flush and punch in order, and the disks a power cut may leave.
//!
//! For tests and the simulator. Sparse: what was never written costs nothing and reads as zeros (or as junk after a
//! punch, which is what the contract allows). Invariant: `crash_image` keeps all that was done before the last
//! completed flush and, of what came later, exactly the 512-byte pieces that the caller's choice keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskError};

const CHUNK: usize = 4096;
/// A power cut tears at this many bytes.
pub const SECTOR: usize = 512;

/// One recorded event, in the order in which it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    Flush,
    Punch {
        offset: u64,
        len: u64,
    },
    /// `zero`, kept apart so that a large one costs no memory.
    Zero {
        offset: u64,
        len: u64,
    },
}

#[derive(Clone, Default)]
struct Inner {
    len: u64,
    chunks: BTreeMap<u64, Box<[u8]>>,
    log: Option<Vec<Event>>,
    /// Bytes that may still be allocated; `None` is unlimited.
    room: Option<u64>,
    dead: bool,
    /// Events after which the machine stops.
    stop_after: Option<u64>,
    fail_flush: bool,
    /// A chunk that cannot be read until it is written.
    unreadable: Option<u64>,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    write_bytes: u64,
    flushes: u64,
}

/// Counts since the disk was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub flushes: u64,
}

/// A sparse disk in memory.
pub struct MemDisk {
    inner: Mutex<Inner>,
}

impl MemDisk {
    /// `len` bytes of nothing.
    pub fn new(len: u64) -> MemDisk {
        MemDisk { inner: Mutex::new(Inner { len, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy with the same content and no log.
    pub fn fork(&self) -> MemDisk {
        let mut inner = self.lock().clone();
        inner.log = None;
        inner.dead = false;
        inner.stop_after = None;
        MemDisk { inner: Mutex::new(inner) }
    }

    /// Records events from now on.
    pub fn record(&self) {
        self.lock().log = Some(Vec::new());
    }

    /// The events recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().log.clone().unwrap_or_default()
    }

    /// Number of events recorded so far.
    pub fn event_count(&self) -> usize {
        self.lock().log.as_ref().map_or(0, Vec::len)
    }

    /// From now on only `bytes` more may be allocated: the host disk is that full.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.lock().room = bytes;
    }

    /// The machine stops after `events` more writes, flushes, zeros or punches.
    pub fn stop_after(&self, events: u64) {
        self.lock().stop_after = Some(events);
    }

    /// From now on every flush fails.
    pub fn fail_flushes(&self) {
        self.lock().fail_flush = true;
    }

    /// The page at `offset` cannot be read until it is written.
    pub fn fail_reads_at(&self, offset: u64) {
        self.lock().unreadable = Some(offset / CHUNK as u64);
    }

    pub fn counts(&self) -> DiskCounts {
        let inner = self.lock();
        DiskCounts {
            reads: inner.reads,
            read_bytes: inner.read_bytes,
            writes: inner.writes,
            write_bytes: inner.write_bytes,
            flushes: inner.flushes,
        }
    }

    /// Bytes that the sparse disk really holds.
    pub fn allocated_bytes(&self) -> u64 {
        (self.lock().chunks.len() * CHUNK) as u64
    }

    /// The allocated 4 KiB chunks in order: (offset, bytes).
    pub fn allocated(&self) -> Vec<(u64, Vec<u8>)> {
        self.lock().chunks.iter().map(|(chunk, data)| (chunk * CHUNK as u64, data.to_vec())).collect()
    }

    /// Writes below the recorder: rot, for tests.
    pub fn corrupt(&self, offset: u64, data: &[u8]) {
        self.lock().put(offset, data);
    }

    /// The disk after a power cut at event `cut` of a run recorded from `base` on: everything up to the last flush
    /// before the cut, and of the writes after it the 512-byte pieces for which `keep(event, piece)` says so. A punch
    /// or zero is one piece.
    pub fn crash_image(
        base: &MemDisk,
        events: &[Event],
        cut: usize,
        keep: &mut dyn FnMut(usize, usize) -> bool,
    ) -> MemDisk {
        let disk = base.fork();
        let events = &events[..cut.min(events.len())];
        let stable = events.iter().rposition(|e| *e == Event::Flush).unwrap_or(0);
        let mut inner = disk.lock();
        for (index, event) in events.iter().enumerate() {
            let mut kept = |piece: usize| index < stable || keep(index, piece);
            match event {
                Event::Write { offset, data } => {
                    for (piece, bytes) in data.chunks(SECTOR).enumerate() {
                        if kept(piece) {
                            inner.put(offset + (piece * SECTOR) as u64, bytes);
                        }
                    }
                }
                Event::Punch { offset, len } if kept(0) => inner.drop_range(*offset, *len),
                Event::Zero { offset, len } if kept(0) => inner.put_zeros(*offset, *len),
                Event::Flush | Event::Punch { .. } | Event::Zero { .. } => {}
            }
        }
        drop(inner);
        disk
    }
}

impl Inner {
    fn check(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if self.dead {
            return Err(DiskError::Dead);
        }
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(DiskError::Io(format!("bytes {offset}+{len} lie beyond the end of the disk")));
        }
        Ok(())
    }

    /// Counts an event that changes the disk; the machine may stop instead.
    fn step(&mut self) -> Result<(), DiskError> {
        if let Some(left) = self.stop_after.as_mut() {
            if *left == 0 {
                self.dead = true;
                return Err(DiskError::Dead);
            }
            *left -= 1;
        }
        Ok(())
    }

    /// Takes room for the chunks of a range that are not allocated yet.
    fn take_room(&mut self, offset: u64, len: u64) -> Result<(), DiskError> {
        let Some(room) = self.room else { return Ok(()) };
        let range = offset / CHUNK as u64..(offset + len).div_ceil(CHUNK as u64);
        let chunks = range.end.saturating_sub(range.start);
        let missing = (chunks - self.chunks.range(range).count() as u64) * CHUNK as u64;
        if missing > room {
            return Err(DiskError::Full);
        }
        self.room = Some(room - missing);
        Ok(())
    }

    fn put(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let at = (offset % CHUNK as u64) as usize;
            let part = data.len().min(CHUNK - at);
            let chunk =
                self.chunks.entry(offset / CHUNK as u64).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            chunk[at..at + part].copy_from_slice(&data[..part]);
            offset += part as u64;
            data = &data[part..];
        }
    }

    fn put_zeros(&mut self, offset: u64, len: u64) {
        let zeros = [0u8; CHUNK];
        let mut at = offset;
        while at < offset + len {
            let part = (CHUNK as u64 - at % CHUNK as u64).min(offset + len - at);
            self.put(at, &zeros[..part as usize]);
            at += part;
        }
    }

    fn drop_range(&mut self, offset: u64, len: u64) {
        let whole = offset.div_ceil(CHUNK as u64)..(offset + len) / CHUNK as u64;
        let gone: Vec<u64> = self.chunks.range(whole).map(|(chunk, _)| *chunk).collect();
        for chunk in gone {
            self.chunks.remove(&chunk);
            self.room = self.room.map(|room| room + CHUNK as u64);
        }
    }

    fn note(&mut self, event: Event) {
        if let Some(log) = self.log.as_mut() {
            log.push(event);
        }
    }
}

impl Disk for MemDisk {
    fn len_bytes(&self) -> u64 {
        self.lock().len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, out.len() as u64)?;
        inner.reads += 1;
        inner.read_bytes += out.len() as u64;
        let chunks = offset / CHUNK as u64..(offset + out.len() as u64).div_ceil(CHUNK as u64);
        if inner.unreadable.is_some_and(|chunk| chunks.contains(&chunk)) {
            return Err(DiskError::Io("the medium cannot be read here".to_string()));
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let inside = (at % CHUNK as u64) as usize;
            let part = (out.len() - done).min(CHUNK - inside);
            match inner.chunks.get(&(at / CHUNK as u64)) {
                Some(chunk) => out[done..done + part].copy_from_slice(&chunk[inside..inside + part]),
                None => out[done..done + part].fill(0),
            }
            done += part;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, data.len() as u64)?;
        inner.step()?;
        let chunks = offset / CHUNK as u64..(offset + data.len() as u64).div_ceil(CHUNK as u64);
        inner.unreadable = inner.unreadable.filter(|chunk| !chunks.contains(chunk));
        inner.take_room(offset, data.len() as u64)?;
        inner.writes += 1;
        inner.write_bytes += data.len() as u64;
        inner.put(offset, data);
        if inner.log.is_some() {
            inner.note(Event::Write { offset, data: data.into() });
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(0, 0)?;
        inner.step()?;
        if inner.fail_flush {
            return Err(DiskError::Io("flush failed".to_string()));
        }
        inner.flushes += 1;
        inner.note(Event::Flush);
        Ok(())
    }

    fn extend(&self, len: u64) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.len = inner.len.max(len);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, len)?;
        inner.step()?;
        inner.drop_range(offset, len);
        inner.note(Event::Punch { offset, len });
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, len)?;
        inner.step()?;
        inner.take_room(offset, len)?;
        inner.writes += 1;
        inner.write_bytes += len;
        inner.put_zeros(offset, len);
        inner.note(Event::Zero { offset, len });
        Ok(())
    }
}
