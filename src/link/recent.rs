//! Two counts over the last five minutes.
//!
//! Invariant: of fixed size, whatever is counted and however long nothing is.

use crate::base::{Moment, Span};

/// Ten of these are the time that counts as lately.
const SLOT: Span = Span::from_secs(30);
const SLOTS: u64 = 10;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u64,
    good: u64,
    bad: u64,
}

/// What went well and what did not, lately.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    slots: [Slot; SLOTS as usize],
}

impl Recent {
    /// How far back `sum` looks.
    pub const SPAN: Span = Span(SLOT.0 * SLOTS);

    fn slot(&mut self, now: Moment) -> &mut Slot {
        let number = now.0 / SLOT.0;
        let slot = &mut self.slots[usize::try_from(number % SLOTS).unwrap_or(0)];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot
    }

    pub fn add(&mut self, now: Moment, good: u64, bad: u64) {
        let slot = self.slot(now);
        slot.good += good;
        slot.bad += bad;
    }

    /// One that was counted as bad was good after all.
    pub fn mend(&mut self, now: Moment) {
        let slot = self.slot(now);
        slot.good += 1;
        slot.bad = slot.bad.saturating_sub(1);
    }

    /// Good and bad.
    pub fn sum(&self, now: Moment) -> (u64, u64) {
        let number = now.0 / SLOT.0;
        let fresh = self.slots.iter().filter(|slot| slot.number + SLOTS > number);
        fresh.fold((0, 0), |(good, bad), slot| (good + slot.good, bad + slot.bad))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_minutes_count() {
        let mut recent = Recent::default();
        let at = |s: u64| Moment(0) + Span::from_secs(s);
        for second in 0..3_600 {
            recent.add(at(second), 1, u64::from(second < 3_500));
        }
        let (good, bad) = recent.sum(at(3_599));
        assert_eq!((good, bad), (300, 200));
        assert_eq!(recent.sum(at(3_599 + 150)), (150, 50));
        assert_eq!(recent.sum(at(9_999)), (0, 0), "silence is forgotten too");
        recent.add(at(10_000), 0, 3);
        recent.mend(at(10_000));
        assert_eq!(recent.sum(at(10_000)), (1, 2));
    }
}
