//! A copy that is put aside is whole or counts for nothing, and the image that is kept is not touched.

use super::super::tests::{content, disk, local, open, read, solo};
use super::*;
use crate::image::{Blocks, MemDisk};

const LEN: u64 = 40 << 20;
const BLOCKS: [u64; 6] = [0, 1, 700, 1023, 1024, 3000];

fn whatever(_: u64) -> Result<(), ImageError> {
    Ok(())
}

/// An image with blocks written, one of them discarded, and the bitmap of a copy that is alone.
fn image() -> (Arc<MemDisk>, Arc<Image>) {
    let disk = disk(LEN, solo(), 0);
    let blocks = local(&disk);
    for block in BLOCKS {
        blocks.write(BlockNo(block), &content(block, 1)).unwrap();
    }
    blocks.discard(BlockNo(1), 1).unwrap();
    blocks.flush().unwrap();
    let image = Arc::clone(blocks.image());
    (disk, image)
}

fn target() -> (Arc<MemDisk>, Arc<dyn Disk>) {
    let disk = Arc::new(MemDisk::new(LEN));
    (Arc::clone(&disk), disk)
}

#[test]
fn everything_goes_over_and_nothing_changes_where_it_came_from() {
    let (disk, image) = image();
    disk.record();
    let (kept, as_disk) = target();
    assert_eq!(image.keep(&as_disk, &mut whatever), Ok(5));
    assert_eq!(disk.event_count(), 0, "the image that is kept was written to");
    let copy = open(&kept);
    for block in [0, 700, 1023, 1024, 3000] {
        assert_eq!(read(&copy, block).unwrap(), content(block, 1), "{block}");
    }
    assert_eq!(read(&copy, 1).unwrap(), vec![0; 4096]);
    assert_eq!((copy.state(), copy.uuid()), (image.state(), image.uuid()));
    assert_eq!(copy.dirty_blocks(), image.dirty_blocks(), "what the peer may lack");
    assert!(image.dirty_blocks() > 0 && !copy.was_unclean());
    assert_eq!(image.is_kept_in(&as_disk, &mut whatever), Ok(true));
    // Of another state, or another content, it is no copy.
    let blocks = LocalBlocks::new(Arc::clone(&image)).unwrap();
    blocks.write(BlockNo(3000), &content(3000, 2)).unwrap();
    assert_eq!(image.is_kept_in(&as_disk, &mut whatever), Ok(false));
}

#[test]
fn what_cannot_be_read_is_kept_as_unreadable() {
    let (disk, image) = image();
    disk.corrupt(image.geometry().block_at(700) + 99, b"rot");
    let (kept, as_disk) = target();
    assert_eq!(image.keep(&as_disk, &mut whatever), Ok(5));
    let copy = open(&kept);
    assert_eq!(read(&copy, 700), Err(ImageError::Rotten { block: BlockNo(700) }));
    assert_eq!(read(&copy, 1023).unwrap(), content(1023, 1));
    assert_eq!(image.is_kept_in(&as_disk, &mut whatever), Ok(true));
    // Rot of the copy itself is seen.
    kept.corrupt(copy.geometry().block_at(1023) + 99, b"rot");
    assert_eq!(image.is_kept_in(&as_disk, &mut whatever), Ok(false));
}

#[test]
fn a_copy_that_was_cut_off_anywhere_counts_for_nothing_or_is_whole() {
    let (_, image) = image();
    let (kept, as_disk) = target();
    kept.record();
    image.keep(&as_disk, &mut whatever).unwrap();
    let events = kept.event_count() as u64;
    assert!(events > 10, "{events}");
    for stop in 0..events {
        let (kept, as_disk) = target();
        kept.stop_after(stop);
        assert!(image.keep(&as_disk, &mut whatever).is_err(), "stopped after {stop} of {events}");
        let after: Arc<dyn Disk> = Arc::new(kept.fork());
        if image.is_kept_in(&after, &mut whatever) == Ok(true) {
            let copy = Image::open(after, &OpenOptions::read_only()).unwrap();
            assert!(
                BLOCKS.iter().all(|block| *block == 1 || read(&copy, *block).unwrap() == content(*block, 1))
            );
        }
    }
    // A full disk, and an order to stop, are told.
    let (kept, as_disk) = target();
    kept.limit_room(Some(16_384));
    assert!(image.keep(&as_disk, &mut whatever).is_err());
    let mut stop = |done| if done > 1 { Err(ImageError::Disk(DiskError::Dead)) } else { Ok(()) };
    assert_eq!(image.keep(&target().1, &mut stop), Err(ImageError::Disk(DiskError::Dead)));
}

#[test]
fn a_half_overwritten_copy_is_not_kept() {
    let (_, image) = image();
    let resync = crate::format::ResyncMark::Target { of: crate::base::Generation(9) };
    image.store(&crate::format::State { resync, ..image.state() }).unwrap();
    assert!(image.keep(&target().1, &mut whatever).is_err());
}
