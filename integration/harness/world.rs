//! Nodes and the cables between them. Each path is a bridge in a namespace of its own; each node has one port on it.
//!
//! Node number i (from 1) has the address 192.0.2.(10+i) on path 0 and 198.51.100.(10+i) on path 1 (RFC 5737).

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::bin_dir;
use super::node::{Node, Ran};
use super::powercut::PowerDisk;

static COUNT: AtomicU32 = AtomicU32::new(0);
/// Where the scratch folders lie, if not below /var/tmp.
static BASE: OnceLock<PathBuf> = OnceLock::new();
const PREFIXES: [&str; 2] = ["192.0.2", "198.51.100"];

/// Some nodes, their cables and their scratch folder; taken back when dropped.
pub struct World {
    // Before `switch` and `dir`: mounts and processes of the nodes go first.
    pub nodes: Vec<Node>,
    switch: Option<Node>,
    /// Mounted before the nodes, so that they see it, at `disk_dir` of their names.
    pub disks: Vec<PowerDisk>,
    pub dir: PathBuf,
    paths: usize,
}

impl World {
    /// Nodes with these names, joined by `paths` cables (one or two).
    pub fn new(test: &str, names: &[&str], paths: usize) -> World {
        World::with_disks(test, names, paths, &[])
    }

    /// The same, with a power-cut disk of so many bytes for some of the nodes.
    pub fn with_disks(test: &str, names: &[&str], paths: usize, disks: &[(&str, u64)]) -> World {
        assert!((1..=PREFIXES.len()).contains(&paths));
        let dir = scratch(test);
        let programs = bin_dir();
        let disks =
            disks.iter().map(|(name, size)| PowerDisk::mount(&dir.join(disk_dir(name)), *size)).collect();
        let switch = Node::start("switch", &dir, &programs);
        for path in 0..paths {
            switch.ip(&format!("link add br{path} type bridge forward_delay 0 stp_state 0"));
            switch.ip(&format!("link set br{path} up"));
        }
        let mut world = World { nodes: Vec::new(), switch: Some(switch), disks, dir, paths };
        for name in names {
            world.add(name);
        }
        world
    }

    fn add(&mut self, name: &str) {
        let node = Node::start(name, &self.dir, &bin_dir());
        let number = self.nodes.len() + 1;
        for path in 0..self.paths {
            // From outside, as only there the pids of both ends have a meaning.
            let words = format!(
                "-t {switch} -n ip link add {name}{path} type veth peer name eth{path} netns {node}",
                switch = self.switch().pid(),
                node = node.pid()
            );
            let output =
                Command::new("nsenter").args(words.split_whitespace()).output().expect("nsenter runs");
            Ran::from(output).ok();
            self.switch().ip(&format!("link set {name}{path} master br{path} up"));
            node.ip(&format!("addr add {}/24 dev eth{path}", address(number, path)));
            node.ip(&format!("link set eth{path} up"));
        }
        let hosts: String = (1..=9)
            .zip(["alpha", "beta", "gamma"])
            .map(|(number, name)| format!("{} {name}\n", address(number, 0)))
            .collect();
        std::fs::write(node.dir.join("hosts"), format!("127.0.0.1 localhost\n{hosts}")).expect("hosts");
        node.sh(&format!("cp {}/hosts /etc/hosts", node.dir.display())).ok();
        self.nodes.push(node);
    }

    fn switch(&self) -> &Node {
        self.switch.as_ref().expect("there until the world is dropped")
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this name")
    }

    /// Address of a node on a path.
    pub fn address(&self, name: &str, path: usize) -> String {
        let index = self.nodes.iter().position(|node| node.name == name).expect("a node of this name");
        address(index + 1, path)
    }

    /// Pulls or plugs a node's cable at the switch.
    pub fn cable(&self, name: &str, path: usize, plugged: bool) {
        self.switch().ip(&format!("link set {name}{path} {}", if plugged { "up" } else { "down" }));
    }

    /// Loses every packet between two nodes, both ways, on every path; others still see both.
    pub fn part(&self, one: &str, other: &str) {
        for path in 0..self.paths {
            self.node(one).drop_from(&self.address(other, path));
            self.node(other).drop_from(&self.address(one, path));
        }
    }

    /// Every cable plugged, no packet dropped.
    pub fn heal(&self) {
        for node in &self.nodes {
            node.drop_nothing();
            for path in 0..self.paths {
                self.cable(&node.name, path, true);
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        self.nodes.clear();
        self.switch = None;
        // No namespace holds them any more.
        self.disks.clear();
        if std::env::var("TWINFS_TEST_KEEP").is_err() {
            // The kernel takes the mounts of the dead namespaces down a moment after their last process.
            let gone = || std::fs::remove_dir_all(&self.dir).is_ok() || !self.dir.exists();
            super::wait_for(std::time::Duration::from_secs(10), gone);
        }
    }
}

impl World {
    /// The last lines of every log, printed when a test fails.
    fn report(&self) {
        for node in &self.nodes {
            for entry in std::fs::read_dir(&node.dir).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !name.ends_with(".log") {
                    continue;
                }
                let text = node.log(&name);
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {} {name}\n{tail}", node.name);
            }
        }
    }
}

/// Folder of a node's power-cut disk, below the world's.
pub fn disk_dir(name: &str) -> String {
    format!("disk-{name}")
}

fn address(number: usize, path: usize) -> String {
    format!("{}.{}", PREFIXES[path], 10 + number)
}

/// All scratch folders from now on lie in `dir`; said once, by whoever measures the disk below it.
pub fn keep_in(dir: PathBuf) {
    BASE.get_or_init(|| dir);
}

/// A new folder on a disk (the images of the nodes lie there).
pub fn scratch(test: &str) -> PathBuf {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let base = BASE.get_or_init(|| "/var/tmp".into());
    let dir = base.join(format!("twinfs-test-{test}-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("scratch folder");
    dir
}
