//! A held position never goes back within one incarnation: neither what a subscriber is given by one node, nor what a region
//! holds of a peer.

use std::collections::BTreeMap;

use mesh::model::Held;
use registry::catalog::State;

use super::{Found, broken};
use crate::sim::place::{Place, index};

const LAW: &str = "a held revision never goes back within one incarnation";

#[derive(Default)]
pub(crate) struct Positions {
    imports: BTreeMap<(u8, u8), Held>,
    given: Option<super::Broken>,
}

impl Positions {
    /// A node gave an update to a subscriber, after the one at `before`.
    pub(crate) fn given(&mut self, place: Place, before: Option<Held>, held: Held) {
        let goes_back =
            before.is_some_and(|before| before.incarnation == held.incarnation && before.revision > held.revision);
        if goes_back {
            let found = format!("{place} gave revision {}", held.revision);
            self.given = Some(broken(LAW, format_args!("an update after {before:?}"), found));
        }
    }

    /// A region begins again with what it had before.
    pub(super) fn lost(&mut self, region: u8) {
        self.imports.retain(|(holder, _), _| *holder != region);
    }

    /// What a region holds of its peers.
    pub(super) fn committed(&mut self, region: u8, state: &State) -> Found {
        if let Some(given) = self.given.take() {
            return Err(given);
        }
        for peer in state.peers() {
            let Some(other) = index(&peer.record.region) else {
                continue;
            };
            let Some(held) = peer.held else {
                // The import policy has changed: it begins anew.
                self.imports.remove(&(region, other));
                continue;
            };
            let before = self.imports.insert((region, other), held);
            if let Some(before) = before
                && before.incarnation == held.incarnation
                && before.revision > held.revision
            {
                let expected = format!("region {region} holds at least {before:?} of region {other}");
                return Err(broken(LAW, expected, format_args!("{held:?}")));
            }
        }
        Ok(())
    }
}
