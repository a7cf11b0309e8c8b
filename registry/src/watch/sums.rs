//! The digests of the newest revisions, so that one of the leader's can be compared although others followed. Bounded. Pure.

use std::collections::VecDeque;

use mesh::model::Revision;

/// Some seconds of a busy region.
const SUMS_MAX: usize = 4_096;

/// A window over the newest digests.
#[derive(Clone, Debug, Default)]
pub(super) struct Sums(VecDeque<(Revision, u128)>);

impl Sums {
    /// A new life, or a state that did not follow from the last one.
    pub(super) fn reset(&mut self) {
        self.0.clear();
    }

    pub(super) fn push(&mut self, revision: Revision, sum: u128) {
        if self.0.len() == SUMS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((revision, sum));
    }

    /// None when it is not in the window.
    pub(super) fn at(&self, revision: Revision) -> Option<u128> {
        let index = self.0.binary_search_by_key(&revision, |(revision, _)| *revision).ok()?;
        Some(self.0[index].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_newest_and_nothing_of_another_life() {
        let mut sums = Sums::default();
        for revision in 0..5_000 {
            sums.push(Revision(revision), u128::from(revision) * 3);
        }
        assert_eq!(sums.at(Revision(4_999)), Some(14_997));
        assert_eq!(sums.at(Revision(904)), Some(2_712));
        assert_eq!((sums.at(Revision(903)), sums.at(Revision(5_000))), (None, None));
        sums.reset();
        sums.push(Revision(7), 1);
        assert_eq!((sums.at(Revision(7)), sums.at(Revision(4_999))), (Some(1), None));
    }
}
