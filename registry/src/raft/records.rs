//! The catalogue's records on their way into the database. Promises that what the database holds is the catalogue as it was
//! after one entry, together with the marker that says which.
//!
//! Applying does not wait for the database: the log is durable, and a start applies again what the records lack. So keys
//! that changed are gathered, and written all together about once a second, with the values that they have then. A key
//! that changes often is written once, and the log is purged only behind what is written.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::{model::Timestamp, runtime::clock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    state_machine::Local,
    storage::{Engine, EngineError, Space, Writes},
    type_config::{LogId, encode},
};

/// Before the keys of records, so that markers and records share a table and therefore a batch.
pub(crate) const RECORD: u8 = b'r';
pub(crate) const MARKER: &[u8] = b"m/applied";
pub(crate) const MEMBERSHIP: &[u8] = b"m/membership";
/// How long changes are gathered: a start applies about so much again.
const GATHER: Duration = Duration::from_secs(1);
/// Keys after which they are written sooner.
const KEYS_DUE: usize = 4 * 1024;
/// Keys after which applying waits for the database: it frees what one batch replaces only after the whole batch, about two
/// kilobytes a key.
const KEYS_MAX: usize = 4 * KEYS_DUE;

/// Up to where the records are the catalogue.
#[derive(Serialize, Deserialize)]
pub(crate) struct Marker {
    pub(crate) last: Option<LogId>,
    pub(crate) at: Timestamp,
}

/// What is to be done after entries were applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Later,
    /// Give [`Records::write`] to the database.
    Now,
    /// Give it and wait for it.
    Overdue,
}

/// What is applied but not written.
#[derive(Default)]
pub(crate) struct Records {
    /// Guards what is gathered; held for as long as keys are put in or taken out.
    gathered: Mutex<Gathered>,
}

#[derive(Default)]
struct Gathered {
    keys: BTreeSet<Vec<u8>>,
    latest: Option<Arc<Local>>,
    begun: Option<Instant>,
    /// A write is on its way.
    given: bool,
    failed: Option<String>,
}

impl Records {
    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an applied entry: the keys that it changed and what came out.
    ///
    /// # Errors
    /// What the database said when it failed before.
    pub(crate) fn note(&self, keys: Vec<Vec<u8>>, local: &Arc<Local>) -> Result<(), String> {
        let mut gathered = self.gathered();
        if let Some(failed) = &gathered.failed {
            return Err(failed.clone());
        }
        gathered.keys.extend(keys);
        gathered.latest = Some(Arc::clone(local));
        gathered.begun.get_or_insert_with(clock::now);
        Ok(())
    }

    /// Whether a write is due; it then counts as given.
    pub(crate) fn due(&self) -> Due {
        let mut gathered = self.gathered();
        let keys = gathered.keys.len();
        if keys > KEYS_MAX {
            return Due::Overdue;
        }
        let is_old = gathered.begun.is_some_and(|begun| begun.elapsed() >= GATHER);
        if gathered.given || !(is_old || keys > KEYS_DUE) {
            return Due::Later;
        }
        gathered.given = true;
        Due::Now
    }

    /// Writes what was gathered; fails for good once it has failed, so that no log is purged that is still needed. For the
    /// database's lane.
    pub(crate) fn write(&self, engine: &dyn Engine) -> Result<(), EngineError> {
        let (keys, latest) = {
            let mut gathered = self.gathered();
            if gathered.failed.is_some() {
                return Err(EngineError::Broken);
            }
            gathered.given = false;
            gathered.begun = None;
            (std::mem::take(&mut gathered.keys), gathered.latest.take())
        };
        let Some(local) = latest else { return Ok(()) };
        let written = local_writes(keys, &local).and_then(|writes| engine.write(Space::Catalogue, writes));
        if let Err(error) = &written {
            // What was taken out is lost to this process; it ends, and the log has it.
            self.gathered().failed = Some(error.to_string());
        }
        written
    }

    /// Drops what was gathered, because other records take their place. For the database's lane.
    pub(crate) fn forget(&self) {
        let failed = self.gathered().failed.clone();
        *self.gathered() = Gathered {
            failed,
            ..Gathered::default()
        };
    }
}

fn local_writes(keys: BTreeSet<Vec<u8>>, local: &Local) -> Result<Writes, EngineError> {
    let mut writes = Writes::default();
    for key in keys {
        match local.state.record(&key) {
            Some(value) => writes.put(record_key(&key), value),
            None => writes.delete(record_key(&key)),
        }
    }
    mark(&mut writes, local)?;
    Ok(writes)
}

/// Adds who the members are and up to where the records go.
pub(crate) fn mark(writes: &mut Writes, local: &Local) -> Result<(), EngineError> {
    let failed = |error: super::type_config::CodecError| EngineError::Encode { source: error.into() };
    let membership = encode("membership", &local.membership).map_err(failed)?;
    writes.put(MEMBERSHIP.to_vec(), membership);
    let marker = Marker {
        last: local.last,
        at: local.at,
    };
    writes.put(MARKER.to_vec(), encode("applied marker", &marker).map_err(failed)?);
    Ok(())
}

/// Where a record lies.
pub(crate) fn record_key(key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(RECORD);
    prefixed.extend_from_slice(key);
    prefixed
}
