//! A count with an upper bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is inside. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Gauge(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    inside: AtomicUsize,
    most: usize,
}

/// One that is inside. Leaves when it is dropped.
#[derive(Debug)]
pub(crate) struct Inside(Arc<Counter>);

impl Gauge {
    /// At most so many; 0 = no limit.
    pub(crate) fn new(most: usize) -> Self {
        let most = if most == 0 { usize::MAX } else { most };
        Self(Arc::new(Counter { inside: AtomicUsize::new(0), most }))
    }

    /// Lets one more in, if there is room.
    pub(crate) fn enter(&self) -> Option<Inside> {
        if self.0.inside.fetch_add(1, Ordering::Relaxed) >= self.0.most {
            self.0.inside.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Inside(self.0.clone()))
    }

    /// Whether nobody is inside at the moment.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.inside.load(Ordering::Relaxed) == 0
    }

    /// Whether there is no room at the moment.
    pub(crate) fn is_full(&self) -> bool {
        self.0.inside.load(Ordering::Relaxed) >= self.0.most
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts amounts of many holders together.
#[derive(Debug)]
pub(crate) struct Weight(Arc<Counter>);

/// What one holder has. Gives it back when it is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    counter: Arc<Counter>,
    amount: usize,
}

impl Weight {
    /// At most so much; 0 = no limit.
    pub(crate) fn new(most: usize) -> Self {
        Self(Gauge::new(most).0)
    }

    /// A holder that has nothing yet.
    pub(crate) fn nothing(&self) -> Load {
        Load { counter: self.0.clone(), amount: 0 }
    }
}

impl Load {
    /// Takes as much more as makes it this amount. False if there is not as much left.
    pub(crate) fn grow_to(&mut self, amount: usize) -> bool {
        let more = amount.saturating_sub(self.amount);
        let before = self.counter.inside.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.counter.most {
            self.counter.inside.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.amount += more;
        true
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.counter.inside.fetch_sub(self.amount, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_counted_together() {
        let weight = Weight::new(10);
        let (mut one, mut two) = (weight.nothing(), weight.nothing());
        assert!(one.grow_to(4) && one.grow_to(4) && two.grow_to(6));
        assert!(!one.grow_to(5) && two.grow_to(2));
        drop(one);
        assert!(two.grow_to(10) && !two.grow_to(11));
        drop(two);
        assert_eq!(weight.0.inside.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn whoever_leaves_makes_room() {
        let gauge = Gauge::new(2);
        let (first, second) = (gauge.enter().unwrap(), gauge.enter().unwrap());
        assert!(gauge.enter().is_none());
        drop(first);
        let third = gauge.clone().enter().unwrap();
        assert!(gauge.enter().is_none());
        drop((second, third));
        assert_eq!(gauge.0.inside.load(Ordering::Relaxed), 0);
        let open = Gauge::new(0);
        let all: Vec<_> = (0..1000).map(|_| open.enter().unwrap()).collect();
        assert_eq!(all.len(), 1000);
    }
}
