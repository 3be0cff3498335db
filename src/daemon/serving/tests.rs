//! Promotion and demotion with a recorded mount, address and services.

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::base::Moment;
use crate::config::Service;
use crate::daemon::reflexes::{AddressWish, RequestGate};
use crate::services::Outcome;
use crate::services::plan::Pace;
use crate::services::run::{Exec, Settings};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl AddressWish for Log {
    fn raise(&self, _: u64) {
        self.add("address up");
    }
    fn renew(&self, _: u64) {}
    fn drop_now(&self) {
        self.add("address down");
    }
}

impl RequestGate for Log {
    fn open(&self) {
        self.add("gate open");
    }
    fn hold(&self) {}
    fn stop(&self) {
        self.add("gate stopped");
    }
}

impl Exec for Log {
    fn run(&self, argv: &[OsString], _: Span, _: &AtomicBool) -> (Outcome, String) {
        self.add(format!("service {}", argv[1].to_string_lossy()));
        (Outcome::Code(0), String::new())
    }
}

impl Served for Log {
    fn whose(&self, _: crate::base::BlockNo) -> Option<String> {
        None
    }
    fn sync(&self) -> Result<(), String> {
        Ok(())
    }
    fn grow(&self) -> Result<(), String> {
        Ok(())
    }
    fn abort(&self) {
        self.add("abort");
    }
    fn pause(&self, _: Duration) -> Result<(), String> {
        Ok(())
    }
    fn resume(&self) {}
    fn describe(&self) -> Result<KeptMount, String> {
        Err("nothing is mounted".into())
    }
    fn retire(&self) {}
    fn unmount(&self, limit: Duration) -> Result<bool, String> {
        self.add(if limit.is_zero() { "detach" } else { "unmount" });
        Ok(true)
    }
}

/// Whether a mount fails, and whether one is kept.
struct FakeMounter(Log, bool, AtomicBool);

impl Mounter for FakeMounter {
    fn mount(&self) -> Result<Arc<dyn Served>, String> {
        if self.1 {
            return Err("no space".into());
        }
        self.0.add("mount");
        self.2.store(false, Ordering::SeqCst);
        Ok(Arc::new(self.0.clone()))
    }
    fn place(&self) -> PathBuf {
        "/nowhere".into()
    }
    fn keeps(&self) -> bool {
        self.2.load(Ordering::SeqCst)
    }
    fn pause_ms(&self) -> Option<u64> {
        Some(5)
    }
    fn give_up(&self) {
        self.2.store(false, Ordering::SeqCst);
        self.0.add("given up");
    }
}

fn serve<const N: usize>(tasks: [Task; N], fails: bool) -> Vec<String> {
    serve_kept(tasks, fails, false)
}

fn serving(log: &Log, fails: bool, kept: bool) -> (Serving, std::sync::mpsc::Receiver<Event>) {
    let reflexes = Reflexes::new(Arc::new(log.clone()), Arc::new(log.clone()));
    let second = Span::from_secs(1);
    let settings = Settings {
        limit: second,
        status_limit: second,
        pace: Pace { check_every: Span::from_secs(60), forget_after: second, holdoff: second },
        systemctl: "systemctl".into(),
    };
    let list = vec![Service::Exec("/etc/init.d/x".into())];
    let zero = Instant::now();
    let clock = Arc::new(move || Moment(u64::try_from(zero.elapsed().as_nanos()).unwrap()));
    let services = Services::new(list, settings, Box::new(log.clone()), clock, Box::new(|_| {}));
    let (answers, heard) = std::sync::mpsc::channel();
    let none = std::env::temp_dir().join("twinfs-serving-none");
    let serving = Serving {
        mounter: Box::new(FakeMounter(log.clone(), fails, AtomicBool::new(kept))),
        slot: Slot::default(),
        reflexes: Arc::new(reflexes),
        addresses: Arc::new(Addresses::new(Vec::new(), None, Box::new(|_| {}))),
        services: Arc::new(services),
        service_count: 1,
        service_timeout: second,
        release_time: second,
        places: adopt::Places { mount: none.clone(), state_dir: none, needed: Vec::new() },
        deliver: Box::new(move |event| answers.send(event).unwrap()),
        tell: Arc::new({
            let log = log.clone();
            move |event| match event {
                events::Event::Mounted { .. } => log.add("told of a mount"),
                events::Event::Upgraded { .. } => log.add("told of an upgrade"),
                _ => {}
            }
        }),
    };
    (serving, heard)
}

fn serve_kept<const N: usize>(tasks: [Task; N], fails: bool, kept: bool) -> Vec<String> {
    let log = Log::default();
    let (serving, heard) = serving(&log, fails, kept);
    let (send, receive) = std::sync::mpsc::channel();
    let (reflexes, services) = (Arc::clone(&serving.reflexes), Arc::clone(&serving.services));
    let thread = std::thread::spawn(move || serving.run(&receive));
    {
        for task in tasks {
            if matches!(task, Task::Promote) {
                reflexes.promoting();
            }
            send.send(task).unwrap();
            let answer = heard.recv_timeout(Duration::from_secs(10)).unwrap();
            log.add(format!("{answer:?}"));
            let began = Instant::now();
            while answer == Event::Promoted && services.settled() != Some(true) {
                assert!(began.elapsed() < Duration::from_secs(5));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        send.send(Task::Quit).unwrap();
    }
    thread.join().unwrap();
    log.all()
}

/// Position of the first entry.
fn place(log: &[String], entry: &str) -> usize {
    log.iter().position(|e| e == entry).unwrap_or_else(|| panic!("{entry} is not in {log:?}"))
}

#[test]
fn a_promotion_mounts_then_raises_the_address_then_starts_services() {
    let log = serve([Task::Promote], false);
    assert!(place(&log, "mount") < place(&log, "address up"), "{log:?}");
    assert!(place(&log, "address up") < place(&log, "service start"), "{log:?}");
    assert!(log.contains(&"Promoted".to_string()));
}

#[test]
fn a_graceful_demotion_goes_the_way_back_and_answers_last() {
    let log = serve([Task::Promote, Task::Demote { graceful: true }], false);
    assert!(place(&log, "service stop") < place(&log, "address down"), "{log:?}");
    assert!(place(&log, "address down") < place(&log, "unmount"), "{log:?}");
    assert!(place(&log, "unmount") < place(&log, "Demoted"), "{log:?}");
    assert!(!log.contains(&"abort".to_string()));
}

#[test]
fn a_lost_right_stops_answers_before_anything_else() {
    let log = serve([Task::Promote, Task::Demote { graceful: false }], false);
    let stopped = place(&log, "gate stopped");
    assert!(stopped < place(&log, "abort") && place(&log, "abort") < place(&log, "service stop"), "{log:?}");
    assert!(place(&log, "service stop") < place(&log, "detach"), "{log:?}");
}

#[test]
fn a_mount_that_fails_raises_nothing_and_says_so() {
    let log = serve([Task::Promote], true);
    assert!(log.contains(&"PromoteFailed".to_string()));
    assert!(!log.iter().any(|e| e == "address up" || e == "service start"), "{log:?}");
}

#[test]
fn only_the_mount_that_was_kept_is_told_as_an_upgrade() {
    let again = [Task::Promote, Task::Demote { graceful: true }, Task::Promote];
    let log = serve_kept(again, false, true);
    let told: Vec<&String> = log.iter().filter(|entry| entry.starts_with("told")).collect();
    assert_eq!(told, ["told of an upgrade", "told of a mount"], "{log:?}");
}

/// The services and the address of a predecessor are still up while its mount waits.
#[test]
fn a_kept_mount_that_is_given_up_or_fails_takes_its_services_and_its_address_along() {
    for (tasks, fails) in [([Task::Demote { graceful: false }], false), ([Task::Promote], true)] {
        let log = serve_kept(tasks, fails, true);
        assert!(place(&log, "gate stopped") < place(&log, "given up"), "{log:?}");
        assert!(place(&log, "given up") < place(&log, "service stop"), "{log:?}");
        assert!(place(&log, "service stop") < log.len() - 1, "answered last: {log:?}");
        assert!(log.contains(&"address down".to_string()) && !log.contains(&"address up".to_string()));
    }
}

#[test]
fn what_waits_behind_a_rest_is_done_after_it_or_never() {
    for over in [false, true] {
        let log = Log::default();
        let (serving, heard) = serving(&log, false, false);
        let (send, receive) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || serving.run(&receive));
        let (rested, is_at_rest) = std::sync::mpsc::channel();
        let (end, waits) = std::sync::mpsc::channel();
        send.send(Task::Rest(Rest { rested, end: waits })).unwrap();
        send.send(Task::Demote { graceful: false }).unwrap();
        is_at_rest.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(heard.recv_timeout(Duration::from_millis(50)).is_err(), "something was done at rest");
        if over {
            end.send(RestOver).unwrap();
        }
        drop(end);
        send.send(Task::Quit).unwrap();
        thread.join().unwrap();
        assert_eq!(heard.try_recv().ok(), (!over).then_some(Event::Demoted));
    }
}
