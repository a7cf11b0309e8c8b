//! An acknowledged write is never lost; a linearizable read sees every write that was acknowledged before it began; what was
//! answered as having changed nothing has changed nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh::model::{Key, Revision, TenantId};
use registry::{catalog::State, watch::Published};

use super::{Found, broken, chronicle::Chronicle};
use crate::sim::{clients::version, place::Place};

const LOST: &str = "an acknowledged write is never lost";
const STALE: &str = "a linearizable read sees every write acknowledged before it began";
const DENIED: &str = "a write that was refused as changing nothing changes nothing";

/// What was asked of each register, and what was answered.
#[derive(Default)]
pub(crate) struct Writes {
    registers: BTreeMap<(u8, TenantId), Register>,
    /// The newest acknowledged revision of each region.
    newest: BTreeMap<u8, u64>,
}

#[derive(Clone, Default)]
struct Register {
    /// Version and revision.
    acknowledged: (u32, u64),
    /// May come at any time.
    unknown: BTreeSet<u32>,
    /// Must never come.
    refused: BTreeSet<u32>,
    /// Under way.
    asked: u32,
}

impl Register {
    /// What a state must not hold once the write of `acknowledged` is in it.
    fn check(&self, held: u32, acknowledged: u32, invariant: &'static str, where_: &str) -> Found {
        if self.refused.contains(&held) {
            return Err(broken(
                DENIED,
                "version stays away",
                format_args!("version {held} {where_}"),
            ));
        }
        if held < acknowledged && !self.unknown.contains(&held) {
            return Err(broken(
                invariant,
                format_args!("at least version {acknowledged}"),
                format_args!("version {held} {where_}"),
            ));
        }
        Ok(())
    }
}

/// What was acknowledged when a read began.
pub(crate) struct Began {
    region: u8,
    newest: u64,
    versions: Vec<(TenantId, u32)>,
}

impl Writes {
    fn register(&mut self, region: u8, id: &TenantId) -> &mut Register {
        self.registers.entry((region, id.clone())).or_default()
    }

    pub(crate) fn asked(&mut self, region: u8, id: &TenantId, version: u32) {
        self.register(region, id).asked = version;
    }

    pub(crate) fn unknown(&mut self, region: u8, id: &TenantId, version: u32) {
        self.register(region, id).unknown.insert(version);
    }

    pub(crate) fn refused(&mut self, region: u8, id: &TenantId, version: u32) {
        self.register(region, id).refused.insert(version);
    }

    /// The newest revision that was acknowledged in a region.
    pub(super) fn newest(&self, region: u8) -> u64 {
        self.newest.get(&region).copied().unwrap_or(0)
    }

    pub(super) fn acknowledged(
        &mut self,
        chronicle: &Chronicle,
        region: u8,
        id: &TenantId,
        (written, revision): (u32, u64),
        done: bool,
    ) -> Found {
        if !done {
            return Err(broken(
                LOST,
                "a register can always be written",
                format_args!("{id} was refused"),
            ));
        }
        let newest = self.newest.entry(region).or_default();
        *newest = (*newest).max(revision);
        let register = self.register(region, id);
        register.acknowledged = (written, revision);
        let unknown = register.unknown.clone();
        let Some(state) = chronicle.at(Revision(revision)) else {
            if chronicle.newest().is_none_or(|(newest, _)| newest < revision) {
                let found = format_args!("revision {revision} was acknowledged and nobody has applied it").to_string();
                return Err(broken(LOST, "an acknowledged write is applied", found));
            }
            return Ok(());
        };
        let held = version(state, id);
        // One of which nobody knew whether it comes may come in the same entry, behind this one.
        if held < written && !unknown.contains(&held) {
            let found = format!("{id} has version {held} at revision {revision}");
            return Err(broken(LOST, format_args!("version {written} of {id}"), found));
        }
        Ok(())
    }

    /// A node's state at a revision must have all that was acknowledged up to there.
    pub(super) fn published(&self, place: Place, published: &Published) -> Found {
        let (state, at) = (&published.state, published.revision.0);
        for ((region, id), register) in &self.registers {
            let changed = || {
                published
                    .changes
                    .iter()
                    .any(|change| change.key == Key::Tenant(id.clone()))
            };
            if *region != place.region || !(published.reset || changed()) {
                continue;
            }
            let (acknowledged, revision) = register.acknowledged;
            let acknowledged = if revision <= at { acknowledged } else { 0 };
            register.check(
                version(state, id),
                acknowledged,
                LOST,
                &format!("of {id} on {place} at revision {at}"),
            )?;
        }
        Ok(())
    }

    pub(crate) fn begin_read(&self, region: u8) -> Began {
        let here = self.registers.iter().filter(|((of, _), _)| *of == region);
        Began {
            region,
            newest: self.newest(region),
            versions: here
                .map(|((_, id), register)| (id.clone(), register.acknowledged.0))
                .collect(),
        }
    }

    pub(super) fn read(&self, place: Place, began: &Began, revision: u64, state: &State) -> Found {
        if revision < began.newest {
            let found = format!("{place} answered with revision {revision}");
            return Err(broken(STALE, format_args!("at least revision {}", began.newest), found));
        }
        for (id, acknowledged) in &began.versions {
            let Some(register) = self.registers.get(&(began.region, id.clone())) else {
                continue;
            };
            register.check(
                version(state, id),
                *acknowledged,
                STALE,
                &format!("of {id} read on {place}"),
            )?;
        }
        Ok(())
    }
}
