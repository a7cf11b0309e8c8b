//! Applies committed entries to the catalogue and publishes what came out. Promises that states are published in the order
//! of the log, and that what the database holds is the catalogue after one entry, with the marker which (see `records`).
//!
//! Nothing is written here: the log is durable, and what the records lack is applied again from it.
#![expect(clippy::result_large_err, reason = "the error is openraft's, and ends the node")]

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use mesh::{
    model::{Revision, Timestamp},
    runtime::clock,
};
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError, storage::RaftStateMachine};
use tokio::sync::watch;

use super::{
    disk::{Disk, DiskError},
    records::{Due, MARKER, MEMBERSHIP, Marker, RECORD, Records, mark, record_key},
    snapshot::{self, Header, Shelf, SnapshotError},
    storage::{Blob, Engine, EngineError, Sequential, Space, Writes},
    type_config::{
        Entry, LogId, Membership, Snapshot, SnapshotMeta, StorageError, TypeConfig, any, decode, read_failed,
        write_failed,
    },
};
use crate::{
    catalog::{Change, Loader, RecordError, Reply, State},
    watch::{Publish, Published},
};

/// In `Meta`: a snapshot is being put in the place of the records.
const INSTALLING: &[u8] = b"installing";
/// Records in one write while a snapshot is put in place.
const INSTALL_RECORDS_MAX: usize = 256;
/// Between attempts to write a snapshot while the disk is full.
const FULL_WAIT: Duration = Duration::from_secs(1);

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
    records: Arc<Records>,
    shelf: Shelf,
    publish: Arc<dyn Publish>,
    state: State,
    last: Option<LogId>,
    at: Timestamp,
    membership: Membership,
    current: Arc<ArcSwap<Local>>,
    revision: watch::Sender<Revision>,
}

impl StateMachine {
    /// Reads the records back and publishes them.
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
        let state = loaded.state.map_err(|error| read_failed(&error))?;
        let (last, at) = marker.map_or((None, Timestamp::default()), |marker| (marker.last, marker.at));
        let local = Local {
            state: Arc::new(state.clone()),
            last,
            at,
            membership: membership.clone(),
        };
        let (revision, applied) = watch::channel(local.revision());
        let machine = Self {
            records: disk.records(),
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
        machine.show(Arc::new(machine.local()), Vec::new(), true);
        let applied = Applied {
            current: Arc::clone(&machine.current),
            revision: applied,
        };
        Ok((machine, applied))
    }

    /// The last entry of the newest snapshot: it is committed, whatever else is known.
    pub(crate) async fn snapshot_last(&self) -> Result<Option<LogId>, StorageError> {
        let shelf = self.shelf.clone();
        let found = blocking(&self.disk, move || shelf.newest()).await?;
        Ok(found.and_then(|(header, _)| header.last))
    }

    /// Takes over the newest snapshot, which a crash has left received but not installed.
    pub(crate) async fn adopt_snapshot(&mut self) -> Result<(), StorageError> {
        let (header, state) = read_newest(&self.disk, &self.shelf).await?;
        self.replace(header, state).await
    }

    async fn replace(&mut self, header: Header, state: State) -> Result<(), StorageError> {
        install_on(&self.disk, header.clone(), state.clone()).await?;
        (self.state, self.last, self.at, self.membership) = (state, header.last, header.at, header.membership);
        self.show(Arc::new(self.local()), Vec::new(), true);
        Ok(())
    }

    /// One entry: its replies. What it changed is noted and shown.
    fn step(&mut self, entry: Entry) -> Result<Vec<Reply>, StorageError> {
        self.last = Some(entry.log_id);
        let (mut dirty, mut replies, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        match entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(batch) => {
                self.at = batch.at;
                let applied = self.state.apply(Revision(entry.log_id.index), &batch);
                (dirty, replies, changes) = (applied.dirty, applied.replies, applied.changes);
            }
            EntryPayload::Membership(membership) => {
                self.membership = Membership::new(Some(entry.log_id), membership);
            }
        }
        let local = Arc::new(self.local());
        let noted = self.records.note(dirty, &local);
        noted.map_err(|reason| StorageIOError::apply(entry.log_id, AnyError::error(reason)))?;
        self.show(local, changes, false);
        Ok(replies)
    }

    /// Gives what was gathered to the database when it is time, and waits only when that is long overdue.
    async fn hand_over(&self) -> Result<(), StorageError> {
        let records = Arc::clone(&self.records);
        let given = match self.records.due() {
            Due::Later => return Ok(()),
            Due::Now => {
                let write = move |engine: &dyn Engine| {
                    if let Err(error) = records.write(engine) {
                        tracing::error!(error = %any(&error), "the database failed; this node stops");
                    }
                };
                self.disk.give(write).await
            }
            Due::Overdue => self.disk.run(move |engine| records.write(engine)).await,
        };
        given.map_err(|error| StorageIOError::apply(self.last.unwrap_or_default(), any(&error)).into())
    }

    /// Shows a state to readers and to the hub.
    fn show(&self, local: Arc<Local>, changes: Vec<Change>, reset: bool) {
        let (state, revision, at) = (Arc::clone(&local.state), local.revision(), local.at);
        self.current.store(local);
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

struct Loaded {
    marker: Option<Vec<u8>>,
    membership: Option<Vec<u8>>,
    state: Result<State, RecordError>,
}

/// Decodes the records as they are read, so that they are never in memory twice.
fn load(engine: &dyn Engine) -> Result<Loaded, EngineError> {
    let (mut loader, mut failed) = (Loader::default(), None);
    engine.scan(Space::Catalogue, &[RECORD], &mut |key, value| {
        let Some((&RECORD, key)) = key.split_first() else {
            return ControlFlow::Break(());
        };
        match loader.add(key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    Ok(Loaded {
        marker: engine.get(Space::Catalogue, MARKER)?,
        membership: engine.get(Space::Catalogue, MEMBERSHIP)?,
        state: failed.map_or_else(|| loader.finish(), Err),
    })
}

/// Puts a snapshot that is kept on the shelf in the place of all records. A start finishes it when it is cut off: until
/// then the note `INSTALLING` stands.
pub(crate) fn install(engine: &dyn Engine, header: &Header, state: &State) -> Result<(), EngineError> {
    let mut note = Writes::default();
    note.put(INSTALLING.to_vec(), header.id.clone().into_bytes());
    engine.write(Space::Meta, note)?;
    engine.sync()?;
    engine.clear(Space::Catalogue)?;
    let (mut writes, mut count) = (Writes::default(), 0);
    for (key, value) in state.records() {
        writes.put(record_key(&key), value);
        count += 1;
        if count % INSTALL_RECORDS_MAX == 0 {
            engine.write(Space::Catalogue, std::mem::take(&mut writes))?;
        }
    }
    let local = Local {
        state: Arc::new(state.clone()),
        last: header.last,
        at: header.at,
        membership: header.membership.clone(),
    };
    mark(&mut writes, &local)?;
    engine.write(Space::Catalogue, writes)?;
    engine.sync()?;
    let mut note = Writes::default();
    note.delete(INSTALLING.to_vec());
    engine.write(Space::Meta, note)?;
    engine.sync()
}

async fn finish_install(disk: &Disk, shelf: &Shelf) -> Result<(), StorageError> {
    let noted = disk.run(|engine| engine.get(Space::Meta, INSTALLING)).await;
    if noted.map_err(|error| read_failed(&error))?.is_none() {
        return Ok(());
    }
    let (header, state) = read_newest(disk, shelf).await?;
    install_on(disk, header, state).await
}

async fn read_newest(disk: &Disk, shelf: &Shelf) -> Result<(Header, State), StorageError> {
    let shelf = shelf.clone();
    let read = blocking(disk, move || match shelf.newest()? {
        Some((_, file)) => snapshot::read(&mut snapshot::reader(Sequential::new(file))).map(Some),
        None => Ok(None),
    });
    read.await?.ok_or_else(|| {
        let lost = AnyError::error("a snapshot was being installed and its file is gone; add this node anew");
        StorageIOError::read_snapshot(None, lost).into()
    })
}

async fn install_on(disk: &Disk, header: Header, state: State) -> Result<(), StorageError> {
    let records = disk.records();
    let install = move |engine: &dyn Engine| {
        records.forget();
        install(engine, &header, &state)
    };
    disk.run(install).await.map_err(|error| write_failed(&error))
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
        keep(&self.disk, &self.shelf, &self.header, &self.state).await?;
        current(&self.disk, &self.shelf).await?.ok_or_else(|| {
            let lost = AnyError::error("the snapshot just made is not readable; check the disk");
            StorageIOError::read_snapshot(None, lost).into()
        })
    }
}

/// Keeps a snapshot; while the disk is full, waits for room: nothing is lost meanwhile but the purge of the log.
async fn keep(disk: &Disk, shelf: &Shelf, header: &Header, state: &State) -> Result<(), StorageError> {
    loop {
        let (shelf, header, state) = (shelf.clone(), header.clone(), state.clone());
        let kept = blocking(disk, move || match shelf.keep(&header, &state) {
            Err(error) if error.is_full() => Ok(false),
            kept => kept.map(|()| true),
        });
        if kept.await? {
            return Ok(());
        }
        if disk.is_closed() {
            return Err(write_failed(&DiskError::Gone));
        }
        tracing::warn!("there is no room for a snapshot; it is tried again until there is");
        tokio::time::sleep(FULL_WAIT).await;
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
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(last) = entries.last().map(|entry| entry.log_id) {
            let durable = self.disk.ahead().reach(last).await;
            durable.map_err(|error| StorageIOError::apply(last, any(&error)))?;
        }
        let (begun, mut replies) = (clock::now(), Vec::with_capacity(entries.len()));
        for entry in entries {
            replies.push(self.step(entry)?);
        }
        self.hand_over().await?;
        self.disk.apply_seconds().record(begun.elapsed().as_secs_f64());
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
        let received = blocking(&self.disk, move || {
            let (mut header, state) = snapshot::read(&mut snapshot::reader(file))?;
            // What the leader says about it counts.
            (header.last, header.membership, header.id) = (meta.last_log_id, meta.last_membership, meta.snapshot_id);
            Ok((header, state))
        });
        let (header, state) = received.await?;
        keep(&self.disk, &shelf, &header, &state).await?;
        self.replace(header, state).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        if let Some(snapshot) = current(&self.disk, &self.shelf).await? {
            return Ok(Some(snapshot));
        }
        if self.last.is_none() || !self.shelf.had_one() {
            return Ok(None); // at a start openraft has one built when the log no longer begins at its first entry
        }
        // Lost or damaged since: the records have it all.
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
