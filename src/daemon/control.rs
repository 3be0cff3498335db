//! The control socket: one request a line, one reply.
//!
//! Decides how a request is carried out and when it counts as done. Does not know the command line. Invariants: a
//! request never holds up the heartbeats (what blocks runs elsewhere); every request ends within its limit; only root
//! gets an answer.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::base::Span;
use crate::node::{Operator, Task};
use crate::services::adopt;

use super::confirm;
use super::grow;
use super::link_status;
use super::merged;
use super::orders;
use super::pace;
use super::peer;
use super::protocol::{LINE_BYTES_MAX, Reply, Request, Verdict};
use super::replace;
use super::resolve;
use super::roles::{self, reason};
use super::runtime::{Running, can_hand_over, is_serving, wait_until};
use super::seen::node_status;
use super::situation;
use super::upgrade;
use super::volume::Volume;

/// For reading a request and for writing its reply.
const LINE_LIMIT: Duration = Duration::from_secs(10);
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
    if running.upgrades.is_ready() {
        running.stop.notify_one();
    }
}

async fn answer(running: &Rc<Running>, request: Request) -> Reply {
    match request {
        Request::Status => Reply { status: Some(node_status(running)), ..Reply::done("") },
        Request::Advise => {
            Reply { measured: Some(Box::new(link_status::silences(running))), ..Reply::done("") }
        }
        Request::Explain { volume } => explain(running, volume.as_deref()).await,
        Request::Promote { volume, old: true, .. } => {
            each(running, volume.as_deref(), |v| roles::promote_old(running, v)).await
        }
        Request::Promote { volume, peer_is_down, .. } => {
            each(running, volume.as_deref(), |v| roles::promote(running, v, peer_is_down)).await
        }
        Request::Demote { volume } => each(running, volume.as_deref(), roles::demote).await,
        Request::Switchover { volume } => {
            each(running, volume.as_deref(), |v| roles::switchover(running, v)).await
        }
        Request::Connect { volume } => each(running, volume.as_deref(), |v| connect(running, v)).await,
        Request::Disconnect { volume } => each(running, volume.as_deref(), disconnect).await,
        Request::EnrolWitness { volume } => each(running, volume.as_deref(), enrol).await,
        Request::Events { volume, count } => events(running, volume, count).await,
        Request::History { volume, count } => merged::history(running, volume, count).await,
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
        Request::Replace { node, force, ms } => {
            replace::replace(running, &node, force, Span::from_millis(ms)).await
        }
        Request::Resolve { volume, keep } => one(running, &volume, keep).await,
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
        Request::Upgrade { program } => upgrade::answer(running, program).await,
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

async fn events(running: &Running, volume: Option<String>, count: usize) -> Reply {
    let (journal, count) = (Arc::clone(&running.journal), count.min(EVENTS_MAX));
    let read = move || journal.newest(volume.as_deref(), count);
    let entries = tokio::task::spawn_blocking(read).await.unwrap_or_default();
    let events = entries.iter().map(|entry| entry.json(running.journal.names())).collect();
    Reply { events, ..Reply::done("") }
}

async fn explain(running: &Running, name: Option<&str>) -> Reply {
    let chosen = match choose(running, name) {
        Ok(chosen) => chosen,
        Err(text) => return Reply::new(Verdict::Usage, text),
    };
    match tokio::task::spawn_blocking(situation::gather(running, &chosen)).await {
        Ok(recorded) => Reply { situation: Some(Box::new(recorded)), ..Reply::done("") },
        Err(_) => Reply::new(Verdict::Failed, "looking at the machines ended in a panic; see the journal"),
    }
}

async fn enrol(volume: Arc<Volume>) -> Reply {
    volume.order(Operator::EnrolWitness);
    Reply::done(format!("{}: the witness is asked to enrol this node's record", volume.name))
}

/// Shows both sides of a split, or ends it.
async fn one(running: &Running, name: &str, keep: Option<String>) -> Reply {
    let Some(volume) = running.volumes().iter().find(|volume| volume.name == name).cloned() else {
        return each(running, Some(name), async |_| Reply::done("")).await;
    };
    match keep {
        None => resolve::show(running, volume).await,
        Some(keep) => resolve::keep(running, volume, &keep).await,
    }
}

/// One volume or all of them.
fn choose(running: &Running, name: Option<&str>) -> Result<Vec<Arc<Volume>>, String> {
    let chosen: Vec<Arc<Volume>> =
        running.volumes().iter().filter(|v| name.is_none_or(|name| v.name == name)).cloned().collect();
    if chosen.is_empty() {
        let known: Vec<&str> = running.volumes().iter().map(|v| v.name.as_str()).collect();
        let text = format!("no volume {}; this node has {}", name.unwrap_or(""), known.join(", "));
        return Err(text);
    }
    Ok(chosen)
}

/// Asks one volume or all of them; the worst verdict counts.
async fn each(running: &Running, name: Option<&str>, ask: impl AsyncFn(Arc<Volume>) -> Reply) -> Reply {
    let chosen = match choose(running, name) {
        Ok(chosen) => chosen,
        Err(text) => return Reply::new(Verdict::Usage, text),
    };
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
