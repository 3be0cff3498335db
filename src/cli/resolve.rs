//! `twinfs resolve`: after a split brain, what each side changed; and, with `--keep`, the end of it.
//!
//! Decides how both sides are shown, and what has to be said before one of them gives way. The daemons of both nodes
//! do the rest. Invariant: whoever does not name the side that gives way decides nothing.

use serde_json::json;

use super::events::utc;
use super::place::{RunDir, exit_of};
use super::{Exit, Failure, Output};
use crate::config::units::format_size;
use crate::daemon::protocol::{Reply, Request, Verdict};
use crate::daemon::resolve::SplitReport;
use crate::daemon::sides::{Side, SideFile};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The volume
    volume: String,
    /// The node whose copy is kept, on both nodes
    #[arg(long, value_name = "NODE")]
    keep: Option<String>,
    /// The other node, whose copy is put aside and then overwritten
    #[arg(long, value_name = "NODE", requires = "keep")]
    confirm: Option<String>,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let volume = args.volume.clone();
    let Some(keep) = &args.keep else {
        let report = ask(args)?;
        show(&report, output);
        return Ok(if report.split { Exit::BROKEN } else { Exit::DONE });
    };
    if args.confirm.is_none() {
        let report = ask(args)?;
        show(&report, output);
        let other = report.sides.iter().map(|side| side.node.as_str()).find(|node| node != keep);
        let other = other.unwrap_or("the other node");
        let text = format!(
            "{volume}: nothing is decided yet: {other}'s copy would be put aside there and then overwritten; say it \
             with --confirm {other}"
        );
        return Err(Failure::new(Exit::WOULD_LOSE_DATA, text).into());
    }
    let confirmed = args.confirm.as_ref().is_some_and(|confirm| confirm != keep && named(args, confirm));
    if !confirmed {
        let said = args.confirm.as_deref().unwrap_or_default();
        let text = format!("--confirm says {said}, which is not the node that gives way: nothing is decided");
        return Err(Failure::new(Exit::USAGE, text).into());
    }
    args.run.order(&Request::Resolve { volume, keep: Some(keep.clone()) }, output)
}

/// Whether the daemon knows a node of this name.
fn named(args: &Args, node: &str) -> bool {
    let status = args.run.ask(&Request::Status).ok().and_then(|reply| reply.status);
    status.is_none_or(|status| [&status.node, &status.peer].iter().any(|known| *known == node))
}

fn ask(args: &Args) -> anyhow::Result<SplitReport> {
    let reply = args.run.ask(&Request::Resolve { volume: args.volume.clone(), keep: None })?;
    match reply {
        Reply { verdict: Verdict::Done, split: Some(report), .. } => Ok(*report),
        Reply { verdict, text, .. } => Err(Failure::new(exit_of(verdict), text).into()),
    }
}

fn show(report: &SplitReport, output: &Output) {
    output.object(json!({
        "volume": report.volume,
        "split": report.split,
        "keep": report.keep,
        "sides": report.sides,
        "deleted": report.deleted,
        "peer_problem": report.peer_problem,
    }));
    let name = &report.volume;
    match (report.split, &report.keep) {
        (_, Some(keep)) => output.line(format_args!("{name}: decided: the copy of {keep} is kept")),
        (true, None) => output.line(format_args!("{name}: both nodes wrote on their own")),
        (false, None) => output.line(format_args!("{name}: the copies did not grow apart")),
    }
    let nothing = Vec::new();
    for (n, side) in report.sides.iter().enumerate() {
        show_side(side, report.deleted.get(n).unwrap_or(&nothing), output);
    }
    if let Some(why) = &report.peer_problem {
        output.line(format_args!("the other node cannot be asked, so what is gone here is not told: {why}"));
    }
    if report.split && report.keep.is_none() {
        output.line(format_args!(
            "\"twinfs resolve {name} --keep NODE\" keeps one side; the other one is put aside"
        ));
    }
}

fn show_side(side: &Side, deleted: &[SideFile], output: &Output) {
    let serving = match (side.serving, side.served_until_unix_ms) {
        (true, _) => "serves now".to_string(),
        (false, Some(ms)) => format!("served last at {}", utc(ms)),
        (false, None) => "does not serve".to_string(),
    };
    let led = if side.led { ", was primary when they parted" } else { "" };
    let size = format_size(side.changed_blocks * 4096);
    output.line(output.bold(&format!("{}: {serving}{led}; {size} of blocks changed", side.node)));
    if !side.reason.is_empty() {
        output.line(format_args!("  {}", side.reason));
    }
    match (side.since.as_str(), &side.problem) {
        (_, Some(why)) => output.line(format_args!("  its files cannot be told: {why}")),
        ("untouched", None) => output.line("  nothing was mounted on it since they parted"),
        _ if side.files.is_empty() && deleted.is_empty() => output.line("  no file differs from then"),
        _ => {}
    }
    let line = |what: &str, file: &SideFile| {
        let at = utc(u64::try_from(file.modified_unix_ms).unwrap_or(0));
        output.line(format_args!("  {what:<8} {:>10} {at} {}", file.bytes, file.path));
    };
    for file in &side.files {
        line(if file.made { "created" } else { "changed" }, file);
    }
    for file in deleted {
        line("deleted", file);
    }
    if side.more > 0 {
        output.line(format_args!("  and {} more", side.more));
    }
}
