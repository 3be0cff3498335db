//! What clients saw, and whether one volume explains it.
//!
//! Decides what is wrong with a history: an acknowledged change that is gone, a value that nobody wrote or that was
//! overwritten before the read began, two nodes that acknowledged at one moment or had the address at one moment. Does
//! not know where the files lie. A change that failed or never ended may have happened, once, at a later moment, but not
//! after a newer one that another node acknowledged.

use std::collections::{BTreeMap, BTreeSet};

/// One operation of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Op {
    pub node: String,
    pub kind: String,
    pub key: String,
    pub value: String,
    pub begin: f64,
    /// When it was acknowledged, and what was answered.
    pub done: Option<(f64, String)>,
}

/// The operations in the notes of one client on `node`. A half written last line does not count.
pub fn read(node: &str, text: &str) -> Vec<Op> {
    let mut ops: Vec<Op> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["I", number, kind, key, value, at] => {
                let Ok(begin) = at.parse() else { continue };
                let [node, kind, key, value] = [node, kind, key, value].map(str::to_string);
                open.insert(number, ops.len());
                ops.push(Op { node, kind, key, value, begin, done: None });
            }
            ["R", number, "ok", value, at] => {
                let (Some(index), Ok(end)) = (open.remove(number), at.parse()) else { continue };
                ops[index].done = Some((end, value.to_string()));
            }
            _ => {}
        }
    }
    ops
}

fn of<'a>(ops: &'a [Op], kinds: &[&str]) -> BTreeMap<&'a str, Vec<&'a Op>> {
    let mut by_key: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| kinds.contains(&op.kind.as_str())) {
        by_key.entry(&op.key).or_default().push(op);
    }
    for ops in by_key.values_mut() {
        ops.sort_by(|one, other| one.begin.total_cmp(&other.begin));
    }
    by_key
}

/// Registers: each read gives the newest acknowledged value, or one that may have come after it. `last` is what is
/// there in the end; keys that it lacks have to be untouched.
pub fn registers(
    ops: &[Op],
    write: &str,
    read: &str,
    last: &BTreeMap<String, String>,
    wrong: &mut Vec<String>,
) {
    for (key, ops) in of(ops, &[write, read]) {
        let mut maybe: BTreeMap<&str, (f64, &str)> = BTreeMap::new();
        let mut now = "none";
        let mut known = BTreeSet::from(["none"]);
        let end = ("the end", f64::MAX, last.get(key).map_or("none", String::as_str));
        let reads = ops.iter().map(|op| (op.node.as_str(), Some(op)));
        for (node, op) in reads.chain([("", None)]) {
            let (who, until, value) = match op {
                Some(op) if op.kind == write => {
                    known.insert(&op.value);
                    match &op.done {
                        Some(_) => {
                            now = &op.value;
                            maybe.retain(|_, (_, by)| *by == op.node);
                        }
                        None => drop(maybe.insert(&op.value, (op.begin, &op.node))),
                    }
                    continue;
                }
                Some(op) => match &op.done {
                    Some((end, value)) => (node, *end, value.as_str()),
                    None => continue,
                },
                None => end,
            };
            let came_late = value != now && maybe.remove(value).is_some_and(|(begin, _)| begin < until);
            if value == now || came_late {
                now = value;
            } else {
                let what = if known.contains(value) { "overwritten before" } else { "never written" };
                wrong.push(format!("{write} {key}: {who} read {value} ({what}), {now} was acknowledged"));
            }
        }
    }
}

/// Files of lines: everything acknowledged is there, in its order, and nothing that nobody wrote, nothing twice.
pub fn lines(ops: &[Op], kind: &str, there: &BTreeMap<String, String>, wrong: &mut Vec<String>) {
    for (key, ops) in of(ops, &[kind]) {
        let text = there.get(key).map_or("", String::as_str);
        let mut place: BTreeMap<&str, usize> = BTreeMap::new();
        let written: BTreeSet<&str> = ops.iter().map(|op| op.value.as_str()).collect();
        for (number, line) in text.lines().enumerate() {
            if place.insert(line, number).is_some() {
                wrong.push(format!("{kind} {key}: {line} is there twice"));
            }
            if !written.contains(line) {
                wrong.push(format!("{kind} {key}: nobody wrote {line:?}"));
            }
        }
        let mut before = None;
        for op in ops.iter().filter(|op| op.done.is_some()) {
            match place.get(op.value.as_str()) {
                None => wrong.push(format!("{kind} {key}: {} was acknowledged and is gone", op.value)),
                at if before > at => {
                    wrong.push(format!("{kind} {key}: {} lies before an older one", op.value))
                }
                at => before = at,
            }
        }
    }
}

/// A node whose peer does not let go by itself serves no sooner than this after the other one was stopped, in seconds:
/// half the deadtime of the pair.
const TAKEOVER_MIN: f64 = 2.0;

/// Two nodes never serve at one moment. A node that was stopped in the middle of an operation may end it when it wakes,
/// as its effect lies before the takeover; but then the other one began a deadtime later, and this one began nothing
/// more that it acknowledged.
pub fn one_at_a_time(ops: &[Op], wrong: &mut Vec<String>) {
    let mut begun: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops.iter().filter(|op| op.done.is_some()) {
        begun.entry(&op.node).or_default().push(op);
    }
    for all in begun.values_mut() {
        all.sort_by(|one, other| one.begin.total_cmp(&other.begin));
    }
    // What began at `node` first after one moment, if it was before the other.
    let first = |node: &str, from: f64, to: f64| -> Option<&Op> {
        let all = begun.get(node)?;
        let next = all.get(all.partition_point(|op| op.begin <= from))?;
        (next.begin < to).then_some(*next)
    };
    for op in ops {
        let Some((end, _)) = &op.done else { continue };
        for node in begun.keys().filter(|node| **node != op.node) {
            let Some(theirs) = first(node, op.begin, *end) else { continue };
            let ours = first(&op.node, theirs.begin, *end);
            if theirs.begin - op.begin < TAKEOVER_MIN || ours.is_some() {
                wrong.push(format!("{} and {} were acknowledged at one moment", op.value, theirs.value));
            }
        }
    }
}

/// Times at which a node had the address for certain, from the notes of its probe.
pub fn held(text: &str) -> Vec<(f64, f64)> {
    let mut held: Vec<(f64, f64)> = Vec::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let Some((word, Ok(at))) = line.split_once(' ').map(|(word, at)| (word, at.parse())) else {
            continue;
        };
        match (word, held.last_mut()) {
            ("U", _) => held.push((at, at)),
            (_, Some(last)) => last.1 = at,
            _ => {}
        }
    }
    held
}

/// The address is never at two nodes.
pub fn one_address(alpha: &[(f64, f64)], beta: &[(f64, f64)], wrong: &mut Vec<String>) {
    for (from, to) in alpha {
        for (begin, end) in beta {
            let both = to.min(*end) - from.max(*begin);
            if both > 0.0 {
                wrong.push(format!(
                    "both nodes had the address for {both:.3} s from {:.3} on",
                    from.max(*begin)
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(node: &str, kind: &str, value: &str, begin: f64, done: Option<(f64, &str)>) -> Op {
        let done = done.map(|(at, value)| (at, value.to_string()));
        let [node, kind, value] = [node, kind, value].map(str::to_string);
        Op { node, kind, key: "k".to_string(), value, begin, done }
    }

    fn put(value: &str, begin: f64, end: Option<f64>) -> Op {
        op("alpha", "put", value, begin, end.map(|end| (end, value)))
    }

    fn get(value: &str, begin: f64) -> Op {
        op("alpha", "get", "", begin, Some((begin + 0.5, value)))
    }

    fn judged(ops: &[Op], last: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let last = BTreeMap::from([("k".to_string(), last.to_string())]);
        registers(ops, "put", "get", &last, &mut wrong);
        wrong
    }

    #[test]
    fn a_sound_history_is_explained() {
        let ops = [
            get("none", 0.0),
            put("a", 1.0, Some(1.5)),
            get("a", 2.0),
            put("b", 3.0, None),
            get("a", 4.0),
            get("b", 5.0),
            put("c", 6.0, None),
        ];
        assert_eq!(judged(&ops, "b"), Vec::<String>::new());
        assert_eq!(judged(&ops, "c"), Vec::<String>::new());
    }

    #[test]
    fn lost_stale_and_invented_values_are_told() {
        let lost = judged(&[put("a", 1.0, Some(1.5))], "none");
        assert_eq!(lost, ["put k: the end read none (overwritten before), a was acknowledged"]);
        let stale = judged(&[put("a", 1.0, Some(1.5)), put("b", 2.0, Some(2.5)), get("a", 3.0)], "b");
        assert_eq!(stale, ["put k: alpha read a (overwritten before), b was acknowledged"]);
        let invented = judged(&[put("a", 1.0, Some(1.5)), get("x", 2.0)], "a");
        assert_eq!(invented, ["put k: alpha read x (never written), a was acknowledged"]);
        // Left over on a node that was replaced, and back over what the other one acknowledged.
        let ghost = [put("a", 1.0, None), op("beta", "put", "b", 2.0, Some((2.5, "b"))), get("a", 3.0)];
        assert_eq!(judged(&ghost, "b"), ["put k: alpha read a (overwritten before), b was acknowledged"]);
        // Seen, overwritten, and back again: it can have happened only once.
        let again =
            [put("a", 1.0, None), get("a", 2.0), put("b", 3.0, Some(3.5)), get("a", 4.0), get("b", 5.0)];
        assert_eq!(judged(&again, "b").len(), 1);
    }

    #[test]
    fn a_file_of_lines_keeps_what_was_acknowledged_in_order() {
        let line = |value: &str, begin, end: Option<f64>| {
            op("beta", "append", value, begin, end.map(|end| (end, value)))
        };
        let ops = [line("a", 1.0, Some(1.5)), line("b", 2.0, None), line("c", 3.0, Some(3.5))];
        let judged = |text: &str| {
            let mut wrong = Vec::new();
            lines(&ops, "append", &BTreeMap::from([("k".to_string(), text.to_string())]), &mut wrong);
            wrong
        };
        assert_eq!(judged("a\nb\nc\n"), Vec::<String>::new());
        assert_eq!(judged("a\nc\nb\n"), Vec::<String>::new());
        assert_eq!(judged("a\n"), ["append k: c was acknowledged and is gone"]);
        assert_eq!(judged("c\na\n"), ["append k: c lies before an older one"]);
        assert_eq!(judged("a\nx\nc\nc\n").len(), 2);
    }

    #[test]
    fn two_nodes_that_serve_at_one_moment_are_told() {
        let at = |node: &str, value: &str, begin, end| op(node, "put", value, begin, Some((end, value)));
        let judged = |ops: &[Op]| {
            let mut wrong = Vec::new();
            one_at_a_time(ops, &mut wrong);
            wrong
        };
        let none = Vec::<String>::new();
        assert_eq!(judged(&[at("alpha", "a", 1.0, 2.0), at("beta", "b", 2.1, 3.0)]), none);
        let beside = judged(&[at("alpha", "a", 1.0, 2.0), at("beta", "b", 1.9, 3.0)]);
        assert_eq!(beside, ["a and b were acknowledged at one moment"]);
        // Stopped in the middle of its work, and awake when the other one has served for long.
        let woken = [at("alpha", "a", 1.0, 9.0), at("beta", "b", 5.1, 5.3), at("beta", "c", 5.4, 6.0)];
        assert_eq!(judged(&woken), none);
        // It goes on where it was stopped.
        let goes_on = judged(&[woken.to_vec(), vec![at("alpha", "d", 8.0, 8.2)]].concat());
        assert_eq!(goes_on, ["a and b were acknowledged at one moment"]);
    }

    #[test]
    fn an_address_at_two_nodes_is_told() {
        let alpha = held("U 1.0\nH 1.5\nD 2.0\nU 4.0\nH 5.0\nH 6");
        assert_eq!(alpha, [(1.0, 2.0), (4.0, 5.0)]);
        let mut wrong = Vec::new();
        one_address(&alpha, &[(2.0, 4.0), (5.5, 7.0)], &mut wrong);
        assert_eq!(wrong, Vec::<String>::new());
        one_address(&alpha, &[(1.9, 3.0)], &mut wrong);
        assert_eq!(wrong.len(), 1);
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let text = "I 1 put a0 c-1 1.5\nR 1 ok c-1 2.5\nI 2 get a0 c-2 3.0\nR 2 fail EIO 3.5\nI 3 get a0 c-3 4.0\nR 3 o";
        let ops = read("alpha", text);
        assert_eq!(ops.len(), 3);
        assert_eq!(ops[0].done, Some((2.5, "c-1".to_string())));
        assert_eq!((&ops[1].done, &ops[2].done), (&None, &None));
    }
}
