//! What a subscriber may and wants to see, and the update that takes it from what it holds to what is. Pure.

use std::collections::BTreeSet;

use mesh::model::{Audience, ClusterId, Held, Key, RegionId, Resource, Revision, ServiceName, Timestamp, Update};

use super::Moment;
use crate::catalog::State;

/// What a subscriber sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All that is visible in the region.
    Everything,
    /// These services; gateways, bundles, shares, overrides and regions come along.
    Services(BTreeSet<ServiceName>),
    /// All that is visible in the region but endpoints; of these only those of the services. What a proxy wants: names are
    /// few and small, endpoints are many and change.
    Names(BTreeSet<ServiceName>),
    /// What the gateways of a cluster need: the cluster's endpoints of exported services.
    ExportedByCluster(ClusterId),
    /// What a peer region may see: this region's own records only, as far as they are exported to it.
    ExportedTo(RegionId),
}

/// How a scope sees what it sees. For two scopes that see alike a key that concerns both looks the same to both, and so does
/// its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// As those inside the region, whatever of it they want.
    Inside,
    /// As the gateways of a cluster.
    Cluster(ClusterId),
    /// As a peer region.
    Peer(RegionId),
}

/// A change, by its entry and its place in it.
pub(super) type TouchId = (Revision, usize);

/// The first change of a key that a subscriber has missed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch<'a> {
    pub(super) id: TouchId,
    key: &'a Key,
    /// Who saw the key when the subscriber last heard of it.
    before: &'a Audience,
    at: Timestamp,
}

impl Scope {
    /// How it sees.
    pub(super) fn sight(&self) -> Sight {
        match self {
            Self::Everything | Self::Services(_) | Self::Names(_) => Sight::Inside,
            Self::ExportedByCluster(cluster) => Sight::Cluster(cluster.clone()),
            Self::ExportedTo(peer) => Sight::Peer(peer.clone()),
        }
    }

    /// A resource as this scope shows it; none when there is none or it is not visible.
    #[must_use]
    pub fn resource(&self, state: &State, key: &Key) -> Option<Resource> {
        match self {
            Self::Everything | Self::Services(_) | Self::Names(_) if !self.is_wanted(key) => None,
            Self::Everything | Self::Services(_) | Self::Names(_) => state.resource(key),
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
            (Self::Services(names), Key::Service(name) | Key::Endpoint(name, _))
            | (Self::Names(names), Key::Endpoint(name, _)) => names.contains(name),
            // Quotas in full are for peers; proxies get shares.
            (_, Key::Tenant(_) | Key::Lease(..) | Key::Report(..)) => false,
            _ => true,
        }
    }

    /// No where a look at the key is enough to say so.
    fn may_concern(&self, key: &Key) -> bool {
        match self {
            Self::Everything | Self::Services(_) | Self::Names(_) => self.is_wanted(key),
            Self::ExportedByCluster(_) | Self::ExportedTo(_) => true,
        }
    }

    /// Whether the subscriber may be told that a key is gone, given who saw it before.
    fn may_hear_of(&self, key: &Key, before: &Audience) -> bool {
        match self {
            Self::Everything | Self::Services(_) | Self::Names(_) => self.is_wanted(key),
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
            Self::Names(names) => {
                let endpoints = names.iter().flat_map(|name| endpoint_keys(state, name));
                state.names().chain(endpoints).chain(state.common_keys()).collect()
            }
            Self::ExportedByCluster(_) | Self::ExportedTo(_) => {
                let services = state.exports().flat_map(|export| state.service_keys(&export.service));
                let tenants = state.tenants().map(|tenant| Key::Tenant(tenant.id.clone()));
                services
                    .chain(tenants)
                    .chain(state.lease_keys())
                    .chain(state.common_keys())
                    .collect()
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
        self.told(moment, &self.touched(moment, held)?)
    }

    /// The keys that changed since `held` and may concern this scope, in order; none when that is not known.
    pub(super) fn touched<'a>(&self, moment: &'a Moment, held: Held) -> Option<Vec<Touch<'a>>> {
        if held.incarnation != moment.state.incarnation() || held.revision > moment.revision {
            return None;
        }
        let mut touched = Vec::new();
        for entry in moment.history.since(held.revision)? {
            // What a subscriber does not want costs no more than this look at it.
            let changes = entry.changes.iter().enumerate();
            let changes = changes.filter(|(_, change)| self.may_concern(&change.key));
            touched.extend(changes.map(|(place, change)| Touch {
                id: (entry.revision, place),
                key: &change.key,
                before: &change.audience_before,
                at: entry.at,
            }));
        }
        // The first one stays; it decides who saw the key.
        touched.sort_by_key(|touch| touch.key);
        touched.dedup_by_key(|touch| touch.key);
        Some(touched)
    }

    /// The update that tells of these changes. It depends on them, on how this scope sees, and on nothing else of it.
    pub(super) fn told(&self, moment: &Moment, touched: &[Touch<'_>]) -> Option<Update> {
        let state = &moment.state;
        let (mut upserts, mut removed, mut committed_at) = (Vec::new(), Vec::new(), None::<Timestamp>);
        for touch in touched {
            if let Some(resource) = self.resource(state, touch.key) {
                upserts.push(resource);
            } else if self.may_hear_of(touch.key, touch.before) {
                removed.push(touch.key.clone());
            } else {
                continue;
            }
            committed_at = Some(committed_at.map_or(touch.at, |oldest| oldest.min(touch.at)));
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

    /// Adds to a delta of this scope what it shows and `old`, in whose place it comes, did not, and removals of the reverse.
    /// `shown` is what the subscriber saw last. Says no where that is not known and it cannot be done without: then only a
    /// snapshot will do.
    ///
    /// Between names it costs what is added, and nothing else: whoever holds names drops endpoints itself.
    #[must_use]
    pub fn widen(&self, update: &mut Update, old: &Self, shown: Option<&State>, now: &State) -> bool {
        if let (Self::Names(after), Self::Names(before)) = (self, old) {
            let added: BTreeSet<&ServiceName> = after.difference(before).collect();
            update.upserts.retain(
                |resource| !matches!(resource, Resource::Endpoint(endpoint) if added.contains(&endpoint.service)),
            );
            update
                .removed
                .retain(|key| !matches!(key, Key::Endpoint(service, _) if added.contains(service)));
            let keys = added.into_iter().flat_map(|name| endpoint_keys(now, name));
            update.upserts.extend(keys.filter_map(|key| self.resource(now, &key)));
            return true;
        }
        let Some(shown) = shown else {
            return false;
        };
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
        true
    }
}

fn endpoint_keys<'a>(state: &'a State, name: &'a ServiceName) -> impl Iterator<Item = Key> + 'a {
    let keys = state.service_keys(name);
    keys.filter(|key| matches!(key, Key::Endpoint(..)))
}
