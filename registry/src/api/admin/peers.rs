//! Peers: other regions that this one federates with.

use mesh::{
    model::{RegionId, RegionStatus},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::{Admin, exports::policy_outward, saturating_ms, status::age_ms};
use crate::{
    api::{Error, outward::field},
    catalog::{Command, Peer, State},
};

impl Admin {
    pub(crate) async fn join_peer(&self, _: pb::JoinPeerRequest) -> Result<pb::Peer, Error> {
        Err(Error::NoFederation)
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

    /// All peers, for status too.
    pub(super) fn peers(&self, state: &State) -> Vec<pb::Peer> {
        state.peers().map(|peer| self.peer(state, peer)).collect()
    }

    fn peer(&self, state: &State, peer: &Peer) -> pb::Peer {
        let record = &peer.record;
        let status = state.region_statuses().find(|status| status.region == record.region);
        pb::Peer {
            region: record.region.to_string(),
            trust_domain: record.bundle.trust_domain().to_string(),
            addresses: record.addresses.clone(),
            connected: status.is_some_and(|status| status.connected),
            round_trip_us: status.map_or(0, |status| round_trip_us(status)),
            age_ms: status.and_then(|status| age_ms(clock::wall(), status.heard_at)),
            held_revision: peer.held.map_or(0, |held| held.revision.0),
            imported_endpoints: state.imported_endpoint_count(&record.region) as u64,
            acknowledged_revision: 0,
            last_error: String::new(),
            import: Some(policy_outward(&record.region, &record.import)),
        }
    }
}

fn round_trip_us(status: &RegionStatus) -> u64 {
    status.round_trip.map_or(0, |trip| saturating_ms(trip.as_micros()))
}
