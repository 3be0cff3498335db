//! The works on the setups: rounds, in each round every work, in each work every setup in turn, so that what disturbs
//! the machine disturbs all setups alike. The median of the rounds counts.
//!
//! Decides the order and the ratios. Does not know what a setup is made of (`setup`) or what a work does (`work`).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;

use crate::aims;
use crate::harness::need;
use crate::report::{Ratio, Row, median};
use crate::setup;
use crate::setup::Setup;
use crate::stop;
use crate::tree;
use crate::work::{Scale, Work};

/// Runs the works of these names (none: all) on these setups (none: all that need no foreign server). What was measured
/// is in `rows` also if it fails later.
pub fn run(
    scratch: &Path,
    works: &[String],
    setups: &[String],
    twinfs: &Path,
    (scale, rounds): (Scale, usize),
    found: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let works = runnable(Work::of_names(works)?, !works.is_empty())?;
    let archive = scratch.join("tree.tar");
    tree::make_archive(&archive, scale)?;
    let setups = setup::start(scratch, setups, twinfs, scale)?;
    let mut figures: Figures = BTreeMap::new();
    let mut done = Ok(());
    for round in 1..=rounds {
        done = one_round(&works, &setups, scale, &archive, &mut |(w, s), figure| {
            let (work, setup) = (works[w], &setups[s]);
            eprintln!(
                "round {round}/{rounds}  {:18} {:11} {figure:12.1} {}",
                work.name(),
                setup.name(),
                work.unit()
            );
            figures.entry((w, s)).or_default().push(figure);
        });
        if done.is_err() {
            break;
        }
    }
    let names: Vec<&'static str> = setups.iter().map(Setup::name).collect();
    drop(setups);
    found.extend(rows(&works, &names, &figures));
    done
}

/// Figures by work and setup.
type Figures = BTreeMap<(usize, usize), Vec<f64>>;

fn one_round(
    works: &[Work],
    setups: &[Setup],
    scale: Scale,
    archive: &Path,
    note: &mut dyn FnMut((usize, usize), f64),
) -> anyhow::Result<()> {
    for (w, work) in works.iter().enumerate() {
        for (s, setup) in setups.iter().enumerate() {
            stop::check()?;
            note((w, s), measure(*work, setup, scale, archive)?);
        }
    }
    Ok(())
}

/// Those whose programs are there or can be had. One that was asked for by its name is not left out.
fn runnable(works: Vec<Work>, named: bool) -> anyhow::Result<Vec<Work>> {
    let mut found = Vec::new();
    for work in works {
        match need::ensure(work.programs()) {
            Ok(()) => found.push(work),
            Err(reason) if named => anyhow::bail!("{}: {reason}", work.name()),
            Err(reason) => eprintln!("twinfs-bench: without {}: {reason}", work.name()),
        }
    }
    Ok(found)
}

fn measure(work: Work, setup: &Setup, scale: Scale, archive: &Path) -> anyhow::Result<f64> {
    work.run(setup.dir(), scale, archive).with_context(|| format!("{} on {}", work.name(), setup.name()))
}

/// Medians, and their ratios to the other setups so that more than 1 is faster. Everything is put beside ext4, the pair
/// also beside what stands for its copy alone and for another mirror.
fn rows(works: &[Work], setups: &[&'static str], figures: &Figures) -> Vec<Row> {
    let mut rows = Vec::new();
    for (w, work) in works.iter().enumerate() {
        let medians: Vec<f64> = (0..setups.len())
            .map(|s| figures.get(&(w, s)).map_or(f64::NAN, |values| median(values)))
            .collect();
        for (s, setup) in setups.iter().enumerate().filter(|(s, _)| figures.contains_key(&(w, *s))) {
            let mut ratios = Vec::new();
            for (o, of) in setups.iter().enumerate() {
                let is_wanted = o == 0 || (*setup == "pair" && o != s);
                if !is_wanted || !figures.contains_key(&(w, o)) {
                    continue;
                }
                let (mine, theirs) = (medians[s], medians[o]);
                let value = if work.less_is_faster() { theirs / mine } else { mine / theirs };
                ratios.push(Ratio { of, value, aim: aims::of(*work, setup, of) });
            }
            rows.push(Row {
                work: work.name(),
                setup,
                metric: work.metric(),
                value: medians[s],
                unit: work.unit(),
                ratios,
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_put_beside_every_setup_and_the_others_beside_ext4() {
        let figures =
            BTreeMap::from([((0, 0), vec![10.0, 20.0, 30.0]), ((0, 1), vec![20.0]), ((0, 2), vec![40.0])]);
        let names = ["ext4", "standalone", "pair"];
        let shown = |work: Work| {
            let rows = rows(&[work], &names, &figures);
            let ratios = |row: &Row| row.ratios.iter().map(|r| (r.of, r.value)).collect::<Vec<_>>();
            rows.iter().map(ratios).collect::<Vec<_>>()
        };
        let rate = [vec![("ext4", 1.0)], vec![("ext4", 1.0)], vec![("ext4", 2.0), ("standalone", 2.0)]];
        assert_eq!(shown(Work::Create), rate);
        let time = [vec![("ext4", 1.0)], vec![("ext4", 1.0)], vec![("ext4", 0.5), ("standalone", 0.5)]];
        assert_eq!(shown(Work::Untar), time);
    }

    #[test]
    fn what_was_not_measured_has_no_row() {
        let figures = Figures::from([((0, 0), vec![10.0]), ((0, 1), vec![20.0]), ((1, 0), vec![5.0])]);
        let rows = rows(&[Work::Create, Work::Unlink], &["ext4", "pair"], &figures);
        let names: Vec<_> = rows.iter().map(|row| (row.work, row.setup)).collect();
        assert_eq!(names, [("create", "ext4"), ("create", "pair"), ("unlink", "ext4")]);
    }
}
