//! The control socket: one request a line, one reply.
//!
//! Decides how a request is carried out and when it counts as done. Does not know the command line. Invariants: a
//! request never holds up the heartbeats (what blocks runs elsewhere); every request ends within its limit; only root
//! gets an answer.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::base::{NodeId, Span};
use crate::format::{ResyncMark, UndoStage};
use crate::node::{Operator, Role, StateWord, Task};
use crate::services::adopt;
use crate::sys::clock;

use super::confirm;
use super::grow;
use super::orders;
use super::pace;
use super::peer;
use super::protocol::{LINE_BYTES_MAX, Reply, Request, Verdict};
use super::runtime::{Running, can_hand_over, is_serving, wait_until};
use super::status::{NodeStatus, VerifyStatus, VolumeStatus, WitnessStatus, age};
use super::volume::Volume;
use super::witness_watch::WitnessWatch;

/// For reading a request and for writing its reply.
const LINE_LIMIT: Duration = Duration::from_secs(10);
/// For a change of role, services included.
const ROLE_LIMIT: Duration = Duration::from_secs(120);
/// For a mount once the right to it is there.
const AFTERWARDS: Span = Span::from_secs(5);
const LINK_LIMIT: Duration = Duration::from_secs(10);
const EVENTS_MAX: usize = 2_000;

/// Accepts for ever.
pub async fn serve(running: Rc<Running>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(talk(Rc::clone(&running), stream));
            }
            // Out of descriptors: no reason for a busy loop.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn talk(running: Rc<Running>, stream: UnixStream) {
    let owner = nix::unistd::geteuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == owner) {
        return;
    }
    let (read, mut write) = stream.into_split();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    let mut reader = BufReader::new(read.take(limit));
    let read = tokio::time::timeout(LINE_LIMIT, reader.read_until(b'\n', &mut line)).await;
    if !matches!(read, Ok(Ok(n)) if n > 0) {
        return;
    }
    let reply = match serde_json::from_slice::<Request>(&line) {
        Ok(request) => answer(&running, request).await,
        Err(e) => Reply::new(Verdict::Usage, format!("the daemon does not understand the request: {e}")),
    };
    if let Ok(mut bytes) = serde_json::to_vec(&reply) {
        bytes.push(b'\n');
        let _ = tokio::time::timeout(LINE_LIMIT, write.write_all(&bytes)).await;
    }
}

async fn answer(running: &Rc<Running>, request: Request) -> Reply {
    match request {
        Request::Status => Reply { status: Some(node_status(running)), ..Reply::done("") },
        Request::Promote { volume, old: true, .. } => {
            each(running, volume.as_deref(), |v| promote_old(running, v)).await
        }
        Request::Promote { volume, peer_is_down, .. } => {
            each(running, volume.as_deref(), |v| promote(running, v, peer_is_down)).await
        }
        Request::Demote { volume } => each(running, volume.as_deref(), demote).await,
        Request::Switchover { volume } => each(running, volume.as_deref(), |v| switchover(running, v)).await,
        Request::Connect { volume } => each(running, volume.as_deref(), |v| connect(running, v)).await,
        Request::Disconnect { volume } => each(running, volume.as_deref(), disconnect).await,
        Request::EnrolWitness { volume } => {
            each(running, volume.as_deref(), async |v| {
                v.order(Operator::EnrolWitness);
                Reply::done(format!("{}: the witness is asked to enrol this node's record", v.name))
            })
            .await
        }
        Request::Events { volume, count } => {
            let (journal, count) = (Arc::clone(&running.journal), count.min(EVENTS_MAX));
            let read = move || journal.newest(volume.as_deref(), count);
            let entries = tokio::task::spawn_blocking(read).await.unwrap_or_default();
            let events = entries.iter().map(|entry| entry.json(running.journal.names())).collect();
            Reply { events, ..Reply::done("") }
        }
        Request::Verify { volume, local, repair } => {
            let task = Task { local, repair };
            each(running, volume.as_deref(), async |v| orders::verify(running, &v, task)).await
        }
        Request::StopVerify { volume } => {
            each(running, volume.as_deref(), async |v| orders::stop_verify(&v)).await
        }
        Request::Grow { volume, bytes } => {
            each(running, Some(&volume), |v| grow::grow(running, v, bytes)).await
        }
        Request::PauseResync { volume, ms } => {
            let span = Span::from_millis(ms);
            each(running, volume.as_deref(), async |v| pace::pause(running, &v, span)).await
        }
        Request::ResumeResync { volume } => {
            each(running, volume.as_deref(), async |v| pace::resume(&v)).await
        }
        Request::LimitResync { volume, max, min } => {
            each(running, volume.as_deref(), async |v| pace::limit(&v, max, min)).await
        }
        Request::FenceConfirm { volume, code } => {
            each(running, volume.as_deref(), |v| confirm::confirm(running, v, code.clone())).await
        }
        Request::Hold { node: Some(node), .. } if node != running.name(running.me) => {
            let text = format!("this is node {}: say it on {node}", running.name(running.me));
            Reply::new(Verdict::Usage, text)
        }
        Request::Hold { on, .. } => each(running, None, |v| confirm::hold(running, v, on)).await,
        Request::Sync { volume } => each(running, volume.as_deref(), sync).await,
        Request::AdoptedChanged { volume } => each(running, Some(&volume), |v| adopted(running, v)).await,
        Request::Stop { hand_over } => {
            running.hand_over.store(hand_over, Ordering::SeqCst);
            let text = leaving(running, hand_over).await;
            running.stop.notify_one();
            Reply::done(text)
        }
    }
}

/// What stopping this node means for each volume that it serves.
async fn leaving(running: &Running, hand_over: bool) -> String {
    let peer = running.name(running.me.other());
    let served: Vec<&Arc<Volume>> = running.volumes().iter().filter(|v| is_serving(v)).collect();
    let ready = hand_over && served.iter().any(|v| can_hand_over(v));
    let refuses = if ready { running.witness_refuses().await } else { None };
    let line = |volume: &&Arc<Volume>| match (can_hand_over(volume), hand_over, &refuses) {
        (true, true, None) => format!("{}: goes to {peer}", volume.name),
        (true, true, Some(why)) => format!("{}: stops for everybody: {why}", volume.name),
        (true, false, _) => format!("{}: stops for everybody, as asked for", volume.name),
        (false, ..) => format!("{}: stops for everybody: {peer} cannot take over", volume.name),
    };
    served.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Asks one volume or all of them; the worst verdict counts.
async fn each(running: &Running, name: Option<&str>, ask: impl AsyncFn(Arc<Volume>) -> Reply) -> Reply {
    let chosen: Vec<Arc<Volume>> =
        running.volumes().iter().filter(|v| name.is_none_or(|name| v.name == name)).cloned().collect();
    if chosen.is_empty() {
        let known: Vec<&str> = running.volumes().iter().map(|v| v.name.as_str()).collect();
        let text = format!("no volume {}; this node has {}", name.unwrap_or(""), known.join(", "));
        return Reply::new(Verdict::Usage, text);
    }
    let mut all = Reply::done("");
    for volume in chosen {
        let reply = ask(volume).await;
        if all.verdict == Verdict::Done {
            all.verdict = reply.verdict;
        }
        if !all.text.is_empty() {
            all.text.push('\n');
        }
        all.text.push_str(&reply.text);
    }
    all
}

fn reason(volume: &Volume) -> String {
    volume.view().map(|view| view.reason.text).unwrap_or_default()
}

pub fn serves(volume: &Volume) -> bool {
    let mounted = volume.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    mounted && volume.view().is_some_and(|view| view.role == Role::Primary)
}

async fn promote(running: &Running, volume: Arc<Volume>, peer_is_down: bool) -> Reply {
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
async fn promote_old(running: &Running, volume: Arc<Volume>) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    if serves(&volume) {
        return Reply::done(format!("{name}: is primary already"));
    }
    let heard = volume.heard.load(Ordering::Relaxed);
    let silent = clock::now().since(crate::base::Moment(heard));
    let view = volume.view();
    if view.is_some_and(|v| v.connected) || (heard > 0 && silent < running.config.timing.deadtime) {
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

async fn demote(volume: Arc<Volume>) -> Reply {
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

async fn connect(running: &Running, volume: Arc<Volume>) -> Reply {
    let (name, peer) = (volume.name.clone(), running.name(running.me.other()));
    volume.order(Operator::Connect);
    if wait_until(&volume, LINK_LIMIT, |v| v.view().is_some_and(|view| view.connected)).await {
        Reply::done(format!("{name}: connected to {peer}"))
    } else {
        Reply::new(
            Verdict::PeerUnreachable,
            format!("{name}: {peer} is not reached yet: {}", reason(&volume)),
        )
    }
}

async fn disconnect(volume: Arc<Volume>) -> Reply {
    let name = volume.name.clone();
    volume.order(Operator::Disconnect);
    if wait_until(&volume, LINK_LIMIT, |v| v.view().is_some_and(|view| !view.connected)).await {
        Reply::done(format!("{name}: disconnected; \"twinfs connect\" joins the copies again"))
    } else {
        Reply::new(Verdict::TryAgain, format!("{name}: still connected: {}", reason(&volume)))
    }
}

async fn sync(volume: Arc<Volume>) -> Reply {
    let name = volume.name.clone();
    let mounted = volume.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(mounted) = mounted else {
        return Reply::new(Verdict::NoRight, format!("{name}: is not mounted here; ask the primary"));
    };
    match tokio::task::spawn_blocking(move || mounted.sync()).await {
        Ok(Ok(())) => Reply::done(format!("{name}: everything written so far is stable")),
        Ok(Err(why)) => Reply::new(Verdict::Failed, format!("{name}: {why}")),
        Err(_) => Reply::new(Verdict::Failed, format!("{name}: the flush ended in a panic; see the journal")),
    }
}

async fn adopted(running: &Running, volume: Arc<Volume>) -> Reply {
    let (paths, opening) = (Arc::clone(&running.paths), running.opening(&volume.name, peer::CHANNEL_TALK));
    let mount = volume.places.mount.clone();
    let talk = move || adopt::list(&mount).and_then(|list| peer::tell_adopted(&paths, opening, list));
    let peer = running.name(running.me.other());
    match tokio::task::spawn_blocking(talk).await {
        Ok(Ok(answer)) if answer.failed.is_empty() => {
            Reply::done(format!("{peer}: {}", answer.done.join("; ")))
        }
        Ok(Ok(answer)) => Reply::new(Verdict::Failed, format!("{peer}: {}", answer.failed.join("; "))),
        Ok(Err(why)) => Reply::new(
            Verdict::PeerUnreachable,
            format!("{peer} was not told ({why}); it follows at the latest when it becomes primary"),
        ),
        Err(_) => Reply::new(Verdict::Failed, "telling the peer ended in a panic; see the journal"),
    }
}

/// Everything that `twinfs status` shows.
pub fn node_status(running: &Running) -> NodeStatus {
    let name = |id: NodeId| running.name(id).to_string();
    let mut status = NodeStatus {
        node: name(running.me),
        peer: name(running.me.other()),
        version: env!("CARGO_PKG_VERSION").to_string(),
        pid: std::process::id(),
        arbitration: running.config.cluster.arbitration.as_str().to_string(),
        risk: running.config.cluster.arbitration.risk().to_string(),
        fence: running.fencer.seen(),
        config_hash: running.config.short_hash(),
        config_equal: running.config_equal(),
        witness: running.witness.as_ref().map(witness_status),
        volumes: running.volumes().iter().map(|volume| volume_status(running, volume)).collect(),
        ..NodeStatus::default()
    };
    status.judge();
    status
}

fn witness_status(watch: &WitnessWatch) -> WitnessStatus {
    let seen = watch.seen();
    WitnessStatus {
        address: watch.target().to_string(),
        answered_ms: seen.answered.map(|at| clock::now().since(at).as_millis()),
        problem: seen.problem,
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Joining => "joining",
        Role::Secondary => "secondary",
        Role::Primary => "primary",
        Role::Frozen => "frozen",
        Role::Target => "target",
        Role::HandingOver => "handing-over",
        Role::SplitBrain => "diverged",
        Role::Failed => "failed",
    }
}

fn volume_status(running: &Running, volume: &Volume) -> VolumeStatus {
    let now = clock::now();
    let since = |at: crate::base::Moment| now.since(at).as_millis();
    let image = volume.mirror.image();
    let mut status = VolumeStatus {
        name: volume.name.clone(),
        image: volume.image_path.display().to_string(),
        size_bytes: image.block_count().saturating_mul(4096),
        dirty_blocks: image.dirty_blocks(),
        mount: volume.settings.mount.display().to_string(),
        mounted: volume.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
        addresses: volume.addresses.list().iter().map(ToString::to_string).collect(),
        services: volume.services.views(),
        ..VolumeStatus::default()
    };
    let heard = volume.heard.load(Ordering::Relaxed);
    status.peer_heard_ms = (heard > 0).then(|| since(crate::base::Moment(heard)));
    status.generation = image.state().gens.last().map(|entry| entry.id.to_string());
    let (repaired, lost) = volume.mirror.rot();
    (status.repaired_blocks, status.lost_blocks) = (repaired, lost.len() as u64);
    let undo = image.undo();
    let target = image.state().resync != ResyncMark::None;
    status.way_back = target.then(|| undo.has_way_back());
    (status.kept_blocks, status.put_back_blocks) = (undo.blocks, undo.put_back);
    status.verified = volume.verify.last();
    let Some(view) = volume.view() else { return status };
    pace::fill(&mut status, &view, now);
    status.role = role_word(view.role).to_string();
    status.state = view.state.to_string();
    status.state_since_ms = since(view.since);
    let old = target || view.state == StateWord::Behind;
    status.behind_ms = old.then(|| volume.behind_ms()).flatten();
    status.reason = view.reason.text;
    status.until_ms = view.reason.until.map(|until| until.since(now).as_millis());
    status.serving = view.serving;
    status.frozen = view.frozen;
    if let Some(record) = view.record {
        let names = [NodeId::A, NodeId::B].into_iter().filter(|id| record.members.contains(*id));
        status.members = names.map(|id| running.name(id).to_string()).collect();
        status.record_v = Some(record.v);
        status.primary = Some(running.name(record.primary).to_string());
    }
    status.connected = view.connected;
    status.peer_serving = view.peer_serving;
    status.lease_left_ms = view.lease_until.map(|until| until.since(now).as_millis());
    status.witness_seen_ms = view.witness_seen.map(since);
    status.witness_unknown =
        running.witness.as_ref().is_some_and(|watch| watch.seen().unknown.contains(&volume.id));
    status.verify = view.verify.as_ref().map(VerifyStatus::running);
    status.held = view.held;
    status.fencing_ms = view.fencing.map(|fencing| since(fencing.since));
    status.fence_code = view.fencing.map(|fencing| confirm::code(&fencing));
    status.reaches_nobody = view.reaches_nobody;
    status.demoted = view.demoted;
    status.disconnected = view.disconnected;
    status.refused = running.refused(&volume.name);
    status
}
