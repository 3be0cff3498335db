//! Bytes of any kind, anywhere: an examination ends, a repair ends, and a repaired image is clean.

use twinfs::format::{
    DigestPage, Dirent, ExtentRec, FsSuper, InodeRec, Label, LogMeta, LogOp, PAGE_BYTES, SectorKind,
    SummaryEntry, Superblock, Transaction, is_whole_record, open_record, open_sector, record_claim,
    record_len,
};
use twinfs::image::Disk;

use super::kit::*;
use crate::options::Repair;
use crate::plausible::plausible;
use crate::tree::{Head, TableInfo};

/// A decoder by name.
type Decoder = (&'static str, fn(&[u8]));

/// Every decoder of bytes on disk.
const DECODERS: &[Decoder] = &[
    ("label", |b| {
        let _ = (Label::decode(b), Label::has_magic(b), Label::claimed_version(b));
    }),
    ("superblock", |b| drop(Superblock::decode(b, 99))),
    ("activity log", |b| drop(Transaction::decode(b, 99, 16, 9000))),
    ("digest page", |b| drop(DigestPage::decode(b, 99, 0))),
    ("summary", |b| {
        let _ = (SummaryEntry::decode(b), open_sector(99, SectorKind::Summary, 0, b));
    }),
    ("bitmap", |b| {
        let _ = (open_sector(99, SectorKind::Differs, 0, b), open_sector(99, SectorKind::ToCopy, 0, b));
    }),
    ("filesystem superblock", |b| {
        let (head, cont) = b.split_at(b.len().min(4096));
        let _ = (FsSuper::peek(head), FsSuper::decode(head, cont));
    }),
    ("log record", |b| {
        let _ = (
            record_claim(b, 42),
            record_len(b, 42, 1),
            is_whole_record(b),
            open_record(b, &[0; 32]).is_some(),
        );
    }),
    ("log operations", |b| {
        let mut at = b;
        while LogOp::decode(&mut at).is_some() {}
    }),
    ("log position", |b| {
        let _ = LogMeta::decode(b);
    }),
    ("inode", |b| drop(InodeRec::decode(b))),
    ("name", |b| {
        let _ = Dirent::decode(b);
    }),
    ("extent", |b| {
        let _ = ExtentRec::decode(b);
    }),
    ("head of the tables", |b| drop(Head::decode(b))),
    ("list of tables", |b| {
        let _ = TableInfo::decode(b);
    }),
    ("entry of a broken page", |b| {
        let (key, value) = b.split_at(b.len().min(12));
        for table in twinfs::format::TableId::ALL {
            plausible(table, key, value);
        }
    }),
];

struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

#[test]
fn images_with_garbage_anywhere_are_repaired_or_refused_and_never_panic() {
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 2000 } else { 15 };
    let image = make(false);
    let places = places(&image);
    let used: Vec<u64> = image.allocated().into_iter().map(|(offset, _)| offset).collect();
    // Metadata is a small part of an image: half of the hits go there.
    let small: Vec<u64> =
        used.iter().copied().filter(|at| *at < 65_536 || *at >= places.geometry.ring).collect();
    for seed in 1..=rounds {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let damaged = copy(&image);
        for _ in 0..1 + dice.next(6) {
            let pool = if dice.next(2) == 0 { &used } else { &small };
            let at = pool[dice.next(pool.len() as u64) as usize] + dice.next(4096);
            match dice.next(4) {
                0 => flip(&damaged, at),
                1 => spoil(&damaged, at & !511, 512),
                2 => damaged.corrupt(at & !4095, &[dice.next(256) as u8; 4096]),
                _ => {
                    let from = used[dice.next(used.len() as u64) as usize];
                    let mut page = vec![0; 4096];
                    damaged.read_at(from, &mut page).unwrap();
                    damaged.corrupt(at & !4095, &page);
                }
            }
        }
        let said = fsck(&damaged, &options(Repair::Everything));
        match said.end {
            "repaired" | "nothing" => {
                let again = fsck(&damaged, &options(Repair::Nothing));
                assert!(again.lines.is_empty(), "seed {seed}: {:#?} after {:#?}", again.lines, said.lines);
                tree(&damaged);
            }
            "left" | "damaged" | "unusable" => assert!(!said.lines.is_empty() || said.end == "unusable"),
            other => panic!("seed {seed}: {other} {:#?}", said.lines),
        }
    }
}

#[test]
fn every_decoder_takes_any_bytes() {
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 200_000 } else { 3_000 };
    let image = make(true);
    let places = places(&image);
    // Real bytes of every structure, in pieces that begin where a structure does.
    let mut corpus: Vec<Vec<u8>> = image.allocated().into_iter().map(|(_, bytes)| bytes).collect();
    for (at, len) in
        [(places.slots[0], 12_288), (places.slots[1], 12_288), (places.geometry.pages, PAGE_BYTES)]
    {
        let mut bytes = vec![0; len];
        image.read_at(at, &mut bytes).unwrap();
        corpus.push(bytes);
    }
    let mut dice = Dice(0x1234_5678_9abc_def1);
    for round in 0..rounds {
        let mut bytes = corpus[dice.next(corpus.len() as u64) as usize].clone();
        for _ in 0..dice.next(12) {
            let at = dice.next(if round % 2 == 0 { 300 } else { bytes.len() as u64 }) as usize;
            bytes[at] = dice.next(256) as u8;
        }
        if dice.next(3) == 0 {
            bytes.truncate(dice.next(bytes.len() as u64 + 1) as usize);
        }
        let from = if dice.next(3) == 0 { dice.next(bytes.len() as u64) as usize } else { 0 };
        for (name, decode) in DECODERS {
            let end = std::panic::catch_unwind(|| decode(&bytes[from..]));
            assert!(end.is_ok(), "{name}, round {round}");
        }
    }
}
