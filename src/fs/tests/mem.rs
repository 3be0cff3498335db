//! Blocks in memory that record every write and flush, so that a power cut can be played at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use crate::base::{BlockNo, ExtentNo};
use crate::image::{Blocks, BlocksError};

type Data = Arc<[u8; 4096]>;

/// One thing that reached the medium.
#[derive(Clone)]
pub(crate) enum Event {
    /// `None` forgets the block.
    Write(u64, Option<Data>),
    Flush,
}

#[derive(Default)]
struct Inner {
    blocks: BTreeMap<u64, Data>,
    events: Vec<Event>,
    recording: bool,
    backed: BTreeSet<u64>,
    flushes: usize,
    /// Blocks written, by call.
    writes: Vec<(u64, u64)>,
    fail_writes: bool,
    on_discard: Option<Arc<dyn Fn() + Send + Sync>>,
    on_write: Option<WriteWatch>,
    before_write: Option<WriteWatch>,
    on_read: Option<WriteWatch>,
    fail_flushes: bool,
}

type WriteWatch = Arc<dyn Fn(u64) + Send + Sync>;

/// A volume in memory.
pub(crate) struct MemBlocks {
    count: u64,
    /// Extents that the host has room for.
    host_extents: u64,
    inner: Mutex<Inner>,
}

impl MemBlocks {
    pub(crate) fn new(count: u64) -> Arc<MemBlocks> {
        Self::with_host(count, u64::MAX)
    }

    pub(crate) fn with_host(count: u64, host_extents: u64) -> Arc<MemBlocks> {
        Arc::new(MemBlocks { count, host_extents, inner: Mutex::default() })
    }

    /// From now on every event is kept; answers a copy of the blocks as they are.
    pub(crate) fn record(&self) -> Base {
        let mut inner = self.inner.lock().unwrap();
        inner.recording = true;
        inner.events.clear();
        Base { count: self.count, blocks: inner.blocks.clone(), backed: inner.backed.clone() }
    }

    /// Events so far: a moment.
    pub(crate) fn moment(&self) -> usize {
        self.inner.lock().unwrap().events.len()
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.inner.lock().unwrap().events.clone()
    }

    pub(crate) fn flushes(&self) -> usize {
        self.inner.lock().unwrap().flushes
    }

    pub(crate) fn writes(&self) -> Vec<(u64, u64)> {
        self.inner.lock().unwrap().writes.clone()
    }

    pub(crate) fn fail_writes(&self, fail: bool) {
        self.inner.lock().unwrap().fail_writes = fail;
    }

    /// Calls `watch` before each discard.
    pub(crate) fn on_discard(&self, watch: Box<dyn Fn() + Send + Sync>) {
        self.inner.lock().unwrap().on_discard = Some(Arc::from(watch));
    }

    /// From now on flushes fail, or work again as if nothing had been.
    pub(crate) fn fail_flushes(&self, fail: bool) {
        self.inner.lock().unwrap().fail_flushes = fail;
    }

    /// Calls `watch` with the first block before each read.
    pub(crate) fn on_read(&self, watch: Box<dyn Fn(u64) + Send + Sync>) {
        self.inner.lock().unwrap().on_read = Some(Arc::from(watch));
    }

    /// Calls `watch` with the number of blocks after each write.
    pub(crate) fn on_write(&self, watch: Box<dyn Fn(u64) + Send + Sync>) {
        self.inner.lock().unwrap().on_write = Some(Arc::from(watch));
    }

    /// Calls `watch` with the first block before each write.
    pub(crate) fn before_write(&self, watch: Box<dyn Fn(u64) + Send + Sync>) {
        self.inner.lock().unwrap().before_write = Some(Arc::from(watch));
    }

    /// The content as it would be read now.
    pub(crate) fn copy(&self) -> Arc<MemBlocks> {
        let inner = self.inner.lock().unwrap();
        let copy = Inner { blocks: inner.blocks.clone(), backed: inner.backed.clone(), ..Inner::default() };
        Arc::new(MemBlocks { count: self.count, host_extents: self.host_extents, inner: Mutex::new(copy) })
    }

    /// Overwrites a block behind everybody's back.
    pub(crate) fn poke(&self, block: u64, data: &[u8]) {
        let mut page = [0u8; 4096];
        page[..data.len()].copy_from_slice(data);
        self.inner.lock().unwrap().blocks.insert(block, Arc::new(page));
    }

    /// Puts old bytes of somebody else into every block that was never written.
    pub(crate) fn soil(&self) {
        let mut inner = self.inner.lock().unwrap();
        for block in 0..self.count {
            inner.blocks.entry(block).or_insert_with(|| Arc::new([0x5E; 4096]));
        }
    }

    pub(crate) fn peek(&self, block: u64) -> Vec<u8> {
        self.inner.lock().unwrap().blocks.get(&block).map_or(vec![0; 4096], |data| data.to_vec())
    }

    fn put(&self, inner: &mut Inner, block: u64, data: Option<Data>) {
        if inner.recording {
            inner.events.push(Event::Write(block, data.clone()));
        }
        match data {
            Some(data) => inner.blocks.insert(block, data),
            None => inner.blocks.remove(&block),
        };
    }

    fn check(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        if first.0 + count > self.count { Err(BlocksError::OutOfRange { first, count }) } else { Ok(()) }
    }
}

impl Blocks for MemBlocks {
    fn block_count(&self) -> u64 {
        self.count
    }

    fn read(&self, first: BlockNo, out: &mut [u8]) -> Result<(), BlocksError> {
        self.check(first, out.len() as u64 / 4096)?;
        let watch = self.inner.lock().unwrap().on_read.clone();
        if let Some(watch) = watch {
            watch(first.0);
        }
        let inner = self.inner.lock().unwrap();
        for (block, slot) in (first.0..).zip(out.chunks_exact_mut(4096)) {
            match inner.blocks.get(&block) {
                Some(data) => slot.copy_from_slice(&data[..]),
                None => slot.fill(0),
            }
        }
        Ok(())
    }

    fn write(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        assert!(data.len().is_multiple_of(4096));
        self.check(first, data.len() as u64 / 4096)?;
        let watch = self.inner.lock().unwrap().before_write.clone();
        if let Some(watch) = watch {
            watch(first.0);
        }
        let mut inner = self.inner.lock().unwrap();
        if inner.fail_writes {
            return Err(BlocksError::Io("the medium failed".to_string()));
        }
        inner.writes.push((first.0, data.len() as u64 / 4096));
        for (block, slot) in (first.0..).zip(data.as_chunks::<4096>().0) {
            let extent = BlockNo(block).extent().0;
            assert!(inner.backed.contains(&extent), "write to block {block} in an extent that is not backed");
            self.put(&mut inner, block, Some(Arc::new(*slot)));
        }
        let watch = inner.on_write.clone();
        drop(inner);
        if let Some(watch) = watch {
            watch(data.len() as u64 / 4096);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlocksError> {
        let mut inner = self.inner.lock().unwrap();
        if inner.fail_flushes {
            return Err(BlocksError::Io("the flush failed".to_string()));
        }
        inner.flushes += 1;
        if inner.recording {
            inner.events.push(Event::Flush);
        }
        Ok(())
    }

    fn write_flush(&self, first: BlockNo, data: &[u8]) -> Result<(), BlocksError> {
        self.write(first, data)?;
        self.flush()
    }

    fn discard(&self, first: BlockNo, count: u64) -> Result<(), BlocksError> {
        self.check(first, count)?;
        let watch = self.inner.lock().unwrap().on_discard.clone();
        if let Some(watch) = watch {
            watch();
        }
        let mut inner = self.inner.lock().unwrap();
        for block in first.0..first.0 + count {
            self.put(&mut inner, block, None);
        }
        Ok(())
    }

    fn back(&self, extent: ExtentNo) -> Result<(), BlocksError> {
        let mut inner = self.inner.lock().unwrap();
        if !inner.backed.contains(&extent.0) && inner.backed.len() as u64 >= self.host_extents {
            return Err(BlocksError::NoSpace(extent));
        }
        inner.backed.insert(extent.0);
        Ok(())
    }

    fn is_backed(&self, extent: ExtentNo) -> bool {
        self.inner.lock().unwrap().backed.contains(&extent.0)
    }

    fn pin_hot(&self, _: BlockNo, _: u64) -> Result<(), BlocksError> {
        Ok(())
    }
}

/// The blocks when recording began.
#[derive(Clone)]
pub(crate) struct Base {
    count: u64,
    blocks: BTreeMap<u64, Data>,
    backed: BTreeSet<u64>,
}

/// What happens to a write that was not flushed when the power goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    LoseAll,
    KeepAll,
    /// The later half survives.
    KeepLater,
    /// Any subset, some torn at 512 bytes.
    Random(u64),
}

pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// splitmix64
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }
}

/// Plays events onto a base and answers the volume after a power cut behind the first `upto` of them.
pub(crate) struct Player {
    base: Base,
    stable: usize,
}

impl Player {
    pub(crate) fn new(base: &Base) -> Player {
        Player { base: base.clone(), stable: 0 }
    }

    /// `upto` may only grow from call to call.
    pub(crate) fn cut(&mut self, events: &[Event], upto: usize, how: Cut) -> Arc<MemBlocks> {
        let last_flush = events[..upto].iter().rposition(|event| matches!(event, Event::Flush));
        if let Some(flush) = last_flush.filter(|flush| *flush >= self.stable) {
            for event in &events[self.stable..=flush] {
                apply(&mut self.base.blocks, event);
            }
            self.stable = flush + 1;
        }
        let mut blocks = self.base.blocks.clone();
        let mut dice = Dice(match how {
            Cut::Random(seed) => seed ^ (upto as u64) << 32,
            _ => 0,
        });
        let half = (self.stable + upto) / 2;
        for (at, event) in (self.stable..upto).map(|at| (at, &events[at])) {
            match how {
                Cut::LoseAll => {}
                Cut::KeepLater if at < half => {}
                Cut::KeepLater => apply(&mut blocks, event),
                Cut::KeepAll => apply(&mut blocks, event),
                Cut::Random(_) => match dice.below(3) {
                    0 => {}
                    1 => apply(&mut blocks, event),
                    _ => tear(&mut blocks, event, dice.roll()),
                },
            }
        }
        let inner = Inner { blocks, backed: self.base.backed.clone(), ..Inner::default() };
        let mut inner = inner;
        inner.backed.extend(0..self.base.count.div_ceil(1024));
        Arc::new(MemBlocks { count: self.base.count, host_extents: u64::MAX, inner: Mutex::new(inner) })
    }
}

fn apply(blocks: &mut BTreeMap<u64, Data>, event: &Event) {
    match event {
        Event::Write(block, Some(data)) => drop(blocks.insert(*block, data.clone())),
        Event::Write(block, None) => drop(blocks.remove(block)),
        Event::Flush => {}
    }
}

fn tear(blocks: &mut BTreeMap<u64, Data>, event: &Event, mask: u64) {
    let Event::Write(block, Some(data)) = event else { return };
    let mut page = blocks.get(block).map_or([0; 4096], |old| **old);
    for sector in 0..8 {
        if mask & 1 << sector != 0 {
            page[sector * 512..][..512].copy_from_slice(&data[sector * 512..][..512]);
        }
    }
    blocks.insert(*block, Arc::new(page));
}
