//! The end of a split brain, as a person asks for it: what each side has, and which one is kept.
//!
//! Decides when the order counts as carried out, and what of two sides' changes is the same. Does not decide whether it
//! is right: the machines of both nodes do. Invariant: it waits for the peer at most as long as a talk takes.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::NodeId;
use crate::events;
use crate::node::{Operator, StateWord};

use super::peer;
use super::protocol::{Reply, Verdict};
use super::roles::reason;
use super::runtime::{Running, wait_until};
use super::sides::{self, About, Side, SideFile, Told};
use super::volume::Volume;

/// For the stopping of the losing side and the copy of a small one.
const LIMIT: Duration = Duration::from_secs(40);
/// Until this node takes the order.
const TRIES: usize = 5;
const TRY_EVERY: Duration = Duration::from_secs(2);

/// Deleted things that are told of one side: with the others they fit an answer.
const DELETED_MAX: usize = 300;

/// Both sides of a split, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitReport {
    pub volume: String,
    /// The copies grew apart.
    pub split: bool,
    /// Of whom the copy is kept, if that is decided.
    pub keep: Option<String>,
    /// This node's first.
    pub sides: Vec<Side>,
    /// What each of `sides` has no more, and the other one has as it was.
    pub deleted: Vec<Vec<SideFile>>,
    /// Why the other side is not told.
    pub peer_problem: Option<String>,
}

/// Shows both sides.
pub async fn show(running: &Running, volume: Arc<Volume>) -> Reply {
    let (paths, journal) = (Arc::clone(&running.paths), Arc::clone(&running.journal));
    let opening = running.opening(&volume.name, peer::CHANNEL_TALK);
    let names: [String; 2] = [NodeId::A, NodeId::B].map(|node| running.name(node).to_string());
    let gathered = tokio::task::spawn_blocking(move || {
        let ask = |about: About| peer::ask_side(&paths, opening.clone(), about);
        let here = |about: About| sides::tell(&volume, &journal, &about);
        let mut report = gather(&here, &ask);
        let view = volume.view();
        report.volume.clone_from(&volume.name);
        report.split = view.as_ref().is_some_and(|view| view.state == StateWord::Diverged);
        let winner = view.and_then(|view| view.verdict).map(|verdict| verdict.winner);
        report.keep = winner.map(|node| names[usize::from(node.index())].clone());
        report
    });
    match gathered.await {
        Ok(report) => Reply { split: Some(Box::new(report)), ..Reply::done("") },
        Err(_) => Reply::new(Verdict::Failed, "reading the copies ended in a panic; see the journal"),
    }
}

/// Asks both sides, and each about what the other one has no more.
fn gather(
    here: &dyn Fn(About) -> Result<Told, String>,
    peer: &dyn Fn(About) -> Result<Told, String>,
) -> SplitReport {
    let mut report = SplitReport::default();
    let changes = |told: Result<Told, String>| match told {
        Ok(Told::Changes { side }) => Ok(*side),
        Ok(_) => Err("the answer is about something else".to_string()),
        Err(why) => Err(why),
    };
    match changes(here(About::Changes)) {
        Ok(side) => report.sides.push(side),
        Err(why) => report.sides.push(Side { problem: Some(why), ..Side::default() }),
    }
    match changes(peer(About::Changes)) {
        Ok(side) => report.sides.push(side),
        Err(why) => {
            report.peer_problem = Some(why);
            report.sides.iter_mut().for_each(fold);
            return report;
        }
    }
    let (mine, theirs) = (&report.sides[0], &report.sides[1]);
    let lost = [gone(mine, here, peer), gone(theirs, peer, here)];
    report.deleted = lost.map(|found| found.unwrap_or_default()).to_vec();
    let alike = [alike(mine, peer), alike(theirs, here)];
    for (side, alike) in report.sides.iter_mut().zip(alike) {
        side.files.retain(|file| !alike.contains(&file.ino));
        fold(side);
    }
    report
}

/// What `side` changed and the other one, asked by `other`, has just so: it was only read, or the record of its change
/// was in flight when the copies parted.
fn alike(side: &Side, other: &dyn Fn(About) -> Result<Told, String>) -> Vec<u64> {
    let things = side.files.iter().map(|file| (file.ino, file.generation, file.changed_unix_us, file.bytes));
    match other(About::Alike { things: things.collect() }) {
        Ok(Told::Alike { inodes }) => inodes,
        _ => Vec::new(),
    }
}

/// A folder is told only where it is new: what came or went in it is told by itself.
fn fold(side: &mut Side) {
    side.files.retain(|file| file.kind != "folder" || file.made);
}

/// What `side`, asked by `own`, has no more, while the other one still has it.
fn gone(
    side: &Side,
    own: &dyn Fn(About) -> Result<Told, String>,
    other: &dyn Fn(About) -> Result<Told, String>,
) -> Result<Vec<SideFile>, String> {
    let dirs: Vec<u64> =
        side.files.iter().filter(|file| file.kind == "folder").map(|file| file.ino).collect();
    if dirs.is_empty() {
        return Ok(Vec::new());
    }
    let Told::Children { files, .. } = other(About::Children { dirs })? else { return Ok(Vec::new()) };
    let things = files.iter().map(|file| (file.ino, file.generation)).collect();
    let Told::Missing { things } = own(About::Missing { things })? else { return Ok(Vec::new()) };
    let gone = files.into_iter().filter(|file| things.contains(&(file.ino, file.generation)));
    Ok(gone.take(DELETED_MAX).collect())
}

/// Has the copy of `keep` kept on both nodes.
pub async fn keep(running: &Running, volume: Arc<Volume>, keep: &str) -> Reply {
    let name = &volume.name;
    let peer = running.name(running.me.other());
    let Some(winner) = running.config.node_id(keep) else {
        let (a, b) = (running.name(NodeId::A), running.name(NodeId::B));
        return Reply::new(Verdict::Usage, format!("{name}: no node {keep}: keep the copy of {a} or of {b}"));
    };
    let loser = running.name(winner.other());
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    if view.state != StateWord::Diverged && view.verdict.is_none() {
        let text =
            format!("{name}: there is nothing to resolve: the copies did not grow apart ({})", view.state);
        return Reply::new(Verdict::Failed, text);
    }
    if !volume.links.is_up() {
        let text =
            format!("{name}: {peer} is not reached, and both nodes together end a split: nothing is changed");
        return Reply::new(Verdict::PeerUnreachable, text);
    }
    let command = format!("resolve {name} --keep {keep}");
    running.journal.tell(Some(name), events::Event::Forced { command, who: "an administrator".to_string() });
    // Nodes that met just now compare their copies first, and take no order before.
    let taken = |volume: &Volume| {
        volume.view().is_none_or(|view| {
            view.verdict.is_some_and(|verdict| verdict.winner == winner) || view.state != StateWord::Diverged
        })
    };
    for _ in 0..TRIES {
        volume.order(Operator::Keep(winner));
        if wait_until(&volume, TRY_EVERY, taken).await {
            break;
        }
    }
    let ended = |volume: &Volume| {
        volume.view().is_none_or(|view| {
            matches!(view.state, StateWord::CatchingUp | StateWord::InSync) || view.not_kept.is_some()
        })
    };
    wait_until(&volume, LIMIT, ended).await;
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    if let Some(why) = view.not_kept {
        let text =
            format!("{name}: still split, nothing is overwritten: this copy could not be put aside: {why}");
        return Reply::new(Verdict::Failed, text);
    }
    if matches!(view.state, StateWord::CatchingUp | StateWord::InSync) {
        return Reply::done(format!(
            "{name}: {keep}'s copy is kept; {loser}'s is put aside there (\"twinfs salvage list\") and follows it"
        ));
    }
    let there = peer_reason(running, &volume).await.map(|why| format!("; {peer}: {why}")).unwrap_or_default();
    let text = format!("{name}: not over yet: {}{there}; it goes on by itself", reason(&volume));
    Reply::new(Verdict::TryAgain, text)
}

/// What the peer says of its side.
async fn peer_reason(running: &Running, volume: &Volume) -> Option<String> {
    let paths = Arc::clone(&running.paths);
    let opening = running.opening(&volume.name, peer::CHANNEL_TALK);
    let told = tokio::task::spawn_blocking(move || peer::ask_side(&paths, opening, About::Changes)).await;
    match told {
        Ok(Ok(Told::Changes { side })) => Some(side.reason),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(ino: u64, path: &str, kind: &str, made: bool) -> SideFile {
        SideFile { ino, path: path.into(), kind: kind.into(), made, ..SideFile::default() }
    }

    /// A copy: what it changed, and what its only folder holds since before.
    struct Copy {
        changed: Vec<SideFile>,
        holds: Vec<SideFile>,
    }

    impl Copy {
        fn tell(&self, about: About) -> Result<Told, String> {
            Ok(match about {
                About::Changes => {
                    Told::Changes { side: Box::new(Side { files: self.changed.clone(), ..Side::default() }) }
                }
                About::Children { dirs } => {
                    let files = if dirs == [1] { self.holds.clone() } else { Vec::new() };
                    Told::Children { files, all: true }
                }
                About::Alike { things } => {
                    let is = |thing: &(u64, u32, i64, u64)| {
                        let mut all = self.changed.iter().chain(&self.holds);
                        all.any(|file| (file.ino, file.bytes) == (thing.0, thing.3))
                    };
                    Told::Alike { inodes: things.into_iter().filter(is).map(|thing| thing.0).collect() }
                }
                About::Missing { things } => {
                    let here = |ino: u64| self.holds.iter().chain(&self.changed).any(|file| file.ino == ino);
                    Told::Missing { things: things.into_iter().filter(|(ino, _)| !here(*ino)).collect() }
                }
            })
        }
    }

    #[test]
    fn each_side_tells_what_it_has_more_and_the_other_one_what_it_lacks() {
        let root = || thing(1, "/", "folder", false);
        let flown = thing(5, "/in-flight", "file", false);
        let old = |ino, path| thing(ino, path, "file", false);
        let one = Copy {
            changed: vec![root(), flown.clone(), old(8, "/only-read"), thing(20, "/new", "file", true)],
            holds: vec![flown.clone(), old(6, "/both")],
        };
        let changed = SideFile { bytes: 9, ..old(6, "/both") };
        let two = Copy {
            changed: vec![flown.clone(), changed.clone()],
            holds: vec![flown, changed.clone(), old(8, "/only-read"), old(7, "/deleted-on-one")],
        };
        let report = gather(&|about| one.tell(about), &|about| two.tell(about));
        let paths = |files: &[SideFile]| files.iter().map(|file| file.path.clone()).collect::<Vec<_>>();
        assert_eq!(paths(&report.sides[0].files), ["/new"]);
        assert_eq!(paths(&report.sides[1].files), ["/both"]);
        assert_eq!(paths(&report.deleted[0]), ["/deleted-on-one"]);
        assert!(report.deleted[1].is_empty(), "a folder that did not change has lost nothing");
        let alone = gather(&|about| one.tell(about), &|_| Err("not there".to_string()));
        assert_eq!((alone.sides.len(), alone.peer_problem.as_deref()), (1, Some("not there")));
    }
}
