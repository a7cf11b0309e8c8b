//! Certificates: the operator's own, then the region's. Pure.

use mesh::model::Timestamp;
use proto::admin::v1::Certificate;

use super::Case;
use crate::cmd::doctor::{
    finding::Finding,
    gather::Own,
    judge::{has, nodes_text, span},
};

const DAY_MS: i64 = 24 * 3600 * 1000;
/// A signing certificate that ends within this time needs a plan.
const SIGNER_SOON_MS: i64 = 30 * DAY_MS;
const COPY_AGAIN: &str = "copy <data_dir>/operator again from the node that made the region: it is renewed there";

/// The operator's.
pub(super) fn own(case: &Case<'_>) -> Vec<Finding> {
    let check = "credentials";
    match &case.evidence.own {
        Own::Missing(text) => vec![Finding::fault(
            check,
            "credentials-missing",
            text,
            "give the folder that `isthmus registry init` wrote (<data_dir>/operator) with --credentials DIR",
        )],
        Own::Wrong(text) => vec![Finding::fault(
            check,
            "certificate-wrong",
            text,
            "certificate and bundle.pem of the folder must be of the same region; copy the whole folder again",
        )],
        Own::Expired { id, not_after } => {
            let ago = span(case.now().0 - not_after.0);
            let text = format!("your own certificate ({id}) ended {ago} ago");
            vec![Finding::fault(check, "certificate-expired", text, COPY_AGAIN)]
        }
        Own::Good {
            id,
            not_before,
            not_after,
        } => {
            let left = not_after.0 - case.now().0;
            let text = format!("{id}, good for another {}", span(left));
            if left < life(*not_before, *not_after) / 4 {
                return vec![Finding::warning(check, "certificate-near-expiry", text, COPY_AGAIN)];
            }
            vec![Finding::ok(check, text)]
        }
    }
}

fn life(not_before: Timestamp, not_after: Timestamp) -> i64 {
    (not_after.0 - not_before.0).max(0)
}

/// Those of the nodes, of the authority, and the anchors.
pub(super) fn region(case: &Case<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for told in &case.told {
        for certificate in told.facts.certificates.iter().filter(|one| one.r#use == "node") {
            let (left, whole) = left(case, certificate);
            let who = format!("the certificate of node {} ({})", told.node, certificate.subject);
            let next = "look into that node's log for \"renewed\": it issues its own; start it again if it hangs";
            if left <= 0 {
                let text = format!("{who} ended {} ago", span(left));
                findings.push(Finding::fault("certificates", "certificate-expired", text, next));
            } else if left < whole / 4 {
                let text = format!("{who} is overdue for renewal and ends in {}", span(left));
                findings.push(Finding::warning("certificates", "certificate-near-expiry", text, next));
            }
        }
    }
    signers(case, &mut findings);
    presented(case, &mut findings);
    findings
}

fn left(case: &Case<'_>, certificate: &Certificate) -> (i64, i64) {
    let (from, until) = (
        Timestamp(certificate.not_before_ms),
        Timestamp(certificate.not_after_ms),
    );
    (until.0 - case.now().0, life(from, until))
}

/// The region's, which all nodes share. Of the anchors the last to end counts: older ones stay while a rotation goes on.
fn signers(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let Some(best) = case.best() else { return };
    for (used, what) in [("authority", "issuing certificate"), ("anchor", "root certificate")] {
        let of_use = best.facts.certificates.iter().filter(|one| one.r#use == used);
        let Some(last) = of_use.max_by_key(|one| one.not_after_ms) else {
            continue;
        };
        let (left, whole) = left(case, last);
        let next = "replace the authority: docs/operating/rotate-the-authority.md";
        if left <= 0 {
            let text = format!("the region's {what} ended {} ago: nothing can be issued", span(left));
            findings.push(Finding::fault("certificates", "authority-expired", text, next));
        } else if left < SIGNER_SOON_MS.min(whole / 4) {
            let text = format!("the region's {what} ends in {}", span(left));
            findings.push(Finding::warning("certificates", "authority-near-expiry", text, next));
        }
    }
}

/// What nodes showed each other and was not good.
fn presented(case: &Case<'_>, findings: &mut Vec<Finding>) {
    let clock_is_named = has(&super::clocks::judge(case), super::Level::Fault);
    for (from, reach) in case.failed().filter(|(_, reach)| reach.kind != "peer") {
        let name = match reach.fault.as_str() {
            "expired" => "certificate-expired",
            "wrong-ca" | "unknown-domain" => "certificate-wrong-ca",
            "wrong-identity" => "certificate-wrong-identity",
            "bad-certificate" | "not-tls" => "certificate-wrong",
            "rejected" => "certificate-rejected",
            "not-yet-valid" if !clock_is_named => "clock-skew",
            _ => continue,
        };
        let text = format!(
            "{} {} at {} ({}), seen from {}: {}",
            reach.kind,
            reach.target,
            reach.address,
            reach.port,
            nodes_text([from]),
            reach.detail
        );
        let next = "is it the right machine, and a node of this region? `isthmus status --local` lists the addresses";
        findings.push(Finding::fault("certificates", name, text, next));
    }
}
