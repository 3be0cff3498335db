//! `twinfs resync`: pause, resume and pace what this node copies to the peer.
//!
//! Decides the ranges of what may be asked for. The daemon does the rest, and says why not. Invariant: a pause always
//! has an end.

use super::place::RunDir;
use super::{Exit, Failure, Output};
use crate::base::Span;
use crate::config::units::{format_size, format_span, parse_size, parse_span};
use crate::config::{RATE_MAX, RATE_MIN};
use crate::daemon::protocol::Request;
use crate::node::PAUSE_MAX;

const PAUSE_MIN: Span = Span::from_secs(1);

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Copy nothing to the peer for a while; said on the node that copies
    Pause {
        /// The volume; all of them if not given
        volume: Option<String>,
        /// How long; it goes on by itself then
        #[arg(long = "for", value_name = "TIME", default_value = "1h", value_parser = span)]
        span: Span,
        #[command(flatten)]
        run: RunDir,
    },
    /// End a pause
    Resume {
        /// The volume; all of them if not given
        volume: Option<String>,
        #[command(flatten)]
        run: RunDir,
    },
    /// Change the pace until the daemon stops
    Limit {
        /// The volume; all of them if not given
        volume: Option<String>,
        /// Bytes a second that copying never exceeds, or "unlimited"
        #[arg(long, value_name = "SIZE", value_parser = most, required_unless_present = "min")]
        max: Option<u64>,
        /// Bytes a second to which programs may slow it
        #[arg(long, value_name = "SIZE", value_parser = rate)]
        min: Option<u64>,
        #[command(flatten)]
        run: RunDir,
    },
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let named = |volume: &Option<String>| volume.clone().filter(|name| name != "all");
    match &args.action {
        Action::Pause { volume, span, run } => {
            run.order(&Request::PauseResync { volume: named(volume), ms: span.as_millis() }, output)
        }
        Action::Resume { volume, run } => run.order(&Request::ResumeResync { volume: named(volume) }, output),
        Action::Limit { volume, max, min, run } => {
            if max.zip(*min).is_some_and(|(max, min)| min > max) {
                return Err(Failure::new(Exit::USAGE, "--min is more than --max").into());
            }
            let request = Request::LimitResync { volume: named(volume), max: *max, min: *min };
            run.order(&request, output)
        }
    }
}

fn span(text: &str) -> Result<Span, String> {
    let span = parse_span(text)?;
    if (PAUSE_MIN..=PAUSE_MAX).contains(&span) {
        return Ok(span);
    }
    Err(format!("out of range: {} to {}", format_span(PAUSE_MIN), format_span(PAUSE_MAX)))
}

fn rate(text: &str) -> Result<u64, String> {
    let rate = parse_size(text)?;
    if (RATE_MIN..=RATE_MAX).contains(&rate) {
        return Ok(rate);
    }
    Err(format!("out of range: {} to {} a second", format_size(RATE_MIN), format_size(RATE_MAX)))
}

fn most(text: &str) -> Result<u64, String> {
    if text == "unlimited" { Ok(u64::MAX) } else { rate(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_has_an_end_and_a_pace_a_unit() {
        assert_eq!(span("90m"), Ok(Span::from_secs(5400)));
        assert!(span("8d").unwrap_err().contains("out of range"));
        assert!(span("0s").is_err() && span("soon").is_err());
        assert_eq!((most("unlimited"), most("20M")), (Ok(u64::MAX), Ok(20 << 20)));
        assert!(rate("unlimited").is_err() && rate("1K").is_err() && rate("20").is_err());
    }
}
