//! `twinfs status`: how this node and its volumes are, in words.
//!
//! Decides the layout and the exit code (0 healthy, 3 not running, 4 degraded, 5 broken). Does not know how a state
//! came about.
#![allow(clippy::disallowed_methods, reason = "a shell: waits between two looks")]

use std::time::Duration;

use super::place::RunDir;
use super::{Exit, Failure, Output, links};
use crate::daemon::protocol::Request;
use crate::daemon::status::{Health, NodeStatus, VolumeStatus, age, bytes};

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only this volume
    volume: Option<String>,
    /// Look again every second until interrupted
    #[arg(long)]
    watch: bool,
    /// What is known of each path to the peer, instead of the volumes
    #[arg(long)]
    links: bool,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    loop {
        let status = ask(args)?;
        if args.watch && !output.is_json() {
            // Home and clear: the screen shows one state.
            output.raw("\x1b[H\x1b[2J");
        }
        print(&status, args.links, output);
        if !args.watch {
            return Ok(match status.health {
                Health::Ok => Exit::DONE,
                Health::Degraded => Exit::DEGRADED,
                Health::Broken => Exit::BROKEN,
            });
        }
        std::thread::sleep(EVERY);
    }
}

fn ask(args: &Args) -> anyhow::Result<NodeStatus> {
    let reply = args.run.ask(&Request::Status)?;
    let mut status = reply.status.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?;
    if let Some(name) = &args.volume {
        status.volumes.retain(|volume| volume.name == *name);
        if status.volumes.is_empty() {
            return Err(Failure::new(Exit::USAGE, format!("this node has no volume {name}")).into());
        }
        status.judge();
    }
    Ok(status)
}

fn print(status: &NodeStatus, with_links: bool, output: &Output) {
    output.object(serde_json::to_value(status).unwrap_or_default());
    let word = match status.health {
        Health::Ok => "healthy",
        Health::Degraded => "degraded",
        Health::Broken => "broken",
    };
    let config =
        if status.config_equal == Some(false) { "; twinfs.toml differs from the peer's" } else { "" };
    output.line(format_args!(
        "node {}  {}  ({} with {}){config}",
        output.bold(&status.node),
        output.health(status.health as u8, word),
        status.arbitration,
        status.peer
    ));
    let mut about = Vec::new();
    if let Some(witness) = &status.witness {
        let text = match (&witness.problem, witness.answered_ms) {
            (Some(problem), _) => problem.clone(),
            (None, Some(ms)) => format!("{} answered {} ago", witness.address, age(ms)),
            (None, None) => format!("{} is being asked", witness.address),
        };
        labelled(&mut about, "witness", &text);
    }
    labelled(&mut about, "risk", &status.risk);
    for agent in status.fence.iter() {
        let state = match (&agent.problem, agent.looked) {
            (Some(problem), _) => problem.as_str(),
            (None, true) => "works",
            (None, false) => "is being asked",
        };
        labelled(&mut about, "fence", &format!("{}: {state}", agent.agent));
    }
    labelled(&mut about, "link", &links::privacy(status));
    let (realtime, missing) = links::realtime(status);
    if with_links || missing {
        labelled(&mut about, "load", &realtime);
    }
    if !with_links {
        links::bad(status, &mut about);
    }
    for advice in &status.advice {
        labelled(&mut about, "do", advice);
    }
    about.iter().for_each(|line| output.line(line));
    if with_links {
        links::all(status, output).iter().for_each(|line| output.line(line));
        return;
    }
    for volume in &status.volumes {
        output.line("");
        for line in lines(volume, &status.peer, output) {
            output.line(line);
        }
    }
}

/// What fits beside the label.
const TEXT_COLUMNS: usize = 67;

/// `label` and `text`, broken into lines of at most 80 columns.
pub(super) fn labelled(lines: &mut Vec<String>, label: &str, text: &str) {
    let mut rows: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let full =
            rows.last().is_some_and(|row| !row.is_empty() && row.len() + 1 + word.len() > TEXT_COLUMNS);
        if full {
            rows.push(String::new());
        }
        if let Some(row) = rows.last_mut() {
            let blank = if row.is_empty() { "" } else { " " };
            row.push_str(blank);
            row.push_str(word);
        }
    }
    for (n, row) in rows.iter().enumerate() {
        lines.push(format!("  {:<10} {row}", if n == 0 { label } else { "" }));
    }
}

/// How old a copy is, and whether a half overwritten one can go back.
fn old_state(volume: &VolumeStatus, peer: &str) -> Option<(&'static str, String)> {
    match (volume.way_back, volume.behind_ms) {
        (Some(false), _) => {
            Some(("way back", format!("none: should {peer} die before all is copied, this copy is lost")))
        }
        (Some(true), ago) => {
            let ago = ago.map_or(String::new(), |ms| format!(", of {} ago", age(ms)));
            let kept = bytes(volume.kept_blocks * 4096);
            Some(("way back", format!("to the last consistent state{ago}: {kept} of it are kept")))
        }
        (None, Some(ms)) => Some(("age", format!("this copy was current {} ago", age(ms)))),
        (None, None) => None,
    }
}

fn lines(volume: &VolumeStatus, peer: &str, output: &Output) -> Vec<String> {
    let name = output.bold(&volume.name);
    let mut lines = vec![format!("{name}: {}", output.health(volume.health as u8, &volume.role))];
    let mut say = |label: &str, text: &str| labelled(&mut lines, label, text);
    say("state", &volume.state_line(peer));
    if !volume.reason.is_empty() {
        say("why", &volume.reason_line());
    }
    if !volume.next.is_empty() {
        say("next", &volume.next);
    }
    for advice in &volume.advice {
        say("do", advice);
    }
    if !volume.failback.is_empty() {
        say("failback", &volume.failback);
    }
    let heard = volume.peer_heard_ms.map_or("never heard".to_string(), |ms| format!("heard {} ago", age(ms)));
    let link = if volume.connected { "connected" } else { "not connected" };
    let serving = match volume.peer_serving {
        true if volume.connected || volume.peer_heard_ms.is_some_and(|ms| ms < 2_500) => ", primary",
        true => ", was primary then",
        false => "",
    };
    say(peer, &format!("{link}, {heard}{serving}"));
    if let (Some(v), Some(primary)) = (volume.record_v, &volume.primary) {
        say("record", &format!("{v}: in sync {}; primary {primary}", volume.members.join(", ")));
    }
    if let Some(left) = volume.lease_left_ms {
        say("lease", &format!("{} left, renewed with every heartbeat", age(left)));
    }
    if let Some(left) = volume.resync_paused_ms {
        let name = &volume.name;
        let how = format!("\"twinfs resync resume {name}\" ends it");
        say("PAUSED", &format!("nothing is copied to {peer} for {} more; {how}", age(left)));
    }
    if let (Some(ms), Some(why)) = (volume.resync_stalled_ms, &volume.resync_stalled_why) {
        say("STALLED", &format!("for {}: {why}", age(ms)));
    } else if let Some(speed) = volume.resync_bytes_per_second {
        let most = volume.resync_max.map_or(String::new(), |max| format!(", at most {}/s", bytes(max)));
        say("pace", &format!("{}/s{most}", bytes(speed)));
    }
    if volume.dirty_blocks > 0 && volume.resync_total_blocks.is_none() {
        say("to copy", &format!("{} that {peer} may lack", bytes(volume.dirty_blocks * 4096)));
    }
    if let Some((label, text)) = old_state(volume, peer) {
        say(label, &text);
    }
    if let Some(run) = &volume.verify {
        say("verify", &run.line());
    } else if let Some(last) = volume.verified.as_ref().filter(|last| last.wrong() > 0) {
        say("verify", &format!("the last one, of {}", last.line()));
    }
    if volume.repaired_blocks + volume.lost_blocks > 0 {
        let (repaired, lost) = (volume.repaired_blocks, volume.lost_blocks);
        say("rot", &format!("{repaired} blocks repaired, {lost} on no copy any more (\"twinfs events\")"));
    }
    let here = if volume.mounted { "mounted here" } else { "not mounted here" };
    say("mount", &format!("{} ({here})", volume.mount));
    say("image", &format!("{} ({} for data)", volume.image, bytes(volume.size_bytes)));
    if !volume.addresses.is_empty() {
        let place = if volume.mounted { "here" } else { "where the primary is" };
        say("address", &format!("{} ({place})", volume.addresses.join(", ")));
    }
    for service in &volume.services {
        let remark = if service.remark.is_empty() { String::new() } else { format!(": {}", service.remark) };
        say("service", &format!("{} {}{remark}", service.name, service.state));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_primary_says_so_in_at_most_eighty_columns() {
        let volume = VolumeStatus {
            name: "mail".into(),
            role: "primary".into(),
            state: "alone".into(),
            reason: "beta does not answer on any path".into(),
            serving: true,
            peer_heard_ms: Some(184_000),
            record_v: Some(4),
            members: vec!["alpha".into()],
            primary: Some("alpha".into()),
            dirty_blocks: 256,
            mount: "/replicated".into(),
            image: "/var/lib/twinfs/mail.img".into(),
            size_bytes: 1 << 30,
            ..VolumeStatus::default()
        };
        let text = lines(&volume, "beta", &Output::new(false, false));
        assert!(text.iter().all(|line| line.len() <= 80), "{text:#?}");
        assert!(text.iter().any(|line| line.contains("not connected, heard 3 min 4 s ago")), "{text:#?}");
        assert!(text.iter().any(|line| line.contains("1.0 MiB that beta may lack")), "{text:#?}");
    }
}
