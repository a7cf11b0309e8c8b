//! Keeps a node's own certificate and, on the node that made the region, the operator's credentials current:
//! every node can issue, so nobody is asked. A node that was down for longer than its certificate issues itself a new one.

use std::{sync::Arc, time::Duration};

use mesh::{
    identity::{Identity, Svid, TrustDomain, system},
    model::{RegionId, Timestamp},
    runtime::clock,
};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{
    Error,
    disk::Disk,
    init::{anchors_pem, issue, write_operator},
};
use crate::{
    api::OPERATOR_LIFETIME,
    app::Parts,
    authority::Authority,
    catalog::{AuthorityRecord, State},
    config::Config,
};

/// How often it looks whether something is due. The shortest certificate lives a minute.
const LOOK: Duration = Duration::from_secs(5);

/// Issues this node a certificate when the one it has is due; none when it is not, or when there is no authority yet.
pub(crate) fn renewed(config: &Config, identity: &Identity, state: &State) -> Result<Option<Svid>, Error> {
    let now = clock::wall();
    let Some(record) = state.authority().filter(|record| is_due(&identity.svid(), record, now)) else {
        return Ok(None);
    };
    let authority = Authority::from_record(record, &config.trust_domain)?;
    let id = system::registry(&config.trust_domain);
    Ok(Some(issue(&authority, &id, config.certificates.lifetime, now)?))
}

/// At half of its life, or when another issuing certificate is used by now: the old one may be withdrawn.
fn is_due(svid: &Svid, record: &AuthorityRecord, now: Timestamp) -> bool {
    let is_of_other = match (svid.chain().get(1), record.chain.first()) {
        (Some(issuer), Some(current)) => issuer.as_ref() != current.as_slice(),
        // Issued by a root itself: an operator's own authority.
        _ => false,
    };
    svid.renew_at() <= now || is_of_other
}

/// The task that keeps them current.
pub(crate) struct Renewal {
    parts: Arc<Parts>,
    disk: Disk,
}

impl Renewal {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        let disk = Disk::new(&parts.config.data_dir);
        Self { parts, disk }
    }

    /// Runs until the stop.
    pub(crate) async fn run(self) {
        let stop = self.parts.tasks.stop().clone();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.ordered() => return,
                _ = tick.tick() => self.renew(&self.parts.replica.state()),
            }
        }
    }

    /// Two signatures and two small files, once in half a certificate's life.
    fn renew(&self, state: &State) {
        match renewed(&self.parts.config, &self.parts.identity, state) {
            Ok(Some(svid)) => self.take(svid),
            Ok(None) => {}
            Err(error) => warn!(%error, "own certificate was not renewed; trying again"),
        }
        let ends = self.parts.identity.svid().not_after();
        self.parts.meters.certificate_not_after.set(ends.0 as f64 / 1000.0);
        if let Err(error) = self.renew_operator(state) {
            warn!(%error, "operator's certificate was not renewed; trying again");
        }
    }

    fn take(&self, svid: Svid) {
        let until = svid.not_after();
        if let Err(error) = svid.save(&self.disk.identity()) {
            warn!(%error, "own certificate was not written; the next start issues another");
        }
        match self.parts.identity.replace_svid(svid) {
            Ok(()) => info!(until = until.0, "own certificate renewed"),
            Err(error) => warn!(%error, "own certificate was not renewed; trying again"),
        }
    }

    /// Only where init left credentials and nobody took them away.
    fn renew_operator(&self, state: &State) -> Result<(), Error> {
        let Some(svid) = Svid::load(&self.disk.operator())? else {
            return Ok(());
        };
        let now = clock::wall();
        let (Some(record), Some(bundle)) = (state.authority(), state.own_bundle()) else {
            return Ok(());
        };
        let anchors = anchors_pem(bundle);
        if self.disk.operator_bundle().is_some_and(|known| known != anchors) {
            self.disk.write_operator_bundle(&anchors)?;
        }
        if !is_due(&svid, record, now) {
            return Ok(());
        }
        let authority = Authority::from_record(record, &self.parts.trust_domain)?;
        let id = system::operator(&self.parts.trust_domain);
        let svid = issue(&authority, &id, OPERATOR_LIFETIME, now)?;
        write_operator(&self.disk, &svid, bundle, &self.parts.config.advertise.api)
    }
}

/// An identity that nobody trusts, for a node whose own certificate ended while it was down: it opens its replica, and with
/// it the authority that issues the real one.
pub(crate) fn stand_in(region: &RegionId, domain: &TrustDomain) -> Result<Identity, Error> {
    let now = clock::wall();
    let (authority, root) = Authority::create(region, domain, now)?;
    // Due for renewal at once.
    let svid = issue(&authority, &system::registry(domain), Duration::from_secs(1), now)?;
    Ok(Identity::new(svid, [Arc::new(root.bundle(0)?)])?)
}
