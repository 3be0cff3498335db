//! A block of a crash's un-flushed window: whose content may replace it.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::base::{BlockNo, Digest, Generation, Members, Moment, NodeId, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::image::{Blocks, Disk, FormatOptions, Image, MemDisk, OpenOptions};
use crate::node::{Action, Event, LinkId, Mutations, Order};
use crate::wire::Message;

/// A peer that offers the same content for every block.
struct Peer {
    mirror: OnceLock<Weak<Mirror>>,
    asked: Mutex<Vec<(LinkId, u64, BlockNo)>>,
    content: Vec<u8>,
}

impl Env for Peer {
    fn now(&self) -> Moment {
        Moment(1)
    }
    fn send(&self, link: LinkId, message: Message, _: Payload) {
        if let Message::Fetch { id, block } = message {
            self.asked.lock().unwrap().push((link, id, block));
        }
    }
    fn order(&self, _: Order) {}
    fn tick_at(&self, _: Moment) {}
    fn wait(&self, _: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        let mirror = self.mirror.get().and_then(Weak::upgrade).unwrap();
        for (link, id, block) in std::mem::take(&mut *self.asked.lock().unwrap()) {
            mirror.received(link, Message::Block { id, block, found: true }, Payload::blocks(&self.content));
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
    fn step(&mut self, _: Moment, _: Event, _: &mut Vec<Action>) {}
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
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

fn block(byte: u8) -> Vec<u8> {
    vec![byte; BlockNo::SIZE]
}

/// Block 0 was flushed as 1 and overwritten with 2; the power went before the next flush.
fn crashed() -> Arc<MemDisk> {
    let disk = Arc::new(MemDisk::new(40 << 20));
    let as_disk: Arc<dyn Disk> = disk.clone();
    let options = FormatOptions { state: state(), uuid: 1, label: "test".to_string(), al_slots: 4 };
    crate::image::format(&as_disk, &options).unwrap();
    let image = Image::open(as_disk, &OpenOptions::read_write()).unwrap();
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

/// What a read of the suspect block answers while the peer offers 3.
fn read_beside(peer_is_member: bool) -> Vec<u8> {
    let image = Arc::new(Image::open(crashed(), &OpenOptions::read_write()).unwrap());
    assert_eq!(image.suspects(), Ok(vec![BlockNo(0)]));
    let peer = Arc::new(Peer { mirror: OnceLock::new(), asked: Mutex::default(), content: block(3) });
    let machine = Box::new(Serving { peer_is_member });
    let mirror =
        Mirror::new(image, Arc::clone(&peer) as Arc<dyn Env>, machine, Mutations::default()).unwrap();
    peer.mirror.set(Arc::downgrade(&mirror)).unwrap();
    mirror.deliver(Event::LinkUp { link: LinkId(1) });
    let mut out = block(0);
    mirror.read(BlockNo(0), &mut out).unwrap();
    out
}

#[test]
fn a_copy_that_is_behind_does_not_replace_a_suspect_block_with_an_older_one() {
    assert_eq!(read_beside(true)[0], 3, "a member's content will do");
    assert_eq!(read_beside(false)[0], 2, "anybody else's is not asked for");
}
