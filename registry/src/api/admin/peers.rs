//! Peers: other regions that this one federates with.

use mesh::{
    identity::{Token, TokenKind},
    model::RegionId,
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::{Admin, exports::policy_outward, saturating_ms, status::age_ms};
use crate::{
    api::{Error, outward::field},
    catalog::{Command, Peer, State, Subject},
    federation::part_names,
};

impl Admin {
    pub(crate) async fn join_peer(&self, request: pb::JoinPeerRequest) -> Result<pb::Peer, Error> {
        let token = Token::decode(&request.token, TokenKind::Peer).map_err(|fault| Error::Token(fault.to_string()))?;
        let joined = Box::pin(self.parts.federation.join(&token)).await;
        let region = joined.map_err(|error| Error::Peering(Box::new(error)))?;
        let state = self.read(None).await?.state;
        let peer = state.peer(&region).ok_or(Error::Unexpected)?;
        Ok(self.peer(&state, peer))
    }

    pub(crate) async fn list_peers(&self, options: pb::ReadOptions) -> Result<pb::PeerList, Error> {
        let reading = self.read(Some(options)).await?;
        Ok(pb::PeerList {
            peers: self.peers(&reading.state),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn remove_peer(&self, request: pb::RemovePeerRequest) -> Result<pb::Committed, Error> {
        let region: RegionId = field("region", request.region.parse())?;
        self.committed(Command::RemovePeer(region)).await
    }

    pub(crate) async fn repair_peer(&self, request: pb::RepairPeerRequest) -> Result<pb::Committed, Error> {
        let region: RegionId = field("region", request.region.parse())?;
        self.committed(Command::RepairPeer(region)).await
    }

    /// All peers, for status too.
    pub(super) fn peers(&self, state: &State) -> Vec<pb::Peer> {
        state.peers().map(|peer| self.peer(state, peer)).collect()
    }

    fn peer(&self, state: &State, peer: &Peer) -> pb::Peer {
        let record = &peer.record;
        let link = self.parts.federation.status(&record.region);
        let finding = state.finding(&Subject::Peer(record.region.clone()));
        pb::Peer {
            region: record.region.to_string(),
            trust_domain: record.bundle.trust_domain().to_string(),
            addresses: record.addresses.clone(),
            connected: link.connected,
            round_trip_us: link.round_trip.map_or(0, |trip| saturating_ms(trip.as_micros())),
            age_ms: link.heard_at.and_then(|at| age_ms(clock::wall(), at)),
            held_revision: peer.held.map_or(0, |held| held.revision.0),
            imported_endpoints: state.imported_endpoint_count(&record.region) as u64,
            acknowledged_revision: link.acknowledged.0,
            last_error: link.last_error,
            version: link.version,
            clock_ahead_ms: link.clock_ahead_ms,
            import: Some(policy_outward(&record.region, &record.import)),
            divergence: finding.map_or_else(String::new, |found| {
                format!("{} since r{}", part_names(&found.parts), found.revision)
            }),
        }
    }
}
