//! A split brain is ended by order: the node that serves is kept, the one that came back with its old disk gives way.
//!
//! Decides what the operator says and how often, and when it is over. Invariants: no copy of a split is marked a target
//! before it was put aside; what is put aside is what the disk holds.

use std::sync::Arc;

use crate::base::Members;
use crate::format::{Apart, ResyncMark, State};
use crate::image::{Disk, DiskError, Image, ImageError, MemDisk};
use crate::mirror::Env;
use crate::node::Operator;

use super::baton::lock;
use super::disk::Loss;
use super::env::SimEnv;

use super::sched::Owner;
use super::world::{Ev, MS, NAMES, SECOND, World, node_id};

/// Between two orders.
const REPEATS: u64 = 2 * SECOND;

impl World {
    /// The operator keeps the copy of the node that serves, until both are one.
    pub fn settle(self: &Arc<Self>, source: usize) {
        let joined = (0..2).all(|node| self.image_of(node).is_some_and(|image| is_whole(&image.state())));
        if !joined {
            let told = self.sched.with_rng(|rng| rng.below(2)) as usize;
            self.operator(told, Operator::Keep(node_id(1 - source)));
            return self.sched.after(REPEATS, Ev::NewDisk { node: source });
        }
        lock(&self.oracle).count("split-settled");
        self.over();
        // Whoever was told to serve nothing may take over again.
        self.kill(source, Loss::Nothing);
        self.sched.after(MS, Ev::Start { node: source });
    }

    /// A state was stored: one of a split's copies may be about to be overwritten.
    pub fn check_kept(&self, owner: Owner, state: &State) {
        let gives_way = state.apart.verdict.filter(|verdict| verdict.winner != state.node);
        let marked = state.resync != ResyncMark::None && state.diverged;
        if marked && gives_way.is_none_or(|verdict| verdict.done == 0) {
            self.sched.violate(format!("{} is overwritten before its copy was put aside", NAMES[owner.node]));
        }
    }
}

fn is_whole(state: &State) -> bool {
    let both = state.record.is_some_and(|record| record.members == Members::BOTH);
    both && !state.diverged && state.apart == Apart::default() && state.resync == ResyncMark::None
}

impl SimEnv {
    /// Puts the copy aside on a disk that never fails, and looks whether it is whole.
    pub fn put_aside(&self, image: &Image) -> Result<u64, String> {
        let kept: Arc<dyn Disk> = Arc::new(MemDisk::new(image.medium_bytes()));
        let mut go_on = |_| self.breathe().map_err(|_| ImageError::Disk(DiskError::Dead));
        image.keep(&kept, &mut go_on).map_err(|error| error.to_string())?;
        match image.is_kept_in(&kept, &mut go_on) {
            Ok(true) => {}
            Ok(false) => {
                self.world.sched.violate(format!("{}: the kept copy is another", NAMES[self.owner.node]))
            }
            Err(error) => return Err(error.to_string()),
        }
        lock(&self.world.oracle).count("copy-kept");
        Ok(self.now().0 / SECOND + 1)
    }
}
