//! Durations with several labels, found by position and without a look-up.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

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

/// Something for each name that the mesh itself knows. Bounded: further names have nothing.
#[derive(Debug)]
pub struct Names<T> {
    most: usize,
    known: RwLock<HashMap<Box<str>, Arc<T>>>,
}

impl<T> Names<T> {
    /// For up to `most` names.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, known: RwLock::default() }
    }

    /// That of a name which was admitted before.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<T>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// That of a name which is known to exist, while there is room.
    pub fn admit(&self, name: &str, make: impl FnOnce() -> T) -> Option<Arc<T>> {
        if let Some(known) = self.get(name) {
            return Some(known);
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= self.most && !known.contains_key(name) {
            return None;
        }
        Some(known.entry(name.into()).or_insert_with(|| Arc::new(make())).clone())
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
            names.admit(name, || ());
        }
        assert!(names.get("a").is_some() && names.get("b").is_some() && names.get("c").is_none());
        assert!(names.admit("c", || ()).is_none());
    }
}
