//! `twinfs config check`: says whether a configuration could be used here.
//!
//! Decides nothing; reads the file, the key and which node this is, as the daemon would. Changes nothing.

use std::path::Path;

use super::place::{Place, failure};
use super::{Exit, Output};
use crate::base::SerialLine;
use crate::daemon;
use crate::daemon::protocol::Request;
use crate::sys::{exec, serial};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Read configuration and key as the daemon would
    Check {
        #[command(flatten)]
        place: Place,
    },
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let Action::Check { place } = &args.action;
    let config = daemon::read_config(&place.config).map_err(failure)?;
    let me = daemon::node_of(&config, place.node.as_deref()).map_err(failure)?;
    daemon::read_key(&config).map_err(failure)?;
    let broken = broken_lines(&config.node(me).serial)?;
    let hash = config.short_hash();
    let volumes: Vec<&str> = config.volumes.iter().map(|v| v.name.as_str()).collect();
    let node = &config.node(me).name;
    output.line(format_args!(
        "{}: good; cluster {}, this is node {node}, volumes: {}, hash {hash} (must be equal on both nodes)",
        place.config.display(),
        config.cluster.name,
        volumes.join(", ")
    ));
    let running = place.run.ask(&Request::Status).ok().and_then(|reply| reply.status);
    let in_use = running.map(|status| status.config_hash == hash);
    if in_use == Some(false) {
        output.line(
            "the running daemon uses another one: it takes effect with \"twinfs down\" and \"twinfs up\" on both nodes",
        );
    }
    let deaf = config.notify.as_ref().and_then(|notify| notify.argv.first());
    let deaf = deaf.and_then(|program| exec::check_trusted(Path::new(program)).err());
    if let Some(problem) = &deaf {
        output.line(format_args!(
            "nobody would be told of a failure: the program of [notify] cannot be run: {problem}"
        ));
    }
    for problem in &broken {
        output.line(format_args!("no heartbeat goes over the serial line yet: {problem}"));
    }
    output.object(serde_json::json!({
        "good": true, "in_use": in_use, "cluster": config.cluster.name, "node": node, "volumes": volumes, "hash": hash,
        "notify_problem": deaf, "serial_problems": broken,
    }));
    Ok(Exit::DONE)
}

/// The lines that cannot be used now, and why. The daemon starts without them and takes them up as soon as they are
/// there; what never will be a line is an error.
fn broken_lines(lines: &[SerialLine]) -> anyhow::Result<Vec<String>> {
    let mut broken = Vec::new();
    for line in lines {
        let Err(why) = serial::check(&line.device) else { continue };
        if why.kind() == std::io::ErrorKind::InvalidInput {
            return Err(failure(daemon::DaemonError::Config(format!("{line}: {why}"))).into());
        }
        broken.push(format!("{line}: {why}"));
    }
    Ok(broken)
}
