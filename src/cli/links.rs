//! The paths to the peer in `twinfs status`: a line where one is bad, all that is known with `--links`.
//!
//! Decides the words. Does not know when a path is bad.

use super::output::Output;
use super::status::labelled;
use crate::daemon::link_status::{LinkStatus, tenths};
use crate::daemon::status::{NodeStatus, age};

/// Whether what crosses the paths can be read by others.
pub fn privacy(status: &NodeStatus) -> String {
    let count = |serial: bool| status.links.iter().filter(|link| link.serial == serial).count();
    let paths = match count(false) {
        1 => "1 path".to_string(),
        count => format!("{count} paths"),
    };
    let paths = match count(true) {
        0 => paths,
        1 => format!("{paths} and 1 serial line"),
        lines => format!("{paths} and {lines} serial lines"),
    };
    match status.encrypt {
        None => paths,
        Some(true) => format!("{paths}, encrypted"),
        Some(false) => format!("{paths}, NOT ENCRYPTED (encrypt = \"off\"), only protected against changes"),
    }
}

/// What keeps load from looking like a death, in words; whether something that was asked for is missing.
pub fn realtime(status: &NodeStatus) -> (String, bool) {
    let realtime = &status.realtime;
    if !realtime.wanted {
        return ("realtime = \"off\": load can hold up heartbeats and look like a death".to_string(), false);
    }
    let threads = match &realtime.threads_problem {
        None => "real-time threads".to_string(),
        Some(why) => format!("no real-time threads ({why}): load can look like a death"),
    };
    let memory = match (&realtime.memory_problem, realtime.memory.as_str()) {
        (Some(why), _) => format!("memory not locked ({why}): paging can look like a death"),
        (None, "start") => "what was in memory at the start is locked".to_string(),
        (None, _) => "memory locked".to_string(),
    };
    let missing = realtime.threads_problem.is_some() || realtime.memory_problem.is_some();
    (format!("{threads}, {memory}"), missing)
}

/// The bad ones, a line each.
pub fn bad(status: &NodeStatus, lines: &mut Vec<String>) {
    for link in &status.links {
        if let Some(problem) = &link.problem {
            labelled(lines, &format!("path {}", link.path), &format!("{} {problem}", link.remote));
        }
    }
}

/// All that is known of every path.
pub fn all(status: &NodeStatus, output: &Output) -> Vec<String> {
    let mut lines = Vec::new();
    for link in &status.links {
        let health = match (link.down, &link.problem) {
            (true, _) => output.health(2, "down"),
            (false, Some(_)) => output.health(1, "poor"),
            (false, None) if link.heard_ms.is_none() => "nothing heard yet".to_string(),
            (false, None) => output.health(0, "good"),
        };
        let name = output.bold(&format!("path {}", link.path));
        lines.push(String::new());
        lines.push(format!("{name}: {health}  {} to {}", link.local, link.remote));
        about(link, &mut lines);
    }
    lines
}

fn about(link: &LinkStatus, lines: &mut Vec<String>) {
    let mut say = |label: &str, text: &str| labelled(lines, label, text);
    if let Some(problem) = &link.problem {
        say("why", problem);
    }
    say("heard", &link.heard_ms.map_or("never".to_string(), |ms| format!("{} ago", age(ms))));
    let carries = match link.carries.as_slice() {
        [] => "heartbeats only".to_string(),
        volumes => format!("heartbeats, and the stream of {}", volumes.join(", ")),
    };
    say("carries", &carries);
    let lately = link.loss_permille.map_or(String::new(), |loss| format!("{} % in 5 min; ", tenths(loss)));
    let all = link.received + link.lost;
    say("loss", &format!("{lately}{} of {all} heartbeats since the start", link.lost));
    let unanswered = format!("{} of {} probes answered", link.answers, link.probes);
    match (link.rtt_us, link.rtt_least_us, link.rtt_most_us) {
        (Some(mean), Some(least), Some(most)) => {
            say("round trip", &format!("{} ms ({} to {} ms); {unanswered}", ms(mean), ms(least), ms(most)));
        }
        _ => say("round trip", &format!("unknown; {unanswered}")),
    }
    if let (Some(gap), Some(ago)) = (link.worst_gap_ms, link.worst_gap_ago_ms) {
        let late = match link.late {
            0 => "never late".to_string(),
            1 => "late once".to_string(),
            times => format!("late {times} times"),
        };
        say("worst gap", &format!("{}, {} ago; {late}", age(gap), age(ago)));
    }
    let refused = &link.refused;
    say(
        "refused",
        &format!(
            "{} forged, {} replayed, {} foreign packets",
            refused.forged, refused.replayed, refused.foreign
        ),
    );
}

/// Microseconds as milliseconds.
fn ms(us: u64) -> String {
    format!("{}.{:02}", us / 1_000, us % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::status::RealtimeStatus;

    fn status() -> NodeStatus {
        let good = LinkStatus {
            path: 1,
            local: "10.77.0.1:8790".into(),
            remote: "10.77.0.2:8790".into(),
            carries: vec!["mail".into()],
            heard_ms: Some(120),
            received: 12_345,
            lost: 3,
            loss_permille: Some(0),
            rtt_us: Some(312),
            rtt_least_us: Some(204),
            rtt_most_us: Some(4_100),
            probes: 6_000,
            answers: 6_000,
            worst_gap_ms: Some(1_200),
            worst_gap_ago_ms: Some(600_000),
            ..LinkStatus::default()
        };
        let problem = Some("silent for 3 min 4 s".to_string());
        let dead =
            LinkStatus { path: 2, remote: "10.77.1.2:8790".into(), down: true, problem, ..good.clone() };
        NodeStatus { links: vec![good, dead], ..NodeStatus::default() }
    }

    #[test]
    fn only_bad_paths_are_in_the_plain_status_and_an_open_link_is_said_loudly() {
        let (mut status, mut lines) = (status(), Vec::new());
        status.encrypt = Some(false);
        bad(&status, &mut lines);
        assert_eq!(lines, ["  path 2     10.77.1.2:8790 silent for 3 min 4 s"]);
        assert!(privacy(&status).contains("NOT ENCRYPTED"));
        status.encrypt = Some(true);
        assert_eq!(privacy(&status), "2 paths, encrypted");
        status.links[1].serial = true;
        assert_eq!(privacy(&status), "1 path and 1 serial line, encrypted");
    }

    #[test]
    fn what_load_can_do_is_said_with_its_reason() {
        let mut status = status();
        assert!(realtime(&status).0.contains("\"off\"") && !realtime(&status).1, "nobody asked for it");
        status.realtime = RealtimeStatus {
            wanted: true,
            threads: true,
            memory: "all".to_string(),
            ..RealtimeStatus::default()
        };
        assert_eq!(realtime(&status), ("real-time threads, memory locked".to_string(), false));
        status.realtime.threads_problem = Some("not permitted".to_string());
        let (text, missing) = realtime(&status);
        assert!(missing && text.starts_with("no real-time threads (not permitted)"), "{text}");
    }

    #[test]
    fn every_path_says_all_that_is_known_in_at_most_eighty_columns() {
        let text = all(&status(), &Output::new(false, false));
        assert!(text.iter().all(|line| line.len() <= 80), "{text:#?}");
        let text = text.join("\n");
        for part in [
            "path 1: good  10.77.0.1:8790 to 10.77.0.2:8790",
            "path 2: down",
            "  heard      120 ms ago",
            "  loss       0.0 % in 5 min; 3 of 12348 heartbeats since the start",
            "  round trip 0.31 ms (0.20 to 4.10 ms); 6000 of 6000 probes answered",
            "  worst gap  1.2 s, 10 min 0 s ago; never late",
            "  refused    0 forged, 0 replayed, 0 foreign packets",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
