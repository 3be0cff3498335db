//! The golden image of format 1: made once, opened for ever.
#![allow(clippy::disallowed_methods, reason = "reads and, by order, writes the listing")]

use std::fmt::Write as _;
use std::path::PathBuf;

use super::*;

fn listing() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration/golden/image-1.txt")
}

/// Blocks written before the power cut, and their versions.
const WRITTEN: [(u64, u64); 6] = [(0, 3), (1, 1), (1023, 1), (1024, 2), (5000, 1), (8191, 1)];
const LEN: u64 = 40 << 20;

fn make() -> Arc<MemDisk> {
    let disk = disk(LEN, solo(), 8);
    let blocks = local(&disk);
    blocks.write(BlockNo(0), &content(0, 1)).expect("write");
    blocks.flush().expect("flush");
    for (block, version) in WRITTEN {
        blocks.write(BlockNo(block), &content(block, version)).expect("write");
    }
    blocks.flush().expect("flush");
    blocks.discard(BlockNo(5000), 1).expect("discard");
    blocks.image().mark_stable(&[(BlockNo(77), 2)]).expect("mark");
    let mut state = blocks.image().state();
    state.boot_epoch = 17;
    blocks.image().store(&state).expect("store");
    blocks.flush().expect("flush");
    disk
}

/// One line a run of equal 16-byte words: `offset count hex`; zeros are left out.
fn encode(disk: &MemDisk) -> String {
    let mut out = format!("{LEN}\n");
    for (offset, bytes) in disk.allocated() {
        let words: Vec<&[u8]> = bytes.chunks_exact(16).collect();
        let mut at = 0;
        while at < words.len() {
            let run = words[at..].iter().take_while(|w| **w == words[at]).count();
            if words[at].iter().any(|b| *b != 0) {
                let hex: String = words[at].iter().map(|b| format!("{b:02x}")).collect();
                writeln!(out, "{} {run} {hex}", offset + at as u64 * 16).expect("a string");
            }
            at += run;
        }
    }
    out
}

fn decode(text: &str) -> Arc<MemDisk> {
    let mut lines = text.lines();
    let disk = MemDisk::new(lines.next().and_then(|l| l.parse().ok()).expect("length"));
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let (offset, run): (u64, usize) = (words[0].parse().expect("offset"), words[1].parse().expect("run"));
        let word: Vec<u8> =
            (0..16).map(|i| u8::from_str_radix(&words[2][i * 2..i * 2 + 2], 16).expect("hex")).collect();
        disk.corrupt(offset, &word.repeat(run));
    }
    Arc::new(disk)
}

#[test]
#[ignore = "writes the golden image; only for a new format version"]
fn make_the_golden_image() {
    std::fs::write(listing(), encode(&make())).expect("write the listing");
}

#[test]
fn the_golden_image_opens_for_ever() {
    let text = std::fs::read_to_string(listing()).expect("integration/golden/image-1.txt");
    assert!(text.len() < 100 << 10, "{} bytes", text.len());
    let disk = decode(&text);
    let image = open(&disk);
    assert!(image.was_unclean());
    assert_eq!((image.label(), image.uuid(), image.block_count()), ("test", 0xabc, 9 * 1024));
    assert_eq!(image.state().boot_epoch, 17);
    assert_eq!(image.state(), State { boot_epoch: 17, ..state(solo()) });
    for (block, version) in WRITTEN.into_iter().filter(|(block, _)| *block != 5000) {
        assert_eq!(read(&image, block), Ok(content(block, version)));
    }
    assert_eq!(read(&image, 5000), Ok(vec![0; 4096]));
    assert_eq!(image.next_differs(BlockNo(50)), Some((BlockNo(77), 2)));
    assert_eq!(image.suspects(), Ok(Vec::new()));
}
