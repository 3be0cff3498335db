//! `twinfs config check`: says whether a configuration could be used here.
//!
//! Decides nothing; reads the file, the key and which node this is, as the daemon would. Changes nothing.

use super::place::{Place, failure};
use super::{Exit, Failure, Output};
use crate::config::ClusterKey;
use crate::daemon;
use crate::sys::secret;

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
    let unusable = |text: String| Failure::new(Exit::CONFIG, text);
    let text = secret::read(&config.cluster.key_file).map_err(|e| unusable(e.to_string()))?;
    let key_file = config.cluster.key_file.display();
    ClusterKey::parse(&text).map_err(|e| unusable(format!("{key_file}: {e}")))?;
    let hash: String = config.hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let volumes: Vec<&str> = config.volumes.iter().map(|v| v.name.as_str()).collect();
    let node = &config.node(me).name;
    output.line(format_args!(
        "{}: good; cluster {}, this is node {node}, volumes: {}, hash {hash} (must be equal on both nodes)",
        place.config.display(),
        config.cluster.name,
        volumes.join(", ")
    ));
    output.object(serde_json::json!({
        "good": true, "cluster": config.cluster.name, "node": node, "volumes": volumes, "hash": hash,
    }));
    Ok(Exit::DONE)
}
