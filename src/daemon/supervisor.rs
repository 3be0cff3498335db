//! A small process beside the daemon that sees it die, and says so to the peer.
//!
//! A daemon that was killed on a machine that works is silent like a dead machine, and the peer would wait the whole
//! deadtime for it. Decides when that can be said earlier: the process has ended, so nothing of it can acknowledge
//! anything any more; its addresses are removed and its mounts answer errors. Does not know who is primary. Invariants:
//! nothing is said of a daemon that runs, nor while the next one starts; what is said names one start of the daemon,
//! which is over for good, so that a repetition years later does no harm.
#![allow(clippy::disallowed_methods, reason = "a shell: processes, sockets, time")]

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::base::NodeId;
use crate::config::{self, Config, Purpose};
use crate::link;
use crate::services::address::Addresses;
use crate::sys::mount::{self, mounted_at};
use crate::sys::process::Process;
use crate::wire::{Released, encode_released};

use super::node_file::NodeFile;
use super::prepare::{node_of, read_config, read_key};
use super::volume::volume_id;
use super::{DaemonError, Dirs, Options};

/// For the lock of the dead daemon to be free; longer means that another one runs.
const LOCK_LIMIT: Duration = Duration::from_millis(500);
/// For addresses and mounts.
const CLEAR_LIMIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Said so often, in case a datagram is lost.
const WORDS: usize = 5;
const BETWEEN: Duration = Duration::from_millis(20);

/// The supervisor of this process; ended when dropped.
pub struct Supervisor(Child);

impl Supervisor {
    /// Starts it. `node`: which one this is.
    pub fn start(dirs: &Dirs, node: &str) -> std::io::Result<Supervisor> {
        use std::os::unix::process::CommandExt;
        // What runs, even if another file lies in its place by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("twinfs").arg("supervise").arg("--pid").arg(std::process::id().to_string());
        command.arg("--config").arg(&dirs.config).arg("--node").arg(node);
        command.arg("--run-dir").arg(&dirs.run).arg("--state-dir").arg(&dirs.state);
        // Out of reach of a signal that the terminal sends to the daemon's group.
        command.stdin(Stdio::null()).process_group(0);
        command.spawn().map(Supervisor)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The life of the supervisor of process `pid`, its parent; `None`: somebody else, such as systemd, saw it end.
pub fn run(options: &Options, pid: Option<u32>) -> Result<(), DaemonError> {
    // Read while all is well: what lies there later may be in the middle of being changed.
    let config = read_config(&options.dirs.config)?;
    let me = node_of(&config, options.node.as_deref())?;
    let key = read_key(&config)?;
    let key = key.derive(&config.cluster.name, Purpose::Heartbeat, me);
    let failed = |error: std::io::Error| DaemonError::State(format!("the daemon cannot be watched: {error}"));
    if let Some(pid) = pid
        && let Some(daemon) = Process::parent(pid).map_err(failed)?
    {
        daemon.wait().map_err(failed)?;
    }
    let Some(_lock) = lock(&options.dirs) else { return Ok(()) };
    for volume in &config.volumes {
        match clear(volume, me) {
            Ok(()) => say(&options.dirs, &config, volume, (me, &key)),
            Err(why) => {
                tracing::warn!("{}: the daemon is gone, and the peer is not told: {why}", volume.name)
            }
        }
    }
    Ok(())
}

/// The lock of the run directory: while it is held here no other daemon starts.
fn lock(dirs: &Dirs) -> Option<File> {
    let file = File::options().read(true).write(true).open(dirs.run.join("daemon.pid")).ok()?;
    let end = Instant::now() + LOCK_LIMIT;
    while file.try_lock().is_err() {
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Some(file)
}

/// Nobody finds the volume here any more: no address, no mount that answers.
fn clear(volume: &config::Volume, me: NodeId) -> Result<(), String> {
    if !volume.address.is_empty() {
        let device = volume.device_on(me).map(str::to_string);
        let addresses = Addresses::new(volume.address.clone(), device, Box::new(|_| {}));
        if !addresses.drop_and_wait(CLEAR_LIMIT) {
            return Err("its address could not be removed in time".to_string());
        }
    }
    let end = Instant::now() + CLEAR_LIMIT;
    loop {
        let line = mounted_at(&volume.mount).map_err(|e| e.to_string())?;
        if line.is_none_or(|line| line.fs_type != mount::FS_TYPE) {
            return Ok(());
        }
        if mount::is_dead(&volume.mount) {
            mount::detach(&volume.mount).map_err(|e| format!("{}: {e}", volume.mount.display()))?;
        } else if Instant::now() >= end {
            return Err(format!("something answers at {}", volume.mount.display()));
        } else {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn say(dirs: &Dirs, config: &Config, volume: &config::Volume, (me, key): (NodeId, &[u8; 32])) {
    let boot_epoch = match NodeFile::open(&dirs.state, &volume.name) {
        Ok(file) => file.boot_epoch(),
        Err(why) => {
            return tracing::warn!("{}: the peer is not told that the daemon is gone: {why}", volume.name);
        }
    };
    let released = Released { volume: volume_id(config, &volume.name), from: me, boot_epoch };
    let bytes = encode_released(&released, key);
    for _ in 0..WORDS {
        for (local, remote) in config.node(me).addresses.iter().zip(&config.node(me.other()).addresses) {
            send(*local, *remote, &bytes);
        }
        std::thread::sleep(BETWEEN);
    }
    for line in &config.node(me).serial {
        // Two are all that a slow line is worth holding others up for.
        let said = (0..2).try_for_each(|_| link::say_over(line, &bytes));
        said.unwrap_or_else(|error| tracing::warn!("{line}: the peer is not told over it: {error}"));
    }
    tracing::warn!("{}: the daemon is gone; its peer was told, and need not wait for it", volume.name);
}

/// From the port that firewalls know, as the daemon's is free now.
fn send(local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
    let socket = UdpSocket::bind(local).or_else(|_| UdpSocket::bind((local.ip(), 0)));
    if let Ok(socket) = socket {
        let _ = socket.send_to(bytes, remote);
    }
}
