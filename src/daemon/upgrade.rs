//! The daemon goes on in another program with every mount that it serves.
//!
//! Nothing is handed to the peer: its promise covers the pause, and the successor takes part again by the rules of any
//! start (`node::kept`). Decides when that can be tried, and that everything goes on as before if it cannot. Does not
//! know how a mount is kept (`mount`) nor who may serve. Invariants: nothing is stopped before a program was found that
//! can go on and every volume is at rest; from then on whatever fails ends the mounts, as a crash would.
#![allow(clippy::disallowed_methods, reason = "a shell: another program, threads")]

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{Moment, NodeId, Span};
use crate::format::{Handover, KeptMount};
use crate::mount::Kept;
use crate::node::StateWord;
use crate::sys::handover as sys;
use crate::sys::lock::ImageLock;
use crate::sys::{clock, notify};

use super::DaemonError;
use super::prepare::read_config;
use super::protocol::{Reply, Verdict};
use super::runtime::{Running, is_serving};
use super::serving::{Rest, RestOver, Served, Task};
use super::successor::{self, Successor};
use super::volume::Volume;

/// For requests under way to end and to be stable.
const PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// A lease that is about to lapse may not last until the successor serves.
const LEASE_LEFT_MIN: Span = Span::from_millis(700);

/// What `twinfs upgrade` asks about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// How often this process became another program.
    pub count: u32,
    pub version: String,
    /// How long requests waited, at most.
    pub pause_ms: u64,
    /// Volumes whose mount is kept and not served yet.
    pub waiting: Vec<String>,
    /// Volumes whose mount ended instead.
    pub lost: Vec<String>,
}

/// What became of the mount that a predecessor left of one volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// There was none.
    #[default]
    None,
    Waiting,
    /// Served after so many milliseconds.
    Served(u64),
    Lost,
}

/// Where the mount of a volume waits for the right to be served.
#[derive(Default)]
pub struct Waiting {
    kept: Mutex<Option<Kept>>,
    fate: Mutex<Fate>,
    paused_at: Moment,
}

impl Waiting {
    pub fn new(kept: Option<Kept>, paused_at: Moment) -> Waiting {
        let fate = if kept.is_some() { Fate::Waiting } else { Fate::None };
        Waiting { kept: Mutex::new(kept), fate: Mutex::new(fate), paused_at }
    }

    pub fn is_kept(&self) -> bool {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub fn fate(&self) -> Fate {
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be served, or to end; followed by `ends`.
    pub fn take(&self) -> Option<Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether what was taken is served from now on.
    pub fn ends(&self, is_served: bool) {
        let pause_ms = clock::now().since(self.paused_at).as_millis();
        let fate = if is_served { Fate::Served(pause_ms) } else { Fate::Lost };
        *self.fate.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }
}

/// What a daemon begins with: what its predecessor left, if there was one.
#[derive(Default)]
pub struct Heritage {
    pub count: u32,
    pub from: Option<String>,
    pub paused_at: Moment,
    run_lock: Option<std::fs::File>,
    mounts: BTreeMap<String, (Kept, OwnedFd)>,
}

impl Heritage {
    /// Takes what lies under descriptor `number`. Whatever is not used ends.
    pub fn read(number: Option<u32>) -> Result<Heritage, DaemonError> {
        let Some(number) = number else { return Ok(Heritage::default()) };
        sys::note_signals().map_err(|e| DaemonError::State(e.to_string()))?;
        let all = successor::read(number).map_err(DaemonError::State)?;
        let failed = |e: std::io::Error| DaemonError::State(format!("what the predecessor left: {e}"));
        let mut mounts = BTreeMap::new();
        for state in all.mounts {
            let (name, lock) = (state.name.clone(), state.lock);
            let kept = Kept::adopt(state).map_err(failed)?;
            mounts.insert(name, (kept, sys::adopt(lock).map_err(failed)?));
        }
        let run_lock = all.run_lock.map(sys::adopt).transpose().map_err(failed)?;
        Ok(Heritage {
            count: all.count,
            from: Some(all.from),
            paused_at: Moment(all.paused_at),
            run_lock: run_lock.map(std::fs::File::from),
            mounts,
        })
    }

    /// The lock on the run directory.
    pub fn take_run_lock(&mut self) -> Option<std::fs::File> {
        self.run_lock.take()
    }

    /// Whether the mount of this volume goes on: nothing of it is a leftover.
    pub fn has(&self, volume: &str) -> bool {
        self.mounts.contains_key(volume)
    }

    /// The mount of a volume, and the lock on its image.
    pub fn take(&mut self, volume: &str) -> Option<(Kept, OwnedFd)> {
        self.mounts.remove(volume)
    }

    /// Ends what nobody took; how often this process became another program.
    pub fn end(self) -> u32 {
        self.count
    }
}

/// Everything at rest, ready to become the successor.
struct Ready {
    successor: Successor,
    resting: Resting,
}

/// The volumes that came to rest: with their mounts paused, and their serving threads waiting. Dropped, they go on.
#[derive(Default)]
struct Resting {
    mounts: Vec<Arc<dyn Served>>,
    waiting: Vec<Sender<RestOver>>,
}

impl Resting {
    /// Nothing that waits to be done is done any more.
    fn is_over(&mut self) {
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(RestOver);
        }
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.mounts.iter().for_each(|mounted| mounted.resume());
    }
}

/// The upgrades of one daemon.
pub struct Upgrades {
    pub count: u32,
    /// Number of the lock on the run directory.
    pub run_lock: u32,
    ready: Mutex<Option<Ready>>,
}

impl Upgrades {
    pub fn new(count: u32, run_lock: &std::fs::File) -> Upgrades {
        Upgrades { count, run_lock: sys::number(run_lock), ready: Mutex::default() }
    }

    fn ready(&self) -> MutexGuard<'_, Option<Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process is about to become its successor.
    pub fn is_ready(&self) -> bool {
        self.ready().is_some()
    }

    /// Something else came in between: everything goes on as before.
    pub fn cancel(&self) {
        drop(self.ready().take());
    }

    /// Becomes the successor. Comes back, with the mounts ended, only if that failed.
    pub fn go(&self, volumes: &[Arc<Volume>]) -> Result<(), DaemonError> {
        let Some(mut ready) = self.ready().take() else { return Ok(()) };
        notify::reloading();
        ready.resting.is_over();
        let retired: Result<(), String> = volumes.iter().try_for_each(|volume| volume.retire());
        let error = match retired {
            Ok(()) => ready.successor.start().to_string(),
            Err(error) => error,
        };
        ready.resting.mounts.drain(..).for_each(|mounted| mounted.abort());
        Err(DaemonError::State(format!("no successor goes on: {error}")))
    }
}

impl Volume {
    /// What is mounted here.
    pub fn mounted(&self) -> Option<Arc<dyn Served>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the serving thread end what it does and wait then, until what is returned is used or dropped. `None`: it
    /// has not ended within `limit`, and goes on.
    fn rest(&self, limit: Duration) -> Option<Sender<RestOver>> {
        let (rested, is_at_rest) = channel();
        let (over, end) = channel();
        self.tasks.send(Task::Rest(Rest { rested, end })).ok()?;
        is_at_rest.recv_timeout(limit).ok().map(|()| over)
    }

    /// What became of the mount that a predecessor left.
    pub fn fate(&self) -> Fate {
        self.waiting.fate()
    }

    /// What a successor needs of this volume, whose mount was paused.
    pub fn left_behind(&self, mounted: &dyn Served, lease: Span) -> Result<KeptMount, String> {
        let image = std::path::absolute(&self.image_path).map_err(|e| e.to_string())?;
        let until = self.view().and_then(|view| view.lease_until);
        Ok(KeptMount {
            name: self.name.clone(),
            image: image.into_os_string().into_vec(),
            lock: sys::number(&self.lock.as_fd()),
            lease_from: until.map(|until| until.0.saturating_sub(lease.0)),
            ..mounted.describe()?
        })
    }

    /// Ends the volume but for its mount, which was paused and is a successor's from now on.
    pub fn retire(&self) -> Result<(), String> {
        if let Some(mounted) = self.mounted() {
            mounted.retire();
        }
        self.end_threads();
        self.mirror.image().close().map_err(|error| format!("{}: closing the image: {error}", self.name))
    }
}

/// Brings everything to rest for `program`; without one, says how it stands.
pub async fn answer(running: &Running, program: Option<PathBuf>) -> Reply {
    match program {
        Some(program) => prepare(running, program).await,
        None => Reply { upgraded: Some(state(running)), ..Reply::done("") },
    }
}

fn state(running: &Running) -> Upgraded {
    let fates: Vec<(String, Fate)> = running.volumes().iter().map(|v| (v.name.clone(), v.fate())).collect();
    let of = |fate: Fate| fates.iter().filter(|(_, f)| *f == fate).map(|(name, _)| name.clone()).collect();
    let pause = fates.iter().filter_map(|(_, fate)| match fate {
        Fate::Served(ms) => Some(*ms),
        _ => None,
    });
    Upgraded {
        count: running.upgrades.count,
        version: env!("CARGO_PKG_VERSION").to_string(),
        pause_ms: pause.max().unwrap_or(0),
        waiting: of(Fate::Waiting),
        lost: of(Fate::Lost),
    }
}

/// After the reply the caller lets the daemon become `program`.
async fn prepare(running: &Running, program: PathBuf) -> Reply {
    let refuse = |verdict, text: String| Reply::new(verdict, format!("{text}; everything goes on as before"));
    if running.upgrades.is_ready() {
        return refuse(Verdict::TryAgain, "another upgrade is under way".to_string());
    }
    if let Some(text) = config_differs(running) {
        return refuse(Verdict::Failed, text);
    }
    let (asked, config) = (program.clone(), running.config_file().to_path_buf());
    let able = tokio::task::spawn_blocking(move || successor::judge(&asked, Some(&config))).await;
    match able {
        Ok(Ok(())) => {}
        Ok(Err(text)) => return refuse(Verdict::Failed, text),
        Err(_) => return refuse(Verdict::Failed, "asking the program ended in a panic".to_string()),
    }
    let needs_lease = running.config.cluster.arbitration != crate::config::Arbitration::Manual;
    let node = Around { me: running.me, needs_lease, lease: running.lease() };
    if let Some(text) = running.volumes().iter().find_map(|volume| obstacle(&node, volume)) {
        return refuse(Verdict::TryAgain, text);
    }
    let volumes = running.volumes().to_vec();
    let (count, run_lock) = (running.upgrades.count + 1, running.upgrades.run_lock);
    let rest = move || come_to_rest(&volumes, &node, (count, run_lock), program);
    match tokio::task::spawn_blocking(rest).await {
        Ok(Ok(ready)) => {
            *running.upgrades.ready() = Some(ready);
            Reply::done("the next program goes on")
        }
        Ok(Err(text)) => refuse(Verdict::TryAgain, text),
        Err(_) => refuse(Verdict::Failed, "coming to rest ended in a panic".to_string()),
    }
}

fn config_differs(running: &Running) -> Option<String> {
    match read_config(running.config_file()) {
        Err(error) => Some(error.to_string()),
        Ok(now) if now.hash() == running.config.hash() => None,
        Ok(_) => Some(format!(
            "{} has changed, which takes effect with \"twinfs down\" and \"twinfs up\" on both nodes",
            running.config_file().display()
        )),
    }
}

/// What holds for every volume of this node.
struct Around {
    me: NodeId,
    needs_lease: bool,
    lease: Span,
}

/// Why this volume cannot wait now.
fn obstacle(node: &Around, volume: &Volume) -> Option<String> {
    let name = &volume.name;
    let view = volume.view()?;
    let mounted = volume.mounted().is_some();
    if !mounted && !is_serving(volume) {
        return None;
    }
    if !mounted || !view.serving || view.frozen {
        return Some(format!("{name}: it is on its way up or down"));
    }
    let alone = view.record.is_some_and(|record| record.members.solo() == Some(node.me));
    let in_sync = view.connected && view.state == StateWord::InSync;
    if !alone && !in_sync {
        return Some(format!("{name}: the copies are not in sync"));
    }
    if !alone && node.needs_lease && view.lease_until.is_none() {
        return Some(format!("{name}: this node has no lease yet"));
    }
    let short = view.lease_until.is_some_and(|until| until.since(clock::now()) < LEASE_LEFT_MIN);
    short.then(|| format!("{name}: the lease of this node is too short for a pause"))
}

fn come_to_rest(
    volumes: &[Arc<Volume>],
    node: &Around,
    (count, run_lock): (u32, u32),
    program: PathBuf,
) -> Result<Ready, String> {
    let paused_at = clock::now().0;
    let mut resting = Resting::default();
    let mounts = rest_all(volumes, node, &mut resting)?;
    let from = env!("CARGO_PKG_VERSION").to_string();
    let all = Handover { from, count, paused_at, run_lock: Some(run_lock), mounts };
    Ok(Ready { successor: Successor::prepare(program, &all)?, resting })
}

fn rest_all(volumes: &[Arc<Volume>], node: &Around, resting: &mut Resting) -> Result<Vec<KeptMount>, String> {
    for volume in volumes {
        let Some(waiting) = volume.rest(PAUSE_LIMIT) else {
            return Err(format!("{}: it is on its way up or down", volume.name));
        };
        resting.waiting.push(waiting);
    }
    // Nothing is mounted or unmounted from here on.
    if let Some(text) = volumes.iter().find_map(|volume| obstacle(node, volume)) {
        return Err(text);
    }
    let mut states = Vec::new();
    for volume in volumes {
        let Some(mounted) = volume.mounted() else { continue };
        mounted.pause(PAUSE_LIMIT).map_err(|why| format!("{}: {why}", volume.name))?;
        resting.mounts.push(Arc::clone(&mounted));
        states.push(volume.left_behind(mounted.as_ref(), node.lease)?);
    }
    Ok(states)
}

/// The lock on an image, as it was left or as it is taken.
pub fn image_lock(path: &Path, left: Option<OwnedFd>, wait: Duration) -> Result<ImageLock, DaemonError> {
    let lock = match left {
        Some(left) => ImageLock::adopt(path, left),
        None => ImageLock::take(path, wait),
    };
    // Its text names the image already.
    lock.map_err(|e| DaemonError::Config(e.to_string()))
}
