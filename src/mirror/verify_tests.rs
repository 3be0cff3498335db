//! One look at two copies: what travels, what is found, what a repair leaves.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::tests::{block, made};
use super::*;
use crate::base::{BlockNo, Digest, ExtentNo, Moment};
use crate::image::{Blocks, BlocksError, Disk, Image, MemDisk, OpenOptions};
use crate::node::{
    Action, Event, Finding, LinkId, Mark, Mutations, Notice, Operator, Order, Task, Token, Trouble,
};
use crate::wire::{Message, Seq, Session};

const S: Session = Session(4);
const LINK: LinkId = LinkId(1);

/// Two mirrors in one thread: whoever waits lets the other work.
#[derive(Default)]
struct Wire {
    mirrors: [OnceLock<Weak<Mirror>>; 2],
    queue: Mutex<VecDeque<(usize, Message, Payload)>>,
    bytes: Mutex<usize>,
    told: Mutex<Vec<Finding>>,
}

impl Wire {
    fn mirror(&self, node: usize) -> Arc<Mirror> {
        self.mirrors[node].get().and_then(Weak::upgrade).unwrap()
    }

    /// Delivers one message and does what follows from it; false if there is none.
    fn pump(&self) -> bool {
        let Some((to, message, payload)) = self.queue.lock().unwrap().pop_front() else { return false };
        *self.bytes.lock().unwrap() += 64 + payload.wire_len();
        self.mirror(to).received(LINK, message, payload);
        if to == 1 {
            [Worker::Apply, Worker::Check].into_iter().for_each(|worker| self.mirror(1).work(worker));
        }
        true
    }
}

struct End {
    wire: Arc<Wire>,
    node: usize,
}

impl Env for End {
    fn now(&self) -> Moment {
        Moment(1)
    }
    fn send(&self, _: LinkId, message: Message, payload: Payload) {
        self.wire.queue.lock().unwrap().push_back((1 - self.node, message, payload));
    }
    fn order(&self, order: Order) {
        if let Order::Tell(Notice::Found(finding)) = order {
            self.wire.told.lock().unwrap().push(finding);
        }
    }
    fn tick_at(&self, _: Moment) {}
    fn wait(&self, key: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        loop {
            if ready() {
                return Ok(());
            }
            if matches!(key, Key::Work(_)) || !self.wire.pump() {
                return Err(Halted);
            }
        }
    }
    fn wake(&self, _: Key) {}
    fn breathe(&self) -> Result<(), Halted> {
        Ok(())
    }
    fn note_version(&self, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// What each look brought: up to where, blocks read, what was found.
type Answers = Arc<Mutex<Vec<(ExtentNo, u64, Vec<Finding>)>>>;

/// Looks as ordered, starts what is issued, applies what comes.
struct Looks {
    task: Task,
    answers: Answers,
}

impl Machine for Looks {
    fn step(&mut self, _: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Operator(Operator::Verify(from)) => {
                out.push(Action::Look { token: Token(1), task: self.task, from: from.next });
            }
            Event::Looked { upto, blocks, findings, .. } => {
                self.answers.lock().unwrap().push((upto, blocks, findings));
            }
            Event::Issue { op, .. } => {
                out.push(Action::Start { op, send: Some((LINK, S, Seq(1))), mark: Mark::No });
            }
            Event::LocalDone { op } => out.push(Action::Complete { op }),
            Event::Received { message: Message::Op { session, seq, kind, first, count }, .. } => {
                out.push(Action::Apply { session, seq, kind, first, count, mark: false });
            }
            _ => {}
        }
    }
    fn next_timeout(&self) -> Option<Moment> {
        None
    }
    fn may_answer(&self, _: Moment) -> bool {
        true
    }
}

struct Copies {
    wire: Arc<Wire>,
    mirrors: Vec<Arc<Mirror>>,
    disks: Vec<Arc<MemDisk>>,
    answers: Answers,
}

/// Two copies with the same hundred blocks, and what `also` writes into the one of number 0 or 1.
fn copies(task: Task, also: &[(usize, u64, u8)]) -> Copies {
    let (wire, answers) = (Arc::new(Wire::default()), Answers::default());
    let (mut mirrors, mut disks) = (Vec::new(), Vec::new());
    for node in 0..2 {
        let disk = made();
        let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).unwrap());
        image.make_hot(BlockNo(0), 1100).unwrap();
        let guard = image.lock(BlockNo(0), 1100);
        let own = also.iter().filter(|(to, ..)| *to == node).map(|(_, block, byte)| (*block, *byte));
        for (number, byte) in (0..100).map(|number| (number, 1)).chain(own) {
            image.write(&guard, BlockNo(number), &block(byte), &[Digest::of(&block(byte))]).unwrap();
        }
        drop(guard);
        image.flush().unwrap();
        let env: Arc<dyn Env> = Arc::new(End { wire: wire.clone(), node });
        let machine = Box::new(Looks { task, answers: Arc::clone(&answers) });
        let mirror = Mirror::new(image, env, machine, Mutations::default()).unwrap();
        mirror.deliver(Event::LinkUp { link: LINK });
        wire.mirrors[node].set(Arc::downgrade(&mirror)).unwrap();
        mirrors.push(mirror);
        disks.push(disk);
    }
    Copies { wire, mirrors, disks, answers }
}

impl Copies {
    fn rot(&self, node: usize, number: u64) {
        let at = self.mirrors[node].image().geometry().block_at(number);
        self.disks[node].write_at(at, &block(0xee)).unwrap();
    }

    fn holds(&self, node: usize, number: u64) -> Option<u8> {
        let mut out = block(0);
        self.mirrors[node].image().read(BlockNo(number), &mut out).ok().map(|()| out[0])
    }

    /// Looks from the first extent on until the end; what was found.
    fn look(&self) -> Vec<(u64, Trouble, bool)> {
        let mirror = &self.mirrors[0];
        let mut next = ExtentNo(0);
        while next.0 < mirror.image().extent_count() {
            let from = crate::node::VerifyProgress { next, ..Default::default() };
            mirror.deliver(Event::Operator(Operator::Verify(from)));
            mirror.work(Worker::Check);
            while self.wire.pump() {}
            mirror.work(Worker::Check);
            next = self.answers.lock().unwrap().last().expect("an answer").0;
        }
        let answers = self.answers.lock().unwrap();
        let found = answers.iter().flat_map(|(.., findings)| findings);
        found.map(|finding| (finding.block.0, finding.trouble, finding.repaired)).collect()
    }
}

const BOTH: Task = Task { local: false, repair: false };
const REPAIR: Task = Task { local: false, repair: true };

#[test]
fn equal_copies_are_read_on_both_sides_and_nothing_but_summaries_travels() {
    let copies = copies(BOTH, &[]);
    assert_eq!(copies.look(), []);
    let blocks: u64 = copies.answers.lock().unwrap().iter().map(|(_, blocks, _)| blocks).sum();
    let bytes = *copies.wire.bytes.lock().unwrap();
    assert!(blocks == 100 && bytes < 1024, "{blocks} blocks, {bytes} bytes");
}

#[test]
fn what_is_wrong_is_found_and_left_alone_unless_told_otherwise() {
    let copies = copies(BOTH, &[(0, 40, 2), (1, 1050, 7)]);
    [(0, 10), (1, 20), (0, 30), (1, 30)].into_iter().for_each(|(node, number)| copies.rot(node, number));
    let expected = [
        (10, Trouble::Rotten, false),
        (20, Trouble::RottenAtPeer, false),
        (30, Trouble::Lost, false),
        (40, Trouble::Differs, false),
        (1050, Trouble::Differs, false),
    ];
    assert_eq!(copies.look(), expected);
    assert_eq!((copies.holds(0, 10), copies.holds(1, 20), copies.holds(1, 40)), (None, None, Some(1)));
    assert_eq!(copies.wire.told.lock().unwrap().len(), 5);
    assert_eq!(copies.mirrors[0].rot(), (0, vec![BlockNo(30)]));
}

#[test]
fn a_repair_takes_the_copy_that_matches_its_digest_and_of_two_the_primarys() {
    let copies = copies(REPAIR, &[(0, 40, 2), (1, 1050, 7)]);
    [(0, 10), (1, 20), (0, 30), (1, 30)].into_iter().for_each(|(node, number)| copies.rot(node, number));
    let expected = [
        (10, Trouble::Rotten, true),
        (20, Trouble::RottenAtPeer, true),
        (30, Trouble::Lost, false),
        (40, Trouble::Differs, true),
        (1050, Trouble::Differs, true),
    ];
    assert_eq!(copies.look(), expected);
    while copies.wire.pump() {}
    for (number, byte) in [(10, Some(1)), (20, Some(1)), (30, None), (40, Some(2)), (1050, Some(0))] {
        assert_eq!((copies.holds(0, number), copies.holds(1, number)), (byte, byte), "block {number}");
    }
}

#[test]
fn a_scrub_repairs_its_own_copy_from_the_peer_and_only_what_it_was_told_to() {
    for repair in [false, true] {
        let copies = copies(Task { local: true, repair }, &[]);
        [(0, 10), (1, 20), (0, 30), (1, 30)].into_iter().for_each(|(node, number)| copies.rot(node, number));
        let lost = if repair { Trouble::Lost } else { Trouble::Rotten };
        assert_eq!(copies.look(), [(10, Trouble::Rotten, repair), (30, lost, false)]);
        assert_eq!((copies.holds(0, 10), copies.holds(1, 20)), (repair.then_some(1), None));
    }
}

#[test]
fn a_lost_block_is_an_error_for_itself_alone_and_whole_again_with_a_new_content() {
    let copies = copies(BOTH, &[]);
    [(0, 30), (1, 30), (0, 31)].into_iter().for_each(|(node, number)| copies.rot(node, number));
    let mut out = vec![0; 3 * BlockNo::SIZE];
    assert_eq!(copies.mirrors[0].read(BlockNo(30), &mut out), Err(BlocksError::Rotten(BlockNo(30))));
    copies.mirrors[0].read(BlockNo(31), &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == 1), "31 is answered with what the peer has");
    assert_eq!((copies.holds(0, 31), copies.mirrors[0].rot()), (Some(1), (1, vec![BlockNo(30)])));
    copies.mirrors[0].write(BlockNo(30), &block(5)).unwrap();
    assert_eq!(copies.mirrors[0].rot(), (1, vec![]));
}
