//! The handshake table: from two hellos to one decision, the same on both nodes.
//!
//! Decides which copy is newer and which way bytes flow, by lineage alone. Does not know time, links or leases.
//! Invariants: symmetric (`decide(a, b) == decide(b, a)`, nodes are named, never "me"); total.

use crate::base::{Generation, NodeId, Record};
use crate::format::ResyncMark;
use crate::wire::{CopyKind, DecisionHash, Hello, Row, feature};

/// What both nodes do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// No data moves, for good: an operator must change something.
    Refuse,
    /// No data moves yet: something must be resolved or made first; then compare again.
    Wait,
    /// Both lineages grew apart and both wrote: no data moves until a policy is declared.
    SplitBrain { fork: Generation },
    /// Both stay (or become) members under `record`. First `source` copies the union of both bitmaps, logs and
    /// windows, before anyone serves or, if it serves already, before the next acknowledgement.
    /// `resend_only`: no process restarted since the last session: only operations in flight are sent again.
    Equalise { source: NodeId, record: Record, resend_only: bool },
    /// The other node is overwritten from `source`. `stop_first`: the target serves and must stop before.
    Resync { source: NodeId, kind: CopyKind, stop_first: bool },
}

/// A plan with the row that gave it and the reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    pub row: Row,
    pub plan: Plan,
    pub reason: &'static str,
}

fn decision(row: u8, plan: Plan, reason: &'static str) -> Decision {
    Decision { row: Row(row), plan, reason }
}

/// The table, first match wins. The order of the arguments does not matter.
pub fn decide(x: &Hello, y: &Hello) -> Decision {
    let (a, b) = if x.node <= y.node { (x, y) } else { (y, x) };
    if let Some(found) = identity(a, b) {
        return found;
    }
    if a.pending || b.pending {
        return decision(2, Plan::Wait, "an earlier decision has no answer yet");
    }
    blanks(a, b)
        .or_else(|| half_done(a, b))
        .or_else(|| same_generation(a, b))
        .or_else(|| behind(a, b))
        .unwrap_or_else(|| diverged(a, b))
}

/// H1: nothing may be exchanged with a stranger.
fn identity(a: &Hello, b: &Hello) -> Option<Decision> {
    let refuse = |reason| Some(decision(1, Plan::Refuse, reason));
    if a.volume != b.volume {
        return refuse("the peer's image belongs to another volume: check the image path, or wipe it");
    }
    if a.node == b.node {
        return refuse("both images say they are the same node: one of them is a copy of the other");
    }
    match (a.retired.contains(&b.incarnation), b.retired.contains(&a.incarnation)) {
        (false, false) => {}
        (true, true) => {
            return refuse("each node was told that the other one is replaced: wipe the copy that is to go");
        }
        _ => {
            return refuse(
                "a copy that was replaced came back and may not join: take its disk out, or wipe it with \
                 \"twinfs mkfs --force\"",
            );
        }
    }
    sizes(a, b)
}

/// The row of images that first have to become equally large.
pub const SIZES_DIFFER: Row = Row(2);

/// A growth that was cut off left one image larger: the other one follows. A new disk decides nothing.
fn sizes(a: &Hello, b: &Hello) -> Option<Decision> {
    if a.blocks == b.blocks {
        return None;
    }
    let (small, large) = if a.blocks < b.blocks { (a, b) } else { (b, a) };
    let refuse = |reason| Some(decision(1, Plan::Refuse, reason));
    if is_blank(large) && !is_blank(small) {
        return refuse(
            "the new image is larger than the volume: make it anew with the size of the other one",
        );
    }
    if small.features & large.features & feature::GROW == 0 {
        return refuse("the images have different sizes");
    }
    Some(Decision {
        row: SIZES_DIFFER,
        plan: Plan::Wait,
        reason: "the images have different sizes: the smaller one has to grow first",
    })
}

/// H3, H4: copies that never held data.
fn blanks(a: &Hello, b: &Hello) -> Option<Decision> {
    match (is_blank(a), is_blank(b)) {
        (true, true) => Some(decision(
            3,
            Plan::Wait,
            "both images are blank: put the one with the content back in its place",
        )),
        (true, false) | (false, true) => {
            let (blank, source) = if is_blank(a) { (a, b) } else { (b, a) };
            if source.resync != ResyncMark::None {
                return Some(decision(6, Plan::Refuse, "one image is blank, the other half overwritten"));
            }
            // It holds something, and nobody knows what: filled from a copy before it joined.
            let (kind, reason) = match blank.full {
                true => (CopyKind::Compare, "a new disk that was filled from a copy: what differs is copied"),
                false => (CopyKind::Full, "a new disk: every written block is copied"),
            };
            let plan = Plan::Resync { source: source.node, kind, stop_first: blank.serving };
            Some(decision(4, plan, reason))
        }
        (false, false) => None,
    }
}

/// Blank = no generation, and not in the middle of its first copy.
fn is_blank(hello: &Hello) -> bool {
    hello.gens.is_empty() && hello.resync == ResyncMark::None
}

/// H5, H6: copies in the middle of being overwritten.
fn half_done(a: &Hello, b: &Hello) -> Option<Decision> {
    let (target, source, of) = match (a.resync, b.resync) {
        (ResyncMark::None, ResyncMark::None) => return None,
        (ResyncMark::Target { .. }, ResyncMark::Target { .. }) => {
            let reason = "both images are half overwritten: neither may serve; restore one, or force";
            return Some(decision(6, Plan::Refuse, reason));
        }
        (ResyncMark::Target { of }, ResyncMark::None) => (a, b, of),
        (ResyncMark::None, ResyncMark::Target { of }) => (b, a, of),
    };
    if source.gens.iter().any(|entry| entry.id == of) {
        let kind = if bitmap_fits(source, target.head()) { CopyKind::Bits } else { CopyKind::Compare };
        let plan = Plan::Resync { source: source.node, kind, stop_first: target.serving };
        return Some(decision(5, plan, "the interrupted resync goes on"));
    }
    let reason = "the half overwritten image followed a lineage that the other one does not have";
    Some(decision(16, Plan::Refuse, reason))
}

/// The source's bitmap counts from exactly what the target holds.
fn bitmap_fits(source: &Hello, base: Generation) -> bool {
    !source.full && source.bitmap_base == base && base != Generation(0)
}

/// H7 to H10: the same data generation.
fn same_generation(a: &Hello, b: &Hello) -> Option<Decision> {
    if a.head() != b.head() {
        return None;
    }
    let (Some(ra), Some(rb)) = (a.record, b.record) else {
        return Some(decision(10, Plan::Refuse, "a generation without a record: the metadata is corrupt"));
    };
    if a.serving && b.serving {
        return Some(decision(10, Plan::Refuse, "both nodes say they serve the same generation"));
    }
    let (record, row, reason) = match (ra.members.solo(), rb.members.solo()) {
        (None, None) if ra == rb => (ra, 7, "both were members of the same record"),
        (None, None) if ra.v == rb.v => {
            return Some(decision(10, Plan::Refuse, "two different records have the same number"));
        }
        (None, None) => (higher(ra, rb), 8, "a handover was cut: the higher record holds"),
        (Some(one), Some(other)) if one == other => {
            let record = higher(ra, rb);
            return Some(solo_same_generation(a, b, record, one));
        }
        (Some(_), Some(_)) => {
            return Some(decision(
                10,
                Plan::Refuse,
                "two sole members of one generation: the metadata is corrupt",
            ));
        }
        _ => match higher(ra, rb) {
            record if record.members.solo().is_none() => {
                (record, 9, "a join was cut: the higher record holds")
            }
            record => {
                let one = record.members.solo().unwrap_or(record.primary);
                return Some(solo_same_generation(a, b, record, one));
            }
        },
    };
    // Who gives the right away has stopped serving before that is recorded.
    if [a, b].iter().any(|node| node.serving && node.node != record.primary) {
        return Some(decision(
            10,
            Plan::Refuse,
            "the record to hold names one node and the other one serves",
        ));
    }
    let source = match (a.serving, b.serving) {
        (true, _) => a.node,
        (_, true) => b.node,
        // A join that was cut: only the node that knows the higher record is certain to have everything.
        _ if row == 9 => {
            if ra == record {
                a.node
            } else {
                b.node
            }
        }
        _ => record.primary,
    };
    let resend_only =
        row == 7 && a.last_session.is_some() && a.last_session == b.last_session && !(a.full || b.full);
    Some(decision(row, Plan::Equalise { source, record, resend_only }, reason))
}

/// The same generation, and one node is out by record: it was told so, or left before the other wrote alone.
fn solo_same_generation(a: &Hello, b: &Hello, record: Record, one: NodeId) -> Decision {
    let (source, target) = if a.node == one { (a, b) } else { (b, a) };
    let kind = if bitmap_fits(source, target.head()) { CopyKind::Bits } else { CopyKind::Compare };
    debug_assert!(record.members.solo() == Some(one));
    let plan = Plan::Resync { source: one, kind, stop_first: target.serving };
    decision(11, plan, "one node is out by record: what may differ is copied")
}

fn higher(a: Record, b: Record) -> Record {
    if a.v >= b.v { a } else { b }
}

/// H11 to H13: one lineage continues the other.
fn behind(a: &Hello, b: &Hello) -> Option<Decision> {
    let knows = |one: &Hello, head: Generation| one.gens.iter().any(|entry| entry.id == head);
    let (ahead, behind) = match (knows(a, b.head()), knows(b, a.head())) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return None,
    };
    let fits = bitmap_fits(ahead, behind.head());
    let kind = if fits { CopyKind::Bits } else { CopyKind::Compare };
    let plan = Plan::Resync { source: ahead.node, kind, stop_first: behind.serving };
    Some(match (behind.serving, fits) {
        (true, _) => {
            decision(13, plan, "a node that was replaced as primary still serves: it stops, then follows")
        }
        (false, true) => decision(11, plan, "one node is behind: what changed since is copied"),
        (false, false) => {
            decision(12, plan, "one node is behind by more than the bitmap covers: all is compared")
        }
    })
}

/// H14 to H16: neither lineage continues the other.
fn diverged(a: &Hello, b: &Hello) -> Decision {
    let fork = a.gens.iter().rev().find(|x| b.gens.iter().any(|y| y.id == x.id)).map(|entry| entry.id);
    let Some(fork) = fork else {
        return decision(16, Plan::Refuse, "the images have no common history: unrelated data; wipe one");
    };
    let wrote = |hello: &Hello| hello.marks || hello.hot || hello.full || hello.serving;
    let source = match (wrote(a), wrote(b)) {
        (true, true) => {
            return decision(15, Plan::SplitBrain { fork }, "both nodes wrote on their own: split brain");
        }
        (true, false) => a,
        (false, true) => b,
        (false, false) if b.record.map_or(0, |r| r.v) > a.record.map_or(0, |r| r.v) => b,
        (false, false) => a,
    };
    let kind = if bitmap_fits(source, fork) { CopyKind::Bits } else { CopyKind::Compare };
    let plan = Plan::Resync { source: source.node, kind, stop_first: false };
    decision(14, plan, "the lineages parted, but one side wrote nothing since: it follows")
}

/// Whether resync bytes may flow from `source` to `target`: asserted where they are sent and where they arrive.
pub fn may_flow(source: &Hello, target: &Hello) -> bool {
    let plan = decide(source, target).plan;
    match plan {
        Plan::Equalise { source: from, .. } | Plan::Resync { source: from, .. } => from == source.node,
        _ => false,
    }
}

/// Hash over both hellos and what was decided.
pub fn hash(x: &Hello, y: &Hello, decision: &Decision) -> DecisionHash {
    let (a, b) = if x.node <= y.node { (x, y) } else { (y, x) };
    let mut bytes = Vec::new();
    for hello in [a, b] {
        crate::wire::encode(&crate::wire::Message::Hello(Box::new(hello.clone())), 0, &mut bytes);
    }
    bytes.push(decision.row.0);
    let (code, source, detail) = match decision.plan {
        Plan::Refuse => (0, 0, 0),
        Plan::Wait => (1, 0, 0),
        Plan::SplitBrain { fork } => (2, 0, fork.0),
        Plan::Equalise { source, record, resend_only } => {
            (3, source.index(), u128::from(record.v) << 1 | u128::from(resend_only))
        }
        Plan::Resync { source, kind, stop_first } => {
            (4, source.index(), (kind as u128) << 1 | u128::from(stop_first))
        }
    };
    bytes.extend_from_slice(&[code, source]);
    bytes.extend_from_slice(&detail.to_le_bytes());
    let hash = blake3::hash(&bytes);
    DecisionHash(u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or([0; 16])))
}
