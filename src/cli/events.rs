//! `twinfs events`: what happened, newest last.
//!
//! Decides how an entry is printed. Does not know what events there are.

use super::place::RunDir;
use super::{Exit, Failure, Output};
use crate::daemon::protocol::{Request, Verdict};

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

/// `2026-01-31T08:15:02Z` from milliseconds since 1970.
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in years of 365.2425 days: Howard Hinnant's civil calendar, by its published formula.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_printed_as_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_827_696_000), "2000-02-29T12:34:56Z");
        assert_eq!(utc(1_798_761_599_999), "2026-12-31T23:59:59Z");
    }
}
