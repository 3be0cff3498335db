//! A disk in memory that costs little to copy, with a recorder.
//!
//! Content is a shared base and a few pages above it; a page is shared until it is written. Invariant: the recorded
//! events played onto the snapshot taken at `record` give the content of the moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twinfs::base::FastMap;
use twinfs::image::{Disk, DiskError};

pub const PAGE: usize = 4096;
/// A power cut tears at this many bytes.
pub const SECTOR: usize = 512;

/// 4 KiB of content; `None` are zeros.
pub type Page = Option<Arc<[u8; PAGE]>>;

/// The whole content at one moment.
#[derive(Clone)]
pub struct Snapshot {
    pub pages: Arc<Vec<Page>>,
}

/// What reached the disk, in order.
#[derive(Clone)]
pub enum Event {
    Write {
        offset: u64,
        data: Arc<[u8]>,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    /// Given back to the host; reads as junk afterwards.
    Punch {
        offset: u64,
        len: u64,
    },
    Flush,
}

/// Pages that differ from a snapshot.
pub type Overlay = FastMap<usize, Page>;

#[derive(Default)]
struct Inner {
    base: Arc<Vec<Page>>,
    over: Overlay,
    log: Option<Vec<Event>>,
    /// Flushes that succeed before every later one fails, until `mend`.
    flushes_left: Option<u64>,
}

pub struct CrashDisk {
    inner: Mutex<Inner>,
}

fn page_of<'a>(base: &'a [Page], over: &'a Overlay, index: usize) -> &'a Page {
    over.get(&index).unwrap_or(&base[index])
}

/// Writes bytes into the overlay of `base`.
pub fn put(base: &[Page], over: &mut Overlay, mut offset: u64, mut data: &[u8]) {
    while !data.is_empty() {
        let (index, at) = ((offset / PAGE as u64) as usize, (offset % PAGE as u64) as usize);
        let part = data.len().min(PAGE - at);
        if part == PAGE {
            let mut page = [0; PAGE];
            page.copy_from_slice(&data[..part]);
            over.insert(index, Some(Arc::new(page)));
        } else {
            let page = over.entry(index).or_insert_with(|| base[index].clone());
            let bytes = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(bytes)[at..at + part].copy_from_slice(&data[..part]);
        }
        offset += part as u64;
        data = &data[part..];
    }
}

/// One byte all over a range of whole pages.
fn fill(over: &mut Overlay, offset: u64, len: u64, byte: u8) {
    assert!((offset | len).is_multiple_of(PAGE as u64), "whole pages are zeroed and punched");
    let page = (byte != 0).then(|| Arc::new([byte; PAGE]));
    for index in offset / PAGE as u64..(offset + len) / PAGE as u64 {
        over.insert(index as usize, page.clone());
    }
}

/// Plays one whole event.
pub fn play(base: &[Page], over: &mut Overlay, event: &Event) {
    match event {
        Event::Write { offset, data } => put(base, over, *offset, data),
        Event::Zero { offset, len } => fill(over, *offset, *len, 0),
        Event::Punch { offset, len } => fill(over, *offset, *len, 0xDB),
        Event::Flush => {}
    }
}

impl Snapshot {
    /// This content with an overlay, as a disk.
    pub fn with(&self, over: Overlay) -> CrashDisk {
        let inner = Inner { base: self.pages.clone(), over, log: None, flushes_left: None };
        CrashDisk { inner: Mutex::new(inner) }
    }

    pub fn disk(&self) -> CrashDisk {
        self.with(Overlay::default())
    }

    /// Moves on by events that are stable now.
    pub fn advance(&mut self, events: &[Event]) {
        let mut over = Overlay::default();
        for event in events {
            play(&self.pages, &mut over, event);
        }
        let pages = Arc::make_mut(&mut self.pages);
        for (index, page) in over {
            pages[index] = page;
        }
    }
}

impl CrashDisk {
    pub fn new(bytes: u64) -> CrashDisk {
        let base = Arc::new(vec![None; bytes as usize / PAGE]);
        CrashDisk { inner: Mutex::new(Inner { base, ..Inner::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of this moment.
    pub fn freeze(&self) -> Snapshot {
        let mut inner = self.lock();
        let Inner { base, over, .. } = &mut *inner;
        if !over.is_empty() {
            let pages = Arc::make_mut(base);
            for (index, page) in over.drain() {
                pages[index] = page;
            }
        }
        Snapshot { pages: base.clone() }
    }

    /// Records from now on; answers the content before.
    pub fn record(&self) -> Snapshot {
        let snapshot = self.freeze();
        self.lock().log = Some(Vec::new());
        snapshot
    }

    /// Events recorded so far.
    pub fn moment(&self) -> usize {
        self.lock().log.as_ref().map_or(0, Vec::len)
    }

    pub fn take_events(&self) -> Vec<Event> {
        self.lock().log.take().unwrap_or_default()
    }

    /// After `good` more flushes every flush fails, and what was written since the last good one is lost.
    pub fn fail_flushes_after(&self, good: u64) {
        self.lock().flushes_left = Some(good);
    }

    pub fn mend(&self) {
        self.lock().flushes_left = None;
    }
}

impl Inner {
    fn check(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        match offset + len > (self.base.len() * PAGE) as u64 {
            true => Err(DiskError::Io(format!("bytes {offset}+{len} lie beyond the end of the disk"))),
            false => Ok(()),
        }
    }

    fn did(&mut self, event: Event) {
        play(&self.base, &mut self.over, &event);
        if let Some(log) = &mut self.log {
            log.push(event);
        }
    }
}

impl Disk for CrashDisk {
    fn len_bytes(&self) -> u64 {
        (self.lock().base.len() * PAGE) as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        let inner = self.lock();
        inner.check(offset, out.len() as u64)?;
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let inside = (at % PAGE as u64) as usize;
            let part = rest.len().min(PAGE - inside);
            let (head, tail) = rest.split_at_mut(part);
            match page_of(&inner.base, &inner.over, (at / PAGE as u64) as usize) {
                Some(page) => head.copy_from_slice(&page[inside..inside + part]),
                None => head.fill(0),
            }
            rest = tail;
            at += part as u64;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, data.len() as u64)?;
        if inner.log.is_some() {
            inner.did(Event::Write { offset, data: data.into() });
        } else {
            let Inner { base, over, .. } = &mut *inner;
            put(base, over, offset, data);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        match &mut inner.flushes_left {
            Some(0) => return Err(DiskError::Io("the disk lost its cache".to_string())),
            Some(left) => *left -= 1,
            None => {}
        }
        if inner.log.is_some() {
            inner.did(Event::Flush);
        }
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, len)?;
        inner.did(Event::Punch { offset, len });
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let mut inner = self.lock();
        inner.check(offset, len)?;
        inner.did(Event::Zero { offset, len });
        Ok(())
    }
}
