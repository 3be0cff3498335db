//! `twinfs events`: what happened, newest last.
//!
//! Decides how an entry is printed. Does not know what events there are.

use super::place::RunDir;
use super::{Exit, Failure, Output};
use crate::daemon::protocol::{Request, Verdict};
pub use crate::daemon::status::utc;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Only events of this volume, and of the node itself
    volume: Option<String>,
    /// How many
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
    count: usize,
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let reply = args.run.ask(&Request::Events { volume: args.volume.clone(), count: args.count })?;
    if reply.verdict != Verdict::Done {
        return Err(Failure::new(Exit::FAILED, reply.text).into());
    }
    for event in reply.events {
        let text = event["text"].as_str().unwrap_or_default();
        let place = event["volume"].as_str().or(event["node"].as_str()).unwrap_or_default();
        output.line(format_args!("{} {place}: {text}", utc(event["unix_ms"].as_u64().unwrap_or(0))));
        output.object(event);
    }
    Ok(Exit::DONE)
}
