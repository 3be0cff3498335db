//! Carries out a [`Plan`]: one thread per volume that runs one command at a time.
//!
//! Decides which program a command means (an init script, or `systemctl` for units) and how long it may take. Does not
//! know why services go up or down. Invariants: `down` returns within its limit; a command that outlives its limit, or
//! whose result nobody wants any more, has its whole process group killed.
#![allow(clippy::disallowed_methods, reason = "a shell: one thread per volume")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::base::{Moment, Span};
use crate::config::Service;
use crate::sys::exec::{self, End, Program};

use super::judge::{self, Health, Outcome};
use super::plan::{Command, Notice, Pace, Plan};

/// Runs a program to its end; the only door to processes.
pub trait Exec: Send + Sync {
    /// Runs `argv` in its own process group with a fixed environment and no input, for at most `limit`; ends early
    /// when `cancel` becomes true. Answers how it ended and the first lines it printed.
    fn run(&self, argv: &[OsString], limit: Span, cancel: &AtomicBool) -> (Outcome, String);
}

/// `Exec` on this machine.
pub struct Machine;

impl Exec for Machine {
    fn run(&self, argv: &[OsString], limit: Span, cancel: &AtomicBool) -> (Outcome, String) {
        let mut words = argv.iter().map(|word| word.to_string_lossy().into_owned());
        let program = Program {
            path: words.next().unwrap_or_default().into(),
            args: words.collect(),
            env: Vec::new(),
            timeout: limit.as_duration(),
        };
        match exec::run_unless(&program, cancel) {
            Err(error) => (Outcome::NotRun(error.to_string()), String::new()),
            Ok(ran) => {
                let outcome = match ran.end {
                    End::Exit(code) => Outcome::Code(code),
                    End::Signal(number) => Outcome::Signal(number),
                    End::TimedOut if cancel.load(Ordering::SeqCst) => Outcome::Cancelled,
                    End::TimedOut => Outcome::TimedOut,
                };
                (outcome, ran.output)
            }
        }
    }
}

/// Where time comes from.
pub type Clock = Arc<dyn Fn() -> Moment + Send + Sync>;
/// Where notices go. Called without any lock held.
pub type Tell = Box<dyn Fn(Notice) + Send>;

/// The numbers and paths of a volume's services.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For one start or stop.
    pub limit: Span,
    /// For one look.
    pub status_limit: Span,
    pub pace: Pace,
    /// Usually `systemctl`.
    pub systemctl: PathBuf,
}

/// One service as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ServiceView {
    pub name: String,
    pub state: String,
    pub remark: String,
}

struct Inner {
    plan: Plan,
    quit: bool,
}

struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
    cancel: AtomicBool,
    services: Vec<Service>,
    settings: Settings,
    exec: Box<dyn Exec>,
    clock: Clock,
}

/// The services of one volume. Dropping it ends the thread and leaves the services as they are.
pub struct Services {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Services {
    /// Starts the thread; nothing is started or stopped before `up` or `down`.
    pub fn new(
        services: Vec<Service>,
        settings: Settings,
        exec: Box<dyn Exec>,
        clock: Clock,
        tell: Tell,
    ) -> Services {
        let plan = Plan::new(services.len(), settings.pace);
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { plan, quit: false }),
            changed: Condvar::new(),
            cancel: AtomicBool::new(false),
            services,
            settings,
            exec,
            clock,
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::spawn(move || worker.run(&tell));
        Services { shared, thread: Some(thread) }
    }

    /// Asks for the services to run; returns at once.
    pub fn up(&self) {
        let now = (self.shared.clock)();
        self.shared.lock().plan.wish_up(now);
        self.shared.changed.notify_all();
    }

    /// Stops the services, the last started first; returns within `limit` whether all of them stopped. What is not
    /// stopped by then goes on being stopped in the background.
    pub fn down(&self, limit: Span) -> bool {
        let end = (self.shared.clock)() + limit;
        let mut inner = self.shared.lock();
        inner.plan.wish_down();
        self.shared.cancel.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        while inner.plan.settled() != Some(false) {
            let left = end.since((self.shared.clock)());
            if left == Span::ZERO {
                return false;
            }
            inner = wait(&self.shared.changed, inner, left);
        }
        inner.plan.stuck() == 0
    }

    /// Whether all that can run runs (`Some(true)`), nothing runs (`Some(false)`), or it is on the way.
    pub fn settled(&self) -> Option<bool> {
        self.shared.lock().plan.settled()
    }

    /// The answer to [`Notice::WantSwitchover`] when the peer cannot take the volume.
    pub fn switchover_refused(&self, service: usize, reason: &str) -> Notice {
        self.shared.lock().plan.switchover_refused(service, reason)
    }

    pub fn name(&self, service: usize) -> String {
        self.shared.services.get(service).map(ToString::to_string).unwrap_or_default()
    }

    pub fn views(&self) -> Vec<ServiceView> {
        let inner = self.shared.lock();
        let view = |(n, service): (usize, &Service)| {
            let (state, remark) = inner.plan.view(n);
            ServiceView { name: service.to_string(), state: state.to_string(), remark: remark.to_string() }
        };
        self.shared.services.iter().enumerate().map(view).collect()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shared.lock().quit = true;
        self.shared.cancel.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The last owner may be the thread's own notice handler.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn wait<'a>(changed: &Condvar, inner: MutexGuard<'a, Inner>, at_most: Span) -> MutexGuard<'a, Inner> {
    changed.wait_timeout(inner, at_most.as_duration()).unwrap_or_else(PoisonError::into_inner).0
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, tell: &Tell) {
        let mut inner = self.lock();
        while !inner.quit {
            let (command, notice) = inner.plan.next((self.clock)());
            if command.is_some() {
                // Only a stop survives a later wish for down; `down` sets the flag again.
                self.cancel.store(false, Ordering::SeqCst);
            } else if notice.is_none() {
                let now = (self.clock)();
                let pause = inner.plan.wake_at().map_or(Span::from_secs(3600), |at| at.since(now));
                inner = wait(&self.changed, inner, pause.max(Span::from_millis(1)));
                continue;
            }
            self.changed.notify_all();
            drop(inner);
            notice.into_iter().for_each(tell);
            inner = if let Some(command) = command {
                let answer = self.carry_out(command);
                let mut inner = self.lock();
                let notice = answer.feed(&mut inner.plan, (self.clock)());
                self.changed.notify_all();
                drop(inner);
                notice.into_iter().for_each(tell);
                self.lock()
            } else {
                self.lock()
            };
        }
    }

    fn carry_out(&self, command: Command) -> Answer {
        let never = AtomicBool::new(false);
        match command {
            Command::Start(n) => {
                let (outcome, printed) = self.call(n, "start", self.settings.limit, &self.cancel);
                Answer::Started(n, judge::start(&outcome).map_err(|why| with_output(why, &printed)))
            }
            Command::Stop(n) => {
                let (outcome, printed) = self.call(n, "stop", self.settings.limit, &never);
                Answer::Stopped(n, judge::stop(&outcome).map_err(|why| with_output(why, &printed)))
            }
            Command::Check(n) => {
                let unit = matches!(self.services[n], Service::Unit(_));
                let verb = if unit { "is-active" } else { "status" };
                let (outcome, printed) = self.call(n, verb, self.settings.status_limit, &self.cancel);
                let health =
                    if unit { judge::unit_status(&outcome, &printed) } else { judge::status(&outcome) };
                Answer::Checked(n, health)
            }
        }
    }

    fn call(&self, service: usize, verb: &str, limit: Span, cancel: &AtomicBool) -> (Outcome, String) {
        let argv: Vec<OsString> = match &self.services[service] {
            Service::Exec(path) => vec![path.into(), verb.into()],
            Service::Unit(unit) => vec![self.settings.systemctl.clone().into(), verb.into(), unit.into()],
        };
        self.exec.run(&argv, limit, cancel)
    }
}

enum Answer {
    Started(usize, judge::Verdict),
    Stopped(usize, judge::Verdict),
    Checked(usize, Health),
}

impl Answer {
    fn feed(self, plan: &mut Plan, now: Moment) -> Option<Notice> {
        match self {
            Answer::Started(n, verdict) => plan.started(now, n, verdict),
            Answer::Stopped(n, verdict) => plan.stopped(n, verdict),
            Answer::Checked(n, health) => plan.checked(now, n, health),
        }
    }
}

/// The reason, with the last line the program printed.
fn with_output(why: String, printed: &str) -> String {
    match printed.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{why}: {}", line.trim().chars().take(200).collect::<String>()),
        None => why,
    }
}

#[cfg(test)]
mod tests;
