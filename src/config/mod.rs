//! What a `twinfs.toml` means: text in, a checked [`Config`] or a list of one-line problems out.
//!
//! The file is the same on both nodes. Which keys exist, with unit, default and range, is one table ([`KEYS`]) that the
//! parser and the manual page share. Does not know who reads the file, where it lies, or which node reads it.
//!
//! Invariant: a `Config` that left [`Config::parse`] satisfies every relation of `check.rs`; [`Config::render`]
//! followed by `parse` gives the same `Config`.

mod after_split;
mod arbitration;
mod check;
mod etcd;
mod failback;
mod keys;
mod parse;
mod secret;
mod serial;
mod suggest;
mod types;
pub mod units;
mod write;

pub use etcd::EtcdPlace;
pub use failback::{Failback, Window};
pub use keys::{KEYS, Key, Kind, RATE_MAX, RATE_MIN, Section};
pub use parse::{ConfigError, Problem};
pub use secret::{ClusterKey, KeyError, Purpose, WitnessKeys};
pub use types::{
    Arbitration, Cluster, Config, DEFAULT_PORT, DEFAULT_WITNESS_PORT, FenceAction, FenceAgent, HostPort,
    IpPrefix, Node, Notify, Service, Timing, Volume, WriteAck,
};

#[cfg(test)]
mod tests;
