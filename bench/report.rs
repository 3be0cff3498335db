//! The rows: a table for a person, JSON Lines for a program.
//!
//! Decides how a figure is shown and whether it meets its aim. Does not know where figures or aims come from.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

/// What a ratio should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn is_met(self, value: f64) -> bool {
        match self {
            Aim::AtLeast(bound) => value >= bound,
            Aim::AtMost(bound) => value <= bound,
        }
    }
}

/// A figure in terms of another one.
#[derive(Clone, Debug)]
pub struct Ratio {
    pub of: &'static str,
    pub value: f64,
    pub aim: Option<Aim>,
}

impl Ratio {
    /// Said where an aim is missed.
    fn missed(&self) -> bool {
        self.aim.is_some_and(|aim| !aim.is_met(self.value))
    }

    fn text(&self) -> String {
        let number = |value: f64| match value.abs() < 0.1 {
            true => format!("{value:.4}"),
            false => format!("{value:.2}"),
        };
        let mut text = format!("{} x {}", number(self.value), self.of);
        match self.aim {
            Some(Aim::AtLeast(bound)) => text.push_str(&format!(" (>= {})", number(bound))),
            Some(Aim::AtMost(bound)) => text.push_str(&format!(" (<= {})", number(bound))),
            None => {}
        }
        if self.missed() {
            text.push_str(" MISSED");
        }
        text
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub struct Row {
    pub work: &'static str,
    pub setup: &'static str,
    pub metric: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// The first one is the ratio of the row; of works, it is to ext4, and above 1 = faster.
    pub ratios: Vec<Ratio>,
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

pub fn table(rows: &[Row]) {
    println!("{:18} {:11} {:20} {:>12} {:8} ratios (aim)", "work", "setup", "metric", "median", "unit");
    for row in rows {
        let mut line =
            format!("{:18} {:11} {:20} {:>12.1} {:8}", row.work, row.setup, row.metric, row.value, row.unit);
        for (index, ratio) in row.ratios.iter().enumerate() {
            let _ = write!(line, "{} {}", if index > 0 { "," } else { "" }, ratio.text());
        }
        println!("{}", line.trim_end());
    }
}

pub fn json(rows: &[Row], path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for row in rows {
        writeln!(file, "{}", object(row))?;
    }
    file.flush()
}

fn object(row: &Row) -> serde_json::Value {
    let ratio = |ratio: &Ratio| {
        let (least, most) = match ratio.aim {
            Some(Aim::AtLeast(bound)) => (Some(bound), None),
            Some(Aim::AtMost(bound)) => (None, Some(bound)),
            None => (None, None),
        };
        let met = ratio.aim.map(|_| !ratio.missed());
        serde_json::json!({
            "of": ratio.of, "value": ratio.value, "at_least": least, "at_most": most, "met": met,
        })
    };
    serde_json::json!({
        "work": row.work,
        "setup": row.setup,
        "metric": row.metric,
        "value": row.value,
        "unit": row.unit,
        "ratio": row.ratios.first().map(|first| first.value),
        "ratios": row.ratios.iter().map(ratio).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert!((median(&[3.0, 1.0, 100.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 100.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_missed_aim_is_said_and_so_is_a_ratio_of_nothing() {
        let ratio = |value, aim| Ratio { of: "ext4", value, aim: Some(aim) };
        assert_eq!(ratio(0.75, Aim::AtLeast(0.7)).text(), "0.75 x ext4 (>= 0.70)");
        assert_eq!(ratio(0.65, Aim::AtLeast(0.7)).text(), "0.65 x ext4 (>= 0.70) MISSED");
        assert_eq!(ratio(0.007, Aim::AtMost(0.006)).text(), "0.0070 x ext4 (<= 0.0060) MISSED");
        assert!(ratio(f64::NAN, Aim::AtMost(2.0)).missed());
    }
}
