//! What is recorded reads back and leads to the same answers; whatever else a file holds is one error.

use super::*;
use crate::base::{AfterSplit, Generation, Members, NodeId, Record, VolumeId};
use crate::format::{Apart, GenEntry, GenReason, ResyncMark, State};
use crate::node::{Arbitration, Event, Failback, Limits, Mutations, Node, NodeConfig, StartInfo, Timing};

fn state() -> State {
    let made =
        GenEntry { id: Generation(7), minted_by: NodeId::A, at_v: 1, reason: GenReason::Made, first_txn: 0 };
    State {
        volume: VolumeId(1),
        node: NodeId::B,
        incarnation: 3,
        record: Some(Record { v: 1, members: Members::BOTH, primary: NodeId::A }),
        gens: vec![made],
        bitmap_base: Generation(7),
        full: false,
        resync: ResyncMark::None,
        boot_epoch: 1,
        peer_boot_epoch: 0,
        retired: vec![],
        diverged: false,
        apart: Apart::default(),
        witness_incarnation: 0,
    }
}

/// A secondary that started and heard nobody, and what it would have compared.
fn recorded() -> Recorded {
    let config = NodeConfig {
        me: NodeId::B,
        arbitration: Arbitration::Witness,
        timing: Timing::default(),
        failback: Some(Failback { to: NodeId::B, windowed: true }),
        fence_levels: 0,
        pings: true,
        blocks: 1024,
        copy_blocks_max: 16,
        features: crate::wire::FEATURES,
        resync: Limits::NONE,
        after_split: AfterSplit::Manual,
        mutations: Mutations::default(),
    };
    let info = StartInfo {
        seed: 1,
        marks: false,
        hot: false,
        file_agrees: true,
        going_back: false,
        fence_left: None,
        failback_ago: None,
    };
    let mut node = Node::new(config, state(), info, Moment(5));
    node.step(Moment(1_000_000_005), Event::Tick, &mut Vec::new());
    let mine = Hello::of(&state());
    let theirs = Hello { node: NodeId::A, incarnation: 2, serving: true, ..mine.clone() };
    let situation =
        Situation { compared: Some(Compared { at: Moment(77), mine, theirs }), ..node.situation() };
    let situation = Situation {
        alone: Some(Taken { right: crate::cluster::Right::Won, facts: situation.facts }),
        ..situation
    };
    let event = RecordedEvent { unix_ms: 1_795_698_200_000, text: "beta: started".into() };
    let view = node.view();
    let why = (view.reason.text, view.reason.until);
    let volume = RecordedVolume::of("mail", why, &situation, vec![event]);
    let (program, node, peer) = ("0.1.0".into(), "beta".into(), "alpha".into());
    Recorded {
        twinfs_situation: SCHEMA,
        program,
        node,
        peer,
        unix_ms: 1_795_698_200_000,
        volumes: vec![volume],
    }
}

#[test]
fn what_is_written_reads_back_as_the_same_inputs_and_answers() {
    let recorded = recorded();
    let again = read(&recorded.write().unwrap()).unwrap();
    assert_eq!(again, recorded);
    let volume = &again.volumes[0];
    let answers = volume.situation().unwrap().answers();
    assert_eq!(answers, volume.answers);
    assert_eq!((answers.row, answers.role), (Some(7), crate::node::Role::Joining));
}

#[test]
fn other_answers_are_found_whether_of_the_facts_or_of_a_right_that_was_used() {
    let good = recorded();
    let differences = |recorded: &Recorded| {
        let volume = &recorded.volumes[0];
        volume.differences(&volume.situation().unwrap().answers())
    };
    // The right was recorded from facts that do not give it: the node just started.
    let found = differences(&good);
    assert!(
        found.len() == 1 && found[0].starts_with("how it went alone: recorded Some(Ok(Won))"),
        "{found:?}"
    );
    let mut fine = good.clone();
    fine.volumes[0].alone = None;
    fine.volumes[0].answers.went_alone = None;
    assert_eq!(differences(&fine), Vec::<String>::new());
    let mut held = fine.clone();
    held.volumes[0].facts.held = true;
    assert!(
        differences(&held)[0].starts_with("the right to go on alone: recorded "),
        "{:?}",
        differences(&held)
    );
    let mut row = fine;
    row.volumes[0].answers.row = Some(9);
    assert!(differences(&row)[0].starts_with("row of the table: recorded Some(9), here Some(7)"));
}

#[test]
fn what_is_no_situation_is_one_error_that_says_so() {
    let good = String::from_utf8(recorded().write().unwrap()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replacen(from, to, 1)
    };
    for (bytes, words) in [
        (String::new(), "is no recorded situation"),
        ("{}".into(), "is no recorded situation: \"twinfs explain --record FILE\" writes one"),
        ("[".repeat(100_000), "is no recorded situation"),
        (" ".repeat(FILE_BYTES_MAX + 1), "more than 1048576 bytes"),
        (with("\"twinfs_situation\": 1", "\"twinfs_situation\": 2"), "schema 2; this program reads schema 1"),
        (with("\"twinfs_situation\": 1", "\"twinfs_situation\": \"1\""), "schema without a number"),
        (with("\"held\"", "\"hold\""), "unknown field `hold`"),
        (with("\"witness\"", "\"whitness\""), "unknown variant `whitness`"),
        (with("\"members\": 3", "\"members\": 4"), "no such set of nodes"),
        (with("\"name\": \"mail\"", "\"name\": \"\\u001b[2J\""), "the volume's name is no name"),
        (with("beta: started", "\\u001b[2Jstarted"), "control characters"),
        (with("\"mine\": \"", "\"mine\": \"zz"), "it is not hexadecimal"),
        (with("\"mine\": \"", "\"mine\": \"00"), "cannot be read"),
        (with("\"volumes\": [", "\"volumes\": [], \"more\": ["), "unknown field `more`"),
    ] {
        let why = read(bytes.as_bytes()).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
}

/// Fuzz target: any bytes as a file. What is taken can be replayed and shown, whatever it says.
fn target(bytes: &[u8]) -> bool {
    let Ok(recorded) = read(bytes) else { return false };
    for volume in &recorded.volumes {
        let answers = volume.situation().expect("checked").answers();
        let _ = volume.differences(&answers);
    }
    assert_eq!(read(&recorded.write().expect("it was read")).as_ref(), Ok(&recorded));
    true
}

#[test]
fn a_file_may_be_bent_in_any_way() {
    let good = recorded().write().unwrap();
    assert!(target(&good));
    let rounds = if std::env::var_os("TWINFS_LONG").is_some() { 2_000_000 } else { 4_000 };
    let (mut seed, mut taken) = (0x9e37_79b9_7f4a_7c15_u64, 0);
    let mut dice = move |sides: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap_or(0) % sides.max(1)
    };
    let numbers: Vec<usize> =
        good.iter().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(n, _)| n).collect();
    for round in 0..rounds {
        let mut bytes = good.clone();
        for _ in 0..1 + dice(4) {
            let at = dice(bytes.len());
            match dice(6) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, *b"18446744073709551615")),
                // Most of what is left readable differs in numbers.
                2 | 3 => {
                    let number = numbers[dice(numbers.len())];
                    if let Some(byte) = bytes.get_mut(number) {
                        *byte = b'0' + u8::try_from(dice(10)).unwrap_or(0);
                    }
                }
                4 => {
                    let end = (at + dice(40)).min(bytes.len());
                    drop(bytes.drain(at..end));
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = u8::try_from(dice(256)).unwrap_or(0);
                    }
                }
            }
        }
        let end = std::panic::catch_unwind(|| target(&bytes));
        taken +=
            u32::from(end.unwrap_or_else(|_| panic!("round {round}: {}", String::from_utf8_lossy(&bytes))));
    }
    assert!(taken > 50, "only {taken} of them were readable: nothing behind the reading was tried");
}
