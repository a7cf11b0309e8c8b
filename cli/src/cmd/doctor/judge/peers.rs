//! Other regions: whether the two sides know each other's bundles, and whether the link stands. Pure.

use proto::admin::v1::{NodeFacts, Peer};

use super::Case;
use crate::cmd::doctor::{
    finding::Finding,
    judge::{nodes_text, span},
};

/// Who trusts whom.
pub(super) fn trust(case: &Case<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut named = Vec::new();
    for (from, reach) in case.failed().filter(|(_, reach)| reach.kind == "peer") {
        let region = &reach.target;
        let (name, text, next) = match reach.fault.as_str() {
            "rejected" => (
                "trust-bundle-unknown",
                format!(
                    "region {region} does not know this region's bundle, or not the newest: {}",
                    reach.detail
                ),
                format!(
                    "in {region}: isthmus peer list. If this region is not there, part and peer anew: isthmus peer remove \
                     {region} here, then a token of one side and isthmus peer join on the other"
                ),
            ),
            "unknown-domain" | "wrong-ca" | "bad-certificate" => (
                "trust-bundle-unknown",
                format!(
                    "this region does not know the bundle of region {region}: {}",
                    reach.detail
                ),
                format!("was {region} made anew? then isthmus peer remove {region}, and join with a new token"),
            ),
            "wrong-identity" | "not-tls" => (
                "certificate-wrong-identity",
                format!(
                    "at {} of region {region} no registry answers: {}",
                    reach.address, reach.detail
                ),
                format!("does {region} advertise the right address for federation?"),
            ),
            "expired" => (
                "certificate-expired",
                format!(
                    "region {region} shows an ended certificate at {}: {}",
                    reach.address, reach.detail
                ),
                format!("run isthmus doctor in {region}"),
            ),
            "not-yet-valid" => (
                "clock-skew",
                format!(
                    "region {region} shows a certificate of the future at {}: {}",
                    reach.address, reach.detail
                ),
                format!("run isthmus doctor in {region}: its clock or this one's is wrong"),
            ),
            _ => continue,
        };
        // All nodes see the same; once is enough.
        if !named.contains(&(region.clone(), name)) {
            named.push((region.clone(), name));
            findings.push(Finding::fault(
                "trust",
                name,
                format!("{text} (from {})", nodes_text([from])),
                next,
            ));
        }
    }
    let Some(best) = case.best() else { return findings };
    for peer in best.facts.peers.iter().filter(|peer| !is_trusted(best.facts, peer)) {
        if !named.iter().any(|(region, _)| *region == peer.region) {
            findings.push(Finding::fault(
                "trust",
                "trust-bundle-unknown",
                format!(
                    "no anchors of region {} (trust domain {}) are held here",
                    peer.region, peer.trust_domain
                ),
                format!("isthmus peer remove {}, and join with a new token", peer.region),
            ));
        }
    }
    findings
}

fn is_trusted(facts: &NodeFacts, peer: &Peer) -> bool {
    facts.trusted_domains.contains(&peer.trust_domain)
}

/// Whether the links stand; those whose cause was named elsewhere are left out.
pub(super) fn links(case: &Case<'_>) -> Vec<Finding> {
    let Some(best) = case.best() else { return Vec::new() };
    if best.facts.peers.is_empty() {
        return vec![Finding::ok("peers", "there are none")];
    }
    if !case.has_quorum {
        return vec![Finding::unknown("peers", "without a quorum no node keeps the links")];
    }
    let has_cause = |peer: &Peer| {
        let mut failed = case.failed();
        failed.any(|(_, reach)| reach.kind == "peer" && reach.target == peer.region) || !is_trusted(best.facts, peer)
    };
    let (up, down): (Vec<&Peer>, Vec<&Peer>) = best.facts.peers.iter().partition(|peer| peer.connected);
    let mut findings: Vec<_> = down
        .iter()
        .filter(|peer| !has_cause(peer))
        .map(|peer| {
            let age = peer.age_ms.map_or_else(
                || "was never heard".to_owned(),
                |age| format!("was last heard {} ago", span(i64::try_from(age).unwrap_or(i64::MAX))),
            );
            let why = match peer.last_error.as_str() {
                "" => String::new(),
                error => format!(": {error}"),
            };
            Finding::fault(
                "peers",
                "peer-link-down",
                format!("region {} {age}{why}", peer.region),
                format!(
                    "run isthmus doctor in {} too; the addresses are in isthmus peer list",
                    peer.region
                ),
            )
        })
        .collect();
    if findings.is_empty() {
        let text = match down.len() {
            0 => format!("{} connected", up.len()),
            explained => format!("{} connected; why {explained} are not is named above", up.len()),
        };
        let all_up = down.is_empty();
        findings.push(if all_up {
            Finding::ok("peers", text)
        } else {
            Finding::unknown("peers", text)
        });
    }
    findings
}

/// Copies that should be equal and are not: what is held of a peer, and nodes' catalogues.
pub(super) fn divergence(case: &Case<'_>) -> Vec<Finding> {
    let Some(best) = case.best() else { return Vec::new() };
    let mut findings = Vec::new();
    for peer in best.facts.peers.iter().filter(|peer| !peer.divergence.is_empty()) {
        findings.push(Finding::fault(
            "divergence",
            "divergence",
            format!(
                "what is held of region {} differs from what it shows: {}",
                peer.region, peer.divergence
            ),
            format!("isthmus peer repair {}", peer.region),
        ));
    }
    for node in best.facts.nodes.iter().filter(|node| node.diverged) {
        findings.push(Finding::fault(
            "divergence",
            "divergence",
            format!("the catalogue of node {} differs from the leader's", node.id),
            format!(
                "isthmus registry remove-node {}, then join a new one with an empty data directory",
                node.id
            ),
        ));
    }
    findings
}
