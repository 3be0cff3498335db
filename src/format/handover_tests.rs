//! There and back, the bytes as they were decided, and refusal of everything else.

use super::*;

pub(in crate::format) fn sample() -> Handover {
    let mut counts = [0; HELD_GROUP as usize];
    (counts[1], counts[15]) = (3, u8::MAX);
    let held = Held { groups: vec![(0, [1; 16]), (7, counts)], more: vec![(7 * 16 + 15, 1 << 40)] };
    let mount = KeptMount {
        name: "mail".to_string(),
        image: b"/var/lib/twinfs/mail.img".to_vec(),
        dir: b"/replicated/\xff".to_vec(),
        device: 9,
        lock: 11,
        minor: 57,
        greeting: vec![1, 2, 3],
        answer: vec![4; 80],
        read_only: false,
        dir_sync: true,
        atime: 2,
        lease_from: Some(123_456_789),
        held,
    };
    let alone = KeptMount {
        name: String::new(),
        lease_from: None,
        held: Held::default(),
        read_only: true,
        ..mount.clone()
    };
    Handover {
        from: "1.2.3".to_string(),
        count: 4,
        paused_at: 5_000_000_000,
        run_lock: Some(3),
        mounts: vec![mount, alone],
    }
}

#[test]
fn what_was_left_is_what_is_found() {
    let all = sample();
    let bytes = all.encode().unwrap();
    assert_eq!(Handover::decode(&bytes), Ok(all.clone()));
    let empty = Handover { mounts: Vec::new(), run_lock: None, ..all };
    assert_eq!(Handover::decode(&empty.encode().unwrap()), Ok(empty));
}

/// A program of another build reads these bytes: they change only with the version.
#[test]
fn the_bytes_are_those_of_the_version() {
    let bytes = sample().encode().unwrap();
    let shown: String = bytes.chunks(32).map(|line| hex(line) + "\n").collect();
    expect_test::expect_file!["../../integration/golden/handover-1.txt"].assert_eq(&shown);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn another_version_is_told_from_damage() {
    let mut bytes = sample().encode().unwrap();
    bytes[8] += 1;
    assert_eq!(Handover::decode(&bytes), Err(HandoverError::Version(HANDOVER_VERSION + 1)));
    assert!(Handover::decode(&bytes).unwrap_err().to_string().contains("version 2"));
}

#[test]
fn a_bent_bit_and_a_cut_end_are_refused_wherever_they_are() {
    let bytes = sample().encode().unwrap();
    for at in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 0x10;
        assert!(Handover::decode(&bent).is_err(), "byte {at}");
        assert!(Handover::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(Handover::decode(&longer).is_err());
}

/// The hash is right, the content is not.
#[test]
fn counts_that_contradict_each_other_are_refused() {
    let broken = |change: fn(&mut Held)| {
        let mut all = sample();
        change(&mut all.mounts[0].held);
        Handover::decode(&all.encode().unwrap())
    };
    assert!(broken(|_| {}).is_ok());
    assert!(broken(|held| held.groups.swap(0, 1)).is_err());
    assert!(broken(|held| held.groups[0].1 = [0; 16]).is_err());
    assert!(broken(|held| held.groups[1].0 = 0).is_err());
    assert!(broken(|held| held.more[0].0 = 5).is_err(), "its byte is not full");
    assert!(broken(|held| held.more[0].1 = 0).is_err());
    assert!(broken(|held| held.more.push(held.more[0])).is_err());
    let mut all = sample();
    all.mounts[0].dir = b"relative".to_vec();
    assert!(Handover::decode(&all.encode().unwrap()).is_err());
}

#[test]
fn too_many_inodes_are_an_error_of_whoever_writes() {
    let mut all = sample();
    all.mounts[0].held.groups = vec![(0, [1; 16]); HANDOVER_BYTES_MAX / 24];
    all.mounts[0].held.more.clear();
    assert_eq!(all.encode(), Err(HandoverError::TooLarge));
}
