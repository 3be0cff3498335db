//! Tests of the witness process: what it keeps, whom it answers, who wins.

use std::path::{Path, PathBuf};

use super::*;
use crate::base::{Generation, Members, Record, VolumeId};
use crate::config::ClusterKey;
use crate::wire::{WitnessRecord, WitnessReply, WitnessRequest, decode_answer, encode_question};

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("twinfs-witness-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn keys() -> WitnessKeys {
    ClusterKey::from_bytes([7; 32]).witness("office")
}

fn server(dir: &Path) -> Server {
    Server::new(keys(), Store::open(dir).unwrap())
}

const MAIL: VolumeId = VolumeId(0xa11);

fn record(v: u64, primary: NodeId, members: Members, nonce: u128) -> WitnessRecord {
    WitnessRecord {
        record: Record { v, members, primary },
        head: Generation(5),
        lineage: u128::from(v) + 100,
        nonce,
    }
}

fn ask(server: &mut Server, from: NodeId, request: WitnessRequest) -> Option<WitnessReply> {
    let question = WitnessQuestion { volume: MAIL, from, nonce: 42, request };
    let keys = keys();
    let index = usize::from(from.index());
    let answer = server.answer(&encode_question(&question, &keys.request[index]))?;
    let answer = decode_answer(&answer, &keys.reply[index]).unwrap();
    assert_eq!((answer.volume, answer.nonce), (MAIL, 42));
    Some(answer.reply)
}

fn enrol(server: &mut Server) -> WitnessRecord {
    let first = record(1, NodeId::A, Members::BOTH, 1);
    let request = WitnessRequest::Enrol { record: first, sole: false };
    assert!(matches!(ask(server, NodeId::A, request), Some(WitnessReply::Waiting { .. })));
    assert!(matches!(ask(server, NodeId::B, request), Some(WitnessReply::Record { .. })));
    first
}

fn swap(from: &WitnessRecord, winner: NodeId, nonce: u128) -> WitnessRequest {
    WitnessRequest::Cas {
        expect_v: from.record.v,
        expect_lineage: from.lineage,
        next: record(from.record.v + 1, winner, Members::only(winner), nonce),
    }
}

#[test]
fn of_two_swaps_one_wins_and_a_repeated_one_is_answered_the_same_after_a_restart() {
    let dir = Dir::new("race");
    let mut witness = server(&dir.0);
    let first = enrol(&mut witness);
    let (by_a, by_b) = (swap(&first, NodeId::A, 11), swap(&first, NodeId::B, 22));
    assert!(matches!(ask(&mut witness, NodeId::B, by_b), Some(WitnessReply::Won { .. })));
    let lost = ask(&mut witness, NodeId::A, by_a);
    assert!(
        matches!(lost, Some(WitnessReply::Conflict { record, .. }) if record.record.primary == NodeId::B)
    );
    drop(witness);
    let mut witness = server(&dir.0);
    assert!(matches!(ask(&mut witness, NodeId::B, by_b), Some(WitnessReply::Won { .. })));
    assert!(matches!(ask(&mut witness, NodeId::A, by_a), Some(WitnessReply::Conflict { .. })));
}

#[test]
fn a_lost_or_damaged_directory_answers_unknown_under_another_incarnation() {
    let dir = Dir::new("amnesia");
    let mut witness = server(&dir.0);
    enrol(&mut witness);
    let Some(WitnessReply::Record { incarnation: old, .. }) =
        ask(&mut witness, NodeId::A, WitnessRequest::Read)
    else {
        panic!("enrolled");
    };
    drop(witness);
    let file = dir.0.join("records");
    let whole = std::fs::read(&file).unwrap();
    let unknown = |bytes: Option<Vec<u8>>| {
        match &bytes {
            Some(bytes) => std::fs::write(&file, bytes).unwrap(),
            None => std::fs::remove_file(&file).unwrap(),
        }
        let store = Store::open(&dir.0).unwrap();
        assert_eq!(store.damaged().is_some(), bytes.is_some());
        let mut witness = Server::new(keys(), store);
        match ask(&mut witness, NodeId::A, WitnessRequest::Read) {
            Some(WitnessReply::Unknown { incarnation }) => assert_ne!(incarnation, old),
            other => panic!("{other:?}"),
        }
    };
    unknown(None);
    unknown(Some(Vec::new()));
    unknown(Some(whole[..whole.len() - 1].to_vec()));
    let mut flipped = whole.clone();
    flipped[40] ^= 1;
    unknown(Some(flipped));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x80;
        assert_eq!(store::decode_for_tests(&bytes), None, "byte {at} is not covered");
        assert_eq!(store::decode_for_tests(&whole[..at]), None);
    }
}

#[test]
fn packets_that_no_node_sent_get_no_answer_and_change_nothing() {
    let dir = Dir::new("forged");
    let mut witness = server(&dir.0);
    let first = enrol(&mut witness);
    let before = witness.clusters[0].store.image().clone();
    let question =
        WitnessQuestion { volume: MAIL, from: NodeId::A, nonce: 9, request: swap(&first, NodeId::A, 3) };
    let good = encode_question(&question, &keys().request[0]);
    assert_eq!(witness.answer(&encode_question(&question, &keys().request[1])), None, "B speaks for A");
    assert_eq!(witness.answer(&encode_question(&question, &keys().reply[0])), None, "a reply's key");
    let stranger = ClusterKey::from_bytes([7; 32]).witness("other");
    assert_eq!(witness.answer(&encode_question(&question, &stranger.request[0])), None, "another cluster");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        assert_eq!(witness.answer(&bytes), None, "byte {at}");
        assert_eq!(witness.answer(&good[..at]), None);
    }
    assert_eq!(*witness.clusters[0].store.image(), before);
    assert!(witness.answer(&good).is_some());
}

#[test]
fn an_answer_that_cannot_be_made_stable_is_not_given() {
    let dir = Dir::new("full");
    let mut witness = server(&dir.0);
    let first = enrol(&mut witness);
    // The name of the new file is taken by a directory: writing it fails as on a broken disk.
    std::fs::create_dir(dir.0.join("records.new")).unwrap();
    assert_eq!(ask(&mut witness, NodeId::A, swap(&first, NodeId::A, 11)), None);
    let now = ask(&mut witness, NodeId::B, WitnessRequest::Read);
    assert!(matches!(now, Some(WitnessReply::Record { record, .. }) if record == first), "{now:?}");
    std::fs::remove_dir(dir.0.join("records.new")).unwrap();
    assert!(matches!(
        ask(&mut witness, NodeId::B, swap(&first, NodeId::B, 22)),
        Some(WitnessReply::Won { .. })
    ));
}

#[test]
fn two_processes_cannot_share_a_directory() {
    let dir = Dir::new("shared");
    let _first = Store::open(&dir.0).unwrap();
    assert!(Store::open(&dir.0).err().unwrap().to_string().contains("in use by another witness"));
}

#[test]
fn one_process_serves_two_clusters_and_neither_hears_of_the_others_volumes() {
    let dir = Dir::new("clusters");
    let other = || ClusterKey::from_bytes([8; 32]).witness("branch");
    let open = || {
        let store = |name: &str| Store::open(&dir.0.join(name)).unwrap();
        Server::of(vec![(keys(), store("office")), (other(), store("branch"))])
    };
    let ask_other = |server: &mut Server, request| {
        let question = WitnessQuestion { volume: MAIL, from: NodeId::A, nonce: 43, request };
        let answer = server.answer(&encode_question(&question, &other().request[0])).unwrap();
        decode_answer(&answer, &other().reply[0]).unwrap().reply
    };
    let mut server = open();
    let first = enrol(&mut server);
    assert!(matches!(ask_other(&mut server, WitnessRequest::Read), WitnessReply::Unknown { .. }));
    let next = record(2, NodeId::A, Members::only(NodeId::A), 9);
    let swap = WitnessRequest::Cas { expect_v: first.record.v, expect_lineage: first.lineage, next };
    assert!(matches!(ask_other(&mut server, swap), WitnessReply::Unknown { .. }), "moved by a stranger");
    let sole = record(1, NodeId::A, Members::only(NodeId::A), 3);
    let theirs = WitnessRequest::Enrol { record: sole, sole: true };
    assert!(matches!(ask_other(&mut server, theirs), WitnessReply::Record { record, .. } if record == sole));
    drop(server);
    let mut server = open();
    let kept = ask(&mut server, NodeId::B, WitnessRequest::Read);
    assert!(matches!(kept, Some(WitnessReply::Record { record, .. }) if record == first), "{kept:?}");
    let kept = ask_other(&mut server, WitnessRequest::Read);
    assert!(matches!(kept, WitnessReply::Record { record, .. } if record == sole), "{kept:?}");
}
