//! How the region is: its nodes, peers and subscribers, and what needs an operator, each with the next command.

use std::time::Duration;

use mesh::{
    model::{EndpointState, Timestamp},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::{Admin, saturating_ms};
use crate::{api::Error, raft::NodeStatus};

/// A peer that was not heard for so long is worth a word.
const PEER_SILENT: Duration = Duration::from_secs(15);
/// An issuing certificate that ends this soon is worth a word.
const AUTHORITY_ENDS: Duration = Duration::from_secs(30 * 24 * 3600);

impl Admin {
    pub(crate) async fn get_status(&self, request: pb::StatusRequest) -> Result<pb::Status, Error> {
        let reading = self.read(request.read).await?;
        let (state, parts) = (&reading.state, &self.parts);
        let nodes = parts.replica.nodes();
        let peers = self.peers(state);
        let svid = parts.identity.svid();
        let facts = Facts {
            now: clock::wall(),
            nodes: &nodes,
            peers: &peers,
            unverified: state.unverified_count(),
            certificate: (svid.renew_at(), svid.not_after()),
            authority_ends: state.authority().map(|record| record.not_after),
            gateways: state
                .gateways()
                .filter(|gateway| gateway.region == parts.config.region && gateway.state == EndpointState::Ready)
                .count(),
            exports: state.exports().count(),
        };
        Ok(pb::Status {
            warnings: warnings(&facts),
            nodes: nodes.into_iter().map(node).collect(),
            peers,
            subscribers: parts.subscribers(),
            services: state.service_count() as u64,
            endpoints: state.all_endpoints().count() as u64,
            unverified_endpoints: state.unverified_count() as u64,
            level: state.level(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trust_domain: parts.trust_domain.to_string(),
            gateways: state.gateways().map(|gateway| (**gateway).clone().into()).collect(),
            position: Some(reading.position),
        })
    }
}

pub(super) fn node(status: NodeStatus) -> pb::Node {
    pb::Node {
        id: status.id.0,
        raft_address: status.node.raft_address,
        api_address: status.node.api_address,
        zone: status.node.zone,
        voter: status.voter,
        leader: status.leader,
        lag: status.lag,
        // A follower cannot know of the others; the doubt is in their favour.
        reachable: status.reachable.unwrap_or(true),
    }
}

/// What the warnings are made from.
struct Facts<'a> {
    now: Timestamp,
    nodes: &'a [NodeStatus],
    peers: &'a [pb::Peer],
    unverified: usize,
    /// When this node's certificate is due for renewal, and when it ends.
    certificate: (Timestamp, Timestamp),
    authority_ends: Option<Timestamp>,
    /// Ready gateways of this region.
    gateways: usize,
    exports: usize,
}

/// Text for people. Pure.
fn warnings(facts: &Facts<'_>) -> Vec<String> {
    let mut out = Vec::new();
    node_warnings(facts, &mut out);
    for peer in facts.peers {
        let region = &peer.region;
        match peer.age_ms {
            None => out.push(format!(
                "peer {region} was never heard; are its addresses {} reachable from here? see isthmus peer list",
                peer.addresses.join(", ")
            )),
            Some(age) if !peer.connected && u128::from(age) >= PEER_SILENT.as_millis() => out.push(format!(
                "peer {region} is silent for {} s; its last known endpoints stay in use; see isthmus peer list",
                age / 1000
            )),
            Some(_) => {}
        }
    }
    if facts.unverified > 0 {
        out.push(format!(
            "{} endpoints are unverified: many leases lapsed at once and they are kept; if they are really gone, run \
             isthmus endpoints release-unverified",
            facts.unverified
        ));
    }
    let (renew_at, ends) = facts.certificate;
    if facts.now > renew_at && facts.now.since(renew_at) > ends.since(renew_at) / 4 {
        out.push(format!(
            "this node's certificate is overdue for renewal and ends in {} s; see the node's log",
            ends.since(facts.now).as_secs()
        ));
    }
    if let Some(ends) = facts.authority_ends
        && ends.since(facts.now) < AUTHORITY_ENDS
    {
        out.push(format!(
            "the region's issuing certificate ends in {} days; plan a new authority",
            ends.since(facts.now).as_secs() / 86_400
        ));
    }
    if facts.exports > 0 && !facts.peers.is_empty() && facts.gateways == 0 {
        out.push(
            "services are exported, but no gateway of this region is ready; start one with isthmus gateway --config FILE"
                .to_owned(),
        );
    }
    out
}

fn node_warnings(facts: &Facts<'_>, out: &mut Vec<String>) {
    let voters: Vec<_> = facts.nodes.iter().filter(|node| node.voter).collect();
    let gone: Vec<_> = facts
        .nodes
        .iter()
        .filter(|node| node.reachable == Some(false))
        .collect();
    for node in &gone {
        out.push(format!(
            "node {} at {} does not answer; start it, or let a new one join: this one then goes by itself (raft.replace_after), \
             or at once with isthmus registry remove-node {}",
            node.id, node.node.raft_address, node.id
        ));
    }
    let up = voters.iter().filter(|node| node.reachable != Some(false)).count();
    let majority = voters.len() / 2 + 1;
    if voters.len() > 1 && up <= majority {
        out.push(format!(
            "no quorum margin: {up} of {} voters are up and {majority} are needed; the next loss stops writes",
            voters.len()
        ));
    }
    if voters.len() == 1 {
        out.push(
            "the region has one registry node and does not survive its loss; add two: isthmus registry node-token, then \
             isthmus registry --config FILE --join TOKEN"
                .to_owned(),
        );
    }
    if voters.len() > 1 && voters.len().is_multiple_of(2) {
        out.push(format!(
            "{} voters survive no more losses than {}; add or remove one",
            voters.len(),
            voters.len() - 1
        ));
    }
    for node in facts.nodes.iter().filter(|node| !node.voter) {
        out.push(format!("node {} does not vote yet: it is catching up", node.id));
    }
}

/// How long ago something was, for the wire.
pub(super) fn age_ms(now: Timestamp, then: Timestamp) -> Option<u64> {
    (then.0 > 0).then(|| saturating_ms(now.since(then).as_millis()))
}

#[cfg(test)]
mod tests {
    use mesh::model::NodeId;

    use super::*;
    use crate::raft::Node;

    fn nodes(reachable: &[Option<bool>]) -> Vec<NodeStatus> {
        let node = |(at, reachable): (usize, &Option<bool>)| NodeStatus {
            id: NodeId(at as u64 + 1),
            node: Node {
                raft_address: "10.0.0.1:15013".into(),
                ..Node::default()
            },
            voter: true,
            leader: at == 0,
            lag: None,
            reachable: *reachable,
        };
        reachable.iter().enumerate().map(node).collect()
    }

    fn said(nodes: &[NodeStatus], peers: &[pb::Peer], unverified: usize) -> String {
        let facts = Facts {
            now: Timestamp(1_000_000),
            nodes,
            peers,
            unverified,
            certificate: (Timestamp(2_000_000), Timestamp(3_000_000)),
            authority_ends: None,
            gateways: 1,
            exports: 1,
        };
        warnings(&facts).join("\n")
    }

    #[test]
    fn a_healthy_region_says_nothing() {
        assert_eq!(said(&nodes(&[Some(true), Some(true), None]), &[], 0), "");
    }

    #[test]
    fn each_warning_has_the_next_command() {
        let down = said(&nodes(&[Some(true), Some(true), Some(false)]), &[], 0);
        assert!(
            down.contains("isthmus registry remove-node 3") && down.contains("no quorum margin"),
            "{down}"
        );
        assert!(said(&nodes(&[Some(true)]), &[], 0).contains("--join TOKEN"));
        assert!(said(&nodes(&[Some(true); 3]), &[], 4).contains("release-unverified"));
        let silent = pb::Peer {
            region: "us".into(),
            age_ms: Some(61_000),
            ..pb::Peer::default()
        };
        assert!(said(&nodes(&[Some(true); 3]), &[silent], 0).contains("silent for 61 s"));
    }
}
