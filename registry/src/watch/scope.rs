//! What a subscriber may and wants to see, and the update that takes it from what it holds to what is. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mesh::model::{Audience, ClusterId, Held, Key, RegionId, Resource, ServiceName, Timestamp, Update};

use super::Moment;
use crate::catalog::State;

/// What a subscriber sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that is visible in the region.
    Everything,
    /// These services; gateways, bundles, shares, overrides and regions come along.
    Services(BTreeSet<ServiceName>),
    /// What the gateways of a cluster need: the cluster's endpoints of exported services.
    ExportedByCluster(ClusterId),
    /// What a peer region may see: this region's own records only, as far as they are exported to it.
    ExportedTo(RegionId),
}

impl Scope {
    /// A resource as this scope shows it; none when there is none or it is not visible.
    #[must_use]
    pub fn resource(&self, state: &State, key: &Key) -> Option<Resource> {
        match self {
            Self::Everything | Self::Services(_) if !self.is_wanted(key) => None,
            Self::Everything | Self::Services(_) => state.resource(key),
            Self::ExportedByCluster(cluster) => state.admitted_by(cluster, key),
            Self::ExportedTo(peer) => {
                let (resource, audience) = state.exported(key)?;
                audience.includes(peer).then_some(resource)
            }
        }
    }

    /// Whether such a key concerns a subscriber inside the region.
    fn is_wanted(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::Services(names), Key::Service(name) | Key::Endpoint(name, _)) => names.contains(name),
            // Quotas in full are for peers; proxies get shares.
            (_, Key::Tenant(_)) => false,
            _ => true,
        }
    }

    /// Whether the subscriber may be told that a key is gone, given who saw it before.
    fn may_hear_of(&self, key: &Key, before: &Audience) -> bool {
        match self {
            Self::Everything | Self::Services(_) => self.is_wanted(key),
            Self::ExportedByCluster(_) => *before != Audience::Nobody || matches!(key, Key::Bundle(_) | Key::Region(_)),
            Self::ExportedTo(peer) => before.includes(peer),
        }
    }

    /// The keys that may be visible, a superset.
    fn keys(&self, state: &State) -> Vec<Key> {
        match self {
            Self::Services(names) => {
                let services = names.iter().flat_map(|name| state.service_keys(name));
                services.chain(state.common_keys()).collect()
            }
            Self::ExportedByCluster(_) | Self::ExportedTo(_) => {
                let services = state.exports().flat_map(|export| state.service_keys(&export.service));
                let tenants = state.tenants().map(|tenant| Key::Tenant(tenant.id.clone()));
                services.chain(tenants).chain(state.common_keys()).collect()
            }
            Self::Everything => state.keys().collect(),
        }
    }

    /// All that is visible.
    #[must_use]
    pub fn snapshot(&self, moment: &Moment) -> Option<Update> {
        let state = &moment.state;
        let keys = self.keys(state);
        let upserts = keys.iter().filter_map(|key| self.resource(state, key));
        Some(Update {
            region: state.region()?.clone(),
            held: moment.held(),
            full: true,
            upserts: upserts.collect(),
            removed: Vec::new(),
            committed_at: None,
        })
    }

    /// What changed since `held`, each key once in its newest state; none when only a snapshot will do.
    #[must_use]
    pub fn delta(&self, moment: &Moment, held: Held) -> Option<Update> {
        let state = &moment.state;
        if held.incarnation != state.incarnation() || held.revision > moment.revision {
            return None;
        }
        // The first change since decides who saw the key when the subscriber last heard of it.
        let mut touched: BTreeMap<&Key, (&Audience, Timestamp)> = BTreeMap::new();
        for entry in moment.history.since(held.revision)? {
            for change in &entry.changes {
                touched
                    .entry(&change.key)
                    .or_insert((&change.audience_before, entry.at));
            }
        }
        let (mut upserts, mut removed, mut committed_at) = (Vec::new(), Vec::new(), None::<Timestamp>);
        for (key, (before, at)) in touched {
            if let Some(resource) = self.resource(state, key) {
                upserts.push(resource);
            } else if self.may_hear_of(key, before) {
                removed.push(key.clone());
            } else {
                continue;
            }
            committed_at = Some(committed_at.map_or(at, |oldest| oldest.min(at)));
        }
        Some(Update {
            region: state.region()?.clone(),
            held: moment.held(),
            full: false,
            upserts,
            removed,
            committed_at,
        })
    }

    /// What to add to a delta when the scope takes the place of `old`, which showed `shown`: all that only this one shows,
    /// and removals of what only the old one did.
    pub fn widen(&self, update: &mut Update, old: &Self, shown: &State, now: &State) {
        let visible = |scope: &Self, state: &State| -> BTreeSet<Key> {
            let keys = scope.keys(state).into_iter();
            keys.filter(|key| scope.resource(state, key).is_some()).collect()
        };
        let (before, after) = (visible(old, shown), visible(self, now));
        let named: BTreeSet<Key> = update.upserts.iter().map(Resource::key).collect();
        let added = after.difference(&before).filter(|key| !named.contains(*key));
        update.upserts.extend(added.filter_map(|key| self.resource(now, key)));
        update.removed.extend(before.difference(&after).cloned());
        update.removed.sort();
        update.removed.dedup();
    }
}
