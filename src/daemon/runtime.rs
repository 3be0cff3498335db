//! The whole node: configuration, keys, volumes, listener, control plane; from start to orderly stop.
//!
//! Decides the order in which the parts come up and go down. Does not know what a volume does. Invariants: leftovers of
//! a predecessor go before an image is opened; one daemon per run directory; a stop is bounded in time.
#![allow(clippy::disallowed_methods, reason = "a shell: files, sockets, threads")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::base::{NodeId, Span, VolumeId};
use crate::config::{ClusterKey, Config, Purpose};
use crate::events::{Event as Told, Names};
use crate::history::History;
use crate::link::{Connection, Identity, Listener, Opening, Path as LinkPath, Paths};
use crate::node::{Operator, StateWord, Timing};
use crate::services::address::Addresses;
use crate::services::run::{self, Services};
use crate::sys::{clock, handover, notify};

use super::arbiter::Arbiter;
use super::fence::Fencer;
use super::journal::Journal;
use super::merged;
use super::peer;
use super::prepare::{Prepared, mistaken, prepare, read_config, read_key};
use super::protocol::SOCKET_NAME;
use super::pulse::Pulse;
use super::replace::Desk;
use super::shell::Question;
use super::supervisor::Supervisor;
use super::token::Tokens;
use super::upgrade::{Heritage, Upgrades};
use super::volume::{Shared, Volume, volume_id};
use super::witness_watch::WitnessWatch;
use super::{
    DaemonError, Dirs, Options, control, dial, failback, hooks, leftovers, orders, pace, paths_watch, ping,
    reach, sides, switch, witness_watch,
};

/// For a hand-over before the daemon stops.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(60);
/// For the peer to serve what it was handed.
const TAKEN_LIMIT: Duration = Duration::from_secs(10);
/// For a farewell: a peer that does not take it finds out by itself.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// For a question to the peer from a process that is no daemon.
const TALK_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks while waiting for a state.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Volume -> why the peer and this node do not talk about it.
pub type Refusals = Arc<Mutex<BTreeMap<String, String>>>;

/// A node that runs.
pub struct Running {
    pub config: Arc<Config>,
    pub me: NodeId,
    pub journal: Arc<Journal>,
    pub paths: Arc<Paths>,
    pub fencer: Fencer,
    pub tokens: Arc<Tokens>,
    volumes: Vec<Arc<Volume>>,
    /// Heartbeats, and how good each path is.
    pub pulse: Arc<Pulse>,
    pub config_differs: Arc<AtomicBool>,
    pub refusals: Refusals,
    /// Where `arbitration` is `witness`.
    pub witness: Option<WitnessWatch>,
    config_file: PathBuf,
    pub stop: tokio::sync::Notify,
    pub hand_over: AtomicBool,
    pub upgrades: Upgrades,
}

impl Running {
    pub fn volumes(&self) -> &[Arc<Volume>] {
        &self.volumes
    }

    pub fn volume_by_id(&self, id: VolumeId) -> Option<&Arc<Volume>> {
        self.volumes.iter().find(|volume| volume.id == id)
    }

    pub fn name(&self, node: NodeId) -> &str {
        &self.config.node(node).name
    }

    /// `None`: nothing said about it yet.
    pub fn config_equal(&self) -> Option<bool> {
        if self.config_differs.load(Ordering::Relaxed) {
            return Some(false);
        }
        self.volumes.iter().any(|volume| volume.links.is_up()).then_some(true)
    }

    pub fn refused(&self, volume: &str) -> Option<String> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(volume).cloned()
    }

    /// Why the primary cannot change now, if the witness is needed for it and does not answer. Asks it.
    pub async fn witness_refuses(&self) -> Option<String> {
        let (watch, volume) = (self.witness.as_ref()?, self.volumes.first()?);
        watch.ask(volume.id).await.err()
    }

    /// What the configuration file says now, compared with what this daemon runs with.
    pub fn config_news(&self) -> String {
        match read_config(&self.config_file) {
            Err(error) => format!("{error}; the daemon goes on with what it read at its start"),
            Ok(now) if now.hash() == self.config.hash() => "the configuration is the one in use".to_string(),
            Ok(_) => format!(
                "{} has changed and takes effect with \"twinfs down\" and \"twinfs up\" on both nodes",
                self.config_file.display()
            ),
        }
    }

    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Span {
        let t = &self.config.timing;
        let (keepalive, deadtime, release) = (t.keepalive, t.deadtime, t.release_time);
        Timing { keepalive, deadtime, release, ..Timing::default() }.lease()
    }

    pub fn opening(&self, volume: &str, channel: u8) -> Opening {
        Opening { config_hash: self.config.hash(), channel, volume: volume.to_string() }
    }
}

/// Asks the peer's daemon, from a process that is none, whether its copy of `volume` is one to fetch everything from;
/// answers whether it serves from it.
pub fn peer_is_current(config: &Config, me: NodeId, volume: &str) -> Result<bool, DaemonError> {
    let (paths, opening) = to_peer(config, me, volume)?;
    let peer = &config.node(me.other()).name;
    peer::ask_current(&paths, opening).map_err(|why| {
        DaemonError::OnlyCopy(format!(
            "{volume}: left alone: this copy may be needed until {peer} is up and has a current one ({why})"
        ))
    })
}

/// The way to the peer's daemon for one question, from a process that is none.
pub(super) fn to_peer(config: &Config, me: NodeId, volume: &str) -> Result<(Paths, Opening), DaemonError> {
    let key = read_key(config)?;
    let paths = Paths::new(identity(config, &key, me), &ways(config, me), TALK_LIMIT);
    let opening =
        Opening { config_hash: config.hash(), channel: peer::CHANNEL_TALK, volume: volume.to_string() };
    Ok((paths, opening))
}

/// Runs the node until it is told to stop.
pub fn run(options: &Options) -> Result<(), DaemonError> {
    let mut heritage = Heritage::read(options.kept)?;
    let Prepared { config, key, me, lock } = prepare(options, heritage.take_run_lock())?;
    let names = Names { a: config.nodes[0].name.clone(), b: config.nodes[1].name.clone() };
    let about_history = |event: Told| tracing::warn!("{}", event.line(&Names::default()));
    let history = History::start(&options.dirs.state.join("history"), Box::new(about_history));
    let journal = Arc::new(Journal::new(me, names, Some(history)));
    remove_leftovers(&config, me, &journal, &heritage);
    let (out, out_queue) = tokio::sync::mpsc::unbounded_channel();
    let fencer = Fencer::start(&config, me, Arc::clone(&journal));
    let ways = ways(&config, me);
    let pulse =
        bind_pulse(&config, &key, me, &ways).map_err(|error| mistaken(&config, me).unwrap_or(error))?;
    let shared = Shared {
        config: Arc::clone(&config),
        me,
        dirs: options.dirs.clone(),
        journal: Arc::clone(&journal),
        fencer: fencer.clone(),
        out,
        pulse: Arc::clone(&pulse),
    };
    let volumes = open_volumes(shared, &mut heritage)?;
    hooks::start(&config, me, &volumes, &journal);
    let identity = identity(&config, &key, me);
    let differs = Arc::new(AtomicBool::new(false));
    let paths = Arc::new(Paths::new(identity.clone(), &ways, config.timing.slow_peer.as_duration()));
    let tokens = Arc::new(Tokens::of(&options.dirs.state));
    let desk = Desk {
        volumes: volumes.clone(),
        journal: Arc::clone(&journal),
        tokens: Arc::clone(&tokens),
        peer: me.other(),
        peer_name: config.node(me.other()).name.clone(),
    };
    let listener = listen(&config, me, identity, desk, &differs, &paths)?;
    let witness = Arbiter::of(&config, &key, me)?.map(WitnessWatch::new);
    let running = Rc::new(Running {
        me,
        paths,
        pulse,
        config,
        journal,
        fencer,
        tokens,
        config_differs: differs,
        refusals: Refusals::default(),
        witness,
        config_file: options.dirs.config.clone(),
        volumes,
        stop: tokio::sync::Notify::new(),
        hand_over: AtomicBool::new(true),
        upgrades: Upgrades::new(heritage.end(), &lock),
    });
    running.volumes().iter().for_each(|volume| dial::start(&running, volume));
    ping::start(&running.config, running.volumes(), &running.journal);
    let version = env!("CARGO_PKG_VERSION").to_string();
    running.journal.tell(None, Told::DaemonStarted { version });
    let served = serve(&running, out_queue, &options.dirs);
    drop(listener);
    if served.is_ok() && running.upgrades.is_ready() {
        let failed = running.upgrades.go(running.volumes());
        remove_leftovers(&running.config, me, &running.journal, &Heritage::default());
        return failed;
    }
    running.volumes().iter().for_each(|volume| volume.close());
    let _ = std::fs::remove_file(options.dirs.run.join(SOCKET_NAME));
    drop(lock);
    served
}

fn open_volumes(shared: Shared, heritage: &mut Heritage) -> Result<Vec<Arc<Volume>>, DaemonError> {
    shared.config.volumes.iter().map(|settings| Volume::open(&shared, settings, heritage)).collect()
}

fn bind_pulse(
    config: &Config,
    key: &ClusterKey,
    me: NodeId,
    ways: &[LinkPath],
) -> Result<Arc<Pulse>, DaemonError> {
    let volumes: Vec<_> = config.volumes.iter().map(|volume| volume_id(config, &volume.name)).collect();
    Pulse::new(config, key, me, ways, &volumes).map_err(|e| DaemonError::State(e.to_string()))
}

/// Heartbeats leave, and the control plane runs, until the node is told to stop and has handed over.
fn serve(
    running: &Rc<Running>,
    out: tokio::sync::mpsc::UnboundedReceiver<Question>,
    dirs: &Dirs,
) -> Result<(), DaemonError> {
    let memory = running.config.volumes.iter().fold(0, |sum: u64, volume| sum.saturating_add(volume.memory));
    let beating = running.pulse.start(memory).map_err(|e| DaemonError::State(e.to_string()))?;
    let served = control_plane(running, out, dirs);
    running.pulse.close();
    // It panicked if not, and that was reported.
    let _ = beating.join();
    served
}

/// Witness and control socket on one thread, until the node is told to stop and has handed over.
fn control_plane(
    running: &Rc<Running>,
    out: tokio::sync::mpsc::UnboundedReceiver<Question>,
    dirs: &Dirs,
) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| DaemonError::State(e.to_string()))?;
    let local = tokio::task::LocalSet::new();
    // Ended before the daemon ends in order.
    let _supervisor = Supervisor::start(dirs, running.name(running.me)).inspect_err(|error| {
        tracing::warn!("no supervisor: {error}; a killed daemon costs the whole deadtime")
    });
    local.block_on(&runtime, async {
        let socket = control_socket(&dirs.run)?;
        tokio::task::spawn_local(paths_watch::ask_witness(Rc::clone(running), out));
        tokio::task::spawn_local(paths_watch::probe(Rc::clone(running)));
        tokio::task::spawn_local(paths_watch::watch(Rc::clone(running)));
        tokio::task::spawn_local(switch::watch(Rc::clone(running)));
        tokio::task::spawn_local(reach::watch(Rc::clone(running)));
        tokio::task::spawn_local(witness_watch::watch(Rc::clone(running)));
        tokio::task::spawn_local(orders::scrub(Rc::clone(running)));
        tokio::task::spawn_local(failback::watch(Rc::clone(running)));
        tokio::task::spawn_local(pace::take_turns(Rc::clone(running)));
        tokio::task::spawn_local(control::serve(Rc::clone(running), socket));
        notify::ready();
        if wait_for_stop(running).await == Stop::Asked && running.upgrades.is_ready() {
            return Ok(());
        }
        running.upgrades.cancel();
        leave(running).await;
        Ok(())
    })
}

fn identity(config: &Config, key: &ClusterKey, me: NodeId) -> Identity {
    let name = &config.cluster.name;
    Identity {
        cluster_id: config.cluster.id(),
        node: me,
        key_out: key.derive(name, Purpose::Stream, me),
        key_in: key.derive(name, Purpose::Stream, me.other()),
        encrypt: config.cluster.encrypt,
        silence_max: config.timing.slow_peer.as_duration().max(Duration::from_secs(1)),
    }
}

fn ways(config: &Config, me: NodeId) -> Vec<LinkPath> {
    let (mine, theirs) = (&config.node(me).addresses, &config.node(me.other()).addresses);
    mine.iter().zip(theirs).map(|(local, remote)| LinkPath { local: Some(*local), remote: *remote }).collect()
}

fn remove_leftovers(config: &Config, me: NodeId, journal: &Arc<Journal>, heritage: &Heritage) {
    for settings in config.volumes.iter().filter(|settings| !heritage.has(&settings.name)) {
        let device = settings.device_on(me).map(str::to_string);
        let addresses = Addresses::new(settings.address.clone(), device, Box::new(|_| {}));
        let second = Span::from_secs(1);
        let pace = crate::services::plan::Pace { check_every: second, forget_after: second, holdoff: second };
        let limits = run::Settings {
            limit: settings.service_timeout,
            status_limit: settings.service_timeout,
            pace,
            systemctl: "systemctl".into(),
        };
        let clock: run::Clock = Arc::new(clock::now);
        let services =
            Services::new(settings.services.clone(), limits, Box::new(run::Machine), clock, Box::new(|_| {}));
        for event in leftovers::events(leftovers::remove(settings, &addresses, &services)) {
            journal.tell(Some(&settings.name), event);
        }
    }
}

/// Accepts the peer's streams. Only node B is dialled for data; both may be dialled for talk.
fn listen(
    config: &Arc<Config>,
    me: NodeId,
    identity: Identity,
    desk: Desk,
    differs: &Arc<AtomicBool>,
    paths: &Arc<Paths>,
) -> Result<Listener, DaemonError> {
    let (paths, theirs) = (Arc::clone(paths), config.node(me.other()).addresses.clone());
    let (hash, deadtime) = (config.hash(), config.timing.deadtime);
    let names: Vec<String> = config.volumes.iter().map(|v| v.name.clone()).collect();
    let (differs, told, peer_id) = (Arc::clone(differs), Arc::clone(&desk.journal), me.other());
    let journal = Arc::clone(&desk.journal);
    let judge = move |opening: &Opening| {
        if opening.config_hash != hash {
            if !differs.swap(true, Ordering::SeqCst) {
                told.tell(None, Told::ConfigDiffers { peer: peer_id });
            }
            return Err("twinfs.toml differs on the two nodes: copy the right one and restart".to_string());
        }
        differs.store(false, Ordering::SeqCst);
        if !names.contains(&opening.volume) || opening.channel > peer::CHANNEL_TALK {
            return Err(format!("this node has no volume {}", opening.volume));
        }
        Ok(())
    };
    let deliver = move |opening: Opening, connection: Connection| {
        let Some(volume) = desk.volumes.iter().find(|volume| volume.name == opening.volume) else { return };
        if opening.channel == peer::CHANNEL_DATA {
            volume.links.attach(connection);
        } else {
            let redial = |stuck| switch::redial(&paths, &theirs, volume, stuck);
            let side = |about: &sides::About| sides::tell(volume, &journal, about);
            let name = opening.volume.as_str();
            let history = |only: bool, count| merged::share(&journal, only.then_some(name), count);
            let asked = (redial, |ask| desk.answer(ask), side, history, deadtime);
            peer::answer(&connection, &volume.places, volume.view(), me, asked);
        }
    };
    let peers = config.node(me.other()).addresses.iter().map(|a| a.ip()).collect();
    let addresses = &config.node(me).addresses;
    Listener::bind(addresses, peers, identity, Box::new(judge), Box::new(deliver))
        .map_err(|e| DaemonError::State(e.to_string()))
}

fn control_socket(run: &Path) -> Result<UnixListener, DaemonError> {
    let path = run.join(SOCKET_NAME);
    let state = |e: std::io::Error| DaemonError::State(format!("{}: {e}", path.display()));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(state(e)),
        _ => {}
    }
    // The run directory is 0700 already; the socket's own mode is for whoever moves it.
    let listener = UnixListener::bind(&path).map_err(state)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(state)?;
    Ok(listener)
}

/// Who wants this process to end, or to become another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Signal,
    /// By the control socket.
    Asked,
}

async fn wait_for_stop(running: &Running) -> Stop {
    let (Ok(mut term), Ok(mut int), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        running.stop.notified().await;
        return Stop::Asked;
    };
    let (stop, reason) = loop {
        if handover::noted_an_end() {
            break (Stop::Signal, "a signal during the upgrade");
        }
        tokio::select! {
            _ = term.recv() => break (Stop::Signal, "SIGTERM"),
            _ = int.recv() => break (Stop::Signal, "SIGINT"),
            () = running.stop.notified() => {
                break (Stop::Asked, if running.upgrades.is_ready() { "twinfs upgrade" } else { "twinfs down" });
            }
            // Administrators send it to ask for a reload: it must not end a primary.
            _ = hangup.recv() => {
                let text = format!("SIGHUP: {}", running.config_news());
                running.journal.tell(None, Told::Fault { text });
            }
        }
    };
    running.journal.tell(None, Told::DaemonStopping { reason: reason.to_string() });
    stop
}

/// Hands over what the peer can take, stops the rest; bounded in time.
async fn leave(running: &Running) {
    notify::stopping(HAND_OVER_LIMIT * 2);
    // A silent witness would leave the volume with nobody in the middle of it.
    let hand_over = running.hand_over.load(Ordering::SeqCst)
        && running.volumes().iter().any(|volume| can_hand_over(volume))
        && running.witness_refuses().await.is_none();
    let mut handed = Vec::new();
    for volume in running.volumes() {
        let ready = hand_over && can_hand_over(volume);
        volume.order(if ready { Operator::Switchover } else { Operator::Demote });
        handed.extend(ready.then_some(volume));
    }
    for volume in handed {
        handed_over(volume).await;
    }
    // What could not be handed over, because the peer leaves as well for instance, stops without that.
    for volume in running.volumes() {
        volume.order(Operator::Demote);
    }
    for volume in running.volumes() {
        wait_until(volume, HAND_OVER_LIMIT, |volume| !is_serving(volume)).await;
    }
    // The peer need not wonder whether this node died.
    for volume in running.volumes() {
        volume.order(Operator::Disconnect);
    }
    for volume in running.volumes() {
        wait_until(volume, LEAVE_LIMIT, |volume| volume.view().is_none_or(|view| !view.connected)).await;
    }
}

/// Waits until the peer has what this node was told to hand over, or until that is called off.
async fn handed_over(volume: &Volume) {
    let possible =
        |v: &Volume| v.view().is_some_and(|view| view.connected && view.state == StateWord::InSync);
    wait_until(volume, HAND_OVER_LIMIT, |v| !is_serving(v) || !possible(v)).await;
    // Stopped is not handed over: the peer has to have it before it is left.
    let taken = |v: &Volume| v.view().is_none_or(|view| !view.connected || view.peer_serving);
    wait_until(volume, TAKEN_LIMIT, |v| taken(v) || is_serving(v)).await;
}

/// Whether this node serves and the peer could go on at once.
pub fn can_hand_over(volume: &Volume) -> bool {
    volume.view().is_some_and(|v| v.serving && v.connected && v.state == StateWord::InSync)
}

/// Whether the node serves, or is on its way up or down.
pub fn is_serving(volume: &Volume) -> bool {
    let mounted = volume.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some();
    mounted || volume.view().is_some_and(|view| view.serving)
}

/// Waits for a state, at most `limit`.
pub async fn wait_until(volume: &Volume, limit: Duration, reached: impl Fn(&Volume) -> bool) -> bool {
    let waited = tokio::time::timeout(limit, async {
        while !reached(volume) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    waited.await.is_ok()
}
