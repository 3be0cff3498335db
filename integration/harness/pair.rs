//! A pair of twinfs nodes and its witness in a `World`, set up with the commands that an administrator would type.
//!
//! Decides timing (short, so that a takeover takes seconds) and waits for states by `twinfs status --json`. Does not
//! know what a test does with the pair.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::node::{Node, Running};
use super::wait_for;
use super::world::{World, disk_dir};

/// Where the volume is mounted.
pub const MOUNT: &str = "/replicated";
/// How long any one change of state may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOG: &str = "twinfsd.log";

/// What a test wants to be different.
#[derive(Clone, Debug)]
pub struct Plan {
    /// As in the configuration, or `etcd`: a witness that `cluster` names.
    pub arbitration: &'static str,
    pub paths: usize,
    /// Baud of a serial line beside the paths.
    pub serial: Option<u32>,
    pub size: &'static str,
    /// Further lines of `[cluster]` and of `[volume.data]`.
    pub cluster: String,
    pub volume: String,
    /// Image path of alpha and of beta.
    pub images: [String; 2],
    /// Bytes of the power-cut disks that hold the images instead of `images`.
    pub power_disks: Option<u64>,
    pub slow_peer: &'static str,
    pub deadtime: &'static str,
    pub initdead: &'static str,
    pub encrypt: &'static str,
}

impl Default for Plan {
    fn default() -> Plan {
        let image = "/var/lib/twinfs/data.img".to_string();
        Plan {
            arbitration: "witness",
            paths: 1,
            serial: None,
            size: "256MiB",
            cluster: String::new(),
            volume: String::new(),
            images: [image.clone(), image],
            power_disks: None,
            slow_peer: "500ms",
            deadtime: "4s",
            initdead: "8s",
            encrypt: "on",
        }
    }
}

/// Nodes alpha and beta with a volume `data`, and gamma as the witness.
pub struct Pair {
    daemons: Vec<(String, Running)>,
    witness: Option<Running>,
    pub world: World,
}

impl Pair {
    /// Sets the pair up and waits until both are in sync and alpha serves.
    pub fn start(test: &str, plan: &Plan) -> Pair {
        let mut pair = Pair::prepare(test, plan);
        if plan.arbitration == "witness" {
            pair.start_witness();
        }
        for name in ["alpha", "beta"] {
            pair.start_daemon(name);
        }
        pair.wait_in_sync("alpha");
        pair
    }

    /// Configuration, keys and images are made; nothing runs.
    pub fn prepare(test: &str, plan: &Plan) -> Pair {
        let disks: Vec<(&str, u64)> =
            plan.power_disks.iter().flat_map(|size| [("alpha", *size), ("beta", *size)]).collect();
        let world = World::with_disks(test, &["alpha", "beta", "gamma"], plan.paths, &disks);
        let mut pair = Pair { daemons: Vec::new(), witness: None, world };
        pair.configure(plan);
        pair
    }

    pub fn node(&self, name: &str) -> &Node {
        self.world.node(name)
    }

    /// The configuration, the same on both nodes.
    pub fn toml(&self, plan: &Plan) -> String {
        let addresses = |name: &str| {
            let all: Vec<String> =
                (0..plan.paths).map(|path| format!("\"{}:8790\"", self.world.address(name, path))).collect();
            all.join(", ")
        };
        let serial = |name: &str| match plan.serial {
            Some(baud) => {
                let device = super::cable::device(&self.world.dir, name);
                format!("serial = [\"{}@{baud}\"]\n", device.display())
            }
            None => String::new(),
        };
        let witness = match plan.arbitration {
            "witness" => format!("witness = \"{}:8791\"\n", self.world.address("gamma", 0)),
            // With what the plan says about its members.
            _ => String::new(),
        };
        let arbitration = if plan.arbitration == "etcd" { "witness" } else { plan.arbitration };
        format!(
            "[cluster]\nname = \"test\"\narbitration = \"{}\"\nencrypt = \"{}\"\n{witness}{}\n\
             [timing]\nkeepalive = \"100ms\"\ndeadtime = \"{}\"\ninitdead = \"{}\"\nslow_peer = \"{}\"\n\
             release_time = \"1500ms\"\nwitness_timeout = \"100ms\"\n\n\
             [node.alpha]\naddresses = [{}]\n{}\n[node.beta]\naddresses = [{}]\n{}\n\
             [volume.data]\nimage = {{ alpha = \"{}\", beta = \"{}\" }}\nsize = \"{}\"\nmount = \"{MOUNT}\"\n{}",
            arbitration,
            plan.encrypt,
            plan.cluster,
            plan.deadtime,
            plan.initdead,
            plan.slow_peer,
            addresses("alpha"),
            serial("alpha"),
            addresses("beta"),
            serial("beta"),
            self.image("alpha", plan),
            self.image("beta", plan),
            plan.size,
            plan.volume
        )
    }
}

impl Pair {
    /// Where a node sees its image.
    fn image(&self, name: &str, plan: &Plan) -> String {
        match plan.power_disks {
            Some(_) => self.world.dir.join(disk_dir(name)).join("disk").display().to_string(),
            None => plan.images[usize::from(name == "beta")].clone(),
        }
    }

    /// Starts the daemon of a node, as its systemd unit would.
    pub fn start_daemon(&mut self, name: &str) {
        self.daemons.retain(|(owner, _)| owner != name);
        // The log of the daemon before stays: what led to a failure is often in it.
        let node = self.world.node(name);
        let _ = std::fs::rename(node.dir.join(LOG), node.dir.join("before.log"));
        let running = node.spawn(LOG, &["twinfs", "daemon"]);
        self.daemons.push((name.to_string(), running));
    }

    pub fn start_witness(&mut self) {
        self.witness = None;
        self.witness = Some(self.world.node("gamma").spawn("witness.log", &["twinfs", "witness"]));
    }

    /// SIGKILL for the witness.
    pub fn stop_witness(&mut self) {
        self.node("gamma").signal("twinfs witness", nix::sys::signal::Signal::SIGKILL);
        self.witness = None;
    }

    /// The volume as a node sees it, or null.
    pub fn volume(&self, name: &str) -> Value {
        let ran = self.node(name).run(&["twinfs", "--json", "status"]);
        let status: Value =
            ran.out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        status["volumes"][0].clone()
    }

    /// Waits until the volume on `name` satisfies `check`; panics with the last state.
    #[track_caller]
    pub fn wait(&self, name: &str, what: &str, check: impl Fn(&Value) -> bool) {
        let mut last = Value::Null;
        let reached = wait_for(PATIENCE, || {
            last = self.volume(name);
            check(&last)
        });
        assert!(reached, "{name} is not {what} after {PATIENCE:?}: {last:#}\n{}", self.node(name).log(LOG));
    }

    /// Waits until `name` serves, with its peer in sync.
    #[track_caller]
    pub fn wait_in_sync(&self, name: &str) {
        self.wait(name, "serving and in sync", |volume| {
            volume["serving"] == true && volume["mounted"] == true && volume["state"] == "in-sync"
        });
    }

    /// Waits until one of the two serves with the other in sync.
    #[track_caller]
    pub fn wait_either_in_sync(&self) {
        let good = |volume: &Value| {
            volume["serving"] == true && volume["mounted"] == true && volume["state"] == "in-sync"
        };
        let reached = wait_for(PATIENCE, || ["alpha", "beta"].iter().any(|name| good(&self.volume(name))));
        assert!(reached, "nobody serves in sync: {:#} {:#}", self.volume("alpha"), self.volume("beta"));
    }

    #[track_caller]
    pub fn wait_serving(&self, name: &str) {
        self.wait(name, "serving", |volume| volume["serving"] == true && volume["mounted"] == true);
    }

    /// Which of the two serves, by their own account.
    pub fn primary(&self) -> Option<&'static str> {
        ["alpha", "beta"].into_iter().find(|name| self.volume(name)["serving"] == true)
    }
}

impl Pair {
    /// Ends both nodes at one instant while nothing is written, and compares their images block by block.
    #[track_caller]
    pub fn compare_images(&mut self) {
        for name in ["alpha", "beta"] {
            let _ = self.node(name).run(&["pkill", "-9", "perl"]);
        }
        // Past the commit timer and a checkpoint, so that nothing is in flight.
        std::thread::sleep(Duration::from_secs(3));
        self.end_both();
        let [alpha, beta] = ["alpha", "beta"].map(|name| self.image_outside(name));
        let differing = super::images::differing_blocks(&alpha, &beta);
        assert!(differing.is_empty(), "blocks differ between the images: {differing:?}");
    }

    /// After `compare_images`: fsck finds nothing in either image.
    #[track_caller]
    pub fn check_images(&self) {
        for name in ["alpha", "beta"] {
            let image = self.image_outside(name).display().to_string();
            self.node("gamma")
                .run_within(Duration::from_secs(600), &["fsck-twinfs", "-n", "-f", &image])
                .ok();
        }
    }

    /// Where the image of a node lies on this machine.
    fn image_outside(&self, name: &str) -> PathBuf {
        match self.world.disks.is_empty() {
            true => self.node(name).dir.join("images/data.img"),
            false => self.world.dir.join(disk_dir(name)).join("disk"),
        }
    }

    /// SIGKILL for everything on both nodes.
    pub fn end_both(&mut self) {
        std::thread::scope(|scope| {
            for name in ["alpha", "beta"] {
                let node = self.world.node(name);
                scope.spawn(move || node.kill_all());
            }
        });
        self.daemons.clear();
    }

    /// Both daemons stop, read a new configuration and start.
    pub fn restart_with(&mut self, plan: &Plan) {
        for name in ["beta", "alpha"] {
            self.node(name).run(&["twinfs", "down"]).ok();
        }
        self.daemons.clear();
        self.write_config(plan);
        for name in ["alpha", "beta"] {
            self.start_daemon(name);
        }
        self.wait_in_sync("alpha");
    }
}

impl Pair {
    /// Configuration on both nodes, then the commands of an administrator.
    fn configure(&mut self, plan: &Plan) {
        for name in ["alpha", "beta", "gamma"] {
            self.node(name).sh("mkdir -m 700 /etc/twinfs").ok();
        }
        self.write_config(plan);
        self.node("alpha").run(&["twinfs", "init"]).ok();
        self.copy("alpha", "/etc/twinfs/key", "beta");
        self.node("beta").run(&["twinfs", "join"]).ok();
        if plan.arbitration == "witness" {
            let witness = "/etc/twinfs/witness.key";
            self.node("alpha").run(&["twinfs", "key", "generate", "--witness", witness]).ok();
            self.copy("alpha", witness, "gamma");
        }
    }

    fn write_config(&self, plan: &Plan) {
        let text = self.toml(plan);
        for name in ["alpha", "beta"] {
            let node = self.node(name);
            std::fs::write(node.dir.join("twinfs.toml"), &text).expect("configuration");
            node.sh(&format!("cp {}/twinfs.toml /etc/twinfs/twinfs.toml", node.dir.display())).ok();
        }
    }

    /// What scp does between two machines.
    fn copy(&self, from: &str, path: &str, to: &str) {
        let between = self.world.dir.join("carried");
        let between = between.display();
        self.node(from).sh(&format!("cp -p {path} {between}")).ok();
        self.node(to).sh(&format!("cp -p {between} {path} && rm {between}")).ok();
    }
}
