//! The log and the vote on disk. Promises that an entry whose callback was called, and a vote whose saving returned,
//! survive a cut of the disk, and that log and vote are written in the order given.
//!
//! Does not save the commit index: what is applied is marked with the records, and a leader commits an entry of its own
//! before it serves linearizable reads (see `read`).
#![expect(clippy::result_large_err, reason = "the error is openraft's, and ends the node")]

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, ControlFlow, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};

use super::{
    disk::Disk,
    storage::{Engine, EngineError, Space, Writes},
    type_config::{Entry, LogId, StorageError, TypeConfig, Vote, decode, encode, read_failed, write_failed},
};

const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";
/// Recent entries stay in memory: followers and the state machine would otherwise each read and decode them again.
const RECENT_BYTES_MAX: usize = 4 << 20;
const RECENT_ENTRIES_MAX: usize = 1024;
/// What one append to a follower carries at most, unless a single entry is longer.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Keys in one deletion.
const DELETE_MAX: usize = 1000;

/// The log of one node; clones read and write the same.
#[derive(Clone)]
pub(crate) struct LogStore {
    disk: Disk,
    /// Guards the recent entries only; never held over a wait.
    recent: Arc<Mutex<Recent>>,
}

/// Consecutive entries up to the newest, with their encoded lengths.
#[derive(Default)]
struct Recent {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
}

impl Recent {
    fn push(&mut self, entry: Entry, bytes: usize) {
        let follows = self
            .entries
            .back()
            .is_none_or(|(last, _)| last.log_id.index + 1 == entry.log_id.index);
        if !follows {
            *self = Self::default();
        }
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.entries.len() > RECENT_ENTRIES_MAX || (self.bytes > RECENT_BYTES_MAX && self.entries.len() > 1) {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    fn truncate(&mut self, from: u64) {
        while self.entries.back().is_some_and(|(last, _)| last.log_id.index >= from) {
            self.bytes -= self.entries.pop_back().map_or(0, |(_, bytes)| bytes);
        }
    }

    fn purge(&mut self, upto: u64) {
        while self
            .entries
            .front()
            .is_some_and(|(first, _)| first.log_id.index <= upto)
        {
            self.bytes -= self.entries.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// The entries from `start` to before `end`, if all that exist of them are here.
    fn range(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.0.log_id.index;
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let mut bytes = 0;
        let take = |(entry, length): &&(Entry, usize)| {
            let first = bytes == 0;
            bytes += length;
            entry.log_id.index < end && (first || bytes <= bytes_max)
        };
        let found = self.entries.iter().skip(skip).take_while(take);
        Some(found.map(|(entry, _)| entry.clone()).collect())
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn index(key: &[u8]) -> u64 {
    key.try_into().map_or(0, u64::from_be_bytes)
}

impl LogStore {
    /// The log of an open database. Finishes a purge that was cut off.
    pub(crate) async fn open(disk: Disk) -> Result<Self, StorageError> {
        let store = Self {
            disk,
            recent: Arc::default(),
        };
        if let Some(purged) = store.purged().await? {
            let deleted = store.disk.run(move |engine| delete_upto(engine, purged.index)).await;
            deleted.map_err(|error| write_failed(&error))?;
        }
        Ok(store)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn purged(&self) -> Result<Option<LogId>, StorageError> {
        let bytes = self.disk.run(|engine| engine.get(Space::Meta, PURGED)).await;
        let bytes = bytes.map_err(|error| read_failed(&error))?;
        let decoded = bytes.map(|bytes| decode("purge marker", &bytes)).transpose();
        decoded.map_err(|error| read_failed(&error))
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.recent().range(start, end, bytes_max) {
            return Ok(entries);
        }
        let scan = move |engine: &dyn Engine| {
            let (mut found, mut bytes) = (Vec::new(), 0);
            engine.scan(Space::Log, &key(start), &mut |at, value| {
                bytes += value.len();
                if index(at) >= end || (!found.is_empty() && bytes > bytes_max) {
                    return ControlFlow::Break(());
                }
                found.push(value.to_vec());
                ControlFlow::Continue(())
            })?;
            Ok(found)
        };
        let found = self.disk.run(scan).await.map_err(|error| read_failed(&error))?;
        let decode = |bytes: &Vec<u8>| decode("log entry", bytes).map_err(|error| read_failed(&error));
        found.iter().map(decode).collect()
    }
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

/// Deletes from the front, so that no hole is left when it is cut off.
fn delete_upto(engine: &dyn Engine, upto: u64) -> Result<(), EngineError> {
    loop {
        let mut writes = Writes::default();
        let mut left = DELETE_MAX;
        engine.scan(Space::Log, &key(0), &mut |at, _| {
            if index(at) > upto || left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            writes.delete(at.to_vec());
            ControlFlow::Continue(())
        })?;
        if writes.is_empty() {
            return Ok(());
        }
        engine.write(Space::Log, writes)?;
    }
}

/// Deletes from the end, so that no hole is left when it is cut off.
fn delete_from(engine: &dyn Engine, from: u64) -> Result<(), EngineError> {
    let mut keys = Vec::new();
    engine.scan(Space::Log, &key(from), &mut |at, _| {
        keys.push(at.to_vec());
        ControlFlow::Continue(())
    })?;
    for chunk in keys.rchunks(DELETE_MAX) {
        let mut writes = Writes::default();
        chunk.iter().for_each(|at| writes.delete(at.clone()));
        engine.write(Space::Log, writes)?;
    }
    Ok(())
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
        let purged = self.purged().await?;
        let last = self.disk.run(|engine| engine.last(Space::Log)).await;
        let last = last.map_err(|error| read_failed(&error))?;
        let last = last.map(|(_, bytes)| decode::<Entry>("log entry", &bytes)).transpose();
        let last = last.map_err(|error| read_failed(&error))?;
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last.map(|entry| entry.log_id).max(purged),
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
        self.disk.run(save).await.map_err(|error| write_failed(&error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let bytes = self.disk.run(|engine| engine.get(Space::Meta, VOTE)).await;
        let bytes = bytes.map_err(|error| read_failed(&error))?;
        let decoded = bytes.map(|bytes| decode("vote", &bytes)).transpose();
        decoded.map_err(|error| read_failed(&error))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Writes::default();
        for entry in entries {
            let encoded = encode("log entry", &entry).map_err(|error| write_failed(&error))?;
            self.recent().push(entry.clone(), encoded.len());
            writes.put(key(entry.log_id.index).to_vec(), encoded);
        }
        let seconds = self.disk.sync_seconds();
        let append = move |engine: &dyn Engine| {
            let done = engine
                .write(Space::Log, writes)
                .and_then(|()| Disk::timed_sync(&seconds, engine));
            callback.log_io_completed(done.map_err(|error| io::Error::other(super::type_config::any(&error))));
        };
        // Readers find the entries in memory, or wait in the same queue behind this job.
        self.disk.give(append).await.map_err(|error| write_failed(&error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.recent().truncate(log_id.index);
        let truncate = move |engine: &dyn Engine| {
            delete_from(engine, log_id.index)?;
            engine.sync()
        };
        self.disk.run(truncate).await.map_err(|error| write_failed(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.recent().purge(log_id.index);
        let encoded = encode("purge marker", &log_id).map_err(|error| write_failed(&error))?;
        let purge = move |engine: &dyn Engine| {
            let mut writes = Writes::default();
            writes.put(PURGED.to_vec(), encoded);
            engine.write(Space::Meta, writes)?;
            // The records that these entries made must be durable before the entries go, and the marker too.
            engine.sync()?;
            delete_upto(engine, log_id.index)
        };
        self.disk.run(purge).await.map_err(|error| write_failed(&error))
    }
}
