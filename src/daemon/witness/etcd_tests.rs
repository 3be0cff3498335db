//! What is stored, and what is believed; the races are shown with a real etcd (`--test etcd`).

use super::*;
use crate::base::{Generation, Members, Record};
use crate::wire::WitnessRecord;

const MAIL: VolumeId = VolumeId(0xa11);
const KEY: &str = "twinfs/office/a11";
const SEAL: [u8; 32] = [7; 32];

fn record(v: u64) -> WitnessRecord {
    let record = Record { v, members: Members::BOTH, primary: NodeId::A };
    WitnessRecord { record, head: Generation(5), lineage: u128::from(v) + 100, nonce: 9 }
}

fn witness() -> Witness {
    let image = WitnessImage { incarnation: 77, records: BTreeMap::from([(MAIL, record(4))]) };
    Witness::resumed(image, Asked::from([((MAIL, NodeId::B), record(6))]))
}

#[test]
fn what_is_stored_comes_back_and_no_byte_of_it_can_be_changed() {
    let bytes = encode(&witness(), MAIL, KEY, &SEAL);
    let back = decode(&bytes, MAIL, KEY, &SEAL).unwrap();
    assert_eq!((back.image(), back.asked()), (witness().image(), witness().asked()));
    assert!(bytes.len() < 400, "a few hundred bytes: {}", bytes.len());
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x40;
        assert!(decode(&wrong, MAIL, KEY, &SEAL).is_none(), "byte {at} is not covered");
        assert!(decode(&bytes[..at], MAIL, KEY, &SEAL).is_none());
    }
}

#[test]
fn a_value_of_another_volume_key_or_cluster_is_not_believed() {
    let bytes = encode(&witness(), MAIL, KEY, &SEAL);
    assert!(decode(&bytes, VolumeId(1), KEY, &SEAL).is_none());
    assert!(decode(&bytes, MAIL, "twinfs/other/a11", &SEAL).is_none());
    assert!(decode(&bytes, MAIL, KEY, &[8; 32]).is_none());
    let empty = Witness::new(WitnessImage { incarnation: 1, records: BTreeMap::new() });
    let bytes = encode(&empty, MAIL, KEY, &SEAL);
    assert!(decode(&bytes, MAIL, KEY, &SEAL).unwrap().image().records.is_empty());
}
