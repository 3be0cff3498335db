//! The fence agents: they shoot, fail, keep silent, shoot late, and in some runs they lie.
//!
//! Decides what an agent does. Invariant: outside the runs that lie, an agent that says "done" ended the peer's life
//! after it was asked (assumption A5).

use std::sync::Arc;

use crate::base::Members;
use crate::node::{Event, FenceEnd};

use super::baton::lock;
use super::sched::Owner;
use super::world::{Ev, MS, NAMES, SECOND, World, node_id};

impl World {
    /// A node asks: noted on its system disk before anything happens.
    pub fn fence_asked(&self, owner: Owner, nonce: u128) {
        {
            let mut machine = self.machine(owner.node);
            machine.file.fence = Some(nonce);
            machine.shots.push(nonce);
        }
        lock(&self.oracle).count("fence-asked");
        let takes = self.sched.with_rng(|rng| rng.range(100 * MS, 4 * SECOND));
        // Once faults stop, agents work.
        let what = if self.sched.now() > self.plan.faults_until {
            0
        } else {
            self.sched.with_rng(|rng| rng.below(10))
        };
        let shot = |late| Ev::Shot { by: owner.node, nonce, late };
        let answer = |end| Ev::FenceAnswer { owner, nonce, end };
        let extra = self.sched.with_rng(|rng| rng.range(MS, 900 * MS));
        match what {
            _ if self.plan.agents_lie && what < 6 => self.sched.after(takes, answer(FenceEnd::Done)),
            0..=5 => {
                self.sched.after(takes, shot(false));
                self.sched.after(takes + extra, answer(FenceEnd::Done));
            }
            6 => self.sched.after(takes, answer(FenceEnd::Failed)),
            7 => self.sched.after(takes, answer(FenceEnd::Unanswered)),
            8 => {
                self.sched.after(takes, shot(false));
                self.sched.after(takes + extra, answer(FenceEnd::Unanswered));
            }
            _ => {
                // What was sent to a power switch cannot be called back.
                let late = self.sched.with_rng(|rng| rng.range(MS, 8 * SECOND));
                self.sched.after(takes, answer(FenceEnd::Unanswered));
                self.sched.after(takes + late, shot(true));
            }
        }
    }

    /// The process of an earlier life is looked for and ended.
    pub fn settle_fence(&self, owner: Owner, nonce: u128) {
        self.machine(owner.node).shots.retain(|shot| *shot != nonce);
        lock(&self.oracle).count("fence-settled");
        let after = self.sched.with_rng(|rng| rng.range(MS, 300 * MS));
        self.sched.after(after, Ev::FenceAnswer { owner, nonce, end: FenceEnd::Unanswered });
    }

    pub fn shot(self: &Arc<Self>, by: usize, nonce: u128, late: bool) {
        if !late && !self.machine(by).shots.contains(&nonce) {
            return;
        }
        let target = 1 - by;
        if self.machine(target).up.is_none() {
            return;
        }
        self.sched.note(NAMES[target], "SHOT", (u64::from(late), 0), String::new);
        lock(&self.oracle).count(if late { "shot-late" } else { "shot" });
        let loss = self.loss();
        self.kill(target, loss);
        let off = self.sched.with_rng(|rng| rng.range(100 * MS, 12 * SECOND));
        self.sched.after(off, Ev::Start { node: target });
    }

    pub fn fence_answer(&self, owner: Owner, nonce: u128, end: FenceEnd) {
        if self.with_life(owner, |_| ()).is_none() {
            return;
        }
        {
            let mut machine = self.machine(owner.node);
            machine.shots.retain(|shot| *shot != nonce);
            if machine.file.fence == Some(nonce) {
                machine.file.fence = None;
            }
        }
        self.sched.note(NAMES[owner.node], "fence", (0, 0), || format!("{end:?}"));
        if end == FenceEnd::Done {
            lock(&self.oracle).count("fenced");
        }
        self.deliver(owner, Event::FenceResult { nonce, end });
    }

    /// Both went on alone by their own records, each with a generation that the other one lacks.
    pub fn is_split(&self) -> bool {
        let state = |node: usize| {
            let last = self.machine(node).last.clone();
            self.image_of(node).map(|image| image.state()).or(last)
        };
        let (Some(a), Some(b)) = (state(0), state(1)) else { return false };
        let prefix = a.gens.iter().zip(&b.gens).all(|(x, y)| x.id == y.id);
        let known = a.gens.len().min(b.gens.len()) > 0;
        let mut alone = [(&a, 0), (&b, 1)].into_iter();
        known
            && !prefix
            && alone.all(|(state, node)| {
                state.record.is_some_and(|record| record.members == Members::only(node_id(node)))
            })
    }

    /// Where the mode, or a lie, allows two of them, a run that has come to it asks for one thing only: that both say
    /// so at the first contact.
    pub fn note_split(&self) {
        if self.plan.may_split() && self.is_split() && self.sched.excuse() {
            lock(&self.oracle).count("split");
        }
    }

    /// After everything healed: nobody may take a split for anything else.
    pub fn check_split_is_told(&self) {
        let said = |node: usize| {
            let mirror = self.machine(node).up.as_ref().and_then(|life| life.mirror.clone());
            let now = self.clock(node);
            mirror
                .and_then(|mirror| mirror.with_machine(|machine| machine.view(now)))
                .map(|view| (view.state, view.record))
        };
        let (a, b) = (said(0), said(1));
        let diverged = |said: &Option<(crate::node::StateWord, _)>| {
            said.as_ref().is_some_and(|(word, _)| *word == crate::node::StateWord::Diverged)
        };
        // A side that wrote nothing since gives way by itself.
        let joined = a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| {
            a.1 == b.1 && a.1.is_some_and(|record: crate::base::Record| record.members == Members::BOTH)
        });
        let told = diverged(&a) && diverged(&b);
        if !joined && !told {
            self.sched.violate(format!("I10: both wrote alone and do not say so: {a:?} {b:?}"));
        }
    }
}
