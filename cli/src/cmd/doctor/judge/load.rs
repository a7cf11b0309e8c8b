//! What carries the region: disks, programs, and what the catalogue holds back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Case;
use crate::cmd::doctor::{
    finding::Finding,
    judge::{nodes_text, span},
};

/// A write this slow leaves no room in an election timeout; one this slow is a fault.
const SYNC_SLOW_US: u64 = 100_000;
const SYNC_FAULT_US: u64 = 500_000;
/// Nearly full: less than so many times the reserve.
const RESERVES: u64 = 4;
/// A subscriber that owes an acknowledgement for longer does not follow.
const LAG_MS: u64 = 30_000;

/// Room and speed.
pub(super) fn disk(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for told in &case.told {
        let Some(disk) = &told.facts.disk else { continue };
        let node = told.node;
        let room = format!(
            "node {node}: {} MiB free, {} MiB in reserve",
            disk.free_mib, disk.reserve_mib
        );
        let more = "make room in or below its data_dir; old logs of other programs are the usual cause";
        if disk.free_mib < disk.reserve_mib {
            let text = format!("{room}; writes are refused");
            findings.push(Finding::fault("disk", "disk-full", text, more));
        } else if disk.free_mib < disk.reserve_mib.saturating_mul(RESERVES) {
            findings.push(Finding::warning("disk", "disk-nearly-full", room, more));
        }
        if !disk.error.is_empty() {
            let text = format!("node {node} cannot write into its data_dir: {}", disk.error);
            let next = "look at owner, mode and mount of data_dir, and into the kernel's log";
            findings.push(Finding::fault("disk", "disk-unwritable", text, next));
        } else if disk.sync_us >= SYNC_SLOW_US {
            let text = format!(
                "node {node} takes {} for a small durable write",
                span(i64::try_from(disk.sync_us / 1000).unwrap_or(i64::MAX))
            );
            let next = "give data_dir a disk of its own; look at `iostat -x` there";
            findings.push(if disk.sync_us >= SYNC_FAULT_US {
                Finding::fault("disk", "disk-slow", text, next)
            } else {
                Finding::warning("disk", "disk-slow", text, next)
            });
        }
    }
    if findings.is_empty() {
        let disks = || case.told.iter().filter_map(|told| told.facts.disk.as_ref());
        let slowest = disks().map(|disk| disk.sync_us).max().unwrap_or(0);
        let least = disks().map(|disk| disk.free_mib).min().unwrap_or(0);
        let text = format!(
            "a durable write takes {:.1}ms at most, {least} MiB are free",
            slowest as f64 / 1e3
        );
        findings.push(Finding::ok("disk", text));
    }
    findings
}

/// Which programs run: nodes, proxies and gateways, peers, and this one.
pub(super) fn versions(case: &Case<'_>) -> Vec<Finding> {
    let mut running: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Whoever does not say is not judged.
    let mut add = |version: &str, who: String| {
        if !version.is_empty() {
            running.entry(version.to_owned()).or_default().insert(who);
        }
    };
    add(case.evidence.version, "this program".to_owned());
    for told in &case.told {
        add(&told.facts.version, nodes_text([told.node]));
        for subscriber in &told.facts.subscribers {
            add(&subscriber.version, subscriber.name.clone());
        }
    }
    for peer in case.best().map(|best| best.facts.peers.as_slice()).unwrap_or_default() {
        add(&peer.version, format!("region {}", peer.region));
    }
    if running.len() < 2 {
        let version = running.into_keys().next().unwrap_or_default();
        return vec![Finding::ok("versions", format!("all run {version}"))];
    }
    let text: Vec<_> = running
        .iter()
        .map(|(version, who)| format!("{version}: {}", some(who)))
        .collect();
    let next = "finish the upgrade: registry nodes first, one after the other, then gateways, then proxies";
    vec![Finding::warning("versions", "version-skew", text.join("; "), next)]
}

/// A few of them, and how many more.
fn some(who: &BTreeSet<String>) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = who.iter().take(SHOWN).cloned().collect();
    match who.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// What is held back, moved away, or not followed.
pub(super) fn catalogue(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(best) = case.best() else { return findings };
    let facts = best.facts;
    if facts.unverified_endpoints > 0 {
        findings.push(Finding::warning(
            "catalogue",
            "mass-loss-held",
            format!(
                "{} endpoints are kept although their leases lapsed: many lapsed at once",
                facts.unverified_endpoints
            ),
            "is a network between agents and registry broken? if the endpoints are gone: isthmus endpoints release-unverified",
        ));
    }
    for told in &case.told {
        let slow = told
            .facts
            .subscribers
            .iter()
            .filter(|subscriber| subscriber.lag_ms >= LAG_MS);
        let slow: BTreeSet<_> = slow.map(|subscriber| subscriber.name.clone()).collect();
        if !slow.is_empty() {
            findings.push(Finding::warning(
                "catalogue",
                "subscriber-lag",
                format!("of node {} these do not follow: {}", told.node, some(&slow)),
                "look at CPU and log of those proxies and gateways; they serve an older view meanwhile",
            ));
        }
    }
    if findings.is_empty() {
        let drills = match facts.drills.len() {
            0 => String::new(),
            drills => format!("; {drills} drill(s) running, see isthmus drill list"),
        };
        let revision = facts.position.as_ref().map_or(0, |position| position.revision);
        findings.push(Finding::ok("catalogue", format!("revision {revision}{drills}")));
    }
    findings
}
