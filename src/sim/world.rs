//! One run: clocks, links, machines that live and die, and the witness, in the order that the seed decides.
//!
//! Decides when each thing happens. Does not know what a node should do. Invariant: whatever a node sees (time,
//! messages, answers) comes from here.

use std::sync::{Arc, Mutex};

use crate::base::{Moment, NodeId, Span};
use crate::format::State;
use crate::mirror::{Mirror, Payload};
use crate::node::{Event, FenceEnd, LinkId, PathId, Timing};
use crate::wire::{Heartbeat, Message, WitnessReply, WitnessRequest};

use super::baton::lock;
use super::disk::{Loss, SimDisk, Switch};
use super::life::StateFile;
use super::lost_source::LostSource;
use super::net::{Arrival, Net};
use super::options::Plan;
use super::oracle::Oracle;
use super::rng::Rng;
use super::sched::{Due, Owner, Sched};
use super::serve::Serving;
use super::witness::SimWitness;

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;
pub const NAMES: [&str; 2] = ["A", "B"];
/// Heartbeat paths.
const PATHS: u8 = 2;
/// Heartbeats remembered for replaying: about a minute of both nodes.
const OLD_HEARTBEATS: usize = 600;

/// What happens at a moment.
pub enum Ev {
    Tick { owner: Owner, at: Moment },
    Pump { conn: u64, to: usize },
    Datagram { to: usize, path: PathId, heartbeat: Heartbeat },
    LinkUp { owner: Owner, conn: u64 },
    LinkDown { owner: Owner, conn: u64 },
    Dial,
    Ask { owner: Owner, nonce: u128, request: WitnessRequest },
    AtWitness { owner: Owner, nonce: u128, request: WitnessRequest },
    Answer { owner: Owner, nonce: u128, reply: WitnessReply },
    Deliver { owner: Owner, event: Event },
    Shot { by: usize, nonce: u128, late: bool },
    FenceAnswer { owner: Owner, nonce: u128, end: FenceEnd },
    Start { node: usize },
    SourceDies { source: usize },
    Insist,
    NewDisk { node: usize },
    Fault,
    Undo(super::faults::Undo),
    Look,
}

/// One life of a node.
pub struct Life {
    pub owner: Owner,
    pub switch: Arc<Switch>,
    /// What happens to un-flushed writes if the switch falls by itself.
    pub loss: Loss,
    pub mirror: Option<Arc<Mirror>>,
    pub serving: Arc<Mutex<Serving>>,
    pub tick: Option<Moment>,
    pub asks: Vec<u128>,
    pub frozen: bool,
}

/// A machine.
pub struct Machine {
    pub disk: Arc<SimDisk>,
    pub file: StateFile,
    pub lives: u32,
    pub up: Option<Life>,
    pub paused_until: u64,
    /// Rate of the clock against true time, parts per million.
    pub drift: i64,
    /// How far it jumped ahead.
    pub skew: u64,
    pub conn: Option<u64>,
    /// Fence agents that this machine runs.
    pub shots: Vec<u128>,
    /// What its disk held when it was up last.
    pub last: Option<State>,
}

/// Everything of one run.
pub struct World {
    pub plan: Plan,
    pub sched: Sched<Ev>,
    pub net: Mutex<Net<(Message, Payload)>>,
    pub machines: [Mutex<Machine>; 2],
    pub witness: Mutex<SimWitness>,
    pub oracle: Mutex<Oracle>,
    pub lost_source: Mutex<LostSource>,
    /// Pages of the disk before the data area.
    pub data_offset: u64,
    /// The run is over: everybody unwinds.
    pub over: std::sync::atomic::AtomicBool,
    /// Until this moment the registers are written fast and nobody flushes.
    pub spree_until: std::sync::atomic::AtomicU64,
    /// Heartbeats on their way or long gone.
    pub old_heartbeats: Mutex<std::collections::VecDeque<(usize, PathId, Heartbeat)>>,
    /// The conductor's next turn.
    pub until: std::sync::atomic::AtomicU64,
}

pub fn node_id(node: usize) -> NodeId {
    if node == 0 { NodeId::A } else { NodeId::B }
}

impl World {
    pub fn timing() -> Timing {
        Timing {
            keepalive: Span::from_millis(200),
            deadtime: Span::from_secs(5),
            initdead: Span::from_secs(10),
            slow_peer: Span::from_millis(1500),
            release: Span::from_secs(1),
            drift_ppm: 10_000,
            failback_delay: Span::from_secs(5),
            fence_delay: Span::from_secs(1),
            fence_retry: Span::from_secs(2),
            detach_grace: Span::from_secs(6),
        }
    }

    pub fn machine(&self, node: usize) -> std::sync::MutexGuard<'_, Machine> {
        lock(&self.machines[node])
    }

    pub fn is_over(&self) -> bool {
        self.over.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// The node's own clock.
    pub fn clock(&self, node: usize) -> Moment {
        let now = self.sched.now();
        let drift = self.machine(node).drift;
        let shift = i128::from(now) * i128::from(drift) / 1_000_000;
        let skew = self.machine(node).skew;
        Moment(u64::try_from(i128::from(now) + shift).unwrap_or(now) + skew)
    }

    /// Runs `act` on the life if it is still the one that is up.
    pub fn with_life<T>(&self, owner: Owner, act: impl FnOnce(&mut Life) -> T) -> Option<T> {
        self.machine(owner.node).up.as_mut().filter(|life| life.owner == owner).map(act)
    }

    pub fn in_spree(&self) -> bool {
        self.sched.now() < self.spree_until.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Somebody is mounted.
    pub fn serves(&self) -> bool {
        (0..2).any(|node| {
            let serving = self.machine(node).up.as_ref().map(|life| life.serving.clone());
            serving.is_some_and(|serving| lock(&serving).open)
        })
    }

    pub fn mirror_of(&self, owner: Owner) -> Option<Arc<Mirror>> {
        self.with_life(owner, |life| life.mirror.clone()).flatten()
    }

    fn owner_up(&self, node: usize) -> Option<Owner> {
        self.machine(node).up.as_ref().map(|life| life.owner)
    }

    pub fn deliver(&self, owner: Owner, event: Event) {
        if let Some(mirror) = self.mirror_of(owner) {
            mirror.deliver(event);
        }
    }

    /// Which node an event concerns while it is paused.
    fn subject(&self, due: &Due<Ev>) -> Option<usize> {
        match due {
            Due::Turn { task, .. } => Some(self.sched.owner_of(*task).node),
            Due::Event(event) => match event {
                Ev::Tick { owner, .. }
                | Ev::LinkUp { owner, .. }
                | Ev::LinkDown { owner, .. }
                | Ev::Ask { owner, .. }
                | Ev::Answer { owner, .. }
                | Ev::FenceAnswer { owner, .. }
                | Ev::Deliver { owner, .. } => Some(owner.node),
                Ev::Pump { to, .. } | Ev::Datagram { to, .. } => Some(*to),
                _ => None,
            },
        }
    }

    /// Runs until the moment, or until something was violated.
    pub fn run_until(self: &Arc<Self>, moment: u64) {
        self.until.store(moment, std::sync::atomic::Ordering::SeqCst);
        self.sched.conduct(|| self.until_turn());
    }

    /// Starts a task of a life.
    pub fn spawn(self: &Arc<Self>, owner: Owner, body: impl FnOnce() + Send + 'static) {
        let world = self.clone();
        self.sched.spawn(owner, body, move |panic| {
            if let (Some(panic), false) = (panic, world.is_over()) {
                world.sched.violate(format!("{}: panic: {panic}", NAMES[owner.node]));
            }
            let next = world.until_turn();
            world.sched.pass(next);
        });
    }

    /// The calling task lets others run for `nanos`.
    pub fn sleep(self: &Arc<Self>, owner: Owner, nanos: u64) {
        self.sched.sleep(owner, nanos, || self.until_turn());
    }

    /// The calling task waits to be woken.
    pub fn block(self: &Arc<Self>, owner: Owner, key: super::sched::WaitKey) {
        self.sched.block(owner, key, || self.until_turn());
    }

    /// Lets every thread unwind; nothing is watched any more.
    pub fn finish(self: &Arc<Self>) {
        self.over.store(true, std::sync::atomic::Ordering::SeqCst);
        for node in 0..2 {
            self.machine(node).paused_until = 0;
            if let Some(life) = &self.machine(node).up {
                life.switch.kill();
            }
            let lives = self.machine(node).lives;
            (0..=lives).for_each(|life| self.sched.wake(Owner { node, life }, None));
        }
        self.run_until(u64::MAX - 1);
        self.sched.join();
        // The mirrors hold the world through their environments.
        (0..2).for_each(|node| self.machine(node).up = None);
    }

    /// Makes things happen until it is a task's turn; `None`: the conductor's.
    fn until_turn(self: &Arc<Self>) -> Option<usize> {
        loop {
            let over = self.is_over();
            if !over {
                (0..2).for_each(|node| self.bury(node));
                if self.sched.with_trace(|trace| !trace.violations().is_empty()) {
                    return None;
                }
            }
            let due = self.sched.next(self.until.load(std::sync::atomic::Ordering::SeqCst))?;
            let paused = self.subject(&due).map_or(0, |node| self.machine(node).paused_until);
            let now = self.sched.now();
            match due {
                due if paused > now => self.sched.postpone(paused - now, due),
                Due::Turn { task, epoch } if self.sched.claim(task, epoch) => return Some(task),
                Due::Event(event) if !over => {
                    if let Some(panic) = super::baton::catch(|| self.event(event)) {
                        self.sched.violate(format!("panic: {panic}"));
                    }
                }
                _ => {}
            }
        }
    }

    /// A machine whose switch fell by itself is dead.
    fn bury(self: &Arc<Self>, node: usize) {
        let fallen =
            self.machine(node).up.as_ref().filter(|life| life.switch.is_dead()).map(|life| life.loss);
        if let Some(loss) = fallen {
            self.kill(node, loss);
        }
    }

    fn event(self: &Arc<Self>, event: Ev) {
        match event {
            Ev::Tick { owner, at } => {
                let due = self.with_life(owner, |life| life.tick == Some(at) && life.tick.take().is_some());
                if due == Some(true) {
                    self.deliver(owner, Event::Tick);
                }
            }
            Ev::Pump { conn, to } => self.pump(conn, to),
            Ev::Datagram { to, path, heartbeat } => {
                if let Some(owner) = self.owner_up(to) {
                    self.sched.note(NAMES[to], "heartbeat", (heartbeat.seq, heartbeat.echo_seq), String::new);
                    self.deliver(owner, Event::Heartbeat { path, heartbeat });
                }
            }
            Ev::LinkUp { owner, conn } => {
                if self.machine(owner.node).conn == Some(conn) {
                    self.sched.note(NAMES[owner.node], "link-up", (conn, 0), String::new);
                    self.deliver(owner, Event::LinkUp { link: LinkId(conn) });
                }
            }
            Ev::LinkDown { owner, conn } => {
                let mut machine = self.machine(owner.node);
                if machine.conn == Some(conn) {
                    machine.conn = None;
                    drop(machine);
                    self.sched.note(NAMES[owner.node], "link-down", (conn, 0), String::new);
                    self.deliver(owner, Event::LinkDown { link: LinkId(conn) });
                }
            }
            Ev::Dial => self.dial(),
            Ev::Ask { owner, nonce, request } => self.ask(owner, nonce, request),
            Ev::AtWitness { owner, nonce, request } => self.at_witness(owner, nonce, request),
            Ev::Answer { owner, nonce, reply } => {
                let open = self.with_life(owner, |life| life.asks.contains(&nonce));
                if open == Some(true) {
                    self.with_life(owner, |life| life.asks.retain(|other| *other != nonce));
                    self.sched.note(NAMES[owner.node], "witness", (0, 0), || format!("{reply:?}"));
                    self.deliver(owner, Event::WitnessReply { nonce, reply });
                }
            }
            Ev::Deliver { owner, event } => self.deliver(owner, event),
            Ev::Shot { by, nonce, late } => self.shot(by, nonce, late),
            Ev::FenceAnswer { owner, nonce, end } => self.fence_answer(owner, nonce, end),
            Ev::Start { node } => self.start_node(node),
            Ev::SourceDies { source } => self.source_dies(source),
            Ev::Insist => self.insist(),
            Ev::NewDisk { node } => self.new_disk(node),
            Ev::Fault => self.fault(),
            Ev::Undo(undo) => self.undo(undo),
            Ev::Look => self.look(),
        }
    }

    fn pump(&self, conn: u64, to: usize) {
        let now = self.sched.now();
        let arrival = lock(&self.net).arrive(conn, to, now);
        match arrival {
            Arrival::Nothing => {}
            Arrival::At(due) => self.sched.after(due - now, Ev::Pump { conn, to }),
            Arrival::Message((message, payload)) => {
                self.sched.after(0, Ev::Pump { conn, to });
                // Bytes of a connection that was replaced still sit in the receiver's buffers.
                let current = self.machine(to).conn == Some(conn);
                let ghost = !current && self.plan.ghosts;
                let Some(owner) = self.owner_up(to).filter(|_| current || ghost) else { return };
                let who = if ghost { "ghost" } else { "receive" };
                self.sched.note(NAMES[to], who, (conn, 0), || short(&message));
                if ghost {
                    lock(&self.oracle).count("ghost");
                }
                if let Some(mirror) = self.mirror_of(owner) {
                    mirror.received(LinkId(conn), message, payload);
                }
            }
        }
    }

    /// Looks every now and then whether both ends want a connection and the links carry one.
    fn dial(self: &Arc<Self>) {
        let again = self.sched.with_rng(|rng| rng.range(80 * MS, 200 * MS));
        self.sched.after(again, Ev::Dial);
        if !lock(&self.net).whole() {
            return;
        }
        let mut owners = Vec::new();
        let mut wanted = false;
        for node in 0..2 {
            let machine = self.machine(node);
            let Some(life) = machine.up.as_ref().filter(|life| life.mirror.is_some()) else { return };
            if machine.paused_until > self.sched.now() {
                return;
            }
            wanted |= machine.conn.is_none();
            owners.push(life.owner);
        }
        if !wanted {
            return;
        }
        let conn = lock(&self.net).connect();
        for owner in owners {
            let old = self.machine(owner.node).conn;
            if let Some(old) = old {
                self.event(Ev::LinkDown { owner, conn: old });
            }
            self.machine(owner.node).conn = Some(conn);
            let after = self.sched.with_rng(|rng| rng.range(MS / 10, 3 * MS));
            self.sched.after(after, Ev::LinkUp { owner, conn });
        }
    }

    /// Node `node` lets go of its connection; the other end learns it when it can.
    pub fn hang_up(&self, node: usize, told: bool) {
        let Some(conn) = self.machine(node).conn.take() else { return };
        let other = 1 - node;
        let carried = {
            let mut net = lock(&self.net);
            net.close_end(conn, node);
            !net.cut[other]
        };
        let peer = { self.machine(other).up.as_ref().map(|life| life.owner) };
        if let (true, true, Some(owner)) = (told, carried, peer) {
            let after = self.sched.with_rng(|rng| rng.range(MS / 2, 5 * MS));
            self.sched.after(after, Ev::LinkDown { owner, conn });
        }
    }

    pub fn send(&self, owner: Owner, conn: u64, message: Message, payload: Payload) {
        let to = 1 - owner.node;
        self.check_send(owner.node, &message);
        self.sched.note(NAMES[owner.node], "send", (conn, payload.wire_len() as u64), || short(&message));
        let now = self.sched.now();
        let bytes = 64 + payload.wire_len() as u64;
        let due = lock(&self.net).send(conn, to, bytes, (message, payload), now);
        if let Some(due) = due {
            self.sched.after(due - now, Ev::Pump { conn, to });
        }
    }

    pub fn heartbeat(&self, owner: Owner, heartbeat: Heartbeat) {
        let to = 1 - owner.node;
        {
            let mut old = lock(&self.old_heartbeats);
            old.push_back((to, PathId(0), heartbeat));
            if old.len() > OLD_HEARTBEATS {
                old.pop_front();
            }
        }
        for path in 0..PATHS {
            let copies = self.sched.with_rng(|rng| lock(&self.net).datagram(to, rng));
            for after in copies {
                self.sched.after(after, Ev::Datagram { to, path: PathId(path), heartbeat });
            }
        }
    }

    /// A cut healed: what was held back moves on after a retransmission.
    pub fn repump(&self) {
        for to in 0..2 {
            let pending = lock(&self.net).pending(to);
            for conn in pending {
                let after = self.sched.with_rng(|rng| rng.range(MS, 300 * MS));
                self.sched.after(after, Ev::Pump { conn, to });
            }
        }
    }

    /// Sends a question to the witness, again and again until it is answered.
    fn ask(&self, owner: Owner, nonce: u128, request: WitnessRequest) {
        let open = self.with_life(owner, |life| life.asks.contains(&nonce));
        if open != Some(true) {
            return;
        }
        self.sched.after(400 * MS, Ev::Ask { owner, nonce, request });
        let lost = lock(&self.net).witness_cut[owner.node] || self.sched.with_rng(|rng| rng.permille(50));
        if !lost {
            let after = self.sched.with_rng(|rng| rng.range(MS / 5, 5 * MS));
            self.sched.after(after, Ev::AtWitness { owner, nonce, request });
        }
    }

    fn at_witness(&self, owner: Owner, nonce: u128, request: WitnessRequest) {
        let answer = lock(&self.witness).answer(node_id(owner.node), &request);
        let Some(reply) = answer else { return };
        self.sched.note("W", "answer", (0, 0), || format!("{request:?} -> {reply:?}"));
        let lost = lock(&self.net).witness_cut[owner.node] || self.sched.with_rng(|rng| rng.permille(50));
        if !lost {
            let after = self.sched.with_rng(|rng| rng.range(MS / 5, 5 * MS));
            self.sched.after(after, Ev::Answer { owner, nonce, reply });
        }
    }

    /// The machine dies now.
    pub fn kill(self: &Arc<Self>, node: usize, loss: Loss) {
        let (owner, disk) = {
            let mut machine = self.machine(node);
            let Some(life) = machine.up.take() else { return };
            machine.last = life.mirror.as_ref().map(|mirror| mirror.image().state()).or(machine.last.take());
            life.switch.kill();
            machine.paused_until = 0;
            (life.owner, machine.disk.clone())
        };
        self.sched.note(NAMES[node], "dies", (u64::from(owner.life), loss as u64), || format!("{loss:?}"));
        self.hang_up(node, loss == Loss::Nothing);
        let mut rng: Rng = self.sched.with_rng(Rng::fork);
        disk.lose_power(loss, &mut rng);
        self.sched.wake(owner, None);
        lock(&self.oracle).died(node, loss);
    }
}

pub fn short(message: &Message) -> String {
    match message {
        Message::Hello(hello) => format!("Hello {:?} serving={}", hello.record, hello.serving),
        other => format!("{other:?}"),
    }
}
