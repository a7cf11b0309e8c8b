//! A region's second life: makes a data directory from a saved snapshot. Promises a new incarnation, so that no old node,
//! subscriber or peer takes the new catalogue's revisions for those of the old one. Runs while no node does.

use std::{io::Read, path::Path};

use mesh::model::{Incarnation, RegionId, Revision};
use openraft::{CommittedLeaderId, Membership, StoredMembership};

use super::{
    Error, Node, Settings,
    log::mark_purged,
    owner::owner,
    snapshot::{self, Shelf, SnapshotError},
    state_machine::{header, install},
    storage::Storage,
    type_config::{LogId, Vote, any},
};

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Whose catalogue; none when the region was never initialised.
    pub region: Option<RegionId>,
    /// The entry up to which it goes.
    pub revision: Revision,
    /// Records in it.
    pub records: usize,
}

/// Reads all of a snapshot. Blocks.
///
/// # Errors
/// When a byte of it is damaged or missing.
pub fn inspect(mut from: impl Read) -> Result<Inspected, SnapshotError> {
    let (header, state) = snapshot::read(&mut from)?;
    Ok(Inspected {
        region: state.region().cloned(),
        revision: Revision(header.last.map_or(0, |last| last.index)),
        records: state.records().count(),
    })
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Whose catalogue; none when the region was never initialised.
    pub region: Option<RegionId>,
    /// The entry up to which the snapshot goes.
    pub revision: Revision,
    /// The new life.
    pub incarnation: Incarnation,
    /// Records in it.
    pub records: usize,
}

/// Fills an empty data directory. The node that starts with it is the group's only voter; do not initialise it. Blocks.
///
/// # Errors
/// When the snapshot is not whole, or the folder is not empty.
pub fn restore(settings: &Settings, node: Node, from: impl Read) -> Result<Restored, Error> {
    restore_on(Storage::directory(settings.data_dir.clone()), settings, node, from)
}

/// As [`restore`], on any storage.
///
/// # Errors
/// As [`restore`].
pub fn restore_on(storage: Storage, settings: &Settings, node: Node, mut from: impl Read) -> Result<Restored, Error> {
    let path = settings.data_dir.as_path();
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    for folder in ["db", "log", "snapshots"] {
        if !storage.files.list(folder).map_err(io)?.is_empty() {
            return Err(Error::NotEmpty { path: path.to_owned() });
        }
    }
    let (old, state) = snapshot::read(&mut from)?;
    let incarnation = another(old.incarnation);
    let state = state.with_incarnation(incarnation);
    let id = settings.node_id.0;
    let index = old.last.map_or(0, |last| last.index);
    // As if this node alone had led for ever, and its log up to here were purged. The term stays: only this group sees it.
    let term = old.last.map_or(1, |last| last.leader_id.term.max(1));
    let last = LogId::new(CommittedLeaderId::new(term, id), index);
    let members = Membership::new(vec![[id].into()], std::collections::BTreeMap::from([(id, node)]));
    let header = header(&state, Some(last), old.at, &StoredMembership::new(Some(last), members));
    storage.files.make_folder("").map_err(io)?;
    Shelf::open(storage.files).map_err(io)?.keep(&header, &state)?;
    let engine = (storage.engine)().map_err(|error| failed(path, any(&error).to_string()))?;
    let engine = &*engine;
    owner(engine, id).map_err(|error| failed(path, any(&error).to_string()))?;
    mark_purged(engine, &Vote::new(term, id), &last).map_err(|error| failed(path, error.to_string()))?;
    install(engine, &header, &state).map_err(|error| failed(path, any(&error).to_string()))?;
    engine.sync().map_err(|error| failed(path, any(&error).to_string()))?;
    Ok(Restored {
        region: state.region().cloned(),
        revision: Revision(index),
        incarnation,
        records: state.records().count(),
    })
}

fn failed(path: &Path, reason: String) -> Error {
    Error::Database {
        path: path.to_owned(),
        reason,
    }
}

/// Random, and not the old one.
fn another(old: Incarnation) -> Incarnation {
    loop {
        let new = Incarnation(fastrand::u64(1..));
        if new != old {
            return new;
        }
    }
}
