//! What a peer's update becomes before it is proposed: sets of a bounded size, each of which may be the last to be
//! committed. Whether the peer owns what it sent is checked where the sets are applied. Pure.

use std::{collections::BTreeSet, sync::Arc};

use mesh::model::{Held, Key, RegionId, Resource, Update};
use serde::Serialize;

use crate::{
    catalog::{ImportSet, LeaseSet},
    codec::encoded_len,
};

/// Largest set, in bytes as it is logged: below the largest command that is taken.
const SET_BYTES_MAX: usize = 96 * 1024;
/// Most leases of one set: each has some hundred bytes.
const LEASES_MAX: usize = 300;

/// Turns an update of `peer` into sets to be proposed in order.
///
/// `committed` is where the peer's records are held, `owned` the keys of those records. A snapshot that does not fit into
/// one set becomes deltas; until the last of them is committed the position is one that no peer knows, so that a break
/// leads to another snapshot.
#[must_use]
pub fn sets(peer: &RegionId, update: Update, committed: Option<Held>, owned: &[Key]) -> Vec<ImportSet> {
    let (is_full, held) = (update.full, update.held);
    let named: BTreeSet<Key> = update.upserts.iter().map(Resource::key).collect();
    let mut packer = Packer::default();
    for key in &update.removed {
        packer.remove(key);
    }
    for resource in update.upserts {
        packer.put(peer, resource);
    }
    if is_full && packer.done.is_empty() {
        let mut only = packer.open;
        only.full = true;
        only.held = held;
        only.tenant_proxies.get_or_insert_default();
        return vec![only];
    }
    if is_full {
        // What the snapshot does not name is gone.
        for key in owned.iter().filter(|key| !named.contains(key)) {
            packer.remove(key);
        }
    }
    let between = if is_full {
        Held::default()
    } else {
        committed.unwrap_or_default()
    };
    let mut sets = packer.done;
    sets.push(packer.open);
    let last = sets.len() - 1;
    for (index, set) in sets.iter_mut().enumerate() {
        set.held = if index == last { held } else { between };
        set.base = if is_full && index == 0 { None } else { Some(between) };
    }
    sets
}

/// What an update says of quota leases; proposed before the sets, so that the position never runs ahead of it.
#[must_use]
pub fn leases(update: &Update) -> Vec<LeaseSet> {
    let (mut leases, mut reports) = (Vec::new(), Vec::new());
    for resource in &update.upserts {
        match resource {
            Resource::Lease(lease) => leases.push(lease.clone()),
            Resource::Report(report) => reports.push(report.clone()),
            _ => {}
        }
    }
    let removed = update.removed.iter().filter_map(|key| match key {
        Key::Report(tenant, _) => Some(tenant.clone()),
        _ => None,
    });
    let removed: Vec<_> = removed.collect();
    if leases.is_empty() && reports.is_empty() && removed.is_empty() && !update.full {
        return Vec::new();
    }
    let mut sets = vec![LeaseSet {
        full: update.full,
        removed,
        ..LeaseSet::default()
    }];
    // The first set clears what a snapshot does not name, the others add.
    for some in leases.chunks(LEASES_MAX) {
        sets.push(LeaseSet {
            leases: some.to_vec(),
            ..LeaseSet::default()
        });
    }
    for some in reports.chunks(LEASES_MAX) {
        sets.push(LeaseSet {
            reports: some.to_vec(),
            ..LeaseSet::default()
        });
    }
    if sets.len() > 1 && !update.full && sets[0].removed.is_empty() {
        sets.remove(0);
    }
    sets
}

#[derive(Default)]
struct Packer {
    done: Vec<ImportSet>,
    open: ImportSet,
    bytes: usize,
}

impl Packer {
    fn remove(&mut self, key: &Key) {
        let key = key.to_string();
        self.make_room(&key);
        self.open.removed.push(key);
    }

    fn put(&mut self, peer: &RegionId, resource: Resource) {
        match resource {
            Resource::Service(service) => {
                self.make_room(&service);
                self.open.services.push(service);
            }
            Resource::Endpoint(endpoint) => {
                self.make_room(endpoint.as_ref());
                self.open.endpoints.push(Arc::unwrap_or_clone(endpoint));
            }
            Resource::Gateway(gateway) => {
                self.make_room(&gateway);
                self.open.gateways.push(gateway);
            }
            Resource::Bundle(bundle) => {
                self.make_room(&bundle);
                self.open.bundles.push(bundle);
            }
            Resource::Tenant(tenant) => {
                self.make_room(&tenant);
                self.open.tenants.push(tenant);
            }
            Resource::Override(order) => {
                self.make_room(&order);
                self.open.overrides.push(order);
            }
            Resource::Region(status) if status.region == *peer => {
                self.make_room(&status.tenant_proxies);
                self.open.tenant_proxies = Some(status.tenant_proxies);
            }
            // How the peer sees others, and shares, are for its own proxies; leases go their own way, see `leases`.
            Resource::Region(_) | Resource::Share(_) | Resource::Lease(_) | Resource::Report(_) => {}
        }
    }

    fn make_room(&mut self, record: &impl Serialize) {
        // Our records always have an encoding; one without would be refused when it is proposed.
        let len = encoded_len(record).unwrap_or(0);
        if self.bytes > 0 && self.bytes + len > SET_BYTES_MAX {
            self.done.push(std::mem::take(&mut self.open));
            self.bytes = 0;
        }
        self.bytes += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        Command, Reply,
        testing::{World, endpoint, id, import, import_set, peer, region},
    };

    fn update(full: bool, revision: u64, endpoints: std::ops::Range<usize>, removed: &[&str]) -> Update {
        let endpoints = endpoints.map(|n| Resource::from(endpoint(&format!("ep-{n}"), "pay.shop", "us")));
        Update {
            region: region("us"),
            held: import_set(revision, full).held,
            full,
            upserts: endpoints.collect(),
            removed: removed.iter().map(|key| Key::parse(key).unwrap()).collect(),
            committed_at: None,
        }
    }

    fn ids(world: &World) -> BTreeSet<String> {
        world.endpoint_ids("pay.shop").into_iter().collect()
    }

    #[test]
    fn a_small_update_is_one_set() {
        let owned = [Key::Service(id("gone.shop"))];
        let full = sets(&region("us"), update(true, 5, 0..3, &[]), None, &owned);
        assert_eq!(full.len(), 1);
        assert!(full[0].full && full[0].removed.is_empty() && full[0].base.is_none());
        assert_eq!(full[0].tenant_proxies, Some([].into()), "a snapshot names all counts");
        let held = Some(full[0].held);
        let delta = sets(&region("us"), update(false, 6, 3..4, &["service/gone.shop"]), held, &[]);
        assert_eq!((delta.len(), delta[0].base), (1, held));
        assert_eq!(delta[0].tenant_proxies, None);
    }

    #[test]
    fn a_large_snapshot_ends_where_one_set_would_and_may_break_off_anywhere() {
        let mut world = World::new("eu");
        world.run(Command::PutPeer(peer("us")));
        for set in sets(&region("us"), update(true, 5, 0..10, &[]), None, &[]) {
            assert_eq!(world.run(import("us", set)), Reply::Done);
        }
        let owned = world.state.imported_keys(&region("us"));
        let parts = sets(&region("us"), update(true, 9, 5..3_000, &[]), None, &owned);
        assert!(parts.len() > 2);
        let last = parts.len() - 1;
        for (index, set) in parts.into_iter().enumerate() {
            assert!(postcard::to_allocvec(&set).unwrap().len() < 128 * 1024);
            assert_eq!(world.run(import("us", set)), Reply::Done);
            let held = world.state.peer(&region("us")).unwrap().held.unwrap();
            let expected = if index == last {
                import_set(9, false).held
            } else {
                Held::default()
            };
            assert_eq!(held, expected);
        }
        let expected: BTreeSet<String> = (5..3_000).map(|n| format!("ep-{n}")).collect();
        assert_eq!(ids(&world), expected);
    }

    #[test]
    fn a_large_delta_keeps_its_base_until_its_last_part() {
        let base = import_set(5, false).held;
        let parts = sets(&region("us"), update(false, 9, 0..3_000, &[]), Some(base), &[]);
        let last = parts.len() - 1;
        for (index, set) in parts.iter().enumerate() {
            assert_eq!(set.base, Some(base));
            assert_eq!(set.held == base, index != last);
        }
    }
}
