//! A node that serves: mounts when its machine says so, works, stops when told.
//!
//! Decides what the workload does. Invariant: whatever is read or acknowledged here is shown to the oracle.

use std::sync::{Arc, Mutex};

use crate::base::BlockNo;
use crate::image::{Blocks, BlocksError};
use crate::mirror::{Halted, Mirror};
use crate::node::Event;

use super::baton::lock;
use super::env::{SimEnv, WISH, WRITING};
use super::files::Files;
use super::sched::Owner;
use super::watch::Watched;
use super::world::{MS, NAMES, World};

/// Single blocks beside the filesystem.
pub const REGISTERS: usize = 48;
/// First block after the filesystem.
pub const FS_BLOCKS: u64 = 12 * 1024;
/// Extents behind the filesystem: more than the smaller activity logs have slots.
const REGISTER_EXTENTS: u64 = 12;
pub const DATA_BLOCKS: u64 = FS_BLOCKS + REGISTER_EXTENTS * 1024;
/// Tasks that write registers.
pub const WRITERS: usize = 2;

/// Where a register lies: spread over the extents behind the filesystem.
pub fn register(index: usize) -> BlockNo {
    let (extent, place) = (index as u64 % REGISTER_EXTENTS, index as u64 / REGISTER_EXTENTS);
    BlockNo(FS_BLOCKS + extent * 1024 + place * 3)
}

/// What the node's machine wants of the workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    #[default]
    Nothing,
    Serve,
    StopGently,
    Stop,
}

/// What one life does about serving.
#[derive(Debug, Default)]
pub struct Serving {
    pub wish: Wish,
    /// Mounted: writers may work.
    pub open: bool,
    pub writing: usize,
}

/// The tasks of one life that serve.
pub struct Server {
    pub world: Arc<World>,
    pub owner: Owner,
    pub env: Arc<SimEnv>,
    pub mirror: Arc<Mirror>,
    pub serving: Arc<Mutex<Serving>>,
}

enum End {
    Halted,
    Stopped,
}

impl From<Halted> for End {
    fn from(_: Halted) -> End {
        End::Halted
    }
}

impl Server {
    fn watched(&self, limit: u64) -> Watched {
        Watched { world: self.world.clone(), owner: self.owner, mirror: self.mirror.clone(), limit }
    }

    fn wish(&self) -> Wish {
        lock(&self.serving).wish
    }

    fn deliver(&self, event: Event) {
        self.mirror.deliver(event);
    }

    fn note(&self, what: &'static str, words: impl FnOnce() -> String) {
        self.world.sched.note(NAMES[self.owner.node], what, (0, 0), words);
    }

    /// Mounts, works and unmounts for as long as the node lives.
    pub fn drive(&self) {
        while self.drive_once().is_ok() {}
    }

    fn drive_once(&self) -> Result<(), Halted> {
        self.env.wait_for(WISH, &mut || self.wish() != Wish::Nothing)?;
        if self.wish() == Wish::Serve {
            let served = self.serve();
            if matches!(served, Err(End::Halted)) || self.env.halted() {
                return Err(Halted);
            }
        }
        // Until the machine says stop: without the right to serve there is nothing to do.
        self.env.wait_for(WISH, &mut || self.wish() != Wish::Serve)?;
        self.env.wait_for(WRITING, &mut || lock(&self.serving).writing == 0)?;
        lock(&self.serving).wish = Wish::Nothing;
        lock(&self.world.oracle).busy.retain(|_, busy| busy.node != self.owner.node);
        self.note("demoted", String::new);
        self.deliver(Event::Demoted);
        Ok(())
    }

    fn serve(&self) -> Result<(), End> {
        self.world.check_promotion(self.owner, &self.mirror);
        self.note("mounts", String::new);
        let mounted = self.mount();
        let mut files = match mounted {
            Ok(files) => files,
            Err(error) => {
                self.failed("mount", &error)?;
                if self.wish() == Wish::Serve {
                    self.deliver(Event::PromoteFailed);
                }
                return Err(End::Stopped);
            }
        };
        lock(&self.serving).open = true;
        self.world.sched.wake(self.owner, Some(WISH));
        self.deliver(Event::Promoted);
        let worked = self.work(&mut files);
        lock(&self.serving).open = false;
        worked?;
        self.env.wait_for(WRITING, &mut || lock(&self.serving).writing == 0)?;
        if self.wish() == Wish::StopGently {
            let closed =
                files.close().and_then(|()| self.flush_registers().map_err(|error| error.to_string()));
            if let Err(error) = closed {
                self.failed("unmount", &error)?;
            }
        }
        Ok(())
    }

    fn work(&self, files: &mut Files) -> Result<(), End> {
        while self.wish() == Wish::Serve {
            let pause = self.world.sched.with_rng(|rng| rng.range(5 * MS, 90 * MS));
            self.env.sleep(pause)?;
            if self.wish() != Wish::Serve || self.is_frozen() || self.world.in_spree() {
                continue;
            }
            if let Err(error) = files.step() {
                self.failed("work", &error)?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// An error is right only if the node lost the right to serve, its disk, or its life; a mount may meet a block that
    /// cannot be read here at the moment, when nobody can be asked.
    fn failed(&self, what: &str, error: &str) -> Result<(), End> {
        if self.env.halted() {
            return Err(End::Halted);
        }
        self.note("gives-up", || format!("{what}: {error}"));
        let is_told = |block: &u64| error.contains(&format!("block {block} is unreadable"));
        let met = what == "mount" && lock(&self.world.oracle).rotten.iter().any(is_told);
        if !met && !error.contains("may not serve") && !self.env.switch.has_failed() {
            self.world.sched.violate(format!("{}: {what}: {error}", NAMES[self.owner.node]));
        }
        Ok(())
    }

    fn is_frozen(&self) -> bool {
        self.world.with_life(self.owner, |life| life.frozen).unwrap_or(true)
    }

    fn mount(&self) -> Result<Files, String> {
        let blocks = self.watched(DATA_BLOCKS);
        for index in 0..REGISTERS {
            let block = register(index);
            let sectors = self.read_register(&blocks, block).map_err(|error| error.to_string())?;
            let mut oracle = lock(&self.world.oracle);
            match sectors.as_deref() {
                None => {}
                Some([value]) => oracle.registers.found(block, *value)?,
                Some(torn) => oracle.registers.found_torn(block, torn)?,
            }
        }
        Files::open(&self.world, self.owner, &self.env, Arc::new(self.watched(FS_BLOCKS)))
    }

    /// The sectors' values, equal neighbours once. `None`: the block is rotten on this disk at the moment, and nobody
    /// could be asked.
    fn read_register(&self, blocks: &Watched, block: BlockNo) -> Result<Option<Vec<u64>>, BlocksError> {
        let mut data = vec![0; BlockNo::SIZE];
        match blocks.read(block, &mut data) {
            Err(BlocksError::Rotten(at)) if lock(&self.world.oracle).rotten.contains(&at.0) => {
                return Ok(None);
            }
            done => done?,
        }
        let word = |sector: &[u8]| {
            let mut first = [0; 8];
            first.copy_from_slice(&sector[..8]);
            u64::from_le_bytes(first)
        };
        let mut sectors: Vec<u64> = data.chunks(512).map(word).collect();
        sectors.dedup();
        Ok(Some(sectors))
    }

    fn flush_registers(&self) -> Result<(), BlocksError> {
        let covered = lock(&self.world.oracle).registers.snapshot();
        self.watched(DATA_BLOCKS).flush()?;
        let mut oracle = lock(&self.world.oracle);
        if oracle.server != Some(self.owner) {
            return Ok(());
        }
        covered.into_iter().for_each(|(block, value)| oracle.registers.stable(block, value));
        Ok(())
    }

    /// Writes the registers of number `writer`, one after another, until the node dies.
    pub fn write_registers(&self, writer: usize) {
        while self.write_some(writer).is_ok() {}
    }

    fn write_some(&self, writer: usize) -> Result<(), Halted> {
        self.env.wait_for(WISH, &mut || lock(&self.serving).open)?;
        let most = if self.world.in_spree() { 6 } else { 160 };
        let pause = self.world.sched.with_rng(|rng| rng.range(2 * MS, most * MS));
        self.env.sleep(pause)?;
        let works = {
            let mut serving = lock(&self.serving);
            let works = serving.open && serving.wish == Wish::Serve;
            serving.writing += usize::from(works);
            works
        };
        if works {
            let done = if self.is_frozen() { Ok(()) } else { self.one_register(writer) };
            lock(&self.serving).writing -= 1;
            self.world.sched.wake(self.owner, Some(WRITING));
            match done {
                Err(BlocksError::Stopped) => self.env.sleep(20 * MS)?,
                Err(_) if self.env.switch.has_failed() => {}
                Err(error) if !self.env.halted() => {
                    self.world.sched.violate(format!("{}: register: {error}", NAMES[self.owner.node]));
                }
                _ => {}
            }
        }
        if self.env.halted() { Err(Halted) } else { Ok(()) }
    }

    fn one_register(&self, writer: usize) -> Result<(), BlocksError> {
        let blocks = self.watched(DATA_BLOCKS);
        let (index, what) = self.world.sched.with_rng(|rng| (rng.index(REGISTERS / WRITERS), rng.below(10)));
        let block = register(index * WRITERS + writer);
        match what {
            _ if self.world.in_spree() => self.write_value(block, |data| blocks.write(block, data), false),
            0 => self.flush_registers(),
            1 | 2 => {
                let expected = lock(&self.world.oracle).registers.newest(block);
                let read = self.read_register(&blocks, block)?;
                if let (Some(read), Some(expected)) = (read, expected)
                    && read != [expected]
                    && self.wish() == Wish::Serve
                    && self.world.may_answer(self.owner)
                {
                    let text = format!("block {} reads {read:?} after {expected} was written", block.0);
                    self.world.sched.violate(text);
                }
                Ok(())
            }
            3 => self.write_value(block, |data| blocks.write_flush(block, data), true),
            _ => self.write_value(block, |data| blocks.write(block, data), false),
        }
    }

    fn write_value(
        &self,
        block: BlockNo,
        write: impl FnOnce(&[u8]) -> Result<(), BlocksError>,
        stable: bool,
    ) -> Result<(), BlocksError> {
        let (value, covered) = {
            let mut oracle = lock(&self.world.oracle);
            let value = oracle.registers.issue(block);
            (value, oracle.registers.snapshot())
        };
        write(&value.to_le_bytes().repeat(BlockNo::SIZE / 8))?;
        let mut oracle = lock(&self.world.oracle);
        if oracle.server != Some(self.owner) {
            return Ok(());
        }
        oracle.registers.done(block, value);
        if stable {
            covered.into_iter().for_each(|(block, value)| oracle.registers.stable(block, value));
            oracle.registers.stable(block.0, value);
        }
        Ok(())
    }
}
