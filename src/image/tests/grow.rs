//! Growing: what was stable stays, a cut at any event leaves the old size or the new one, and it grows again.

use super::*;

const LEN: u64 = 40 << 20;
const MORE: u64 = 5;

fn put(blocks: &LocalBlocks, block: u64, version: u64) {
    blocks.write(BlockNo(block), &super::content(block, version)).expect("write");
}

/// An image with data everywhere: hot extents, saved ones, backed ones without data.
fn used() -> (Arc<MemDisk>, LocalBlocks) {
    let disk = disk(LEN, solo(), 4);
    let blocks = local(&disk);
    for extent in 0..7 {
        put(&blocks, extent * 1024 + 3, 1);
        blocks.flush().expect("flush");
    }
    blocks.back(ExtentNo(8)).expect("back");
    put(&blocks, 2 * 1024, 1);
    blocks.flush().expect("flush");
    (disk, blocks)
}

fn check(image: &Image, version: u64) {
    for extent in 0..7 {
        let block = extent * 1024 + 3;
        assert_eq!(read(image, block).unwrap(), super::content(block, version), "block {block}");
    }
    assert_eq!(read(image, 4 * 1024).unwrap(), vec![0; 4096]);
    assert!(image.is_backed(ExtentNo(8)));
}

#[test]
fn an_image_in_use_grows_and_its_new_end_is_empty_and_writable() {
    let (disk, blocks) = used();
    let image = blocks.image().clone();
    let old = image.block_count();
    assert!(matches!(image.grow(old - 1024), Err(ImageError::GrowsTooLittle { .. })), "it shrank");
    assert!(matches!(image.grow(old + 5), Err(ImageError::GrowsTooLittle { .. })));
    image.grow(old + MORE * 1024).expect("grows");
    assert_eq!(image.block_count(), old + MORE * 1024);
    image.grow(old + MORE * 1024).expect("as long as it is");
    let last = image.block_count() - 1;
    for block in [old, last] {
        assert_eq!(read(&image, block).unwrap(), vec![0; 4096], "the old metadata shows");
        put(&blocks, block, 7);
    }
    blocks.back(ExtentNo(old / 1024 + 1)).expect("back");
    blocks.flush().expect("flush");
    image.mark(BlockNo(last), 1).expect("mark");
    check(&image, 1);
    image.close().expect("close");
    drop((image, blocks));
    let image = open(&disk);
    check(&image, 1);
    assert_eq!(read(&image, last).unwrap(), super::content(last, 7));
    assert_eq!(image.next_differs(BlockNo(last)), Some((BlockNo(last), 1)));
    assert_eq!(image.dirty_blocks(), 10, "marks were lost");
    image.grow(last + 1 + 2048).expect("grows again");
    check(&image, 1);
    assert_eq!(read(&image, old).unwrap(), super::content(old, 7));
}

/// Writes go on while the first half of the work is done: between the two lists of pages.
fn grow_cut_anywhere() {
    let (disk, blocks) = used();
    let image = blocks.image().clone();
    let old = image.block_count();
    let base = disk.fork();
    disk.record();
    image.grow(old + MORE * 1024).expect("grows");
    let grown = disk.event_count();
    for extent in 0..7 {
        put(&blocks, extent * 1024 + 3, 2);
    }
    blocks.flush().expect("flush");
    let events = disk.events();
    let mut random = Random(77);
    let mut sizes = std::collections::BTreeSet::new();
    for cut in 0..=events.len() {
        for mode in 0..4 {
            let mut keep = |event: usize, _: usize| match mode {
                0 => false,
                1 => true,
                2 => event + 1 == cut,
                _ => random.below(2) == 0,
            };
            let after = Arc::new(MemDisk::crash_image(&base, &events, cut, &mut keep));
            after.extend(disk.len_bytes()).expect("longer");
            // Where the first label rots as well, the copy of it leads to something whole.
            let rotten = Arc::new(after.fork());
            rotten.corrupt(0, &[0; 512]);
            if cut <= grown {
                check(&open(&rotten), 1);
            }
            let image = open(&after);
            let size = image.block_count();
            assert!(size == old || size == old + MORE * 1024, "cut {cut}: {size} blocks");
            sizes.insert((size, cut >= grown));
            if cut <= grown {
                check(&image, 1);
            }
            // It goes on, and the other copy of the label does not lead astray.
            let blocks = LocalBlocks::new(image).expect("local");
            put(&blocks, 3, 9);
            blocks.flush().expect("flush");
            drop(blocks);
            after.corrupt(0, &[0; 512]);
            let image = open(&after);
            assert_eq!(image.block_count(), size, "cut {cut}: the other label names another size");
            assert_eq!(read(&image, 3).unwrap(), super::content(3, 9));
        }
    }
    assert!(sizes.contains(&(old, false)) && sizes.contains(&(old + MORE * 1024, true)));
    assert!(!sizes.contains(&(old, true)), "grown, and small again");
}

#[test]
fn a_cut_while_it_grows_leaves_the_old_size_or_the_new_one_with_everything() {
    grow_cut_anywhere();
}

#[test]
fn each_rule_of_growing_is_needed() {
    for rule in ["moved metadata is stable before the label names it", "both labels say the same"] {
        assert!(fails_without(rule, grow_cut_anywhere), "nothing notices that the rule is off: {rule}");
    }
    let rule = "pages written while it grows are copied again";
    assert!(fails_without(rule, writes_beside_it), "nothing notices that the rule is off: {rule}");
}

type Act = Box<dyn FnOnce() + Send>;

/// A medium that lets somebody act right after the first page was copied to its new place.
struct Beside {
    disk: Arc<MemDisk>,
    act: std::sync::Mutex<Option<Act>>,
}

impl Disk for Beside {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DiskError> {
        self.disk.read_at(offset, out)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.disk.write_at(offset, data)?;
        let act = if offset >= LEN { self.act.lock().unwrap().take() } else { None };
        act.into_iter().for_each(|act| act());
        Ok(())
    }
    fn flush(&self) -> Result<(), DiskError> {
        self.disk.flush()
    }
    fn extend(&self, len: u64) -> Result<(), DiskError> {
        self.disk.extend(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.disk.punch(offset, len)
    }
    fn zero(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.disk.zero(offset, len)
    }
}

/// Pages are saved when their slot is needed: with four slots every write pushes one out.
fn writes_beside_it() {
    let (disk, blocks) = used();
    blocks.image().close().expect("close");
    drop(blocks);
    let medium = Arc::new(Beside { disk: disk.clone(), act: std::sync::Mutex::default() });
    let image = Arc::new(Image::open(medium.clone(), &OpenOptions::read_write()).expect("opens"));
    let writer = LocalBlocks::new(image.clone()).expect("local");
    *medium.act.lock().unwrap() = Some(Box::new(move || {
        for version in 2..5 {
            for extent in 0..7 {
                put(&writer, extent * 1024 + 3, version);
                writer.flush().expect("flush");
            }
        }
        writer.back(ExtentNo(7)).expect("back");
    }));
    image.grow(image.block_count() + MORE * 1024).expect("grows");
    assert!(medium.act.lock().unwrap().is_none(), "nobody wrote beside it");
    check(&image, 4);
    image.close().expect("close");
    drop((image, medium));
    let image = open(&disk);
    check(&image, 4);
    assert!(image.is_backed(ExtentNo(7)));
}

#[test]
fn what_is_written_beside_it_is_kept() {
    writes_beside_it();
}

#[test]
fn a_full_host_disk_leaves_it_as_it_was() {
    let (disk, blocks) = used();
    let image = blocks.image().clone();
    let old = image.block_count();
    for room in [0, 4096, 65_536, 600_000] {
        disk.limit_room(Some(room));
        assert_eq!(image.grow(old + MORE * 1024), Err(ImageError::Disk(DiskError::Full)), "room {room}");
        assert_eq!((image.block_count(), image.failure()), (old, None));
        disk.limit_room(None);
        put(&blocks, 3, 1);
        blocks.flush().expect("goes on");
    }
    image.grow(old + MORE * 1024).expect("grows");
    check(&image, 1);
}
