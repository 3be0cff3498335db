//! Fuzz targets: every decoder of bytes on disk as a function of any bytes.
//!
//! A structure with a hash gets the right one first, or nothing behind the hash would ever be reached. The corpus is
//! what the encoders make of real values; each piece is replayed as it is and then bent. TWINFS_LONG=1 bends longer.

use std::ops::Range;

use super::fs_log::seal_raw_record;
use super::fs_super::seal_raw_slot;
use super::handover::seal_raw_handover;
use super::tests::{batch, label, page, state, superblock, transaction};
use super::*;
use crate::base::{BlockNo, Ino};

/// Image's incarnation in everything here.
const SALT: u128 = 1;

/// A decoder by name.
type Target = (&'static str, fn(&[u8]));

/// `bytes`, at least `len` of them, with the hash of `over` at `hash`.
fn sealed(salt: u128, bytes: &[u8], len: usize, hash: Range<usize>, over: Range<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(len.max(bytes.len().min(65_536)), 0);
    let right = codec::salted(salt, &[&bytes[over]]);
    bytes[hash].copy_from_slice(&right);
    bytes
}

fn sector(bytes: &[u8], kind: SectorKind) {
    let _ = open_sector(SALT, kind, 3, bytes);
    let mut payload = bytes.to_vec();
    payload.resize(SECTOR_PAYLOAD, 0);
    let mut out = [0; SECTOR_BYTES];
    seal_sector(SALT, kind, 3, &payload, &mut out);
    let payload = open_sector(SALT, kind, 3, &out).expect("sealed");
    for entry in payload.chunks(SummaryEntry::BYTES) {
        let _ = SummaryEntry::decode(entry);
    }
}

fn operations(mut at: &[u8]) {
    let mut steps = 0;
    while LogOp::decode(&mut at).is_some() {
        steps += 1;
        assert!(steps <= 1 << 20, "it never ends");
    }
}

const TARGETS: &[Target] = &[
    ("label", |bytes| {
        let _ = (Label::has_magic(bytes), Label::claimed_version(bytes), Label::decode(bytes));
        let body = 0..LABEL_BYTES - 32;
        let _ = Label::decode(&sealed(0, bytes, LABEL_BYTES, LABEL_BYTES - 32..LABEL_BYTES, body));
    }),
    ("superblock", |bytes| {
        let _ = Superblock::decode(bytes, SALT);
        let len = bytes.len().clamp(64, 65_536);
        let _ = Superblock::decode(&sealed(SALT, bytes, len, 0..32, 32..len), SALT);
    }),
    ("state and geometry", |bytes| {
        let _ = (State::decode(&mut Take::new(bytes)), Geometry::decode(&mut Take::new(bytes)));
    }),
    ("undo log", |bytes| {
        for len in [4096, 8192] {
            let _ = UndoBatch::decode(bytes, SALT, 4096);
            let batch = sealed(SALT, bytes, len, 0..32, 32..len);
            let claim = UndoBatch::header_len(&batch[..4096], 8, 3, 4096);
            if let Ok(batch) = UndoBatch::decode(&batch[..len], SALT, 4096) {
                assert!(batch.bytes() >= 4096 && batch.entries.iter().all(|entry| entry.first < 4096));
                assert!(claim.is_none() || batch.encode(SALT).len() as u64 == claim.unwrap_or(0));
            }
        }
    }),
    ("activity log", |bytes| {
        let _ = Transaction::decode(bytes, SALT, 64, 4096);
        let _ = Transaction::decode(&sealed(SALT, bytes, 4096, 0..32, 32..4096)[..4096], SALT, 64, 4096);
    }),
    ("digest page", |bytes| {
        let _ = DigestPage::decode(bytes, SALT, 6).map(|(page, _)| page.summary_hash());
        let bytes = sealed(SALT, bytes, PAGE_BYTES, 480..512, 0..480);
        if let Ok((page, _)) = DigestPage::decode(&bytes[..PAGE_BYTES], SALT, 6) {
            assert!((0..1024).filter(|index| page.get(*index) == BlockRec::Unknown).count() <= 1024);
        }
    }),
    ("summary", |bytes| sector(bytes, SectorKind::Summary)),
    ("bitmap", |bytes| sector(bytes, SectorKind::Differs)),
    ("still to copy", |bytes| sector(bytes, SectorKind::ToCopy)),
    ("filesystem superblock", |bytes| {
        let (head, cont) = bytes.split_at(bytes.len().min(4096));
        let _ = (FsSuper::peek(head), FsSuper::decode(head, cont));
        let mut head = head.to_vec();
        head.resize(4096, 0);
        // As whoever reads it: as much as the head asks for, within reason.
        if let Some((_, blocks)) = FsSuper::peek(&head).filter(|(_, blocks)| *blocks < 64) {
            let mut cont = cont.to_vec();
            cont.resize(blocks * 4096, 0);
            seal_raw_slot(&mut head, &cont);
            let _ = FsSuper::decode(&head, &cont);
        }
    }),
    ("log record", |bytes| {
        let _ =
            (record_claim(bytes, 42), record_len(bytes, 42, 7), record_prev(bytes), is_whole_record(bytes));
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4096).max(4096), 0);
        seal_raw_record(&mut bytes, &[9; 32]);
        if let Some(record) = open_record(&bytes, &[9; 32]) {
            operations(record.ops);
        }
    }),
    ("log operations", operations),
    ("log position", |bytes| {
        let _ = LogMeta::decode(bytes);
    }),
    ("handover", |bytes| {
        let _ = Handover::decode(bytes);
        if let Ok(all) = Handover::decode(&seal_raw_handover(bytes)) {
            assert_eq!(all.encode().expect("it was short enough"), seal_raw_handover(bytes));
        }
        // As the one that was left, with the hash put right.
        let (body, _) = bytes.split_at(bytes.len().saturating_sub(32));
        drop(Handover::decode(&seal_raw_handover(body)));
    }),
    ("inode", |bytes| drop(InodeRec::decode(bytes).map(|rec| rec.encode()))),
    ("name", |bytes| drop(Dirent::decode(bytes).map(|entry| entry.encode()))),
    ("extent", |bytes| drop(ExtentRec::decode(bytes).map(|rec| rec.encode()))),
    ("keys", |bytes| {
        let _ = (ino_of_key(bytes), second_of_key(bytes));
    }),
];

/// What the encoders make of real values.
fn corpus() -> Vec<Vec<u8>> {
    let mut put = Put::default();
    state().encode(&mut put);
    let mut inode = InodeRec::new(FileKind::Symlink, Time { secs: -1, nanos: 5 });
    inode.target = b"../else".as_slice().into();
    let meta = LogMeta { applied: 4, next_pos: 9, next_seq: 5, log_id: 42, prev_hash: [9; 32], next_ino: 77 };
    let sup = FsSuper {
        seq: 4,
        log_id: 42,
        block_count: 9000,
        ring_first: 4,
        ring_blocks: 1024,
        cont_first: [2, 3],
        cont_blocks: 8,
        data_first: 1028,
        copied: true,
        tables_len: 1 << 20,
        chunks: (0..400).map(|n| (n, 2000 + n * CHUNK_BLOCKS)).collect(),
    };
    let (mut slot, cont) = sup.encode();
    slot.extend_from_slice(&cont);
    let mut ops = Vec::new();
    for step in [
        LogOp::Set { table: TableId::Inodes, key: &key_ino(Ino(5)), value: Some(&inode.encode()) },
        LogOp::Set { table: TableId::Dirents, key: &key_name(Ino(1), b"name"), value: None },
        LogOp::Alloc { start: BlockNo(5000), count: 6 },
        LogOp::Free { start: BlockNo(5006), count: 8 },
    ] {
        step.encode(&mut ops);
    }
    let data = [0xAB; 4096];
    let (record, _) = seal_record(42, 7, &[9; 32], &ops, [(BlockNo(5000), &data)].into_iter());
    let mut sectors = [0; SECTOR_BYTES];
    seal_sector(SALT, SectorKind::Summary, 3, &[3; SECTOR_PAYLOAD], &mut sectors);
    vec![
        label().encode().to_vec(),
        superblock().encode(SALT).expect("fits"),
        put.done(),
        transaction().encode(SALT),
        page().encode(SALT, 6),
        batch(5).encode(SALT),
        batch(200).encode(SALT),
        sectors.to_vec(),
        slot,
        record.to_vec(),
        ops,
        meta.encode(),
        inode.encode(),
        Dirent { ino: Ino(9), kind: FileKind::Dir, cookie: 3 }.encode(),
        ExtentRec { start: BlockNo(5), count: 3, unwritten: true }.encode(),
        key_pair(Ino(7), 9),
        super::handover::tests::sample().encode().expect("small"),
        vec![0; 4096],
        vec![0xFF; 4096],
        Vec::new(),
    ]
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) as usize % limit.max(1)
    }
}

/// Numbers at which something ends.
const EDGES: [u64; 10] = [0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX];

fn bend(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..1 + dice.below(6) {
        // The numbers that decide are at the front.
        let front = if dice.below(2) == 0 { 300 } else { usize::MAX };
        let at = dice.below(bytes.len().min(front));
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => {
                let edge = EDGES[dice.below(EDGES.len())].to_le_bytes();
                let len = [1, 2, 4, 8][dice.below(4)];
                let at = at / len * len;
                if let Some(place) = bytes.get_mut(at..at + len) {
                    place.copy_from_slice(&edge[..len]);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            3 => {
                let from = dice.below(bytes.len());
                let count = dice.below(64).min(bytes.len() - at).min(bytes.len() - from);
                bytes.copy_within(from..from + count, at);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = dice.below(256) as u8;
                }
            }
        }
    }
}

#[test]
fn every_decoder_takes_its_corpus_and_whatever_it_is_bent_into() {
    let corpus = corpus();
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 1_000_000 } else { 4_000 };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..corpus.len() + rounds {
        let mut bytes = corpus[round % corpus.len()].clone();
        if round >= corpus.len() {
            bend(&mut bytes, &mut dice);
        }
        for (name, target) in TARGETS {
            let end = std::panic::catch_unwind(|| target(&bytes));
            assert!(end.is_ok(), "{name}, round {round}: {} bytes", bytes.len());
        }
    }
}

/// The hashes that the targets put right are the ones that the decoders ask for: else the fuzzing would end there.
#[test]
fn the_targets_reach_what_lies_behind_the_hashes() {
    let mut slot = superblock().encode(SALT).expect("fits");
    slot[40] ^= 1;
    assert!(Superblock::decode(&slot, SALT).is_err());
    let len = slot.len();
    assert!(Superblock::decode(&sealed(SALT, &slot, len, 0..32, 32..len), SALT).is_ok());
    let mut bytes = page().encode(SALT, 6);
    bytes[16] ^= 1;
    assert!(DigestPage::decode(&bytes, SALT, 6).is_err());
    assert!(DigestPage::decode(&sealed(SALT, &bytes, PAGE_BYTES, 480..512, 0..480), SALT, 6).is_ok());
    let mut bytes = batch(5).encode(SALT);
    bytes[48] ^= 1;
    assert!(UndoBatch::decode(&bytes, SALT, 4096).is_err());
    assert!(UndoBatch::decode(&sealed(SALT, &bytes, 4096, 0..32, 32..4096), SALT, 4096).is_ok());
    let mut bytes = label().encode().to_vec();
    bytes[72] ^= 1;
    assert!(Label::decode(&bytes).is_err());
    let body = 0..LABEL_BYTES - 32;
    assert!(Label::decode(&sealed(0, &bytes, LABEL_BYTES, LABEL_BYTES - 32..LABEL_BYTES, body)).is_ok());
    let handover = super::handover::tests::sample().encode().expect("small");
    let (body, _) = handover.split_at(handover.len() - 32);
    let mut body = body.to_vec();
    body[12] ^= 1;
    assert!(Handover::decode(&[body.as_slice(), &handover[body.len()..]].concat()).is_err());
    assert!(Handover::decode(&seal_raw_handover(&body)).is_ok());
    let (mut record, _) = seal_record(42, 7, &[9; 32], b"", std::iter::empty());
    record[130] ^= 1;
    assert!(open_record(&record, &[9; 32]).is_none());
    seal_raw_record(&mut record, &[9; 32]);
    assert!(open_record(&record, &[9; 32]).is_some());
}
