//! Applies committed entries to the catalogue and publishes what came out. Promises that one entry's records and the
//! marker that it is applied are on disk together or not at all, and that states are published in the order of the log.
//!
//! Writes are not flushed here: the log is durable, and what a cut of the disk takes away is applied again from it.
#![expect(clippy::result_large_err, reason = "the error is openraft's, and ends the node")]

use std::{ops::ControlFlow, sync::Arc};

use arc_swap::ArcSwap;
use mesh::{
    model::{Revision, Timestamp},
    runtime::clock,
};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError, storage::RaftStateMachine};
use tokio::sync::watch;

use super::{
    disk::Disk,
    snapshot::{self, Header, Shelf, SnapshotError},
    storage::{Blob, Engine, EngineError, Sequential, Space, Writes},
    type_config::{
        Entry, LogId, Membership, Snapshot, SnapshotMeta, StorageError, TypeConfig, any, decode, encode, read_failed,
        write_failed,
    },
};
use crate::{
    catalog::{Change, Reply, State},
    watch::{Publish, Published},
};

/// Before the keys of records, so that markers and records share a table and therefore a batch.
const RECORD: u8 = b'r';
const MARKER: &[u8] = b"m/applied";
const MEMBERSHIP: &[u8] = b"m/membership";
/// In `Meta`: a snapshot is being put in the place of the records.
const INSTALLING: &[u8] = b"installing";
/// Records in one write while a snapshot is put in place.
const INSTALL_RECORDS_MAX: usize = 256;
/// Entries in one job of the disk's thread.
const APPLY_ENTRIES_MAX: usize = 64;

/// What is applied, for readers that take no lock.
pub(crate) struct Local {
    pub(crate) state: Arc<State>,
    pub(crate) last: Option<LogId>,
    pub(crate) at: Timestamp,
    /// Committed, because applied.
    pub(crate) membership: Membership,
}

impl Local {
    pub(crate) fn revision(&self) -> Revision {
        Revision(self.last.map_or(0, |last| last.index))
    }
}

/// The reading end of a state machine.
#[derive(Clone)]
pub(crate) struct Applied {
    current: Arc<ArcSwap<Local>>,
    revision: watch::Receiver<Revision>,
}

impl Applied {
    pub(crate) fn load(&self) -> Arc<Local> {
        self.current.load_full()
    }

    /// Returns once `revision` is applied; false when the node has stopped.
    pub(crate) async fn reach(&self, revision: Revision) -> bool {
        let mut watch = self.revision.clone();
        watch.wait_for(|applied| *applied >= revision).await.is_ok()
    }
}

/// The catalogue of one node as openraft drives it.
pub(crate) struct StateMachine {
    disk: Disk,
    shelf: Shelf,
    publish: Arc<dyn Publish>,
    state: State,
    last: Option<LogId>,
    at: Timestamp,
    membership: Membership,
    current: Arc<ArcSwap<Local>>,
    revision: watch::Sender<Revision>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Marker {
    last: Option<LogId>,
    at: Timestamp,
}

impl StateMachine {
    /// Reads the records back, publishes them, and makes sure that there is a snapshot for followers where the log does
    /// not begin at its first entry.
    pub(crate) async fn open(
        disk: Disk,
        shelf: Shelf,
        publish: Arc<dyn Publish>,
    ) -> Result<(Self, Applied), StorageError> {
        finish_install(&disk, &shelf).await?;
        let loaded = disk.run(load).await.map_err(|error| read_failed(&error))?;
        let marker = loaded
            .marker
            .map(|bytes| decode::<Marker>("applied marker", &bytes))
            .transpose();
        let marker = marker.map_err(|error| read_failed(&error))?;
        let membership = loaded
            .membership
            .map(|bytes| decode::<Membership>("membership", &bytes))
            .transpose();
        let membership = membership.map_err(|error| read_failed(&error))?.unwrap_or_default();
        let state = State::from_records(loaded.records).map_err(|error| read_failed(&error))?;
        let (last, at) = marker.map_or((None, Timestamp::default()), |marker| (marker.last, marker.at));
        let local = Local {
            state: Arc::new(state.clone()),
            last,
            at,
            membership: membership.clone(),
        };
        let (revision, applied) = watch::channel(local.revision());
        let machine = Self {
            disk,
            shelf,
            publish,
            state,
            last,
            at,
            membership,
            current: Arc::new(ArcSwap::from_pointee(local)),
            revision,
        };
        machine.show(machine.local(), Vec::new(), true);
        let applied = Applied {
            current: Arc::clone(&machine.current),
            revision: applied,
        };
        Ok((machine, applied))
    }

    /// One entry: its replies, its changes, and what has to be written for it.
    fn step(&mut self, entry: Entry) -> Result<(Step, Local), StorageError> {
        self.last = Some(entry.log_id);
        let mut step = Step::default();
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => {
                self.at = batch.at;
                let applied = self.state.apply(Revision(entry.log_id.index), &batch);
                for dirty in applied.dirty {
                    let key = record_key(&dirty);
                    match self.state.record(&dirty) {
                        Some(value) => step.writes.put(key, value),
                        None => step.writes.delete(key),
                    }
                }
                (step.replies, step.changes) = (applied.replies, applied.changes);
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
                let encoded = encode("membership", &self.membership).map_err(|error| write_failed(&error))?;
                step.writes.put(MEMBERSHIP.to_vec(), encoded);
            }
        }
        step.writes.put(MARKER.to_vec(), marker(self.last, self.at)?);
        Ok((step, self.local()))
    }

    async fn apply_some(&mut self, entries: Vec<Entry>, replies: &mut Vec<Vec<Reply>>) -> Result<(), StorageError> {
        let begun = clock::now();
        let (mut writes, mut steps) = (Vec::new(), Vec::new());
        for entry in entries {
            let (mut step, local) = self.step(entry)?;
            writes.push(std::mem::take(&mut step.writes));
            steps.push((step, local));
        }
        let written = self
            .disk
            .run(|engine| {
                let mut writes = writes.into_iter();
                writes.try_for_each(|writes| engine.write(Space::Catalogue, writes))
            })
            .await;
        written.map_err(|error| StorageIOError::apply(self.last.unwrap_or_default(), any(&error)))?;
        self.disk.apply_seconds().record(begun.elapsed().as_secs_f64());
        for (step, local) in steps {
            self.show(local, step.changes, false);
            replies.push(step.replies);
        }
        Ok(())
    }

    /// Shows a state to readers and to the hub.
    fn show(&self, local: Local, changes: Vec<Change>, reset: bool) {
        let (state, revision, at) = (Arc::clone(&local.state), local.revision(), local.at);
        self.current.store(Arc::new(local));
        self.publish.publish(Published {
            state,
            revision,
            at,
            changes,
            reset,
        });
        // Last, so that whoever waited for the revision finds it in the hub too.
        self.revision.send_replace(revision);
    }

    fn local(&self) -> Local {
        Local {
            state: Arc::new(self.state.clone()),
            last: self.last,
            at: self.at,
            membership: self.membership.clone(),
        }
    }
}

/// One entry, applied in memory.
#[derive(Default)]
struct Step {
    replies: Vec<Reply>,
    changes: Vec<Change>,
    writes: Writes,
}

fn record_key(key: &[u8]) -> Vec<u8> {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(RECORD);
    prefixed.extend_from_slice(key);
    prefixed
}

fn marker(last: Option<LogId>, at: Timestamp) -> Result<Vec<u8>, StorageError> {
    encode("applied marker", &Marker { last, at }).map_err(|error| write_failed(&error))
}

struct Loaded {
    marker: Option<Vec<u8>>,
    membership: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

fn load(engine: &dyn Engine) -> Result<Loaded, EngineError> {
    let mut records = Vec::new();
    engine.scan(Space::Catalogue, &[RECORD], &mut |key, value| {
        let Some((&RECORD, key)) = key.split_first() else {
            return ControlFlow::Break(());
        };
        records.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok(Loaded {
        marker: engine.get(Space::Catalogue, MARKER)?,
        membership: engine.get(Space::Catalogue, MEMBERSHIP)?,
        records,
    })
}

/// Puts a snapshot that is kept on the shelf in the place of all records. A start finishes it when it is cut off: until
/// then the note `INSTALLING` stands.
pub(crate) fn install(engine: &dyn Engine, header: &Header, state: &State) -> Result<(), StorageError> {
    let failed = |error: EngineError| write_failed(&error);
    let mut note = Writes::default();
    note.put(INSTALLING.to_vec(), header.id.clone().into_bytes());
    engine.write(Space::Meta, note).map_err(failed)?;
    engine.sync().map_err(failed)?;
    engine.clear(Space::Catalogue).map_err(failed)?;
    let (mut writes, mut count) = (Writes::default(), 0);
    for (key, value) in state.records() {
        writes.put(record_key(&key), value);
        count += 1;
        if count % INSTALL_RECORDS_MAX == 0 {
            engine
                .write(Space::Catalogue, std::mem::take(&mut writes))
                .map_err(failed)?;
        }
    }
    writes.put(MARKER.to_vec(), marker(header.last, header.at)?);
    let membership = encode("membership", &header.membership).map_err(|error| write_failed(&error))?;
    writes.put(MEMBERSHIP.to_vec(), membership);
    engine.write(Space::Catalogue, writes).map_err(failed)?;
    engine.sync().map_err(failed)?;
    let mut note = Writes::default();
    note.delete(INSTALLING.to_vec());
    engine.write(Space::Meta, note).map_err(failed)?;
    engine.sync().map_err(failed)
}

async fn finish_install(disk: &Disk, shelf: &Shelf) -> Result<(), StorageError> {
    let noted = disk.run(|engine| engine.get(Space::Meta, INSTALLING)).await;
    if noted.map_err(|error| read_failed(&error))?.is_none() {
        return Ok(());
    }
    let shelf = shelf.clone();
    let read = blocking(disk, move || match shelf.newest()? {
        Some((_, file)) => snapshot::read(&mut snapshot::reader(Sequential::new(file))).map(Some),
        None => Ok(None),
    });
    let (header, state) = read.await?.ok_or_else(|| {
        let lost = AnyError::error("a snapshot was being installed and its file is gone; add this node anew");
        StorageError::from(StorageIOError::read_snapshot(None, lost))
    })?;
    install_on(disk, header, state).await
}

async fn install_on(disk: &Disk, header: Header, state: State) -> Result<(), StorageError> {
    let installed = disk.run(move |engine| Ok(install(engine, &header, &state))).await;
    installed.map_err(|error| write_failed(&error))?
}

/// File work away from the runtime's workers.
async fn blocking<T: Send + 'static>(
    disk: &Disk,
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, StorageError> {
    let done = disk.work(work).await;
    let done = done.map_err(|error| StorageError::from(StorageIOError::write_snapshot(None, any(&error))))?;
    done.map_err(|error| StorageIOError::write_snapshot(None, any(&error)).into())
}

/// A state at one entry, to be written while later ones are applied.
pub(crate) struct Builder {
    disk: Disk,
    shelf: Shelf,
    header: Header,
    state: State,
}

impl Builder {
    async fn build(&self) -> Result<Snapshot, StorageError> {
        let (shelf, header, state) = (self.shelf.clone(), self.header.clone(), self.state.clone());
        blocking(&self.disk, move || shelf.keep(&header, &state)).await?;
        // The log may be purged once this returns: what it made must be durable first.
        self.disk
            .run(|engine| engine.sync())
            .await
            .map_err(|error| write_failed(&error))?;
        current(&self.disk, &self.shelf).await?.ok_or_else(|| {
            let lost = AnyError::error("the snapshot just made is not readable; check the disk");
            StorageIOError::read_snapshot(None, lost).into()
        })
    }
}

async fn current(disk: &Disk, shelf: &Shelf) -> Result<Option<Snapshot>, StorageError> {
    let shelf = shelf.clone();
    let found = blocking(disk, move || shelf.newest()).await?;
    Ok(found.map(|(header, file)| Snapshot {
        meta: header.meta(),
        snapshot: Box::new(Blob::new(file, disk.has_threads())),
    }))
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        self.build().await
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), StorageError> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Vec<Reply>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut replies, mut group) = (Vec::new(), Vec::new());
        for entry in entries {
            group.push(entry);
            if group.len() == APPLY_ENTRIES_MAX {
                self.apply_some(std::mem::take(&mut group), &mut replies).await?;
            }
        }
        if !group.is_empty() {
            self.apply_some(group, &mut replies).await?;
        }
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            disk: self.disk.clone(),
            shelf: self.shelf.clone(),
            header: header(&self.state, self.last, self.at, &self.membership),
            state: self.state.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Blob>, StorageError> {
        let shelf = self.shelf.clone();
        let file = blocking(&self.disk, move || Ok(shelf.receive()?)).await?;
        Ok(Box::new(Blob::new(file, self.disk.has_threads())))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Box<Blob>) -> Result<(), StorageError> {
        let (file, shelf, meta) = (snapshot.into_sequential(), self.shelf.clone(), meta.clone());
        let kept = blocking(&self.disk, move || {
            let (mut header, state) = snapshot::read(&mut snapshot::reader(file))?;
            // What the leader says about it counts.
            (header.last, header.membership, header.id) = (meta.last_log_id, meta.last_membership, meta.snapshot_id);
            shelf.keep(&header, &state)?;
            Ok((header, state))
        });
        let (header, state) = kept.await?;
        install_on(&self.disk, header.clone(), state.clone()).await?;
        (self.state, self.last, self.at, self.membership) = (state, header.last, header.at, header.membership);
        self.show(self.local(), Vec::new(), true);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        if let Some(snapshot) = current(&self.disk, &self.shelf).await? {
            return Ok(Some(snapshot));
        }
        if self.last.is_none() {
            return Ok(None);
        }
        // Lost or damaged, while the log may no longer begin at its first entry: the records have it all.
        let builder = self.get_snapshot_builder().await;
        builder.build().await.map(Some)
    }
}

/// What a snapshot of this state says about itself.
pub(crate) fn header(state: &State, last: Option<LogId>, at: Timestamp, membership: &Membership) -> Header {
    let unique = fastrand::u32(..);
    let (term, index) = last.map_or((0, 0), |last| (last.leader_id.term, last.index));
    Header {
        last,
        membership: membership.clone(),
        id: format!("{term}-{index}-{unique:08x}"),
        at,
        region: state.region().cloned(),
        incarnation: state.incarnation(),
    }
}
