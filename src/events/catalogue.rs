//! The events: one row each with its fields, its severity, whether it is a decision, and its line.
//!
//! Decides nothing else. A row's name (in kebab case) is its stable name in `--json`, hooks and the journal: rows may
//! be added, never renamed.

use serde::{Deserialize, Serialize};

use super::Names;
use super::Severity::{self, Critical, Info, Notice, Warning};
use crate::base::{NodeId, Span};

macro_rules! events {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($field:ident: $kind:ty),* } $severity:ident $class:ident |$names:ident| $text:expr;
    )*) => {
        /// Everything worth telling.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "event", rename_all = "kebab-case")]
        pub enum Event {
            $($(#[$doc])* $name { $($field: $kind),* },)*
        }

        impl Event {
            /// Every stable name, in the order of the catalogue.
            pub const NAMES: &[&str] = &[$(stringify!($name)),*];

            pub fn severity(&self) -> Severity {
                match self {
                    $(Event::$name { .. } => $severity,)*
                }
            }

            /// Whether it records an ownership decision: such an event is never dropped, however full a queue is.
            pub fn is_decision(&self) -> bool {
                match self {
                    $(Event::$name { .. } => events!(@class $class),)*
                }
            }

            /// The stable name, as in `--json`.
            pub fn name(&self) -> String {
                kebab(match self {
                    $(Event::$name { .. } => stringify!($name),)*
                })
            }

            /// One line for a person.
            pub fn line(&self, names: &Names) -> String {
                match self {
                    $(Event::$name { $($field),* } => {
                        let $names = names;
                        let _ = $names;
                        $text
                    })*
                }
            }
        }
    };
    (@class decision) => { true };
    (@class plain) => { false };
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

fn ms(ms: u64) -> Span {
    Span::from_millis(ms)
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            format!("{}.{} {unit}", bytes >> shift, ((bytes % (1 << shift)) * 10) >> shift)
        }
        None => format!("{bytes} bytes"),
    }
}

/// Whose a block is, if that is known.
fn of(file: &Option<String>) -> String {
    file.as_ref().map_or_else(String::new, |file| format!(" of {file}"))
}

/// What to look at where nothing comes from `remote`.
fn what_fails(remote: &str) -> &'static str {
    if remote.starts_with('/') {
        "its cable and the devices at both ends"
    } else {
        "its cable, switch and firewall"
    }
}

events! {
    // The daemon.
    DaemonStarted { version: String } Info plain |_n| format!("daemon {version} started");
    DaemonStopping { reason: String } Info plain |_n| format!("daemon stops: {reason}");
    /// Another program goes on with a mount; how long requests waited.
    Upgraded { version: String, pause_ms: u64 } Notice plain |_n|
        format!("twinfs {version} goes on with the mount; requests waited for {}", ms(*pause_ms));
    /// A mount that was kept for this program is not served by it.
    MountGivenUp { at: String } Critical plain |_n| format!(
        "the mount at {at} could not be gone on with: programs that use it get errors");
    /// A predecessor of this process left something behind.
    LeftoverRemoved { what: String } Notice plain |_n|
        format!("removed what an earlier daemon left behind: {what}");
    ConfigReloaded { changed: String } Info plain |_n| format!("configuration read again; changed: {changed}");
    ConfigDiffers { peer: NodeId } Critical plain |n| format!(
        "{} has another twinfs.toml: nothing is replicated until the files are equal; copy the right one and restart",
        n.of(*peer));
    ClockJumped { slept_ms: u64 } Warning plain |_n|
        format!("this machine slept for {}: the lease counts as lapsed", ms(*slept_ms));
    HistoryDamaged { moved_to: String } Warning plain |_n|
        format!("the event history could not be opened; it was moved to {moved_to} and starts empty");

    // Links.
    PathUp { path: u32, remote: String } Info plain |_n| format!("path {} to {remote} works", path + 1);
    PathDown { path: u32, remote: String, silent_ms: u64 } Warning plain |_n|
        format!("path {} to {remote} is silent for {}: check {}", path + 1, ms(*silent_ms), what_fails(remote));
    /// A heartbeat came after a silence longer than `warntime`; told once, until the path is on time for a minute.
    HeartbeatsLate { path: u32, remote: String, gap_ms: u64, why: String } Warning plain |_n|
        format!("path {} to {remote}: a heartbeat came after {} of silence: {why}", path + 1, ms(*gap_ms));
    HeartbeatsWereLate { path: u32, remote: String, times: u64, worst_ms: u64 } Warning plain |_n| format!(
        "path {} to {remote}: heartbeats were late {times} times, by {} at most; now they are on time again",
        path + 1, ms(*worst_ms));
    PathLeft { path: u32, remote: String } Warning plain |_n|
        format!("path {} to {remote} swallows the stream: another path is used", path + 1);
    PeerQuiet { peer: NodeId, silent_ms: u64 } Warning plain |n|
        format!("{} is silent for {} on every path (warntime)", n.of(*peer), ms(*silent_ms));
    PeerConnected { peer: NodeId, remote: String } Notice plain |n|
        format!("connected to {} at {remote}", n.of(*peer));
    PeerDisconnected { peer: NodeId, reason: String } Warning plain |n|
        format!("the stream to {} ended: {reason}", n.of(*peer));
    PeerRefused { peer: NodeId, reason: String } Critical plain |n|
        format!("{} and this node do not replicate: {reason}", n.of(*peer));
    /// Counted, told at most once a minute.
    StrangersRefused { count: u64, why: String } Warning plain |_n|
        format!("{count} packets or connections that are not the peer's were refused: {why}");
    VersionsDiffer { peer: NodeId, ours: u32, theirs: u32 } Critical plain |n| format!(
        "{} speaks protocol {theirs}, this node {ours}: upgrade the older one", n.of(*peer));

    // The copies.
    /// Both nodes looked at both copies and agreed on what to do.
    Compared { text: String } Info plain |_n| format!("the copies were compared: {text}");
    InSync { peer: NodeId } Notice plain |n| format!("in sync with {}: every write is on both nodes", n.of(*peer));
    SlowPeer { peer: NodeId, waited_ms: u64 } Warning plain |n|
        format!("{} acknowledged nothing for {} (slow_peer)", n.of(*peer), ms(*waited_ms));
    WentAlone { peer: NodeId, v: u64, reason: String } Critical decision |n| format!(
        "continues alone without {} (record {v}): {reason}; changes are marked, and copied when it returns",
        n.of(*peer));
    PeerLeft { peer: NodeId, v: u64 } Warning decision |n| format!(
        "{} said goodbye (record {v}): this node goes on alone, and what changes is marked for it", n.of(*peer));
    ResyncStarted { source: NodeId, target: NodeId, bytes: u64, how: String } Notice plain |n| format!(
        "copying {} from {} to {} ({how})", size(*bytes), n.of(*source), n.of(*target));
    ResyncFinished { bytes: u64, took_ms: u64 } Notice plain |_n|
        format!("{} copied in {}", size(*bytes), ms(*took_ms));
    ResyncInterrupted { left_bytes: u64, reason: String } Warning plain |_n|
        format!("copying stopped with {} left: {reason}; it resumes where it was", size(*left_bytes));
    ResyncPaused { peer: NodeId, for_ms: u64 } Warning plain |n| format!(
        "nothing is copied to {} for {}, as asked for: until then a failure here loses what it lacks",
        n.of(*peer), ms(*for_ms));
    ResyncResumed { peer: NodeId, by_itself: bool } Notice plain |n| format!(
        "copying to {} goes on{}", n.of(*peer), if *by_itself { ": the pause is over" } else { ", as asked for" });
    Grown { bytes: u64 } Notice plain |_n| format!("this node's image has room for {} of data now", size(*bytes));
    GrowFailed { reason: String } Warning plain |_n|
        format!("the image did not grow: {reason}; everything is as it was");
    /// What the resync overwrites does not fit.
    UndoGivenUp {} Warning plain |_n| "there is no room for what the copying overwrites: should its source die before \
        it is over, this copy cannot go back to what it was".to_string();
    /// A target whose source is gone.
    WentBack {} Critical decision |_n|
        "this copy went back to its last consistent state; what the peer wrote since is not in it".to_string();
    PeerJoined { peer: NodeId, v: u64 } Notice decision |n|
        format!("{} is a full member again (record {v})", n.of(*peer));
    Diverged { peer: NodeId } Critical decision |n| format!(
        "this node and {} both changed the data while apart: nothing is replicated; see \"twinfs status\"",
        n.of(*peer));
    DivergenceResolved { kept: NodeId } Notice decision |n|
        format!("the divergence was decided for the copy of {}; the other one's blocks were saved", n.of(*kept));
    /// By an administrator: whatever that copy holds does not count any more.
    PeerReplaced { peer: NodeId, incarnation: String } Critical decision |n| format!(
        "{}'s copy {incarnation} was replaced by an administrator: it is refused whenever it reappears", n.of(*peer));
    /// A machine showed the token that "twinfs replace" gave out.
    ReplacementAdmitted { peer: NodeId } Notice decision |n| format!(
        "a new machine joins as {}, with the token of \"twinfs replace\"", n.of(*peer));
    ReplacementRefused { peer: NodeId, reason: String } Warning plain |n| format!(
        "a machine that wants to join as {} was refused: {reason}", n.of(*peer));
    /// Told on the machine that was replaced.
    CopyReplaced { peer: NodeId } Critical decision |n| format!(
        "{} says that this copy was replaced by another one: it is not used any more; take the disk out, or wipe it \
         with \"twinfs mkfs --force\"", n.of(*peer));
    /// By a person or by the policy; stable on this node from now on.
    SplitDecided { keep: NodeId } Critical decision |n| format!(
        "of the two copies that grew apart that of {} is kept; the other one is put aside and follows", n.of(*keep));
    /// Its name ends in this number.
    CopyKept { at: u64 } Notice decision |_n| format!(
        "this node's copy is put aside as it was (\"...-{at}\" in \"twinfs salvage list\"); it follows the peer's now");
    CopyNotKept { reason: String } Critical plain |_n| format!(
        "this node's copy was to be put aside and could not be: {reason}; it stays as it is, nothing is overwritten");
    CopyUnusable { reason: String } Critical plain |_n|
        format!("this copy cannot be used: {reason}; \"twinfs join --replace\" makes a new one");

    // Who is primary.
    TakeoverStarted { peer: NodeId, silent_ms: u64 } Warning decision |n|
        format!("takes over: {} has been silent for {} on every path", n.of(*peer), ms(*silent_ms));
    TakeoverRefused { reason: String } Critical decision |_n| format!("cannot take over: {reason}");
    BecamePrimary { v: u64, reason: String } Notice decision |_n| format!("is primary (record {v}): {reason}");
    StoppedPrimary { reason: String } Notice decision |_n| format!("is no longer primary: {reason}");
    SwitchoverStarted { to: NodeId, reason: String } Notice decision |n|
        format!("hands over to {}: {reason}", n.of(*to));
    SwitchoverFinished { to: NodeId, took_ms: u64 } Notice decision |n|
        format!("handed over to {} in {}", n.of(*to), ms(*took_ms));
    SwitchoverFailed { to: NodeId, reason: String } Warning decision |n|
        format!("did not hand over to {}: {reason}; everything stays where it was", n.of(*to));
    /// Told by the node that the volume belongs to.
    FailbackAsked { peer: NodeId } Notice decision |n|
        format!("failback: {} is asked to hand over, because the volume belongs here", n.of(*peer));
    LeaseLapsed { peer: NodeId } Critical decision |n| format!(
        "the lease lapsed: no heartbeat of {} came back in time, so it may have taken over; requests wait",
        n.of(*peer));
    Frozen { reason: String } Critical decision |_n| format!("writes wait: {reason}");
    Thawed { frozen_ms: u64 } Notice decision |_n| format!("writes go on after {}", ms(*frozen_ms));
    Held { on: bool } Warning decision |_n| if *on {
        "is held by an administrator: takes no step without its peer until \"twinfs hold --off\"".to_string()
    } else {
        "is not held any more".to_string()
    };
    Forced { command: String, who: String } Critical decision |_n|
        format!("{who} forced it: {command}");
    Waiting { reason: String, until_ms: u64 } Info plain |_n|
        format!("waits: {reason} (at most {})", ms(*until_ms));

    // Fencing.
    FenceAsked { peer: NodeId, level: u32 } Critical decision |n| format!(
        "{} is silent: its fence agents of level {level} are asked to stop it", n.of(*peer));
    FenceDone { peer: NodeId, word: bool } Critical decision |n| format!(
        "{} has stopped, {}", n.of(*peer),
        if *word { "by the word of an administrator" } else { "says the fence agent" });
    FenceFailed { peer: NodeId, level: u32, why: String, more: bool } Critical decision |n| format!(
        "the fence agents of level {level} could not stop {} ({why}); {}", n.of(*peer),
        if *more { "the next level is tried" } else { "nobody serves until one helps; see \"twinfs status\"" });
    /// An earlier daemon asked and noted no answer.
    FenceLeftover { peer: NodeId } Warning decision |n| format!(
        "an earlier daemon asked a fence agent to stop {} and noted no answer: that is settled first", n.of(*peer));
    FenceAgent { agent: String, reason: String } Warning plain |_n| format!(
        "the fence agent {agent} does not work: {reason}; a takeover would wait for it");
    FenceAgentBack { agent: String } Notice plain |_n| format!("the fence agent {agent} works again");
    NotifyFailed { about: String, reason: String } Warning plain |_n| format!(
        "the program of [notify] could not be told of a {about}: {reason}; told once until it works again");
    ReachesLess { to: NodeId } Warning decision |n| format!(
        "no ping target answers this node and one answers {}: the volume is moved there", n.of(*to));
    ReachesNobody { peer: NodeId } Critical decision |n| format!(
        "reaches no ping target, nor {}: stops serving, for it may be primary", n.of(*peer));

    // The witness.
    WitnessSilent { address: String } Warning plain |_n| format!(
        "the witness at {address} does not answer: all goes on, but a failure now would stop the service; start it");
    WitnessBack { address: String } Notice plain |_n| format!("the witness at {address} answers again");
    WitnessForgot { address: String } Critical plain |_n| format!(
        "the witness at {address} knows no record of this volume: it lost its directory, or is another one; both nodes \
         together enrol it again");
    WitnessOlder { theirs: u64, ours: u64 } Critical plain |_n| format!(
        "the witness shows record {theirs}, older than ours, {ours}: its directory was rolled back; it is not obeyed");
    WitnessGranted { v: u64 } Notice decision |_n| format!("the witness granted record {v}");
    WitnessDenied { v: u64, primary: NodeId } Warning decision |n|
        format!("the witness holds record {v} with {} as primary: this node obeys it", n.of(*primary));

    // Mount, address, services.
    Mounted { at: String, took_ms: u64 } Notice plain |_n| format!("mounted at {at} in {}", ms(*took_ms));
    Unmounted { at: String } Notice plain |_n| format!("unmounted from {at}");
    MountFailed { at: String, reason: String } Critical plain |_n| format!("could not mount at {at}: {reason}");
    AddressRaised { address: String, device: String } Notice plain |_n| format!("address {address} is up on {device}");
    AddressRemoved { address: String } Notice plain |_n| format!("address {address} removed");
    AddressFailed { address: String, reason: String } Critical plain |_n|
        format!("address {address} could not be changed: {reason}");
    ServiceStarted { service: String, took_ms: u64 } Info plain |_n|
        format!("{service} started in {}", ms(*took_ms));
    ServiceStopped { service: String } Info plain |_n| format!("{service} stopped");
    ServiceDied { service: String } Warning plain |_n| format!("{service} died and is started once more");
    ServiceFailed { service: String, reason: String, then: String } Critical plain |_n|
        format!("{service} failed: {reason}; {then}");

    // Disks.
    DiskFailed { image: String, reason: String } Critical plain |_n| format!(
        "the disk under {image} failed: {reason}; this copy is not used any more; \"twinfs join --replace\" makes \
         a new one");
    WorksOnPeer { peer: NodeId } Critical plain |n| format!(
        "programs go on with the copy of {} over the link while their services are stopped", n.of(*peer));
    PeerDiskFailed { peer: NodeId } Critical plain |n| format!(
        "the disk of {} failed: this copy is the only good one; replace that disk", n.of(*peer));
    /// Something went wrong that has no row of its own.
    Fault { text: String } Critical plain |_n| text.clone();
    DiskFull { image: String } Critical plain |_n| format!(
        "the disk under {image} is full: programs get \"no space left\"; free some space there");
    BlockRepaired { block: u64, from: NodeId, file: Option<String> } Warning plain |n| format!(
        "block {block}{} was rotten and was repaired from {}: look at the disk's health", of(file), n.of(*from));
    /// Found by a verify that was not asked to repair.
    BlockRotten { block: u64, on: NodeId, file: Option<String> } Warning plain |n| format!(
        "block {block}{} is rotten on {}: \"twinfs verify --repair\" repairs it", of(file), n.of(*on));
    BlockUnreadable { block: u64, file: Option<String> } Critical plain |_n| format!(
        "block {block}{} is rotten on every copy at hand: reading it is answered with an error; restore it", of(file));
    /// Both copies match their digests: no disk did this.
    BlockDiffers { block: u64, repaired: bool, file: Option<String> } Critical plain |_n| format!(
        "block {block}{} differs between the copies although both match their digests: {}; please report this",
        of(file), if *repaired { "the primary's was copied" } else { "the primary's counts" });
    VerifyFinished { blocks: u64, wrong: u64, repaired: Option<u64> } Notice plain |_n| match repaired {
        Some(repaired) if *wrong > 0 => format!("verify: {blocks} blocks read, {wrong} wrong, {repaired} repaired"),
        _ => format!("verify: {blocks} blocks read, {wrong} wrong"),
    };
    VerifyStopped { reason: String } Notice plain |_n| format!("verify ended early: {reason}");
}
