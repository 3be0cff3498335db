//! Every message survives the link, damaged ones are refused without a panic, the bytes stay what they are.

use super::*;
use crate::base::{AfterSplit, BlockNo, ExtentNo, Generation, Members, NodeId, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark, Verdict};

const KEY: Key = [7; 32];

fn record() -> Record {
    Record { v: 9, members: Members::BOTH, primary: NodeId::B }
}

fn gens() -> Vec<GenEntry> {
    let entry =
        |id, reason| GenEntry { id: Generation(id), minted_by: NodeId::B, at_v: 3, reason, first_txn: 77 };
    vec![entry(1, GenReason::Made), entry(2, GenReason::WentSolo), entry(3, GenReason::Forced)]
}

fn hello() -> Hello {
    Hello {
        features: FEATURES,
        volume: VolumeId(5),
        node: NodeId::B,
        incarnation: 6,
        boot_epoch: 7,
        nonce: 8,
        process: 9,
        blocks: 4096,
        record: Some(record()),
        gens: gens(),
        bitmap_base: Generation(2),
        full: true,
        resync: ResyncMark::Target { of: Generation(3) },
        retired: vec![1, 2],
        marks: true,
        hot: false,
        serving: true,
        pending: false,
        last_session: Some(Session(11)),
    }
}

fn verdict() -> Verdict {
    Verdict { number: 2, winner: NodeId::B, heads: [Generation(3), Generation(4)], done: 5 }
}

fn note(verdict: Option<Verdict>) -> SplitNote {
    let (policy, changed) = match verdict {
        None => (AfterSplit::Manual, None),
        Some(_) => (AfterSplit::KeepMostChanges, Some(77)),
    };
    SplitNote { turn: 1, policy, head: Generation(3), led: true, serving: false, changed, verdict }
}

fn messages() -> Vec<(Message, usize)> {
    let session = Session(0x0102_0304_0506_0708);
    vec![
        (Message::Hello(Box::new(hello())), 0),
        (
            Message::Hello(Box::new(Hello {
                record: None,
                gens: vec![],
                resync: ResyncMark::None,
                ..hello()
            })),
            0,
        ),
        (Message::Decided(DecisionHash(0xabc)), 0),
        (Message::Op { session, seq: Seq(3), kind: Kind::Write, first: BlockNo(12), count: 2 }, 8192),
        (Message::Op { session, seq: Seq(4), kind: Kind::Flush, first: BlockNo(0), count: 0 }, 0),
        (Message::Op { session, seq: Seq(5), kind: Kind::CopyHole, first: BlockNo(1), count: 9 }, 0),
        (Message::Done { session, upto: Seq(4) }, 0),
        (Message::Marks { session, runs: vec![Run { first: BlockNo(3), count: 5 }], last: true }, 0),
        (Message::TargetReady { session }, 0),
        (Message::Digests { session, extent: ExtentNo(4), last: false }, 15_488),
        (Message::Join { session, record: record(), gens: gens() }, 0),
        (Message::Joined { session }, 0),
        (Message::Handover { session, record: record() }, 0),
        (Message::HandoverDone { session, record: record() }, 0),
        (Message::AskHandover { session }, 0),
        (Message::Bye { session }, 0),
        (Message::Left { session }, 0),
        (Message::Fetch { id: 7, block: BlockNo(9) }, 0),
        (Message::Block { id: 7, block: BlockNo(9), found: true }, 4096),
        (Message::Check { id: 7, first: ExtentNo(2), count: 3, hash: [9; 15] }, 0),
        (Message::Checked { id: 7, upto: ExtentNo(3), equal: true }, 0),
        (Message::Checked { id: 7, upto: ExtentNo(3), equal: false }, 15_488),
        (Message::Detached { session }, 0),
        (Message::Front { session }, 0),
        (Message::Fronted { session, record: record() }, 0),
        (Message::Grow { session, blocks: 1 << 30 }, 0),
        (Message::Grown { session, blocks: 0 }, 0),
        (Message::Split { session, note: Box::new(note(None)) }, 0),
        (Message::Split { session, note: Box::new(note(Some(verdict()))) }, 0),
    ]
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        volume: VolumeId(5),
        from: NodeId::A,
        boot_epoch: 2,
        seq: 3,
        record: Some(record()),
        head: Generation(4),
        serving: true,
        released: false,
        nonce: 10,
        nonce_echo: 11,
        echo_seq: 12,
    }
}

fn questions() -> Vec<WitnessQuestion> {
    let next = WitnessRecord { record: record(), head: Generation(1), lineage: 2, nonce: 3 };
    [
        WitnessRequest::Read,
        WitnessRequest::Cas { expect_v: 8, expect_lineage: 4, next },
        WitnessRequest::Enrol { record: next, sole: true },
    ]
    .map(|request| WitnessQuestion { volume: VolumeId(5), from: NodeId::B, nonce: 6, request })
    .to_vec()
}

fn answers() -> Vec<WitnessAnswer> {
    let record = WitnessRecord { record: record(), head: Generation(1), lineage: 2, nonce: 3 };
    let incarnation = 99;
    [
        WitnessReply::Record { record, incarnation },
        WitnessReply::Won { incarnation },
        WitnessReply::Conflict { record, incarnation },
        WitnessReply::Unknown { incarnation },
        WitnessReply::Waiting { incarnation },
    ]
    .map(|reply| WitnessAnswer { volume: VolumeId(5), nonce: 6, reply })
    .to_vec()
}

fn framed(message: &Message, payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, payload, &mut out);
    out
}

fn parse(bytes: &[u8]) -> Result<Message, Refused> {
    let header = Header::read(bytes)?;
    decode(header, &bytes[HEADER_BYTES..])
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    for (message, payload) in messages() {
        let bytes = framed(&message, payload);
        assert_eq!(Header::read(&bytes).unwrap().payload, payload);
        assert_eq!(parse(&bytes), Ok(message));
    }
}

#[test]
fn packets_come_back_and_only_under_their_key() {
    let bytes = encode_heartbeat(&heartbeat(), &KEY);
    assert_eq!(bytes.len(), HEARTBEAT_BYTES);
    assert_eq!(decode_heartbeat(&bytes, &KEY), Ok(heartbeat()));
    assert_eq!(decode_heartbeat(&bytes, &[8; 32]), Err(Refused::Mac));
    for question in questions() {
        assert_eq!(decode_question(&encode_question(&question, &KEY), &KEY), Ok(question));
    }
    for answer in answers() {
        assert_eq!(decode_answer(&encode_answer(&answer, &KEY), &KEY), Ok(answer));
    }
    assert_eq!(decode_datagram(&bytes, &KEY), Ok(Datagram::Heartbeat(heartbeat())));
    let probe = |answer| Probe { from: NodeId::B, nonce: 99, answer };
    let released = Released { volume: VolumeId(5), from: NodeId::A, boot_epoch: 7 };
    for (bytes, datagram) in [
        (encode_probe(&probe(false), &KEY), Datagram::Probe(probe(false))),
        (encode_probe(&probe(true), &KEY), Datagram::Probe(probe(true))),
        (encode_released(&released, &KEY), Datagram::Released(released)),
    ] {
        assert_eq!(decode_datagram(&bytes, &KEY), Ok(datagram));
        assert!(decode_heartbeat(&bytes, &KEY).is_err(), "an earlier version refuses it");
        for bit in 0..bytes.len() * 8 {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_datagram(&wrong, &KEY).is_err());
        }
        (0..bytes.len()).for_each(|cut| assert!(decode_datagram(&bytes[..cut], &KEY).is_err()));
    }
    // A question is no answer, although both are authentic.
    assert!(decode_answer(&encode_question(&questions()[0], &KEY), &KEY).is_err());
}

#[test]
fn a_heartbeat_with_any_bit_changed_is_refused() {
    let bytes = encode_heartbeat(&heartbeat(), &KEY);
    for bit in 0..bytes.len() * 8 {
        let mut wrong = bytes.clone();
        wrong[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_heartbeat(&wrong, &KEY), Err(Refused::Mac));
    }
}

#[test]
fn damaged_messages_are_refused_or_are_other_values_but_never_a_panic() {
    let mut refused = 0;
    for (message, payload) in messages() {
        let bytes = framed(&message, payload);
        for cut in 0..bytes.len() {
            assert!(parse_any(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
        }
        for at in 0..bytes.len() {
            for value in [0u8, 1, 2, 0x7f, 0x80, 0xff] {
                let mut wrong = bytes.clone();
                wrong[at] = value;
                match parse_any(&wrong) {
                    // What is accepted is exactly what would be encoded: no byte without meaning.
                    Ok(other) if !matches!(other, Message::Hello(_)) => {
                        let header = Header::read(&wrong).unwrap();
                        assert_eq!(framed(&other, header.payload), wrong);
                    }
                    Ok(_) => {}
                    Err(_) => refused += 1,
                }
            }
        }
        let mut long = bytes.clone();
        long.push(0);
        assert!(parse_any(&long).is_err());
    }
    assert!(refused > 1000, "only {refused} refusals: the loop damages nothing");
}

fn parse_any(bytes: &[u8]) -> Result<Message, Refused> {
    let header = Header::read(bytes)?;
    decode(header, bytes.get(HEADER_BYTES..).unwrap_or(&[]))
}

#[test]
fn a_long_length_is_refused_before_anything_is_allocated() {
    let mut bytes = framed(&Message::Decided(DecisionHash(1)), 0);
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Header::read(&bytes), Err(Refused::TooMany("body length")));
}

#[test]
fn the_longest_list_of_runs_fits_a_body() {
    let runs = vec![Run { first: BlockNo(1), count: 1 }; RUNS_MAX];
    let message = Message::Marks { session: Session(1), runs, last: false };
    let bytes = framed(&message, 0);
    assert_eq!(parse(&bytes), Ok(message));
}

/// The bytes of version 1. A difference means that older programs would not understand newer ones: raise VERSION.
#[test]
fn the_bytes_of_version_1_are_kept() {
    let mut text = String::new();
    let mut add = |name: String, bytes: &[u8]| {
        text.push_str(&name);
        bytes.iter().for_each(|byte| text.push_str(&format!(" {byte:02x}")));
        text.push('\n');
    };
    for (number, (message, payload)) in messages().iter().enumerate() {
        add(format!("message {number}"), &framed(message, *payload));
    }
    add("heartbeat".into(), &encode_heartbeat(&heartbeat(), &KEY));
    questions().iter().for_each(|q| add("question".into(), &encode_question(q, &KEY)));
    answers().iter().for_each(|a| add("answer".into(), &encode_answer(a, &KEY)));
    expect_test::expect_file!["../../integration/golden/wire/v1.txt"].assert_eq(&text);
}

#[test]
fn a_record_number_that_cannot_be_counted_on_from_is_refused() {
    for (v, fits) in [(1 << 62, true), ((1 << 62) + 1, false), (u64::MAX, false)] {
        let record = Record { v, ..record() };
        let mut bytes = Vec::new();
        encode(&Message::Handover { session: Session(4), record }, 0, &mut bytes);
        let header = Header::read(&bytes).unwrap();
        assert_eq!(decode(header, &bytes[HEADER_BYTES..]).is_ok(), fits, "{v}");
    }
}
