//! Copies that are compared: what is found, and what mends it. Pure.

use mesh::model::RegionId;

use super::{Outcome, Transaction, not_found};
use crate::catalog::{Checkpoint, Finding, Peer, Reply, Subject};

impl Transaction<'_> {
    pub(super) fn put_checkpoint(&mut self, checkpoint: Option<Checkpoint>) -> Outcome {
        self.own_region()?;
        self.set_checkpoint(checkpoint);
        Ok(Reply::Done)
    }

    pub(super) fn put_finding(&mut self, subject: &Subject, finding: Option<&Finding>) -> Outcome {
        self.own_region()?;
        if let Subject::Peer(region) = subject
            && !self.state.peers.contains_key(region)
        {
            return Err(not_found("peer", region));
        }
        self.set_finding(subject, finding.cloned());
        Ok(Reply::Done)
    }

    /// What is here stays in use until the snapshot has come.
    pub(super) fn repair_peer(&mut self, region: &RegionId) -> Outcome {
        let peer = self.state.peers.get(region);
        let peer = Peer {
            held: None,
            ..Peer::clone(peer.ok_or_else(|| not_found("peer", region))?)
        };
        self.set_peer(region, Some(peer));
        Ok(Reply::Done)
    }
}
