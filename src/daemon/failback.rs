//! The way back to the node that a volume belongs to, as far as clocks and files go.
//!
//! Decides when the window is looked at, and the words of the status. Does not decide that a volume moves: the machine
//! does. Invariant: a window counts as closed until it was looked at.

use std::rc::Rc;
use std::time::Duration;

use crate::base::{Moment, NodeId, WallTime};
use crate::config::Failback;
use crate::node::{Event, FailbackView, Stay};
use crate::sys::clock;

use super::runtime::Running;
use super::status::VolumeStatus;
use super::volume::Volume;

/// Between two looks at the clock of the machine, which may jump.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Tells the machines whether their window is open, for ever.
pub async fn watch(running: Rc<Running>) {
    let windowed = |volume: &&std::sync::Arc<Volume>| volume.settings.failback.window().is_some();
    if !running.volumes().iter().any(|volume| windowed(&volume)) {
        return;
    }
    loop {
        let wall = clock::wall();
        for volume in running.volumes().iter().filter(windowed) {
            let open = volume.settings.failback.window().is_some_and(|window| window.is_open(wall));
            volume.mirror.deliver(Event::Window(open));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Where the volume belongs and when it goes back.
pub fn fill(status: &mut VolumeStatus, volume: &Volume, view: Option<FailbackView>, name: &str, now: Moment) {
    let Some(view) = view else { return };
    let wall = clock::wall();
    let window = volume.settings.failback.window();
    let rests = view.not_before.map(|at| {
        u64::try_from(wall.unix_s).unwrap_or(0).saturating_add(at.since(now).as_millis().div_ceil(1000))
    });
    let opens = window.and_then(|window| window.opens(wall));
    status.failback_to = Some(name.to_string());
    status.failback_when = volume.settings.failback.to_string();
    status.failback_stays = view.stay.text().to_string();
    let moves = !matches!(view.stay, Stay::Home | Stay::Held | Stay::Stopped);
    status.failback_from_unix_s = rests.max(opens).filter(|_| moves);
    status.failback = words(view, &volume.settings.failback, name, status.failback_from_unix_s, wall);
}

/// "failback to beta when synced, not before 14:03", by the clock of this machine.
fn words(view: FailbackView, when: &Failback, name: &str, not_before: Option<u64>, wall: WallTime) -> String {
    let window = when.window().map_or(String::new(), |window| format!(" and in the window {window}"));
    let time = not_before.map_or(String::new(), |at| format!(", not before {}", clock_time(at, wall)));
    let base = format!("failback to {name} when synced{window}");
    match view.stay {
        Stay::Home | Stay::OutOfSync | Stay::TooSoon | Stay::Closed => format!("{base}{time}"),
        Stay::Theirs => format!("{base}, as {name} decides"),
        Stay::Held => format!("no failback to {name}: it is held"),
        Stay::ReachesNobody => format!("no failback to {name}: no ping target answers it"),
        Stay::Stopped => format!("no failback to {name}: it is stopped"),
        Stay::MovedAway if when.window().is_some() => {
            format!("{base}: moved away on purpose, so with the next one{time}")
        }
        Stay::MovedAway => {
            format!("no failback to {name} until it was started anew: the volume was moved away on purpose")
        }
        Stay::Noting => format!("failback to {name} now"),
    }
}

/// The time of the day, with its date if that is not today's.
fn clock_time(unix_s: u64, wall: WallTime) -> String {
    let local = |unix_s: i64| unix_s.saturating_add(i64::from(wall.offset_s));
    let then = local(i64::try_from(unix_s).unwrap_or(i64::MAX));
    let text = super::status::utc(u64::try_from(then).unwrap_or(0).saturating_mul(1000));
    let (date, time) = text.split_once('T').unwrap_or(("", &text));
    let time = time.get(..5).unwrap_or(time);
    let same_day = then.div_euclid(86_400) == local(wall.unix_s).div_euclid(86_400);
    if same_day { time.to_string() } else { format!("{date} {time}") }
}

/// For the machine: where the volume belongs.
pub fn rule(prefer: Option<NodeId>, failback: &Failback) -> Option<crate::node::Failback> {
    match failback {
        Failback::Never => None,
        Failback::WhenSynced | Failback::Window(_) => {
            Some(crate::node::Failback { to: prefer?, windowed: failback.window().is_some() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Window;

    #[test]
    fn the_status_says_where_it_goes_and_not_before_when() {
        // 2026-11-26 13:03:20 UTC, a Thursday, one hour behind local time.
        let wall = WallTime { unix_s: 1_795_698_200, offset_s: 3_600 };
        let view = |stay| FailbackView { to: NodeId::B, stay, not_before: None };
        let at = |minutes: u64| Some(1_795_698_200 + minutes * 60);
        let text = words(view(Stay::TooSoon), &Failback::WhenSynced, "beta", at(0), wall);
        assert_eq!(text, "failback to beta when synced, not before 14:03");
        let text = words(view(Stay::OutOfSync), &Failback::WhenSynced, "beta", None, wall);
        assert_eq!(text, "failback to beta when synced");
        let window = Failback::Window(Window::parse("02:00-04:00 sun").unwrap());
        let opens = window.window().unwrap().opens(wall);
        let text = words(view(Stay::Closed), &window, "beta", opens, wall);
        assert_eq!(
            text,
            "failback to beta when synced and in the window 02:00-04:00 sun, not before 2026-11-29 02:00"
        );
        let text = words(view(Stay::Held), &window, "beta", None, wall);
        assert_eq!(text, "no failback to beta: it is held");
    }
}
