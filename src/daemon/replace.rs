//! A machine that is gone for good: struck off on the node that stays, and a new one let in with a token.
//!
//! Decides when `twinfs replace` may strike off the peer's copy, and what a machine that shows a token is told. Does
//! not know what a copy that was struck off does (the machine does). Invariants: nothing is struck off before every
//! volume was looked at; the token is given out when all of it is stable; only one machine at a time takes the place.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Members, NodeId, Span};
use crate::config::Config;
use crate::events::Event as Told;
use crate::node::{Operator, Role, StateWord};
use crate::services::adopt::{read_json, write_json};
use crate::sys::{clock, random};

use super::journal::Journal;
use super::peer::{self, Answer, Ask};
use super::protocol::{Reply, Verdict};
use super::runtime::{Running, to_peer, wait_until};
use super::status::age;
use super::token::{EXPIRES_MAX, TAG, Tokens};
use super::volume::Volume;
use super::{DaemonError, NodeFile};

/// For a record to become stable.
const STORE_LIMIT: Duration = Duration::from_secs(10);
/// Between two tries of the order, which the machine does not take while it stores something else.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// What a machine that was admitted has to know about a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Incarnations that were replaced, hexadecimal.
    pub replaced: Vec<String>,
    /// Its own starts are counted from above this number.
    pub boot_epoch: u64,
}

/// A refusal, in words.
type No = (Verdict, String);

/// Volume -> what has to be known about it.
pub type Admitted = BTreeMap<String, Place>;

/// The part of a daemon that answers machines which want to be the peer.
pub struct Desk {
    pub volumes: Vec<Arc<Volume>>,
    pub journal: Arc<Journal>,
    pub tokens: Arc<Tokens>,
    pub peer: NodeId,
    /// As the configuration calls it.
    pub peer_name: String,
}

impl Desk {
    pub fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::TokenWanted => {
                let wanted = self.tokens.is_wanted(&self.peer_name, clock::unix_ms());
                Answer { token_wanted: wanted, ..Answer::default() }
            }
            Ask::Admission { token, claim } => match self.admit(&token, &claim) {
                Ok(admitted) => Answer { admitted: Some(admitted), ..Answer::default() },
                Err(reason) => {
                    let event = Told::ReplacementRefused { peer: self.peer, reason: reason.clone() };
                    self.journal.tell(None, event);
                    Answer { failed: vec![reason], ..Answer::default() }
                }
            },
        }
    }

    fn admit(&self, token: &str, claim: &str) -> Result<Admitted, String> {
        if self.volumes.iter().any(|volume| volume.view().is_some_and(|view| view.connected)) {
            return Err("another machine is connected under this name".to_string());
        }
        let first = self.tokens.redeem(token, claim, &self.peer_name, clock::unix_ms())?;
        if first {
            self.journal.tell(None, Told::ReplacementAdmitted { peer: self.peer });
        }
        let place = |volume: &Arc<Volume>| {
            let state = volume.mirror.image().state();
            let replaced = state.retired.iter().map(|incarnation| format!("{incarnation:032x}")).collect();
            (volume.name.clone(), Place { replaced, boot_epoch: state.peer_boot_epoch })
        };
        Ok(self.volumes.iter().map(place).collect())
    }
}

/// Strikes off the peer's copies and gives out a token, good for `span`.
pub async fn replace(running: &Running, node: &str, force: bool, span: Span) -> Reply {
    let (me, peer) = (running.name(running.me), running.name(running.me.other()));
    if node != peer {
        let text = match node == me {
            true => format!("this is {me}: say it on the node that stays, {peer}"),
            false => format!("no node {node}; the peer of {me} is {peer}"),
        };
        return Reply::new(Verdict::Usage, text);
    }
    if span == Span::ZERO || span > EXPIRES_MAX {
        return Reply::new(Verdict::Usage, "a token is good for up to 30 days".to_string());
    }
    for volume in running.volumes() {
        if let Err((verdict, text)) = may_strike_off(running, volume, force) {
            return Reply::new(verdict, text);
        }
    }
    for volume in running.volumes() {
        if let Err((verdict, text)) = strike_off(running, volume, peer).await {
            return Reply::new(verdict, text);
        }
    }
    let tokens = Arc::clone(&running.tokens);
    let name = peer.to_string();
    let issued = tokio::task::spawn_blocking(move || tokens.issue(&name, clock::unix_ms(), span)).await;
    match issued {
        Ok(Ok(token)) => {
            let all = running.volumes().iter().all(|volume| known(volume).1);
            Reply { token: Some(token), ..Reply::done(next_steps(me, peer, span, all)) }
        }
        Ok(Err(why)) => {
            let text = format!("{peer} is struck off, but there is no token: {why}; say it again");
            Reply::new(Verdict::Failed, text)
        }
        Err(_) => Reply::new(Verdict::Failed, "making the token ended in a panic; see the journal"),
    }
}

fn next_steps(me: &str, peer: &str, span: Span, all: bool) -> String {
    let struck = match all {
        true => {
            "its copies are struck off: they are refused whenever they reappear; wipe that disk, or keep it away"
        }
        false => {
            "not every copy of it is known here, and what is not known is not struck off: wipe that disk"
        }
    };
    format!(
        "{peer}: {struck}\n\
         next, on the new machine with the address of {peer}: copy twinfs.toml and the key of {me} to where they are \
         here, \"twinfs join --token TOKEN\", \"twinfs up\"; the token admits one machine, within {}",
        age(span.as_millis())
    )
}

/// The peer's copy, by this node's notes; and whether it is struck off already.
fn known(volume: &Volume) -> (Option<u128>, bool) {
    let known = volume.node_file.peer();
    (known, known.is_some_and(|known| volume.mirror.image().state().retired.contains(&known)))
}

/// Whether the peer's copy of `volume` may be struck off: not while it is alive, and not before this one is enough.
fn may_strike_off(running: &Running, volume: &Volume, force: bool) -> Result<(), No> {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    let refuse = |verdict, text: String| Err((verdict, format!("{name}: nothing done: {text}")));
    let Some(view) = volume.view() else { return refuse(Verdict::Failed, "no state".to_string()) };
    if view.role == Role::Failed {
        return refuse(Verdict::NoRight, format!("this node's copy is not good: {}", view.reason.text));
    }
    let (known, already) = known(volume);
    let sole = view.record.is_some_and(|record| record.members == Members::only(running.me));
    let silent = clock::now().since(volume.heard().unwrap_or_default());
    let lives = volume.heard().is_some() && silent < running.config.timing.deadtime;
    if (view.connected || (lives && !already)) && !force {
        let seen = if view.connected { "connected".to_string() } else { format!("heard {silent} ago") };
        let or = if sole { ", or say --force" } else { "" };
        let text = format!("{peer} is alive ({seen}, {}): stop it first{or}", view.state);
        return refuse(Verdict::NoRight, text);
    }
    if view.state == StateWord::Diverged && !force {
        let text =
            format!("both nodes wrote on their own, and what only {peer} wrote would be given up: --force");
        return refuse(Verdict::NoRight, text);
    }
    if !sole {
        let helps = match view.connected {
            true => format!("\"twinfs down\" on {peer} first, and wait until this node goes on alone"),
            false => format!(
                "wait until it goes on alone or, where nobody decides that, say \"twinfs promote --peer-is-down \
                 {name}\""
            ),
        };
        let text = format!("this copy is not the only one that counts ({}): {helps}", view.reason.text);
        return refuse(Verdict::TryAgain, text);
    }
    if known.is_none() && !force {
        let text = format!(
            "this node never met {peer}'s copy, or its notes are lost, so that it could not be told from the new one: \
             make sure that its disk is wiped, then say --force"
        );
        return refuse(Verdict::NoRight, text);
    }
    Ok(())
}

async fn strike_off(running: &Running, volume: &Arc<Volume>, peer: &str) -> Result<(), No> {
    let (Some(incarnation), false) = known(volume) else { return Ok(()) };
    let stable = |volume: &Volume| volume.mirror.image().state().retired.contains(&incarnation);
    let until = clock::now() + Span::from_secs(STORE_LIMIT.as_secs());
    while !stable(volume) && clock::now() < until {
        volume.order(Operator::Retire { incarnation });
        wait_until(volume, ASK_EVERY, stable).await;
    }
    if !stable(volume) {
        let text = format!(
            "{}: {peer} is not struck off: {}; nothing else was done, say it again",
            volume.name,
            volume.view().map(|view| view.reason.text).unwrap_or_default()
        );
        return Err((Verdict::TryAgain, text));
    }
    let event = Told::PeerReplaced { peer: running.me.other(), incarnation: format!("{incarnation:032x}") };
    running.journal.tell(Some(&volume.name), event);
    Ok(())
}

/// By what a machine is known that uses a token: drawn before the first use, and the same over crashes.
#[derive(Serialize, Deserialize)]
struct Claim {
    claim: String,
}

fn claim(state_dir: &Path) -> Result<String, DaemonError> {
    let path = state_dir.join("claim.json");
    if let Some(kept) = read_json::<Claim>(&path).map_err(DaemonError::State)? {
        return Ok(kept.claim);
    }
    let claim = format!("{:032x}", random::id128());
    write_json(&path, &Claim { claim: claim.clone() }).map_err(DaemonError::State)?;
    Ok(claim)
}

/// Shows the token to the peer's daemon, from a process that is none, and notes what it says: afterwards images that
/// are made here take the place of those that were replaced.
pub fn show_token(config: &Config, me: NodeId, state_dir: &Path, token: &str) -> Result<(), DaemonError> {
    let token = token.trim();
    let peer = &config.node(me.other()).name;
    if !token.starts_with(TAG) {
        return Err(DaemonError::State(format!(
            "this is no token: it is what \"twinfs replace\" prints on {peer}"
        )));
    }
    let first = config.volumes.first().map_or("", |volume| volume.name.as_str());
    let (paths, opening) = to_peer(config, me, first)?;
    let answer =
        peer::ask(&paths, opening, Ask::Admission { token: token.to_string(), claim: claim(state_dir)? })
            .map_err(|why| DaemonError::Peer(format!("{peer} has to be up to let this machine in: {why}")))?;
    let Some(admitted) = answer.admitted else {
        let why = answer.failed.join("; ");
        let own = &config.node(me).name;
        return Err(DaemonError::State(format!(
            "{peer}: {why}; \"twinfs replace {own}\" there gives out a new one"
        )));
    };
    for volume in &config.volumes {
        let Some(place) = admitted.get(&volume.name) else { continue };
        let numbers = place.replaced.iter().filter_map(|text| u128::from_str_radix(text, 16).ok());
        let file = NodeFile::open(state_dir, &volume.name).map_err(DaemonError::State)?;
        file.note_place(&numbers.collect::<Vec<_>>(), place.boot_epoch).map_err(DaemonError::State)?;
    }
    Ok(())
}

/// Refuses a machine without a token while the peer waits for one with it. A peer that does not answer waits for none.
pub fn without_token(config: &Config, me: NodeId) -> Result<(), DaemonError> {
    let first = config.volumes.first().map_or("", |volume| volume.name.as_str());
    let (paths, opening) = to_peer(config, me, first)?;
    let wanted = peer::ask(&paths, opening, Ask::TokenWanted).is_ok_and(|answer| answer.token_wanted);
    if !wanted {
        return Ok(());
    }
    let (own, peer) = (&config.node(me).name, &config.node(me.other()).name);
    Err(DaemonError::State(format!(
        "{own} was replaced: the machine that takes its place joins with \"--token\", what \"twinfs replace {own}\" \
         printed on {peer}"
    )))
}
