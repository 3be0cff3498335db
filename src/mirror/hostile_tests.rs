//! A peer that holds the key and sends whatever it likes, in any order: nothing panics, nobody waits for ever, nothing
//! that a primary flushed is touched, and the image opens afterwards.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::tests::{block, made_by};
use super::*;
use crate::base::{BlockNo, ExtentNo, FastSet, Generation, Members, Moment, NodeId, Record, Span};
use crate::format::{GenEntry, GenReason, ResyncMark};
use crate::image::{Blocks, Image, OpenOptions};
use crate::node::{
    Arbitration, Event, Limits, LinkId, Mutations, Node, NodeConfig, Operator, Order, StartInfo, Timing,
};
use crate::wire::{
    DecisionHash, HEADER_BYTES, Header, Hello, Kind, Message, RUNS_MAX, Run, Seq, Session, decode, encode,
};

/// Keeps what the node sends, does at once what it orders.
struct Shell {
    parking: Parking,
    now: AtomicU64,
    sent: Mutex<Vec<Message>>,
    orders: Mutex<VecDeque<Order>>,
    /// The node asked for the end of the link.
    closed: AtomicBool,
}

impl Env for Shell {
    fn now(&self) -> Moment {
        Moment(self.now.load(Ordering::SeqCst))
    }
    fn send(&self, _: LinkId, message: Message, _: Payload) {
        self.sent.lock().unwrap().push(message);
    }
    fn order(&self, order: Order) {
        self.orders.lock().unwrap().push_back(order);
    }
    fn tick_at(&self, _: Moment) {}
    fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        self.parking.wait(key, ready)
    }
    fn wake(&self, key: Key) {
        self.parking.wake(key);
    }
    fn breathe(&self) -> Result<(), Halted> {
        if self.parking.is_halted() { Err(Halted) } else { Ok(()) }
    }
    fn note_version(&self, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// xorshift64*, as good as any here.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let last = u64::try_from(of.len()).unwrap();
        (last > 0).then(|| of[usize::try_from(self.roll(last)).unwrap()].clone())
    }

    /// Numbers that mean something here, their neighbours, and others.
    fn number(&mut self) -> u64 {
        let near = self.roll(12);
        let base = [0, 1, 2, 9, 1024, 4096, 8192, 1 << 62, u64::MAX - 3, u64::MAX];
        base[usize::try_from(self.roll(10)).unwrap()].wrapping_add(if near < 4 { near } else { 0 })
    }
}

fn session_of(message: &Message) -> Option<Session> {
    match message {
        Message::Op { session, .. }
        | Message::Done { session, .. }
        | Message::Marks { session, .. }
        | Message::TargetReady { session }
        | Message::Digests { session, .. }
        | Message::Join { session, .. }
        | Message::Joined { session }
        | Message::Handover { session, .. }
        | Message::HandoverDone { session, .. }
        | Message::AskHandover { session }
        | Message::Left { session }
        | Message::Bye { session } => Some(*session),
        _ => None,
    }
}

/// What the peer knows of the node: everything it was sent.
struct Peer<'a> {
    dice: Dice,
    seen: &'a [Message],
    seq: &'a mut u64,
}

impl Peer<'_> {
    fn session(&mut self) -> Session {
        let known: Vec<Session> = self.seen.iter().filter_map(session_of).collect();
        let random = Session(self.dice.number());
        if self.dice.roll(10) == 0 { random } else { known.last().copied().unwrap_or(random) }
    }

    fn record(&mut self) -> Record {
        let members = [Members::BOTH, Members::only(NodeId::A), Members::only(NodeId::B)];
        let members = self.dice.one(&members).unwrap();
        let primary = if self.dice.roll(2) == 0 { NodeId::A } else { NodeId::B };
        Record { v: self.dice.number() % (1 << 62), members, primary }
    }

    fn gens(&mut self) -> Vec<GenEntry> {
        let reasons = [GenReason::Made, GenReason::WentSolo, GenReason::Forced];
        let count = self.dice.roll(4);
        (0..count)
            .map(|at| GenEntry {
                id: Generation(u128::from(self.dice.roll(8))),
                minted_by: NodeId::B,
                at_v: at,
                reason: self.dice.one(&reasons).unwrap(),
                first_txn: 0,
            })
            .collect()
    }

    /// What the node said of itself as if the peer said it, sometimes changed.
    fn hello(&mut self) -> Option<Message> {
        let own =
            self.seen.iter().rev().find_map(|m| if let Message::Hello(h) = m { Some(h) } else { None })?;
        let mut hello = Hello { node: NodeId::B, nonce: own.nonce ^ 1, ..(**own).clone() };
        hello.incarnation = 77;
        hello.serving = self.dice.roll(8) == 0;
        hello.full = self.dice.roll(4) == 0;
        hello.marks = self.dice.roll(2) == 0;
        hello.hot = self.dice.roll(2) == 0;
        if self.dice.roll(3) == 0 {
            hello.record = Some(self.record());
        }
        if self.dice.roll(3) == 0 {
            hello.gens = self.gens();
        }
        if self.dice.roll(6) == 0 {
            hello.resync = ResyncMark::Target { of: Generation(self.dice.number().into()) };
        }
        Some(Message::Hello(Box::new(hello)))
    }

    fn op(&mut self) -> Message {
        let kinds = [
            Kind::Write,
            Kind::WriteFlush,
            Kind::Flush,
            Kind::Discard,
            Kind::Copy,
            Kind::CopyHole,
            Kind::Back,
        ];
        let kind = self.dice.one(&kinds).unwrap();
        *self.seq += 1;
        let seq = if self.dice.roll(8) == 0 { self.dice.number() } else { *self.seq };
        let count = if kind.has_payload() { self.dice.roll(4) } else { self.dice.number() };
        let (session, first) = (self.session(), BlockNo(self.dice.number()));
        Message::Op { session, seq: Seq(seq), kind, first, count }
    }

    fn next(&mut self) -> Option<Message> {
        let session = self.session();
        Some(match self.dice.roll(20) {
            0..=2 => return self.hello(),
            3..=5 => {
                let own = self.seen.iter().rev().find(|m| matches!(m, Message::Decided(_)));
                own.cloned().filter(|_| self.dice.roll(8) > 0).unwrap_or(Message::Decided(DecisionHash(5)))
            }
            6..=9 => self.op(),
            10 => Message::Done { session, upto: Seq(self.dice.number()) },
            11 => {
                let count = if self.dice.roll(20) == 0 { RUNS_MAX } else { 2 };
                let run = || Run { first: BlockNo(self.dice.number()), count: self.dice.number() };
                Message::Marks {
                    session,
                    runs: std::iter::repeat_with(run).take(count).collect(),
                    last: true,
                }
            }
            12 => Message::TargetReady { session },
            13 => Message::Digests {
                session,
                extent: ExtentNo(self.dice.number()),
                last: self.dice.roll(2) == 0,
            },
            14 => Message::Join { session, record: self.record(), gens: self.gens() },
            15 => Message::Joined { session },
            16 => Message::Handover { session, record: self.record() },
            17 => Message::HandoverDone { session, record: self.record() },
            18 => Message::AskHandover { session },
            _ => match self.dice.roll(5) {
                0 => Message::Fetch { id: self.dice.number(), block: BlockNo(self.dice.number()) },
                1 => {
                    Message::Block { id: self.dice.roll(4), block: BlockNo(self.dice.number()), found: true }
                }
                2 => {
                    let (first, count) = (ExtentNo(self.dice.number()), self.dice.number());
                    Message::Check { id: self.dice.roll(9), first, count, hash: [7; 15] }
                }
                3 => Message::Checked {
                    id: self.dice.roll(9),
                    upto: ExtentNo(self.dice.number()),
                    equal: false,
                },
                _ => Message::Bye { session },
            },
        })
    }
}

/// The message as the daemon reads it: encoded, decoded, with a payload of a length that fits, or not at all.
fn through_the_link(message: &Message, fill: u8) -> Option<(Message, Payload)> {
    let blocks = match message {
        Message::Op { count, .. } => usize::try_from(*count).ok().filter(|count| *count < 1024).unwrap_or(0),
        _ => 1,
    };
    for len in [0, blocks * BlockNo::SIZE, 128 + 1024 * 15] {
        let bytes = vec![fill; len];
        let mut frame = Vec::new();
        encode(message, len, &mut frame);
        let Ok(decoded) = Header::read(&frame).and_then(|header| decode(header, &frame[HEADER_BYTES..]))
        else {
            continue;
        };
        if let Some(payload) = Payload::read(&decoded, &bytes) {
            return Some((decoded, payload));
        }
    }
    None
}

/// How a node meets the peer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Alone, serving, nothing that the peer says may touch what it has.
    Primary,
    /// A member that follows.
    Secondary,
}

struct Met {
    kinds_sent: FastSet<std::mem::Discriminant<Message>>,
    closed: usize,
}

fn start(role: Role) -> (Arc<crate::image::MemDisk>, Arc<Shell>, Arc<Mirror>) {
    let record = match role {
        Role::Primary => Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A },
        Role::Secondary => Record { v: 1, members: Members::BOTH, primary: NodeId::B },
    };
    let disk = made_by(record);
    let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).unwrap());
    let shell = Arc::new(Shell {
        parking: Parking::default(),
        now: AtomicU64::new(1),
        sent: Mutex::default(),
        orders: Mutex::default(),
        closed: AtomicBool::new(false),
    });
    let config = NodeConfig {
        me: NodeId::A,
        arbitration: Arbitration::Manual,
        timing: Timing::default(),
        failback: None,
        fence_levels: 0,
        pings: false,
        blocks: image.block_count(),
        copy_blocks_max: 16,
        features: crate::wire::FEATURES,
        resync: Limits::NONE,
        after_split: crate::base::AfterSplit::Manual,
        mutations: Mutations::default(),
    };
    let state = Mirror::raise_epoch(&image).unwrap();
    let info = StartInfo {
        seed: 5,
        marks: false,
        hot: false,
        file_agrees: true,
        going_back: false,
        fence_left: None,
        failback_ago: None,
    };
    let node = Node::new(config, state, info, Moment(1));
    let mirror = Mirror::new(image, shell.clone(), Box::new(node), Mutations::default()).unwrap();
    (disk, shell, mirror)
}

/// The shell's part of what was ordered since.
fn obey(shell: &Shell, mirror: &Mirror) {
    while let Some(order) = { shell.orders.lock().unwrap().pop_front() } {
        match order {
            Order::Promote => mirror.deliver(Event::Promoted),
            Order::Demote { .. } => mirror.deliver(Event::Demoted),
            Order::CloseLink(_) => shell.closed.store(true, Ordering::SeqCst),
            _ => {}
        }
    }
}

const KEPT: BlockNo = BlockNo(3);

/// One peer's life beside one node.
fn meet(role: Role, seed: u64, messages: usize) -> Met {
    let (disk, shell, mirror) = start(role);
    let mut met = Met { kinds_sent: Default::default(), closed: 0 };
    std::thread::scope(|scope| {
        let workers: Vec<_> = Worker::ALL
            .map(|worker| {
                scope.spawn({
                    let mirror = mirror.clone();
                    move || mirror.work(worker)
                })
            })
            .into();
        let _halt = OnDrop(|| shell.parking.halt());
        if role == Role::Primary {
            mirror.deliver(Event::Operator(Operator::Promote { peer_is_down: true }));
            for _ in 0..400 {
                pass_time(&shell, &mirror, Span::from_secs(1));
                if mirror.may_answer() {
                    break;
                }
                std::thread::yield_now();
            }
            mirror.write(KEPT, &block(0x6b)).expect("it serves");
            mirror.flush().expect("it serves");
        }
        let (mut link, mut seq) = (LinkId(1), 0);
        mirror.deliver(Event::LinkUp { link });
        let mut dice = Dice(seed | 1);
        for _ in 0..messages {
            let seen: Vec<Message> = {
                let sent = shell.sent.lock().unwrap();
                sent[sent.len().saturating_sub(64)..].to_vec()
            };
            met.kinds_sent.extend(seen.iter().map(std::mem::discriminant));
            let fill = dice.0.to_le_bytes()[0];
            let mut peer = Peer { dice: Dice(dice.roll(u64::MAX) | 1), seen: &seen, seq: &mut seq };
            if let Some((message, payload)) = peer.next().and_then(|m| through_the_link(&m, fill)) {
                mirror.received(link, message, payload);
            }
            pass_time(&shell, &mirror, Span::from_millis(dice.roll(40)));
            if shell.closed.swap(false, Ordering::SeqCst) {
                met.closed += 1;
                mirror.deliver(Event::LinkDown { link });
                (link, seq) = (LinkId(link.0 + 1), 0);
                shell.sent.lock().unwrap().clear();
                mirror.deliver(Event::LinkUp { link });
            }
            mirror.with_machine(|machine| machine.check()).unwrap();
        }
        if role == Role::Primary && mirror.may_answer() {
            let mut there = block(0);
            mirror.read(KEPT, &mut there).unwrap();
            assert!(there == block(0x6b), "seed {seed}: a stranger changed what a primary had flushed");
        }
        shell.parking.halt();
        for worker in workers {
            assert!(worker.join().is_ok(), "seed {seed}: a worker died");
        }
    });
    drop(mirror);
    let again = Image::open(disk, &OpenOptions::read_write()).expect("the image opens");
    assert_eq!(again.state().node, NodeId::A, "seed {seed}");
    met
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn pass_time(shell: &Shell, mirror: &Mirror, time: Span) {
    shell.now.fetch_add(time.0, Ordering::SeqCst);
    mirror.deliver(Event::Tick);
    obey(shell, mirror);
}

/// TWINFS_LONG=1 meets fifty times as many.
#[test]
fn a_hostile_peer_costs_its_sessions_and_nothing_else() {
    let lives = if std::env::var_os("TWINFS_LONG").is_some() { 2_000 } else { 40 };
    for role in [Role::Primary, Role::Secondary] {
        let mut kinds = FastSet::default();
        let mut closed = 0;
        // What a session gets to depends on the pace of its threads: a loaded machine needs more of them.
        for seed in 1..=20 * lives {
            if seed > lives && kinds.len() >= 4 {
                break;
            }
            let met = meet(role, seed * 7_919, 400);
            kinds.extend(met.kinds_sent);
            closed += met.closed;
        }
        assert!(closed > 10, "{role:?}: only {closed} sessions were ever closed");
        assert!(kinds.len() >= 4, "{role:?}: no session came further than its greeting: {}", kinds.len());
    }
}
