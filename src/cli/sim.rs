//! `twinfs sim`: the simulation from the command line, for developers (hidden in the help).
//!
//! Decides how many seeds run and what a failing one shows. Invariant: the last line says how many seeds, events,
//! faults and violations there were; any violation ends in exit code 1.

use std::collections::BTreeMap;

use crate::node::Mutations;
use crate::sim::{self, Options, Outcome};

use super::{Exit, Output};

/// The arguments of `twinfs sim`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub seeds: u64,
    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub from: u64,
    /// Seeds run at the same time; 0 = as many as there are processors
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub jobs: usize,
    /// How many of the last events of a failing seed to show
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub events: usize,
    /// Show the events of seeds that pass too, and how often each thing happened
    #[arg(long)]
    pub trace: bool,
    /// Break the protocol on purpose: a mutation's name, which must then be caught
    #[arg(long, value_name = "NAME")]
    pub mutation: Option<String>,
    /// With `--mutation`: look only at what happens to data, not at the rules that prevent it
    #[arg(long)]
    pub effects_only: bool,
}

/// Runs the seeds.
pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let mutations = match &args.mutation {
        None => Mutations::default(),
        Some(name) => sim::mutation(name).ok_or_else(|| anyhow::anyhow!("there is no mutation `{name}`"))?,
    };
    let jobs = match args.jobs {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        jobs => jobs,
    };
    let effects_only = args.effects_only;
    let shown = if args.trace { args.events } else { 0 };
    let make = |seed| Options { seed, mutations, effects_only, shown };
    let (mut sum, mut simulated) = (Outcome::default(), 0);
    let mut failed = Vec::new();
    sim::run_many(args.from, args.seeds, jobs, make, |outcome| {
        sum.events += outcome.events;
        simulated += outcome.simulated.as_duration().as_secs();
        sum.faults += outcome.faults;
        sum.fs_ops += outcome.fs_ops;
        for (what, count) in &outcome.counts {
            *sum.counts.entry(what).or_insert(0) += count;
        }
        if args.trace {
            output.line(format_args!("{}seed {} hash {:016x}", outcome.trace, outcome.seed, outcome.hash));
        }
        if !outcome.violations.is_empty() {
            failed.push((outcome.seed, outcome.violations));
        }
        true
    });
    failed.sort_unstable();
    for (seed, violations) in failed.iter().skip(1) {
        output.line(format_args!("seed {seed}: {}", violations.join("; ")));
    }
    if let Some((seed, _)) = failed.first() {
        let again = sim::run(&Options { seed: *seed, mutations, effects_only, shown: args.events });
        output.line(format_args!("{}seed {seed}: {}", again.trace, again.violations.join("; ")));
    }
    if args.trace {
        output.line(table(&sum.counts));
    }
    let (seeds, events, faults) = (args.seeds, sum.events, sum.faults);
    let changes = sum.counts.get("server-changed").copied().unwrap_or(0);
    output.line(format_args!(
        "seeds={seeds} events={events} faults={faults} simulated_s={simulated} server_changes={changes} violations={}",
        failed.len()
    ));
    Ok(if failed.is_empty() { Exit::DONE } else { Exit::FAILED })
}

fn table(counts: &BTreeMap<&'static str, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{what}={count}")).collect::<Vec<_>>().join(" ")
}
