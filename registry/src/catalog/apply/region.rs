//! What belongs to the region itself: its name, trust, authority and node ids. Pure.

use mesh::{
    identity::{Bundle, TrustDomain},
    model::{Incarnation, NodeId, RegionId},
};

use super::{Outcome, Transaction, not_owner};
use crate::catalog::{AuthorityRecord, Refusal, Reply, record::RecordKey};

impl Transaction<'_> {
    pub(super) fn init(
        &mut self,
        region: &RegionId,
        trust_domain: &TrustDomain,
        incarnation: Incarnation,
        bundle: &Bundle,
        authority: &AuthorityRecord,
    ) -> Outcome {
        if let Some(own) = self.state.region() {
            let is_restore = own == region
                && self.state.trust_domain() == Some(trust_domain)
                && self.state.incarnation() != incarnation;
            if !is_restore {
                return Err(Refusal::Initialised);
            }
        }
        if bundle.region() != region || bundle.trust_domain() != trust_domain {
            let text = format!("bundle of {} is not that of {trust_domain}", bundle.trust_domain());
            return Err(Refusal::Conflict(text));
        }
        if self.state.region().is_some() {
            self.restart_quotas();
        }
        let meta = self.meta();
        meta.region = Some(region.clone());
        meta.trust_domain = Some(trust_domain.clone());
        meta.incarnation = incarnation;
        self.put_bundle(bundle.clone());
        self.set_authority(authority.clone());
        self.touched.insert(mesh::model::Key::Region(region.clone()));
        Ok(Reply::Done)
    }

    pub(super) fn put_own_bundle(&mut self, bundle: &Bundle) -> Outcome {
        let own = self.own_region()?;
        if *bundle.region() != own || Some(bundle.trust_domain()) != self.state.trust_domain() {
            return Err(not_owner(
                format!("bundle of {}", bundle.trust_domain()),
                bundle.region(),
            ));
        }
        if let Some(before) = self.state.own_bundle()
            && bundle.sequence() <= before.sequence()
        {
            let text = format!(
                "bundle sequence {} must be above {}",
                bundle.sequence(),
                before.sequence()
            );
            return Err(Refusal::Conflict(text));
        }
        self.put_bundle(bundle.clone());
        Ok(Reply::Done)
    }

    pub(super) fn put_authority(&mut self, authority: &AuthorityRecord) -> Outcome {
        self.own_region()?;
        self.set_authority(authority.clone());
        Ok(Reply::Done)
    }

    pub(super) fn raise_level(&mut self, level: u32) -> Reply {
        if level > self.state.level() {
            self.state.level = level;
            self.dirty.insert(RecordKey::Level);
            self.begin_leasing();
        }
        Reply::Done
    }

    pub(super) fn allocate_node(&mut self) -> Outcome {
        let NodeId(next) = self.state.next_node();
        self.meta().next_node = next + 1;
        Ok(Reply::Node(NodeId(next)))
    }
}
