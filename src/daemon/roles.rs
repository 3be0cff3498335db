//! Changes of role that an operator asks for: promote, demote, switchover.
//!
//! Decides how long each may take, when it counts as done and what its refusal says. Does not decide whether it is
//! right: the node's machine does. Invariant: every order ends within its limit.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::base::Span;
use crate::format::{ResyncMark, UndoStage};
use crate::node::{Operator, Role, StateWord};
use crate::sys::clock;

use super::protocol::{Reply, Verdict};
use super::runtime::{Running, is_serving, wait_until};
use super::status::age;
use super::volume::Volume;

/// For a change of role, services included.
const ROLE_LIMIT: Duration = Duration::from_secs(120);
/// For a mount once the right to it is there.
const AFTERWARDS: Span = Span::from_secs(5);

pub fn reason(volume: &Volume) -> String {
    volume.view().map(|view| view.reason.text).unwrap_or_default()
}

pub fn serves(volume: &Volume) -> bool {
    let mounted = volume.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    mounted && volume.view().is_some_and(|view| view.role == Role::Primary)
}

pub async fn promote(running: &Running, volume: Arc<Volume>, peer_is_down: bool) -> Reply {
    let name = &volume.name;
    if serves(&volume) {
        return Reply::done(format!("{name}: is primary already"));
    }
    let agreed = volume.view().is_some_and(|v| v.connected);
    if agreed && let Some(refusal) = without_witness(running, name).await {
        return refusal;
    }
    volume.order(Operator::Promote { peer_is_down });
    // A peer that goes away while it is asked answers no more.
    let alone = |volume: &Volume| volume.view().is_none_or(|view| !view.connected);
    wait_until(&volume, ROLE_LIMIT, |volume| serves(volume) || alone(volume)).await;
    if serves(&volume)
        || (alone(&volume) && wait_until(&volume, limit_alone(running, &volume, peer_is_down), serves).await)
    {
        return Reply::done(format!("{name}: is primary now"));
    }
    let connected = volume.view().is_some_and(|v| v.connected);
    let why = reason(&volume);
    let behind = volume.view().is_some_and(|v| v.state == StateWord::Behind);
    let old = if behind { format!(" (this copy has the state {})", as_of(&volume)) } else { String::new() };
    let hint = match peer_is_down || connected {
        _ if behind => old.as_str(),
        true => "; \"twinfs status\" says more",
        false if why.contains("--peer-is-down") => " (only if you know that it is down)",
        false => "; only if you know that the peer is down: --peer-is-down",
    };
    let text = format!("{name}: did not become primary: {why}{hint}");
    Reply::new(if connected { Verdict::TryAgain } else { Verdict::NoRight }, text)
}

/// How old this copy is, in words.
fn as_of(volume: &Volume) -> String {
    let ago = volume.behind_ms().map(|ms| format!("of {} ago", age(ms)));
    ago.unwrap_or_else(|| "of a time that was not noted".to_string())
}

/// Serves an old state: only by the word of whoever knows that the peer is down.
pub async fn promote_old(running: &Running, volume: Arc<Volume>) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    if serves(&volume) {
        return Reply::done(format!("{name}: is primary already"));
    }
    let heard = |at| clock::now().since(at) < running.config.timing.deadtime;
    let view = volume.view();
    if view.is_some_and(|v| v.connected) || volume.heard().is_some_and(heard) {
        let text = format!("{name}: {peer} is there: an older state is served only while it is down");
        return Reply::new(Verdict::NoRight, text);
    }
    let old = volume.view().is_some_and(|v| v.state == StateWord::Behind).then(|| as_of(&volume));
    volume.order(Operator::PromoteOld);
    if wait_until(&volume, ROLE_LIMIT, |v| serves(v) || refused_old(v)).await && serves(&volume) {
        let state = old.map_or(String::new(), |old| format!(", with the state {old}"));
        return Reply::done(format!("{name}: is primary now{state}"));
    }
    let undo = volume.mirror.image().undo();
    if undo.stage == UndoStage::GoingBack {
        let text = format!(
            "{name}: {} of {} blocks are put back; it serves when all are",
            undo.put_back, undo.blocks
        );
        return Reply::new(Verdict::TryAgain, text);
    }
    let text =
        format!("{name}: did not become primary: {}; \"twinfs events {name}\" says more", reason(&volume));
    Reply::new(Verdict::NoRight, text)
}

/// There is no way back from a half overwritten copy.
fn refused_old(volume: &Volume) -> bool {
    let half = volume.mirror.image().state().resync != ResyncMark::None;
    half && !volume.mirror.image().undo().has_way_back()
}

/// How long a promotion without the peer may take.
fn limit_alone(running: &Running, volume: &Volume, peer_is_down: bool) -> Duration {
    match volume.view() {
        // Without a witness and without a word nothing but the passing of time can help.
        Some(view) if running.witness.is_none() && !peer_is_down => {
            let left = view.reason.until.map_or(Span::ZERO, |until| until.since(clock::now()));
            (left + AFTERWARDS).as_duration().min(patience(running))
        }
        _ => patience(running),
    }
}

/// The answer to an order that would change the primary by agreement while the witness is silent: halfway through, the
/// volume would be with nobody until it answers.
async fn without_witness(running: &Running, name: &str) -> Option<Reply> {
    let why = running.witness_refuses().await?;
    let text =
        format!("{name}: everything stays as it is, the primary cannot change without the witness: {why}");
    Some(Reply::new(Verdict::PeerUnreachable, text))
}

/// How long a decision without the peer may take: its silence, the witness, the mount.
fn patience(running: &Running) -> Duration {
    let timing = &running.config.timing;
    (timing.deadtime + timing.initdead + Span::from_secs(10)).as_duration()
}

pub async fn demote(volume: Arc<Volume>) -> Reply {
    let name = volume.name.clone();
    volume.order(Operator::Demote);
    if wait_until(&volume, ROLE_LIMIT, |v| !is_serving(v)).await {
        let elsewhere = volume.view().is_some_and(|view| view.peer_serving);
        let nobody =
            if elsewhere { "" } else { ", and nobody serves it; \"twinfs switchover\" moves a volume" };
        Reply::done(format!("{name}: not served here until \"twinfs promote\"{nobody}"))
    } else {
        Reply::new(Verdict::TryAgain, format!("{name}: is still being stopped: {}", reason(&volume)))
    }
}

pub async fn switchover(running: &Running, volume: Arc<Volume>) -> Reply {
    let (name, peer) = (volume.name.clone(), running.name(running.me.other()).to_string());
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    if !view.connected || view.state != StateWord::InSync {
        let text = format!(
            "{name}: the primary cannot change now: {} ({}); \"twinfs status\" says what helps",
            view.state, view.reason.text
        );
        let verdict = if view.connected { Verdict::NoRight } else { Verdict::PeerUnreachable };
        return Reply::new(verdict, text);
    }
    if let Some(refusal) = without_witness(running, &name).await {
        return refusal;
    }
    let was_here = view.serving;
    let began = clock::now();
    volume.order(Operator::Switchover);
    let reached = move |v: &Volume| {
        if was_here { !is_serving(v) && v.view().is_some_and(|view| view.peer_serving) } else { serves(v) }
    };
    // Whoever served stopped, and serves again: a step failed, and the change was called off.
    let stopped = AtomicBool::new(false);
    let called_off = |v: &Volume| {
        let as_before = if was_here { serves(v) } else { v.view().is_some_and(|view| view.peer_serving) };
        stopped.fetch_or(!as_before, Ordering::Relaxed) && as_before
    };
    let ended = wait_until(&volume, ROLE_LIMIT, |v| reached(v) || called_off(v)).await;
    let to = if was_here { peer.as_str() } else { running.name(running.me) };
    if reached(&volume) {
        return Reply::done(format!("{name}: {to} is primary now, after {}", clock::now().since(began)));
    }
    if ended {
        let text =
            format!("{name}: called off, the primary is what it was: {to} did not answer in time; try again");
        return Reply::new(Verdict::TryAgain, text);
    }
    Reply::new(Verdict::TryAgain, format!("{name}: not handed over yet: {}", reason(&volume)))
}
