//! How the region is: its nodes, peers and subscribers, and what needs an operator, each with the next command.

use std::time::Duration;

use mesh::{
    model::{EndpointState, NodeId, Timestamp},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::{Admin, saturating_ms};
use crate::{
    api::Error,
    catalog::{State, Subject},
    raft::NodeStatus,
};

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
            diverged: diverged(state, &nodes),
            conflicts: state.conflicts().map(|service| service.name.to_string()).collect(),
        };
        Ok(pb::Status {
            warnings: warnings(&facts),
            nodes: nodes.into_iter().map(|status| node(status, state)).collect(),
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

/// Nodes whose catalogue differs from the leader's.
fn diverged(state: &State, nodes: &[NodeStatus]) -> Vec<NodeId> {
    let ids = nodes.iter().map(|status| status.id);
    ids.filter(|id| state.finding(&Subject::Node(*id)).is_some()).collect()
}

pub(super) fn node(status: NodeStatus, state: &State) -> pb::Node {
    pb::Node {
        diverged: state.finding(&Subject::Node(status.id)).is_some(),
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
    /// Nodes whose catalogue is not the leader's.
    diverged: Vec<NodeId>,
    /// Services about which regions disagree.
    conflicts: Vec<String>,
}

/// Text for people. Pure.
fn warnings(facts: &Facts<'_>) -> Vec<String> {
    let mut out = Vec::new();
    node_warnings(facts, &mut out);
    copy_warnings(facts, &mut out);
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
            "the region's issuing certificate ends in {} days; renew it: isthmus ca rotate, or put the root's key back on a \
             node",
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

/// Copies that should be equal and are not.
fn copy_warnings(facts: &Facts<'_>, out: &mut Vec<String>) {
    for peer in facts.peers.iter().filter(|peer| !peer.divergence.is_empty()) {
        out.push(format!(
            "what is held of peer {} differs from what it shows ({}); run isthmus peer repair {}",
            peer.region, peer.divergence, peer.region
        ));
    }
    let voters = facts.nodes.iter().filter(|node| node.voter).count();
    if facts.diverged.len() > voters / 2 {
        let leader = facts.nodes.iter().find(|node| node.leader).map_or(0, |node| node.id.0);
        out.push(format!(
            "most nodes hold another catalogue than the leader, node {leader}; replace it: isthmus registry remove-node \
             {leader}, then join a new one"
        ));
    } else {
        for node in &facts.diverged {
            out.push(format!(
                "node {node} holds another catalogue than the leader; replace it: isthmus registry remove-node {node}, \
                 then join a new one"
            ));
        }
    }
    if let Some(first) = facts.conflicts.first() {
        out.push(format!(
            "regions disagree about {} services, {first} among them; the oldest export wins; see isthmus services",
            facts.conflicts.len()
        ));
    }
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
            diverged: Vec::new(),
            conflicts: Vec::new(),
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

    #[test]
    fn copies_that_differ_are_named_with_what_mends_them() {
        let nodes = nodes(&[Some(true); 3]);
        let peer = pb::Peer {
            region: "us".into(),
            connected: true,
            age_ms: Some(1),
            divergence: "endpoints since r41".into(),
            ..pb::Peer::default()
        };
        let facts = |diverged: &[u64]| Facts {
            now: Timestamp(1_000_000),
            nodes: &nodes,
            peers: std::slice::from_ref(&peer),
            unverified: 0,
            certificate: (Timestamp(2_000_000), Timestamp(3_000_000)),
            authority_ends: None,
            gateways: 1,
            exports: 1,
            diverged: diverged.iter().map(|id| NodeId(*id)).collect(),
            conflicts: vec!["pay.shop".into()],
        };
        let one = warnings(&facts(&[3])).join("\n");
        for part in ["isthmus peer repair us", "remove-node 3", "pay.shop among them"] {
            assert!(one.contains(part), "{part} in {one}");
        }
        let most = warnings(&facts(&[2, 3])).join("\n");
        assert!(
            most.contains("remove-node 1") && !most.contains("remove-node 3"),
            "{most}"
        );
    }
}
