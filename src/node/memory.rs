//! What a node decided last and from which facts, for people and for a replay elsewhere.
//!
//! Decides nothing, and nothing is decided by it: it is no part of the machine's state, so it shows none of itself in
//! debug output, by which states are told apart. Invariant: what it holds was given to the functions that decided.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Generation, Moment};
use crate::cluster::Right;
use crate::resync::{Decision, decide};
use crate::wire::Hello;

use super::facts::Facts;
use super::failback::Stay;
use super::machine::Node;
use super::rights::Obstacle;
use super::view::{Role, StateWord};

/// A right that was used, and the facts that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    pub right: Right,
    pub facts: Facts,
}

/// Both copies as they were compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub at: Moment,
    pub mine: Hello,
    pub theirs: Hello,
}

impl Compared {
    /// The row of the table that these two give.
    pub fn decision(&self) -> Decision {
        decide(&self.mine, &self.theirs)
    }

    /// How the two lineages stand to each other.
    pub fn relation(&self) -> Relation {
        let (mine, theirs) = (&self.mine, &self.theirs);
        let knows = |one: &Hello, head| one.gens.iter().any(|entry| entry.id == head);
        match () {
            () if mine.head() == theirs.head() => Relation::Same,
            () if mine.gens.is_empty() || theirs.gens.is_empty() => Relation::Blank,
            () if knows(mine, theirs.head()) => Relation::Ahead,
            () if knows(theirs, mine.head()) => Relation::Behind,
            () => match mine.gens.iter().rev().find(|entry| knows(theirs, entry.id)) {
                Some(fork) => Relation::Parted(fork.id),
                None => Relation::Unrelated,
            },
        }
    }
}

/// Of the lineage here to the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    Same,
    /// One of them has no generation.
    Blank,
    Ahead,
    Behind,
    /// Both went on from this generation.
    Parted(Generation),
    Unrelated,
}

/// Why a node is as it is: the facts now, and those of its last decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    pub facts: Facts,
    /// When it last began to serve.
    pub served: Option<Taken>,
    /// When it last began to go on without the peer, or to ask for that.
    pub alone: Option<Taken>,
    pub compared: Option<Compared>,
}

/// What follows from a situation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    pub role: Role,
    pub state: StateWord,
    pub serve: Result<Right, Obstacle>,
    pub alone: Result<Right, Obstacle>,
    /// `None`: it asks for the volume now.
    pub failback: Option<Stay>,
    /// What the facts of the last decisions give.
    pub served: Option<Result<Right, Obstacle>>,
    pub went_alone: Option<Result<Right, Obstacle>>,
    /// Row of the table, and its reason.
    pub row: Option<u8>,
    pub reason: Option<String>,
}

impl Situation {
    /// What the production decisions make of it; pure.
    pub fn answers(&self) -> Answers {
        let decision = self.compared.as_ref().map(Compared::decision);
        Answers {
            role: self.facts.role(),
            state: self.facts.word(),
            serve: self.facts.serve(),
            alone: self.facts.alone(),
            failback: self.facts.stays(),
            served: self.served.map(|taken| taken.facts.serve()),
            went_alone: self.alone.map(|taken| taken.facts.alone()),
            row: decision.map(|decision| decision.row.0),
            reason: decision.map(|decision| decision.reason.to_string()),
        }
    }
}

#[derive(Clone, Default)]
pub(super) struct Memory {
    served: Option<Arc<Taken>>,
    alone: Option<Arc<Taken>>,
    compared: Option<Arc<Compared>>,
    /// By which right the record that is being stored names this node alone.
    pub right: Option<Right>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    pub(super) fn serves(&mut self, right: Right, facts: Facts) {
        self.served = Some(Arc::new(Taken { right, facts }));
    }

    pub(super) fn goes_alone(&mut self, right: Right, facts: Facts) {
        self.alone = Some(Arc::new(Taken { right, facts }));
    }

    pub(super) fn compares(&mut self, at: Moment, mine: &Hello, theirs: &Hello) {
        self.compared = Some(Arc::new(Compared { at, mine: mine.clone(), theirs: theirs.clone() }));
    }
}

impl Node {
    /// Why the node is as it is.
    pub fn situation(&self) -> Situation {
        Situation {
            facts: self.facts(),
            served: self.memory.served.as_deref().copied(),
            alone: self.memory.alone.as_deref().copied(),
            compared: self.memory.compared.as_deref().cloned(),
        }
    }
}
