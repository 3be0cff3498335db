//! How a machine starts: image, node, mirror, and the tasks of one life.

use std::sync::{Arc, Mutex};

use crate::base::Generation;
use crate::format::{State, UndoStage};
use crate::image::{DiskError, Image, ImageError, OpenOptions};
use crate::mirror::{Mirror, Worker};
use crate::node::{Event, Node, NodeConfig, Operator, StartInfo};

use super::baton::lock;
use super::disk::{LifeDisk, Loss, Switch};
use super::env::SimEnv;
use super::sched::Owner;
use super::serve::{DATA_BLOCKS, Server, Serving, WRITERS};
use super::world::{Life, NAMES, World, node_id};

/// The node state file on the system disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct StateFile {
    pub incarnation: u128,
    pub v: u64,
    pub unusable: bool,
    /// A request to a fence agent whose answer is not noted.
    pub fence: Option<u128>,
    /// When the volume was last asked for, on the world's clock in milliseconds.
    pub failback: Option<u64>,
}

impl World {
    /// Powers a machine on; does nothing if it is on.
    pub fn start_node(self: &Arc<Self>, node: usize) {
        let (owner, switch) = {
            let mut machine = self.machine(node);
            if machine.up.is_some() || self.is_gone(node) {
                return;
            }
            machine.lives += 1;
            let owner = Owner { node, life: machine.lives };
            let switch = Switch::new();
            machine.up = Some(Life {
                owner,
                switch: switch.clone(),
                loss: Loss::Torn,
                mirror: None,
                serving: Arc::new(Mutex::new(Serving::default())),
                tick: None,
                asks: Vec::new(),
                frozen: false,
            });
            (owner, switch)
        };
        self.sched.note(NAMES[node], "starts", (u64::from(owner.life), 0), String::new);
        let world = self.clone();
        self.spawn(owner, move || world.boot(owner, switch));
    }

    fn boot(self: Arc<Self>, owner: Owner, switch: Arc<Switch>) {
        let disk = self.machine(owner.node).disk.clone();
        let disk = LifeDisk { disk, switch: switch.clone() };
        match self.open(owner, disk, &switch) {
            Ok(()) | Err(ImageError::Disk(DiskError::Dead)) => {}
            Err(_) if switch.has_failed() => {}
            Err(error) => {
                self.sched.violate(format!("{}: the image does not open: {error}", NAMES[owner.node]))
            }
        }
    }

    fn open(self: &Arc<Self>, owner: Owner, disk: LifeDisk, switch: &Arc<Switch>) -> Result<(), ImageError> {
        let image = Arc::new(Image::open(Arc::new(disk), &OpenOptions::read_write())?);
        let env = Arc::new(SimEnv { world: self.clone(), owner, switch: switch.clone() });
        let state = Mirror::raise_epoch(&image)?;
        let info = self.start_info(owner, &image, &state);
        let config = NodeConfig {
            me: node_id(owner.node),
            arbitration: self.plan.arbitration,
            timing: World::timing(),
            failback: self.plan.failback,
            fence_levels: 2,
            pings: false,
            blocks: image.block_count(),
            copy_blocks_max: 256,
            features: crate::wire::FEATURES,
            resync: self.plan.resync,
            after_split: crate::base::AfterSplit::Manual,
            mutations: self.plan.mutations,
        };
        let node = Node::new(config, state, info, self.clock(owner.node));
        let mirror = Mirror::new(image, env.clone(), Box::new(node), self.plan.mutations)?;
        let Some(serving) = self.with_life(owner, |life| {
            life.mirror = Some(mirror.clone());
            life.serving.clone()
        }) else {
            return Ok(());
        };
        self.stored(owner);
        self.note_split();
        for worker in Worker::ALL {
            let mirror = mirror.clone();
            self.spawn(owner, move || mirror.work(worker));
        }
        let server = Arc::new(Server { world: self.clone(), owner, env, mirror: mirror.clone(), serving });
        for writer in 0..WRITERS {
            let server = server.clone();
            self.spawn(owner, move || server.write_registers(writer));
        }
        self.spawn(owner, move || server.drive());
        if self.is_given_up(owner.node) {
            mirror.deliver(Event::Operator(Operator::Demote));
        }
        mirror.deliver(Event::Tick);
        Ok(())
    }

    fn start_info(&self, owner: Owner, image: &Image, state: &State) -> StartInfo {
        let machine = self.machine(owner.node);
        let file = machine.file;
        let version = state.record.map_or(0, |record| record.v);
        let low = self.sched.with_rng(super::rng::Rng::next);
        let high = self.sched.with_rng(super::rng::Rng::next);
        StartInfo {
            seed: u128::from(high) << 64 | u128::from(low),
            marks: image.dirty_blocks() > 0,
            hot: !image.hot_ranges().is_empty(),
            file_agrees: !file.unusable && file.incarnation == state.incarnation && file.v <= version,
            going_back: image.undo().stage == UndoStage::GoingBack,
            fence_left: file.fence,
            failback_ago: crate::node::failback_ago(file.failback.map(Some), self.sched.now() / 1_000_000),
        }
    }

    pub fn set_frozen(&self, owner: Owner, frozen: bool) {
        self.with_life(owner, |life| life.frozen = frozen);
        self.sched.note(NAMES[owner.node], if frozen { "frozen" } else { "thawed" }, (0, 0), String::new);
        if frozen {
            lock(&self.oracle).count("frozen");
        }
    }

    /// The page of the disk that holds a block of the data area.
    pub fn data_page(&self, block: u64) -> u64 {
        block + self.data_offset
    }

    pub fn block_of(&self, page: u64) -> Option<u64> {
        page.checked_sub(self.data_offset).filter(|block| *block < DATA_BLOCKS)
    }
}

/// The generation every simulated volume is made with.
pub const MADE: Generation = Generation(0x5eed);
