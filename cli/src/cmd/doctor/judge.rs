//! What the evidence means. Names causes, not consequences: a node that is down is not also a closed port, and without a
//! quorum nobody's federation is blamed. Pure.

mod certificates;
mod clocks;
mod load;
mod nodes;
mod peers;
mod ports;

use std::collections::BTreeSet;

use mesh::model::Timestamp;
use proto::admin::v1::{NodeFacts, Reach};

use self::clocks::Clocks;
use super::{
    finding::{Finding, Level},
    gather::{Answer, Asked, Evidence},
};

/// Judges everything; at least one finding for each check that could be made.
pub(super) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let case = Case::new(evidence);
    let mut findings = certificates::own(&case);
    findings.extend(nodes::reached(&case));
    if case.told.is_empty() {
        // Nobody has told anything: the rest would be guessing.
        return findings;
    }
    let checks: [Check; 11] = [
        ("quorum", nodes::quorum, ""),
        ("clocks", clocks::judge, "agree within 30 s"),
        ("certificates", certificates::region, "none ends soon"),
        ("ports", ports::judge, "all that should answer do"),
        ("trust", peers::trust, "peers and this region know each other's bundles"),
        ("peers", peers::links, ""),
        (
            "divergence",
            peers::divergence,
            "no copy is known to differ from its original",
        ),
        ("dns", ports::dns, "each node answers over UDP and TCP"),
        ("disk", load::disk, ""),
        ("versions", load::versions, ""),
        ("catalogue", load::catalogue, ""),
    ];
    for (check, judge, good) in checks {
        let found = judge(&case);
        if found.is_empty() {
            findings.push(Finding::ok(check, good));
        }
        findings.extend(found);
    }
    findings
}

/// Its name, what judges, and what is said when nothing is found.
type Check = (&'static str, fn(&Case<'_>) -> Vec<Finding>, &'static str);

/// The evidence, sorted.
struct Case<'a> {
    evidence: &'a Evidence,
    told: Vec<Told<'a>>,
    /// Nodes that nobody reaches.
    down: BTreeSet<u64>,
    clocks: Clocks,
    has_quorum: bool,
}

/// A node that answered.
struct Told<'a> {
    node: u64,
    facts: &'a NodeFacts,
    ahead_ms: i64,
}

impl<'a> Case<'a> {
    fn new(evidence: &'a Evidence) -> Self {
        let mut seen = BTreeSet::new();
        let told: Vec<_> = evidence.asked.iter().filter_map(told).collect();
        // One node behind two addresses has said the same twice.
        let told: Vec<_> = told.into_iter().filter(|told| seen.insert(told.node)).collect();
        let clocks = Clocks::new(told.iter().map(|told| (told.node, told.ahead_ms)));
        let down = down(evidence, &told);
        let has_quorum = told.iter().any(|told| told.facts.no_quorum.is_none());
        Self {
            evidence,
            told,
            down,
            clocks,
            has_quorum,
        }
    }

    /// The time that most agree on.
    fn now(&self) -> Timestamp {
        Timestamp(self.evidence.now.0.saturating_add(self.clocks.reference_ms()))
    }

    /// Who leads, or whoever told.
    fn best(&self) -> Option<&Told<'a>> {
        let leads = |told: &&Told<'a>| told.facts.nodes.iter().any(|node| node.leader && node.id == told.node);
        let with_quorum = |told: &&Told<'a>| told.facts.no_quorum.is_none();
        let mut told = self.told.iter();
        let first = |by: &dyn Fn(&&Told<'a>) -> bool| self.told.iter().find(by);
        first(&|told| leads(told) && with_quorum(told))
            .or_else(|| first(&with_quorum))
            .or_else(|| told.next())
    }

    /// All attempts to connect that failed, except those that a node which is down explains.
    fn failed(&self) -> impl Iterator<Item = (u64, &'a Reach)> {
        let is_explained = |reach: &Reach| {
            let node = reach.target.parse().ok();
            reach.kind == "node" && node.is_some_and(|node| self.down.contains(&node))
        };
        self.told
            .iter()
            .flat_map(|told| told.facts.reach.iter().map(|reach| (told.node, reach)))
            .filter(|(_, reach)| !reach.fault.is_empty())
            .filter(move |(_, reach)| !is_explained(reach))
    }
}

fn told(asked: &Asked) -> Option<Told<'_>> {
    match &asked.answer {
        Answer::Facts { facts, ahead_ms } => Some(Told {
            node: facts.position.as_ref().map_or(0, |position| position.node),
            facts,
            ahead_ms: *ahead_ms,
        }),
        _ => None,
    }
}

/// Whether nothing listens, as opposed to something wrong.
fn is_closed(fault: &str) -> bool {
    matches!(fault, "refused" | "silent")
}

/// Members that did not answer the operator, and none of whose ports any node reaches.
fn down(evidence: &Evidence, told: &[Told<'_>]) -> BTreeSet<u64> {
    let silent = evidence.asked.iter().filter_map(|asked| match &asked.answer {
        Answer::Unreached(unreached) if is_closed(unreached.slug()) => asked.node,
        _ => None,
    });
    let is_unseen = |node: &u64| {
        let name = node.to_string();
        let reach = told.iter().flat_map(|told| &told.facts.reach);
        let mut of_it = reach
            .filter(|reach| reach.kind == "node" && reach.target == name)
            .peekable();
        of_it.peek().is_some() && of_it.all(|reach| is_closed(&reach.fault))
    };
    silent.filter(is_unseen).collect()
}

/// "node 1" or "nodes 1, 2".
fn nodes_text(nodes: impl IntoIterator<Item = u64>) -> String {
    let nodes: BTreeSet<_> = nodes.into_iter().collect();
    let noun = if nodes.len() == 1 { "node" } else { "nodes" };
    let list: Vec<_> = nodes.iter().map(ToString::to_string).collect();
    format!("{noun} {}", list.join(", "))
}

/// A span in the unit that people would use.
fn span(ms: i64) -> String {
    crate::render::millis(ms.unsigned_abs())
}

fn has(findings: &[Finding], level: Level) -> bool {
    findings.iter().any(|finding| finding.level >= level)
}
