//! The control plane's datagrams: heartbeats out and in, questions to the witness, and whether this machine slept.
//!
//! Decides nothing about ownership: it authenticates and hands over. Runs on the one-threaded runtime. Invariant: what
//! is not authentic under the peer's key reaches no machine.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use crate::base::{Moment, NodeId};
use crate::config::Purpose;
use crate::events;
use crate::link::Datagrams;
use crate::node::{Event, PathId};
use crate::sys::clock::{self, SleepWatch};
use crate::wire::{decode_heartbeat, encode_heartbeat};

use super::runtime::Running;
use super::shell::Outgoing;

/// Longest datagram that is read.
const DATAGRAM_BYTES: usize = 1024;

/// The two keys of heartbeats.
pub struct HeartbeatKeys {
    pub mine: [u8; 32],
    pub theirs: [u8; 32],
}

impl HeartbeatKeys {
    pub fn new(key: &crate::config::ClusterKey, cluster: &str, me: NodeId) -> HeartbeatKeys {
        HeartbeatKeys {
            mine: key.derive(cluster, Purpose::Heartbeat, me),
            theirs: key.derive(cluster, Purpose::Heartbeat, me.other()),
        }
    }
}

/// Sends what the machines want sent. Ends with the last volume.
pub async fn send(
    running: Rc<Running>,
    datagrams: Rc<Datagrams>,
    keys: Rc<HeartbeatKeys>,
    mut out: tokio::sync::mpsc::UnboundedReceiver<Outgoing>,
) {
    while let Some(outgoing) = out.recv().await {
        match outgoing {
            Outgoing::Heartbeat(heartbeat) => {
                datagrams.send_all(&encode_heartbeat(&heartbeat, &keys.mine));
            }
            Outgoing::Question { volume, nonce, request } => {
                let Some(client) = running.witness.as_ref().map(|watch| Rc::clone(&watch.client)) else {
                    continue;
                };
                let running = Rc::clone(&running);
                tokio::task::spawn_local(async move {
                    // Without an answer the machine asks again by itself.
                    if let Ok(reply) = client.ask(volume, request).await
                        && let Some(volume) = running.volume_by_id(volume)
                    {
                        volume.mirror.deliver(Event::WitnessReply { nonce, reply });
                    }
                });
            }
        }
    }
}

/// What is known about each path.
struct PathWatch {
    heard: Vec<Option<Moment>>,
    up: Vec<bool>,
}

/// Receives heartbeats for ever.
pub async fn receive(running: Rc<Running>, datagrams: Rc<Datagrams>, keys: Rc<HeartbeatKeys>) {
    let mut buffer = [0_u8; DATAGRAM_BYTES];
    loop {
        let (path, _, bytes) = datagrams.recv(&mut buffer).await;
        let Ok(heartbeat) = decode_heartbeat(bytes, &keys.theirs) else {
            running.strangers.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let Some(volume) = running.volume_by_id(heartbeat.volume).filter(|_| heartbeat.from != running.me)
        else {
            running.strangers.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        volume.heard_now();
        running.path_heard(path);
        let path = PathId(u8::try_from(path).unwrap_or(u8::MAX));
        volume.mirror.deliver(Event::Heartbeat { path, heartbeat });
    }
}

/// Looks at the paths, at strangers and at the clock, twice per keepalive.
pub async fn watch(running: Rc<Running>) {
    let timing = running.config.timing;
    let mut sleep = SleepWatch::new();
    let paths = running.config.node(running.me.other()).addresses.clone();
    let mut watch = PathWatch { heard: vec![None; paths.len()], up: vec![false; paths.len()] };
    let mut strangers = (clock::now(), 0);
    loop {
        tokio::time::sleep(timing.keepalive.as_duration() / 2).await;
        if let Some(slept) = sleep.slept(timing.keepalive) {
            running.volumes().iter().for_each(|volume| volume.mirror.deliver(Event::Suspended));
            running.journal.tell(None, events::Event::ClockJumped { slept_ms: slept.as_millis() });
        }
        running.paths_heard(&mut watch.heard);
        let now = clock::now();
        for (index, remote) in paths.iter().enumerate() {
            let silent = watch.heard[index].map(|at| now.since(at));
            let up = silent.is_some_and(|silent| silent < timing.warntime);
            if up != watch.up[index] {
                watch.up[index] = up;
                running.paths.set_alive(index, up);
                let path = u32::try_from(index).unwrap_or(u32::MAX);
                let remote = remote.to_string();
                running.journal.tell(
                    None,
                    match (up, silent) {
                        (true, _) => events::Event::PathUp { path, remote },
                        (false, silent) => {
                            let silent_ms = silent.map_or(0, |s| s.as_millis());
                            events::Event::PathDown { path, remote, silent_ms }
                        }
                    },
                );
            }
        }
        let count = running.strangers.load(Ordering::Relaxed);
        if count > strangers.1 && now.since(strangers.0).as_millis() >= 60_000 {
            let why = "not this cluster's, or another key".to_string();
            running.journal.tell(None, events::Event::StrangersRefused { count: count - strangers.1, why });
            strangers = (now, count);
        }
    }
}
