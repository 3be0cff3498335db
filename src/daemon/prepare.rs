//! What a daemon needs before it starts anything: configuration, key, who it is, its run directory.
//!
//! Decides which of these is missing or wrong and says what to do. Does not know what runs afterwards. Invariants: one
//! daemon per run directory; nothing of the machine is changed but the directories of the run and the state.
#![allow(clippy::disallowed_methods, reason = "a shell: files")]

use std::fs::{DirBuilder, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::NodeId;
use crate::config::{ClusterKey, Config};
use crate::image::{Disk, Image, OpenOptions};
use crate::sys::disk::FileDisk;
use crate::sys::secret;

use super::volume::volume_id;
use super::{DaemonError, Options};

/// What a daemon needs before it starts anything.
pub struct Prepared {
    pub config: Arc<Config>,
    pub key: ClusterKey,
    pub me: NodeId,
    pub lock: File,
}

/// Reads and checks everything that needs no other process; holds the run directory's lock from then on.
/// `left`: that lock, from a predecessor.
pub fn prepare(options: &Options, left: Option<File>) -> Result<Prepared, DaemonError> {
    let config = read_config(&options.dirs.config)?;
    let me = node_of(&config, options.node.as_deref())?;
    let key = read_key(&config)?;
    for dir in [&options.dirs.run, &options.dirs.state] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| DaemonError::State(format!("{}: {e}", dir.display())))?;
    }
    let lock = match left {
        Some(lock) => lock,
        None => lock_run_dir(&options.dirs.run)?,
    };
    Ok(Prepared { config: Arc::new(config), key, me, lock })
}

/// The cluster's key that `config` names.
pub fn read_key(config: &Config) -> Result<ClusterKey, DaemonError> {
    let file = &config.cluster.key_file;
    if !file.exists() {
        let text = "is missing: copy it from the other node, or make it there with \"twinfs key generate\"";
        return Err(DaemonError::Config(format!("{} {text}", file.display())));
    }
    let text = secret::read(file).map_err(|e| DaemonError::Config(e.to_string()))?;
    ClusterKey::parse(&text).map_err(|e| DaemonError::Config(format!("{}: {e}", file.display())))
}

/// The configuration in `file`, or every problem of it in one line each.
pub fn read_config(file: &Path) -> Result<Config, DaemonError> {
    let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            DaemonError::Config(format!("{} is missing; make it with \"twinfs init\"", file.display()))
        }
        std::io::ErrorKind::PermissionDenied => DaemonError::Denied(file.display().to_string()),
        _ => DaemonError::Config(format!("{}: {e}", file.display())),
    })?;
    Config::parse(&text).map_err(|e| DaemonError::Config(format!("{}: {e}", file.display())))
}

/// Which node this is: as told, else the one with this machine's host name, else the one with an address of it.
pub fn node_of(config: &Config, name: Option<&str>) -> Result<NodeId, DaemonError> {
    let names = || format!("{} or {}", config.nodes[0].name, config.nodes[1].name);
    if let Some(name) = name {
        let unknown =
            || DaemonError::Config(format!("no [node.{name}] in the configuration; it knows {}", names()));
        return config.node_id(name).ok_or_else(unknown);
    }
    let host = nix::unistd::gethostname().map(|h| h.to_string_lossy().into_owned()).unwrap_or_default();
    let short = host.split('.').next().unwrap_or("");
    if let Some(id) = config.node_id(&host).or_else(|| config.node_id(short)) {
        return Ok(id);
    }
    let own: Vec<IpAddr> = own_addresses();
    let here = |id: &NodeId| {
        config.node(*id).addresses.iter().any(|a| own.contains(&a.ip()) && !a.ip().is_loopback())
    };
    let found: Vec<NodeId> = [NodeId::A, NodeId::B].into_iter().filter(here).collect();
    match found.as_slice() {
        [id] => Ok(*id),
        _ => Err(DaemonError::Config(format!(
            "cannot tell which node this is (host name {host}); say --node {}",
            names()
        ))),
    }
}

fn own_addresses() -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    all.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    })
    .collect()
}

/// Whose copy an image is, if it is not this node's, in words.
pub fn foreign(config: &Config, me: NodeId, owner: NodeId) -> Option<String> {
    let other = &config.node(owner).name;
    (owner != me).then(|| format!("it is the copy of node {other}; each node has its own image"))
}

/// Why this machine may not be `me` at all: an image that belongs to the other node lies here. Changes nothing.
pub fn mistaken(config: &Config, me: NodeId) -> Option<DaemonError> {
    config.volumes.iter().find_map(|settings| {
        let path = settings.image_on(me);
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, false).ok()?);
        let look = OpenOptions::read_only().volume(volume_id(config, &settings.name));
        let text = foreign(config, me, Image::open(disk, &look).ok()?.state().node)?;
        Some(DaemonError::Image { path: path.clone(), text })
    })
}

fn lock_run_dir(run: &Path) -> Result<File, DaemonError> {
    let path = run.join("daemon.pid");
    let state = |e: std::io::Error| DaemonError::State(format!("{}: {e}", path.display()));
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(state)?;
    // A daemon that was killed while a thread waits for a slow disk keeps its lock until that thread is gone.
    let patience = Instant::now() + Duration::from_secs(2);
    while file.try_lock().is_err() {
        if Instant::now() >= patience {
            return Err(DaemonError::Running(run.to_path_buf()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    file.set_len(0).map_err(state)?;
    writeln!(file, "{}", std::process::id()).map_err(state)?;
    Ok(file)
}
