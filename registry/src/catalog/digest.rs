//! Digests of the catalogue, kept with each batch at the cost of what it changed: one of everything, which replicas compare
//! at equal revisions, and one for each pair of regions, of what the one shows and the other one holds. Pure.
//!
//! A digest is the sum, modulo 2^128, of half a SHA-256 of each record. A sum does not depend on any order and takes a
//! record out as easily as in; other than with xor, a record that is counted twice does not vanish. The hash is strong so
//! that no two records are alike by chance or by pattern; that somebody could forge a sum with much work hurts only who
//! wants to believe a catalogue of their own.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use mesh::model::{Audience, ImportPolicy, Key, RegionId, ServiceName, TenantId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Definition, State,
    record::{RecordKey, value},
};

/// Which records a checkpoint sums, and in which layout: nodes of versions that differ in it do not compare.
pub const SCHEME: u32 = 1;
/// Records of one peer that are remembered although they are not taken; with more of them no digest is compared.
const REFUSED_MAX: usize = 1_000;

/// A kind of records that a peer sees. Overrides are not among them: each region drops them by its own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// Definitions.
    Services,
    /// Endpoints.
    Endpoints,
    /// Gateways.
    Gateways,
    /// The bundle.
    Trust,
    /// Tenants.
    Tenants,
    /// Live proxies by tenant.
    Proxies,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Services,
        Self::Endpoints,
        Self::Gateways,
        Self::Trust,
        Self::Tenants,
        Self::Proxies,
    ];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Gateways => "gateways",
            Self::Trust => "trust bundle",
            Self::Tenants => "tenants",
            Self::Proxies => "proxy counts",
        }
    }

    /// For the wire. The number is that of the layout: who changes what is hashed raises it, and versions that differ do
    /// not compare that part.
    #[must_use]
    pub fn tag(self) -> &'static str {
        match self {
            Self::Services => "services/1",
            Self::Endpoints => "endpoints/1",
            Self::Gateways => "gateways/1",
            Self::Trust => "trust/1",
            Self::Tenants => "tenants/1",
            Self::Proxies => "proxies/1",
        }
    }
}

/// A digest, part by part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts([u128; Part::ALL.len()]);

impl Parts {
    /// Of one part.
    #[must_use]
    pub fn get(&self, part: Part) -> u128 {
        self.0[part as usize]
    }

    fn add(&mut self, part: Part, sum: u128) {
        let slot = &mut self.0[part as usize];
        *slot = slot.wrapping_add(sum);
    }

    fn merge(&mut self, other: &Self) {
        for part in Part::ALL {
            self.add(part, other.get(part));
        }
    }

    fn negated(&self) -> Self {
        Self(self.0.map(u128::wrapping_neg))
    }
}

/// What is derived of a catalogue.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Digests {
    /// All records but the checkpoint.
    all: u128,
    /// What peers gave.
    held: OrdMap<RegionId, Parts>,
    /// Each own service that is exported, with its own endpoints.
    offers: OrdMap<ServiceName, Parts>,
    to_all: Parts,
    to_some: OrdMap<RegionId, Parts>,
    /// What every peer sees.
    common: Parts,
}

/// Records that a peer sent and may not: they count as held, for sending them again would change nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    entries: BTreeMap<String, (Part, u128)>,
    /// More than are remembered.
    too_many: bool,
}

impl Refused {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.too_many
    }

    /// A record was taken, or is gone.
    pub(super) fn forget(&mut self, key: &Key) {
        if !self.entries.is_empty() {
            self.entries.remove(&key.to_string());
        }
    }

    pub(super) fn note(&mut self, key: &Key, part: Part, sum: u128) {
        if self.entries.len() < REFUSED_MAX {
            self.entries.insert(key.to_string(), (part, sum));
        } else {
            self.too_many = true;
        }
    }
}

/// A record's share in a sum, by its encoded key.
fn hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update(u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
    hasher.update(key);
    hasher.update(value);
    let mut half = [0; 16];
    half.copy_from_slice(&hasher.finalize()[..16]);
    u128::from_be_bytes(half)
}

/// That of a record that travels as it is kept.
pub(super) fn of<T: Serialize>(key: &RecordKey, record: &T) -> u128 {
    value(Vec::new(), record).map_or(0, |value| hash(&key.encode(), &value))
}

/// A definition as it travels: it has the age of its export, and whether it is empty is not told.
pub(super) fn definition(name: &ServiceName, region: &RegionId, of_service: &Definition) -> u128 {
    let travels = (&of_service.ports, of_service.headless, of_service.created_at);
    of(&RecordKey::Definition(name.clone(), region.clone()), &travels)
}

fn proxies(counts: &BTreeMap<TenantId, u32>) -> u128 {
    if counts.is_empty() {
        0
    } else {
        of(&RecordKey::Meta, counts)
    }
}

fn put<K: Ord + Clone>(map: &mut OrdMap<K, Parts>, key: &K, delta: &Parts) {
    if *delta == Parts::default() {
        return;
    }
    let sum = map.entry(key.clone()).or_default();
    sum.merge(delta);
    if *sum == Parts::default() {
        map.remove(key);
    }
}

/// Vectors that are used again for each record.
#[derive(Default)]
pub(super) struct Room {
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Room {
    fn take_old(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.old)
    }

    fn take_new(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.new)
    }

    fn give_back(&mut self, old: Option<Vec<u8>>, new: Option<Vec<u8>>) {
        for (slot, bytes) in [(&mut self.old, old), (&mut self.new, new)] {
            *slot = bytes.unwrap_or_default();
            slot.clear();
        }
    }
}

impl Digests {
    /// Follows a batch that made `after` of `before` and wrote these records.
    pub(super) fn follow(&mut self, before: &State, after: &State, dirty: &BTreeSet<RecordKey>) {
        let mut room = Room::default();
        for key in dirty {
            let is_offered_anew = |name: &ServiceName| dirty.contains(&RecordKey::Export(name.clone()));
            self.record(before, after, key, &is_offered_anew, &mut room);
        }
        for key in dirty {
            if let RecordKey::Export(name) = key {
                self.offer(before, after, name);
            }
        }
    }

    /// From nothing.
    pub(super) fn of(state: &State) -> Self {
        let (nothing, mut digests) = (State::default(), Self::default());
        let mut room = Room::default();
        for key in state.record_keys() {
            digests.record(&nothing, state, &key, &|_| true, &mut room);
        }
        for export in state.exports() {
            digests.offer(&nothing, state, &export.service);
        }
        digests
    }

    /// One record. `is_offered_anew` names the services of which [`Digests::offer`] takes care.
    pub(super) fn record(
        &mut self,
        before: &State,
        after: &State,
        key: &RecordKey,
        is_offered_anew: &dyn Fn(&ServiceName) -> bool,
        room: &mut Room,
    ) {
        if *key == RecordKey::Checkpoint {
            return;
        }
        let was = before.value(room.take_old(), key);
        let is = after.value(room.take_new(), key);
        if was == is {
            room.give_back(was, is);
            return;
        }
        let encoded = key.encode();
        let sum = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, |value| hash(&encoded, value));
        let (old, new) = (sum(&was), sum(&is));
        room.give_back(was, is);
        self.all = self.all.wrapping_add(new.wrapping_sub(old));
        for (state, sum, is_new) in [(before, old, false), (after, new, true)] {
            let Some((owner, part, sum)) = share(state, key, sum) else {
                continue;
            };
            let mut delta = Parts::default();
            delta.add(part, if is_new { sum } else { sum.wrapping_neg() });
            match key {
                _ if !state.is_own(&owner) => put(&mut self.held, &owner, &delta),
                RecordKey::Definition(name, _) | RecordKey::Endpoint(name, _) => {
                    if after.exports.contains_key(name) && !is_offered_anew(name) {
                        self.change_offer(name, &delta, &after.export_of(name));
                    }
                }
                _ => self.common.merge(&delta),
            }
        }
    }

    /// The export of a service is another one.
    fn offer(&mut self, before: &State, after: &State, name: &ServiceName) {
        if let Some(old) = self.offers.get(name).copied() {
            self.change_offer(name, &old.negated(), &before.export_of(name));
        }
        if after.exports.contains_key(name) {
            self.change_offer(name, &offer_of(after, name), &after.export_of(name));
        }
    }

    fn change_offer(&mut self, name: &ServiceName, delta: &Parts, to: &Audience) {
        put(&mut self.offers, name, delta);
        match to {
            Audience::Nobody => {}
            Audience::Everybody => self.to_all.merge(delta),
            Audience::Regions(regions) => {
                for region in regions {
                    put(&mut self.to_some, region, delta);
                }
            }
        }
    }
}

/// Whose a record is, and what it adds to the digest of what its owner shows; none when peers do not see its kind.
fn share(state: &State, key: &RecordKey, sum: u128) -> Option<(RegionId, Part, u128)> {
    Some(match key {
        RecordKey::Endpoint(name, id) => {
            let endpoint = state.endpoint(name, id)?;
            (endpoint.locality.region.clone(), Part::Endpoints, sum)
        }
        RecordKey::Definition(name, region) => {
            let sum = match state.is_own(region) {
                true => own_definition(state, name),
                false => definition(name, region, state.definitions.get(name)?.get(region)?),
            };
            (region.clone(), Part::Services, sum)
        }
        RecordKey::Gateway(id) => (state.gateways.get(id)?.region.clone(), Part::Gateways, sum),
        RecordKey::Bundle(domain) => (state.bundles.get(domain)?.region().clone(), Part::Trust, sum),
        RecordKey::Tenant(id) => (state.tenants.get(id)?.region.clone(), Part::Tenants, sum),
        _ => return None,
    })
}

/// An own definition as peers see it; nothing when it is not exported.
fn own_definition(state: &State, name: &ServiceName) -> u128 {
    let shown = || {
        let (region, own) = (state.region()?, state.own_definition(name)?);
        let mut shown = Definition::clone(own);
        shown.created_at = state.exports.get(name)?.created_at;
        Some(definition(name, region, &shown))
    };
    shown().unwrap_or(0)
}

/// An exported service and its own endpoints.
fn offer_of(state: &State, name: &ServiceName) -> Parts {
    let mut parts = Parts::default();
    parts.add(Part::Services, own_definition(state, name));
    for endpoint in state.endpoints(name).filter(|e| state.is_own(&e.locality.region)) {
        let key = RecordKey::Endpoint(name.clone(), endpoint.id.clone());
        parts.add(Part::Endpoints, of(&key, endpoint));
    }
    parts
}

impl State {
    /// The digest of everything: the same on all nodes that have applied the same entries.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.digests.all
    }

    /// The digest of what a peer may see and takes.
    #[must_use]
    pub fn shown_to(&self, peer: &RegionId, takes: &ImportPolicy) -> Parts {
        let mut parts = self.digests.common;
        match takes {
            ImportPolicy::All => {
                parts.merge(&self.digests.to_all);
                parts.merge(&self.digests.to_some.get(peer).copied().unwrap_or_default());
            }
            ImportPolicy::Services(names) => {
                let offers = names.iter().filter(|name| self.export_of(name).includes(peer));
                for offer in offers.filter_map(|name| self.digests.offers.get(name)) {
                    parts.merge(offer);
                }
            }
        }
        parts.add(Part::Proxies, proxies(&self.tenant_proxies()));
        parts
    }

    /// The digest of what is held of a peer; none when too much of what it sends is not its to send.
    #[must_use]
    pub fn held_of(&self, peer: &RegionId) -> Option<Parts> {
        let mut parts = self.digests.held.get(peer).copied().unwrap_or_default();
        if let Some(refused) = self.refused.get(peer) {
            if refused.too_many {
                return None;
            }
            for (part, sum) in refused.entries.values() {
                parts.add(*part, *sum);
            }
        }
        if let Some(status) = self.regions.get(peer) {
            parts.add(Part::Proxies, proxies(&status.tenant_proxies));
        }
        Some(parts)
    }
}
