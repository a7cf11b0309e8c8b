//! Clocks: whose is wrong, by majority of the nodes and this machine. Pure.

use super::Case;
use crate::cmd::doctor::{finding::Finding, judge::span};

/// Everything works up to here, and no further.
const BOUND_MS: i64 = 30_000;
/// On its way there.
const WARN_MS: i64 = 10_000;
const NEXT: &str = "run a time service there (chronyd, systemd-timesyncd) and look at `timedatectl`";

/// Clocks relative to this machine's.
pub(super) struct Clocks {
    nodes: Vec<(u64, i64)>,
    reference_ms: i64,
}

impl Clocks {
    pub(super) fn new(nodes: impl Iterator<Item = (u64, i64)>) -> Self {
        let nodes: Vec<_> = nodes.collect();
        let mut all: Vec<i64> = nodes.iter().map(|(_, ahead)| *ahead).chain([0]).collect();
        all.sort_unstable();
        // Of two that disagree the middle is a guess; `judge` says so.
        let reference_ms = all[(all.len() - 1) / 2];
        Self { nodes, reference_ms }
    }

    /// How far the time that most agree on is ahead of this machine's.
    pub(super) fn reference_ms(&self) -> i64 {
        self.reference_ms
    }

    /// How far a node is ahead of the time that most agree on.
    fn ahead_ms(&self, node: u64) -> i64 {
        let found = self.nodes.iter().find(|(id, _)| *id == node);
        found.map_or(0, |(_, ahead)| ahead - self.reference_ms)
    }
}

pub(super) fn judge(case: &Case<'_>) -> Vec<Finding> {
    let clocks = &case.clocks;
    let mut findings = Vec::new();
    if let [(node, ahead)] = clocks.nodes[..] {
        let text = format!(
            "the clocks of node {node} and of this machine differ by {}; one of them is wrong",
            span(ahead)
        );
        note(ahead, &text, &mut findings);
    } else {
        let own = -clocks.reference_ms;
        note(own, &format!("this machine's clock is {}", off(own)), &mut findings);
        for (node, _) in &clocks.nodes {
            let ahead = clocks.ahead_ms(*node);
            note(
                ahead,
                &format!("the clock of node {node} is {}", off(ahead)),
                &mut findings,
            );
        }
    }
    // As far as a peer's clock can be judged: relative to the node that it was compared with.
    let Some(best) = case.best() else { return findings };
    for peer in &best.facts.peers {
        if let Some(ahead) = peer.clock_ahead_ms.filter(|_| peer.connected) {
            let own = if clocks.nodes.len() > 1 {
                clocks.ahead_ms(best.node)
            } else {
                0
            };
            let ahead = ahead.saturating_add(own);
            let text = format!("the clock of region {} is {}", peer.region, off(ahead));
            note(ahead, &text, &mut findings);
        }
    }
    findings
}

fn off(ahead_ms: i64) -> String {
    let side = if ahead_ms < 0 { "behind" } else { "ahead" };
    format!("{} {side}", span(ahead_ms))
}

fn note(ahead_ms: i64, text: &str, findings: &mut Vec<Finding>) {
    if ahead_ms.abs() >= BOUND_MS {
        findings.push(Finding::fault("clocks", "clock-skew", text, NEXT));
    } else if ahead_ms.abs() >= WARN_MS {
        findings.push(Finding::warning("clocks", "clock-skew", text, NEXT));
    }
}
