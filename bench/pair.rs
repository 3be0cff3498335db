//! Two twinfs daemons on this machine, each in a network of its own with a cable between them, both images on the same
//! disk.
//!
//! Decides addresses and timing: generous, so that a busy disk never looks like a dead peer. Everything but the cable
//! is in the namespaces of this process, so that the mount is reached like every other one.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::need;
use crate::harness::world::World;
use crate::setup::run;

/// How long the pair may take to be in sync, and each daemon to stop.
const PATIENCE: Duration = Duration::from_secs(60);
const NODES: [&str; 2] = ["alpha", "beta"];

/// A running pair; `alpha` serves.
pub struct Pair {
    dir: PathBuf,
    daemons: Vec<Child>,
    /// After the daemons: they use its cable.
    world: World,
}

impl Pair {
    /// Makes both images with `image` bytes, starts both daemons and waits until they are in sync.
    pub fn start(dir: &Path, image: u64, twinfs: &Path) -> anyhow::Result<Pair> {
        need::ensure(need::NODES).map_err(anyhow::Error::msg)?;
        std::fs::DirBuilder::new().mode(0o700).create(dir)?;
        // Beside it, as the key is nobody else's business and the mount is.
        let mount = dir.with_extension("mount");
        std::fs::create_dir(&mount)?;
        let world = World::new("pair", &NODES, 1);
        let config = dir.join("twinfs.toml");
        let addresses = NODES.map(|node| world.address(node, 0));
        std::fs::write(&config, configuration(dir, &mount, image, &addresses))?;
        for (node, verb) in NODES.into_iter().zip(["init", "join"]) {
            let mut command = Command::new(twinfs);
            command.arg(verb).arg("--config").arg(&config).args(["--node", node]).arg("--state-dir");
            run(command.arg(dir.join(node)))?;
        }
        let networks = NODES.map(|node| world.node(node).pid().to_string());
        let mut pair = Pair { dir: mount, daemons: Vec::new(), world };
        for (node, network) in NODES.into_iter().zip(networks) {
            let log = std::fs::File::create(dir.join(format!("{node}.log")))?;
            // Becomes the daemon, so that its pid is the daemon's.
            let mut command = Command::new("nsenter");
            command
                .args(["-t", &network, "-n"])
                .arg(twinfs)
                .arg("daemon")
                .arg("--config")
                .arg(&config)
                .args(["--node", node]);
            command.arg("--run-dir").arg(dir.join(node)).arg("--state-dir").arg(dir.join(node));
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            pair.daemons.push(command.spawn().context("twinfs daemon")?);
        }
        pair.wait_in_sync(&dir.join(NODES[0]), twinfs)?;
        Ok(pair)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Of the two daemons, the one that serves first.
    pub fn pids(&self) -> [u32; 2] {
        [self.daemons[0].id(), self.daemons[1].id()]
    }

    /// A process in the network of each daemon, and its address.
    pub fn networks(&self) -> [(i32, String); 2] {
        NODES.map(|node| (self.world.node(node).pid(), self.world.address(node, 0)))
    }

    fn wait_in_sync(&self, run_dir: &Path, twinfs: &Path) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let output =
                Command::new(twinfs).args(["--json", "status", "--run-dir"]).arg(run_dir).output()?;
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let volume = &status["volumes"][0];
            if volume["state"] == "in-sync" && volume["mounted"] == true {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "not in sync after {PATIENCE:?}: {volume}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The secondary first, so that the primary has nobody to hand over to.
        for daemon in self.daemons.iter_mut().rev() {
            let Ok(pid) = i32::try_from(daemon.id()) else { continue };
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end && matches!(daemon.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // Left only by a daemon that had to be killed.
        let _ = nix::mount::umount2(&self.dir, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn configuration(dir: &Path, mount: &Path, image: u64, addresses: &[String; 2]) -> String {
    let (dir, mount) = (dir.display(), mount.display());
    let mib = image >> 20;
    format!(
        "[cluster]\nname = \"bench\"\narbitration = \"manual\"\nkey_file = \"{dir}/key\"\n\n\
         [timing]\nkeepalive = \"500ms\"\ndeadtime = \"60s\"\ninitdead = \"2m\"\nslow_peer = \"20s\"\n\n\
         [node.alpha]\naddresses = [\"{}:8790\"]\n\n[node.beta]\naddresses = [\"{}:8790\"]\n\n\
         [volume.bench]\nimage = {{ alpha = \"{dir}/alpha.img\", beta = \"{dir}/beta.img\" }}\n\
         size = \"{mib}MiB\"\nmount = \"{mount}\"\n",
        addresses[0], addresses[1]
    )
}
