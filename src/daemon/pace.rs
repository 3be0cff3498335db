//! Resyncs beside everything else: paused and resumed by order, at another pace, and one volume before another.
//!
//! Decides which volume comes first. Does not know how a pace is kept: the machine does. Invariant: a volume waits only
//! for one that is really being copied.

use std::rc::Rc;
use std::time::Duration;

use crate::base::{Moment, Span};
use crate::node::{Limits, Operator, StateWord, View};

use super::protocol::{Reply, Verdict};
use super::runtime::Running;
use super::status::{VolumeStatus, age, bytes};
use super::volume::Volume;

/// Between two looks whose turn it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub fn pause(running: &Running, volume: &Volume, span: Span) -> Reply {
    let (name, peer) = (&volume.name, running.name(running.me.other()));
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    let drives = view.resync.as_ref().is_some_and(|resync| !resync.urgent);
    if view.resync.as_ref().is_some_and(|resync| resync.urgent) {
        let text = format!("{name}: the service waits for what is being copied now: it is not paused");
        return Reply::new(Verdict::NoRight, text);
    }
    if !drives && view.state == StateWord::CatchingUp {
        let text = format!("{name}: {peer} is the one that copies: say it there");
        return Reply::new(Verdict::NoRight, text);
    }
    if !drives && view.state != StateWord::Alone {
        let text = format!("{name}: nothing is or will be copied from here: {}", view.state);
        return Reply::new(Verdict::NoRight, text);
    }
    volume.order(Operator::PauseResync(span));
    let how = format!("or with \"twinfs resync resume {name}\"");
    let text = format!(
        "{name}: nothing is copied to {peer} for {}; it goes on by itself then, {how}",
        age(span.as_millis())
    );
    Reply::done(text)
}

pub fn resume(volume: &Volume) -> Reply {
    let paused = volume.view().is_some_and(|view| view.resync_paused_until.is_some());
    volume.order(Operator::ResumeResync);
    let what = if paused { "copying goes on" } else { "is not paused" };
    Reply::done(format!("{}: {what}", volume.name))
}

pub fn limit(volume: &Volume, max: Option<u64>, min: Option<u64>) -> Reply {
    let name = &volume.name;
    let Some(view) = volume.view() else { return Reply::new(Verdict::Failed, format!("{name}: no state")) };
    let is = view.resync_limits;
    let max = max.unwrap_or(is.max);
    let new = Limits { max, min: min.unwrap_or(is.min.min(max)) };
    let show = |rate: u64| if rate == u64::MAX { "unlimited".into() } else { format!("{}/s", bytes(rate)) };
    if new.min > new.max {
        let text = format!("{name}: the least pace, {}, is above the most, {}", show(new.min), show(new.max));
        return Reply::new(Verdict::Usage, text);
    }
    volume.order(Operator::LimitResync(new));
    let text = format!(
        "{name}: at most {}, beside programs at least {}, until the daemon stops; twinfs.toml has what holds then",
        show(new.max),
        show(new.min)
    );
    Reply::done(text)
}

/// What a status shows of a resync.
pub fn fill(status: &mut VolumeStatus, view: &View, now: Moment) {
    let given = |rate: u64| Some(rate).filter(|rate| *rate != u64::MAX);
    status.resync_max = given(view.resync_limits.max);
    status.resync_min = given(view.resync_limits.min);
    status.resync_paused_ms = view.resync_paused_until.map(|until| until.since(now).as_millis());
    let Some(resync) = &view.resync else { return };
    status.resync_done_blocks = Some(resync.copied);
    status.resync_total_blocks = Some(resync.total);
    status.resync_bytes_per_second = resync.blocks_per_second.map(|speed| speed.saturating_mul(4096));
    status.resync_left_ms = resync.left.map(Span::as_millis);
    status.resync_stalled_ms = resync.stalled.map(|stall| now.since(stall.since).as_millis());
    status.resync_stalled_why = resync.stalled.map(|stall| stall.why.to_string());
}

/// Whose turn it is: (priority, whether it is being copied and gets on) of each volume.
fn turns(volumes: &[(u64, bool)]) -> Vec<bool> {
    let first = volumes.iter().filter(|(_, copies)| *copies).map(|(priority, _)| *priority).min();
    volumes.iter().map(|(priority, _)| first.is_none_or(|first| *priority <= first)).collect()
}

/// Gives turns, for ever.
pub async fn take_turns(running: Rc<Running>) {
    let mut before: Vec<bool> = vec![true; running.volumes().len()];
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let copies = |volume: &Volume| {
            volume.view().is_some_and(|view| {
                let paused = view.resync_paused_until.is_some();
                view.resync.is_some_and(|resync| resync.urgent || (!paused && resync.stalled.is_none()))
            })
        };
        let all: Vec<(u64, bool)> =
            running.volumes().iter().map(|v| (v.settings.resync_priority, copies(v))).collect();
        let now = turns(&all);
        for ((volume, now), before) in running.volumes().iter().zip(&now).zip(&before) {
            if now != before {
                volume.order(Operator::ResyncTurn(*now));
            }
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_that_is_copied_goes_first_and_equal_ones_go_together() {
        assert_eq!(turns(&[(5, true), (5, true), (7, true)]), [true, true, false]);
        assert_eq!(turns(&[(5, true), (1, true), (3, true)]), [false, true, false]);
        assert_eq!(turns(&[(5, true), (1, false)]), [true, true], "nothing waits for what does not get on");
        assert_eq!(turns(&[(9, false), (1, false)]), [true, true]);
    }
}
