//! Drills: leases on an override that moves traffic away from a region. Pure.

use mesh::model::OverrideId;

use super::{Outcome, Transaction, not_found, not_owner};
use crate::catalog::{Drill, Refusal, Reply};

impl Transaction<'_> {
    pub(super) fn start_drill(&mut self, drill: &Drill) -> Outcome {
        let own = self.own_region()?;
        let order = &drill.order;
        if order.origin != own {
            return Err(not_owner(format!("drill {}", order.id), &order.origin));
        }
        if self.state.drills.contains_key(&order.id) || self.state.overrides.contains_key(&order.id) {
            return Err(Refusal::Conflict(format!(
                "drill {} exists; choose another id",
                order.id
            )));
        }
        if let Some(other) = self.state.overrides(self.at).find(|other| other.region == order.region) {
            let text = format!(
                "region {} is already evacuated by drill {} of region {}; end it first",
                order.region, other.id, other.origin
            );
            return Err(Refusal::Conflict(text));
        }
        self.prolong(drill.clone())
    }

    pub(super) fn renew_drill(&mut self, id: &OverrideId) -> Outcome {
        let drill = self.own_drill(id)?;
        if !drill.order.is_active(self.at) {
            // What has ended must not begin again unseen: traffic went back already.
            return Err(not_found("active drill", id));
        }
        self.prolong(drill)
    }

    pub(super) fn end_drill(&mut self, id: &OverrideId) -> Outcome {
        self.own_drill(id)?;
        self.set_drill(id, None);
        Ok(Reply::Done)
    }

    fn own_drill(&self, id: &OverrideId) -> Result<Drill, Refusal> {
        if let Some(other) = self.state.overrides.get(id) {
            return Err(not_owner(format!("drill {id}"), &other.origin));
        }
        let drill = self.state.drills.get(id).ok_or_else(|| not_found("drill", id))?;
        Ok(Drill::clone(drill))
    }

    fn prolong(&mut self, mut drill: Drill) -> Outcome {
        drill.order.expires_at = self.at.plus(drill.lease).min(drill.ends_at);
        self.set_drill(&drill.order.id.clone(), Some(drill.clone()));
        Ok(Reply::Drill(drill))
    }
}
