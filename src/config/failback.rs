//! The words of `failback`: when a volume goes back to the node that it belongs to.
//!
//! Decides what the words mean and whether a window is open at a given wall time. Does not know what time it is, nor
//! whether the volume may move. Invariants: what is shown reads back as the same; a window belongs to the day on which
//! it begins, also behind midnight.

use std::fmt;

use crate::base::{NodeId, WallTime};

use super::parse::{Reader, Value, Values};
use super::types::Node;

const DAY: u32 = 24 * 60;
/// From Monday, as the bits of `Window::days`.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAILY: u8 = 0x7f;
const EXAMPLE: &str = "write \"never\", \"when-synced\" or a window such as \"02:00-04:00 daily\" or \"23:00-01:00 \
                       sat,sun\"";

/// When a volume goes back to the node that it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    #[default]
    Never,
    /// As soon as that node is in sync.
    WhenSynced,
    /// The same, at these times only.
    Window(Window),
}

/// A time of the day on some days of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes after midnight, below a day.
    from: u32,
    /// The same, above `from`; beyond a day if it ends behind midnight.
    upto: u32,
    /// Bit 0: Monday.
    days: u8,
    /// Universal time; else that of the machine's time zone.
    utc: bool,
}

impl Failback {
    /// What `text` means.
    pub(super) fn parse(text: &str) -> Result<Failback, String> {
        match text.trim() {
            "never" => Ok(Failback::Never),
            "when-synced" => Ok(Failback::WhenSynced),
            window => Window::parse(window).map(Failback::Window),
        }
    }

    pub fn window(&self) -> Option<&Window> {
        match self {
            Failback::Window(window) => Some(window),
            Failback::Never | Failback::WhenSynced => None,
        }
    }
}

impl fmt::Display for Failback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failback::Never => f.write_str("never"),
            Failback::WhenSynced => f.write_str("when-synced"),
            Failback::Window(window) => window.fmt(f),
        }
    }
}

impl Window {
    /// Reads `HH:MM-HH:MM [daily|DAYS] [utc]`; no day is every day.
    pub fn parse(text: &str) -> Result<Window, String> {
        let wrong = |why: &str| format!("\"{text}\" {why}: {EXAMPLE}");
        let mut words = text.split_whitespace();
        let times = words.next().and_then(|times| times.split_once('-'));
        let (from, upto) = times
            .and_then(|(from, upto)| Some((minutes(from)?, minutes(upto)?)))
            .filter(|(from, _)| *from < DAY)
            .ok_or_else(|| wrong("is no window"))?;
        if from == upto % DAY {
            return Err(wrong("is as long as the day"));
        }
        let (mut days, mut utc) = (None, false);
        for word in words {
            match word {
                "utc" if !utc => utc = true,
                _ if days.is_none() && !utc => {
                    days = Some(self::days(word).ok_or_else(|| wrong(&format!("has no day \"{word}\"")))?);
                }
                _ => return Err(wrong(&format!("ends in \"{word}\""))),
            }
        }
        let upto = if upto > from { upto } else { upto + DAY };
        Ok(Window { from, upto, days: days.unwrap_or(DAILY), utc })
    }

    /// Minutes since Monday 1970-01-05, 00:00, as this window counts them.
    fn minute(&self, at: WallTime) -> i64 {
        let offset = if self.utc { 0 } else { i64::from(at.offset_s) };
        // 1970-01-01 was a Thursday.
        (at.unix_s.saturating_add(offset)).div_euclid(60) - 4 * i64::from(DAY)
    }

    fn begins_on(&self, day: i64) -> bool {
        self.days >> day.rem_euclid(7) & 1 == 1
    }

    /// Whether it is open at this time.
    pub fn is_open(&self, at: WallTime) -> bool {
        let minute = self.minute(at);
        let today = minute.div_euclid(i64::from(DAY));
        [today, today - 1].into_iter().any(|day| {
            let into = minute - day * i64::from(DAY);
            self.begins_on(day) && (i64::from(self.from)..i64::from(self.upto)).contains(&into)
        })
    }

    /// Seconds since 1970 at which it opens next, if it is not open: for people, as it takes no change of the
    /// offset in between into account.
    pub fn opens(&self, at: WallTime) -> Option<u64> {
        if self.is_open(at) {
            return None;
        }
        let minute = self.minute(at);
        let today = minute.div_euclid(i64::from(DAY));
        let begins = (today..=today + 7)
            .filter(|day| self.begins_on(*day))
            .map(|day| day * i64::from(DAY) + i64::from(self.from))
            .find(|begin| *begin > minute)?;
        let seconds =
            at.unix_s.saturating_add((begin_of(begins) - begin_of(minute)) - at.unix_s.rem_euclid(60));
        u64::try_from(seconds).ok()
    }
}

fn begin_of(minute: i64) -> i64 {
    minute.saturating_mul(60)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.upto > DAY { self.upto - DAY } else { self.upto };
        write!(f, "{:02}:{:02}-{:02}:{:02} ", self.from / 60, self.from % 60, end / 60, end % 60)?;
        if self.days == DAILY {
            f.write_str("daily")?;
        } else {
            let named = DAYS.iter().enumerate().filter(|(n, _)| self.days >> n & 1 == 1);
            let names: Vec<&str> = named.map(|(_, name)| *name).collect();
            f.write_str(&names.join(","))?;
        }
        f.write_str(if self.utc { " utc" } else { "" })
    }
}

/// Minutes after midnight; `24:00` is the end of the day.
fn minutes(text: &str) -> Option<u32> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        let two = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|_| two)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let total = hours * 60 + minutes;
    (minutes < 60 && total <= DAY).then_some(total)
}

/// `daily`, or a list of days and of ranges such as `mon-fri`.
fn days(text: &str) -> Option<u8> {
    if text == "daily" {
        return Some(DAILY);
    }
    let day = |name: &str| DAYS.iter().position(|known| *known == name);
    text.split(',').try_fold(0_u8, |all, item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        Some((first..=first + length).fold(all, |all, n| all | 1 << (n % 7)))
    })
}

/// `prefer` and `failback` of one volume. A node's name as `failback` stands for both.
pub(super) fn read(
    place: &str,
    values: &Values,
    nodes: &[Node; 2],
    reader: &mut Reader,
) -> (Option<NodeId>, Failback) {
    let text = |key| match values.get(key) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text.trim().to_string()),
        _ => None,
    };
    let node = |name: &str| {
        [NodeId::A, NodeId::B].into_iter().find(|id| nodes[usize::from(id.index())].name == name)
    };
    let names = format!("\"{}\" or \"{}\"", nodes[0].name, nodes[1].name);
    let mut prefer = None;
    if let Some(name) = text("prefer") {
        prefer = node(&name);
        if prefer.is_none() {
            let problem = format!("prefer = \"{name}\" must name a node: {names}");
            reader.problem_at(&format!("{place}.prefer"), problem);
            return (None, Failback::Never);
        }
    }
    let Some(given) = text("failback") else { return (prefer, Failback::Never) };
    if let Some(id) = node(&given) {
        if prefer.is_some_and(|prefer| prefer != id) {
            let problem = format!("failback = \"{given}\" and prefer name different nodes");
            reader.problem_at(&format!("{place}.failback"), problem);
        }
        return (Some(id), Failback::WhenSynced);
    }
    match Failback::parse(&given) {
        Ok(failback) => {
            if failback != Failback::Never && prefer.is_none() {
                let problem = format!("failback = \"{given}\" needs prefer = NODE, where it goes: {names}");
                reader.problem_at(&format!("{place}.failback"), problem);
            }
            (prefer, failback)
        }
        Err(why) => {
            reader.problem_at(&format!("{place}.failback"), format!("failback: {why}"));
            (prefer, Failback::Never)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 was a Monday.
    fn at(day: i64, hour: i64, minute: i64, offset_s: i32) -> WallTime {
        let monday = 1_795_392_000;
        WallTime {
            unix_s: monday + day * 86_400 + hour * 3_600 + minute * 60 - i64::from(offset_s),
            offset_s,
        }
    }

    #[test]
    fn a_window_is_open_from_its_first_minute_to_before_its_last() {
        let daily = Window::parse("02:00-04:00 daily").unwrap();
        for offset in [0, 3_600, -5 * 3_600, 13 * 3_600] {
            assert!(!daily.is_open(at(2, 1, 59, offset)) && daily.is_open(at(2, 2, 0, offset)));
            assert!(daily.is_open(at(2, 3, 59, offset)) && !daily.is_open(at(2, 4, 0, offset)));
        }
        let utc = Window::parse("02:00-04:00 utc").unwrap();
        assert!(utc.is_open(at(2, 5, 0, 3 * 3_600)) && !utc.is_open(at(2, 2, 0, 3 * 3_600)));
    }

    #[test]
    fn behind_midnight_it_belongs_to_the_day_on_which_it_began() {
        let night = Window::parse("23:00-01:30 sat").unwrap();
        assert!(night.is_open(at(5, 23, 0, 0)) && night.is_open(at(6, 1, 29, 0)));
        assert!(!night.is_open(at(6, 23, 30, 0)) && !night.is_open(at(5, 0, 30, 0)));
        let sunday = Window::parse("23:00-01:30 sun").unwrap();
        assert!(sunday.is_open(at(7, 1, 0, 0)), "Sunday's lasts into Monday");
        let late = Window::parse("22:00-24:00 mon-fri").unwrap();
        assert!(
            late.is_open(at(4, 23, 59, 0)) && !late.is_open(at(5, 0, 0, 0)) && !late.is_open(at(5, 22, 0, 0))
        );
    }

    #[test]
    fn it_opens_next_when_it_says() {
        let sunday = Window::parse("02:00-04:00 sun").unwrap();
        let expected = at(6, 2, 0, 3_600).unix_s;
        assert_eq!(sunday.opens(at(0, 12, 34, 3_600)), u64::try_from(expected).ok());
        assert_eq!(sunday.opens(at(6, 1, 59, 3_600)), u64::try_from(expected).ok());
        assert_eq!(sunday.opens(at(6, 3, 0, 3_600)), None, "it is open");
        assert_eq!(sunday.opens(at(6, 4, 0, 3_600)), u64::try_from(expected + 7 * 86_400).ok());
        let before_time = WallTime { unix_s: -1, offset_s: 0 };
        assert!(!sunday.is_open(before_time) && sunday.opens(before_time).is_some());
    }

    #[test]
    fn what_is_shown_reads_back() {
        for text in
            ["02:00-04:00 daily", "23:00-01:00 sat,sun", "22:00-24:00 mon,tue,wed", "00:00-06:30 sun utc"]
        {
            assert_eq!(Window::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Window::parse("02:00-04:00 fri-mon").unwrap().to_string(), "02:00-04:00 mon,fri,sat,sun");
    }

    #[test]
    fn what_is_no_window_is_refused_with_an_example() {
        for text in [
            "",
            "2-4",
            "02:00",
            "02:00-04:00 someday",
            "25:00-26:00",
            "02:00-02:60",
            "24:00-02:00",
            "02:00-02:00",
            "00:00-24:00",
            "02:00-04:00 utc sun",
            "02:00-04:00 sun mon",
            "+2:00-04:00",
            "02:00-04:00 sun,",
            "2:00-4:00",
        ] {
            let refused = Failback::parse(text).expect_err(text);
            assert!(refused.contains("when-synced"), "{refused}");
        }
    }
}
