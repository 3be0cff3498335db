//! What systemd is told about this process; nothing happens when it was not started by systemd.
//!
//! Does not know the state it reports. Invariant: a failure to tell is never an error of the daemon.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service is ready.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The service begins to stop, and may need so long.
pub fn stopping(at_most: Duration) {
    let usec = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(usec)]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The service reads its configuration again; `ready` ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(stamp) => tell(&[NotifyState::Reloading, stamp]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// Still alive. Call at least twice in `watchdog_interval`.
pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often systemd wants a sign of life, if it does.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(state: &[NotifyState<'_>]) {
    // systemd's own time-outs deal with a message that was lost.
    let _ = sd_notify::notify(state);
}
