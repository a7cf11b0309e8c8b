//! The store alone: openraft's own suite, and what it does not ask.

use std::sync::Arc;

use mesh::{ops::Metrics, runtime::Tasks};
use openraft::{
    storage::RaftLogStorage,
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use crate::{
    catalog::State,
    raft::{
        disk::Disk,
        log::{Limits, LogStore},
        snapshot::{self, Shelf, SnapshotError},
        state_machine::{StateMachine, header},
        storage::Storage,
        type_config::{Membership, StorageError, TypeConfig, Vote},
    },
    watch::NoPublish,
};

struct Builder;

/// Closes the database before the folder goes.
struct Guard {
    _folder: TempDir,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let storage = Storage::directory(folder.path().to_owned());
        let tasks = Tasks::default();
        let disk = Disk::open(storage, &Metrics::default(), &tasks).await.unwrap();
        let shelf = Shelf::open(Arc::clone(&disk.files)).unwrap();
        let log = LogStore::open(1, disk.clone(), None, None, Limits::within(1 << 20), &tasks).await?;
        let (machine, _) = StateMachine::open(disk, shelf, Arc::new(NoPublish)).await?;
        Ok((Guard { _folder: folder }, log, machine))
    }
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

/// Followers may hold entries of its last term that it was still flushing: in that term it must write no others.
#[tokio::test]
async fn a_leader_that_starts_again_has_to_be_elected_again() {
    let (_guard, mut log, _) = Builder.build().await.unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    let others = Vote::new_committed(4, 2);
    log.save_vote(&others).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(others));
}

#[test]
fn a_snapshot_with_any_byte_changed_or_cut_is_refused() {
    let state = State::default();
    let mut bytes = Vec::new();
    snapshot::write(
        &mut bytes,
        &header(&state, None, Default::default(), &Membership::default()),
        &state,
    )
    .unwrap();
    let (_, read) = snapshot::read(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.records().collect::<Vec<_>>(), state.records().collect::<Vec<_>>());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(
            snapshot::read(&mut damaged.as_slice()).is_err(),
            "byte {at} of {}",
            bytes.len()
        );
        assert!(
            snapshot::read(&mut &bytes[..at]).is_err(),
            "cut at {at} of {}",
            bytes.len()
        );
    }
    let newer = [b"ISTHSNAP".as_slice(), &9_u32.to_be_bytes()].concat();
    assert!(matches!(
        snapshot::read(&mut newer.as_slice()),
        Err(SnapshotError::Newer { found: 9 })
    ));
}
