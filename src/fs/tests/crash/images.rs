//! Which images a power cut can leave: subsets of the writes between two flushes, torn at 512 bytes.
//!
//! Every cut at any write leaves all that was flushed and a subset of what was not. A subset of the writes of a whole
//! span between two flushes is the same image as that subset at an earlier cut, so spans are enumerated, not cuts; what
//! may be seen in an image is bounded by its last write, and what must be seen by the end of its span. Images that come
//! out equal are made once.

use std::collections::BTreeSet;

use twinfs::base::Digest;

use super::disk::{Event, Overlay, PAGE, SECTOR, Snapshot, play, put};

/// How many images are made of each span.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Up to this many writes all subsets are made.
    pub all_up_to: usize,
    /// Random subsets of longer spans.
    pub random: usize,
    /// Torn images for each write of a span.
    pub torn: usize,
}

impl Depth {
    pub const LITTLE: Depth = Depth { all_up_to: 3, random: 3, torn: 1 };
    pub const USUAL: Depth = Depth { all_up_to: 5, random: 12, torn: 3 };
    pub const DEEP: Depth = Depth { all_up_to: 9, random: 60, torn: 8 };
}

pub struct Dice(pub u64);

impl Dice {
    /// splitmix64
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }
}

/// What becomes of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// Only the first sectors reach the medium.
    Head(usize),
    /// Only the later ones.
    Tail(usize),
    /// Any of them.
    Some(u64),
}

/// One image.
pub struct Cut {
    pub fates: Vec<Fate>,
    /// First event of the span.
    pub from: usize,
    /// Events before the end of the span.
    pub to: usize,
    /// Events up to and with the last write that left a trace (or the flush before).
    pub seen: usize,
}

impl Cut {
    pub fn show(&self) -> String {
        format!("writes {}..{}: {:?}", self.from, self.to, self.fates)
    }
}

/// A span of writes between two flushes.
struct Span<'a> {
    base: &'a Snapshot,
    events: &'a [Event],
    last: bool,
}

impl Span<'_> {
    fn sectors(&self, index: usize) -> usize {
        match &self.events[index] {
            Event::Write { data, .. } => data.len() / SECTOR,
            _ => 1,
        }
    }

    /// All choices, most telling first.
    fn choices(&self, depth: &Depth, dice: &mut Dice) -> Vec<Vec<Fate>> {
        let n = self.events.len();
        let mut out = Vec::new();
        let subset = |bits: &dyn Fn(usize) -> bool| -> Vec<Fate> {
            (0..n).map(|index| if bits(index) { Fate::Kept } else { Fate::Lost }).collect()
        };
        if n <= depth.all_up_to {
            // All kept is the start of the next span, and judged there by stricter bounds.
            let end = (1u64 << n) - u64::from(!self.last && n > 0);
            out.extend((0..end).map(|bits| subset(&|index| bits >> index & 1 == 1)));
        } else {
            out.push(subset(&|_| false));
            if self.last {
                out.push(subset(&|_| true));
            }
            for one in 0..n {
                out.push(subset(&|index| index == one));
                out.push(subset(&|index| index != one));
                out.push(subset(&|index| index <= one));
            }
            for _ in 0..depth.random {
                let roll = dice.roll();
                let few = dice.below(3);
                let mut inner = Dice(roll);
                let bits: Vec<bool> = (0..n).map(|_| inner.below(4) > few).collect();
                out.push(subset(&|index| bits[index]));
            }
        }
        for one in (0..n).filter(|one| self.sectors(*one) > 1) {
            for turn in 0..depth.torn {
                let sectors = self.sectors(one) as u64;
                let at = 1 + dice.below(sectors - 1) as usize;
                let fate = match turn % 3 {
                    0 => Fate::Some(dice.roll()),
                    1 => Fate::Head(at),
                    _ => Fate::Tail(at),
                };
                let others = dice.roll();
                let keep_others = dice.below(3);
                let fates = (0..n).map(|index| match (index == one, keep_others) {
                    (true, _) => fate,
                    (_, 0) => Fate::Kept,
                    (_, 1) if index > one => Fate::Lost,
                    (_, 1) => Fate::Kept,
                    _ if others >> (index % 64) & 1 == 1 => Fate::Kept,
                    _ => Fate::Lost,
                });
                out.push(fates.collect());
            }
        }
        out
    }

    fn make(&self, fates: &[Fate]) -> Overlay {
        let mut over = Overlay::default();
        let base = &self.base.pages;
        for (event, fate) in self.events.iter().zip(fates) {
            match (event, fate) {
                (_, Fate::Lost) => {}
                (Event::Write { offset, data }, Fate::Head(_) | Fate::Tail(_) | Fate::Some(_)) => {
                    let mut dice = Dice(if let Fate::Some(seed) = fate { *seed } else { 0 });
                    for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                        let kept = match fate {
                            Fate::Head(count) => sector < *count,
                            Fate::Tail(first) => sector >= *first,
                            _ => dice.below(2) == 0,
                        };
                        if kept {
                            put(base, &mut over, offset + (sector * SECTOR) as u64, bytes);
                        }
                    }
                }
                _ => play(base, &mut over, event),
            }
        }
        over
    }

    /// Drops pages that are as they were; answers what tells this image from others of the span.
    fn essence(&self, over: &mut Overlay) -> [u8; 15] {
        let base = &self.base.pages;
        over.retain(|index, page| match (&base[*index], &*page) {
            (None, None) => false,
            (Some(old), Some(new)) => old[..] != new[..],
            (None, Some(new)) => new[..] != [0; PAGE],
            (Some(old), None) => old[..] != [0; PAGE],
        });
        let mut places: Vec<usize> = over.keys().copied().collect();
        places.sort_unstable();
        let mut text = Vec::new();
        for place in places {
            text.extend_from_slice(&(place as u64).to_le_bytes());
            if let Some(page) = &over[&place] {
                text.extend_from_slice(&Digest::of(&page[..]).0);
            }
        }
        Digest::of(&text).0
    }
}

/// One image of an unfinished span at random: nothing, all or some of its writes, some torn.
pub fn one_image(base: &Snapshot, events: &[Event], from: usize, dice: &mut Dice) -> (Overlay, Cut) {
    let span = Span { base, events, last: true };
    let how = dice.below(4);
    let fates: Vec<Fate> = (0..events.len())
        .map(|_| match (how, dice.below(4)) {
            (0, _) => Fate::Lost,
            (1, _) | (_, 0) => Fate::Kept,
            (_, 1) => Fate::Lost,
            _ => Fate::Some(dice.roll()),
        })
        .collect();
    let seen = fates.iter().rposition(|fate| *fate != Fate::Lost).map_or(from, |at| from + at + 1);
    (span.make(&fates), Cut { fates, from, to: from + events.len(), seen })
}

/// Calls `each` with every image of a recorded run; ends at the first error.
pub fn each_image(
    base: &Snapshot,
    events: &[Event],
    depth: &Depth,
    seed: u64,
    each: &mut dyn FnMut(&Snapshot, Overlay, &Cut) -> Result<(), String>,
) -> Result<u64, String> {
    let mut base = base.clone();
    let mut dice = Dice(seed);
    let mut count = 0;
    let mut from = 0;
    loop {
        let flush = events[from..].iter().position(|event| matches!(event, Event::Flush));
        let to = flush.map_or(events.len(), |at| from + at);
        let span = Span { base: &base, events: &events[from..to], last: flush.is_none() };
        let mut known = BTreeSet::new();
        for fates in span.choices(depth, &mut dice) {
            let mut over = span.make(&fates);
            if !known.insert(span.essence(&mut over)) {
                continue;
            }
            let seen = fates.iter().rposition(|fate| *fate != Fate::Lost).map_or(from, |at| from + at + 1);
            let cut = Cut { fates, from, to, seen };
            count += 1;
            each(&base, over, &cut)?;
        }
        base.advance(&events[from..to]);
        match flush {
            Some(_) => from = to + 1,
            None => return Ok(count),
        }
    }
}
