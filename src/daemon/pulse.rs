//! The control plane's datagrams: heartbeats and probes out and in, questions to the witness, and whether this machine
//! slept.
//!
//! Decides nothing about ownership: it authenticates, counts and hands over. Runs on the one-threaded runtime.
//! Invariants: what is not authentic under the peer's key reaches no machine; what is repeated makes neither a path nor
//! the peer look alive.

use std::rc::Rc;

use crate::base::{Moment, NodeId, Span};
use crate::config::{Purpose, Timing};
use crate::events;
use crate::link::{Cause, Datagrams, Heard, Late, Refusal, Refused};
use crate::node::{Event, PathId};
use crate::sys::clock::{self, SleepWatch};
use crate::sys::random;
use crate::wire::{
    Datagram, Heartbeat, Probe, claims_to_be_ours, decode_datagram, encode_heartbeat, encode_probe, feature,
};

use super::runtime::Running;
use super::shell::Outgoing;

/// Longest datagram that is read.
const DATAGRAM_BYTES: usize = 1024;
/// Between two probes of a path, at least.
const PROBE_EVERY: Span = Span::from_secs(1);
/// Nobody waits longer than this to hear that a cable is out, however long `deadtime` is.
const SILENT: Span = Span::from_secs(10);

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

/// Receives heartbeats and probes for ever.
pub async fn receive(running: Rc<Running>, datagrams: Rc<Datagrams>, keys: Rc<HeartbeatKeys>) {
    let mut buffer = [0_u8; DATAGRAM_BYTES];
    loop {
        let (path, _, bytes) = datagrams.recv(&mut buffer).await;
        let refused = match decode_datagram(bytes, &keys.theirs) {
            Ok(Datagram::Heartbeat(heartbeat)) => heard(&running, path, heartbeat).err(),
            Ok(Datagram::Probe(probe)) => {
                let answer = probed(&running, path, probe);
                if let Ok(Some(answer)) = answer {
                    datagrams.send(path, &encode_probe(&answer, &keys.mine));
                }
                answer.err()
            }
            Err(_) if claims_to_be_ours(bytes) => Some(Refusal::Forged),
            Err(_) => Some(Refusal::Foreign),
        };
        if let (Some(why), Some(book)) = (refused, running.links.borrow_mut().paths.get_mut(path)) {
            book.refuse(clock::now(), why);
        }
    }
}

/// An authentic heartbeat. One that is repeated is shown to the machine, which judges by itself, and counts for nothing
/// else.
fn heard(running: &Running, path: usize, heartbeat: Heartbeat) -> Result<(), Refusal> {
    let volume = running.volume_by_id(heartbeat.volume).filter(|_| heartbeat.from != running.me);
    let volume = volume.ok_or(Refusal::Foreign)?;
    let fresh = running.links.borrow_mut().heartbeat(clock::now(), path, &heartbeat);
    volume.mirror.deliver(Event::Heartbeat { path: path_id(path), heartbeat });
    // What was replayed is counted where that was found out.
    let Heard::Fresh { late } = fresh else { return Ok(()) };
    volume.heard_now();
    // A silence that was told while it lasted is not told again.
    if let Some(late) = late.filter(|late| late.gap < silent_max(&running.config.timing)) {
        tell_late(running, path, late);
    }
    Ok(())
}

fn path_id(path: usize) -> PathId {
    PathId(u8::try_from(path).unwrap_or(u8::MAX))
}

/// An authentic probe: the answer to it, if it is a question that is to be answered.
fn probed(running: &Running, path: usize, probe: Probe) -> Result<Option<Probe>, Refusal> {
    if probe.from == running.me {
        return Err(Refusal::Foreign);
    }
    let mut links = running.links.borrow_mut();
    let Some(book) = links.paths.get_mut(path) else { return Ok(None) };
    let now = clock::now();
    match probe.answer {
        true if book.probes.answer(now, probe.nonce) => Ok(None),
        true => Err(Refusal::Replayed),
        false => {
            let answer = Probe { from: running.me, nonce: probe.nonce, answer: true };
            Ok(book.probes.may_reply(now).then_some(answer))
        }
    }
}

fn tell_late(running: &Running, path: usize, late: Late) {
    let why = match late.cause {
        Cause::Lost(1) => "the one before it was lost on the way".to_string(),
        Cause::Lost(count) => format!("{count} before it were lost on the way"),
        Cause::Delayed => "none is missing, so it was sent late or held up".to_string(),
        Cause::HeldUp => "this machine was held up itself".to_string(),
    };
    let (path, remote) = path_and_remote(running, path);
    let gap_ms = late.gap.as_millis();
    running.journal.tell(None, events::Event::HeartbeatsLate { path, remote, gap_ms, why });
}

fn path_and_remote(running: &Running, path: usize) -> (u32, String) {
    let addresses = &running.config.node(running.me.other()).addresses;
    let remote = addresses.get(path).map_or_else(String::new, ToString::to_string);
    (u32::try_from(path).unwrap_or(u32::MAX), remote)
}

/// A path that is silent for so long is told to be, while it is. What was shorter is late.
fn silent_max(timing: &Timing) -> Span {
    timing.warntime.max(timing.deadtime.min(SILENT))
}

/// Asks whether each path works both ways and how long that takes, once a second at most.
pub async fn probe(running: Rc<Running>, datagrams: Rc<Datagrams>, keys: Rc<HeartbeatKeys>) {
    let every = running.config.timing.keepalive.max(PROBE_EVERY).as_duration();
    let mut able = false;
    loop {
        tokio::time::sleep(every).await;
        // Once it said so it goes on: probes matter most while no stream stands. A peer of an earlier version says no.
        let said = running.volumes().iter().filter_map(|volume| volume.view());
        let said = said.map(|view| view.peer_features).find(|features| *features != 0);
        able = said.map_or(able, |features| features & feature::PROBE != 0);
        if !able {
            continue;
        }
        let paths = running.links.borrow().paths.len();
        for path in 0..paths {
            let question = Probe { from: running.me, nonce: random::id128(), answer: false };
            let bytes = encode_probe(&question, &keys.mine);
            let now = clock::now();
            let ask = running.links.borrow_mut().paths.get_mut(path).is_some_and(|book| {
                // Where nothing comes there is nothing to find out.
                let heard = book.flow.heard.is_some_and(|at| now.since(at) < running.config.timing.warntime);
                if heard {
                    book.probes.ask(now, question.nonce);
                }
                heard
            });
            if ask {
                datagrams.send(path, &bytes);
            }
        }
    }
}

/// What was said about a path.
#[derive(Clone, Copy, Default)]
struct Said {
    /// Told to the streams: it was heard within `warntime`.
    alive: bool,
    /// Told to people.
    up: bool,
}

/// Looks at the paths, at strangers and at the clock, twice per keepalive.
pub async fn watch(running: Rc<Running>) {
    let timing = running.config.timing;
    let half = Span(timing.keepalive.0 / 2);
    let mut sleep = SleepWatch::new();
    let mut said = vec![Said::default(); running.links.borrow().paths.len()];
    let mut strangers = (clock::now(), Refused::default());
    loop {
        tokio::time::sleep(half.as_duration()).await;
        let slept = sleep.slept(timing.keepalive);
        if let Some(slept) = slept {
            running.volumes().iter().for_each(|volume| volume.mirror.deliver(Event::Suspended));
            running.journal.tell(None, events::Event::ClockJumped { slept_ms: slept.as_millis() });
        }
        let now = clock::now();
        running.links.borrow_mut().turn(now, half, slept.is_some());
        for (path, said) in said.iter_mut().enumerate() {
            look(&running, path, said, now);
        }
        if now.since(strangers.0).as_millis() >= 60_000 {
            strangers = (now, tell_strangers(&running, strangers.1));
        }
    }
}

fn look(running: &Running, path: usize, said: &mut Said, now: Moment) {
    let (silent, over) = {
        let mut links = running.links.borrow_mut();
        let Some(book) = links.paths.get_mut(path) else { return };
        (book.flow.heard.map(|at| now.since(at)), book.episode_over(now))
    };
    let timing = &running.config.timing;
    let alive = silent.is_some_and(|silent| silent < timing.warntime);
    if alive != said.alive {
        said.alive = alive;
        running.paths.set_alive(path, alive);
    }
    let (number, remote) = path_and_remote(running, path);
    if let Some((times, worst)) = over {
        let (remote, worst_ms) = (remote.clone(), worst.as_millis());
        let event = events::Event::HeartbeatsWereLate { path: number, remote, times, worst_ms };
        running.journal.tell(None, event);
    }
    let up = silent.is_some_and(|silent| silent < silent_max(timing));
    if up != said.up {
        said.up = up;
        let silent_ms = silent.map_or(0, Span::as_millis);
        running.journal.tell(
            None,
            match up {
                true => events::Event::PathUp { path: number, remote },
                false => events::Event::PathDown { path: number, remote, silent_ms },
            },
        );
    }
}

/// Tells what was refused since `before`, if anything was; answers with the count of now.
fn tell_strangers(running: &Running, before: Refused) -> Refused {
    let now = running.links.borrow().refused();
    let count = now.total() - before.total();
    if count > 0 {
        let (forged, replayed) = (now.forged - before.forged, now.replayed - before.replayed);
        let foreign = now.foreign - before.foreign;
        let why = format!(
            "{forged} forged, altered or under another key, {replayed} repeated, {foreign} of somebody else; \"twinfs \
             status --links\" has the paths"
        );
        running.journal.tell(None, events::Event::StrangersRefused { count, why });
    }
    now
}
