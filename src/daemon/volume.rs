//! One volume of this node: its image, its machine, its mirror and the threads around them.
//!
//! Decides the order of coming up (lock, image, boot epoch, machine, threads) and of going down. Does not know the
//! control socket or the heartbeats' sockets. Invariants: the boot epoch is stable before the first packet can leave;
//! after `close` no thread of the volume touches the image.
#![allow(clippy::disallowed_methods, reason = "a shell: threads")]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::{Moment, NodeId, Span, VolumeId};
use crate::config::{self, Config};
use crate::events::Event as Told;
use crate::format::{State, UndoStage};
use crate::image::{Disk, Image, OpenOptions};
use crate::mirror::{Mirror, Worker};
use crate::node::{
    Arbitration, Event, Limits, Mutations, Node, NodeConfig, Operator, StartInfo, StateWord, Timing, View,
    failback_ago,
};
use crate::services::address::Addresses;
use crate::services::adopt::Places;
use crate::services::plan::{Notice as ServiceNotice, Pace};
use crate::services::run::{self, Services};
use crate::sys::disk::FileDisk;
use crate::sys::lock::ImageLock;
use crate::sys::{clock, random};

use super::DaemonError;
use super::fence::Fencer;
use super::files::{Files, MountGate};
use super::journal::Journal;
use super::keeper::Keeper;
use super::links::Links;
use super::node_file::NodeFile;
use super::pulse::Pulse;
use super::reflexes::Reflexes;
use super::serving::{Serving, Slot, Task};
use super::shell::{Question, Shell, Telling, Wake};
use super::teller::Teller;
use super::upgrade::{self, Heritage, Waiting};
use super::verify::VerifyFile;

/// For the programs that look at a service.
const STATUS_LIMIT: Span = Span::from_secs(10);
const CHECK_EVERY: Span = Span::from_secs(5);
const FORGET_AFTER: Span = Span::from_secs(600);
/// How long an earlier daemon may take to let go of the image.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Blocks of resync reads in flight.
const COPY_BLOCKS_MAX: u64 = 2048;

/// Where a node keeps things.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub config: PathBuf,
    pub run: PathBuf,
    pub state: PathBuf,
}

/// The identity of a volume: the same on both nodes without asking.
pub fn volume_id(config: &Config, name: &str) -> VolumeId {
    let mut hasher = blake3::Hasher::new_derive_key("twinfs 2026-01 volume id");
    hasher.update(&config.cluster.id().to_le_bytes());
    hasher.update(name.as_bytes());
    let mut id = [0_u8; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    VolumeId(u128::from_le_bytes(id))
}

/// A volume that is up.
pub struct Volume {
    pub name: String,
    pub id: VolumeId,
    pub settings: config::Volume,
    pub image_path: PathBuf,
    pub places: Places,
    pub mirror: Arc<Mirror>,
    pub links: Arc<Links>,
    pub slot: Slot,
    pub addresses: Arc<Addresses>,
    pub services: Arc<Services>,
    pub verify: Arc<VerifyFile>,
    pub node_file: Arc<NodeFile>,
    shell: Arc<Shell>,
    pub(super) tasks: Sender<Task>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) lock: ImageLock,
    pub(super) waiting: Arc<Waiting>,
}

/// What every volume of a node shares.
pub struct Shared {
    pub config: Arc<Config>,
    pub me: NodeId,
    pub dirs: Dirs,
    pub journal: Arc<Journal>,
    pub fencer: Fencer,
    pub out: tokio::sync::mpsc::UnboundedSender<Question>,
    pub pulse: Arc<Pulse>,
}

impl Shared {
    fn node_config(&self, settings: &config::Volume, blocks: u64) -> NodeConfig {
        let t = &self.config.timing;
        NodeConfig {
            me: self.me,
            arbitration: match self.config.cluster.arbitration {
                config::Arbitration::Witness => Arbitration::Witness,
                config::Arbitration::Fence => Arbitration::Fence,
                config::Arbitration::Deadtime => Arbitration::Deadtime,
                config::Arbitration::Yield => Arbitration::Yield,
                config::Arbitration::Manual => Arbitration::Manual,
            },
            timing: Timing {
                keepalive: t.keepalive,
                deadtime: t.deadtime,
                initdead: t.initdead,
                slow_peer: t.slow_peer,
                release: t.release_time,
                fence_delay: t.fence_delay,
                fence_retry: t.fence_retry,
                detach_grace: t.detach_grace,
                ..Timing::default()
            },
            failback: super::failback::rule(settings.prefer, &settings.failback),
            fence_levels: u32::try_from(self.config.fence_levels(self.me.other()).len()).unwrap_or(0),
            pings: !self.config.cluster.ping.is_empty(),
            blocks,
            copy_blocks_max: COPY_BLOCKS_MAX,
            features: crate::wire::FEATURES | crate::wire::feature::PROBE,
            resync: Limits { max: settings.resync_max, min: settings.resync_min },
            after_split: self.config.cluster.after_split_brain.unwrap_or_default(),
            mutations: Mutations::default(),
        }
    }

    /// What must never be adopted onto this volume.
    fn places(&self, settings: &config::Volume) -> Places {
        let mut needed =
            vec![self.dirs.config.clone(), self.config.cluster.key_file.clone(), self.dirs.run.clone()];
        needed.extend(self.config.volumes.iter().map(|v| v.image_on(self.me).clone()));
        needed.extend(std::env::current_exe());
        Places { mount: settings.mount.clone(), state_dir: self.dirs.state.clone(), needed }
    }

    fn addresses(&self, settings: &config::Volume, tell: &Arc<dyn Fn(Told) + Send + Sync>) -> Addresses {
        let (device, tell) = (settings.device_on(self.me).map(str::to_string), Arc::clone(tell));
        Addresses::new(settings.address.clone(), device, Box::new(move |event| tell(event)))
    }

    fn storyteller(&self, node_file: Arc<NodeFile>, volume: &Volume) -> Teller {
        // Not held: whoever holds the mirror holds the sender of what this thread waits for.
        let mirror = Arc::downgrade(&volume.mirror);
        Teller {
            journal: Arc::clone(&self.journal),
            me: self.me,
            node_file,
            verify_file: Arc::clone(&volume.verify),
            slot: Arc::clone(&volume.slot),
            image_path: volume.image_path.display().to_string(),
            deliver: Box::new(move |event| {
                if let Some(mirror) = mirror.upgrade() {
                    mirror.deliver(event);
                }
            }),
        }
    }

    fn teller(&self, volume: &str) -> Arc<dyn Fn(Told) + Send + Sync> {
        let (journal, volume) = (Arc::clone(&self.journal), volume.to_string());
        Arc::new(move |event| journal.tell(Some(&volume), event))
    }
}

/// Takes the image, checks that it is this node's copy of this volume, and raises its boot epoch.
fn take_image(
    shared: &Shared,
    settings: &config::Volume,
    left: Option<OwnedFd>,
) -> Result<(Arc<Image>, ImageLock, Arc<NodeFile>, bool), DaemonError> {
    // Said now, not at three in the morning when this node has to take over.
    crate::mount::check_place(&settings.mount, &settings.name)
        .map_err(|e| DaemonError::Config(e.to_string()))?;
    let path = settings.image_on(shared.me);
    let wrong = |text: String| DaemonError::Image { path: path.clone(), text };
    if !path.exists() {
        return Err(wrong(
            "there is no image; make it with \"twinfs init\" or, on the second node, \"twinfs join\"".into(),
        ));
    }
    let lock = upgrade::image_lock(path, left, LOCK_WAIT)?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(path, true).map_err(|e| wrong(e.to_string()))?);
    let options =
        OpenOptions::read_write().memory(settings.memory).volume(volume_id(&shared.config, &settings.name));
    // Only looked at before it is known to be this node's: opening for writing marks the image as in use.
    let look = OpenOptions::read_only().volume(volume_id(&shared.config, &settings.name));
    let looked = Image::open(Arc::clone(&disk), &look).map_err(|e| wrong(e.to_string()))?.state();
    if let Some(text) = super::prepare::foreign(&shared.config, shared.me, looked.node) {
        return Err(wrong(text));
    }
    let file = NodeFile::open(&shared.dirs.state, &settings.name).map_err(DaemonError::State)?;
    if file.is_out_of_use(&looked) {
        return Err(wrong(super::make::OUT_OF_USE.to_string()));
    }
    let image = Image::open(disk, &options).map_err(|e| wrong(e.to_string()))?;
    let mut state: State = image.state();
    let agrees = file.agrees(&state);
    state.boot_epoch = file.next_boot_epoch(&state);
    image.store(&state).map_err(|e| wrong(e.to_string()))?;
    file.note_start(&state).map_err(DaemonError::State)?;
    Ok((Arc::new(image), lock, Arc::new(file), agrees))
}

impl Volume {
    /// Brings the volume up. The machine decides what happens from here on.
    pub fn open(
        shared: &Shared,
        settings: &config::Volume,
        heritage: &mut Heritage,
    ) -> Result<Arc<Volume>, DaemonError> {
        let (kept, left) = heritage.take(&settings.name).unzip();
        let lease_from = kept.as_ref().map(|kept| kept.state().lease_from.map(Moment));
        let waiting = Arc::new(Waiting::new(kept, heritage.paused_at));
        let (image, lock, node_file, agrees) = take_image(shared, settings, left)?;
        let verify = Arc::new(VerifyFile::open(&shared.dirs.state, &settings.name, &image.state()));
        let tell = shared.teller(&settings.name);
        let ((tasks, task_queue), (tellings, telling_queue)) = (channel(), channel());
        let links = Arc::new(Links::new(link_teller(&tell, shared.me.other()), settings.keep_awake));
        let addresses = Arc::new(shared.addresses(settings, &tell));
        let gate = Arc::new(MountGate::default());
        let reflexes = Arc::new(Reflexes::new(Arc::clone(&addresses) as _, Arc::clone(&gate) as _));
        let id = volume_id(&shared.config, &settings.name);
        let queues = (tasks.clone(), tellings);
        let shell = Arc::new(Shell::new(
            id,
            Arc::clone(&links),
            queues,
            Arc::clone(&reflexes),
            (shared.out.clone(), Arc::clone(&shared.pulse)),
            (Arc::clone(&node_file), shared.fencer.clone(), Keeper::new(settings, shared.me)),
        ));
        let mirror = start_mirror(shared, settings, &image, &shell, (agrees, &node_file, lease_from))?;
        shell.answer(&mirror);
        gate.ask(&mirror);
        links.serve(&mirror);
        let services = Arc::new(make_services(shared, settings, &mirror, &tell));
        let slot = Slot::default();
        let volume = Arc::new(Volume {
            name: settings.name.clone(),
            id,
            settings: settings.clone(),
            image_path: settings.image_on(shared.me).clone(),
            places: shared.places(settings),
            mirror: Arc::clone(&mirror),
            links,
            slot: Arc::clone(&slot),
            addresses: Arc::clone(&addresses),
            services: Arc::clone(&services),
            verify: Arc::clone(&verify),
            node_file: Arc::clone(&node_file),
            shell,
            tasks,
            threads: Mutex::default(),
            lock,
            waiting: Arc::clone(&waiting),
        });
        let serving = Serving {
            mounter: Box::new(Files::new(&mirror, settings, gate, waiting, Arc::clone(&volume.shell.log))),
            slot,
            reflexes,
            addresses,
            services,
            service_count: settings.services.len(),
            service_timeout: settings.service_timeout,
            release_time: shared.config.timing.release_time,
            places: volume.places.clone(),
            deliver: Box::new(move |event| mirror.deliver(event)),
            tell,
        };
        let teller = shared.storyteller(node_file, &volume);
        volume.start_threads(serving, task_queue, teller, telling_queue);
        volume.go_on();
        Ok(volume)
    }

    /// What the administrator asked for before a restart.
    fn go_on(&self) {
        if self.node_file.is_held() {
            self.order(Operator::Hold(true));
        }
        if let Some(progress) = self.verify.cut_off() {
            self.order(Operator::Verify(progress));
        }
    }

    fn start_threads(
        self: &Arc<Volume>,
        serving: Serving,
        tasks: Receiver<Task>,
        teller: Teller,
        tellings: Receiver<Telling>,
    ) {
        let mut threads = Vec::new();
        for worker in Worker::ALL {
            let mirror = Arc::clone(&self.mirror);
            threads.push(std::thread::spawn(move || mirror.work(worker)));
        }
        let (shell, mirror) = (Arc::clone(&self.shell), Arc::clone(&self.mirror));
        threads.push(std::thread::spawn(move || keep_time(&shell, &mirror)));
        threads.push(std::thread::spawn(move || serving.run(&tasks)));
        let (name, image) = (self.name.clone(), Arc::clone(self.mirror.image()));
        // Ends with the last sender, the shell's: not joined.
        std::thread::spawn(move || teller.run(&name, &image, &tellings));
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
    }

    /// The node as it is now.
    pub fn view(&self) -> Option<View> {
        self.mirror.with_machine(|machine| machine.view(clock::now()))
    }

    /// How long ago this copy was last known to be current.
    pub fn behind_ms(&self) -> Option<u64> {
        Some(clock::unix_ms().saturating_sub(self.node_file.current_unix_ms()?))
    }

    /// Asks the machine.
    pub fn order(&self, operator: Operator) {
        self.mirror.deliver(Event::Operator(operator));
    }

    /// When the newest heartbeat of the peer that counts arrived.
    pub fn heard(&self) -> Option<Moment> {
        self.shell.pulse.seat(self.id)?.heard()
    }

    /// Ends the volume: whatever is still served is stopped, threads end, the image is closed.
    pub fn close(&self) {
        let _ = self.tasks.send(Task::Demote { graceful: false });
        self.end_threads();
        if let Err(error) = self.mirror.image().close() {
            tracing::error!("{}: closing the image: {error}", self.name);
        }
    }
}

impl Volume {
    pub(super) fn end_threads(&self) {
        let _ = self.tasks.send(Task::Quit);
        self.shell.halt();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A volume's clock: tells its machine what arrives and when a time is over, until the volume is halted. What has
/// arrived by then comes first.
fn keep_time(shell: &Shell, mirror: &Mirror) {
    shell.pulse.prefer_clock();
    shell.attend();
    loop {
        let wake = shell.next_tick();
        match wake {
            Wake::Halted => return,
            Wake::Arrival => {}
            Wake::Due => shell.pulse.take_all_in(),
        }
        shell.arrived().into_iter().for_each(|event| mirror.deliver(event));
        if wake == Wake::Due {
            mirror.deliver(Event::Tick);
        }
    }
}

fn start_mirror(
    shared: &Shared,
    settings: &config::Volume,
    image: &Arc<Image>,
    shell: &Arc<Shell>,
    (file_agrees, node_file, kept): (bool, &NodeFile, Option<Option<Moment>>),
) -> Result<Arc<Mirror>, DaemonError> {
    let info = StartInfo {
        seed: random::id128(),
        marks: image.dirty_blocks() > 0,
        hot: image.was_unclean(),
        file_agrees,
        going_back: image.undo().stage == UndoStage::GoingBack,
        fence_left: node_file.fence_left(),
        failback_ago: failback_ago(node_file.failback(), clock::unix_ms()),
    };
    let node_config = shared.node_config(settings, image.block_count());
    let mut node = Node::new(node_config, image.state(), info, clock::now());
    if let Some(lease_from) = kept {
        node.keep_mount(lease_from);
    }
    let env = Arc::clone(shell) as Arc<dyn crate::mirror::Env>;
    let mirror = Mirror::new(Arc::clone(image), env, Box::new(node), Mutations::default());
    let path = settings.image_on(shared.me).clone();
    let mirror = mirror.map_err(|e| DaemonError::Image { path, text: e.to_string() })?;
    mirror.deliver(Event::Tick);
    Ok(mirror)
}

fn link_teller(tell: &Arc<dyn Fn(Told) + Send + Sync>, peer: NodeId) -> super::links::OnChange {
    let tell = Arc::clone(tell);
    Box::new(move |change| {
        tell(match change {
            Ok(remote) => Told::PeerConnected { peer, remote },
            Err(reason) => Told::PeerDisconnected { peer, reason },
        });
    })
}

fn make_services(
    shared: &Shared,
    settings: &config::Volume,
    mirror: &Arc<Mirror>,
    tell: &Arc<dyn Fn(Told) + Send + Sync>,
) -> Services {
    let pace = Pace {
        check_every: CHECK_EVERY.min(settings.service_timeout),
        forget_after: FORGET_AFTER,
        holdoff: Span(shared.config.timing.deadtime.0.saturating_mul(10)),
    };
    let settings_of = run::Settings {
        limit: settings.service_timeout,
        status_limit: STATUS_LIMIT.min(settings.service_timeout),
        pace,
        systemctl: "systemctl".into(),
    };
    let names: Vec<String> = settings.services.iter().map(ToString::to_string).collect();
    let (tell, mirror) = (Arc::clone(tell), Arc::downgrade(mirror));
    let on_notice = Box::new(move |notice: ServiceNotice| {
        let name = |n: usize| names.get(n).cloned().unwrap_or_default();
        match notice {
            ServiceNotice::Up | ServiceNotice::Down { .. } => {}
            ServiceNotice::Restarting { service, why } => {
                tell(Told::ServiceFailed {
                    service: name(service),
                    reason: why,
                    then: "started once more".into(),
                });
            }
            ServiceNotice::WantSwitchover { service, why } => {
                let reason = format!("{} failed again: {why}", name(service));
                if let Some(mirror) = mirror.upgrade() {
                    let view = mirror.with_machine(|machine| machine.view(clock::now()));
                    let ready = view.is_some_and(|v| v.connected && v.state == StateWord::InSync);
                    let then = if ready {
                        "the peer is asked to take over"
                    } else {
                        "the peer is not in sync: stays here"
                    };
                    tell(Told::ServiceFailed { service: name(service), reason, then: then.into() });
                    if ready {
                        mirror.deliver(Event::Operator(Operator::Switchover));
                    }
                }
            }
            ServiceNotice::GaveUp { service, why } => {
                tell(Told::ServiceFailed {
                    service: name(service),
                    reason: why,
                    then: "repair it by hand".into(),
                });
            }
            ServiceNotice::StopFailed { service, why } => tell(Told::ServiceFailed {
                service: name(service),
                reason: format!("did not stop: {why}"),
                then: "the mount is taken from it".into(),
            }),
            ServiceNotice::Recovered { service } => {
                tell(Told::ServiceStarted { service: name(service), took_ms: 0 })
            }
        }
    });
    let list = settings.services.clone();
    Services::new(list, settings_of, Box::new(run::Machine), Arc::new(clock::now), on_notice)
}
