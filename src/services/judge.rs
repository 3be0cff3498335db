//! What the end of a command says about a service, by the LSB table of init-script exit codes.
//!
//! Pure. Does not run anything. Invariant: only an explicit answer makes a service *running*; only an explicit answer
//! makes it *dead* (silence is *unknown*, and the plan decides when enough is enough).

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Code(i32),
    /// Ended by this signal.
    Signal(i32),
    /// Its process group was killed after the time limit.
    TimedOut,
    /// Its process group was killed because its result is not wanted any more.
    Cancelled,
    /// Could not be started at all.
    NotRun(String),
}

/// Whether a start or a stop did what it should.
pub type Verdict = Result<(), String>;

/// What a look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Running,
    Dead(String),
    Unknown(String),
}

/// `start`: 0 also when it was running already.
pub fn start(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Code(0) => Ok(()),
        other => Err(describe(other, action_code)),
    }
}

/// `stop`: what does not run or is not installed is stopped.
pub fn stop(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Code(0 | 5 | 7) => Ok(()),
        other => Err(describe(other, action_code)),
    }
}

/// `status`.
pub fn status(outcome: &Outcome) -> Health {
    match outcome {
        Outcome::Code(0) => Health::Running,
        Outcome::Code(1..=3) => Health::Dead(describe(outcome, status_code)),
        other => Health::Unknown(describe(other, status_code)),
    }
}

/// `systemctl is-active`, by the word it prints: while a unit is being (re)started it is neither running nor dead.
pub fn unit_status(outcome: &Outcome, printed: &str) -> Health {
    let word = printed.split_whitespace().next().unwrap_or("");
    match (outcome, word) {
        (Outcome::Code(0), _) => Health::Running,
        (Outcome::Code(_), "activating" | "reloading" | "refreshing") => {
            Health::Unknown(format!("unit is {word}"))
        }
        (Outcome::Code(3), _) => {
            Health::Dead(format!("unit is {}", if word.is_empty() { "not active" } else { word }))
        }
        (Outcome::Code(4), _) => Health::Dead("no such unit".to_string()),
        (other, _) => Health::Unknown(describe(other, |_| "")),
    }
}

fn describe(outcome: &Outcome, meaning: fn(i32) -> &'static str) -> String {
    match outcome {
        Outcome::Code(code) => {
            let words = meaning(*code);
            if words.is_empty() { format!("exit code {code}") } else { format!("exit code {code} ({words})") }
        }
        Outcome::Signal(signal) => format!("killed by signal {signal}"),
        Outcome::TimedOut => "no answer in time, process group killed".to_string(),
        Outcome::Cancelled => "interrupted".to_string(),
        Outcome::NotRun(why) => format!("cannot be run: {why}"),
    }
}

fn action_code(code: i32) -> &'static str {
    match code {
        1 => "generic error",
        2 => "invalid arguments",
        3 => "not implemented",
        4 => "not permitted",
        5 => "not installed",
        6 => "not configured",
        7 => "not running",
        _ => "",
    }
}

fn status_code(code: i32) -> &'static str {
    match code {
        1 => "dead, its pid file remains",
        2 => "dead, its lock file remains",
        3 => "not running",
        4 => "status unknown",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsb_codes_are_judged_as_the_standard_says() {
        assert_eq!(start(&Outcome::Code(0)), Ok(()));
        for code in 1..=7 {
            assert!(start(&Outcome::Code(code)).is_err(), "start {code}");
        }
        let stopped: Vec<i32> = (0..=7).filter(|code| stop(&Outcome::Code(*code)).is_ok()).collect();
        assert_eq!(stopped, [0, 5, 7]);
        let dead: Vec<i32> =
            (0..=7).filter(|code| matches!(status(&Outcome::Code(*code)), Health::Dead(_))).collect();
        assert_eq!(dead, [1, 2, 3]);
        assert_eq!(status(&Outcome::Code(0)), Health::Running);
        assert!(matches!(status(&Outcome::TimedOut), Health::Unknown(_)));
    }

    #[test]
    fn a_unit_that_is_being_started_is_not_dead() {
        assert_eq!(unit_status(&Outcome::Code(0), "active\n"), Health::Running);
        assert!(matches!(unit_status(&Outcome::Code(3), "activating\n"), Health::Unknown(_)));
        assert!(matches!(unit_status(&Outcome::Code(3), "failed\n"), Health::Dead(_)));
        assert!(matches!(unit_status(&Outcome::Code(4), "inactive\n"), Health::Dead(_)));
    }
}
