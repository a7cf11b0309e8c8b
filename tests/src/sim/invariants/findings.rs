//! Copies are said to differ only where they can: an alarm that is false would send an operator to repair what is whole.

use std::collections::BTreeSet;

use registry::catalog::{State, Subject};

use super::{Found, broken};
use crate::sim::place::{index, region as name};

/// Who has sent somebody what nobody showed.
#[derive(Default)]
pub(crate) struct Findings {
    betrayed: BTreeSet<(u8, u8)>,
}

impl Findings {
    /// A region has sent another one what it does not own. Parts of that may be taken for its own.
    pub(crate) fn betrayed(&mut self, by: u8, whom: u8) {
        self.betrayed.insert((by, whom));
    }

    pub(super) fn check(&self, region: u8, state: &State) -> Found {
        for (subject, finding) in state.findings() {
            let is_true = match subject {
                Subject::Node(_) => false,
                Subject::Peer(peer) => index(peer).is_some_and(|peer| self.betrayed.contains(&(peer, region))),
            };
            if !is_true {
                return Err(broken(
                    "copies are said to differ only where they do",
                    "no finding without a peer that lied",
                    format_args!("in {}: {subject:?} {finding:?}", name(region)),
                ));
            }
        }
        Ok(())
    }
}
