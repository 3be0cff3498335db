//! The runner with a scripted executor.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::*;

/// Records commands; `slow` blocks until cancelled or its limit is over.
#[derive(Clone, Default)]
struct Fake {
    calls: Arc<Mutex<Vec<String>>>,
    dead: Arc<AtomicBool>,
    slow: Arc<Mutex<Option<String>>>,
}

impl Exec for Fake {
    fn run(&self, argv: &[OsString], limit: Span, cancel: &AtomicBool) -> (Outcome, String) {
        let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let call = words.join(" ");
        self.calls.lock().unwrap().push(call.clone());
        if self.slow.lock().unwrap().as_deref() == Some(call.as_str()) {
            let began = Instant::now();
            while began.elapsed() < limit.as_duration() {
                if cancel.load(Ordering::SeqCst) {
                    return (Outcome::Cancelled, String::new());
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            return (Outcome::TimedOut, String::new());
        }
        if call.ends_with("status") && self.dead.load(Ordering::SeqCst) {
            return (Outcome::Code(3), "stopped\n".into());
        }
        (Outcome::Code(0), String::new())
    }
}

fn wall() -> Clock {
    let zero = Instant::now();
    let last = AtomicU64::new(0);
    Arc::new(move || {
        let now = u64::try_from(zero.elapsed().as_nanos()).unwrap();
        Moment(last.fetch_max(now, Ordering::SeqCst).max(now))
    })
}

fn settings() -> Settings {
    Settings {
        limit: Span::from_secs(2),
        status_limit: Span::from_secs(1),
        pace: Pace {
            check_every: Span::from_millis(20),
            forget_after: Span::from_secs(600),
            holdoff: Span::ZERO,
        },
        systemctl: "/usr/bin/systemctl".into(),
    }
}

fn services(fake: &Fake) -> (Services, Arc<Mutex<Vec<Notice>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&notices);
    let list = vec![Service::Exec("/etc/init.d/one".into()), Service::Unit("two.service".into())];
    let tell = Box::new(move |notice| sink.lock().unwrap().push(notice));
    (Services::new(list, settings(), Box::new(fake.clone()), wall(), tell), notices)
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let began = Instant::now();
    while !test() {
        assert!(began.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn scripts_and_units_are_called_in_order_and_in_reverse() {
    let fake = Fake::default();
    let (services, _) = services(&fake);
    services.up();
    eventually("up", || services.settled() == Some(true));
    assert!(services.down(Span::from_secs(5)));
    let calls: Vec<String> = fake
        .calls
        .lock()
        .unwrap()
        .iter()
        .filter(|call| !call.contains("status") && !call.contains("is-active"))
        .cloned()
        .collect();
    let unit = "/usr/bin/systemctl";
    assert_eq!(
        calls,
        [
            "/etc/init.d/one start".to_string(),
            format!("{unit} start two.service"),
            format!("{unit} stop two.service"),
            "/etc/init.d/one stop".to_string(),
        ]
    );
}

#[test]
fn a_dead_service_is_restarted_and_then_a_switchover_is_asked_for() {
    let fake = Fake::default();
    let (services, notices) = services(&fake);
    services.up();
    eventually("up", || services.settled() == Some(true));
    fake.dead.store(true, Ordering::SeqCst);
    eventually("switchover", || {
        notices.lock().unwrap().iter().any(|n| matches!(n, Notice::WantSwitchover { service: 0, .. }))
    });
    let notices = notices.lock().unwrap();
    let restarts = notices.iter().filter(|n| matches!(n, Notice::Restarting { service: 0, .. })).count();
    assert_eq!(restarts, 1, "{notices:?}");
}

#[test]
fn down_interrupts_a_start_that_hangs() {
    let fake = Fake::default();
    *fake.slow.lock().unwrap() = Some("/etc/init.d/one start".into());
    let (services, _) = services(&fake);
    services.up();
    eventually("start begun", || !fake.calls.lock().unwrap().is_empty());
    let began = Instant::now();
    assert!(services.down(Span::from_secs(3)));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert!(fake.calls.lock().unwrap().contains(&"/etc/init.d/one stop".to_string()));
}

#[test]
fn down_is_bounded_when_a_stop_hangs() {
    let fake = Fake::default();
    let (services, _) = services(&fake);
    services.up();
    eventually("up", || services.settled() == Some(true));
    *fake.slow.lock().unwrap() = Some("/usr/bin/systemctl stop two.service".into());
    let began = Instant::now();
    assert!(!services.down(Span::from_millis(200)), "it did not stop in time");
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(190) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_recorded_systemctl_is_driven_like_the_real_one() {
    // Answers what systemd's own answered when it was recorded: `is-active` prints a word and exits 0 or 3.
    let dir = std::env::temp_dir().join(format!("twinfs-systemctl-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (program, state, log) = (dir.join("systemctl"), dir.join("state"), dir.join("log"));
    let script = format!(
        "#!/bin/sh\necho \"$@\" >> {log}\ncase $1 in\nstart) echo active > {state};;\nstop) echo inactive > {state};;\n\
         is-active) s=$(cat {state}); echo $s; [ $s = active ] || exit 3;;\nesac\n",
        log = log.display(),
        state = state.display(),
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&state, "inactive\n").unwrap();
    // Another test's fork may hold the script open for writing for a moment.
    eventually("script is runnable", || std::process::Command::new(&program).arg("try").status().is_ok());
    std::fs::write(&log, "").unwrap();
    let settings = Settings { systemctl: program, ..settings() };
    let list = vec![Service::Unit("postfix.service".into())];
    let notices = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&notices);
    let tell = Box::new(move |notice| sink.lock().unwrap().push(notice));
    let services = Services::new(list, settings, Box::new(Machine), wall(), tell);
    services.up();
    eventually("up", || services.settled() == Some(true));
    std::fs::write(&state, "failed\n").unwrap();
    eventually("restarted", || std::fs::read_to_string(&log).unwrap().matches("start postfix").count() == 2);
    assert!(services.down(Span::from_secs(5)));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.starts_with("start postfix.service\n") && log.ends_with("stop postfix.service\n"), "{log}");
    assert!(
        log.contains("is-active postfix.service\nstop postfix.service\nstart postfix.service\n"),
        "{log}"
    );
    assert!(notices.lock().unwrap().iter().any(|n| matches!(n, Notice::Restarting { .. })));
    drop(services);
    std::fs::remove_dir_all(&dir).unwrap();
}
