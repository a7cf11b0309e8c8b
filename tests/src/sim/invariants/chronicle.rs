//! The one history of a region: the state at each revision, as whoever applied it first shows it.

use std::{collections::BTreeMap, sync::Arc};

use mesh::model::{Held, Revision};
use registry::{catalog::State, watch::Published};

use super::{Found, agreement};
use crate::sim::place::Place;

/// Revisions that are remembered.
const KEPT: usize = 3_000;

/// States by revision.
#[derive(Default)]
pub(crate) struct Chronicle {
    states: BTreeMap<u64, Arc<State>>,
    /// Those of the life before, and when it ended.
    former: BTreeMap<u64, Arc<State>>,
    ended_ms: u64,
}

impl Chronicle {
    /// Takes a state in; true when its revision is the newest so far.
    pub(super) fn published(&mut self, place: Place, published: &Published) -> (bool, Found) {
        let revision = published.revision.0;
        if let Some(known) = self.states.get(&revision) {
            return (false, agreement::check(place, known, published));
        }
        let newest = self.states.last_key_value().map_or(0, |(newest, _)| *newest);
        if revision <= newest {
            return (false, Ok(())); // forgotten, or between the states of a snapshot
        }
        self.states.insert(revision, Arc::clone(&published.state));
        if self.states.len() > KEPT {
            self.states.pop_first();
        }
        (true, Ok(()))
    }

    /// The state at a revision, if it is remembered.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Arc<State>> {
        self.states.get(&revision.0)
    }

    /// The state at a position, of either life.
    pub(crate) fn held(&self, held: Held) -> Option<&Arc<State>> {
        [&self.states, &self.former]
            .into_iter()
            .filter_map(|states| states.get(&held.revision.0))
            .find(|state| state.incarnation() == held.incarnation)
    }

    /// The newest state up to a revision.
    pub(super) fn up_to(&self, revision: Revision) -> Option<&Arc<State>> {
        self.states.range(..=revision.0).next_back().map(|(_, state)| state)
    }

    /// The region begins again.
    pub(super) fn lost(&mut self, now_ms: u64) {
        self.former = std::mem::take(&mut self.states);
        self.ended_ms = now_ms;
    }

    /// The end of the life before, and when that ended.
    pub(super) fn former(&self) -> Option<(u64, &Arc<State>)> {
        let (_, state) = self.former.last_key_value()?;
        Some((self.ended_ms, state))
    }

    /// The newest one.
    pub(crate) fn newest(&self) -> Option<(u64, &Arc<State>)> {
        self.states.last_key_value().map(|(revision, state)| (*revision, state))
    }

    /// The one before a revision.
    pub(super) fn before(&self, revision: Revision) -> Option<&Arc<State>> {
        self.states.range(..revision.0).next_back().map(|(_, state)| state)
    }
}
