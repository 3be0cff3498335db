//! Who gives way after a split brain: from what both sides say to one ruling, the same on both nodes.
//!
//! Decides whether a stored decision holds, and what a policy decides without one. Does not know who may serve, nor how
//! a copy is put aside. Invariants: symmetric (`ruling(a, b) == ruling(b, a)`, nodes are named, never "me"); total;
//! whatever is not certain is left to a person.

use crate::base::{AfterSplit, Generation, NodeId};
use crate::format::Verdict;
use crate::wire::{Hello, SplitNote};

/// One side.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// At the beginning of the session.
    pub hello: &'a Hello,
    /// Its first note of the session: what a policy looks at.
    pub first: &'a SplitNote,
    /// Its newest one.
    pub note: &'a SplitNote,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Nothing moves until a person decides; why the policy does not.
    Open(&'static str),
    /// Each node was told to keep another copy.
    Conflict,
    Decided(Verdict),
}

/// The order of the arguments does not matter.
pub fn ruling(x: &Side<'_>, y: &Side<'_>) -> Ruling {
    let (a, b) = if x.hello.node <= y.hello.node { (x, y) } else { (y, x) };
    let now = [(a.hello, a.note.head), (b.hello, b.note.head)];
    let known = [a.note.verdict, b.note.verdict];
    let holding = known.iter().flatten().filter(|verdict| holds(verdict, now[0], now[1]));
    match holding.copied().map(|verdict| Verdict { done: 0, ..verdict }).max_by_key(|verdict| verdict.number)
    {
        Some(newest) => {
            let other = |verdict: &&Verdict| {
                holds(verdict, now[0], now[1]) && verdict.number == newest.number && !verdict.is(&newest)
            };
            match known.iter().flatten().any(|verdict| other(&verdict)) {
                true => Ruling::Conflict,
                false => Ruling::Decided(newest),
            }
        }
        None => match by_policy(a, b) {
            Ok(winner) => {
                // Judged by the first notes only: what either node stores meanwhile must not change the other's ruling.
                let number = next_number(&a.first.verdict, &b.first.verdict);
                let heads = [a.hello.head(), b.hello.head()];
                Ruling::Decided(Verdict { number, winner, heads, done: 0 })
            }
            Err(why) => Ruling::Open(why),
        },
    }
}

/// Above both decisions.
pub fn next_number(one: &Option<Verdict>, other: &Option<Verdict>) -> u64 {
    let number = |verdict: &Option<Verdict>| verdict.map_or(0, |verdict| verdict.number);
    number(one).max(number(other)).saturating_add(1)
}

/// The decision is about these two copies: the losing one is what it was then, the winning one is or continues it. Each
/// with its newest generation now.
pub fn holds(verdict: &Verdict, x: (&Hello, Generation), y: (&Hello, Generation)) -> bool {
    let (a, b) = if x.0.node <= y.0.node { (x, y) } else { (y, x) };
    let at = |node: NodeId| (if node == NodeId::A { a } else { b }, verdict.heads[usize::from(node.index())]);
    let ((winner, newest), kept) = at(verdict.winner);
    let ((_, stays), given_up) = at(verdict.winner.other());
    let knows = newest == kept || winner.gens.iter().any(|entry| entry.id == kept);
    verdict.number > 0 && stays == given_up && knows
}

fn by_policy(a: &Side<'_>, b: &Side<'_>) -> Result<NodeId, &'static str> {
    let (x, y) = (a.first, b.first);
    if x.policy != y.policy {
        return Err("after_split_brain differs on the two nodes");
    }
    let one_of = |a: bool, b: bool, why| match (a, b) {
        (true, false) => Ok(NodeId::A),
        (false, true) => Ok(NodeId::B),
        _ => Err(why),
    };
    match x.policy {
        AfterSplit::Manual => Err("a person has to choose"),
        AfterSplit::KeepNode(node) => Ok(node),
        AfterSplit::KeepServing => {
            one_of(x.serving, y.serving, "keep-serving does not tell: both nodes serve, or neither does")
        }
        AfterSplit::KeepOlder => {
            one_of(x.led, y.led, "keep-older does not tell: no one node was primary when they parted")
        }
        AfterSplit::KeepNewer => {
            one_of(y.led, x.led, "keep-newer does not tell: no one node was primary when they parted")
        }
        AfterSplit::KeepMostChanges => match (x.changed, y.changed) {
            (Some(one), Some(other)) => one_of(
                one > other,
                other > one,
                "keep-most-changes does not tell: as many blocks changed on both nodes",
            ),
            _ => Err("keep-most-changes does not tell: a bitmap does not count from where they parted"),
        },
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
