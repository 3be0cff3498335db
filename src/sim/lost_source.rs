//! The source of a resync dies for good in the middle of it, and the operator has the target serve its old state.
//!
//! Decides when that happens, and what the operator does until it is over. Invariants: a copy that went back holds
//! exactly what it held when it was marked a target; and that is a state which was right when the copy left the pair.
//! Afterwards the dead node comes back with its old disk (both have written: nothing may move, or it was struck off and
//! stops for good) or with a new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{BlockNo, Digest, Generation};
use crate::format::{ResyncMark, State, UndoStage};
use crate::image::{Disk, Image, ImageError, OpenOptions};
use crate::node::Operator;

use super::baton::lock;
use super::disk::{LifeDisk, Loss, SimDisk, Switch};
use super::life::StateFile;
use super::model::Model;
use super::oracle::Registers;
use super::sched::Owner;
use super::world::{Ev, MS, NAMES, SECOND, World};

/// Between two tries of the operator.
const INSISTS: u64 = 2 * SECOND;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Every resync may be the one.
    #[default]
    Waiting,
    /// The source is dead; the other node shall serve.
    Gone {
        source: usize,
    },
    /// It serves; the source comes back, at first perhaps as it was.
    Back {
        source: usize,
    },
    Over,
}

/// What a node held when it was marked a target.
pub struct Before {
    blocks: BTreeMap<u64, Digest>,
    at: u64,
}

/// What was right when a node left the pair.
pub struct Left {
    model: Model,
    registers: Registers,
    at: u64,
}

/// How far it is.
#[derive(Default)]
pub struct LostSource {
    pub stage: Stage,
    /// The dead node's disk was struck off: whatever it says, nothing may come of it.
    struck: bool,
    /// The dead node comes back with its old disk, and the split is ended by order.
    settles: bool,
    before: [Option<Before>; 2],
    left: [Option<Left>; 2],
}

/// What the disk holds, block by block.
fn content(disk: &SimDisk, image: &Image, offset: u64) -> BTreeMap<u64, Digest> {
    let runs = image.written_runs(BlockNo(0)).map_while(Result::ok);
    let blocks = runs.flat_map(|(first, count)| first.0..first.0 + count);
    blocks.map(|block| (block, Digest::of(&disk.page(block + offset, false)[..]))).collect()
}

impl World {
    /// A state was stored, or was found at the start of a life.
    pub fn stored(&self, owner: Owner) {
        let Some(image) = self.image_of(owner.node) else { return };
        self.check_kept(owner, &image.state());
        let target = image.state().resync != ResyncMark::None;
        let fresh = image.undo().stage == UndoStage::Saving && image.undo().blocks == 0;
        let known = lock(&self.lost_source).before[owner.node].is_some();
        let before = match (target, known) {
            (true, true) => return,
            (true, false) if fresh => {
                let disk = self.machine(owner.node).disk.clone();
                let blocks = content(&disk, &image, self.data_offset);
                Some(Before { blocks, at: self.sched.now() })
            }
            _ => None,
        };
        lock(&self.lost_source).before[owner.node] = before;
    }

    /// A node goes on alone: what the other one holds is right as of now, if it only followed.
    pub fn left_behind(&self, by: usize) {
        let left = {
            let oracle = lock(&self.oracle);
            let followed = oracle.server.is_some_and(|server| server.node == by);
            let (model, registers) = (oracle.model.clone(), oracle.registers.clone());
            followed.then(|| Left { model, registers, at: self.sched.now() })
        };
        lock(&self.lost_source).left[1 - by] = left;
    }

    /// A resync began: perhaps its source dies in it.
    pub fn resync_began(&self, source: usize) {
        if self.plan.loses_source && lock(&self.lost_source).stage == Stage::Waiting {
            let after = self.sched.with_rng(|rng| rng.below(300 * MS));
            self.sched.after(after, Ev::SourceDies { source });
        }
    }

    pub fn source_dies(self: &Arc<Self>, source: usize) {
        let target = 1 - source;
        let Some(image) = self.image_of(target) else { return };
        let fits = {
            let story = lock(&self.lost_source);
            let times = story.left[target].as_ref().zip(story.before[target].as_ref());
            let waits = story.stage == Stage::Waiting;
            waits && times.is_some_and(|(left, before)| left.at < before.at)
        };
        let undo = image.undo();
        if !fits || undo.stage != UndoStage::Saving || self.machine(source).up.is_none() {
            return;
        }
        if undo.blocks == 0 {
            return self.sched.after(5 * MS, Ev::SourceDies { source });
        }
        lock(&self.lost_source).stage = Stage::Gone { source };
        lock(&self.oracle).count("lost-source");
        self.sched.note(NAMES[source], "FAULT", (0, 0), || "is gone for good".to_string());
        self.kill(source, Loss::All);
        if self.sched.with_rng(|rng| rng.permille(500)) {
            self.kill(target, Loss::Torn);
            self.sched.after(500 * MS, Ev::Start { node: target });
        }
        self.sched.after(INSISTS, Ev::Insist);
    }

    /// Whether the machine is gone and nobody starts it.
    pub fn is_gone(&self, node: usize) -> bool {
        matches!(lock(&self.lost_source).stage, Stage::Gone { source } if source == node)
    }

    /// The dead node is back as it was: its administrator lets it serve nothing.
    pub fn is_given_up(&self, node: usize) -> bool {
        matches!(lock(&self.lost_source).stage, Stage::Back { source } if source == node)
    }

    /// Both sides of a fork were written: nothing but a report of it is right.
    pub fn is_forked(&self) -> bool {
        matches!(lock(&self.lost_source).stage, Stage::Back { .. })
    }

    /// A disk was struck off: a refusal is right.
    pub fn is_struck(&self) -> bool {
        lock(&self.lost_source).struck
    }

    /// The operator repeats the order until the target serves.
    pub fn insist(self: &Arc<Self>) {
        let Stage::Gone { source } = lock(&self.lost_source).stage else { return };
        let target = 1 - source;
        let serves = lock(&self.oracle).server.is_some_and(|server| server.node == target);
        if serves && self.serves() {
            lock(&self.lost_source).stage = Stage::Back { source };
            if self.sched.with_rng(|rng| rng.permille(500)) {
                lock(&self.lost_source).struck = true;
                lock(&self.oracle).count("struck-off");
                let incarnation = self.machine(source).file.incarnation;
                self.operator(target, Operator::Retire { incarnation });
            }
            let old_disk = self.sched.with_rng(|rng| rng.permille(600));
            if old_disk {
                self.sched.after(MS, Ev::Start { node: source });
            }
            // A disk that was struck off is refused: there is no split to end.
            let settles = old_disk && !self.is_struck() && self.sched.with_rng(|rng| rng.permille(500));
            lock(&self.lost_source).settles = settles;
            let after =
                if old_disk { self.sched.with_rng(|rng| rng.range(2 * SECOND, 9 * SECOND)) } else { MS };
            return self.sched.after(after, Ev::NewDisk { node: source });
        }
        self.operator(target, Operator::PromoteOld);
        self.sched.after(INSISTS, Ev::Insist);
    }

    /// A copy says that it is what it was.
    pub fn went_back(&self, owner: Owner) {
        let Some(image) = self.image_of(owner.node) else { return };
        let disk = self.machine(owner.node).disk.clone();
        let now = content(&disk, &image, self.data_offset);
        let mut story = lock(&self.lost_source);
        if let Some(before) = &story.before[owner.node] {
            let oracle = lock(&self.oracle);
            let mut blocks = now.keys().chain(before.blocks.keys());
            let wrong =
                |block: &&u64| now.get(block) != before.blocks.get(block) && !oracle.spoilt.contains(block);
            if let Some(block) = blocks.find(wrong).copied() {
                let (is, was) = (now.get(&block), before.blocks.get(&block));
                drop(oracle);
                let text = format!(
                    "undo: {} went back, and block {block} is {is:?}, was {was:?}",
                    NAMES[owner.node]
                );
                return self.sched.violate(text);
            }
        }
        let mut oracle = lock(&self.oracle);
        oracle.count("went-back");
        if let Some(left) = story.left[owner.node].take() {
            oracle.give_up(left.model, left.registers);
        }
    }

    pub fn over(&self) {
        let mut story = lock(&self.lost_source);
        *story = LostSource { stage: Stage::Over, struck: story.struck, ..LostSource::default() };
    }

    /// The dead node gets a new, blank disk, as large as the volume is where it lives on: a growth that was cut off may
    /// have left the old one larger.
    pub fn new_disk(self: &Arc<Self>, node: usize) {
        if lock(&self.lost_source).settles {
            return self.settle(node);
        }
        self.kill(node, Loss::Nothing);
        let (disk, incarnation) = {
            let machine = self.machine(node);
            (machine.disk.clone(), machine.file.incarnation + 1)
        };
        let blank = disk.copy();
        let medium: Arc<dyn Disk> = Arc::new(LifeDisk { disk: blank.clone(), switch: Switch::new() });
        let make = || -> Result<(), ImageError> {
            let old = Image::open(medium.clone(), &OpenOptions::read_only())?;
            let state = State {
                incarnation,
                record: None,
                gens: Vec::new(),
                bitmap_base: Generation(0),
                full: false,
                resync: ResyncMark::None,
                diverged: false,
                apart: crate::format::Apart::default(),
                peer_boot_epoch: 0,
                witness_incarnation: 0,
                ..old.state()
            };
            let bytes = match self.image_of(1 - node) {
                Some(other) => other.geometry().image_bytes,
                // Its machine is down; whoever buys the disk looks all the same.
                None => {
                    let disk = self.machine(1 - node).disk.clone();
                    let medium: Arc<dyn Disk> = Arc::new(LifeDisk { disk, switch: Switch::new() });
                    Image::open(medium, &OpenOptions::read_only())?.geometry().image_bytes
                }
            };
            blank.resize(bytes);
            let al_slots = self.plan.al_slots[node];
            let options = crate::image::FormatOptions { state, uuid: 1, label: "sim".to_string(), al_slots };
            crate::image::format(&medium, &options)
        };
        if let Err(error) = make() {
            return self.sched.violate(format!("a new disk could not be made: {error}"));
        }
        {
            let mut machine = self.machine(node);
            machine.disk = blank;
            // The machine is the same: what it asked for by itself does not go with a disk.
            let failback = machine.file.failback;
            machine.file = StateFile { incarnation, failback, ..StateFile::default() };
        }
        self.over();
        self.sched.note(NAMES[node], "new-disk", (0, 0), String::new);
        self.sched.after(MS, Ev::Start { node });
    }
}
