//! Sizes and durations as people write them: `64G`, `20GiB`, `500ms`, `1.5s`, `10m`. Also used by command-line options.

use std::fmt::Write;

use crate::base::Span;

const SIZE_UNITS: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("B", 1),
];
const TIME_UNITS: &[(&str, u64)] = &[
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// Bytes in `text`: a number with K, M, G, T (or KiB, MiB, GiB, TiB: the same powers of 1024), or B.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, SIZE_UNITS)
        .map_err(|why| format!("\"{text}\" {why}: write a size such as \"512M\", \"20G\" or \"1.5TiB\""))
}

/// A duration in `text`: a number with ms, s, m, h or d.
pub fn parse_span(text: &str) -> Result<Span, String> {
    scaled(text, TIME_UNITS)
        .map(Span)
        .map_err(|why| format!("\"{text}\" {why}: write a duration such as \"500ms\", \"10s\" or \"5m\""))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64, &'static str> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("has no unit")?;
    let (number, unit) = text.split_at(split);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start()).ok_or("has no known unit")?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| "is not a number")?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is not a number");
    }
    let divisor = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| "is not a number")?);
    let part =
        u128::from(fraction.parse::<u64>().map_err(|_| "is not a number")?) * u128::from(*factor) / divisor;
    let total = u128::from(whole) * u128::from(*factor) + part;
    u64::try_from(total).map_err(|_| "is too large")
}

/// `bytes` as `parse_size` reads it back: the largest unit that divides it.
pub fn format_size(bytes: u64) -> String {
    let exact = [("T", 40), ("G", 30), ("M", 20), ("K", 10)]
        .into_iter()
        .find(|(_, shift)| bytes != 0 && bytes.is_multiple_of(1u64 << shift));
    match exact {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// `span` as `parse_span` reads it back, exact to the millisecond or, if need be, to the nanosecond.
pub fn format_span(span: Span) -> String {
    const S: u64 = 1_000_000_000;
    if span.0 != 0 && span.0.is_multiple_of(60 * S) {
        return format!("{}m", span.0 / (60 * S));
    }
    if span.0.is_multiple_of(S) {
        return format!("{}s", span.0 / S);
    }
    let (ms, rest) = (span.0 / 1_000_000, span.0 % 1_000_000);
    let mut out = ms.to_string();
    if rest != 0 {
        let digits = format!("{rest:06}");
        // Writing into a String cannot fail.
        let _ = write!(out, ".{}", digits.trim_end_matches('0'));
    }
    out + "ms"
}
