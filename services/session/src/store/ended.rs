//! Sessions that were removed lately, for stores that have nothing else left of them.

use std::collections::VecDeque;

/// So many are known; the oldest are forgotten. What comes late comes within seconds.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<Box<str>>);

impl Ended {
    pub(super) fn add(&mut self, id: &str) {
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back(id.into());
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.0.iter().any(|ended| **ended == *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known() {
        let mut ended = Ended::default();
        for number in 0..=MOST {
            ended.add(&number.to_string());
        }
        assert!(!ended.has("0") && ended.has("1") && ended.has(&MOST.to_string()));
        assert_eq!(ended.0.len(), MOST);
    }
}
