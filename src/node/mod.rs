//! One node of a pair as a pure machine: `step(now, event) -> actions`.
//!
//! Decides everything a node does about its copy: when a write may be acknowledged, who is primary, what to copy.
//! Does not know sockets, disks, clocks or block contents. Invariants: see `Node::check`.

mod action;
mod back;
mod config;
mod data;
mod detach;
mod event;
mod facts;
mod failback;
mod fence;
mod front;
mod grow;
mod hand;
mod kept;
mod leave;
mod machine;
mod memory;
mod pace;
mod power;
mod reach;
mod report;
mod resolve;
mod retire;
mod rights;
mod sync;
mod talk;
mod verify;
mod view;
mod vote;

pub use crate::resync::{Finding, Limits, Tally, Task, Trouble, VerifyProgress};
pub use action::{Action, Mark, Notice, Order, Refusal, VerifyEnd};
pub use config::{Arbitration, Mutations, NodeConfig, StartInfo, Timing};
pub use event::{Event, LinkId, OpId, Operator, PathId, Token};
pub use facts::{Facts, Serving, Talk};
pub use failback::{FAILBACK_PAUSE, Failback, FailbackView, HomingFacts, Stay, failback_ago};
pub use fence::FenceEnd;
pub use machine::Node;
pub use memory::{Answers, Compared, Relation, Situation, Taken};
pub use pace::PAUSE_MAX;
pub use rights::{Bar, Obstacle};
pub use view::{FenceView, Reason, ResyncView, Role, Stall, StateWord, View};
