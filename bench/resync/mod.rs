//! What keeping two copies alike costs when one of them was away: on a real pair, each node in namespaces of its own.
//!
//! Decides which parts there are and how they are reported. Does not know how a part is measured. Invariant: each round
//! of a part makes the same pair anew or leaves it in sync.

mod bed;
mod beside;
mod compare;
mod cut;
mod first;
mod outage;

use crate::harness::need;
use crate::report::{Aim, Ratio, Row, median};
use crate::stop;

/// One thing that is measured.
pub struct Part {
    pub name: &'static str,
    measure: fn(bool, usize) -> anyhow::Result<Vec<Figure>>,
}

pub const PARTS: [Part; 5] = [
    Part { name: "latency", measure: beside::measure },
    Part { name: "stall", measure: cut::measure },
    Part { name: "outage", measure: outage::measure },
    Part { name: "compare", measure: compare::measure },
    Part { name: "first", measure: first::measure },
];

pub fn is_part(name: &str) -> bool {
    PARTS.iter().any(|part| part.name == name)
}

/// What one part found: a figure of each round, and what it is put beside, taken in the same rounds.
pub struct Figure {
    metric: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    /// What it is put beside, per round, in the same unit, and what it may be of that.
    beside: Vec<(&'static str, Vec<f64>, Option<Aim>)>,
}

impl Figure {
    fn new(metric: &'static str, unit: &'static str) -> Figure {
        Figure { metric, unit, values: Vec::new(), beside: Vec::new() }
    }

    fn beside(mut self, of: &'static str, aim: Option<Aim>) -> Figure {
        self.beside.push((of, Vec::new(), aim));
        self
    }

    /// One round: the figure, and what it is put beside in the order of `beside`.
    fn add(&mut self, value: f64, beside: &[f64]) {
        self.values.push(value);
        for ((_, values, _), value) in self.beside.iter_mut().zip(beside) {
            values.push(*value);
        }
    }

    /// Medians; a ratio is the median of the ratios of the rounds.
    fn row(&self, work: &'static str) -> Row {
        let ratio = |(of, values, aim): &(&'static str, Vec<f64>, Option<Aim>)| {
            let each: Vec<f64> = self.values.iter().zip(values).map(|(value, of)| value / of).collect();
            Ratio { of, value: median(&each), aim: *aim }
        };
        Row {
            work,
            setup: "pair",
            metric: self.metric,
            value: median(&self.values),
            unit: self.unit,
            ratios: self.beside.iter().map(ratio).collect(),
        }
    }
}

impl Part {
    pub fn run(&self, quick: bool, rounds: usize) -> anyhow::Result<Vec<Row>> {
        need::ensure(need::NODES).map_err(anyhow::Error::msg)?;
        stop::check()?;
        let figures = (self.measure)(quick, rounds)?;
        Ok(figures.iter().map(|figure| figure.row(self.name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_middle_one_of_the_rounds_and_not_the_ratio_of_the_middles() {
        let mut figure = Figure::new("bytes", "MiB").beside("written", Some(Aim::AtMost(1.3)));
        for (value, written) in [(1.0, 1.0), (8.0, 2.0), (3.0, 1.0)] {
            figure.add(value, &[written]);
        }
        let row = figure.row("outage");
        assert_eq!((row.value, row.ratios[0].value, row.ratios[0].of), (3.0, 3.0, "written"));
    }
}
