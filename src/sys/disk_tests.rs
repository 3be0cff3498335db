//! Files as disks: aligned and not, holes, length, a full-size image.

use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::base::{BlockNo, Digest, VolumeId};
use crate::format::{ResyncMark, State};
use crate::image::{FormatOptions, Image, LocalBlocks, OpenOptions, format};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("twinfs-disk-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("folder");
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn bytes_come_back_whatever_the_alignment() {
    let scratch = Scratch::new("align");
    let disk = FileDisk::create(&scratch.0.join("image"), 3 << 20).expect("create");
    let data: Vec<u8> = (0..2_100_000u32 / 4).flat_map(|n| n.to_le_bytes()).collect();
    for (offset, len) in [(0, 4096), (4096, 1 << 20), (8192, (2 << 20) + 4096 - 8192), (512, 512), (4097, 3)]
    {
        let mut padded = vec![0u8; 1];
        padded.extend(&data[..len.min(data.len())]);
        disk.write_at(offset, &padded[1..]).expect("write");
        let mut back = vec![0u8; padded.len()];
        disk.read_at(offset, &mut back[1..]).expect("read");
        assert!(back[1..] == padded[1..], "{offset}+{len}");
    }
    let mut pages = Pages::zeroed(2);
    disk.read_at(4096, &mut pages).expect("read");
    disk.flush().expect("flush");
    assert!(disk.write_at((3 << 20) - 100, &[0; 101]).is_err());
    assert!(FileDisk::create(disk.path(), 1).is_err(), "an existing file is refused");
}

#[test]
fn a_punched_range_is_given_back_and_a_zeroed_one_is_allocated() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("punch");
    let disk = FileDisk::create(&scratch.0.join("image"), 16 << 20).expect("create");
    let allocated = || std::fs::metadata(disk.path()).expect("stat").blocks() * 512;
    disk.zero(4 << 20, 4 << 20).expect("zero");
    disk.flush().expect("flush");
    assert!(allocated() >= 4 << 20);
    disk.punch(4 << 20, 4 << 20).expect("punch");
    assert!(allocated() < 1 << 20, "{} bytes", allocated());
}

#[test]
fn an_empty_image_of_one_tebibyte_costs_less_than_a_mebibyte_and_half_a_second() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("huge");
    let path = scratch.0.join("image");
    let start = Instant::now();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(&path, 1 << 40).expect("create"));
    let state = State {
        volume: VolumeId(1),
        node: crate::base::NodeId::A,
        incarnation: 2,
        record: None,
        gens: Vec::new(),
        bitmap_base: crate::base::Generation(0),
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 0,
        peer_boot_epoch: 0,
        retired: Vec::new(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: 0,
    };
    let options = FormatOptions { state, uuid: 3, label: String::new(), al_slots: 0 };
    format(&disk, &options).expect("format");
    let image = Arc::new(Image::open(disk, &OpenOptions::read_write()).expect("open"));
    let took = start.elapsed();
    let allocated = std::fs::metadata(&path).expect("stat").blocks() * 512;
    assert!(allocated < 1 << 20, "{allocated} bytes");
    assert!(took.as_millis() < 500, "{took:?}");
    // And its last block can be used.
    use crate::image::Blocks;
    let blocks = LocalBlocks::new(image).expect("local");
    let last = BlockNo(blocks.block_count() - 1);
    blocks.write_flush(last, &[5; 4096]).expect("write");
    assert_eq!(blocks.image().digests(last, 1), Ok(vec![Some(Digest::of(&[5; 4096]))]));
}

#[test]
fn several_writes_at_once_all_arrive_aligned_or_not() {
    let dir = std::env::temp_dir().join(format!("twinfs-many-{}", std::process::id()));
    let disk = FileDisk::create(&dir, 1 << 20).unwrap();
    let pages: Vec<Pages> = (0..70).map(|n| Pages::copy_of(&[n + 1; 4096])).collect();
    let mut loose = vec![0; 4097];
    loose[1..].fill(0xEE);
    let mut writes: Vec<(u64, &[u8])> = (0..).step_by(8192).zip(pages.iter().map(|page| &page[..])).collect();
    writes.push((70 * 8192, &loose[1..]));
    disk.write_many(&writes).unwrap();
    disk.flush().unwrap();
    for (offset, data) in &writes {
        let mut back = vec![0; data.len()];
        disk.read_at(*offset, &mut back).unwrap();
        assert_eq!(&back, data, "at {offset}");
    }
    let beyond = disk.write_many(&[(0, &pages[0]), ((1 << 20) - 4096, &pages[0]), (1 << 20, &pages[0])]);
    assert!(matches!(beyond, Err(DiskError::Io(_))), "{beyond:?}");
    std::fs::remove_file(&dir).unwrap();
}

#[test]
fn a_stream_of_parts_arrives_whole_and_stops_where_one_does_not_fit() {
    let scratch = Scratch::new("stream");
    let disk = FileDisk::create(&scratch.0.join("image"), 3 << 20).expect("create");
    let part = |n: u64| (n * (300 << 10), Pages::copy_of(&vec![n as u8 + 1; 300 << 10]));
    disk.write_each(&mut (0..7).map(part)).expect("write");
    let mut back = vec![0; 2100 << 10];
    disk.read_at(0, &mut back).expect("read");
    assert!(back.chunks(300 << 10).zip(1..).all(|(got, n)| got.iter().all(|byte| *byte == n)));
    let mut made = 0;
    let beyond = |n: u64| {
        made += 1;
        part(n + 8)
    };
    assert!(disk.write_each(&mut (0..9).map(beyond)).is_err(), "a part beyond the end");
    assert_eq!(made, 3, "nothing is made after the part that failed");
    assert!(disk.write_each(&mut (0..2).map(part)).is_ok(), "and the next stream goes");
}

/// The maker of a part may panic while the kernel still reads the one before.
#[test]
fn a_stream_whose_maker_panics_leaves_no_write_behind() {
    let scratch = Scratch::new("panic");
    let disk = FileDisk::create(&scratch.0.join("image"), 8 << 20).expect("create");
    for _ in 0..50 {
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let part = |n: u64| {
                assert!(n < 2, "the test's own panic");
                (n << 20, Pages::copy_of(&vec![7; 1 << 20]))
            };
            disk.write_each(&mut (0..3).map(part))
        }));
        assert!(made.is_err());
    }
    let mut back = vec![0; 2 << 20];
    disk.read_at(0, &mut back).expect("read");
    assert!(back.iter().all(|byte| *byte == 7));
}
