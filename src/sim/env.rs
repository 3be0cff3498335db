//! What a simulated life gives its mirror: the world's clock, links and scheduler.

use std::sync::Arc;

use crate::base::Moment;
use crate::image::Image;
use crate::mirror::{Env, Halted, Key, Payload, Worker};
use crate::node::{Event, LinkId, Notice, Order};
use crate::wire::{Kind, Message};

use super::baton::lock;
use super::disk::Switch;
use super::sched::{Owner, WaitKey};
use super::serve::Wish;
use super::world::{Ev, MS, NAMES, World};

/// The environment of one life of one node.
pub struct SimEnv {
    pub world: Arc<World>,
    pub owner: Owner,
    pub switch: Arc<Switch>,
}

/// Wait keys of the simulator's own tasks.
pub const WISH: WaitKey = (9, 0);
pub const WRITING: WaitKey = (9, 1);

fn wait_key(key: Key) -> WaitKey {
    match key {
        Key::Op(id) => (0, id),
        Key::Locks => (1, 0),
        Key::Work(Worker::Apply) => (2, 0),
        Key::Work(Worker::Store) => (2, 1),
        Key::Work(Worker::Copy) => (2, 2),
        Key::Work(Worker::Check) => (2, 3),
        Key::Fetch(id) => (3, id),
    }
}

impl SimEnv {
    pub fn halted(&self) -> bool {
        self.switch.is_dead() || self.world.is_over()
    }

    /// The calling task lets others run for about `nanos`.
    pub fn sleep(&self, nanos: u64) -> Result<(), Halted> {
        if self.halted() {
            return Err(Halted);
        }
        self.world.sleep(self.owner, nanos);
        if self.halted() { Err(Halted) } else { Ok(()) }
    }

    /// The calling task waits for `ready`, asked again after every wake of `key`.
    pub fn wait_for(&self, key: WaitKey, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        loop {
            if self.halted() {
                return Err(Halted);
            }
            if ready() {
                return Ok(());
            }
            self.world.block(self.owner, key);
        }
    }

    fn wish(&self, wish: Wish) {
        let serving = self.world.with_life(self.owner, |life| life.serving.clone());
        if let Some(serving) = serving {
            lock(&serving).wish = wish;
            self.world.sched.wake(self.owner, Some(WISH));
        }
    }

    fn tell(&self, notice: &Notice) {
        let world = &self.world;
        world.sched.note(NAMES[self.owner.node], "tells", (0, 0), || format!("{notice:?}"));
        world.told(self.owner, notice);
    }
}

impl Env for SimEnv {
    fn now(&self) -> Moment {
        self.world.clock(self.owner.node)
    }

    fn send(&self, link: LinkId, message: Message, payload: Payload) {
        if !self.halted() {
            if matches!(message, Message::Op { kind: Kind::Copy | Kind::CopyHole, .. }) {
                self.world.check_copy_direction(self.owner.node);
            }
            self.world.send(self.owner, link.0, message, payload);
        }
    }

    fn order(&self, order: Order) {
        let (world, owner) = (&self.world, self.owner);
        if self.halted() {
            return;
        }
        match order {
            Order::CloseLink(link) => {
                let current = world.machine(owner.node).conn == Some(link.0);
                if current {
                    world.sched.note(NAMES[owner.node], "hangs-up", (link.0, 0), String::new);
                    world.hang_up(owner.node, true);
                }
            }
            Order::Heartbeat(heartbeat) => world.heartbeat(owner, heartbeat),
            Order::AskWitness { nonce, request } => {
                let new = world.with_life(owner, |life| {
                    let new = !life.asks.contains(&nonce);
                    if new {
                        life.asks.push(nonce);
                    }
                    new
                });
                if new == Some(true) {
                    world.sched.after(0, Ev::Ask { owner, nonce, request });
                }
            }
            Order::Promote => self.wish(Wish::Serve),
            Order::Demote { graceful } => self.wish(if graceful { Wish::StopGently } else { Wish::Stop }),
            Order::Freeze => world.set_frozen(owner, true),
            Order::Thaw => world.set_frozen(owner, false),
            Order::RenewAddress { .. } => {}
            Order::Fence { nonce, .. } => world.fence_asked(owner, nonce),
            Order::SettleFence { nonce } => world.settle_fence(owner, nonce),
            Order::NoteUnusable { .. } => {
                world.machine(owner.node).file.unusable = true;
                world.sched.after(MS, Ev::Deliver { owner, event: Event::UnusableNoted });
            }
            Order::NoteFailback { token } => {
                world.machine(owner.node).file.failback = Some(world.sched.now() / MS);
                let event = Event::FailbackNoted { token, noted: true };
                world.sched.after(MS, Ev::Deliver { owner, event });
            }
            Order::NoteVerify { .. } | Order::Grown | Order::HangUp => {}
            Order::Tell(notice) => self.tell(&notice),
        }
    }

    fn tick_at(&self, moment: Moment) {
        let changed = self.world.with_life(self.owner, |life| {
            let changed = life.tick != Some(moment);
            life.tick = Some(moment);
            changed
        });
        if changed == Some(true) {
            // A slow clock needs longer to reach the moment; asking a little late is always allowed.
            let wait = moment.since(self.now()).0;
            let event = Ev::Tick { owner: self.owner, at: moment };
            self.world.sched.after(wait + wait / 50 + MS / 10, event);
        }
    }

    fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        self.wait_for(wait_key(key), ready)
    }

    fn wake(&self, key: Key) {
        self.world.sched.wake(self.owner, Some(wait_key(key)));
    }

    fn breathe(&self) -> Result<(), Halted> {
        let busy = self.switch.take_busy();
        let jitter = self.world.sched.with_rng(|rng| rng.below(40_000));
        self.sleep(busy + jitter)
    }

    fn keep(&self, image: &Image) -> Result<u64, String> {
        self.put_aside(image)
    }

    fn note_version(&self, v: u64) -> Result<(), String> {
        let mut machine = self.world.machine(self.owner.node);
        machine.file.v = machine.file.v.max(v);
        drop(machine);
        self.world.stored(self.owner);
        Ok(())
    }
}
