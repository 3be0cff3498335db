//! Two production machines, a witness record, hand-moved clocks, a link that can be cut, and disks that forget what
//! was not flushed: small enough for ten-line scenarios and for a model checker.
//!
//! The stand-in for the mirror keeps one value per block; an extent is one block.
#![allow(dead_code, reason = "scenarios and the model each use a part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twinfs::base::{BlockNo, Generation, Members, Moment, NodeId, Record, Span, VolumeId};
use twinfs::cluster::{Witness, WitnessImage, witness_record};
use twinfs::format::{GenEntry, GenReason, ResyncMark, State};
use twinfs::node::{
    Action, Arbitration, Event, FenceEnd, Limits, LinkId, Mark, Mutations, Node, NodeConfig, OpId, Operator,
    Order, PathId, Refusal, StartInfo, StateWord, Timing,
};
use twinfs::wire::{CopyKind, Heartbeat, Kind, Message, Run, WitnessReply, WitnessRequest};

pub const A: usize = 0;
pub const B: usize = 1;
pub const BLOCKS: u64 = 3;
const COPY_OPS: u64 = 1 << 40;
/// What the wall clocks show when the nodes' own clocks begin, in milliseconds since 1970.
const WALL_MS: u64 = 1_795_698_200_000;

/// What survives a crash, and the caches that do not.
#[derive(Clone, Debug)]
pub struct Disk {
    pub state: State,
    pub stable: Vec<u32>,
    pub cur: Vec<u32>,
    pub differs: BTreeSet<u64>,
    /// Activity log: block -> stable before its first write, until settled.
    pub hot: BTreeSet<u64>,
    to_copy: BTreeSet<u64>,
    sent: BTreeSet<u64>,
    /// The image holds so many.
    pub blocks: u64,
    file_agrees: bool,
    /// The node state file: a request to a fence agent whose answer is not noted.
    pub fence_note: Option<u128>,
    /// And when it last asked for the volume by itself; `Some(None)`: not readable.
    pub failback_note: Option<Option<u64>>,
    /// What a target held before it was overwritten, and whether it is being put back.
    pub undo: BTreeMap<u64, u32>,
    pub going_back: bool,
    /// Copies that were put aside.
    pub kept: Vec<Vec<u32>>,
    /// A state on its way to the disk: a power loss keeps it or not.
    writing: Option<State>,
}

#[derive(Clone, Debug)]
struct Running {
    kind: Kind,
    first: u64,
    value: u32,
    /// What the block held before a local part that may still turn out not to have happened.
    before: Option<u32>,
}

/// What a fence agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Agent {
    Works,
    Fails,
    /// Neither shoots nor answers.
    Silent,
    /// Shoots, and nobody hears of it.
    ShootsSilently,
    /// Says that it shot, and did not: outside assumption A5.
    Lies,
}

/// A request on its way to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    pub by: usize,
    nonce: u128,
    level: u32,
    /// Whoever asked is dead: nobody waits for the answer.
    orphan: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acked {
    Done(OpId),
    Failed(OpId, Refusal),
}

#[derive(Clone, Debug)]
pub struct World {
    pub nodes: [Option<Node>; 2],
    pub disks: [Disk; 2],
    pub clocks: [Moment; 2],
    /// Messages on their way to a node, with the value of their block.
    pub wire: [VecDeque<(LinkId, Message, u32)>; 2],
    pub beats: [VecDeque<Heartbeat>; 2],
    /// Completions that a node's own shell still owes it.
    pub owed: [VecDeque<Event>; 2],
    pub link: Option<LinkId>,
    pub cut: bool,
    /// Heartbeats to a node are lost.
    pub deaf: [bool; 2],
    pub mounted: [bool; 2],
    /// Its operations do not touch its disk any more.
    pub left: [bool; 2],
    /// The node state file cannot be written.
    pub note_fails: bool,
    pub witness: Witness,
    /// What each node offers from its next start on.
    pub features: [u64; 2],
    /// Its image cannot grow.
    pub grow_fails: [bool; 2],
    /// There is no room to put its copy aside.
    pub keep_fails: [bool; 2],
    pub witness_cut: [bool; 2],
    pub questions: VecDeque<(usize, u128, WitnessRequest)>,
    pub answers: [VecDeque<(u128, WitnessReply)>; 2],
    /// What the agents of level 0 and of every higher level do.
    pub agents: [Agent; 2],
    pub shots: VecDeque<Shot>,
    running: [BTreeMap<OpId, Running>; 2],
    links: u64,
    ops: u64,
    seeds: u128,
    pub config: NodeConfig,
    pub acked: Vec<Acked>,
    /// Per block: newest value whose flush was acknowledged, and all newer ones.
    pub promised: Vec<Vec<u32>>,
    pub values: u32,
    /// The first broken promise.
    pub broken: Option<String>,
    pub promotions: u32,
    pub freezes: u32,
    pub handovers: u32,
    pub joins: u32,
}

pub fn id(n: usize) -> NodeId {
    if n == A { NodeId::A } else { NodeId::B }
}

impl Disk {
    fn set_state(&mut self, state: State) {
        if state.resync == ResyncMark::None {
            self.undo.clear();
            self.going_back = false;
        }
        self.state = state;
    }
}

fn gen_made() -> GenEntry {
    GenEntry { id: Generation(1), minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 }
}

impl World {
    /// Two equal members that have just been started.
    pub fn new(arbitration: Arbitration, mutations: Mutations) -> World {
        let record = Record { v: 1, members: Members::BOTH, primary: NodeId::A };
        let witness_seen = witness_record(record, &[gen_made()], 0);
        let disk = |n| Disk {
            state: State {
                volume: VolumeId(1),
                node: id(n),
                incarnation: 10 + n as u128,
                record: Some(record),
                gens: vec![gen_made()],
                bitmap_base: Generation(1),
                full: false,
                resync: ResyncMark::None,
                boot_epoch: 1,
                peer_boot_epoch: 0,
                retired: vec![],
                diverged: false,
                apart: twinfs::format::Apart::default(),
                witness_incarnation: 9,
            },
            stable: vec![0; BLOCKS as usize],
            cur: vec![0; BLOCKS as usize],
            differs: BTreeSet::new(),
            hot: BTreeSet::new(),
            to_copy: BTreeSet::new(),
            sent: BTreeSet::new(),
            blocks: BLOCKS,
            file_agrees: true,
            fence_note: None,
            failback_note: None,
            undo: BTreeMap::new(),
            going_back: false,
            kept: Vec::new(),
            writing: None,
        };
        let config = NodeConfig {
            me: NodeId::A,
            arbitration,
            timing: Timing::default(),
            failback: None,
            fence_levels: 1,
            pings: false,
            blocks: BLOCKS,
            copy_blocks_max: 4,
            features: twinfs::wire::FEATURES,
            resync: Limits::NONE,
            after_split: twinfs::base::AfterSplit::Manual,
            mutations,
        };
        let image = WitnessImage { incarnation: 9, records: BTreeMap::from([(VolumeId(1), witness_seen)]) };
        let mut world = World {
            nodes: [None, None],
            disks: [disk(A), disk(B)],
            clocks: [Moment(1), Moment(1)],
            wire: Default::default(),
            beats: Default::default(),
            owed: Default::default(),
            link: None,
            cut: false,
            deaf: [false; 2],
            mounted: [false; 2],
            left: [false; 2],
            note_fails: false,
            witness: Witness::new(image),
            features: [twinfs::wire::FEATURES; 2],
            grow_fails: [false; 2],
            keep_fails: [false; 2],
            witness_cut: [false; 2],
            questions: VecDeque::new(),
            answers: Default::default(),
            agents: [Agent::Works; 2],
            shots: VecDeque::new(),
            running: Default::default(),
            links: 0,
            ops: 0,
            seeds: 0,
            config,
            acked: Vec::new(),
            promised: vec![vec![0]; BLOCKS as usize],
            values: 0,
            broken: None,
            promotions: 0,
            freezes: 0,
            handovers: 0,
            joins: 0,
        };
        world.boot(A);
        world.boot(B);
        world
    }

    /// Connected, in sync, A mounted.
    pub fn whole(arbitration: Arbitration, mutations: Mutations) -> World {
        let mut world = World::new(arbitration, mutations);
        world.connect();
        world.run(3_000);
        assert!(world.mounted[A] && !world.mounted[B], "{}", world.why());
        assert_eq!(world.word(A), StateWord::InSync);
        world
    }

    pub fn boot(&mut self, n: usize) {
        let disk = &mut self.disks[n];
        let marks = !disk.differs.is_empty();
        let hot = !disk.hot.is_empty();
        disk.differs.extend(disk.hot.iter());
        disk.to_copy = disk.differs.clone();
        disk.sent.clear();
        disk.state.boot_epoch += 1;
        self.seeds += 1;
        let (file_agrees, going_back) = (disk.file_agrees, disk.going_back);
        let fence_left = disk.fence_note;
        let wall_ms = WALL_MS + self.clocks[n].0 / 1_000_000;
        let failback_ago = twinfs::node::failback_ago(disk.failback_note, wall_ms);
        let info = StartInfo {
            seed: self.seeds,
            marks: marks || hot,
            hot,
            file_agrees,
            going_back,
            fence_left,
            failback_ago,
        };
        let blocks = disk.blocks;
        let config = NodeConfig { me: id(n), blocks, features: self.features[n], ..self.config.clone() };
        self.nodes[n] = Some(Node::new(config, disk.state.clone(), info, self.clocks[n]));
    }

    /// The daemon becomes another one that keeps its mount: everything was at rest and stable.
    pub fn hand_on(&mut self, n: usize) {
        let view = self.node(n).view();
        let lease = self.config.timing.lease();
        let from = view.lease_until.map(|until| Moment(until.0 - lease.0));
        assert!(view.serving && self.mounted[n]);
        self.crash(n, true);
        self.disks[n].hot.clear();
        self.boot(n);
        self.nodes[n].as_mut().expect("booted").keep_mount(from);
        // Programs still read what the kernel has cached.
        self.mounted[n] = true;
    }

    /// Power loss: what was not flushed is lost, or luckily kept.
    pub fn crash(&mut self, n: usize, keep: bool) {
        self.lose(n, keep);
        self.cut_link();
    }

    /// The same, and everything was written in time; the other node does not notice that the link is gone.
    pub fn power_loss(&mut self, n: usize) {
        self.lose(n, true);
    }

    fn lose(&mut self, n: usize, keep: bool) {
        self.nodes[n] = None;
        if let Some(state) = self.disks[n].writing.take().filter(|_| keep) {
            self.disks[n].set_state(state);
        }
        if keep {
            self.disks[n].stable = self.disks[n].cur.clone();
        } else {
            self.disks[n].cur = self.disks[n].stable.clone();
        }
        self.owed[n].clear();
        self.answers[n].clear();
        self.running[n].clear();
        self.mounted[n] = false;
        self.left[n] = false;
        for shot in self.shots.iter_mut().filter(|shot| shot.by == n) {
            shot.orphan = true;
        }
    }

    /// The oldest request is carried out.
    pub fn shoot(&mut self, agent: Agent) -> bool {
        let Some(shot) = self.shots.pop_front() else { return false };
        if matches!(agent, Agent::Works | Agent::ShootsSilently) && self.nodes[1 - shot.by].is_some() {
            self.crash(1 - shot.by, true);
        }
        let end = match agent {
            Agent::Works | Agent::Lies => FenceEnd::Done,
            Agent::Fails => FenceEnd::Failed,
            Agent::Silent | Agent::ShootsSilently => FenceEnd::Unanswered,
        };
        if !shot.orphan {
            self.disks[shot.by].fence_note = None;
            self.owed[shot.by].push_back(Event::FenceResult { nonce: shot.nonce, end });
        }
        true
    }

    fn agent_of(&self) -> Agent {
        self.agents[usize::from(self.shots.front().is_some_and(|shot| shot.level > 0))]
    }

    /// A new, blank disk that nobody has counted a start on.
    pub fn replace_disk(&mut self, n: usize) {
        let disk = &mut self.disks[n];
        disk.state = State {
            incarnation: disk.state.incarnation + 100,
            record: None,
            gens: vec![],
            bitmap_base: Generation(0),
            resync: ResyncMark::None,
            boot_epoch: 0,
            peer_boot_epoch: 0,
            diverged: false,
            retired: vec![],
            apart: twinfs::format::Apart::default(),
            witness_incarnation: 0,
            ..disk.state.clone()
        };
        disk.stable = vec![0; BLOCKS as usize];
        disk.cur = disk.stable.clone();
        disk.hot.clear();
        disk.differs.clear();
        disk.undo.clear();
        disk.going_back = false;
    }

    /// The mount that was asked for fails.
    pub fn fail_promotion(&mut self, n: usize) {
        self.owed[n].retain(|event| *event != Event::Promoted);
        self.mounted[n] = false;
        self.step(n, Event::PromoteFailed);
    }

    pub fn cut_link(&mut self) {
        let link = self.link.take();
        for n in [A, B] {
            self.wire[n].clear();
            self.beats[n].clear();
            if let Some(link) = link {
                self.step(n, Event::LinkDown { link });
            }
        }
    }

    /// All links are cut until `connect`.
    pub fn part(&mut self) {
        self.cut = true;
        self.cut_link();
    }

    pub fn connect(&mut self) {
        self.cut = false;
        if self.link.is_some() || self.nodes.iter().any(Option::is_none) {
            return;
        }
        self.links += 1;
        let link = LinkId(self.links);
        self.link = Some(link);
        for n in [A, B] {
            // Whoever hears of it first may hang up at once.
            if self.link != Some(link) {
                return;
            }
            let changed = self.disks[n].differs.len() as u64;
            if let Some(node) = self.nodes[n].as_mut() {
                node.changed_alone(changed);
            }
            self.step(n, Event::LinkUp { link });
        }
    }

    pub fn step(&mut self, n: usize, event: Event) {
        let now = self.clocks[n];
        let mut out = Vec::new();
        if let Some(node) = self.nodes[n].as_mut() {
            node.step(now, event, &mut out);
        }
        for action in out {
            self.execute(n, action);
        }
    }

    fn send(&mut self, n: usize, link: LinkId, message: Message, value: u32) {
        if self.link == Some(link) && !self.cut {
            self.wire[1 - n].push_back((link, message, value));
        }
    }

    fn execute(&mut self, n: usize, action: Action) {
        match action {
            Action::Start { op, send, mark } => self.start(n, op, send, mark),
            Action::Resend { op, link, session, seq } => {
                if let Some(running) = self.running[n].get(&op).cloned() {
                    self.send_op(n, link, session, seq, running);
                }
            }
            Action::Complete { op } => self.complete(n, op),
            Action::Fail { op, refusal } => {
                let owed = self.owed[n].len();
                self.owed[n].retain(|event| *event != Event::LocalDone { op });
                if let Some(Running { first, before: Some(before), .. }) = self.running[n].remove(&op)
                    && self.owed[n].len() < owed
                {
                    // The thread saw the refusal before it came to its local part.
                    self.disks[n].cur[first as usize] = before;
                }
                self.acked.push(Acked::Failed(op, refusal));
            }
            Action::Mark { token, runs } => {
                let blocks: Vec<u64> = blocks(&runs).collect();
                self.disks[n].differs.extend(&blocks);
                self.disks[n].to_copy.extend(&blocks);
                for block in &blocks {
                    self.disks[n].sent.remove(block);
                }
                self.owed[n].push_back(Event::Marked { token });
            }
            Action::LeaveDisk { for_peer } => self.left[n] |= for_peer,
            Action::Settled { runs } => {
                let busy: BTreeSet<u64> = self.running[n].values().map(|r| r.first).collect();
                for block in blocks(&runs).filter(|b| !busy.contains(b)) {
                    self.disks[n].hot.remove(&block);
                }
            }
            Action::Grow { token, blocks, prepare } => {
                if !prepare && !self.grow_fails[n] {
                    self.disks[n].blocks = blocks;
                }
                self.owed[n].push_back(match self.grow_fails[n] {
                    false => Event::Grown { token },
                    true => Event::GrowFailed { token, text: "no room".into() },
                });
            }
            Action::Store { token, state } => {
                self.owed[n].push_back(Event::Stored { token });
                self.disks[n].writing = Some(*state);
            }
            Action::Order(Order::NoteUnusable { .. }) => {
                if !self.note_fails {
                    self.disks[n].file_agrees = false;
                    self.owed[n].push_back(Event::UnusableNoted);
                }
            }
            Action::Order(Order::NoteFailback { token }) => {
                if !self.note_fails {
                    self.disks[n].failback_note = Some(Some(WALL_MS + self.clocks[n].0 / 1_000_000));
                }
                self.owed[n].push_back(Event::FailbackNoted { token, noted: !self.note_fails });
            }
            Action::Send { link, message } => {
                self.handovers += u32::from(matches!(message, Message::HandoverDone { .. }));
                self.joins += u32::from(matches!(message, Message::Joined { .. }));
                self.send(n, link, message, 0);
            }
            Action::Order(Order::CloseLink(link)) => {
                if self.link == Some(link) {
                    self.cut_link();
                }
            }
            Action::Order(Order::Heartbeat(heartbeat)) => {
                if !self.cut && !self.deaf[1 - n] && self.nodes[1 - n].is_some() {
                    self.beats[1 - n].push_back(heartbeat);
                }
            }
            Action::Order(Order::AskWitness { nonce, request }) => {
                self.questions.push_back((n, nonce, request));
            }
            Action::Order(Order::Fence { nonce, level }) => {
                self.disks[n].fence_note = Some(nonce);
                self.shots.push_back(Shot { by: n, nonce, level, orphan: false });
            }
            Action::Order(Order::SettleFence { nonce }) => {
                self.shots.retain(|shot| shot.by != n || shot.nonce != nonce);
                self.disks[n].fence_note = None;
                self.owed[n].push_back(Event::FenceResult { nonce, end: FenceEnd::Failed });
            }
            Action::Order(Order::Promote) => {
                self.promotions += 1;
                self.mounted[n] = true;
                self.check_image(n);
                self.owed[n].push_back(Event::Promoted);
            }
            Action::Order(Order::Demote { .. }) => {
                self.mounted[n] = false;
                self.owed[n].push_back(Event::Demoted);
            }
            Action::Order(Order::Freeze) => self.freezes += 1,
            Action::Order(Order::Tell(notice)) => {
                if std::env::var_os("PAIR_TELL").is_some() {
                    eprintln!("{:?} {}: {notice:?}", self.clocks[n], id(n));
                }
            }
            other => self.execute_copy(n, other),
        }
    }

    fn execute_copy(&mut self, n: usize, action: Action) {
        let disk = &mut self.disks[n];
        match action {
            Action::SendMarks { session, .. } => {
                let mut all = disk.differs.clone();
                all.extend(&disk.hot);
                let runs = all.into_iter().map(|b| Run { first: BlockNo(b), count: 1 }).collect();
                self.owed[n].push_back(Event::MarksRead { session, runs, last: true });
            }
            Action::AddMarks { session, runs, last } => {
                disk.to_copy.extend(blocks(&runs));
                if last {
                    self.owed[n].push_back(Event::MarksAdded { session });
                }
            }
            Action::StartCopy { session, kind, source: true } => {
                disk.sent.clear();
                if kind == CopyKind::Bits {
                    disk.to_copy.extend(&disk.hot);
                    disk.to_copy.extend(&disk.differs);
                } else {
                    disk.to_copy = (0..BLOCKS).collect();
                }
                let total = disk.to_copy.len() as u64;
                self.owed[n].push_back(Event::CopyReady { session, total });
            }
            Action::Copy { session, .. } => {
                let locked: BTreeSet<u64> =
                    self.running[n].values().filter(|r| r.kind.writes()).map(|r| r.first).collect();
                let next =
                    disk.to_copy.iter().find(|b| !disk.sent.contains(b) && !locked.contains(b)).copied();
                let busy = disk.to_copy.intersection(&locked).count() as u64;
                match next {
                    Some(block) => {
                        disk.sent.insert(block);
                        self.ops += 1;
                        let op = OpId(COPY_OPS + self.ops);
                        let value = disk.cur[block as usize];
                        self.running[n].insert(
                            op,
                            Running { kind: Kind::Copy, first: u64::MAX - block, value, before: None },
                        );
                        let (first, count) = (BlockNo(block), 1);
                        self.owed[n].push_back(Event::CopyRead { op, first, count, hole: false });
                    }
                    None => self.owed[n].push_back(Event::CopyExhausted { session, busy }),
                }
            }
            Action::SendCopy { op, link, session, seq } => {
                if let Some(read) = self.running[n].remove(&op) {
                    let first = u64::MAX - read.first;
                    self.send_op(n, link, session, seq, Running { first, ..read });
                }
            }
            Action::DropCopy { op } => {
                if let Some(read) = self.running[n].remove(&op) {
                    disk.sent.remove(&(u64::MAX - read.first));
                }
            }
            Action::Copied { first, .. } => {
                disk.to_copy.remove(&first.0);
                disk.sent.remove(&first.0);
            }
            Action::Keep { token } => {
                let text = "no room".to_string();
                let failed = self.keep_fails[n].then_some(Event::NotKept { token, text });
                self.owed[n].push_back(failed.unwrap_or(Event::Kept { token, at: 1_700_000_000 }));
            }
            Action::GoBack { token } => {
                disk.going_back = true;
                for (block, value) in &disk.undo {
                    disk.differs.insert(*block);
                    disk.cur[*block as usize] = *value;
                }
                disk.stable = disk.cur.clone();
                self.owed[n].push_back(Event::WentBack { token });
            }
            Action::ClearMarks => {
                disk.differs.clear();
                disk.to_copy.clear();
                disk.sent.clear();
            }
            _ => {}
        }
    }

    fn start(
        &mut self,
        n: usize,
        op: OpId,
        send: Option<(LinkId, twinfs::wire::Session, twinfs::wire::Seq)>,
        mark: Mark,
    ) {
        let Some(running) = self.running[n].get(&op).cloned() else { return };
        let disk = &mut self.disks[n];
        if running.kind.writes() && !self.left[n] {
            disk.hot.insert(running.first);
            if mark != Mark::No {
                disk.differs.insert(running.first);
            }
            if mark == Mark::ToCopy {
                disk.to_copy.insert(running.first);
                disk.sent.remove(&running.first);
            }
            let before = std::mem::replace(&mut disk.cur[running.first as usize], running.value);
            if let Some(op) = self.running[n].get_mut(&op) {
                op.before = Some(before);
            }
        }
        if running.kind.flushes() && !self.left[n] {
            disk.stable = disk.cur.clone();
        }
        self.owed[n].push_back(Event::LocalDone { op });
        if let Some((link, session, seq)) = send {
            self.send_op(n, link, session, seq, running);
        }
    }

    fn send_op(
        &mut self,
        n: usize,
        link: LinkId,
        session: twinfs::wire::Session,
        seq: twinfs::wire::Seq,
        op: Running,
    ) {
        let count = u64::from(op.kind.writes());
        let message = Message::Op { session, seq, kind: op.kind, first: BlockNo(op.first), count };
        self.send(n, link, message, op.value);
    }

    fn complete(&mut self, n: usize, op: OpId) {
        self.acked.push(Acked::Done(op));
        let Some(done) = self.running[n].remove(&op) else { return };
        let other = self.nodes[1 - n].as_ref().map(|node| node.view());
        if other.is_some_and(|view| {
            view.serving && view.record.is_some_and(|r| r.members.solo() == Some(id(1 - n)))
        }) {
            // Legal only if the other one holds it: it was done there before the takeover.
            let there = &self.disks[1 - n].cur;
            if done.kind.writes() && !self.promised[done.first as usize].contains(&there[done.first as usize])
            {
                self.broken.get_or_insert("a node acknowledged what the serving one lacks (I1)".into());
            }
        }
        if done.kind == Kind::WriteFlush {
            let promised = &mut self.promised[done.first as usize];
            if let Some(at) = promised.iter().position(|v| *v == done.value) {
                promised.drain(..at);
            }
        }
        if done.kind == Kind::Flush {
            // Everything acknowledged before the flush was issued; the scenarios issue it last.
            for block in 0..BLOCKS as usize {
                let value = self.disks[if self.left[n] { 1 - n } else { n }].cur[block];
                if let Some(at) = self.promised[block].iter().position(|v| *v == value) {
                    self.promised[block].drain(..at);
                }
            }
        }
    }

    /// I3: every acknowledged flushed value, or a newer one, is in the image that begins to serve.
    fn check_image(&mut self, n: usize) {
        for block in 0..BLOCKS as usize {
            let value = self.disks[n].cur[block];
            if !self.promised[block].contains(&value) {
                let text = format!(
                    "{}: block {block} is {value}, not one of {:?} (I3)",
                    id(n),
                    self.promised[block]
                );
                self.broken.get_or_insert(text);
            }
        }
    }

    /// A write (and flush) by the application on `n`.
    pub fn write(&mut self, n: usize, kind: Kind, block: u64) -> OpId {
        self.ops += 1;
        self.values += 1;
        let op = OpId(self.ops);
        let value = self.values;
        if kind.writes() && self.nodes[n].as_ref().is_some_and(|node| node.view().serving) {
            self.promised[block as usize].push(value);
        }
        self.running[n].insert(op, Running { kind, first: block, value, before: None });
        let count = u64::from(kind.writes());
        self.step(n, Event::Issue { op, kind, first: BlockNo(block), count });
        op
    }

    pub fn is_done(&self, op: OpId) -> bool {
        self.acked.contains(&Acked::Done(op))
    }

    pub fn node(&self, n: usize) -> &Node {
        self.nodes[n].as_ref().expect("it runs")
    }

    pub fn operator(&mut self, n: usize, operator: Operator) {
        self.step(n, Event::Operator(operator));
    }

    /// The next message on its way to `n` arrives.
    pub fn deliver(&mut self, n: usize) -> bool {
        let Some((link, message, value)) = self.wire[n].pop_front() else { return false };
        let payload = match &message {
            Message::Op { session, seq, kind, first, .. } => Some((*session, *seq, *kind, *first)),
            _ => None,
        };
        let now = self.clocks[n];
        let mut out = Vec::new();
        if let Some(node) = self.nodes[n].as_mut() {
            node.step(now, Event::Received { link, message }, &mut out);
        }
        for action in out {
            if let Action::Apply { session, seq, mark, .. } = &action {
                let (s, q, kind, first) = payload.expect("an Apply answers an Op");
                assert!((s, q) == (*session, *seq), "the Apply is for the Op that came");
                let disk = &mut self.disks[n];
                if kind.writes() {
                    disk.hot.insert(first.0);
                    if *mark {
                        disk.differs.insert(first.0);
                        disk.to_copy.insert(first.0);
                    }
                    if disk.state.resync != ResyncMark::None {
                        disk.undo.entry(first.0).or_insert(disk.cur[first.0 as usize]);
                    }
                    disk.cur[first.0 as usize] = value;
                }
                if kind.flushes() {
                    disk.stable = disk.cur.clone();
                    disk.hot.clear();
                }
                self.owed[n].push_back(Event::Applied { session: s, seq: q });
            } else {
                self.execute(n, action);
            }
        }
        true
    }

    pub fn beat(&mut self, n: usize) -> bool {
        let Some(heartbeat) = self.beats[n].pop_front() else { return false };
        self.step(n, Event::Heartbeat { path: PathId(0), heartbeat });
        true
    }

    pub fn pay(&mut self, n: usize) -> bool {
        let Some(event) = self.owed[n].pop_front() else { return false };
        if matches!(event, Event::Stored { .. })
            && let Some(state) = self.disks[n].writing.take()
        {
            self.disks[n].set_state(state);
        }
        if matches!(event, Event::Kept { .. }) {
            let copy = self.disks[n].cur.clone();
            self.disks[n].kept.push(copy);
        }
        self.step(n, event);
        true
    }

    pub fn ask(&mut self) -> bool {
        let Some((n, nonce, request)) = self.questions.pop_front() else { return false };
        if !self.witness_cut[n] {
            let (reply, _) = self.witness.answer(VolumeId(1), id(n), &request);
            self.answers[n].push_back((nonce, reply));
        }
        true
    }

    pub fn answer(&mut self, n: usize) -> bool {
        let Some((nonce, reply)) = self.answers[n].pop_front() else { return false };
        self.step(n, Event::WitnessReply { nonce, reply });
        true
    }

    /// Everything that can happen without time passing.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = self.ask() || self.shoot(self.agent_of());
            for n in [A, B] {
                moved |= self.pay(n) || self.deliver(n) || self.beat(n) || self.answer(n);
            }
            if !moved {
                return;
            }
        }
        panic!("the pair never comes to rest: {}", self.why());
    }

    /// One thing after the other happens until `reached`, or nothing more happens without time passing.
    pub fn until(&mut self, mut reached: impl FnMut(&World) -> bool) -> bool {
        for _ in 0..10_000 {
            if reached(self) {
                return true;
            }
            let moved =
                [A, B].into_iter().any(|n| self.pay(n) || self.deliver(n) || self.answer(n)) || self.ask();
            if !moved {
                return false;
            }
        }
        false
    }

    /// `ms` pass on both clocks; a link that is not cut comes back by itself.
    pub fn run(&mut self, ms: u64) {
        self.settle();
        for _ in 0..ms / 50 {
            for n in [A, B] {
                self.clocks[n] = self.clocks[n] + Span::from_millis(50);
                self.step(n, Event::Tick);
            }
            self.note_two();
            if !self.cut {
                self.connect();
            }
            self.settle();
            self.note_two();
        }
    }

    /// Both clocks run alike here, so that two leases never overlap.
    fn note_two(&mut self) {
        let answers = |n: usize| self.nodes[n].as_ref().is_some_and(|node| node.may_answer(self.clocks[n]));
        if self.left.contains(&true) && answers(A) && answers(B) {
            self.broken.get_or_insert("a node answers beside the one whose copy it works on (T1)".into());
        }
    }

    /// The disk fails under no operation in particular.
    pub fn fail_disk(&mut self, n: usize) {
        self.ops += 1;
        let op = OpId(self.ops);
        self.step(n, Event::LocalFailed { op });
    }

    /// Time passes for one node only, in one jump.
    pub fn jump(&mut self, n: usize, ms: u64) {
        self.clocks[n] = self.clocks[n] + Span::from_millis(ms);
        self.step(n, Event::Tick);
    }

    pub fn word(&self, n: usize) -> StateWord {
        self.nodes[n].as_ref().expect("running").view().state
    }

    pub fn why(&self) -> String {
        let one = |n: usize| {
            let view = self.nodes[n].as_ref().map(|node| node.view());
            view.map(|v| format!("{}: {:?} {} {:?} {}", id(n), v.role, v.state, v.record, v.reason.text))
        };
        let conv = |n: usize| {
            let text = format!("{:?}", self.nodes[n]);
            text.find("phase: ").map(|at| text[at..].chars().take(400).collect::<String>())
        };
        format!("{:?}\n{:?}\nbroken: {:?}\n{:?}\n{:?}", one(A), one(B), self.broken, conv(A), conv(B))
    }

    pub fn assert_in_sync(&self) {
        assert_eq!(self.broken, None);
        assert_eq!((self.word(A), self.word(B)), (StateWord::InSync, StateWord::InSync), "{}", self.why());
        assert_eq!(self.disks[A].cur, self.disks[B].cur, "{}", self.why());
    }

    /// What is broken at this moment stays broken.
    pub fn note_broken(&mut self) {
        if let Err(text) = self.check() {
            self.broken.get_or_insert(text);
        }
    }

    /// The promises that hold at every instant.
    pub fn check(&self) -> Result<(), String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let views: Vec<_> = self.nodes.iter().flatten().map(|node| node.view()).collect();
        let alone = |n: usize| {
            self.nodes[n].as_ref().is_some_and(|node| {
                node.view().serving && node.view().record.is_some_and(|r| r.members.solo() == Some(id(n)))
            })
        };
        if alone(A) && alone(B) {
            return Err("both nodes serve alone (I1)".into());
        }
        for node in self.nodes.iter().flatten() {
            node.check()?;
        }
        let quiet = views.len() == 2
            && views.iter().all(|v| v.state == StateWord::InSync && v.operations == 0)
            && views[0].record == views[1].record
            && self.wire.iter().all(VecDeque::is_empty)
            && self.owed.iter().all(VecDeque::is_empty);
        if quiet && self.disks[A].cur != self.disks[B].cur {
            return Err(format!("in sync, but {:?} and {:?} (I6)", self.disks[A].cur, self.disks[B].cur));
        }
        Ok(())
    }
}

fn blocks(runs: &[Run]) -> impl Iterator<Item = u64> {
    runs.iter().flat_map(|run| run.first.0..run.first.0 + run.count)
}
