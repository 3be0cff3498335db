//! Encodings: there and back, sizes, refusal of everything else.

use super::*;
use crate::base::{Digest, Generation, Members, NodeId, Record, VolumeId};

pub(crate) fn state() -> State {
    let gens = (0..64)
        .map(|n| GenEntry {
            id: Generation(n + 1),
            minted_by: NodeId::B,
            at_v: n as u64,
            reason: GenReason::WentSolo,
            first_txn: 7,
        })
        .collect();
    State {
        volume: VolumeId(5),
        node: NodeId::B,
        incarnation: 99,
        record: Some(Record { v: 3, members: Members::only(NodeId::B), primary: NodeId::B }),
        gens,
        bitmap_base: Generation(63),
        full: true,
        resync: ResyncMark::Target { of: Generation(8) },
        boot_epoch: 12,
        peer_boot_epoch: 13,
        retired: (0..64).collect(),
        diverged: false,
        apart: crate::format::Apart::default(),
        witness_incarnation: 1 << 100,
    }
}

pub(super) fn superblock() -> Superblock {
    let geometry = Geometry::plan(64 << 20, 64).expect("large enough");
    let groups = vec![1; geometry.group_count().div_ceil(8) as usize];
    let undo = UndoHead { id: 8, stage: UndoStage::Saving };
    Superblock { seq: 9, compatible: 1, read_only: 2, refuse: 4, geometry, undo, state: state(), groups }
}

pub(super) fn transaction() -> Transaction {
    Transaction {
        seq: 10,
        first: 9,
        len: 3,
        low: 2,
        statements: (0..STATEMENTS_MAX as u32)
            .map(|s| Statement { slot: s, extent: (s % 2 == 0).then_some(3) })
            .collect(),
        pairs: (0..PAIRS_MAX as u64)
            .map(|b| match b % 3 {
                0 => Pair::Discarded { block: b, count: 4 },
                _ => Pair::Written { block: b, digest: Digest([b as u8; 15]) },
            })
            .collect(),
    }
}

pub(super) fn batch(entries: usize) -> UndoBatch {
    let entry = |n: usize| {
        let old = [Old::Unwritten, Old::Saved(Digest([n as u8; 15])), Old::Lost][n % 3];
        UndoEntry { first: n as u64 * 10, count: if n % 3 == 1 { 1 } else { 7 }, old }
    };
    let entries = (0..entries).map(entry).collect();
    UndoBatch { id: 8, seq: 3, at: 4096, entries, content: [5; 16] }
}

pub(super) fn page() -> DigestPage {
    let mut page = DigestPage::default();
    page.sequence = 4;
    page.flags = PAGE_UNCHECKED;
    for index in 0..1024 {
        match index % 3 {
            0 => page.set(index, BlockRec::Written(Digest([index as u8; 15]))),
            1 => page.set(index, BlockRec::Unknown),
            _ => {}
        }
    }
    page
}

pub(super) fn label() -> Label {
    Label {
        version: FORMAT_VERSION,
        uuid: 77,
        incarnation: 99,
        text: "mail".to_string(),
        image_bytes: 1 << 20,
        slots: [4096, 16_384],
        slot_bytes: 12_288,
    }
}

#[test]
fn everything_decodes_to_what_was_encoded() {
    let slot = superblock();
    assert_eq!(Superblock::decode(&slot.encode(1).expect("fits"), 1), Ok(slot));
    let txn = transaction();
    assert_eq!(Transaction::decode(&txn.encode(1), 1, 64, 4096), Ok(txn));
    let page = page();
    assert!(DigestPage::decode(&page.encode(1, 6), 1, 6) == Ok((page, PageCheck::Whole)));
    assert_eq!(Label::decode(&label().encode()), Ok(label()));
    for entries in [1, 142, 143, UNDO_ENTRIES_MAX] {
        let batch = batch(entries);
        let bytes = batch.encode(1);
        assert_eq!(bytes.len() as u64, UndoBatch::header_bytes(entries));
        assert_eq!(UndoBatch::header_len(&bytes[..4096], 8, 3, 4096), Some(bytes.len() as u64));
        assert_eq!(UndoBatch::decode(&bytes, 1, 4096), Ok(batch));
    }
}

#[test]
fn a_batch_of_another_undo_log_place_or_image_is_refused() {
    let bytes = batch(4).encode(1);
    for (id, seq, at) in [(7, 3, 4096), (8, 2, 4096), (8, 3, 8192)] {
        assert_eq!(UndoBatch::header_len(&bytes, id, seq, at), None);
    }
    assert!(UndoBatch::decode(&bytes, 2, 4096).is_err(), "of another image");
    assert!(UndoBatch::decode(&bytes, 1, 36).is_err(), "beyond the data area");
}

#[test]
fn bytes_of_another_image_or_place_are_refused() {
    assert!(Superblock::decode(&superblock().encode(1).expect("fits"), 2).is_err());
    assert!(Transaction::decode(&transaction().encode(1), 2, 64, 4096).is_err());
    assert!(DigestPage::decode(&page().encode(1, 6), 2, 6).is_err());
    assert!(DigestPage::decode(&page().encode(1, 6), 1, 7).is_err());
    let mut sector = [0; SECTOR_BYTES];
    seal_sector(1, SectorKind::Differs, 8, &[3; SECTOR_PAYLOAD], &mut sector);
    assert!(open_sector(1, SectorKind::Differs, 8, &sector).is_some());
    assert!(open_sector(1, SectorKind::Differs, 9, &sector).is_none());
    assert!(open_sector(1, SectorKind::ToCopy, 8, &sector).is_none());
    assert!(open_sector(1, SectorKind::Differs, 8, &[0; SECTOR_BYTES]).is_none());
}

#[test]
fn a_torn_page_is_old_or_new_in_its_maps_and_says_torn() {
    let old = page().encode(1, 6);
    let mut newer = page();
    newer.set(5, BlockRec::Written(Digest([9; 15])));
    newer.set(1023, BlockRec::Written(Digest([9; 15])));
    let new = newer.encode(1, 6);
    let mut torn = old.clone();
    torn[..512].copy_from_slice(&new[..512]);
    let (decoded, check) = DigestPage::decode(&torn, 1, 6).expect("the first sector is whole");
    assert_eq!(check, PageCheck::Torn);
    assert_eq!(decoded.get(0), newer.get(0));
    assert!(matches!(decoded.get(1023), BlockRec::Written(_)));
    torn[100] ^= 1;
    assert!(DigestPage::decode(&torn, 1, 6).is_err());
}

#[test]
fn geometry_fits_and_refuses_what_overlaps() {
    let least = Geometry::plan(0, 64).expect_err("nothing fits into nothing");
    for len in [least, least + 1, 100 << 20, 1 << 40, 1 << 44] {
        let geometry = Geometry::plan(len, 64).expect("fits");
        let mut put = Put::default();
        geometry.encode(&mut put);
        assert_eq!(put.len(), Geometry::BYTES);
        let bytes = put.done();
        assert_eq!(Geometry::decode(&mut Take::new(&bytes)), Ok(geometry.clone()));
        let used = geometry.extents * EXTENT_BYTES;
        assert!(len < 10 << 20 || used * 100 >= len * 85, "{used} of {len}");
        for field in 1..12 {
            let mut wrong = bytes.clone();
            wrong[field * 8 + 7] ^= 0x40;
            assert!(Geometry::decode(&mut Take::new(&wrong)).is_err(), "field {field}");
        }
    }
}

#[test]
fn decoders_survive_any_bytes() {
    let mut seeds: Vec<Vec<u8>> = vec![
        superblock().encode(1).expect("fits"),
        transaction().encode(1),
        page().encode(1, 6),
        label().encode().to_vec(),
    ];
    seeds.push(vec![0; 4096]);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    for round in 0..3000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + next() % 8 {
            let at = next() % bytes.len().min(if next() % 2 == 0 { 300 } else { usize::MAX });
            bytes[at] = next() as u8;
        }
        bytes.truncate(if next() % 4 == 0 { next() % (bytes.len() + 1) } else { bytes.len() });
        // With the hash made right again, so that the range checks behind it are reached.
        if bytes.len() > 512 && next() % 2 == 0 {
            let hash = codec::salted(1, &[&bytes[32..]]);
            bytes[..32].copy_from_slice(&hash);
        }
        let _ = Superblock::decode(&bytes, 1);
        let _ = Transaction::decode(&bytes, 1, 64, 4096);
        let _ = DigestPage::decode(&bytes, 1, 6);
        let _ = Label::decode(&bytes);
        if let Some(sector) = bytes.get(..SECTOR_BYTES) {
            assert!(open_sector(1, SectorKind::Summary, 0, sector).is_none());
        }
    }
}
