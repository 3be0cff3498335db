//! `twinfs history`: what happened on both nodes, in one order.
//!
//! Decides the layout. Does not know how the peer is asked.

use super::place::RunDir;
use super::{Exit, Failure, Output};
use crate::daemon::merged::Merged;
use crate::daemon::protocol::{Request, Verdict};
use crate::daemon::status::utc;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only events of this volume, and of the nodes themselves
    volume: Option<String>,
    /// How many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    count: usize,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let reply = args.run.ask(&Request::History { volume: args.volume.clone(), count: args.count })?;
    let merged = match reply.verdict {
        Verdict::Done => reply.merged.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?,
        Verdict::Usage => return Err(Failure::new(Exit::USAGE, reply.text).into()),
        _ => return Err(Failure::new(Exit::FAILED, reply.text).into()),
    };
    output.line(head(&merged));
    output.object(serde_json::to_value(&*merged)?);
    for event in reply.events {
        let text = event["text"].as_str().unwrap_or_default();
        let node = event["node"].as_str().unwrap_or_default();
        let volume = event["volume"].as_str().map_or(String::new(), |volume| format!(" {volume}"));
        let at = event["here_unix_ms"].as_u64().unwrap_or(0);
        output.line(format_args!("{} {node}{volume}: {text}", utc(at)));
        output.object(event);
    }
    Ok(Exit::DONE)
}

fn head(merged: &Merged) -> String {
    let (node, peer) = (&merged.node, &merged.peer);
    if let Some(why) = &merged.peer_problem {
        return format!("of {node} only; {peer}: {why}");
    }
    let (ahead, uncertain) = (merged.peer_ahead_ms.unwrap_or(0), merged.uncertain_ms.unwrap_or(0));
    let clocks = match ahead {
        _ if ahead.unsigned_abs() <= uncertain => format!("their clocks agree within {uncertain} ms"),
        0.. => {
            format!("{peer}'s clock is {ahead} ms (+-{uncertain}) ahead now; its events are moved by that")
        }
        _ => {
            let behind = ahead.unsigned_abs();
            format!("{peer}'s clock is {behind} ms (+-{uncertain}) behind now; its events are moved by that")
        }
    };
    format!("of {node} and {peer}; {clocks}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_says_whose_events_these_are_and_by_which_clock() {
        let both = Merged { node: "alpha".into(), peer: "beta".into(), ..Merged::default() };
        let with = |ahead, uncertain| Merged {
            peer_ahead_ms: Some(ahead),
            uncertain_ms: Some(uncertain),
            ..both.clone()
        };
        assert_eq!(head(&with(2, 3)), "of alpha and beta; their clocks agree within 3 ms");
        assert!(head(&with(5_000, 3)).contains("beta's clock is 5000 ms (+-3) ahead now"));
        assert!(head(&with(-5_000, 3)).contains("beta's clock is 5000 ms (+-3) behind now"));
        let away = Merged { peer_problem: Some("it did not answer within 2 s".into()), ..both };
        assert_eq!(head(&away), "of alpha only; beta: it did not answer within 2 s");
    }
}
