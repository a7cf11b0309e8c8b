//! What should answer and does not: listeners as the nodes see them, and DNS. Pure.

use std::collections::BTreeMap;

use super::Case;
use crate::cmd::doctor::{
    finding::Finding,
    judge::{is_closed, nodes_text},
};

/// The port that is documented for a listener.
fn documented(port: &str) -> u16 {
    match port {
        "api" => 15012,
        "raft" => 15013,
        "http" => 15014,
        "federation" => 15016,
        "tunnels" => 15443,
        _ => 0,
    }
}

/// What is wrong with one address, and who saw it.
struct Closed {
    name: &'static str,
    port: String,
    detail: String,
    from: Vec<u64>,
}

/// One finding for each address, with all nodes that it was seen from.
pub(super) fn judge(case: &Case<'_>) -> Vec<Finding> {
    let mut seen: BTreeMap<(String, String), Closed> = BTreeMap::new();
    for (from, reach) in case.failed() {
        let name = match reach.fault.as_str() {
            fault if is_closed(fault) => "port-closed",
            "name" => "name-unresolved",
            "address" => "address",
            _ => continue,
        };
        let who = match reach.kind.as_str() {
            "self" => format!("node {} (its own listener)", reach.target),
            "peer" => format!("region {}", reach.target),
            kind => format!("{kind} {}", reach.target),
        };
        let closed = seen.entry((who, reach.address.clone())).or_insert_with(|| Closed {
            name,
            port: reach.port.clone(),
            detail: reach.detail.clone(),
            from: Vec::new(),
        });
        closed.from.push(from);
    }
    seen.into_iter()
        .map(|((who, address), closed)| finding(&who, &address, closed))
        .collect()
}

fn finding(who: &str, address: &str, closed: Closed) -> Finding {
    let text = format!(
        "{who}: {} (documented port {}) at {address}, from {}: {}",
        closed.port,
        documented(&closed.port),
        nodes_text(closed.from),
        closed.detail
    );
    let next = if closed.name == "name-unresolved" {
        "mend the name in the nodes' resolver, or advertise an address"
    } else {
        "is it running, and advertised under the right address? then let the port through from those nodes"
    };
    Finding::fault("ports", closed.name, text, next)
}

/// Each node's name server, and what it forwards to.
pub(super) fn dns(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for told in &case.told {
        let Some(dns) = &told.facts.dns else { continue };
        for (over, error) in [("UDP", &dns.udp_error), ("TCP", &dns.tcp_error)] {
            if !error.is_empty() {
                findings.push(Finding::fault(
                    "dns",
                    "dns-not-answering",
                    format!(
                        "node {} does not answer itself over {over} at {}: {error}",
                        told.node, dns.address
                    ),
                    "does another process hold the port, or a firewall its loopback? see that node's log",
                ));
            }
        }
        if !dns.upstream_error.is_empty() {
            findings.push(Finding::fault(
                "dns",
                "dns-upstream-unreachable",
                format!(
                    "names outside the mesh do not resolve through node {}: {}",
                    told.node, dns.upstream_error
                ),
                "check dns.upstreams in its settings, and that port 53 of the upstreams is open from there",
            ));
        }
    }
    findings
}
