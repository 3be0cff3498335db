//! GlusterFS with two replicas: two servers in namespaces of their own, each brick an ext4 on a loop image, mounted by
//! a client beside the first server.
//!
//! Decides options: none, the volume is as its program makes it. Does not know what is measured. Servers and their
//! namespaces end with their first process; the client is in the mount namespace of this process, as every other setup
//! is, and in the network of the first server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::need;
use crate::harness::node::Running;
use crate::harness::world::World;
use crate::setup::{make_ext4, run};
use crate::stop;

const NODES: [&str; 2] = ["alpha", "beta"];
const VOLUME: &str = "bench";
/// As a node sees its brick; a volume takes a folder below a mount point.
const IMAGE: &str = "/var/lib/twinfs/brick.img";
const BRICK: &str = "/brick";
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted volume. The order of the fields is that of the end: client, servers, nodes.
pub struct Gluster {
    client: Client,
    _servers: Vec<Running>,
    _world: World,
}

impl Gluster {
    /// Installs what is missing, makes both bricks with `image` bytes, and mounts the volume at `dir`.
    pub fn start(dir: &Path, image: u64) -> anyhow::Result<Gluster> {
        let programs = [("glusterd", "glusterfs-server"), ("glusterfs", "glusterfs-client")];
        need::ensure(need::NODES).and_then(|()| need::ensure(&programs)).map_err(anyhow::Error::msg)?;
        std::fs::create_dir(dir)?;
        let world = World::new("gluster", &NODES, 1);
        let mut servers = Vec::new();
        for name in NODES {
            let node = world.node(name);
            // Where a node sees it as IMAGE. Attributes of files have room in the inode, as the manual of bricks asks.
            make_ext4(&node.dir.join("images/brick.img"), image, &["-I", "512"])?;
            let line = format!(
                "mkdir {BRICK} && mount -o loop,noatime {IMAGE} {BRICK} && mkdir {BRICK}/data && \
                 mkdir -p /var/log/glusterfs /run/gluster && rm -f /var/lib/glusterd/glusterd.info"
            );
            node.sh(&line).ok();
            servers.push(node.spawn("glusterd.log", &["glusterd", "-N", "--log-level", "WARNING"]));
        }
        make_volume(&world)?;
        let client = Client::mount(&world, dir)?;
        Ok(Gluster { client, _servers: servers, _world: world })
    }

    pub fn dir(&self) -> &Path {
        &self.client.dir
    }
}

/// Both servers know each other, and the volume runs on both.
fn make_volume(world: &World) -> anyhow::Result<()> {
    let address = |name: &str| world.address(name, 0);
    let bricks = NODES.map(|name| format!("{}:{BRICK}/data", address(name)));
    let peer = address(NODES[1]);
    until("its servers to answer", || NODES.iter().all(|name| gluster(world, name, &["pool", "list"])))?;
    until("its servers to meet", || gluster(world, NODES[0], &["peer", "probe", &peer]))?;
    let create =
        ["volume", "create", VOLUME, "replica", "2", "transport", "tcp", &bricks[0], &bricks[1], "force"];
    until("the volume to be made", || gluster(world, NODES[0], &create))?;
    until("the volume to start", || gluster(world, NODES[0], &["volume", "start", VOLUME]))?;
    until("both bricks to be there", || {
        let status = ["gluster", "--mode=script", "volume", "status", VOLUME, "detail"];
        let shown = world.node(NODES[0]).run(&status).out;
        shown.lines().filter(|line| line.starts_with("Online") && line.trim_end().ends_with('Y')).count() == 2
    })
}

fn gluster(world: &World, name: &str, words: &[&str]) -> bool {
    world.node(name).run(&[&["gluster", "--mode=script"], words].concat()).code == 0
}

fn until(what: &str, mut check: impl FnMut() -> bool) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !check() {
        stop::check()?;
        anyhow::ensure!(Instant::now() < end, "GlusterFS: waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// The process that serves the mount.
struct Client {
    dir: PathBuf,
    process: Child,
}

impl Client {
    fn mount(world: &World, dir: &Path) -> anyhow::Result<Client> {
        let node = world.node(NODES[0]);
        let log = node.dir.join("client.log");
        let mut command = Command::new("nsenter");
        command.args(["-t", &node.pid().to_string(), "-n", "glusterfs", "-N", "--log-level=WARNING"]);
        command.arg(format!("--log-file={}", log.display()));
        command.args([format!("--volfile-server={}", world.address(NODES[0], 0))]);
        command.arg(format!("--volfile-id={VOLUME}")).arg(dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut client = Client { dir: dir.to_path_buf(), process: command.spawn().context("glusterfs")? };
        let outside = device_of(dir.parent().unwrap_or(dir))?;
        // It answers only once it has heard of both bricks.
        until("the client to mount", || device_of(dir).is_ok_and(|device| device != outside))?;
        until("the client to write", || std::fs::write(dir.join("probe"), "x").is_ok())?;
        std::fs::remove_file(dir.join("probe"))?;
        anyhow::ensure!(client.process.try_wait()?.is_none(), "the client of GlusterFS ended");
        Ok(client)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // While it is alive: what it holds back is written. It may also not have come as far as to mount.
        let _ = run(Command::new("umount").arg(&self.dir));
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end && matches!(self.process.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Nobody can mount it any more.
        let _ = umount2(&self.dir, MntFlags::MNT_DETACH);
    }
}

fn device_of(path: &Path) -> std::io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(path)?))
}
