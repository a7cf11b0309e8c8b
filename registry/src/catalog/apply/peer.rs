//! Peering: who the peers are, what is taken from them, how their streams stand. Pure.

use std::{collections::BTreeMap, time::Duration};

use mesh::model::{ImportPolicy, RegionId, RegionStatus, Timestamp};

use super::{Outcome, Transaction, not_found};
use crate::catalog::{Peer, PeerRecord, Refusal, Reply, Subject, digest::Refused};

impl Transaction<'_> {
    pub(super) fn put_peer(&mut self, record: &PeerRecord) -> Outcome {
        let own = self.own_region()?;
        let (region, domain) = (&record.region, record.bundle.trust_domain());
        if *region == own {
            return Err(Refusal::Conflict(format!("region {region} cannot be its own peer")));
        }
        if record.bundle.region() != region {
            let text = format!("region {region} sent the bundle of region {}", record.bundle.region());
            return Err(Refusal::Conflict(text));
        }
        if let Some(other) = self.state.bundles.get(domain)
            && other.region() != region
        {
            let text = format!(
                "trust domain {domain} of region {region} is already that of region {}; \
                 every region needs a trust domain of its own",
                other.region()
            );
            return Err(Refusal::Conflict(text));
        }
        let before = self.state.peers.get(region).cloned();
        let mut record = record.clone();
        let mut is_same = false;
        if let Some(before) = before.as_deref().map(|before| &before.record) {
            if before.bundle.trust_domain() == domain {
                is_same = before.incarnation == record.incarnation;
                // Whoever proposed it may have looked before the newest command: what is taken changes by its own command,
                // and anchors of one life never go back.
                record.import = before.import.clone();
                if is_same && before.bundle.sequence() > record.bundle.sequence() {
                    record.bundle = before.bundle.clone();
                }
            } else {
                // Another trust domain is another region of the same name: nothing of the old one may stay.
                self.remove_imports(region);
                self.remove_bundle(before.bundle.trust_domain());
            }
        }
        let peer = Peer {
            record,
            held: before.as_ref().filter(|_| is_same).and_then(|before| before.held),
            dropped: before.map_or(0, |before| before.dropped),
        };
        self.put_bundle(peer.record.bundle.clone());
        self.remove_unwanted(&peer);
        if !self.state.regions.contains_key(region) {
            self.put_status(RegionStatus {
                region: region.clone(),
                trust_domain: domain.clone(),
                round_trip: None,
                heard_at: self.at,
                connected: false,
                tenant_proxies: BTreeMap::new(),
            });
        }
        self.set_peer(region, Some(peer));
        Ok(Reply::Done)
    }

    pub(super) fn remove_peer(&mut self, region: &RegionId) -> Outcome {
        let peer = self.state.peers.get(region).cloned();
        let peer = peer.ok_or_else(|| not_found("peer", region))?;
        self.remove_imports(region);
        self.remove_bundle(peer.record.bundle.trust_domain());
        self.remove_status(region);
        self.set_refused(region, Refused::default());
        self.set_finding(&Subject::Peer(region.clone()), None);
        self.set_peer(region, None);
        Ok(Reply::Done)
    }

    pub(super) fn put_import_policy(&mut self, region: &RegionId, policy: &ImportPolicy) -> Outcome {
        let peer = self.state.peers.get(region);
        let mut peer = Peer::clone(peer.ok_or_else(|| not_found("peer", region))?);
        if peer.record.import != *policy {
            peer.record.import = policy.clone();
            // What was not taken until now was not kept: a snapshot brings it.
            peer.held = None;
            self.remove_unwanted(&peer);
            self.set_peer(region, Some(peer));
        }
        Ok(Reply::Done)
    }

    pub(super) fn put_peer_status(
        &mut self,
        region: &RegionId,
        connected: bool,
        round_trip: Option<Duration>,
        heard_at: Timestamp,
    ) -> Outcome {
        let status = self.state.regions.get(region);
        let status = status.ok_or_else(|| not_found("peer", region))?;
        let status = RegionStatus {
            connected,
            round_trip,
            heard_at,
            ..RegionStatus::clone(status)
        };
        self.put_status(status);
        Ok(Reply::Done)
    }
}
