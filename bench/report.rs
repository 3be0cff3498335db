//! The rows: a table for a person, JSON Lines for a program.

use std::io::Write;
use std::path::Path;

/// One figure.
pub struct Row {
    pub work: &'static str,
    pub setup: &'static str,
    pub metric: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// To ext4; above 1 = faster.
    pub ratio: f64,
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
    println!("{:18} {:11} {:>12} {:8} {:>7}", "work", "setup", "median", "unit", "ratio");
    for row in rows {
        println!("{:18} {:11} {:>12.1} {:8} {:>7.2}", row.work, row.setup, row.value, row.unit, row.ratio);
    }
}

pub fn json(rows: &[Row], path: &Path) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for row in rows {
        let object = serde_json::json!({
            "work": row.work,
            "setup": row.setup,
            "metric": row.metric,
            "value": row.value,
            "unit": row.unit,
            "ratio": row.ratio,
        });
        writeln!(file, "{object}")?;
    }
    file.flush()
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
}
