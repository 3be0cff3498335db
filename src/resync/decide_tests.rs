//! The handshake table by golden cases: `integration/golden/decide/*.txt`, situation -> decision.
//!
//! ```text
//! a: gens=1,2 record=4AB.A base=1 marks serving        b: gens=1 record=3AB.A resync=2
//! => H11 resync A->B bits
//! ```

use super::decide::*;
use crate::base::{Generation, Members, NodeId, Record, VolumeId};
use crate::format::{GenEntry, GenReason, ResyncMark};
use crate::wire::{Hello, Session};

fn hello(node: NodeId, words: &str) -> Hello {
    let mut hello = Hello {
        features: crate::wire::FEATURES,
        volume: VolumeId(1),
        node,
        incarnation: 10 + u128::from(node.index()),
        boot_epoch: 1,
        nonce: 0,
        process: 0,
        blocks: 4096,
        record: None,
        gens: vec![],
        bitmap_base: Generation(0),
        full: false,
        resync: ResyncMark::None,
        retired: vec![],
        marks: false,
        hot: false,
        serving: false,
        pending: false,
        last_session: None,
    };
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u128>().unwrap();
        match key {
            "gens" => hello.gens = value.split(',').map(|id| entry(id.parse().unwrap(), node)).collect(),
            "record" => hello.record = Some(record(value)),
            "base" => hello.bitmap_base = Generation(number()),
            "resync" => hello.resync = ResyncMark::Target { of: Generation(number()) },
            "session" => hello.last_session = Some(Session(value.parse().unwrap())),
            "volume" => hello.volume = VolumeId(number()),
            "retired" => hello.retired.push(10 + u128::from(node.other().index())),
            "blocks" => hello.blocks = value.parse().unwrap(),
            "features" => hello.features = value.parse().unwrap(),
            "full" => hello.full = true,
            "marks" => hello.marks = true,
            "hot" => hello.hot = true,
            "serving" => hello.serving = true,
            "pending" => hello.pending = true,
            other => panic!("unknown word {other}"),
        }
    }
    hello
}

fn entry(id: u128, node: NodeId) -> GenEntry {
    GenEntry { id: Generation(id), minted_by: node, at_v: 1, reason: GenReason::WentSolo, first_txn: 0 }
}

/// `4AB.A` = v 4, members A and B, primary A.
fn record(text: &str) -> Record {
    let (left, primary) = text.split_once('.').unwrap();
    let digits = left.trim_end_matches(['A', 'B']);
    let members = match &left[digits.len()..] {
        "AB" => Members::BOTH,
        "A" => Members::only(NodeId::A),
        _ => Members::only(NodeId::B),
    };
    let primary = if primary == "A" { NodeId::A } else { NodeId::B };
    Record { v: digits.parse().unwrap(), members, primary }
}

fn text(decision: &Decision) -> String {
    let plan = match decision.plan {
        Plan::Refuse => "refuse".to_string(),
        Plan::Wait => "wait".to_string(),
        Plan::SplitBrain { fork } => format!("split-brain fork={}", fork.0),
        Plan::Equalise { source, record, resend_only } => {
            let what = if resend_only { "resend" } else { "copy" };
            format!("equalise {source}->{} v={} {what}", source.other(), record.v)
        }
        Plan::Resync { source, kind, stop_first } => {
            let kind = format!("{kind:?}").to_lowercase();
            let stop = if stop_first { " stop-first" } else { "" };
            format!("resync {source}->{} {kind}{stop}", source.other())
        }
    };
    format!("H{} {plan}", decision.row.0)
}

/// The same situation with the nodes' names exchanged.
fn swapped(text: &str) -> String {
    let swap = |c| match c {
        'A' => 'B',
        'B' => 'A',
        c => c,
    };
    // Only node names are capital A or B: rows are H.., set letters are sorted again.
    text.chars().map(swap).collect::<String>().replace("BA", "AB")
}

#[test]
fn the_table_decides_as_written_and_symmetrically() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/integration/golden/decide/table.txt");
    let cases = std::fs::read_to_string(root).unwrap();
    let mut rows = std::collections::BTreeSet::new();
    let mut situation: Option<(String, String)> = None;
    let mut cases_seen = 0;
    for line in cases.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        if let Some(expected) = line.strip_prefix("=> ") {
            let (left, right) = situation.take().expect("a situation comes first");
            let (a, b) = (hello(NodeId::A, &left), hello(NodeId::B, &right));
            let found = decide(&a, &b);
            assert_eq!(text(&found), expected, "a: {left}\nb: {right}");
            assert_eq!(decide(&b, &a), found, "the order of the arguments matters");
            assert_eq!(hash(&a, &b, &found), hash(&b, &a, &found));
            let (c, d) = (hello(NodeId::A, &swapped(&right)), hello(NodeId::B, &swapped(&left)));
            assert_eq!(text(&decide(&c, &d)), swapped(expected), "exchanged: a: {right}\nb: {left}");
            rows.insert(found.row.0);
            cases_seen += 1;
        } else {
            let (left, right) = line.strip_prefix("a: ").unwrap().split_once("b:").unwrap();
            situation = Some((left.to_string(), right.to_string()));
        }
    }
    assert!(cases_seen > 25, "only {cases_seen} cases");
    assert_eq!(rows, (1..=16).collect(), "a row has no case");
}

#[test]
fn resync_bytes_never_flow_from_an_ancestor_to_its_descendant() {
    // Every pair of lineages of up to three generations over two forks, with every combination of flags.
    let lineages: [&str; 7] = ["gens=1", "gens=1,2", "gens=1,2,3", "gens=1,4", "gens=1,4,5", "gens=7", ""];
    let flags = ["", "marks", "serving", "full", "hot", "pending"];
    let records = ["record=3AB.A", "record=4A.A", "record=5B.B", "record=6AB.B"];
    let mut flowing = 0;
    for (la, lb) in lineages.iter().flat_map(|l| lineages.iter().map(move |m| (l, m))) {
        for (fa, fb) in flags.iter().flat_map(|l| flags.iter().map(move |m| (l, m))) {
            for (ra, rb) in records.iter().flat_map(|l| records.iter().map(move |m| (l, m))) {
                let a = hello(NodeId::A, &format!("{la} {fa} {ra}"));
                let b = hello(NodeId::B, &format!("{lb} {fb} {rb}"));
                for (source, target) in [(&a, &b), (&b, &a)] {
                    if !may_flow(source, target) {
                        continue;
                    }
                    flowing += 1;
                    let knows = source.gens.iter().any(|g| g.id == target.head()) || target.gens.is_empty();
                    let harmless = !(target.marks || target.hot || target.full || target.serving);
                    assert!(knows || harmless, "{source:?}\n{target:?}");
                }
            }
        }
    }
    assert!(flowing > 1000);
}
