//! The nodes: who answers the operator, who is down, and whether there is a quorum. Pure.

use mesh::net::grpc::Unreached;

use super::Case;
use crate::cmd::doctor::{
    finding::Finding,
    gather::{Answer, Asked},
    judge::{is_closed, nodes_text},
};

const CHECK: &str = "registry";

/// Whoever was asked and did not tell.
pub(super) fn reached(case: &Case<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = case
        .evidence
        .asked
        .iter()
        .filter_map(|asked| one(case, asked))
        .collect();
    for node in &case.down {
        findings.push(Finding::fault(
            CHECK,
            "node-down",
            format!("node {node} answers nobody, neither this machine nor the other nodes"),
            format!(
                "start it (isthmus registry --config FILE), or replace it: isthmus registry remove-node {node}, then \
                 join a new one"
            ),
        ));
    }
    if findings.is_empty() && case.told.is_empty() {
        let text = "the port is open; without credentials nothing more can be asked";
        findings.push(Finding::unknown(CHECK, text));
    } else if findings.is_empty() {
        let nodes = nodes_text(case.told.iter().map(|told| told.node));
        findings.push(Finding::ok(CHECK, format!("{nodes} answered")));
    }
    findings
}

fn one(case: &Case<'_>, asked: &Asked) -> Option<Finding> {
    let address = &asked.address;
    match &asked.answer {
        Answer::Facts { .. } | Answer::Open => None,
        Answer::Refused(text) => Some(Finding::fault(
            CHECK,
            "not-told",
            format!("{address} answered, and did not tell: {text}"),
            "give an operator's credentials of this region with --credentials DIR; is the node of this version?",
        )),
        // Named as down.
        Answer::Unreached(_) if asked.node.is_some_and(|node| case.down.contains(&node)) => None,
        Answer::Unreached(unreached) => Some(unreached_finding(asked, unreached)),
    }
}

fn unreached_finding(asked: &Asked, unreached: &Unreached) -> Finding {
    let who = asked
        .node
        .map_or_else(|| "registry".to_owned(), |node| format!("node {node}"));
    let seen = format!("{who} at {} (api), from this machine: {unreached}", asked.address);
    let (name, next) = match unreached.slug() {
        "name" => (
            "name-unresolved",
            "does this machine use the right resolver? try the address itself with --registry ADDRESS:15012",
        ),
        slug if is_closed(slug) => (
            "port-closed",
            "is it running there? then let TCP port 15012 through from this machine, or name another node with --registry",
        ),
        "wrong-ca" | "unknown-domain" => (
            "certificate-wrong-ca",
            "the registry is of another region, or the bundle in the credentials folder is old; copy the folder again",
        ),
        "expired" => (
            "certificate-expired",
            "look into that node's log for \"renewed\": it issues its own certificate; start it again",
        ),
        "not-yet-valid" => (
            "clock-skew",
            "compare `date -u` here and there; run a time service on both",
        ),
        "wrong-identity" => (
            "certificate-wrong-identity",
            "something else of this region listens there; name a registry's API address with --registry",
        ),
        "rejected" => (
            "certificate-rejected",
            "give an operator's credentials of this region with --credentials DIR",
        ),
        "not-tls" => (
            "not-tls",
            "something else listens there; the API is on port 15012 unless listen.api says otherwise",
        ),
        "address" => ("address", "write HOST:PORT"),
        _ => ("certificate-wrong", "look into that node's log"),
    };
    Finding::fault(CHECK, name, seen, next)
}

/// Whether the region can change, and who is left behind.
pub(super) fn quorum(case: &Case<'_>) -> Vec<Finding> {
    let Some(best) = case.best() else { return Vec::new() };
    let voters: Vec<u64> = best
        .facts
        .nodes
        .iter()
        .filter(|node| node.voter)
        .map(|node| node.id)
        .collect();
    let majority = voters.len() / 2 + 1;
    if !case.has_quorum {
        let why = best.facts.no_quorum.as_deref().unwrap_or_default();
        let down: Vec<_> = voters.iter().copied().filter(|node| case.down.contains(node)).collect();
        let which = if down.is_empty() {
            String::new()
        } else {
            format!("{} down; ", nodes_text(down))
        };
        return vec![Finding::fault(
            "quorum",
            "no-quorum",
            format!(
                "{} voters need {majority} to change anything: {which}{why}",
                voters.len()
            ),
            "start the nodes that are down; if they are lost for good: docs/operating/no-quorum.md",
        )];
    }
    let mut findings = Vec::new();
    for told in case.told.iter().filter(|told| told.facts.no_quorum.is_some()) {
        findings.push(Finding::fault(
            "quorum",
            "node-cut-off",
            format!("node {} runs and reaches no leader, although there is one", told.node),
            "let TCP port 15013 through between it and the other nodes, both ways",
        ));
    }
    for node in best.facts.nodes.iter().filter(|node| !node.voter) {
        findings.push(Finding::warning(
            "quorum",
            "node-catching-up",
            format!("node {} does not vote yet", node.id),
            "wait; if it stays so, look into its log",
        ));
    }
    if findings.is_empty() {
        let leader = best
            .facts
            .nodes
            .iter()
            .find(|node| node.leader)
            .map_or(0, |node| node.id);
        let noun = if voters.len() == 1 { "voter" } else { "voters" };
        let alone = if voters.len() == 1 {
            "; the region does not survive its loss"
        } else {
            ""
        };
        let text = format!("node {leader} leads {} {noun}{alone}", voters.len());
        findings.push(Finding::ok("quorum", text));
    }
    findings
}
