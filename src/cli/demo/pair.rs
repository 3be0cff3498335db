//! The processes of the demo: two daemons and a witness, in a folder of their own.
//!
//! Decides ports, timings and paths. Does not know the story. Invariant: every process that was started is ended by
//! `end` or by dropping the pair, unless it was told to stay.
#![allow(clippy::disallowed_methods, reason = "a shell: processes, sockets")]

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{scratch, wait};
use crate::daemon::protocol::{Reply, Request, Verdict, call};
use crate::daemon::status::{NodeStatus, VolumeStatus};
use crate::sys::mount;

const PATIENCE: Duration = Duration::from_secs(60);
/// Takeover within seconds on one machine, with room for a busy one.
/// As `TIMING` sets it, for people.
pub const DEADTIME: &str = "2.5 s";
const TIMING: &str = "keepalive = \"100ms\"\ndeadtime = \"2500ms\"\ninitdead = \"5s\"\nslow_peer = \"1200ms\"\n\
                      release_time = \"300ms\"\nwitness_timeout = \"100ms\"\n";

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Alpha,
    Beta,
}

impl Name {
    fn index(self) -> usize {
        usize::from(self == Name::Beta)
    }

    pub fn text(self) -> &'static str {
        ["alpha", "beta"][self.index()]
    }
}

/// Two nodes and perhaps a witness.
pub struct Pair {
    pub dir: PathBuf,
    pub mount: PathBuf,
    nodes: [Option<Child>; 2],
    witness: Option<Child>,
    /// Where the witness listens.
    witness_port: Option<u16>,
    stay: bool,
}

/// A port that is free for TCP and UDP on the loopback device.
fn free_port() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let port = tcp.local_addr()?.port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("found no port that is free for TCP and UDP")
}

impl Pair {
    /// Configuration, keys and images; nothing runs yet.
    pub fn make(parent: &Path, witness: bool) -> anyhow::Result<Pair> {
        let dir = scratch(parent)?;
        let pair = Pair {
            mount: dir.join("replicated"),
            dir,
            nodes: [None, None],
            witness: None,
            witness_port: witness.then(free_port).transpose()?,
            stay: false,
        };
        pair.prepare()?;
        Ok(pair)
    }

    fn prepare(&self) -> anyhow::Result<()> {
        let dir = self.dir.display();
        std::fs::create_dir(&self.mount)?;
        let (arbitration, witness) = match self.witness_port {
            Some(port) => ("witness", format!("witness = \"127.0.0.1:{port}\"\n")),
            None => ("yield", String::new()),
        };
        let text = format!(
            "[cluster]\nname = \"demo\"\nkey_file = \"{dir}/key\"\narbitration = \"{arbitration}\"\n{witness}\n\
             [timing]\n{TIMING}\n\
             [node.alpha]\naddresses = [\"127.0.0.1:{}\"]\n\n[node.beta]\naddresses = [\"127.0.0.1:{}\"]\n\n\
             [volume.data]\nimage = {{ alpha = \"{dir}/alpha.img\", beta = \"{dir}/beta.img\" }}\nsize = \"768M\"\n\
             mount = \"{}\"\n",
            free_port()?,
            free_port()?,
            self.mount.display()
        );
        std::fs::write(self.config(), text)?;
        self.call_self(&["key", "generate", &format!("{dir}/key")])?;
        if self.witness_port.is_some() {
            let config = self.config().display().to_string();
            self.call_self(&[
                "key",
                "generate",
                "--witness",
                "--config",
                &config,
                &format!("{dir}/witness.key"),
            ])?;
        }
        for (verb, name) in [("init", Name::Alpha), ("join", Name::Beta)] {
            let (config, state) = (self.config(), self.state_dir(name));
            let (config, state) = (config.display().to_string(), state.display().to_string());
            self.call_self(&[verb, "--config", &config, "--node", name.text(), "--state-dir", &state])?;
        }
        Ok(())
    }

    fn config(&self) -> PathBuf {
        self.dir.join("twinfs.toml")
    }

    pub fn run_dir(&self, name: Name) -> PathBuf {
        self.dir.join(format!("run-{}", name.text()))
    }

    fn state_dir(&self, name: Name) -> PathBuf {
        self.dir.join(format!("state-{}", name.text()))
    }

    pub fn image(&self, name: Name) -> PathBuf {
        self.dir.join(format!("{}.img", name.text()))
    }

    fn program(&self, args: &[&str], log: &str) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.dir.join(log))?;
        let mut command = Command::new(std::env::current_exe().context("finding this program")?);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn call_self(&self, args: &[&str]) -> anyhow::Result<()> {
        let status = self.program(args, "setup.log")?.status()?;
        if !status.success() {
            let text = std::fs::read_to_string(self.dir.join("setup.log")).unwrap_or_default();
            bail!("twinfs {} failed: {}", args[0], text.lines().last().unwrap_or_default());
        }
        Ok(())
    }

    pub fn start(&mut self, name: Name) -> anyhow::Result<()> {
        let (config, run, state) = (self.config(), self.run_dir(name), self.state_dir(name));
        let paths = [config, run, state].map(|path| path.display().to_string());
        let args = [
            "daemon",
            "--config",
            &paths[0],
            "--node",
            name.text(),
            "--run-dir",
            &paths[1],
            "--state-dir",
            &paths[2],
        ];
        let mut command = self.program(&args, &format!("{}.log", name.text()))?;
        if self.stay {
            command.process_group(0);
        }
        self.nodes[name.index()] = Some(command.spawn().context("starting a node")?);
        Ok(())
    }

    fn start_witness(&mut self) -> anyhow::Result<()> {
        let Some(port) = self.witness_port else { return Ok(()) };
        let (listen, dir) = (format!("127.0.0.1:{port}"), self.dir.join("witness").display().to_string());
        let key = self.dir.join("witness.key").display().to_string();
        let args = ["witness", "--listen", &listen, "--dir", &dir, "--key-file", &key];
        let mut command = self.program(&args, "witness.log")?;
        if self.stay {
            command.process_group(0);
        }
        self.witness = Some(command.spawn().context("starting the witness")?);
        Ok(())
    }

    pub fn start_all(&mut self) -> anyhow::Result<()> {
        self.start_witness()?;
        self.start(Name::Alpha)?;
        self.start(Name::Beta)
    }

    /// Starts everything again so that it outlives this process.
    pub fn start_to_stay(&mut self) -> anyhow::Result<()> {
        if let Some(mut witness) = self.witness.take() {
            let _ = witness.kill();
            let _ = witness.wait();
        }
        self.stay = true;
        self.start_all()
    }

    /// SIGKILL, and the death is over when this returns.
    pub fn kill(&mut self, name: Name) -> anyhow::Result<()> {
        if let Some(mut child) = self.nodes[name.index()].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub fn pid(&self, name: Name) -> u32 {
        self.nodes[name.index()].as_ref().map_or(0, Child::id)
    }

    pub fn witness_pid(&self) -> Option<u32> {
        self.witness.as_ref().map(Child::id)
    }

    fn ask(&self, name: Name, request: &Request) -> Option<Reply> {
        call(&self.run_dir(name), request, PATIENCE).ok()
    }

    /// An order that must succeed.
    pub fn order(&self, name: Name, request: &Request) -> anyhow::Result<()> {
        match self.ask(name, request) {
            Some(reply) if reply.verdict == Verdict::Done => Ok(()),
            Some(reply) => bail!("{}: {}", name.text(), reply.text),
            None => bail!("{} does not answer", name.text()),
        }
    }

    fn status(&self, name: Name) -> Option<NodeStatus> {
        self.ask(name, &Request::Status)?.status
    }

    pub fn volume(&self, name: Name) -> Option<VolumeStatus> {
        self.status(name)?.volumes.into_iter().next()
    }

    /// Waits until `primary` serves and both copies are current.
    pub fn wait_in_sync(&mut self, primary: Name, limit: Duration) -> anyhow::Result<()> {
        let mut died = None;
        let waited = wait(limit, "both nodes to be in sync", || {
            died = died.take().or_else(|| self.dead_node());
            died.is_some()
                || self
                    .volume(primary)
                    .is_some_and(|v| v.mounted && v.connected && v.state == "in-sync" && v.serving)
        });
        if let Some(name) = died {
            let log = self.dir.join(format!("{}.log", name.text()));
            let text = std::fs::read_to_string(log).unwrap_or_default();
            bail!("{} ended: {}", name.text(), text.lines().last().unwrap_or_default());
        }
        waited
    }

    fn dead_node(&mut self) -> Option<Name> {
        let ended =
            |child: &mut Option<Child>| child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(Some(_))));
        [Name::Alpha, Name::Beta].into_iter().find(|name| ended(&mut self.nodes[name.index()]))
    }

    /// Bytes that the last resync had to copy, by the source's own account.
    pub fn resync_bytes(&self, source: Name) -> anyhow::Result<u64> {
        let reply = self.ask(source, &Request::Events { volume: None, count: 200 }).context("no answer")?;
        let started = reply.events.iter().rev().find(|event| event["event"] == "resync-started");
        Ok(started.and_then(|event| event["bytes"].as_u64()).unwrap_or(0))
    }

    /// Stops both in order, the primary last, so that the last flush reaches both images.
    pub fn stop_both(&mut self, limit: Duration) -> anyhow::Result<()> {
        let serving = |pair: &Pair, name| pair.volume(name).is_some_and(|v| v.serving);
        let first = if serving(self, Name::Alpha) { Name::Alpha } else { Name::Beta };
        let second = if first == Name::Alpha { Name::Beta } else { Name::Alpha };
        for name in [first, second] {
            self.order(name, &Request::Stop { hand_over: false })?;
            let child = &mut self.nodes[name.index()];
            wait(limit, "a node to stop", || {
                child.as_mut().is_none_or(|c| matches!(c.try_wait(), Ok(Some(_)) | Err(_)))
            })?;
            *child = None;
        }
        Ok(())
    }

    /// Ends every process and takes the mount away.
    pub fn end(&mut self) {
        for child in self.nodes.iter_mut().chain([&mut self.witness]) {
            let Some(mut child) = child.take() else { continue };
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            let _ = kill(pid, Signal::SIGTERM);
            let ended =
                wait(Duration::from_secs(10), "its end", || matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
            if ended.is_err() {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
        while mount::mounted_at(&self.mount).ok().flatten().is_some() && mount::detach(&self.mount).is_ok() {}
    }

    /// What was started lives on.
    pub fn leave(&mut self) {
        self.nodes = [None, None];
        self.witness = None;
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let runs = self.nodes.iter().any(Option::is_some) || self.witness.is_some();
        if runs {
            self.end();
        }
    }
}
