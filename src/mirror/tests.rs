//! A crash's un-flushed window: whose content may replace a block of it, and how much of it is copied.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::base::{BlockNo, Digest, Generation, Members, Moment, NodeId, Pages, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::image::{Blocks, BlocksError, Disk, FormatOptions, Image, MemDisk, OpenOptions};
use crate::node::{Action, Event, LinkId, Mutations, Order};
use crate::wire::{CopyKind, Message, Session};

/// A peer that offers the same content for every block.
pub(super) struct Peer {
    mirror: OnceLock<Weak<Mirror>>,
    asked: Mutex<Vec<(LinkId, u64, BlockNo)>>,
    sent: Mutex<Vec<(Message, Payload)>>,
    content: Vec<u8>,
}

impl Peer {
    pub(super) fn take_sent(&self) -> Vec<(Message, Payload)> {
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

impl Env for Peer {
    fn now(&self) -> Moment {
        Moment(1)
    }
    fn send(&self, link: LinkId, message: Message, payload: Payload) {
        match message {
            Message::Fetch { id, block } => self.asked.lock().unwrap().push((link, id, block)),
            other => self.sent.lock().unwrap().push((other, payload)),
        }
    }
    fn order(&self, _: Order) {}
    fn tick_at(&self, _: Moment) {}
    fn wait(&self, _: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        let mirror = self.mirror.get().and_then(Weak::upgrade).unwrap();
        for (link, id, block) in std::mem::take(&mut *self.asked.lock().unwrap()) {
            mirror.received(
                link,
                Message::Block { id, block, found: true },
                Payload::blocks(Pages::copy_of(&self.content)),
            );
        }
        if ready() { Ok(()) } else { Err(Halted) }
    }
    fn wake(&self, _: Key) {}
    fn breathe(&self) -> Result<(), Halted> {
        Ok(())
    }
    fn note_version(&self, _: u64) -> Result<(), String> {
        Ok(())
    }
}

struct Serving {
    peer_is_member: bool,
}

impl Machine for Serving {
    fn step(&mut self, _: Moment, event: Event, out: &mut Vec<Action>) {
        if matches!(event, Event::Operator(_)) {
            out.push(Action::ClearMarks);
        }
    }
    fn next_timeout(&self) -> Option<Moment> {
        None
    }
    fn may_answer(&self, _: Moment) -> bool {
        true
    }
    fn peer_is_member(&self) -> bool {
        self.peer_is_member
    }
}

fn state() -> State {
    let id = Generation(5);
    State {
        volume: VolumeId(7),
        node: NodeId::A,
        incarnation: 9,
        record: Some(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A }),
        gens: vec![GenEntry { id, minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 }],
        bitmap_base: Generation(0),
        full: false,
        resync: ResyncMark::None,
        diverged: false,
        apart: crate::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

pub(super) fn block(byte: u8) -> Vec<u8> {
    vec![byte; BlockNo::SIZE]
}

pub(super) fn made() -> Arc<MemDisk> {
    made_by(Record { v: 1, members: Members::only(NodeId::A), primary: NodeId::A })
}

pub(super) fn made_by(record: Record) -> Arc<MemDisk> {
    let disk = Arc::new(MemDisk::new(40 << 20));
    let as_disk: Arc<dyn Disk> = disk.clone();
    let state = State { record: Some(record), ..state() };
    let options = FormatOptions { state, uuid: 1, label: "test".to_string(), al_slots: 4 };
    crate::image::format(&as_disk, &options).unwrap();
    disk
}

/// Block 0 was flushed as 1 and overwritten with 2; the power went before the next flush.
fn crashed() -> Arc<MemDisk> {
    let disk = made();
    let image = Image::open(disk.clone(), &OpenOptions::read_write()).unwrap();
    image.make_hot(BlockNo(0), 1).unwrap();
    let image = Arc::new(image);
    let guard = image.lock(BlockNo(0), 1);
    for byte in [1, 2] {
        image.write(&guard, BlockNo(0), &block(byte), &[Digest::of(&block(byte))]).unwrap();
        if byte == 1 {
            image.flush().unwrap();
        }
    }
    disk
}

pub(super) fn peer() -> Arc<Peer> {
    let (asked, sent) = (Mutex::default(), Mutex::default());
    Arc::new(Peer { mirror: OnceLock::new(), asked, sent, content: block(3) })
}

pub(super) fn mirror(
    image: Image,
    peer: &Arc<Peer>,
    machine: Box<dyn Machine>,
    mutations: Mutations,
) -> Arc<Mirror> {
    let env = Arc::clone(peer) as Arc<dyn Env>;
    let mirror = Mirror::new(Arc::new(image), env, machine, mutations).unwrap();
    peer.mirror.set(Arc::downgrade(&mirror)).unwrap();
    mirror.deliver(Event::LinkUp { link: LinkId(1) });
    mirror
}

/// What a read of the suspect block answers while the peer offers 3.
fn read_beside(peer_is_member: bool) -> Vec<u8> {
    let image = Image::open(crashed(), &OpenOptions::read_write()).unwrap();
    assert_eq!(image.suspects(), Ok(vec![BlockNo(0)]));
    let mirror = mirror(image, &peer(), Box::new(Serving { peer_is_member }), Mutations::default());
    let mut out = block(0);
    mirror.read(BlockNo(0), &mut out).unwrap();
    out
}

#[test]
fn a_copy_that_is_behind_does_not_replace_a_suspect_block_with_an_older_one() {
    assert_eq!(read_beside(true)[0], 3, "a member's content will do");
    assert_eq!(read_beside(false)[0], 2, "anybody else's is not asked for");
}

/// A block that rots is no leftover of a crash once both copies were equal.
#[test]
fn nothing_is_blessed_after_both_copies_were_equal_and_what_is_blessed_before_is_marked() {
    for joined in [false, true] {
        let image = Image::open(crashed(), &OpenOptions::read_write()).unwrap();
        let mirror = mirror(image, &peer(), Box::new(Serving { peer_is_member: true }), Mutations::default());
        mirror.image().clear_bits().unwrap();
        if joined {
            mirror.deliver(Event::Operator(crate::node::Operator::Connect));
            mirror.work(Worker::Store);
        }
        mirror.deliver(Event::LinkDown { link: LinkId(1) });
        let mut out = block(0);
        let read = mirror.read(BlockNo(0), &mut out).map(|()| out[0]);
        let marked = mirror.image().next_differs(BlockNo(0)).map(|(first, _)| first);
        if joined {
            assert_eq!((read, marked), (Err(BlocksError::Rotten(BlockNo(0))), None));
        } else {
            assert_eq!((read, marked), (Ok(2), Some(BlockNo(0))));
        }
    }
}

/// Target and source of a resync as far as the marks go.
struct Telling;

impl Machine for Telling {
    fn step(&mut self, _: Moment, event: Event, out: &mut Vec<Action>) {
        let link = LinkId(1);
        out.extend(match event {
            Event::Operator(_) => Some(Action::SendMarks { session: S, kind: CopyKind::Bits }),
            Event::DigestsRead { session, extent, last } => {
                Some(Action::SendDigests { link, session, extent, last })
            }
            Event::MarksRead { session, runs, last } => {
                Some(Action::Send { link, message: Message::Marks { session, runs, last } })
            }
            Event::Received { message: Message::Digests { session, extent, .. }, .. } => {
                Some(Action::AddDigests { session, extent })
            }
            Event::Received { message: Message::Marks { session, runs, last }, .. } => {
                Some(Action::AddMarks { session, runs, last })
            }
            _ => None,
        });
    }
    fn next_timeout(&self) -> Option<Moment> {
        None
    }
    fn may_answer(&self, _: Moment) -> bool {
        false
    }
}

const S: Session = Session(4);

/// A hundred blocks, flushed; then the given ones once more, not flushed.
fn written(again: &[(u64, u8)], close: bool) -> Image {
    let disk = made();
    let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).unwrap());
    image.make_hot(BlockNo(0), 300).unwrap();
    let guard = image.lock(BlockNo(0), 300);
    let write = |number: u64, byte: u8| {
        image.write(&guard, BlockNo(number), &block(byte), &[Digest::of(&block(byte))]).unwrap();
    };
    (0..100).for_each(|number| write(number, 1));
    image.flush().unwrap();
    again.iter().for_each(|(number, byte)| write(*number, *byte));
    drop(guard);
    if close {
        image.close().unwrap();
    }
    drop(image);
    Image::open(disk, &OpenOptions::read_write()).unwrap()
}

#[test]
fn of_a_returning_nodes_hot_extents_only_what_differs_is_copied() {
    // The target lost power while block 5 was on its way to the disk.
    let target = written(&[(5, 9)], false);
    let source = written(&[(7, 2), (200, 2)], true);

    let (to_source, nobody) = (peer(), peer());
    let target = mirror(target, &to_source, Box::new(Telling), Mutations::default());
    let source = mirror(source, &nobody, Box::new(Telling), Mutations::default());
    assert_eq!(target.image().dirty_blocks(), 1024, "all of the hot extent is in doubt");
    target.deliver(Event::Operator(crate::node::Operator::Connect));
    target.work(Worker::Copy);
    let told = to_source.take_sent();
    let bytes: usize = told.iter().map(|(_, payload)| payload.wire_len()).sum();
    assert!(bytes < 5 * BlockNo::SIZE, "{bytes} bytes tell of one extent");
    for (message, payload) in told {
        source.received(LinkId(1), message, payload);
    }
    source.work(Worker::Store);
    let mut found = Vec::new();
    let mut from = BlockNo(0);
    while let Some((first, count)) = source.image().next_to_copy(from) {
        found.extend(first.0..first.0 + count);
        from = first.plus(count);
    }
    assert_eq!(found, [5, 7, 200], "5 is suspect on the target, 7 and 200 differ");
}
