//! What this node finds out about itself and about what it depends on, for `isthmus doctor`. Facts only, also without a
//! quorum; each look has a time limit, and few run at once.

mod disk;
mod dns;
mod reach;

use std::time::Duration;

use mesh::model::Timestamp;
use proto::admin::v1 as pb;

use super::{Admin, drills::outward, status::node};
use crate::{api::Error, catalog::State};

/// Looks at once: each writes to the disk and opens connections.
pub(crate) const DIAGNOSES_MAX: usize = 2;
/// For a linearizable read: two elections at the default timers.
const QUORUM_WAIT: Duration = Duration::from_secs(3);

impl Admin {
    pub(crate) async fn diagnose(&self, _: pb::DiagnoseRequest) -> Result<pb::NodeFacts, Error> {
        let parts = &self.parts;
        let busy = |_| Error::Busy {
            what: "diagnoses",
            bound: DIAGNOSES_MAX,
            wait: Duration::from_secs(2),
        };
        let _slot = parts.diagnosing.try_acquire().map_err(busy)?;
        let reading = self.read(Some(pb::ReadOptions { local: true })).await?;
        let state = &reading.state;
        let (no_quorum, disk, dns, reach) = tokio::join!(
            self.no_quorum(),
            disk::look(&parts.files, parts.config.raft.disk_reserve_mib),
            dns::look(parts.addresses.get().map(|bound| bound.dns), &parts.config.dns),
            reach::look(parts, state),
        );
        let now = parts.clock().wall();
        Ok(pb::NodeFacts {
            position: Some(reading.position),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: parts.config.node.name.clone(),
            trust_domain: parts.trust_domain.to_string(),
            // As late as possible: the asker compares it with the time of the answer.
            wall_ms: now.0,
            no_quorum,
            nodes: parts
                .replica
                .nodes()
                .into_iter()
                .map(|status| node(status, &parts.replica.state()))
                .collect(),
            disk: Some(disk),
            certificates: self.certificates(state),
            reach,
            dns: Some(dns),
            peers: self.peers(state),
            trusted_domains: self.trusted(state),
            subscribers: parts.subscribers(),
            unverified_endpoints: state.unverified_count() as u64,
            drills: state
                .drills()
                .filter(|drill| drill.order.is_active(now))
                .map(|drill| outward(drill))
                .collect(),
        })
    }

    /// Why there is none.
    async fn no_quorum(&self) -> Option<String> {
        match tokio::time::timeout(QUORUM_WAIT, self.parts.replica.linearize()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no leader confirmed a read within {QUORUM_WAIT:?}")),
        }
    }

    fn certificates(&self, state: &State) -> Vec<pb::Certificate> {
        let svid = self.parts.identity.svid();
        let mut all = vec![pb::Certificate {
            r#use: "node".to_owned(),
            subject: svid.id().to_string(),
            not_before_ms: svid.not_before().0,
            not_after_ms: svid.not_after().0,
        }];
        let domain = self.parts.trust_domain.to_string();
        if let Some(authority) = state.authority() {
            let issuer = authority.chain.first().and_then(|der| validity(der));
            all.push(pb::Certificate {
                r#use: "authority".to_owned(),
                subject: domain.clone(),
                not_before_ms: issuer.map_or(0, |(from, _)| from.0),
                not_after_ms: authority.not_after.0,
            });
        }
        let anchors = state.own_bundle().into_iter().flat_map(|bundle| bundle.anchors());
        for (from, until) in anchors.filter_map(|der| validity(&der)) {
            all.push(pb::Certificate {
                r#use: "anchor".to_owned(),
                subject: domain.clone(),
                not_before_ms: from.0,
                not_after_ms: until.0,
            });
        }
        all
    }

    /// Of those that matter: the own domain and the peers'.
    fn trusted(&self, state: &State) -> Vec<String> {
        let peers = state.peers().map(|peer| peer.record.bundle.trust_domain());
        let domains = std::iter::once(&self.parts.trust_domain).chain(peers);
        let has_anchors = |domain: &&mesh::identity::TrustDomain| {
            let bundle = self.parts.identity.bundle(domain);
            bundle.is_some_and(|bundle| bundle.anchors().len() > 0)
        };
        domains.filter(has_anchors).map(ToString::to_string).collect()
    }
}

fn validity(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    let at = |seconds: i64| Timestamp(seconds.saturating_mul(1000));
    Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
}
