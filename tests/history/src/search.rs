//! Whether operations on one list are linearizable: the search of Wing and Gong with Lowe's memory of what was tried.
//!
//! The state is the list itself. An append adds its value, a read must show the whole list. An operation whose outcome is
//! unknown may take effect at any time after it began, or never.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) begun: u64,
    /// `None`: nobody knows when, or whether.
    pub(crate) ended: Option<u64>,
    pub(crate) does: Does,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Does {
    Append(u64),
    Read(Vec<u64>),
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Order,
    NoOrder,
    OutOfTime,
}

/// One end of an operation in the order of time, in a doubly linked list whose places are indexes.
struct Mark {
    step: usize,
    is_return: bool,
    previous: usize,
    next: usize,
}

const HEAD: usize = 0;
/// Steps of the search between two looks at the clock.
const PATIENCE: u64 = 4096;

struct Search<'a> {
    steps: &'a [Step],
    marks: Vec<Mark>,
    /// Where the return of a step is, by the place of its call.
    returns: Vec<usize>,
    calls: Vec<usize>,
    list: Vec<u64>,
    done: Vec<u64>,
    /// Calls in the order in which they took effect.
    order: Vec<usize>,
    tried: HashSet<(Vec<u64>, u64)>,
}

/// Looks for an order.
pub(crate) fn search(steps: &[Step], time: Duration) -> Found {
    let mut search = Search::new(steps);
    let until = Instant::now() + time;
    let mut count = 0_u64;
    let mut at = search.next(HEAD);
    loop {
        count += 1;
        if count.is_multiple_of(PATIENCE) && Instant::now() > until {
            return Found::OutOfTime;
        }
        let Some((step, is_return)) = search.mark(at) else { return Found::Order };
        if !is_return {
            at = if search.take(at, step) { search.next(HEAD) } else { search.next(at) };
        } else if search.is_optional(step) {
            // Returns that never came stand behind all others: whatever had to take effect has.
            return Found::Order;
        } else {
            match search.give_back() {
                Some(call) => at = search.next(call),
                None => return Found::NoOrder,
            }
        }
    }
}

impl<'a> Search<'a> {
    fn new(steps: &'a [Step]) -> Self {
        let mut ends: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * steps.len());
        for (number, step) in steps.iter().enumerate() {
            ends.push((step.begun, false, number));
            ends.push((step.ended.unwrap_or(u64::MAX), true, number));
        }
        // At the same moment calls come before returns: such operations may have met.
        ends.sort_unstable();
        let mut marks = vec![Mark { step: usize::MAX, is_return: false, previous: HEAD, next: 1 }];
        let (mut calls, mut returns) = (vec![0; steps.len()], vec![0; steps.len()]);
        for (number, (_, is_return, step)) in ends.into_iter().enumerate() {
            let place = number + 1;
            marks.push(Mark { step, is_return, previous: number, next: place + 1 });
            let places = if is_return { &mut returns } else { &mut calls };
            if let Some(known) = places.get_mut(step) {
                *known = place;
            }
        }
        let words = steps.len().div_ceil(64);
        Self {
            steps,
            marks,
            returns,
            calls,
            list: Vec::new(),
            done: vec![0; words],
            order: Vec::new(),
            tried: HashSet::new(),
        }
    }

    fn next(&self, at: usize) -> usize {
        self.marks.get(at).map_or(usize::MAX, |mark| mark.next)
    }

    fn mark(&self, at: usize) -> Option<(usize, bool)> {
        self.marks.get(at).map(|mark| (mark.step, mark.is_return))
    }

    fn is_optional(&self, step: usize) -> bool {
        self.steps.get(step).is_some_and(|step| step.ended.is_none())
    }

    /// Lets a call take effect now, if the state allows it and this was not tried before.
    fn take(&mut self, call: usize, step: usize) -> bool {
        let append = match self.steps.get(step).map(|step| &step.does) {
            Some(Does::Append(value)) => Some(*value),
            Some(Does::Read(seen)) if *seen == self.list => None,
            Some(Does::Read(_)) | None => return false,
        };
        self.flip(step);
        self.list.extend(append);
        let mut hasher = DefaultHasher::new();
        self.list.hash(&mut hasher);
        if !self.tried.insert((self.done.clone(), hasher.finish())) {
            self.flip(step);
            if append.is_some() {
                self.list.pop();
            }
            return false;
        }
        self.order.push(step);
        self.unlink(call);
        let returned = self.returns.get(step).copied().unwrap_or(HEAD);
        self.unlink(returned);
        true
    }

    /// Takes the latest effect back; its call.
    fn give_back(&mut self) -> Option<usize> {
        let step = self.order.pop()?;
        self.flip(step);
        if matches!(self.steps.get(step).map(|step| &step.does), Some(Does::Append(_))) {
            self.list.pop();
        }
        let call = self.calls.get(step).copied()?;
        let returned = self.returns.get(step).copied()?;
        self.link(returned);
        self.link(call);
        Some(call)
    }

    fn flip(&mut self, step: usize) {
        if let Some(word) = self.done.get_mut(step / 64) {
            *word ^= 1 << (step % 64);
        }
    }

    fn unlink(&mut self, at: usize) {
        let Some((previous, next)) = self.marks.get(at).map(|mark| (mark.previous, mark.next)) else {
            return;
        };
        if let Some(mark) = self.marks.get_mut(previous) {
            mark.next = next;
        }
        if let Some(mark) = self.marks.get_mut(next) {
            mark.previous = previous;
        }
    }

    fn link(&mut self, at: usize) {
        let Some((previous, next)) = self.marks.get(at).map(|mark| (mark.previous, mark.next)) else {
            return;
        };
        if let Some(mark) = self.marks.get_mut(previous) {
            mark.next = at;
        }
        if let Some(mark) = self.marks.get_mut(next) {
            mark.previous = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(begun: u64, ended: impl Into<Option<u64>>, value: u64) -> Step {
        Step { begun, ended: ended.into(), does: Does::Append(value) }
    }

    fn read(begun: u64, ended: u64, list: &[u64]) -> Step {
        Step { begun, ended: Some(ended), does: Does::Read(list.to_vec()) }
    }

    fn found(steps: &[Step]) -> Found {
        search(steps, Duration::from_secs(10))
    }

    #[test]
    fn what_meets_may_take_either_order() {
        assert_eq!(found(&[append(0, 10, 1), append(5, 15, 2), read(20, 21, &[2, 1])]), Found::Order);
        assert_eq!(found(&[append(0, 4, 1), append(5, 15, 2), read(20, 21, &[2, 1])]), Found::NoOrder);
    }

    #[test]
    fn what_is_unknown_may_happen_late_or_never() {
        let never = [append(0, None, 1), append(5, 6, 2), read(7, 8, &[2])];
        assert_eq!(found(&never), Found::Order);
        let late = [append(0, None, 1), append(5, 6, 2), read(7, 8, &[2]), read(9, 10, &[2, 1])];
        assert_eq!(found(&late), Found::Order);
        let back = [append(0, None, 1), read(7, 8, &[1]), read(9, 10, &[])];
        assert_eq!(found(&back), Found::NoOrder);
    }

    #[test]
    fn reads_that_meet_must_agree() {
        let agree = [append(0, 10, 1), read(1, 9, &[]), read(1, 9, &[1])];
        assert_eq!(found(&agree), Found::Order);
        let turn = [append(0, 10, 1), read(1, 3, &[1]), read(4, 9, &[])];
        assert_eq!(found(&turn), Found::NoOrder);
    }

    #[test]
    fn long_histories_are_quick() {
        let mut steps = Vec::new();
        let mut list = Vec::new();
        for n in 0..400 {
            steps.push(append(10 * n, 10 * n + 15, n));
            list.push(n);
            steps.push(read(10 * n + 16, 10 * n + 19, &list));
        }
        // Each read meets the next append, which it must not show.
        assert_eq!(found(&steps), Found::Order);
    }

    #[test]
    fn a_search_ends_when_its_time_is_up() {
        let steps: Vec<Step> = (0..40).map(|n| append(0, 100, n)).chain([read(200, 201, &[1])]).collect();
        assert_eq!(search(&steps, Duration::from_millis(50)), Found::OutOfTime);
    }
}
