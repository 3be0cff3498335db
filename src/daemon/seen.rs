//! What `twinfs status` shows, gathered from a running node.
//!
//! Decides which fact is shown under which key. Does not know how it is printed. Invariant: it waits for nothing.

use std::sync::PoisonError;

use crate::base::NodeId;
use crate::format::ResyncMark;
use crate::node::{Role, StateWord};
use crate::sys::clock;

use super::confirm;
use super::failback;
use super::link_status;
use super::pace;
use super::runtime::Running;
use super::status::{NodeStatus, VerifyStatus, VolumeStatus, WitnessStatus};
use super::volume::Volume;
use super::witness_watch::WitnessWatch;

/// Everything that `twinfs status` shows.
pub fn node_status(running: &Running) -> NodeStatus {
    let name = |id: NodeId| running.name(id).to_string();
    let mut status = NodeStatus {
        node: name(running.me),
        peer: name(running.me.other()),
        version: env!("CARGO_PKG_VERSION").to_string(),
        pid: std::process::id(),
        arbitration: running.config.cluster.arbitration.as_str().to_string(),
        risk: running.config.cluster.arbitration.risk().to_string(),
        fence: running.fencer.seen(),
        encrypt: Some(running.config.cluster.encrypt),
        links: link_status::links(running),
        realtime: running.pulse.realtime(),
        config_hash: running.config.short_hash(),
        config_equal: running.config_equal(),
        witness: running.witness.as_ref().map(witness_status),
        volumes: running.volumes().iter().map(|volume| volume_status(running, volume)).collect(),
        ..NodeStatus::default()
    };
    status.judge();
    status
}

fn witness_status(watch: &WitnessWatch) -> WitnessStatus {
    let seen = watch.seen();
    WitnessStatus {
        address: watch.target(),
        answered_ms: seen.answered.map(|at| clock::now().since(at).as_millis()),
        problem: seen.problem,
    }
}

pub fn role_word(role: Role) -> &'static str {
    match role {
        Role::Joining => "joining",
        Role::Secondary => "secondary",
        Role::Primary => "primary",
        Role::Frozen => "frozen",
        Role::Target => "target",
        Role::HandingOver => "handing-over",
        Role::SplitBrain => "diverged",
        Role::Failed => "failed",
    }
}

fn volume_status(running: &Running, volume: &Volume) -> VolumeStatus {
    let now = clock::now();
    let since = |at: crate::base::Moment| now.since(at).as_millis();
    let image = volume.mirror.image();
    let mut status = VolumeStatus {
        name: volume.name.clone(),
        image: volume.image_path.display().to_string(),
        size_bytes: image.block_count().saturating_mul(4096),
        dirty_blocks: image.dirty_blocks(),
        mount: volume.settings.mount.display().to_string(),
        mounted: volume.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some(),
        addresses: volume.addresses.list().iter().map(ToString::to_string).collect(),
        services: volume.services.views(),
        ..VolumeStatus::default()
    };
    status.peer_heard_ms = volume.heard().map(since);
    status.generation = image.state().gens.last().map(|entry| entry.id.to_string());
    let (repaired, lost) = volume.mirror.rot();
    (status.repaired_blocks, status.lost_blocks) = (repaired, lost.len() as u64);
    let undo = image.undo();
    status.replaced = image.state().is_out_of_use();
    let target = image.state().resync != ResyncMark::None;
    status.way_back = target.then(|| undo.has_way_back());
    (status.kept_blocks, status.put_back_blocks) = (undo.blocks, undo.put_back);
    status.verified = volume.verify.last();
    let Some(view) = volume.view() else { return status };
    pace::fill(&mut status, &view, now);
    status.role = role_word(view.role).to_string();
    status.state = view.state.to_string();
    status.state_since_ms = since(view.since);
    let old = target || view.state == StateWord::Behind;
    status.behind_ms = old.then(|| volume.behind_ms()).flatten();
    status.reason = view.reason.text;
    status.until_ms = view.reason.until.map(|until| until.since(now).as_millis());
    status.serving = view.serving;
    status.frozen = view.frozen;
    if let Some(record) = view.record {
        let names = [NodeId::A, NodeId::B].into_iter().filter(|id| record.members.contains(*id));
        status.members = names.map(|id| running.name(id).to_string()).collect();
        status.record_v = Some(record.v);
        status.primary = Some(running.name(record.primary).to_string());
    }
    status.connected = view.connected;
    status.peer_serving = view.peer_serving;
    status.lease_left_ms = view.lease_until.map(|until| until.since(now).as_millis());
    status.witness_seen_ms = view.witness_seen.map(since);
    status.witness_unknown =
        running.witness.as_ref().is_some_and(|watch| watch.seen().unknown.contains(&volume.id));
    status.verify = view.verify.as_ref().map(VerifyStatus::running);
    status.held = view.held;
    status.fencing_ms = view.fencing.map(|fencing| since(fencing.since));
    status.fence_code = view.fencing.map(|fencing| confirm::code(&fencing));
    status.reaches_nobody = view.reaches_nobody;
    let home = volume.settings.prefer.map_or("", |id| running.name(id));
    failback::fill(&mut status, volume, view.failback, home, now);
    status.demoted = view.demoted;
    status.disconnected = view.disconnected;
    status.refused = running.refused(&volume.name);
    status
}
