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
    /// How often each region was restored.
    lives: BTreeMap<u8, u32>,
}

/// A write that was asked for.
pub(crate) struct Asked {
    pub(crate) region: u8,
    life: u32,
    id: TenantId,
    version: u32,
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
    life: u32,
    newest: u64,
    versions: Vec<(TenantId, u32)>,
}

impl Writes {
    fn register(&mut self, region: u8, id: &TenantId) -> &mut Register {
        self.registers.entry((region, id.clone())).or_default()
    }

    fn life(&self, region: u8) -> u32 {
        self.lives.get(&region).copied().unwrap_or(0)
    }

    pub(crate) fn asked(&mut self, region: u8, id: &TenantId, version: u32) -> Asked {
        self.register(region, id).asked = version;
        Asked {
            region,
            life: self.life(region),
            id: id.clone(),
            version,
        }
    }

    pub(crate) fn unknown(&mut self, asked: &Asked) {
        self.register(asked.region, &asked.id).unknown.insert(asked.version);
    }

    pub(crate) fn refused(&mut self, asked: &Asked) {
        self.register(asked.region, &asked.id).refused.insert(asked.version);
    }

    /// A region begins again with what it had at a revision: what was acknowledged later is lost, as the operator was told.
    pub(super) fn lost(&mut self, region: u8, revision: u64, state: Option<&State>) {
        *self.lives.entry(region).or_default() += 1;
        self.newest.insert(region, revision);
        for ((_, id), register) in self.registers.iter_mut().filter(|((of, _), _)| *of == region) {
            register.acknowledged = (state.map_or(0, |state| version(state, id)), revision);
        }
    }

    /// The newest revision that was acknowledged in a region.
    pub(super) fn newest(&self, region: u8) -> u64 {
        self.newest.get(&region).copied().unwrap_or(0)
    }

    pub(super) fn acknowledged(&mut self, chronicle: &Chronicle, asked: &Asked, revision: u64, done: bool) -> Found {
        let &Asked {
            region,
            life,
            ref id,
            version: written,
        } = asked;
        if life != self.life(region) {
            // Its answer came after the end of its region, which may have been saved before it or after.
            self.unknown(asked);
            return Ok(());
        }
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
            life: self.life(region),
            newest: self.newest(region),
            versions: here
                .map(|((_, id), register)| (id.clone(), register.acknowledged.0))
                .collect(),
        }
    }

    pub(super) fn read(&self, place: Place, began: &Began, revision: u64, state: &State) -> Found {
        if began.life != self.life(began.region) {
            return Ok(());
        }
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
