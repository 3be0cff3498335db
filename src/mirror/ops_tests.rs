//! What an operation holds while it waits.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use super::*;
use crate::base::{Digest, Generation, Members, Moment, NodeId, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, State};
use crate::image::{Disk, FormatOptions, Image, MemDisk, OpenOptions};
use crate::mirror::{Env, Machine};
use crate::node::{Action, LinkId, Mutations, Order};
use crate::wire::Message;

/// Ends every wait that is not over at once, and notes whether the block could be locked meanwhile.
#[derive(Default)]
struct Impatient {
    mirror: OnceLock<Weak<Mirror>>,
    free: Mutex<Vec<bool>>,
}

const WANTED: BlockNo = BlockNo(9 * 1024);

impl Env for Impatient {
    fn now(&self) -> Moment {
        Moment(1)
    }
    fn send(&self, _: LinkId, _: Message, _: Payload) {}
    fn order(&self, _: Order) {}
    fn tick_at(&self, _: Moment) {}
    fn wait(&self, _: Key, ready: &mut dyn FnMut() -> bool) -> Result<(), Halted> {
        if ready() {
            return Ok(());
        }
        let mirror = self.mirror.get().and_then(Weak::upgrade).unwrap();
        self.free.lock().unwrap().push(mirror.image().try_lock(WANTED, 1).is_some());
        Err(Halted)
    }
    fn wake(&self, _: Key) {}
    fn breathe(&self) -> Result<(), Halted> {
        Ok(())
    }
    fn note_version(&self, _: u64) -> Result<(), String> {
        Ok(())
    }
}

/// Holds every operation, and remembers what it was told.
#[derive(Default)]
struct Holding(Arc<Mutex<Vec<Event>>>);

impl Machine for Holding {
    fn step(&mut self, _: Moment, event: Event, _: &mut Vec<Action>) {
        self.0.lock().unwrap().push(event);
    }
    fn next_timeout(&self) -> Option<Moment> {
        None
    }
    fn may_answer(&self, _: Moment) -> bool {
        true
    }
}

fn full_log(medium: &Arc<MemDisk>) -> Arc<Image> {
    let disk: Arc<dyn Disk> = medium.clone();
    let reason = GenReason::Made;
    let state = State {
        volume: VolumeId(7),
        node: NodeId::A,
        incarnation: 9,
        record: Some(Record { v: 1, members: Members::BOTH, primary: NodeId::A }),
        gens: vec![GenEntry { id: Generation(5), minted_by: NodeId::A, at_v: 1, reason, first_txn: 0 }],
        bitmap_base: Generation(5),
        full: false,
        resync: ResyncMark::None,
        diverged: false,
        apart: crate::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        witness_incarnation: 0,
    };
    let options = FormatOptions { state, uuid: 1, label: "test".to_string(), al_slots: 4 };
    crate::image::format(&disk, &options).unwrap();
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).unwrap());
    let data = vec![7; BlockNo::SIZE];
    for extent in 0.. {
        let first = ExtentNo(extent).first_block();
        if image.make_hot(first, 1).is_err() {
            return image;
        }
        let guard = image.lock(first, 1);
        image.write(&guard, first, &data, &[Digest::of(&data)]).unwrap();
    }
    image
}

#[test]
fn a_write_holds_no_lock_while_the_members_flush_for_its_slot() {
    let env = Arc::new(Impatient::default());
    let image = full_log(&Arc::new(MemDisk::new(80 << 20)));
    let mirror = Mirror::new(image, env.clone(), Box::<Holding>::default(), Mutations::default()).unwrap();
    env.mirror.set(Arc::downgrade(&mirror)).unwrap();
    assert_eq!(mirror.write(WANTED, &[1; BlockNo::SIZE]), Err(BlocksError::Stopped));
    assert_eq!(mirror.discard(WANTED, 1), Err(BlocksError::Stopped));
    assert_eq!(mirror.pin_hot(WANTED, 1), Err(BlocksError::Stopped));
    let free = env.free.lock().unwrap();
    assert!(
        free.len() >= 3 && free.iter().all(|free| *free),
        "a flush waits while the block is held: {free:?}"
    );
}

#[test]
fn a_disk_that_fails_before_anything_is_issued_is_told_to_the_machine() {
    let medium = Arc::new(MemDisk::new(80 << 20));
    let (env, machine) = (Arc::new(Impatient::default()), Holding::default());
    let told = machine.0.clone();
    let mirror =
        Mirror::new(full_log(&medium), env.clone(), Box::new(machine), Mutations::default()).unwrap();
    env.mirror.set(Arc::downgrade(&mirror)).unwrap();
    mirror.image().confirm(mirror.image().flush().unwrap());
    mirror.image().confirm(mirror.image().flush().unwrap());
    medium.fail_flushes();
    assert!(matches!(mirror.write(WANTED, &[1; BlockNo::SIZE]), Err(BlocksError::Io(_))));
    assert!(matches!(told.lock().unwrap().last(), Some(Event::LocalFailed { .. })));
}
