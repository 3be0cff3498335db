//! `twinfs init` and `twinfs join`: the first node makes configuration, key and image; the second one its image.
//!
//! Decides defaults; there is none for `--arbitration`, whose choices are printed with their price. Invariant: an
//! existing configuration, key or image is never overwritten.
#![allow(clippy::disallowed_methods, reason = "a shell: makes files")]

use std::fs::DirBuilder;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::place::failure;
use super::progress::Progress;
use super::replace::token_of;
use super::{Exit, Failure, Output, key};
use crate::config::{self, Arbitration, Config, units};
use crate::daemon;
use crate::daemon::make::{Copy, Made, make_image, plant, put_aside, seed_of};

/// What each arbitration needs and costs.
const CHOICES: &str = "\
Who decides which node may be primary when the two cannot hear each other? Choose with --arbitration:

  witness  A small process on a third machine (no root, no data). Whichever node dies, the other one goes on by
           itself; a cut link never makes two primaries. Costs: a third machine, which may be tiny and far away.
           An etcd cluster that is there already may be asked instead (--etcd). Recommended.
  yield    Two machines only. When the primary dies, the secondary takes over by itself. Costs: when the link or
           the secondary dies, the primary stops serving, until you say \"twinfs promote --peer-is-down\".
  manual   Two machines only. When the secondary or the link dies, the primary goes on alone. Costs: when the
           primary dies, the service is down until you say \"twinfs promote --peer-is-down\" on the other node.

Two more ways are chosen in the file itself, see twinfs.toml(5): fence (an agent that stops the other machine, such as
its management board, decides) and deadtime (silence decides: two primaries when every link is cut).
";

#[derive(clap::Args, Debug)]
pub struct InitArgs {
    /// Who decides when the nodes cannot hear each other: witness, yield or manual; no default
    #[arg(long, value_name = "WAY")]
    arbitration: Option<String>,
    /// Where the witness listens, for --arbitration witness
    #[arg(long, value_name = "HOST[:PORT]")]
    witness: Option<String>,
    /// A member of an etcd cluster that is asked instead of a witness; may be given several times
    #[arg(long = "etcd", value_name = "URL")]
    etcd: Vec<String>,
    /// Who signed the certificates of etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd")]
    etcd_ca: Option<PathBuf>,
    /// A node with its address, and further addresses after commas; give it twice, the first one is node A
    #[arg(long = "peer", value_name = "NAME=IP[:PORT][,IP...]")]
    peers: Vec<String>,
    /// Name of the volume
    #[arg(long, value_name = "NAME", default_value = "data")]
    volume: String,
    /// Where the primary mounts it
    #[arg(long, value_name = "DIR", default_value = "/replicated")]
    mount: PathBuf,
    /// Size of the image, such as 20G
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// The image, on both nodes; default /var/lib/twinfs/VOLUME.img
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Service address, raised on the primary; may be given more than once
    #[arg(long, value_name = "IP/PREFIX")]
    address: Vec<String>,
    /// Service, in the order of starting: a systemd unit, or exec:/path of an init script
    #[arg(long, value_name = "SERVICE")]
    service: Vec<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", default_value = "twinfs")]
    cluster: String,
    #[command(flatten)]
    here: Here,
}

/// Where things lie on this node.
#[derive(clap::Args, Debug)]
pub struct Here {
    /// Configuration, the same on both nodes
    #[arg(long, value_name = "FILE", default_value = "/etc/twinfs/twinfs.toml")]
    config: PathBuf,
    /// Which node this is; found out by host name or address if not given
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Directory of the node's state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/twinfs")]
    state_dir: PathBuf,
}

#[derive(clap::Args, Debug)]
pub struct JoinArgs {
    /// Put this node's copy of VOLUME aside and fetch it anew from the other node: after a disk was replaced, or to
    /// give up what only this node wrote
    #[arg(long, value_name = "VOLUME")]
    replace: Option<String>,
    /// Begin with what FILE holds, an image of the other node that was carried here, however old: only what differs
    /// crosses the link
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
    /// Take the place of a machine that was replaced: the token that "twinfs replace" printed on the other node, or
    /// the file that it is in
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    #[command(flatten)]
    here: Here,
}

pub fn init(args: &InitArgs, output: &Output) -> anyhow::Result<Exit> {
    let file = &args.here.config;
    if file.exists() {
        if args.arbitration.is_some() || !args.peers.is_empty() {
            let text = format!("{} exists already: edit it, and run init without options", file.display());
            return Err(Failure::new(Exit::FAILED, text).into());
        }
    } else {
        let Some(way) = args.arbitration.as_deref() else {
            output.note(CHOICES);
            return Err(Failure::new(Exit::USAGE, "init needs --arbitration witness, yield or manual").into());
        };
        let text = configuration(args, way)?;
        folder(file)?;
        let mut options = std::fs::File::options();
        let made = options.write(true).create_new(true).open(file);
        std::io::Write::write_all(&mut made.with_context(|| file.display().to_string())?, text.as_bytes())?;
        output.line(format_args!("{} written", file.display()));
    }
    let config = daemon::read_config(file).map_err(failure)?;
    if !config.cluster.key_file.exists() {
        folder(&config.cluster.key_file)?;
        key::generate(&config.cluster.key_file)?;
        output.line(format_args!("{} written", config.cluster.key_file.display()));
    }
    images(&config, &args.here, Copy::First, output)?;
    next_steps(&config, file, output);
    Ok(Exit::DONE)
}

pub fn join(args: &JoinArgs, output: &Output) -> anyhow::Result<Exit> {
    let file = &args.here.config;
    if !file.exists() {
        let text = format!(
            "{} is missing: copy it and the key from the first node (\"twinfs init\" made them)",
            file.display()
        );
        return Err(Failure::new(Exit::CONFIG, text).into());
    }
    let config = daemon::read_config(file).map_err(failure)?;
    daemon::read_key(&config).map_err(failure)?;
    if let Some(file) = &args.seed {
        // Before anything is put aside for it.
        seed_of(&config, file).map_err(failure)?;
    }
    let me = daemon::node_of(&config, args.here.node.as_deref()).map_err(failure)?;
    match &args.token {
        Some(given) => {
            daemon::show_token(&config, me, &args.here.state_dir, &token_of(given)?).map_err(failure)?;
        }
        None if config.volumes.iter().all(|volume| volume.image_on(me).exists()) => {}
        None => daemon::without_token(&config, me).map_err(failure)?,
    }
    if let Some(name) = &args.replace {
        replace(&config, &args.here, name, output)?;
    }
    if let Some(file) = &args.seed {
        seed(&config, &args.here, file, output)?;
    }
    images(&config, &args.here, Copy::Second, output)?;
    output.line(
        "start it with \"twinfs up\" (or: systemctl enable --now twinfs); it fetches its copy by itself",
    );
    Ok(Exit::DONE)
}

/// Makes this node's image of the volume that `file` holds a copy of, and fills it from there.
fn seed(config: &Config, here: &Here, file: &Path, output: &Output) -> anyhow::Result<()> {
    let me = daemon::node_of(config, here.node.as_deref()).map_err(failure)?;
    let volume = seed_of(config, file).map_err(failure)?;
    let (name, path) = (&volume.name, volume.image_on(me));
    folder(path)?;
    if make_image(config, volume, me, Copy::Seeded, &here.state_dir).map_err(failure)? == Made::Before {
        let text = format!(
            "{} is there already; \"twinfs join --replace {name} --seed {}\" puts it aside first",
            path.display(),
            file.display()
        );
        return Err(Failure::new(Exit::FAILED, text).into());
    }
    let bar = Progress::bytes("seed", 0);
    let mut told = |done: u64, total: u64| {
        bar.of(total * 4096);
        bar.at(done * 4096);
    };
    let good = plant(config, volume, me, file, &mut told).map_err(failure)?;
    bar.clear();
    let megabytes = good / 256;
    output.line(format_args!("{}: {megabytes} MiB of {name} taken from {}", path.display(), file.display()));
    output.object(serde_json::json!({ "volume": name, "seed": file, "bytes": good * 4096 }));
    Ok(())
}

/// Puts this node's image of volume `name` aside.
fn replace(config: &Config, here: &Here, name: &str, output: &Output) -> anyhow::Result<()> {
    let me = daemon::node_of(config, here.node.as_deref()).map_err(failure)?;
    let Some(volume) = config.volumes.iter().find(|volume| volume.name == name) else {
        let names: Vec<&str> = config.volumes.iter().map(|volume| volume.name.as_str()).collect();
        return Err(usage(format!("no volume {name}; {} has {}", here.config.display(), names.join(", "))));
    };
    let peer_serves = daemon::peer_is_current(config, me, name).map_err(failure)?;
    if let Some(aside) = put_aside(config, volume, me, peer_serves).map_err(failure)? {
        output.line(format_args!(
            "{} is kept as {}; delete it when {name} is in sync again",
            volume.image_on(me).display(),
            aside.display()
        ));
        output.object(serde_json::json!({ "volume": name, "kept": aside }));
    }
    Ok(())
}

/// The folder of a file, private from the start: the key lies there.
fn folder(file: &Path) -> anyhow::Result<()> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| folder.display().to_string())
}

/// Makes this node's image of every volume that has none here.
fn images(config: &Config, here: &Here, copy: Copy, output: &Output) -> anyhow::Result<()> {
    let me = daemon::node_of(config, here.node.as_deref()).map_err(failure)?;
    for volume in &config.volumes {
        let path = volume.image_on(me);
        folder(path)?;
        let made = make_image(config, volume, me, copy, &here.state_dir).map_err(failure)?;
        let (node, name) = (&config.node(me).name, &volume.name);
        let word = match made {
            Made::Now => "made",
            Made::Before => "left as it is",
        };
        output.line(format_args!("{} {word}: node {node}'s copy of {name}", path.display()));
        output.object(serde_json::json!({
            "volume": name, "node": node, "image": path, "bytes": volume.size, "made": made == Made::Now,
        }));
    }
    Ok(())
}

fn next_steps(config: &Config, file: &Path, output: &Output) {
    let dir = file.parent().unwrap_or(Path::new("/")).display();
    let key = config.cluster.key_file.display();
    output.line("");
    output.line("next:");
    output.line(format_args!(
        "  on the other node: copy {} and {key} into {dir}, then \"twinfs join\"",
        file.display()
    ));
    if let Some(witness) = &config.cluster.witness {
        output.line(format_args!(
            "  for the witness on {}: \"twinfs key generate --witness FILE\" here, move FILE there, \
             \"twinfs witness --key-file FILE\"",
            witness.host
        ));
    }
    output.line("  on both nodes: \"twinfs up\" (or: systemctl enable --now twinfs), then \"twinfs status\"");
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    Failure::new(Exit::USAGE, text).into()
}

/// Whom a node asks that cannot hear the other one.
fn arbiter(
    args: &InitArgs,
    arbitration: Arbitration,
    way: &str,
) -> anyhow::Result<(Option<config::HostPort>, Option<config::EtcdPlace>)> {
    let (urls, ca) = (args.etcd.clone(), args.etcd_ca.clone());
    let etcd = (!urls.is_empty()).then_some(config::EtcdPlace { urls, ca, cert: None, key: None });
    match (arbitration, &args.witness, etcd) {
        (_, Some(_), Some(_)) => Err(usage("--witness and --etcd would be two judges: give one of them")),
        (Arbitration::Witness, Some(target), None) => Ok((Some(host_port(target)?), None)),
        (Arbitration::Witness, None, Some(etcd)) => Ok((None, Some(etcd))),
        (Arbitration::Witness, None, None) => {
            Err(usage("--arbitration witness needs --witness HOST[:PORT], or --etcd URL"))
        }
        (_, None, None) => Ok((None, None)),
        (_, Some(_), None) => Err(usage(format!("--witness goes with --arbitration witness, not {way}"))),
        (_, None, Some(_)) => Err(usage(format!("--etcd goes with --arbitration witness, not {way}"))),
    }
}

fn configuration(args: &InitArgs, way: &str) -> anyhow::Result<String> {
    let arbitration = match way {
        "witness" => Arbitration::Witness,
        "yield" => Arbitration::Yield,
        "manual" => Arbitration::Manual,
        "fence" | "deadtime" => {
            let text = "needs more than init asks for: choose witness, yield or manual, and edit the file that it \
                        writes, see twinfs.toml(5)";
            return Err(usage(format!("--arbitration {way} {text}")));
        }
        other => return Err(usage(format!("--arbitration {other}: choose witness, yield or manual"))),
    };
    let [a, b] = args.peers.as_slice() else {
        return Err(usage("give both nodes: --peer NAME=IP --peer NAME=IP (the first one is node A)"));
    };
    let (witness, etcd) = arbiter(args, arbitration, way)?;
    let size = args.size.as_deref().ok_or_else(|| usage("give the size of the image: --size 20G"))?;
    let size = units::parse_size(size).map_err(|e| usage(format!("--size: {e}")))?;
    let image = args.image.clone().unwrap_or_else(|| format!("/var/lib/twinfs/{}.img", args.volume).into());
    let key_file = args.here.config.with_file_name("key");
    let config = Config {
        cluster: config::Cluster {
            name: args.cluster.clone(),
            key_file,
            arbitration,
            witness,
            etcd,
            accepts_split_brain: None,
            after_split_brain: None,
            encrypt: true,
            realtime: true,
            ping: Vec::new(),
        },
        fences: Vec::new(),
        notify: None,
        timing: config::Timing::defaults(arbitration),
        nodes: [node(a)?, node(b)?],
        volumes: vec![config::Volume {
            name: args.volume.clone(),
            image: [image.clone(), image],
            size,
            mount: args.mount.clone(),
            salvage_dir: None,
            address: args.address.iter().map(|text| prefix(text)).collect::<anyhow::Result<_>>()?,
            device: [None, None],
            services: args.service.iter().map(|text| service(text)).collect(),
            service_timeout: crate::base::Span::from_secs(60),
            prefer: None,
            failback: config::Failback::Never,
            write_ack: config::WriteAck::Fsync,
            scrub: Some(config::Volume::SCRUB),
            resync_max: u64::MAX,
            resync_min: config::Volume::RESYNC_MIN,
            resync_priority: config::Volume::RESYNC_PRIORITY,
            keep_awake: crate::base::KeepAwake::Auto,
            memory: crate::base::limits::MEMORY_DEFAULT,
        }],
    };
    let text = config.render();
    // The rules of the file hold for what we write ourselves, too.
    Config::parse(&text).map_err(|e| usage(e.to_string().replace('\n', "; ")))?;
    Ok(text)
}

fn host_port(text: &str) -> anyhow::Result<config::HostPort> {
    let default = config::DEFAULT_WITNESS_PORT;
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(config::HostPort { host: address.ip().to_string(), port: address.port() });
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => {
            let port = port.parse().map_err(|_| usage(format!("--witness {text}: the port is no number")))?;
            Ok(config::HostPort { host: host.to_string(), port })
        }
        _ => Ok(config::HostPort { host: text.to_string(), port: default }),
    }
}

fn node(text: &str) -> anyhow::Result<config::Node> {
    let (name, list) =
        text.split_once('=').ok_or_else(|| usage(format!("--peer {text}: write it as NAME=IP")))?;
    let address = |text: &str| -> anyhow::Result<SocketAddr> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let ip: IpAddr =
            text.parse().map_err(|_| usage(format!("--peer {name}: {text} is no IP address")))?;
        Ok(SocketAddr::new(ip, config::DEFAULT_PORT))
    };
    let addresses = list.split(',').map(address).collect::<anyhow::Result<_>>()?;
    Ok(config::Node { name: name.to_string(), addresses, serial: Vec::new() })
}

fn prefix(text: &str) -> anyhow::Result<config::IpPrefix> {
    let wrong = || usage(format!("--address {text}: write it as 192.0.2.10/24"));
    let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
    Ok(config::IpPrefix {
        ip: ip.parse().map_err(|_| wrong())?,
        prefix: prefix.parse().map_err(|_| wrong())?,
    })
}

fn service(text: &str) -> config::Service {
    match text.strip_prefix("exec:") {
        Some(path) => config::Service::Exec(path.into()),
        None => config::Service::Unit(text.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(more: &[&str]) -> InitArgs {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            args: InitArgs,
        }
        let start = ["init", "--peer", "alpha=10.0.0.1", "--peer", "beta=10.0.0.2,10.1.0.2", "--size", "1G"];
        let words = start.iter().chain(more);
        <Only as clap::Parser>::parse_from(words).args
    }

    #[test]
    fn the_configuration_that_init_writes_passes_the_check() {
        let mut args = args(&[
            "--address",
            "10.0.0.100/24",
            "--service",
            "exec:/etc/init.d/x",
            "--service",
            "y.service",
        ]);
        args.peers[0] = "alpha=10.0.0.1,10.1.0.1".into();
        for (way, witness) in [("yield", None), ("manual", None), ("witness", Some("w.example:99"))] {
            args.witness = witness.map(str::to_string);
            let config = Config::parse(&configuration(&args, way).unwrap()).unwrap();
            assert_eq!(config.cluster.arbitration.as_str(), way);
            assert_eq!(config.nodes[1].addresses.len(), 2);
            assert_eq!(config.volumes[0].services.len(), 2);
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_exit_2() {
        let exit = |args: &InitArgs, way| {
            let error = configuration(args, way).unwrap_err();
            (error.downcast_ref::<Failure>().map(|f| f.exit), error.to_string())
        };
        let (code, text) = exit(&args(&[]), "witness");
        assert!(code == Some(Exit::USAGE) && text.contains("--witness HOST"), "{text}");
        let (_, text) = exit(&args(&["--witness", "w"]), "yield");
        assert!(text.contains("goes with"), "{text}");
        let (_, text) = exit(&args(&["--address", "x"]), "yield");
        assert!(text.contains("192.0.2.10/24"), "{text}");
        let (_, text) = exit(&args(&[]), "deadtime");
        assert!(text.contains("witness, yield or manual"), "{text}");
    }
}
