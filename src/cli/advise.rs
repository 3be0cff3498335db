//! `twinfs advise`: which deadtime this network would have allowed.
//!
//! Decides the words and the exit code (0 long enough, 4 too short, 75 too little seen). Does not know how the
//! suggestion comes about.

use super::place::RunDir;
use super::status::labelled;
use super::{Exit, Failure, Output};
use crate::daemon::measured::{Judgement, Measured, Silences};
use crate::daemon::protocol::Request;
use crate::daemon::status::age;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    run: RunDir,
}

pub fn run(args: &Args, output: &Output) -> anyhow::Result<Exit> {
    let reply = args.run.ask(&Request::Advise)?;
    let measured = reply.measured.ok_or_else(|| Failure::new(Exit::FAILED, reply.text))?;
    output.object(serde_json::to_value(&measured)?);
    lines(&measured, output).iter().for_each(|line| output.line(line));
    Ok(match measured.judgement {
        Judgement::LongEnough => Exit::DONE,
        Judgement::TooShort => Exit::DEGRADED,
        Judgement::TooLittleSeen => Exit::TRY_AGAIN,
    })
}

fn lines(measured: &Measured, output: &Output) -> Vec<String> {
    let deadtime = age(measured.deadtime_ms);
    let head = match measured.judgement {
        Judgement::LongEnough if measured.outlasting_ms.is_some() => {
            output.health(1, "long enough, outages apart")
        }
        Judgement::LongEnough => output.health(0, "long enough"),
        Judgement::TooShort => output.health(2, "too short"),
        Judgement::TooLittleSeen => output.health(1, "too little seen to tell"),
    };
    let mut lines = vec![format!("deadtime {deadtime}: {head}")];
    let mut say = |label: &str, text: &str| labelled(&mut lines, label, text);
    let watched = age(measured.watched_ms);
    say("seen", &format!("{} heartbeats in {watched}, since the daemon started", measured.together.count));
    say("silence", &silence(&measured.together));
    for (n, path) in measured.paths.iter().enumerate().filter(|_| measured.paths.len() > 1) {
        say(&format!("path {}", n + 1), &silence(path));
    }
    say("late", &late(measured));
    if let Some(pause) = measured.own_pause_ms {
        say("own pause", &format!("this daemon did not get to run for {} at most", age(pause)));
    }
    if let Some(longer) = measured.outlasting_ms {
        let text = "silences longer than deadtime are not counted below: a takeover may be what you want of them; \
                    to sit out the longest, deadtime would have to be";
        say("outages", &format!("{text} {}", age(longer)));
    }
    match measured.suggested_ms {
        None => say(
            "advice",
            "none: 10,000 heartbeats and an hour are the least, and a week shows what backups and busy days do; ask \
             again later",
        ),
        Some(suggested) => suggestion(measured, suggested, &mut say),
    }
    lines
}

fn suggestion(measured: &Measured, suggested: u64, say: &mut impl FnMut(&str, &str)) {
    let words = match suggested > measured.deadtime_ms {
        true => format!("at least {} for what was seen", age(suggested)),
        false => format!("{} would have been enough", age(suggested)),
    };
    say("deadtime", &format!("{words}: {}", measured.because));
    if suggested.saturating_mul(2) > measured.initdead_ms {
        say("initdead", &format!("has to be at least {} then", age(suggested.saturating_mul(2))));
    }
    if measured.brief && suggested < measured.deadtime_ms {
        say("but", "watch for a week, with its backups and busy days, before you lower it");
    }
}

fn silence(silences: &Silences) -> String {
    let say = |ms: Option<u64>| ms.map_or("unknown".to_string(), age);
    if silences.count == 0 {
        return "nothing was heard twice".to_string();
    }
    let ago = silences.worst_ago_ms.map_or(String::new(), |ms| format!(", {} ago", age(ms)));
    format!(
        "99 % up to {}, 99.99 % up to {}, longest {}{ago}",
        say(silences.p99_ms),
        say(silences.p9999_ms),
        say(silences.worst_ms)
    )
}

fn late(measured: &Measured) -> String {
    let (warn, lease, dead) = (measured.warntime_ms, measured.lease_ms, measured.deadtime_ms);
    let Silences { late, lapsed, dead: died, .. } = measured.together;
    format!(
        "{late} times longer than warntime ({}), {lapsed} than the lease ({}), {died} than deadtime ({})",
        age(warn),
        age(lease),
        age(dead)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(measured: &Measured) -> String {
        let lines = lines(measured, &Output::new(false, false));
        assert!(lines.iter().all(|line| line.len() <= 80), "{lines:#?}");
        lines.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn measured() -> Measured {
        let together = Silences {
            count: 180_000,
            p99_ms: Some(511),
            p9999_ms: Some(1_100),
            worst_ms: Some(1_400),
            worst_ago_ms: Some(7_200_000),
            ..Silences::default()
        };
        let (deadtime_ms, lease_ms, initdead_ms) = (10_000, 6_800, 30_000);
        let (judgement, watched_ms, brief) = (Judgement::LongEnough, 90_000_000, true);
        let (suggested_ms, because) = (Some(9_200), "the lease is to outlast much".to_string());
        let (keepalive_ms, warntime_ms) = (500, 3_333);
        Measured {
            judgement,
            watched_ms,
            brief,
            keepalive_ms,
            warntime_ms,
            deadtime_ms,
            lease_ms,
            initdead_ms,
            together,
            suggested_ms,
            because,
            ..Measured::default()
        }
    }

    #[test]
    fn what_was_seen_and_what_follows_is_said_in_at_most_eighty_columns() {
        let text = text(&measured());
        for part in [
            "deadtime 10.0 s: long enough",
            "180000 heartbeats in 25 h 0 min",
            "99.99 % up to 1.1 s, longest 1.4 s, 2 h 0 min ago",
            "9.2 s would have been enough: the lease is to outlast much",
            "watch for a week",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("initdead"), "{text}");
    }

    #[test]
    fn too_little_and_too_short_are_not_dressed_up() {
        let little = Measured {
            judgement: Judgement::TooLittleSeen,
            suggested_ms: None,
            together: Silences::default(),
            ..measured()
        };
        let said = text(&little);
        assert!(said.contains("too little seen") && said.contains("nothing was heard twice"), "{said}");
        assert!(said.contains("advice none") && !said.contains("enough"), "{said}");
        let short = Measured {
            judgement: Judgement::TooShort,
            suggested_ms: Some(17_000),
            outlasting_ms: Some(95_000),
            ..measured()
        };
        let said = text(&short);
        assert!(
            said.contains("at least 17.0 s") && said.contains("initdead has to be at least 34.0 s"),
            "{said}"
        );
        assert!(said.contains("1 min 35 s") && !said.contains("lower it"), "{said}");
    }
}
