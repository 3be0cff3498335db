//! A simulated disk: what was written and not flushed may be lost, kept or torn at 512 bytes in any subset when the
//! power goes.
//!
//! Does not know images. Invariants: a read sees every write that returned; after a flush that returned no loss of
//! power takes anything written before it away; a dead machine's handle changes nothing any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::base::{FastMap, PAGE};
use crate::image::{Disk, DiskError};

use super::baton::lock;
use super::rng::Rng;

const SECTOR: usize = 512;
/// Shared until it is written: images are copied and remembered more often than they change.
type PageData = Arc<[u8; PAGE]>;

/// One un-flushed change, in the order it was made.
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Zero { first: u64, count: u64 },
}

/// How a loss of power treats what was not flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Only the process died: the disk keeps everything.
    Nothing,
    All,
    /// Each write is kept or lost as a whole.
    Writes,
    /// Each 512-byte sector of each write is kept or lost.
    Torn,
}

#[derive(Default)]
struct Content {
    /// What a read sees; an absent page reads as zeros.
    now: FastMap<u64, PageData>,
    /// The stable content of every page changed since the last flush.
    stable: BTreeMap<u64, Option<PageData>>,
    changes: Vec<Change>,
    /// Pages changed since the oracle last looked.
    touched: BTreeSet<u64>,
    /// Pages that cannot be read until they are written.
    bad: BTreeSet<u64>,
}

impl Content {
    fn remember(&mut self, page: u64) {
        if !self.stable.contains_key(&page) {
            self.stable.insert(page, self.now.get(&page).cloned());
        }
        self.bad.remove(&page);
        self.touched.insert(page);
    }

    fn put(&mut self, offset: u64, data: &[u8], mut keep: impl FnMut() -> bool) {
        for (index, sector) in data.chunks(SECTOR).enumerate() {
            if keep() {
                let at = offset + (index * SECTOR) as u64;
                let (page, inside) = (at / PAGE as u64, usize::try_from(at % PAGE as u64).unwrap_or(0));
                let target = self.now.entry(page).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(target)[inside..inside + sector.len()].copy_from_slice(sector);
            }
        }
    }
}

/// The medium; survives the lives of its node.
pub struct SimDisk {
    len: AtomicU64,
    content: Mutex<Content>,
}

impl SimDisk {
    pub fn new(len: u64) -> Arc<SimDisk> {
        Arc::new(SimDisk { len: AtomicU64::new(len), content: Mutex::default() })
    }

    /// Another disk with the same stable content.
    pub fn copy(&self) -> Arc<SimDisk> {
        let now = lock(&self.content).now.clone();
        let len = AtomicU64::new(self.len.load(Ordering::SeqCst));
        Arc::new(SimDisk { len, content: Mutex::new(Content { now, ..Content::default() }) })
    }

    /// As if it had been made with this size.
    pub fn resize(&self, len: u64) {
        self.len.store(len, Ordering::SeqCst);
    }

    /// The power goes: what was not flushed meets its fate.
    pub fn lose_power(&self, loss: Loss, rng: &mut Rng) {
        let mut content = lock(&self.content);
        let content = &mut *content;
        if loss == Loss::Nothing {
            return;
        }
        for (page, old) in std::mem::take(&mut content.stable) {
            match old {
                Some(data) => content.now.insert(page, data),
                None => content.now.remove(&page),
            };
        }
        for change in std::mem::take(&mut content.changes) {
            if loss == Loss::All || (loss == Loss::Writes && rng.permille(500)) {
                continue;
            }
            match change {
                Change::Write { offset, data } => {
                    content.put(offset, &data, || loss == Loss::Writes || rng.permille(500));
                }
                Change::Zero { first, count } => {
                    for page in first..first + count {
                        if loss == Loss::Writes || rng.permille(500) {
                            content.now.remove(&page);
                        }
                    }
                }
            }
        }
    }

    /// Turns one bit of a page over, on the medium itself.
    pub fn rot(&self, page: u64, bit: usize) {
        let mut content = lock(&self.content);
        let flip = |data: &mut PageData| Arc::make_mut(data)[bit / 8 % PAGE] ^= 1 << (bit % 8);
        content.now.get_mut(&page).map(flip);
        content.stable.get_mut(&page).and_then(Option::as_mut).map(flip);
    }

    /// The pages changed since the last call.
    pub fn take_touched(&self) -> BTreeSet<u64> {
        std::mem::take(&mut lock(&self.content).touched)
    }

    /// Turns the bit back wherever the page is still what `rot` made of it: as a read sees it, which is the answer, and
    /// as it would survive (a repair may not be stable yet, and the next loss of power is another failure).
    pub fn unrot(&self, page: u64, bit: usize, is_rotten: impl Fn(&[u8]) -> bool) -> bool {
        let mut content = lock(&self.content);
        let flip = |data: &mut PageData| Arc::make_mut(data)[bit / 8 % PAGE] ^= 1 << (bit % 8);
        let rotten = content.now.get_mut(&page).filter(|data| is_rotten(&data[..]));
        let was = rotten.is_some();
        rotten.map(flip);
        content.stable.get_mut(&page).and_then(Option::as_mut).filter(|data| is_rotten(&data[..])).map(flip);
        was
    }

    /// Makes a page unreadable until it is written, or readable again.
    pub fn set_bad(&self, page: u64, bad: bool) {
        let bads = &mut lock(&self.content).bad;
        if bad {
            bads.insert(page)
        } else {
            bads.remove(&page)
        };
    }

    /// Whether a read of the page fails.
    pub fn is_bad(&self, page: u64) -> bool {
        lock(&self.content).bad.contains(&page)
    }

    /// Whether the two disks hold the same in `page` as a read sees it.
    pub fn same(&self, other: &SimDisk, page: u64) -> bool {
        match (self.held(page, false), other.held(page, false)) {
            (Some(one), Some(two)) => Arc::ptr_eq(&one, &two) || one == two,
            (None, None) => true,
            (Some(one), None) | (None, Some(one)) => one.iter().all(|byte| *byte == 0),
        }
    }

    fn held(&self, page: u64, stable: bool) -> Option<PageData> {
        let content = lock(&self.content);
        match content.stable.get(&page) {
            Some(old) if stable => old.clone(),
            _ => content.now.get(&page).cloned(),
        }
    }

    /// The content of a page: as a read sees it, or as it would survive the loss of everything un-flushed.
    pub fn page(&self, page: u64, stable: bool) -> Arc<[u8; PAGE]> {
        self.held(page, stable).unwrap_or_else(|| Arc::new([0; PAGE]))
    }
}

/// What decides whether a machine's disk operations still happen.
#[derive(Debug)]
pub struct Switch {
    /// Disk operations until the machine dies in the middle of one; 0 = dead, `u64::MAX` = no plan.
    fuse: AtomicU64,
    /// Disk time used since it was last asked.
    busy: AtomicU64,
    /// How much slower than usual the disk is.
    slow: AtomicU64,
    after_death: AtomicU64,
    /// Operations until every further write and flush fails; `u64::MAX` = never.
    good: AtomicU64,
    /// The host filesystem has no room for anything that it has not allocated.
    full: AtomicBool,
}

impl Switch {
    pub fn new() -> Arc<Switch> {
        Arc::new(Switch {
            fuse: AtomicU64::new(u64::MAX),
            busy: AtomicU64::new(0),
            slow: AtomicU64::new(1),
            after_death: AtomicU64::new(0),
            good: AtomicU64::new(u64::MAX),
            full: AtomicBool::new(false),
        })
    }

    pub fn is_dead(&self) -> bool {
        self.fuse.load(Ordering::SeqCst) == 0
    }

    pub fn kill(&self) {
        self.fuse.store(0, Ordering::SeqCst);
    }

    /// The machine dies in its `operations`th disk operation from now.
    pub fn arm(&self, operations: u64) {
        if !self.is_dead() {
            self.fuse.store(operations.max(1), Ordering::SeqCst);
        }
    }

    pub fn set_slowness(&self, times: u64) {
        self.slow.store(times.max(1), Ordering::SeqCst);
    }

    /// The next operation takes this much longer.
    pub fn hang(&self, nanos: u64) {
        self.busy.fetch_add(nanos, Ordering::SeqCst);
    }

    /// Every write and flush fails from the `operations`th on, for as long as the machine lives.
    pub fn fail_after(&self, operations: u64) {
        self.good.store(operations, Ordering::SeqCst);
    }

    /// Whether the disk failed under this life.
    pub fn has_failed(&self) -> bool {
        self.good.load(Ordering::SeqCst) == 0
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// A write or flush of a disk that may fail.
    fn change(&self) -> Result<(), DiskError> {
        match self.good.load(Ordering::SeqCst) {
            u64::MAX => Ok(()),
            0 => Err(DiskError::Io("the simulated disk failed".to_string())),
            left => {
                self.good.store(left - 1, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// Disk time used since the last call, nanoseconds.
    pub fn take_busy(&self) -> u64 {
        self.busy.swap(0, Ordering::SeqCst)
    }

    /// Counts one operation. `Ok(true)`: it is the one in whose middle the machine dies.
    fn step(&self, nanos: u64) -> Result<bool, DiskError> {
        let left = self.fuse.load(Ordering::SeqCst);
        if left == 0 {
            let ignored = self.after_death.fetch_add(1, Ordering::SeqCst);
            assert!(ignored < 100_000, "the node's code does not unwind although its disk is dead");
            return Err(DiskError::Dead);
        }
        if left != u64::MAX {
            self.fuse.store(left - 1, Ordering::SeqCst);
        }
        self.busy.fetch_add(nanos * self.slow.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(left == 1)
    }
}

/// A disk as one life of a machine sees it.
pub struct LifeDisk {
    pub disk: Arc<SimDisk>,
    pub switch: Arc<Switch>,
}

impl LifeDisk {
    fn check(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if offset.checked_add(len).is_none_or(|end| end > self.len_bytes()) {
            return Err(DiskError::Io(format!("{offset}+{len} lies behind the end of the disk")));
        }
        assert!(
            offset.is_multiple_of(SECTOR as u64) && len.is_multiple_of(SECTOR as u64),
            "unaligned access"
        );
        Ok(())
    }
}

impl Disk for LifeDisk {
    fn len_bytes(&self) -> u64 {
        self.disk.len.load(Ordering::SeqCst)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.check(offset, out.len() as u64)?;
        if self.switch.step(20_000 + out.len() as u64 / 4)? {
            return Err(DiskError::Dead);
        }
        let content = lock(&self.disk.content);
        let end = (offset + out.len() as u64).div_ceil(PAGE as u64);
        if let Some(page) = content.bad.range(offset / PAGE as u64..end).next() {
            return Err(DiskError::Io(format!("page {page} is unreadable")));
        }
        for (index, sector) in out.chunks_mut(SECTOR).enumerate() {
            let at = offset + (index * SECTOR) as u64;
            let inside = usize::try_from(at % PAGE as u64).unwrap_or(0);
            match content.now.get(&(at / PAGE as u64)) {
                Some(page) => sector.copy_from_slice(&page[inside..inside + sector.len()]),
                None => sector.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.check(offset, data.len() as u64)?;
        let dies = self.switch.step(30_000 + data.len() as u64 / 2)?;
        self.switch.change()?;
        let mut content = lock(&self.disk.content);
        let end = (offset + data.len() as u64).div_ceil(PAGE as u64);
        (offset / PAGE as u64..end).for_each(|page| content.remember(page));
        content.put(offset, data, || true);
        content.changes.push(Change::Write { offset, data: data.to_vec() });
        if dies { Err(DiskError::Dead) } else { Ok(()) }
    }

    fn flush(&self) -> Result<(), DiskError> {
        if self.switch.step(400_000)? {
            return Err(DiskError::Dead);
        }
        self.switch.change()?;
        let mut content = lock(&self.disk.content);
        content.stable.clear();
        content.changes.clear();
        Ok(())
    }

    fn extend(&self, len: u64) -> Result<(), DiskError> {
        if self.switch.step(50_000)? {
            return Err(DiskError::Dead);
        }
        if self.switch.full.load(Ordering::SeqCst) {
            return Err(DiskError::Full);
        }
        self.switch.change()?;
        self.disk.len.fetch_max(len, Ordering::SeqCst);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.clear(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        if self.switch.full.load(Ordering::SeqCst) {
            return Err(DiskError::Full);
        }
        self.clear(offset, len)
    }
}

impl LifeDisk {
    fn clear(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.check(offset, len)?;
        assert!(
            offset.is_multiple_of(PAGE as u64) && len.is_multiple_of(PAGE as u64),
            "ranges are whole pages"
        );
        let dies = self.switch.step(100_000)?;
        self.switch.change()?;
        let (first, count) = (offset / PAGE as u64, len / PAGE as u64);
        let mut content = lock(&self.disk.content);
        let held: Vec<u64> = (first..first + count).filter(|page| content.now.contains_key(page)).collect();
        for page in held {
            content.remember(page);
            content.now.remove(&page);
        }
        content.changes.push(Change::Zero { first, count });
        if dies { Err(DiskError::Dead) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(disk: &Arc<SimDisk>) -> LifeDisk {
        LifeDisk { disk: disk.clone(), switch: Switch::new() }
    }

    #[test]
    fn only_what_was_not_flushed_can_be_lost_and_each_fate_occurs() {
        let mut fates = BTreeSet::new();
        for seed in 0..40 {
            let disk = SimDisk::new(1 << 20);
            let handle = live(&disk);
            handle.write_at(0, &[1; PAGE]).unwrap();
            handle.flush().unwrap();
            handle.write_at(0, &[2; PAGE]).unwrap();
            handle.write_at(4096, &[3; PAGE]).unwrap();
            assert_eq!(*disk.page(0, true), [1; PAGE]);
            let loss = [Loss::Nothing, Loss::All, Loss::Writes, Loss::Torn][seed % 4];
            disk.lose_power(loss, &mut Rng::new(seed as u64));
            let (first, second) = (disk.page(0, false), disk.page(1, false));
            assert!(first.iter().all(|b| matches!(b, 1 | 2)) && second.iter().all(|b| matches!(b, 0 | 3)));
            let torn = first.iter().any(|b| *b != first[0]);
            fates.insert((loss as u8, first[0], second[0], torn));
        }
        assert!(
            fates.contains(&(Loss::All as u8, 1, 0, false))
                && fates.contains(&(Loss::Nothing as u8, 2, 3, false))
        );
        assert!(
            fates.contains(&(Loss::Writes as u8, 1, 3, false)),
            "a later write can survive an earlier one"
        );
        assert!(fates.iter().any(|fate| fate.3), "sectors of one write can have different fates");
    }

    #[test]
    fn a_failed_disk_takes_nothing_and_an_unreadable_page_is_mended_by_a_write() {
        let disk = SimDisk::new(1 << 20);
        let handle = live(&disk);
        handle.write_at(0, &[1; PAGE]).unwrap();
        disk.set_bad(0, true);
        let mut out = [0; PAGE];
        assert!(matches!(handle.read_at(0, &mut out), Err(DiskError::Io(_))) && disk.is_bad(0));
        handle.write_at(0, &[2; PAGE]).unwrap();
        handle.read_at(0, &mut out).unwrap();
        assert_eq!(out, [2; PAGE]);
        handle.switch.set_full(true);
        assert_eq!(handle.zero(0, PAGE as u64), Err(DiskError::Full));
        handle.punch(0, PAGE as u64).unwrap();
        handle.switch.fail_after(1);
        handle.write_at(0, &[3; PAGE]).unwrap();
        assert!(matches!(handle.flush(), Err(DiskError::Io(_))) && handle.switch.has_failed());
        assert!(handle.write_at(0, &[4; PAGE]).is_err() && *disk.page(0, false) == [3; PAGE]);
    }

    #[test]
    fn a_dead_machine_writes_nothing_more() {
        let disk = SimDisk::new(1 << 20);
        let handle = live(&disk);
        handle.switch.arm(2);
        handle.write_at(0, &[1; PAGE]).unwrap();
        assert_eq!(handle.flush(), Err(DiskError::Dead));
        assert_eq!(handle.write_at(0, &[9; PAGE]), Err(DiskError::Dead));
        assert_eq!(*disk.page(0, false), [1; PAGE]);
        disk.lose_power(Loss::All, &mut Rng::new(1));
        assert_eq!(*disk.page(0, false), [0; PAGE]);
    }
}
