//! The log and the vote as openraft drives them. Promises that an entry whose callback was called, and a vote whose saving
//! returned, survive a cut of the power, and that log and vote are written in the order given.
#![expect(clippy::result_large_err, reason = "the error is openraft's, and ends the node")]

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mesh::runtime::{OnExit, Tasks, clock};
use openraft::{
    AnyError, CommittedLeaderId, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{Limits, Log, LogError, Pending, Shape, recent::Recent, recover};
use crate::raft::{
    disk::{Disk, DiskError, Lane},
    state_machine::Applied,
    storage::{Engine, EngineError, Space, Writes},
    type_config::{Entry, LogId, StorageError, TypeConfig, Vote, any, decode, encode, read_failed, write_failed},
};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
/// What one append to a follower carries at most, unless a single entry is longer.
const APPEND_BYTES_MAX: usize = 1 << 20;

/// The log of one node; clones read and write the same.
#[derive(Clone)]
pub(crate) struct LogStore {
    disk: Disk,
    log: Lane<Log>,
    shape: Arc<Shape>,
    /// What the records hold; none where nothing keeps records (a log alone).
    applied: Option<Applied>,
    tasks: Tasks,
    me: u64,
    /// Guards what is in memory only; never held over a wait.
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    recent: Recent,
    last: Option<LogId>,
    purged: Option<LogId>,
    committed: Option<LogId>,
    /// The saved one.
    vote: Option<Vote>,
    /// Up to here the database says that the log is purged. Only the database's lane looks at it.
    marked: Option<LogId>,
}

impl LogStore {
    /// Opens the log beside an open database. Finishes a purge that was cut off. `proven` = an entry that is committed, as
    /// the node's own snapshot says.
    pub(crate) async fn open(
        me: u64,
        disk: Disk,
        applied: Option<Applied>,
        proven: Option<LogId>,
        limits: Limits,
        tasks: &Tasks,
    ) -> Result<Self, StorageError> {
        let purged = purged(&disk).await?;
        let files = Arc::clone(&disk.files);
        let log = disk
            .lane("raft-log", tasks, move || recover(files, purged, limits))
            .await;
        let log = log.map_err(|error| read_failed(&error))?;
        let known = log
            .run(|log| Ok::<_, LogError>((log.last(), log.committed()?, log.shape())))
            .await;
        let (last, committed, shape) = known.map_err(|error| read_failed(&error))?;
        let known = Known {
            last,
            purged,
            committed: committed.max(proven.filter(|proven| Some(*proven) <= last)),
            marked: purged,
            ..Known::default()
        };
        Ok(Self {
            disk,
            log,
            shape,
            applied,
            tasks: tasks.clone(),
            me,
            known: Arc::new(Mutex::new(known)),
        })
    }

    /// The newest entry.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.known().last
    }

    /// What the keeper needs to know of it.
    pub(crate) fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape)
    }

    /// The lane that owns it.
    pub(crate) fn lane(&self) -> Lane<Log> {
        self.log.clone()
    }

    /// Whether this node appends an entry as leader: a leader appends entries of its own term only, and whoever follows
    /// another one has saved a vote for it.
    fn leads(&self, entry: LogId) -> bool {
        let leads = |vote: Vote| {
            let (term, leader) = (vote.leader_id.term, vote.leader_id.node_id);
            vote.committed && leader == self.me && entry.leader_id == CommittedLeaderId::new(term, leader)
        };
        self.known().vote.is_some_and(leads)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let start = start.max(self.known().purged.map_or(0, |purged| purged.index + 1));
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.known().recent.range(start, end, bytes_max) {
            return Ok(entries);
        }
        let found = self.log.run(move |log| log.read(start, end, bytes_max)).await;
        let found = found.map_err(|error| read_failed(&error))?;
        let decode = |bytes: &Vec<u8>| decode("log entry", bytes).map_err(|error| read_failed(&error));
        found.iter().map(decode).collect()
    }

    /// Makes the records durable, notes up to where the log is purged, and only then deletes.
    async fn purge_durably(self, upto: LogId) -> Result<(), LogError> {
        let (known, records) = (Arc::clone(&self.known), self.disk.records());
        let mark = move |engine: &dyn Engine| {
            let is_older = |known: &Known| known.marked >= Some(upto);
            if is_older(&known.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(());
            }
            records.write(engine)?;
            let mut writes = Writes::default();
            let encoded =
                encode("purge marker", &upto).map_err(|error| EngineError::Encode { source: error.into() })?;
            writes.put(PURGED.to_vec(), encoded);
            engine.write(Space::Meta, writes)?;
            engine.sync()?;
            known.lock().unwrap_or_else(PoisonError::into_inner).marked = Some(upto);
            Ok(())
        };
        self.disk.run(mark).await?;
        self.log.run(move |log| log.purge(upto)).await
    }
}

async fn purged(disk: &Disk) -> Result<Option<LogId>, StorageError> {
    let bytes = disk.run(|engine| engine.get(Space::Meta, PURGED)).await;
    let bytes = bytes.map_err(|error| read_failed(&error))?;
    let decoded = bytes.map(|bytes| decode("purge marker", &bytes)).transpose();
    decoded.map_err(|error| read_failed(&error))
}

/// Writes the marker that replaces the log of a database that was filled from a snapshot.
pub(crate) fn mark_purged(engine: &dyn Engine, vote: &Vote, purged: &LogId) -> Result<(), StorageError> {
    let mut writes = Writes::default();
    let encoded = encode("vote", vote).map_err(|error| write_failed(&error))?;
    writes.put(VOTE.to_vec(), encoded);
    let encoded = encode("purge marker", purged).map_err(|error| write_failed(&error))?;
    writes.put(PURGED.to_vec(), encoded);
    engine.write(Space::Meta, writes).map_err(|error| write_failed(&error))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, APPEND_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let known = self.known();
        Ok(LogState {
            last_purged_log_id: known.purged,
            last_log_id: known.last.max(known.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let encoded = encode("vote", vote).map_err(|error| write_failed(&error))?;
        let save = move |engine: &dyn Engine| {
            let mut writes = Writes::default();
            writes.put(VOTE.to_vec(), encoded);
            engine.write(Space::Meta, writes)?;
            engine.sync()
        };
        self.disk.run(save).await.map_err(|error| write_failed(&error))?;
        self.known().vote = Some(*vote);
        Ok(())
    }

    /// A leader that starts again is a follower until it is elected anew, in a later term: its followers may hold entries of
    /// its last term that it was still flushing, and whatever it wrote in that term now would have the same ids.
    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let bytes = self.disk.run(|engine| engine.get(Space::Meta, VOTE)).await;
        let bytes = bytes.map_err(|error| read_failed(&error))?;
        let decoded = bytes.map(|bytes| decode("vote", &bytes)).transpose();
        let mut vote: Option<Vote> = decoded.map_err(|error| read_failed(&error))?;
        if let Some(vote) = &mut vote {
            vote.committed &= vote.leader_id.node_id != self.me;
        }
        self.known().vote = vote;
        Ok(vote)
    }

    /// Goes to the disk with the next append: a start applies up to there by itself, and may know less than was committed.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let mut known = self.known();
        known.committed = known.committed.max(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.known().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut pending = Vec::new();
        for entry in entries {
            let payload = encode("log entry", &entry).map_err(|error| write_failed(&error))?;
            let log_id = entry.log_id;
            let mut known = self.known();
            known.recent.push(entry, payload.len());
            known.last = Some(log_id);
            pending.push(Pending { log_id, payload });
        }
        let committed = self.known().committed.map_or(0, |committed| committed.index);
        let seconds = self.disk.sync_seconds();
        let ahead = self.disk.ahead();
        if ahead.has_failed() {
            return Err(write_failed(&LogError::Broken));
        }
        let last = pending.last().map(|entry| entry.log_id);
        let counts = last.filter(|last| self.leads(*last));
        let callback = match counts {
            Some(last) => {
                ahead.count(last);
                callback.log_io_completed(Ok(()));
                None
            }
            None => Some(callback),
        };
        let append = move |log: &mut Log| {
            let begun = clock::now();
            let done = log.append(&pending, committed);
            seconds.record(begun.elapsed().as_secs_f64());
            match (counts, &done) {
                (Some(last), Ok(())) => ahead.finish(last),
                (Some(_), Err(error)) => {
                    tracing::error!(error = %any(error), "the log could not be written; this node stops");
                    ahead.fail();
                }
                (None, _) => {}
            }
            if let Some(callback) = callback {
                callback.log_io_completed(done.map_err(|error| io::Error::other(any(&error))));
            }
        };
        // Readers find the entries in memory, or wait in the same queue behind this job.
        self.log.give(append).await.map_err(|error| write_failed(&error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.known().recent.truncate(log_id.index);
        let truncate = move |log: &mut Log| {
            log.truncate(log_id.index)?;
            Ok::<_, LogError>(log.last())
        };
        let last = self.log.run(truncate).await.map_err(|error| write_failed(&error))?;
        self.known().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let past_the_end = {
            let mut known = self.known();
            known.recent.purge(log_id.index);
            known.purged = known.purged.max(Some(log_id));
            known.last < Some(log_id)
        };
        let index = mesh::model::Revision(log_id.index);
        let is_applied = self
            .applied
            .as_ref()
            .is_none_or(|applied| applied.load().revision() >= index);
        let store = self.clone();
        if is_applied && !past_the_end {
            // Nothing waits for it: until it is done there is only more on the disk than needed.
            self.tasks.spawn("raft-purge", OnExit::Ignore, async move {
                let disk = store.disk.clone();
                if let Err(error) = store.purge_durably(log_id).await
                    && !disk.is_closed()
                {
                    tracing::error!(error = %any(&error), "old log entries could not be deleted");
                }
            });
            return Ok(());
        }
        // A snapshot is taking the place of the log. Nothing may be appended behind it before it is durable.
        if let Some(applied) = self.applied.as_ref().filter(|_| !is_applied)
            && !applied.reach(index).await
        {
            let failed = AnyError::error("the snapshot that replaces the log was not installed");
            return Err(openraft::StorageIOError::write_logs(failed).into());
        }
        store
            .purge_durably(log_id)
            .await
            .map_err(|error| write_failed(&error))?;
        let mut known = self.known();
        known.last = known.last.max(known.purged);
        Ok(())
    }
}

impl From<EngineError> for LogError {
    fn from(error: EngineError) -> Self {
        Self::Disk(DiskError::Engine(error))
    }
}
