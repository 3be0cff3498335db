//! `twinfs explain`: why a node is in its state, what it may not do now, and what would change that.
//!
//! Decides the layout, and says whether the recorded inputs lead this program to the recorded answers. Does not decide
//! anything that it explains. Exit codes: 0, 1 if the answers differ, 2 for a file that is none.
#![allow(clippy::disallowed_methods, reason = "a shell: files")]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::place::RunDir;
use super::status::labelled;
use super::{Exit, Failure, Output};
use crate::base::{Moment, NodeId};
use crate::cluster::Right;
use crate::daemon::protocol::{Request, Verdict};
use crate::daemon::situation::{self, FILE_BYTES_MAX, Recorded, RecordedVolume};
use crate::daemon::status::{age, utc};
use crate::node::{Answers, Bar, Facts, Obstacle, Relation, Situation, Taken, Talk};
use crate::wire::Hello;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this volume
    volume: Option<String>,
    /// Explain what was recorded in this file; no daemon is needed
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    from: Option<PathBuf>,
    /// Write the situation to this new file instead of showing it
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let mut recorded = match &args.from {
        Some(path) => read(path)?,
        None => {
            let reply = args.run.ask(&Request::Explain { volume: args.volume.clone() })?;
            if reply.verdict == Verdict::Usage {
                return Err(Failure::new(Exit::USAGE, reply.text).into());
            }
            *reply.situation.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?
        }
    };
    if let Some(name) = &args.volume {
        recorded.volumes.retain(|volume| volume.name == *name);
        if recorded.volumes.is_empty() {
            return Err(Failure::new(Exit::USAGE, format!("there is no volume {name}")).into());
        }
    }
    if let Some(path) = &args.record {
        write(path, &recorded)?;
        output.line(format_args!("{}: written; \"twinfs explain --from\" shows it anywhere", path.display()));
        output.object(json!({ "record": path, "volumes": recorded.volumes.len() }));
        return Ok(Exit::DONE);
    }
    let mut exit = Exit::DONE;
    for (n, volume) in recorded.volumes.iter().enumerate() {
        let situation = volume.situation().map_err(|why| Failure::new(Exit::FAILED, why))?;
        let answers = situation.answers();
        let differences = volume.differences(&answers);
        if !differences.is_empty() {
            exit = Exit::FAILED;
        }
        let page = Page { recorded: &recorded, volume, situation: &situation, answers: &answers };
        output.object(page.object(&differences));
        if n > 0 {
            output.line("");
        }
        page.lines(&differences, output).iter().for_each(|line| output.line(line));
    }
    Ok(exit)
}

fn read(path: &Path) -> anyhow::Result<Recorded> {
    let refuse = |why: String| Failure::new(Exit::USAGE, format!("{} {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    Ok(situation::read(&bytes).map_err(refuse)?)
}

/// Never over a file that is there.
fn write(path: &Path, recorded: &Recorded) -> anyhow::Result<()> {
    let refuse = |why: String| Failure::new(Exit::FAILED, format!("{}: not written: {why}", path.display()));
    let bytes = recorded.write().map_err(refuse)?;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| refuse(e.to_string()))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|e| refuse(e.to_string()))?;
    Ok(())
}

/// One volume with everything about it.
struct Page<'a> {
    recorded: &'a Recorded,
    volume: &'a RecordedVolume,
    situation: &'a Situation,
    answers: &'a Answers,
}

impl Page<'_> {
    fn name(&self, id: NodeId) -> &str {
        if id == self.situation.facts.me { &self.recorded.node } else { &self.recorded.peer }
    }

    /// "3 s ago", before `now`.
    fn ago(&self, at: Moment) -> String {
        format!("{} ago", age(self.situation.facts.now.since(at).as_millis()))
    }

    fn obstacle(&self, obstacle: Obstacle, facts: &Facts, right: Option<Right>) -> (String, String) {
        let (text, remedy) = obstacle.bar.texts();
        let gate = right.and_then(|right| crate::cluster::gate(facts.me, &facts.copy, right).err());
        let text = gate.filter(|_| obstacle.bar == Bar::Gate).unwrap_or(text);
        let left = obstacle.until.map_or(String::new(), |until| {
            format!(" (for {} more)", age(until.since(facts.now).as_millis()))
        });
        (format!("{}{left}", self.named(text)), self.named(remedy))
    }

    fn named(&self, text: &str) -> String {
        text.replace("the peer", &self.recorded.peer)
    }

    /// A right: how it would be had, or why not and what would change that.
    fn right(&self, lines: &mut Vec<String>, label: &str, answer: Result<Right, Obstacle>, facts: &Facts) {
        match answer {
            Ok(right) => labelled(lines, label, &format!("yes: by {}", self.named(right.text()))),
            Err(Obstacle { bar: Bar::Serves | Bar::AloneAlready, .. }) => labelled(lines, label, "it does"),
            Err(obstacle) => {
                let (why, remedy) = self.obstacle(obstacle, facts, facts.serve_name());
                labelled(lines, label, &format!("no: {why}"));
                labelled(lines, "", &format!("changes with: {remedy}"));
            }
        }
    }

    fn lines(&self, differences: &[String], output: &Output) -> Vec<String> {
        let (facts, recorded) = (&self.situation.facts, self.recorded);
        let role = role_word(self.answers);
        let mut lines = vec![format!(
            "{} on {}: {role}, {}  ({}, twinfs {})",
            output.bold(&self.volume.name),
            recorded.node,
            self.answers.state,
            utc(recorded.unix_ms),
            recorded.program
        )];
        labelled(&mut lines, "why", &self.volume.why);
        self.right(&mut lines, "serve", self.answers.serve, facts);
        self.right(&mut lines, "go alone", self.answers.alone, facts);
        if let Some(failback) = facts.failback {
            let stay = self.answers.failback.map_or("is asked for now", |stay| stay.text());
            labelled(&mut lines, "failback", &format!("to {}: {stay}", self.name(failback.to)));
        }
        self.inputs(&mut lines, facts);
        self.table(&mut lines);
        for (label, taken) in [("served", &self.situation.served), ("went alone", &self.situation.alone)] {
            if let Some(taken) = taken {
                labelled(&mut lines, label, &self.taken(taken));
            }
        }
        for event in &self.volume.events {
            labelled(&mut lines, "event", &format!("{} {}", utc(event.unix_ms), event.text));
        }
        match differences {
            [] => labelled(&mut lines, "checked", "these inputs lead this program to the same answers"),
            _ => {
                let head = format!(
                    "these inputs lead this program ({}) to OTHER answers",
                    env!("CARGO_PKG_VERSION")
                );
                labelled(&mut lines, "checked", &output.health(2, &head));
                differences.iter().for_each(|text| labelled(&mut lines, "", text));
            }
        }
        lines
    }

    /// What the decisions are made from.
    fn inputs(&self, lines: &mut Vec<String>, facts: &Facts) {
        let t = &facts.timing;
        let ms = |span: crate::base::Span| age(span.as_millis());
        let times = format!(
            "arbitration {}; deadtime {}, initdead {}, slow_peer {}; started {}",
            arbitration(facts),
            ms(t.deadtime),
            ms(t.initdead),
            ms(t.slow_peer),
            self.ago(facts.started)
        );
        labelled(lines, "inputs", &times);
        labelled(lines, &self.recorded.peer.clone(), &self.peer(facts));
        let record = facts.copy.record.map_or("none: never in sync".to_string(), |record| {
            let members: Vec<&str> = [NodeId::A, NodeId::B]
                .into_iter()
                .filter(|id| record.members.contains(*id))
                .map(|id| self.name(id))
                .collect();
            format!("{}: in sync {}; primary {}", record.v, members.join(", "), self.name(record.primary))
        });
        let agreed =
            if facts.confirmed { "; agreed on since the start" } else { "; not agreed on since the start" };
        labelled(lines, "record", &format!("{record}{agreed}"));
        let left = |until: Moment| age(until.since(facts.now).as_millis());
        if facts.promise_until > facts.now {
            let text =
                format!("{} may hold a lease for {} more", self.recorded.peer, left(facts.promise_until));
            labelled(lines, "promise", &text);
        }
        if facts.needs_lease && facts.copy.record.is_some_and(|record| record.primary == facts.me) {
            let lease = facts.lease_until.filter(|until| *until > facts.now);
            labelled(
                lines,
                "lease",
                &lease.map_or("none is valid".into(), |until| format!("{} left", left(until))),
            );
        }
        if let Some(at) = facts.witness_seen {
            let agrees = if facts.witness_agrees { "agreed" } else { "did not agree" };
            labelled(lines, "witness", &format!("answered {} and {agrees} with the record", self.ago(at)));
        }
        let words = [
            (facts.held, "held"),
            (facts.stopped, "stopped"),
            (facts.disconnected, "disconnected"),
            (facts.forced, "told that the peer is down"),
            (facts.failed, "the image failed"),
            (facts.copy.half_overwritten, "the copy is half overwritten"),
            (facts.copy.out_of_use, "the copy was replaced"),
            (facts.split || facts.diverged, "split brain"),
            (!facts.file_agrees, "the node state file does not agree"),
            (facts.reaches_nobody, "no ping target answers"),
            (facts.frozen, "frozen"),
            (facts.storing || facts.marking, "storing"),
            (facts.taking, "asking for the right to go on alone"),
            (facts.gave_up, "the peer gave up its rights"),
        ];
        let held: Vec<&str> = words.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
        if !held.is_empty() {
            labelled(lines, "node", &self.named(&held.join("; ")));
        }
    }

    fn peer(&self, facts: &Facts) -> String {
        let heard = facts.heard_at.map_or("never heard".to_string(), |at| format!("heard {}", self.ago(at)));
        let talk = match facts.talk {
            Talk::None if facts.linked => "connected, nothing said",
            Talk::None => "not connected",
            Talk::Greeting => "connected, greeting",
            Talk::Comparing => "connected, comparing both copies",
            Talk::Resting => "connected, nothing can be done together",
            Talk::Equalising => "connected, both copies are made equal from here",
            Talk::Source => "connected, brought up to date from here",
            Talk::Joining => "connected, joins",
            Talk::Fronted => "connected, its disk failed: it works on this copy",
            Talk::Target => "connected, this copy is brought up to date from there",
            Talk::Member => "connected, in sync",
        };
        let lost = facts.lost_at.map_or(String::new(), |at| format!("; session lost {}", self.ago(at)));
        let serving = if facts.peer_serving { "; primary" } else { "" };
        let record = facts.peer_record.map_or(String::new(), |record| format!("; its record {}", record.v));
        format!("{talk}, {heard}{lost}{serving}{record}")
    }

    /// The row of the table with both copies as they were compared.
    fn table(&self, lines: &mut Vec<String>) {
        let Some(compared) = &self.situation.compared else {
            labelled(lines, "table", "both copies were not compared since this node started");
            return;
        };
        let decision = compared.decision();
        let text =
            format!("row {}: {} (compared {})", decision.row.0, decision.reason, self.ago(compared.at));
        labelled(lines, "table", &text);
        for hello in [&compared.mine, &compared.theirs] {
            labelled(lines, "", &format!("{}: {}", self.name(hello.node), hello_text(hello)));
        }
        let relation = match compared.relation() {
            Relation::Same => "both have the same newest generation".to_string(),
            Relation::Blank => "one of the copies is blank".to_string(),
            Relation::Ahead => format!("{} continues {}", self.recorded.node, self.recorded.peer),
            Relation::Behind => format!("{} continues {}", self.recorded.peer, self.recorded.node),
            Relation::Parted(fork) => format!("both went on from generation {fork}"),
            Relation::Unrelated => "they have no generation in common".to_string(),
        };
        labelled(lines, "", &relation);
    }

    fn taken(&self, taken: &Taken) -> String {
        let then = &taken.facts;
        let heard = then.heard_at.map_or("never heard".to_string(), |at| {
            format!("not heard for {}", age(then.now.since(at).as_millis()))
        });
        let v = then.copy.record.map_or(0, |record| record.v);
        let right = self.named(taken.right.text());
        format!("{}, by {right} (record {v}; {} {heard})", self.ago(then.now), self.recorded.peer)
    }

    fn object(&self, differences: &[String]) -> serde_json::Value {
        let facts = &self.situation.facts;
        let answer = |answer: Result<Right, Obstacle>| match answer {
            Ok(right) => json!({ "may": true, "by": right }),
            Err(obstacle) => {
                let (why, remedy) = self.obstacle(obstacle, facts, facts.serve_name());
                let until = obstacle.until.map(|until| until.since(facts.now).as_millis());
                json!({ "may": false, "bar": obstacle.bar, "why": why, "left_ms": until, "changes_with": remedy })
            }
        };
        let table = self.situation.compared.as_ref().map(|compared| {
            let decision = compared.decision();
            json!({ "row": decision.row.0, "reason": decision.reason,
                    "compared_ms": facts.now.since(compared.at).as_millis() })
        });
        json!({
            "node": self.recorded.node, "peer": self.recorded.peer, "volume": self.volume.name,
            "unix_ms": self.recorded.unix_ms, "program": self.recorded.program,
            "role": self.answers.role, "state": self.answers.state, "why": self.volume.why,
            "serve": answer(self.answers.serve), "alone": answer(self.answers.alone),
            "failback": facts.failback.map(|_| self.answers.failback),
            "facts": facts, "served": self.situation.served, "went_alone": self.situation.alone, "table": table,
            "events": self.volume.events, "agrees": differences.is_empty(), "differences": differences,
        })
    }
}

fn role_word(answers: &Answers) -> String {
    serde_json::to_value(answers.role).ok().and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
}

fn arbitration(facts: &Facts) -> String {
    serde_json::to_value(facts.arbitration)
        .ok()
        .and_then(|v| v.as_str().map(str::to_string))
        .unwrap_or_default()
}

/// One copy as it said hello.
fn hello_text(hello: &Hello) -> String {
    let record = hello.record.map_or("no record".to_string(), |record| format!("record {}", record.v));
    let flags = [
        (hello.serving, "serving"),
        (hello.marks, "blocks marked"),
        (hello.hot, "blocks in flight at its last end"),
        (hello.full, "to be copied whole"),
        (hello.resync != crate::format::ResyncMark::None, "half overwritten"),
        (hello.pending, "a decision unanswered"),
    ];
    let flags: Vec<&str> = flags.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    let flags = if flags.is_empty() { String::new() } else { format!("; {}", flags.join(", ")) };
    let head = match hello.gens.len() {
        0 => "blank".to_string(),
        count => format!("generation {}, the newest of {count}", hello.head()),
    };
    format!("{record}; {head}{flags}")
}
