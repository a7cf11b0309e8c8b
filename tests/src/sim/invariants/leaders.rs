//! One leader a term. openraft orders leaders by term and then by node, and lets a vote go to a greater one only; so the law
//! is: a node's vote never goes back, not even over a crash; nobody leads under a vote for another; and the log's entries
//! are of leaders in that order, each of whom has all that was acknowledged before.

use std::collections::BTreeMap;

use registry::raft::Inside;

use super::{Found, acknowledged::Writes, broken};
use crate::sim::place::Place;

const LAW: &str = "one leader per term: votes never go back";
const ORDER: &str = "one leader per term: entries of the log are in the order of their leaders";
const WHOLE: &str = "a leader has every acknowledged write";
/// Entries whose leaders are remembered, for each region.
const KEPT: usize = 3_000;

#[derive(Default)]
pub(super) struct Leaders {
    votes: BTreeMap<Place, (u64, u64)>,
    leading: BTreeMap<Place, (u64, u64)>,
    /// By region and index.
    entries: BTreeMap<(u8, u64), (u64, u64)>,
}

impl Leaders {
    pub(super) fn look(&mut self, place: Place, inside: &Inside, writes: &Writes) -> Found {
        let (term, node, is_elected) = inside.vote;
        // A Raft that starts, over a slow disk even for a while, has shown nothing yet. One that shows a log shows its vote.
        if (term, node) == (0, 0) && inside.last.is_none() {
            return Ok(());
        }
        let before = self.votes.entry(place).or_default();
        if (term, node) < *before {
            let found = format!("{place} votes for node {node} in term {term}");
            return Err(broken(
                LAW,
                format_args!("a vote after that for {before:?} (term, node)"),
                found,
            ));
        }
        *before = (term, node);
        if inside.leads && is_elected && node == u64::from(place.node) {
            let newest = writes.newest(place.region);
            let is_news = self.leading.insert(place, (term, node)) != Some((term, node));
            if is_news && self.is_highest(place, (term, node)) && inside.last.unwrap_or(0) < newest {
                let found = format!("{place} leads in term {term} with a log up to {:?}", inside.last);
                return Err(broken(WHOLE, format_args!("a log up to {newest} at least"), found));
            }
        }
        self.applied(place, inside)
    }

    /// A region begins again, with other nodes.
    pub(super) fn lost(&mut self, region: u8) {
        self.leading.retain(|place, _| place.region != region);
        self.entries.retain(|(of, _), _| *of != region);
    }

    fn is_highest(&self, place: Place, vote: (u64, u64)) -> bool {
        let here = self.leading.iter().filter(|(other, _)| other.region == place.region);
        here.into_iter().all(|(_, other)| *other <= vote)
    }

    fn applied(&mut self, place: Place, inside: &Inside) -> Found {
        let Some((term, node, index)) = inside.applied else {
            return Ok(());
        };
        let region = place.region;
        let known = self.entries.entry((region, index)).or_insert((term, node));
        if *known != (term, node) {
            let found = format!("{place} has applied entry {index} of {:?}", (term, node));
            return Err(broken(
                ORDER,
                format_args!("the entry of {known:?} (term, node)"),
                found,
            ));
        }
        let before = self.entries.range((region, 0)..(region, index)).next_back();
        if let Some((at, leader)) = before.filter(|(_, leader)| **leader > (term, node)) {
            let found = format!("entry {index} is of {:?}, entry {} of {leader:?}", (term, node), at.1);
            return Err(broken(ORDER, "leaders in order", found));
        }
        if self.entries.len() > KEPT {
            self.entries.pop_first();
        }
        Ok(())
    }
}
