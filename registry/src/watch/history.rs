//! The newest changes, so that a subscriber which was away for a while needs no snapshot. Bounded; clones are O(1). Pure.

use std::sync::Arc;

use imbl::Vector;
use mesh::model::{Revision, Timestamp};

use crate::catalog::Change;

/// One applied entry that changed something.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its revision.
    pub revision: Revision,
    /// When it was proposed.
    pub at: Timestamp,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// A window over the newest changes.
#[derive(Clone, Debug)]
pub struct History {
    entries: Vector<Arc<Entry>>,
    /// Every change after this revision is in the window.
    floor: Revision,
    changes: usize,
    changes_max: usize,
}

impl History {
    /// Knows nothing before `floor`; keeps about `changes_max` changes.
    #[must_use]
    pub fn new(floor: Revision, changes_max: usize) -> Self {
        Self {
            entries: Vector::new(),
            floor,
            changes: 0,
            changes_max,
        }
    }

    /// Adds what an entry changed, forgetting the oldest entries beyond the bound.
    pub fn push(&mut self, revision: Revision, at: Timestamp, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        self.changes += changes.len();
        self.entries.push_back(Arc::new(Entry { revision, at, changes }));
        while self.changes > self.changes_max {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.changes -= oldest.changes.len();
            self.floor = oldest.revision;
        }
    }

    /// What changed after `held`, oldest first; none when the window does not reach back that far.
    pub fn since(&self, held: Revision) -> Option<impl Iterator<Item = &Arc<Entry>>> {
        if held < self.floor {
            return None;
        }
        // Revisions grow, so the newer ones are at the back: what is older costs nothing.
        let newest_first = self.entries.iter().rev();
        let newer: Vec<_> = newest_first.take_while(|entry| entry.revision > held).collect();
        Some(newer.into_iter().rev())
    }

    /// The oldest revision that can be resumed from.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::{Audience, Key, RegionId};

    fn change(region: &str) -> Change {
        Change {
            key: Key::Region(RegionId::parse(region).expect("valid")),
            audience_before: Audience::Nobody,
        }
    }

    fn since(history: &History, held: u64) -> Option<Vec<u64>> {
        let entries = history.since(Revision(held))?;
        Some(entries.map(|entry| entry.revision.0).collect())
    }

    #[test]
    fn gives_what_is_newer_and_admits_what_it_forgot() {
        let mut history = History::new(Revision(10), 3);
        assert_eq!(since(&history, 10), Some(vec![]));
        assert_eq!(since(&history, 9), None, "before its time");
        for revision in [12, 13, 15] {
            history.push(Revision(revision), Timestamp(0), vec![change("eu")]);
        }
        history.push(Revision(16), Timestamp(0), vec![]);
        assert_eq!(since(&history, 10), Some(vec![12, 13, 15]));
        assert_eq!(since(&history, 13), Some(vec![15]));
        assert_eq!(since(&history, 99), Some(vec![]));
        history.push(Revision(17), Timestamp(0), vec![change("us"), change("ap")]);
        assert_eq!(history.floor(), Revision(13), "a bound of three changes");
        assert_eq!(since(&history, 12), None);
        assert_eq!(since(&history, 13), Some(vec![15, 17]));
    }

    #[test]
    fn an_entry_larger_than_the_bound_leaves_nothing_behind() {
        let mut history = History::new(Revision(0), 1);
        history.push(Revision(1), Timestamp(0), vec![change("us"), change("ap")]);
        assert_eq!(since(&history, 0), None);
        assert_eq!(since(&history, 1), Some(vec![]));
    }
}
