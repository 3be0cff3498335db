//! A target whose source dies goes back to exactly what it was, and what it put back is not forgotten when the source
//! returns.

use std::sync::{Arc, Mutex};

use super::super::tests::{block, made, mirror, peer};
use crate::base::{BlockNo, Digest, Generation, Moment, Pages};
use crate::format::{ResyncMark, State};
use crate::image::{Image, OpenOptions};
use crate::mirror::{Machine, Mirror, Payload, Worker};
use crate::node::{Action, Event, LinkId, Mutations, Operator, Token};
use crate::wire::{CopyKind, Kind, Message, Seq, Session};

const S: Session = Session(4);

/// Applies what comes, goes back by order, and tells its marks.
struct Following(Arc<Mutex<Vec<Event>>>);

impl Machine for Following {
    fn step(&mut self, _: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Received { message: Message::Op { session, seq, kind, first, count }, .. } => {
                out.push(Action::Apply { session, seq, kind, first, count, mark: false });
            }
            Event::Received { message: Message::Marks { session, runs, last }, .. } => {
                out.push(Action::AddMarks { session, runs, last });
            }
            Event::Operator(Operator::PromoteOld) => out.push(Action::GoBack { token: Token(1) }),
            Event::Operator(_) => out.push(Action::SendMarks { session: S, kind: CopyKind::Bits }),
            Event::MarksRead { session, runs, last } => {
                let message = Message::Marks { session, runs, last };
                out.push(Action::Send { link: LinkId(1), message });
            }
            other => self.0.lock().unwrap().push(other),
        }
    }
    fn next_timeout(&self) -> Option<Moment> {
        None
    }
    fn may_answer(&self, _: Moment) -> bool {
        false
    }
}

/// Blocks 1 to 6 hold 1, flushed; block 7 was never written. A target from now on.
fn target() -> Image {
    let disk = made();
    let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).unwrap());
    image.make_hot(BlockNo(0), 8).unwrap();
    let guard = image.lock(BlockNo(0), 8);
    for number in 1..7 {
        image.write(&guard, BlockNo(number), &block(1), &[Digest::of(&block(1))]).unwrap();
    }
    image.flush().unwrap();
    drop(guard);
    let resync = ResyncMark::Target { of: Generation(6) };
    image.store(&State { resync, ..image.state() }).unwrap();
    // Not hot: what was hot at a start is marked anyway.
    image.close().unwrap();
    Image::open(disk, &OpenOptions::read_write()).unwrap()
}

fn receive(mirror: &Mirror, seq: u64, kind: Kind, number: u64, byte: u8) {
    let message = Message::Op { session: S, seq: Seq(seq), kind, first: BlockNo(number), count: 1 };
    let payload = match kind {
        Kind::Discard | Kind::CopyHole => Payload::default(),
        _ => Payload::blocks(Pages::copy_of(&block(byte))),
    };
    mirror.received(LinkId(1), message, payload);
    mirror.work(Worker::Apply);
}

/// What blocks 1 to 7 begin with.
fn held(mirror: &Mirror) -> Vec<u8> {
    let read = |number: u64| {
        let mut out = block(9);
        mirror.image().read(BlockNo(number), &mut out).unwrap();
        out[0]
    };
    (1..8).map(read).collect()
}

/// A resync and the primary's own operations, then the way back; what the copy holds.
fn there_and_back(mutations: Mutations) -> Vec<u8> {
    let heard = Arc::default();
    let mirror = mirror(target(), &peer(), Box::new(Following(Arc::clone(&heard))), mutations);
    receive(&mirror, 1, Kind::Copy, 1, 2);
    receive(&mirror, 2, Kind::Write, 2, 3);
    receive(&mirror, 3, Kind::Discard, 3, 0);
    receive(&mirror, 4, Kind::WriteFlush, 4, 4);
    receive(&mirror, 5, Kind::CopyHole, 5, 0);
    receive(&mirror, 6, Kind::Write, 7, 5);
    receive(&mirror, 7, Kind::Write, 2, 6);
    assert_eq!(held(&mirror), [2, 6, 0, 4, 0, 1, 5]);
    mirror.deliver(Event::Operator(Operator::PromoteOld));
    mirror.work(Worker::Apply);
    assert_eq!(heard.lock().unwrap().last(), Some(&Event::WentBack { token: Token(1) }));
    held(&mirror)
}

#[test]
fn undo_with_replicated_writes() {
    let before = [1, 1, 1, 1, 1, 1, 0];
    assert_eq!(there_and_back(Mutations::default()), before);
    let off = Mutations { undo_skips_writes: true, ..Mutations::default() };
    assert_ne!(there_and_back(off), before, "nothing notices that replicated writes are not saved");
    let rule = "a discard is saved as well";
    let discards = || assert_eq!(there_and_back(Mutations { undo_skips_writes: true, ..none() })[2], 1);
    discards();
    assert!(crate::image::tests::fails_without(rule, discards), "nothing notices: {rule}");
}

fn none() -> Mutations {
    Mutations::default()
}

/// A block that the source copied is no more to be copied by its map; the target put it back.
fn source_returns() {
    let to_source = peer();
    let none = Mutations::default();
    let target = mirror(target(), &to_source, Box::new(Following(Arc::default())), none);
    let image = Image::open(made(), &OpenOptions::read_write()).unwrap();
    let source = mirror(image, &peer(), Box::new(Following(Arc::default())), none);
    source.image().mark_stable(&[(BlockNo(1), 1)]).unwrap();
    source.image().start_copy(false).unwrap();
    receive(&target, 1, Kind::Copy, 1, 2);
    source.image().copied(BlockNo(1), 1);
    assert_eq!(source.image().next_to_copy(BlockNo(0)), None);

    target.deliver(Event::Operator(Operator::PromoteOld));
    target.work(Worker::Apply);
    target.deliver(Event::Operator(Operator::Connect));
    target.work(Worker::Copy);
    for (message, payload) in to_source.take_sent() {
        source.received(LinkId(1), message, payload);
    }
    source.work(Worker::Store);
    assert_eq!(source.image().next_to_copy(BlockNo(0)), Some((BlockNo(1), 1)));
}

#[test]
fn undo_then_source_returns() {
    source_returns();
    let rule = "what is put back is marked before";
    assert!(crate::image::tests::fails_without(rule, source_returns), "nothing notices: {rule}");
}

#[test]
fn a_way_back_that_is_none_leaves_the_copy_a_target() {
    let heard = Arc::default();
    let machine = Following(Arc::clone(&heard));
    let mirror = mirror(target(), &peer(), Box::new(machine), Mutations::default());
    mirror.image().give_undo_up().unwrap();
    receive(&mirror, 1, Kind::Copy, 1, 2);
    mirror.deliver(Event::Operator(Operator::PromoteOld));
    mirror.work(Worker::Apply);
    assert_eq!(heard.lock().unwrap().last(), Some(&Event::NoWayBack { token: Token(1) }));
    assert_eq!(held(&mirror)[0], 2);
}

/// Operations that wait behind each other share a flush of the undo log.
#[test]
fn what_follows_is_saved_with_the_same_flush() {
    let disk = made();
    let image = Arc::new(Image::open(disk.clone(), &OpenOptions::read_write()).unwrap());
    image.make_hot(BlockNo(0), 100).unwrap();
    let guard = image.lock(BlockNo(0), 100);
    let digests = vec![Digest::of(&block(1)); 100];
    image.write(&guard, BlockNo(0), &block(1).repeat(100), &digests).unwrap();
    drop(guard);
    let resync = ResyncMark::Target { of: Generation(6) };
    image.store(&State { resync, ..image.state() }).unwrap();
    drop(image);
    let image = Image::open(disk.clone(), &OpenOptions::read_write()).unwrap();
    let heard = Arc::default();
    let mirror = mirror(image, &peer(), Box::new(Following(Arc::clone(&heard))), Mutations::default());
    for number in 0..100 {
        let message = Message::Op {
            session: S,
            seq: Seq(number + 1),
            kind: Kind::Write,
            first: BlockNo(number),
            count: 1,
        };
        mirror.received(LinkId(1), message, Payload::blocks(Pages::copy_of(&block(2))));
    }
    let before = disk.counts().flushes;
    mirror.work(Worker::Apply);
    assert_eq!((disk.counts().flushes - before, mirror.image().undo().blocks), (1, 100));
    mirror.deliver(Event::Operator(Operator::PromoteOld));
    mirror.work(Worker::Apply);
    assert_eq!(held(&mirror), [1; 7]);
}
