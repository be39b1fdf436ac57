//! Durations with several labels, found by position and without a look-up.

use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use foldhash::fast::RandomState;

use super::{Histogram, Metrics};

/// A label and all its values; an empty value is no label.
pub type Axis = (&'static str, &'static [&'static str]);

/// Histograms over closed sets of labels. A series begins when something is first counted in it.
pub struct Grid<const N: usize> {
    metrics: Metrics,
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    fixed: Vec<(&'static str, String)>,
    axes: [Axis; N],
    cells: Box<[OnceLock<Histogram>]>,
}

impl<const N: usize> Grid<N> {
    /// `fixed` labels are the same in all series.
    #[must_use]
    pub fn new(
        metrics: &Metrics,
        (name, help): (&'static str, &'static str),
        bounds: &'static [f64],
        fixed: &[(&'static str, &str)],
        axes: [Axis; N],
    ) -> Self {
        let cells = axes.iter().map(|(_, values)| values.len()).product();
        Self {
            metrics: metrics.clone(),
            name,
            help,
            bounds,
            fixed: fixed.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
            axes,
            cells: (0..cells).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Counts a value in the series with these places on the axes. A place beyond an axis is its last one.
    pub fn observe(&self, places: [usize; N], value: f64) {
        let index = self.axes.iter().zip(places).fold(0, |index, ((_, values), place)| {
            index * values.len() + place.min(values.len().saturating_sub(1))
        });
        if let Some(cell) = self.cells.get(index) {
            cell.get_or_init(|| self.make(places)).observe(value);
        }
    }

    #[cold]
    fn make(&self, places: [usize; N]) -> Histogram {
        let fixed = self.fixed.iter().map(|(name, value)| (*name, value.as_str()));
        let moving = self.axes.iter().zip(places).map(|((name, values), place)| {
            (*name, values.get(place).or(values.last()).copied().unwrap_or_default())
        });
        let labels: Vec<_> = fixed.chain(moving).collect();
        self.metrics.histogram(self.name, self.help, self.bounds, &labels)
    }
}

impl<const N: usize> fmt::Debug for Grid<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grid").field("name", &self.name).field("axes", &self.axes).finish_non_exhaustive()
    }
}

/// Something for each name that the mesh itself knows. Bounded: further names have nothing. What is here stays for ever, so it is
/// found without a lock: a name stands in the first free slot behind the one that its hash says.
pub struct Names<T> {
    most: usize,
    /// At least twice as many as there may be names.
    slots: Box<[OnceLock<Box<Known<T>>>]>,
    hasher: RandomState,
    /// How many names there are. Held while one is added.
    count: Mutex<usize>,
}

struct Known<T> {
    name: Box<str>,
    what: T,
}

/// Where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named(usize);

impl<T> Names<T> {
    /// For up to `most` names.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let slots = (0..(2 * most).next_power_of_two()).map(|_| OnceLock::new()).collect();
        Self { most, slots, hasher: RandomState::default(), count: Mutex::default() }
    }

    /// A name which was admitted before.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Named> {
        self.probe(name).ok()
    }

    /// A name which is known to exist, while there is room.
    pub fn admit(&self, name: &str, make: impl FnOnce() -> T) -> Option<Named> {
        if let Some(known) = self.find(name) {
            return Some(known);
        }
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        match self.probe(name) {
            Ok(known) => Some(known),
            Err(free) if *count < self.most => {
                let _is_free =
                    self.slots.get(free)?.set(Box::new(Known { name: name.into(), what: make() })).is_ok();
                *count += 1;
                Some(Named(free))
            }
            Err(_) => None,
        }
    }

    /// What there is for a name.
    #[must_use]
    pub fn of(&self, named: Named) -> Option<&T> {
        self.slots.get(named.0)?.get().map(|known| &known.what)
    }

    /// Where the name stands, or the slot in which it would.
    fn probe(&self, name: &str) -> Result<Named, usize> {
        let last = self.slots.len() - 1;
        let mut place = usize::try_from(self.hasher.hash_one(name) & last as u64).unwrap_or_default();
        // Half of the slots stay free, so one of them comes.
        loop {
            match self.slots[place].get() {
                Some(known) if *known.name == *name => return Ok(Named(place)),
                Some(_) => place = (place + 1) & last,
                None => return Err(place),
            }
        }
    }
}

impl<T> fmt::Debug for Names<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_a_series_of_its_own() {
        let metrics = Metrics::default();
        let axes = [("era", &["older", "modern"][..]), ("error", &["", "timeout"][..])];
        let grid = Grid::new(&metrics, ("d", "D"), &[1.0], &[("x", "y")], axes);
        assert!(!metrics.text().contains("d_count"), "nothing was counted yet");
        grid.observe([0, 0], 0.5);
        grid.observe([1, 1], 2.0);
        grid.observe([9, 9], 2.0);
        let text = metrics.text();
        assert!(text.contains("d_count{x=\"y\",era=\"older\"} 1\n"), "{text}");
        assert!(text.contains("d_count{x=\"y\",era=\"modern\",error=\"timeout\"} 2\n"), "{text}");
        assert_eq!(text.matches("d_count").count(), 2, "{text}");
    }

    #[test]
    fn names_are_bounded() {
        let names = Names::new(2);
        for name in ["a", "b", "c", "a"] {
            names.admit(name, || name);
        }
        let of = |name| names.find(name).and_then(|named| names.of(named)).copied();
        assert_eq!((of("a"), of("b"), of("c")), (Some("a"), Some("b"), None));
        assert!(names.admit("c", || "c").is_none());
        assert_eq!(names.admit("a", || "made again"), names.find("a"));
        assert!(Names::new(0).admit("a", || ()).is_none());
    }

    #[test]
    fn every_name_has_its_own_whoever_adds_it() {
        let names = Names::new(200);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..300).for_each(|n| _ = names.admit(&n.to_string(), || n)));
            }
        });
        let found: Vec<i32> = (0..300)
            .filter_map(|n| {
                names.find(&n.to_string()).and_then(|named| names.of(named)).copied().filter(|of| *of == n)
            })
            .collect();
        assert_eq!(found.len(), 200);
    }
}
