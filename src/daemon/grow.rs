//! Growing a volume by order: asked for on the primary, done on both nodes.
//!
//! Decides how a size in bytes is read and what is refused at once. Does not know how it is done: the machine orders,
//! the images grow.

use std::sync::Arc;
use std::time::Duration;

use crate::format::Geometry;
use crate::node::{Operator, StateWord};

use super::protocol::{Reply, Verdict};
use super::runtime::{Running, wait_until};
use super::status::bytes as shown;
use super::volume::Volume;

/// Moving the metadata of a full terabyte takes minutes on a slow disk.
const LIMIT: Duration = Duration::from_secs(600);

pub async fn grow(running: &Running, volume: Arc<Volume>, bytes: u64) -> Reply {
    let (name, peer) = (volume.name.clone(), running.name(running.me.other()));
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    let refuse = |verdict, text: String| Reply::new(verdict, format!("{name}: not grown: {text}"));
    if !view.connected || view.state != StateWord::InSync {
        let verdict = if view.connected { Verdict::TryAgain } else { Verdict::PeerUnreachable };
        let why = format!("{} ({}); the image of {peer} has to grow too", view.state, view.reason.text);
        return refuse(verdict, why);
    }
    if !view.serving {
        return refuse(Verdict::NoRight, format!("say it on the primary, {peer}"));
    }
    if view.growing {
        return refuse(Verdict::TryAgain, "it is growing already".to_string());
    }
    let image = volume.mirror.image();
    let (blocks, has) = (Geometry::blocks_of(bytes), image.block_count());
    if blocks <= has {
        let text = format!(
            "{} of image hold {} of data, and there are {} already; a volume never becomes smaller",
            shown(bytes),
            shown(blocks * 4096),
            shown(has * 4096)
        );
        return refuse(Verdict::Usage, text);
    }
    if let Err(least) = image.geometry().grown(blocks) {
        let text = format!("ask for room for {} of data at least", shown(least * 4096));
        return refuse(Verdict::Usage, text);
    }
    volume.order(Operator::Grow { blocks });
    let ended = |v: &Volume| v.view().is_none_or(|view| !view.growing);
    if !wait_until(&volume, LIMIT, ended).await {
        let text = format!("{name}: still growing; \"twinfs events {name}\" tells when it is done");
        return Reply::new(Verdict::TryAgain, text);
    }
    match volume.view() {
        Some(view) if view.blocks >= blocks => Reply::done(format!(
            "{name}: {} of data on both nodes now; write size = \"{}\" into twinfs.toml when you next change it",
            shown(blocks * 4096),
            crate::config::units::format_size(bytes)
        )),
        Some(view) => refuse(Verdict::Failed, view.grow_failed.unwrap_or(view.reason.text)),
        None => refuse(Verdict::Failed, "the daemon stops".to_string()),
    }
}
