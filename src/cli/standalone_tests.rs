//! An image of a pair in the hands of one program: refused, or a lineage of its own that the peer finds (W24).

use std::path::PathBuf;

use super::*;
use crate::base::limits::MEMORY_DEFAULT;
use crate::base::{Ino, NodeId, Record, VolumeId};
use crate::fs::FormatOptions;
use crate::resync::{Plan, decide};
use crate::wire::Hello;

fn member(node: NodeId, resync: ResyncMark) -> State {
    State {
        volume: VolumeId(7),
        node,
        incarnation: 0x70 + u128::from(node == NodeId::B),
        record: Some(Record { v: 3, members: Members::BOTH, primary: NodeId::A }),
        gens: vec![GenEntry {
            id: Generation(5),
            minted_by: NodeId::A,
            at_v: 1,
            reason: GenReason::Made,
            first_txn: 0,
        }],
        bitmap_base: Generation(5),
        full: false,
        resync,
        diverged: false,
        apart: crate::format::Apart::default(),
        boot_epoch: 1,
        peer_boot_epoch: 1,
        retired: Vec::new(),
        witness_incarnation: 0,
    }
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An image with an empty file system that belongs to nobody yet.
fn fresh(path: &Path, len: u64, state: State) -> (Arc<Image>, Arc<LocalBlocks>) {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(path, len).unwrap());
    let made = State { record: None, ..state };
    let options = crate::image::FormatOptions { state: made, uuid: 1, label: "t".into(), al_slots: 0 };
    crate::image::format(&disk, &options).unwrap();
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).unwrap());
    let local = Arc::new(LocalBlocks::new(Arc::clone(&image)).unwrap());
    Store::format(local.clone(), &FormatOptions::default()).unwrap();
    (image, local)
}

/// An empty file system on a new image file.
pub(crate) fn fresh_store(path: &Path, len: u64) -> Store {
    let (_, local) = fresh(path, len, member(NodeId::A, ResyncMark::None));
    Store::open(local, &StoreOptions::default()).unwrap()
}

/// An image with a file system that says it belongs to a pair.
fn image_of(state: State, name: &str) -> Scratch {
    let path = std::env::temp_dir().join(format!("twinfs-standalone-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let (image, _) = fresh(&path, 64 << 20, state.clone());
    image.store(&state).unwrap();
    image.close().unwrap();
    Scratch(path)
}

fn write_one(path: &Path, access: Access) {
    let (store, rest) = open(path, access, MEMORY_DEFAULT).unwrap().split();
    let mut op = store.begin();
    op.put_xattr(Ino::ROOT, b"user.who", b"alone");
    op.finish().unwrap();
    store.close().unwrap();
    drop(store);
    rest.close().unwrap();
}

fn hello_of(path: &Path) -> Hello {
    let disk = open_disk(path, false).unwrap();
    let image = Image::open(disk, &OpenOptions::read_only()).unwrap();
    let marks = image.dirty_blocks() > 0;
    Hello { blocks: image.block_count(), marks, ..Hello::of(&image.state()) }
}

/// The rule that is switched off here; it takes a second one in `image`.
const MINTS: &str = "an image of a pair is only read";

pub(super) fn goes_on_as_a_member() -> bool {
    crate::image::tests::BROKEN.get() == MINTS
}

#[test]
fn standalone_mount_of_member_is_divergence() {
    a_member_that_was_written_alone_is_known();
    let noticed = crate::image::tests::fails_without(MINTS, a_member_that_was_written_alone_is_known);
    assert!(noticed, "nothing notices that the rule is off");
}

fn a_member_that_was_written_alone_is_known() {
    let a = image_of(member(NodeId::A, ResyncMark::None), "a");
    let b = image_of(member(NodeId::B, ResyncMark::None), "b");
    let before = std::fs::read(&a.0).unwrap();
    let refused = open(&a.0, Access::ReadWrite { force: false }, MEMORY_DEFAULT).err().expect("refused");
    let refused = format!("{refused:#}");
    assert!(refused.contains("--force"), "{refused}");
    write_one(&a.0, Access::ReadOnly);
    assert!(std::fs::read(&a.0).unwrap() == before, "neither a refusal nor -o ro writes a byte");
    // By force it leaves the pair first: the peer is behind by what is marked.
    write_one(&a.0, Access::ReadWrite { force: true });
    let (alone, other) = (hello_of(&a.0), hello_of(&b.0));
    assert_eq!(alone.record.map(|record| record.members), Some(Members::only(NodeId::A)));
    assert!(alone.marks && alone.head() != other.head());
    let plan = decide(&alone, &other).plan;
    assert!(matches!(plan, Plan::Resync { source: NodeId::A, .. }), "{plan:?}");
    // Written once more it stays one lineage, and needs no force any more.
    write_one(&a.0, Access::ReadWrite { force: false });
    assert_eq!(hello_of(&a.0).gens, alone.gens);
    // The peer did the same: that is a split brain, and nobody is overwritten.
    write_one(&b.0, Access::ReadWrite { force: true });
    let plan = decide(&hello_of(&a.0), &hello_of(&b.0)).plan;
    assert_eq!(plan, Plan::SplitBrain { fork: Generation(5) });
}

#[test]
fn a_half_overwritten_copy_used_by_force_is_not_quietly_overwritten_further() {
    let target = ResyncMark::Target { of: Generation(6) };
    let b = image_of(member(NodeId::B, target), "half");
    assert!(open(&b.0, Access::ReadWrite { force: false }, MEMORY_DEFAULT).is_err());
    write_one(&b.0, Access::ReadWrite { force: true });
    let mut source = member(NodeId::A, ResyncMark::None);
    source.gens.push(GenEntry {
        id: Generation(6),
        minted_by: NodeId::A,
        at_v: 4,
        reason: GenReason::WentSolo,
        first_txn: 0,
    });
    source.record = Some(Record { v: 4, members: Members::only(NodeId::A), primary: NodeId::A });
    let alone = hello_of(&b.0);
    let source = Hello { marks: true, blocks: alone.blocks, ..Hello::of(&source) };
    assert_eq!(decide(&source, &alone).plan, Plan::SplitBrain { fork: Generation(5) });
}
