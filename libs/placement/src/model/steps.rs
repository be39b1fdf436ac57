//! What each step does.

use std::collections::BTreeSet;

use super::{
    Broken, EPOCHS, LOG, Leases, Log, NODES, Node, Orphan, Phase, REQUESTS, Rules, Run, Sabotage, Seat,
    Sight, State, Step, Store,
};

/// What the session store says to a commit.
enum Verdict {
    Written,
    Stale,
    Regress,
    Conflict,
}

impl Log {
    fn has(&self, request: u8) -> bool {
        self.slice().iter().any(|(_, logged)| *logged == request)
    }

    fn slice(&self) -> &[(u8, u8)] {
        &self.entries[..usize::from(self.length)]
    }

    fn cut(&mut self, length: u8) {
        self.length = self.length.min(length);
        self.entries[usize::from(self.length)..].fill((0, 0));
    }

    fn push(&mut self, epoch: u8, request: u8) {
        self.entries[usize::from(self.length)] = (epoch, request);
        self.length += 1;
    }
}

impl State {
    pub(super) fn first() -> Self {
        let node = Node { incarnation: 0, phase: Phase::Idle, leased: true };
        Self {
            nodes: [node; NODES],
            leases: Leases::default(),
            store: Store::default(),
            orphan: None,
            answered: 0,
            excused: 0,
            acquired: [None; EPOCHS],
            raised: 0,
            crashes: 0,
            expiries: 0,
            forced: 0,
            losses: 0,
            restores: 0,
        }
    }

    /// The same state with the nodes' names exchanged, if that comes first: both lead to the same.
    pub(super) fn turned(self) -> Self {
        let other = |run: Option<Run>| run.map(|run| Run { node: 1 - run.node, ..run });
        let leases = |leases: Leases| Leases {
            seat: leases.seat.map(|seat| Seat { run: Run { node: 1 - seat.run.node, ..seat.run }, ..seat }),
            ..leases
        };
        let mut turned = self;
        turned.nodes.reverse();
        for node in &mut turned.nodes {
            if let Phase::Read(read) = &mut node.phase {
                *read = leases(*read);
            }
        }
        turned.leases = leases(self.leases);
        turned.store.fenced_by = other(self.store.fenced_by);
        turned.store.durable_fenced_by = other(self.store.durable_fenced_by);
        turned.acquired = self.acquired.map(other);
        self.min(turned)
    }

    fn run(&self, n: usize) -> Run {
        Run { node: u8::try_from(n).unwrap_or_default(), incarnation: self.nodes[n].incarnation }
    }

    /// What can happen now.
    pub(super) fn steps(&self, rules: &Rules) -> Vec<Step> {
        let mut steps = Vec::new();
        for n in 0..NODES {
            self.steps_of(n, rules, &mut steps);
        }
        if self.orphan.is_some() {
            steps.push(Step::Arrive);
        }
        if self.store.durable < self.store.log.length {
            steps.push(Step::Replicate);
        }
        if self.losses < rules.losses {
            steps.push(Step::FailOver);
        }
        if self.restores < rules.restores {
            steps.push(Step::Restore);
        }
        steps
    }

    fn steps_of(&self, n: usize, rules: &Rules, steps: &mut Vec<Step>) {
        let node = self.nodes[n];
        let seat = self.leases.seat;
        let mine = seat.filter(|seat| seat.run == self.run(n));
        match node.phase {
            Phase::Idle => {
                if mine.is_some() {
                    steps.push(Step::Look(n));
                } else if seat.is_none() || self.forced < rules.forced || self.is_dead(seat) {
                    steps.push(Step::Read(n));
                }
            }
            Phase::Read(_) => steps.extend([Step::Claim(n), Step::ClaimUnanswered(n)]),
            Phase::Claimed { .. } if rules.sabotage == Sabotage::FenceAfterLoad => steps.push(Step::Load(n)),
            Phase::Claimed { .. } | Phase::Loaded { .. } => steps.push(Step::Fence(n)),
            Phase::Higher { .. } => steps.push(Step::Raise(n)),
            Phase::Fenced { .. } => steps.push(Step::Load(n)),
            Phase::Serving { view, sending: None, .. } => {
                steps.extend(
                    (0..REQUESTS)
                        .filter(|request| !view.has(*request))
                        .map(|request| Step::Begin(n, request)),
                );
                steps.push(Step::Answer(n));
            }
            Phase::Serving { sending: Some(_), .. } => steps.push(Step::Commit(n)),
        }
        let served =
            matches!(node.phase, Phase::Serving { .. } | Phase::Fenced { .. } | Phase::Claimed { .. });
        if served && seat.is_some() && mine.is_none() {
            steps.push(Step::Look(n));
        }
        if node.leased && self.expiries < rules.expiries {
            steps.push(Step::Expire(n));
        }
        if !node.leased {
            steps.push(Step::Renew(n));
        }
        if self.crashes < rules.crashes && node.phase != Phase::Idle {
            steps.push(Step::Crash(n));
        }
    }

    /// A run that is no more can be replaced without being suspected.
    fn is_dead(&self, seat: Option<Seat>) -> bool {
        seat.is_some_and(|seat| self.nodes[usize::from(seat.run.node)].incarnation != seat.run.incarnation)
    }

    /// What a step leads to.
    pub(super) fn take(
        mut self,
        step: Step,
        rules: &Rules,
        seen: &mut BTreeSet<Sight>,
    ) -> Result<Self, Broken> {
        match step {
            Step::Read(n) => {
                if self.leases.seat.is_some() && !self.is_dead(self.leases.seat) {
                    self.forced += 1;
                }
                self.nodes[n].phase = Phase::Read(self.leases);
            }
            Step::Claim(n) => {
                let claimed = self.claim(n, rules, seen);
                self.nodes[n].phase = claimed.map_or(Phase::Idle, |epoch| Phase::Claimed { epoch });
            }
            Step::ClaimUnanswered(n) => {
                self.claim(n, rules, seen);
                self.nodes[n].phase = Phase::Idle;
            }
            Step::Look(n) => {
                let mine = self.leases.seat.filter(|seat| seat.run == self.run(n));
                self.nodes[n].phase = mine.map_or(Phase::Idle, |seat| Phase::Claimed { epoch: seat.epoch });
            }
            Step::Raise(n) => self.raise(n),
            Step::Fence(n) => self.fence(n, rules, seen)?,
            Step::Load(n) => self.load(n, seen),
            Step::Begin(n, request) => {
                if let Phase::Serving { sending, .. } = &mut self.nodes[n].phase {
                    *sending = Some(request);
                }
            }
            Step::Commit(n) => self.commit(n, rules, seen)?,
            Step::Answer(n) => self.answer(n, rules)?,
            Step::Expire(n) => {
                self.expiries += 1;
                self.nodes[n].leased = false;
                if self.leases.seat.is_some_and(|seat| usize::from(seat.run.node) == n) {
                    self.leases.seat = None;
                }
            }
            Step::Renew(n) => self.renew(n, seen),
            Step::Crash(n) => self.crash(n),
            Step::Arrive => {
                if let Some(Orphan { epoch, expected, request }) = self.orphan.take() {
                    self.write(epoch, expected, request, rules)?;
                }
            }
            Step::Replicate => self.store.durable = self.store.log.length,
            Step::FailOver => {
                self.losses += 1;
                let kept = self.store.durable;
                for (_, request) in &self.store.log.slice()[usize::from(kept)..] {
                    self.excused |= 1 << request;
                }
                self.store.log.cut(kept);
                self.store.fence = self.store.durable_fence;
                self.store.fenced_by = self.store.durable_fenced_by;
            }
            Step::Restore => {
                self.restores += 1;
                self.leases = Leases::default();
            }
        }
        Ok(self)
    }

    /// The transaction of a claim; the epoch if it was written.
    fn claim(&mut self, n: usize, rules: &Rules, seen: &mut BTreeSet<Sight>) -> Option<u8> {
        let Phase::Read(read) = self.nodes[n].phase else { return None };
        if !self.nodes[n].leased {
            return None;
        }
        if self.leases != read && rules.sabotage != Sabotage::NoCompare {
            seen.insert(Sight::ClaimRefused);
            return None;
        }
        let epoch = if rules.sabotage == Sabotage::SameEpoch { read.epoch.max(1) } else { read.epoch + 1 };
        self.leases = Leases { seat: Some(Seat { run: self.run(n), epoch }), epoch };
        Some(epoch)
    }

    fn raise(&mut self, n: usize) {
        let Phase::Higher { epoch, above } = self.nodes[n].phase else { return };
        let stands = self.leases.seat == Some(Seat { run: self.run(n), epoch });
        self.nodes[n].phase = Phase::Idle;
        if stands && self.nodes[n].leased && self.leases.epoch == epoch {
            let epoch = above + 1;
            self.leases = Leases { seat: Some(Seat { run: self.run(n), epoch }), epoch };
            self.nodes[n].phase = Phase::Claimed { epoch };
        }
    }

    fn fence(&mut self, n: usize, rules: &Rules, seen: &mut BTreeSet<Sight>) -> Result<(), Broken> {
        let me = self.run(n);
        let (epoch, view) = match self.nodes[n].phase {
            Phase::Claimed { epoch } => (epoch, None),
            Phase::Loaded { epoch, view } => (epoch, Some(view)),
            Phase::Idle
            | Phase::Read(_)
            | Phase::Higher { .. }
            | Phase::Fenced { .. }
            | Phase::Serving { .. } => {
                return Ok(());
            }
        };
        if rules.sabotage != Sabotage::NoFence {
            let stands = self.store.fence;
            let again = stands == epoch && (rules.lenient || self.store.fenced_by == Some(me));
            if stands >= epoch && !again {
                seen.insert(Sight::FenceHigher);
                self.nodes[n].phase = Phase::Higher { epoch, above: stands };
                return Ok(());
            }
            self.set_fence(epoch, me, rules.sabotage != Sabotage::FenceNotDurable);
        }
        let first = *self.acquired[usize::from(epoch) % EPOCHS].get_or_insert(me);
        if first != me {
            return Err(Broken::AcquiredTwice);
        }
        self.nodes[n].phase = match view {
            Some(view) => Phase::Serving { epoch, view, sending: None },
            None => Phase::Fenced { epoch },
        };
        Ok(())
    }

    fn set_fence(&mut self, epoch: u8, by: Run, durable: bool) {
        self.store.fence = epoch;
        self.store.fenced_by = Some(by);
        self.raised = self.raised.max(epoch);
        if durable {
            self.store.durable_fence = epoch;
            self.store.durable_fenced_by = Some(by);
            // What was written before it is replicated before it.
            self.store.durable = self.store.log.length;
        }
    }

    fn load(&mut self, n: usize, seen: &mut BTreeSet<Sight>) {
        let view = self.store.log;
        match self.nodes[n].phase {
            Phase::Claimed { epoch } => self.nodes[n].phase = Phase::Loaded { epoch, view },
            Phase::Fenced { epoch } => {
                if epoch > 1 {
                    seen.insert(Sight::TakenOver);
                }
                self.nodes[n].phase = Phase::Serving { epoch, view, sending: None };
            }
            Phase::Idle
            | Phase::Read(_)
            | Phase::Higher { .. }
            | Phase::Loaded { .. }
            | Phase::Serving { .. } => {}
        }
    }

    /// What the session store does with a commit, and what must hold of it.
    fn write(&mut self, epoch: u8, expected: u8, request: u8, rules: &Rules) -> Result<Verdict, Broken> {
        if rules.sabotage != Sabotage::NoFence {
            if self.store.fence > epoch {
                return Ok(Verdict::Stale);
            }
            if self.store.fence < epoch {
                return Ok(Verdict::Regress);
            }
        }
        if self.store.log.length != expected {
            return Ok(Verdict::Conflict);
        }
        if epoch < self.raised {
            return Err(Broken::CommitUnderFence);
        }
        if self.store.log.slice().last().is_some_and(|(last, _)| *last > epoch) {
            return Err(Broken::EpochsFell);
        }
        if self.store.log.has(request) || usize::from(expected) >= LOG {
            return Err(Broken::ExecutedTwice);
        }
        self.store.log.push(epoch, request);
        Ok(Verdict::Written)
    }

    fn commit(&mut self, n: usize, rules: &Rules, seen: &mut BTreeSet<Sight>) -> Result<(), Broken> {
        let Phase::Serving { epoch, view, sending: Some(request) } = self.nodes[n].phase else {
            return Ok(());
        };
        let phase = match self.write(epoch, view.length, request, rules)? {
            Verdict::Written => {
                self.answered |= 1 << request;
                if self.answered + 1 == 1 << REQUESTS {
                    seen.insert(Sight::AllAnswered);
                }
                Phase::Serving { epoch, view: self.store.log, sending: None }
            }
            Verdict::Stale => {
                seen.insert(Sight::Stale);
                Phase::Idle
            }
            Verdict::Regress => {
                seen.insert(Sight::Regress);
                self.repair(n, epoch, view, request, seen)
            }
            Verdict::Conflict => {
                seen.insert(Sight::Conflict);
                if self.store.log.length < view.length {
                    self.repair(n, epoch, view, request, seen)
                } else {
                    Phase::Serving { epoch, view: self.store.log, sending: None }
                }
            }
        };
        self.nodes[n].phase = phase;
        Ok(())
    }

    /// The owner writes back what the store has lost, under its fence, unless the store has more.
    fn repair(&mut self, n: usize, epoch: u8, view: Log, request: u8, seen: &mut BTreeSet<Sight>) -> Phase {
        let me = self.run(n);
        if self.store.fence > epoch {
            return Phase::Idle;
        }
        self.set_fence(epoch, me, true);
        if self.store.log.length > view.length {
            return Phase::Serving { epoch, view: self.store.log, sending: None };
        }
        seen.insert(Sight::Repaired);
        self.store.log = view;
        Phase::Serving { epoch, view, sending: Some(request) }
    }

    fn answer(&self, n: usize, rules: &Rules) -> Result<(), Broken> {
        let Phase::Serving { epoch, view, .. } = self.nodes[n].phase else { return Ok(()) };
        if self.store.fence != epoch && rules.sabotage != Sabotage::NoFence {
            return Ok(());
        }
        let missing = |request: u8| self.answered & !self.excused & (1 << request) != 0 && !view.has(request);
        if (0..REQUESTS).any(missing) { Err(Broken::StaleAnswer) } else { Ok(()) }
    }

    fn renew(&mut self, n: usize, seen: &mut BTreeSet<Sight>) {
        self.nodes[n].leased = true;
        if let Phase::Serving { epoch, .. } = self.nodes[n].phase
            && self.leases == (Leases { seat: None, epoch })
        {
            seen.insert(Sight::PutBack);
            self.leases.seat = Some(Seat { run: self.run(n), epoch });
        }
    }

    fn crash(&mut self, n: usize) {
        self.crashes += 1;
        if let Phase::Serving { epoch, view, sending: Some(request) } = self.nodes[n].phase {
            self.orphan = Some(Orphan { epoch, expected: view.length, request });
        }
        self.nodes[n] = Node { incarnation: self.nodes[n].incarnation + 1, phase: Phase::Idle, leased: true };
    }
}
