//! Every slot, looked at: what is ours, what is lost, what is free.

use super::*;

/// What a look at all slots brought together.
#[derive(Default)]
struct Found {
    lost: BTreeMap<Option<Owner>, Vec<Slot>>,
    claims: Vec<Claim>,
    fences: Vec<(Slot, Epoch)>,
    /// Something is not as it should be, or is being changed.
    unsettled: bool,
}

impl Desk {
    /// Looks at every slot. Claims only when this node shows itself as it should.
    pub(super) fn review(&mut self, view: View<'_>, shown: bool, effects: &mut Vec<Effect>) {
        if self.settled == Some(view.table.version()) {
            return;
        }
        let may_claim = shown && self.takes_part() && view.now_ms >= self.claim_after_ms;
        let mut found = Found::default();
        for slot in self.slots.slots() {
            self.look_at(view, slot, may_claim, &mut found);
        }
        self.settled = (!found.unsettled).then(|| view.table.version());
        for (to, slots) in found.lost {
            effects.push(Effect::Lost(slots, to));
        }
        // What does not fit is found again next time.
        for claims in found.claims.chunks(CLAIMED_AT_ONCE) {
            if self.claims_running == CLAIMS_RUNNING {
                break;
            }
            self.claims_running += 1;
            for claim in claims {
                self.local(claim.slot).busy = true;
            }
            effects.push(Effect::Claim(claims.to_vec()));
        }
        for fences in found.fences.chunks(FENCED_AT_ONCE) {
            if self.fences_running == FENCES_RUNNING {
                break;
            }
            self.fences_running += 1;
            for (slot, _) in fences {
                self.local(*slot).busy = true;
            }
            effects.push(Effect::Fence(fences.to_vec()));
        }
    }

    fn look_at(&mut self, view: View<'_>, slot: Slot, may_claim: bool, found: &mut Found) {
        let stands = view.table.slot(slot);
        if let Some(held) = stands
            && held.record.as_ref().is_some_and(|record| record.forced)
        {
            let local = self.local(slot);
            if local.forced.is_none_or(|(revision, _)| revision != held.revision) {
                local.forced = Some((held.revision, view.now_ms));
            }
        }
        if self.local(slot).busy {
            found.unsettled = true;
            return;
        }
        let Some(held) = stands else {
            return self.look_at_free(view, slot, may_claim, found);
        };
        let Some(record) = &held.record else {
            // Somebody newer than this version owns it.
            return self.let_go(slot, None, found);
        };
        if self.is_mine(record) {
            return self.look_at_own(view, slot, record.epoch, may_claim, found);
        }
        if self.local(slot).phase != Phase::Away {
            self.let_go(slot, view.table.owner(slot), found);
        }
        let orphaned = view.table.alive(&record.node, record.incarnation).is_none();
        let forced = !orphaned && is_suspected(view.table, &record.node, record.incarnation);
        if orphaned || forced {
            self.consider(view, slot, forced, may_claim, found);
        } else {
            self.local(slot).vacant_since = None;
        }
    }

    /// A slot that is this run's, as the table says.
    fn look_at_own(&mut self, view: View<'_>, slot: Slot, epoch: Epoch, may_claim: bool, found: &mut Found) {
        let draining = self.draining_since.is_some();
        let local = self.local(slot);
        local.vacant_since = None;
        match local.phase {
            Phase::Held { epoch: held } if held == epoch => return,
            Phase::Held { epoch: held } if held > epoch => {
                // The lease store went back in time. What is held is as good as it was; the epochs are not.
                if may_claim {
                    found.claims.extend(self.claim(view, slot, held, false));
                }
            }
            Phase::Raise { above } => {
                if may_claim {
                    found.claims.extend(self.claim(view, slot, above, false));
                }
            }
            Phase::Held { .. } => {
                // A later claim of ours was thought to have failed. Who knows who was in between.
                self.let_go(slot, None, found);
                self.local(slot).phase = Phase::Due { epoch, at_ms: view.now_ms };
                if !draining {
                    found.fences.push((slot, epoch));
                }
            }
            Phase::Away | Phase::Due { .. } => {
                let at_ms = match local.phase {
                    Phase::Due { epoch: due, at_ms } if due == epoch => at_ms,
                    Phase::Away | Phase::Due { .. } | Phase::Raise { .. } | Phase::Held { .. } => view.now_ms,
                };
                local.phase = Phase::Due { epoch, at_ms };
                if at_ms <= view.now_ms && !draining {
                    found.fences.push((slot, epoch));
                }
            }
        }
        found.unsettled = true;
    }

    /// A slot that nobody owns, as the table says.
    fn look_at_free(&mut self, view: View<'_>, slot: Slot, may_claim: bool, found: &mut Found) {
        found.unsettled = true;
        let newest = view.table.epoch(slot).and_then(|held| held.record).map(|record| record.epoch);
        let draining = self.draining_since.is_some();
        match self.local(slot).phase {
            Phase::Held { epoch } if newest == Some(epoch) && !draining => {
                // The lease ended, and nobody else was dealt an epoch since: put the key back.
                if may_claim {
                    let mut claim = self.claim(view, slot, epoch, false);
                    if let Some(claim) = &mut claim {
                        claim.record.epoch = epoch;
                        claim.again = true;
                    }
                    found.claims.extend(claim);
                }
            }
            Phase::Away | Phase::Due { .. } | Phase::Raise { .. } | Phase::Held { .. } => {
                self.let_go(slot, None, found);
                self.consider(view, slot, false, may_claim, found);
            }
        }
    }

    /// Claims a slot that can be taken when it is this node's turn.
    fn consider(&mut self, view: View<'_>, slot: Slot, forced: bool, may_claim: bool, found: &mut Found) {
        found.unsettled = true;
        let preferred = self.plan.owner(slot) == Some(&self.me.node);
        let seed = self.seed;
        let local = self.local(slot);
        let since = *local.vacant_since.get_or_insert(view.now_ms);
        // The same for all that became free together, so that they are claimed together.
        let patience = PATIENCE_MS + mix(seed ^ mix(since)) % PATIENCE_SPREAD_MS;
        let turn = if preferred { since } else { since.saturating_add(patience) };
        let lately = local.forced.is_some_and(|(_, at)| view.now_ms.saturating_sub(at) < FORCED_EVERY_MS);
        if may_claim && view.now_ms >= turn && !(forced && lately) {
            found.claims.extend(self.claim(view, slot, Epoch(0), forced));
        }
    }

    /// A claim of a slot, in an epoch above all that are known of.
    fn claim(&self, view: View<'_>, slot: Slot, above: Epoch, forced: bool) -> Option<Claim> {
        let stands = view.table.slot(slot);
        let dealt = view.table.epoch(slot);
        let newest = match dealt {
            // Dealt by somebody newer than this version.
            Some(held) if held.record.is_none() => return None,
            Some(held) => held.record.map_or(Epoch(0), |record| record.epoch),
            None => Epoch(0),
        };
        let stood = stands.and_then(|held| held.record.as_ref()).map_or(Epoch(0), |record| record.epoch);
        let epoch = Epoch(newest.max(stood).max(above).0.saturating_add(1));
        let mut record = SlotRecord::new(&self.me.node, self.me.incarnation, epoch);
        record.forced = forced;
        let instead_of = stands.map(|held| held.raw.clone());
        Some(Claim { slot, instead_of, epoch_at: dealt.map(|held| held.revision), record, again: false })
    }

    /// It is not ours (any more).
    fn let_go(&mut self, slot: Slot, to: Option<Owner>, found: &mut Found) {
        let was = std::mem::replace(&mut self.local(slot).phase, Phase::Away);
        if matches!(was, Phase::Held { .. }) {
            found.lost.entry(to).or_default().push(slot);
        }
    }
}
