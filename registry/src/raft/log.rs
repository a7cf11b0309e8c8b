//! The log as append-only files. Promises that an entry whose append returned survives a cut of the power at any time,
//! and that a start finds exactly the entries that were acknowledged, and perhaps some of the last append that was not.
//! Refuses to start on a log of which durable bytes have changed.
//!
//! One append is one write and one `fdatasync`. What makes each point of a crash safe:
//!
//! * **A new segment** is written under another name, flushed, renamed, and its folder flushed, before an entry goes into
//!   it. So a segment's header is never torn; an unfinished file is removed at the next start. The segment before it was
//!   flushed with its last append, so only the newest one can have a torn end.
//! * **A torn end** is cut at the last whole frame, and the cut is flushed, before anything is appended. `frame` tells it
//!   from damage. What a killed process had written but not flushed may be found whole; a start flushes it first.
//! * **A purge** makes the records of the catalogue durable, then the marker of what is purged, both in the database; only
//!   then are files removed. A start removes the files before the newest one that begins at or before the marker's
//!   successor, whichever of them a crash has left.
//! * **A purge past the end**, when a snapshot takes the log's place, waits for the snapshot to be installed durably; the
//!   log is then empty and goes on behind the marker. Files that a crash has left lie wholly before it and are removed.
//! * **A truncation** removes the newest files one by one, each removal flushed, and then cuts the one that stays: what a
//!   crash leaves is always a beginning of the log.
//! * **After a failed write or flush** nothing is appended any more: the kernel may have dropped what it could not write.
//!   The node ends, and a start finds out what is durable.
//!
//! Each frame carries the newest index that was known to be committed, so that a start applies up to there by itself. Room
//! for the writes to come is taken from the disk ahead, so that a disk which others fill refuses proposals before it fails
//! an append.

pub(crate) mod ahead;
pub(crate) mod frame;
mod recent;
mod recovery;
mod segment;
mod store;

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use thiserror::Error;

pub(crate) use recovery::recover;
use segment::{FOLDER, Segment, name};
pub(crate) use store::{LogStore, mark_purged};

use super::{
    disk::DiskError,
    storage::{Files, is_full},
    type_config::LogId,
};

/// An entry, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) log_id: LogId,
    pub(crate) payload: Vec<u8>,
}

/// How large the files are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A segment that has grown to this is followed by another.
    pub(crate) segment_bytes: u64,
    /// Room that is taken ahead of the end.
    pub(crate) ahead_bytes: u64,
}

impl Limits {
    /// For a log that is bounded by so many bytes: whole segments are purged, so there are some of them.
    pub(crate) fn within(log_bytes: u64) -> Self {
        let segment_bytes = (log_bytes / 8).clamp(64 << 10, 16 << 20);
        Self {
            segment_bytes,
            ahead_bytes: (segment_bytes / 4).max(64 << 10),
        }
    }
}

/// Why the log cannot be used.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    #[error("{file} is not accessible")]
    File { file: String, source: io::Error },
    #[error(
        "{file} is damaged at byte {offset}, in what was durable: a disk or a file system has failed. This node cannot \
         vouch for its log; remove this node from the region and add it anew with an empty data directory"
    )]
    Damaged { file: String, offset: u64 },
    #[error(
        "{file} has log format {found}, this program knows {}; use the newer program that wrote it",
        frame::VERSION
    )]
    Newer { file: String, found: u32 },
    #[error(
        "entry {missing} of the log is missing before {file}: a file was removed or lost. Remove this node from the region \
         and add it anew with an empty data directory"
    )]
    Gap { file: String, missing: u64 },
    #[error("the log has failed before; this node must be started again")]
    Broken,
    #[error("entry {found} cannot follow entry {last} of the log")]
    Order { found: u64, last: u64 },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What others see of the log.
#[derive(Default)]
pub(crate) struct Shape {
    /// The segments' first indices and lengths. Guards nothing else.
    segments: Mutex<Vec<(u64, u64)>>,
    /// There is no room left for the writes to come.
    no_room: AtomicBool,
}

impl Shape {
    fn segments(&self) -> Vec<(u64, u64)> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments().iter().map(|(_, bytes)| bytes).sum()
    }

    /// How many files.
    pub(crate) fn files(&self) -> usize {
        self.segments().len()
    }

    /// About how many bytes lie behind an index: whole segments only.
    pub(crate) fn bytes_behind(&self, index: u64) -> u64 {
        let behind = self.segments().into_iter().filter(|(first, _)| *first > index);
        behind.map(|(_, bytes)| bytes).sum()
    }

    /// The index up to which entries go so that at most `bytes` stay. None: nothing has to go.
    pub(crate) fn surplus(&self, bytes: u64) -> Option<u64> {
        let segments = self.segments();
        let mut left: u64 = segments.iter().map(|(_, bytes)| bytes).sum();
        let mut upto = None;
        for pair in segments.windows(2) {
            if left <= bytes {
                break;
            }
            left -= pair[0].1;
            upto = pair[1].0.checked_sub(1);
        }
        upto
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.no_room.load(Ordering::Relaxed)
    }
}

/// The open log, owned by its lane.
pub(crate) struct Log {
    files: Arc<dyn Files>,
    limits: Limits,
    segments: VecDeque<Segment>,
    purged: Option<LogId>,
    last: Option<LogId>,
    committed: u64,
    broken: bool,
    shape: Arc<Shape>,
}

impl Log {
    /// The newest entry; the newest purged one when the log is empty.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last.max(self.purged)
    }

    /// The newest entry that was known to be committed before the start.
    pub(crate) fn committed(&self) -> Result<Option<LogId>, LogError> {
        let index = self.committed.min(self.last().map_or(0, |last| last.index));
        if index == 0 {
            return Ok(self.purged);
        }
        match self.segment(index) {
            Some(segment) => Ok(Some(self.named(segment.first, segment.read(index))?.log_id)),
            None => Ok(self.purged),
        }
    }

    pub(crate) fn shape(&self) -> Arc<Shape> {
        Arc::clone(&self.shape)
    }

    fn named<T>(&self, first: u64, done: io::Result<T>) -> Result<T, LogError> {
        done.map_err(|source| LogError::File {
            file: self.files.display(&name(first)),
            source,
        })
    }

    fn in_folder<T>(&self, done: io::Result<T>) -> Result<T, LogError> {
        done.map_err(|source| LogError::File {
            file: self.files.display(FOLDER),
            source,
        })
    }

    fn segment(&self, index: u64) -> Option<&Segment> {
        let at = self.segments.partition_point(|segment| segment.first <= index);
        let segment = self.segments.get(at.checked_sub(1)?)?;
        (index < segment.next()).then_some(segment)
    }

    fn sketch(&self) {
        let segments = self.segments.iter().map(|segment| (segment.first, segment.bytes()));
        *self.shape.segments.lock().unwrap_or_else(PoisonError::into_inner) = segments.collect();
    }

    /// Appends consecutive entries durably, with what is known to be committed.
    pub(crate) fn append(&mut self, entries: &[Pending], committed: u64) -> Result<(), LogError> {
        let (Some(begin), Some(end)) = (entries.first(), entries.last()) else {
            return Ok(());
        };
        if self.broken {
            return Err(LogError::Broken);
        }
        let found = begin.log_id.index;
        // What lies wholly before the marker does not count, and nothing has to follow it.
        let begins_anew = self.purged.filter(|purged| purged.index + 1 == found);
        if let Some(purged) = begins_anew.filter(|_| self.segments.back().is_some_and(|end| end.next() < found)) {
            self.purge(purged)?;
        }
        if let Some(active) = self.segments.back().filter(|active| active.next() != found) {
            let last = active.next().saturating_sub(1);
            return Err(LogError::Order { found, last });
        }
        // Until all of it is durable.
        self.broken = true;
        self.make_active(found)?;
        let Some(active) = self.segments.back_mut() else {
            return Err(LogError::Broken);
        };
        let (first, done) = (active.first, active.append(entries, committed));
        if done.is_err() {
            active.unwrite();
        }
        self.named(first, done)?;
        self.broken = false;
        self.last = Some(end.log_id);
        self.keep_room();
        self.sketch();
        Ok(())
    }

    /// Makes the last segment one that has place for entries from `first` on.
    fn make_active(&mut self, first: u64) -> Result<(), LogError> {
        let Limits {
            segment_bytes,
            ahead_bytes,
        } = self.limits;
        if self
            .segments
            .back()
            .is_some_and(|active| active.bytes() < segment_bytes)
        {
            return Ok(());
        }
        match Segment::create(&*self.files, first, segment_bytes + ahead_bytes) {
            Ok(next) => {
                if let Some(full) = self.segments.back_mut() {
                    let (at, done) = (full.first, full.finish());
                    self.named(at, done)?;
                }
                self.segments.push_back(next);
                Ok(())
            }
            // The room that was taken ahead is there for this; proposals are refused meanwhile.
            Err(error) if is_full(&error) && !self.segments.is_empty() => {
                self.shape.no_room.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => self.in_folder(Err(error)),
        }
    }

    /// Takes room for the writes to come, and says whether there is any.
    pub(crate) fn keep_room(&mut self) {
        let ahead = self.limits.ahead_bytes;
        let Some(active) = self.segments.back_mut() else {
            return;
        };
        let no_room = match active.reserve(ahead) {
            Err(error) => is_full(&error), // any other way to fail shows with the next append
            Ok(()) => false,
        };
        self.shape.no_room.store(no_room, Ordering::Relaxed);
    }

    /// The entries from `start` to before `end`; at most `bytes_max`, but at least one.
    pub(crate) fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let first = self.segments.front().map_or(u64::MAX, |segment| segment.first);
        for index in start.max(first)..end {
            let Some(segment) = self.segment(index) else { break };
            bytes += segment.length(index);
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            found.push(self.named(segment.first, segment.read(index))?.payload);
        }
        Ok(found)
    }

    /// Removes the entries from `from` on, durably.
    pub(crate) fn truncate(&mut self, from: u64) -> Result<(), LogError> {
        if self.broken {
            return Err(LogError::Broken);
        }
        self.broken = true;
        while let Some(newest) = self.segments.back().filter(|newest| newest.first >= from) {
            let removed = self.files.remove(&name(newest.first));
            self.named(newest.first, removed)?;
            self.in_folder(self.files.sync_directory(FOLDER))?;
            self.segments.pop_back();
        }
        if let Some(active) = self.segments.back_mut() {
            let (first, done) = (active.first, active.cut(from));
            self.named(first, done)?;
        }
        self.broken = false;
        self.last = None;
        for segment in self.segments.iter().rev() {
            self.last = self.named(segment.first, segment.last())?;
            if self.last.is_some() {
                break;
            }
        }
        self.sketch();
        Ok(())
    }

    /// Removes the files of which all entries are purged. The marker must be durable.
    pub(crate) fn purge(&mut self, upto: LogId) -> Result<(), LogError> {
        self.purged = self.purged.max(Some(upto));
        let past_the_end = self.segments.back().is_some_and(|active| active.next() <= upto.index);
        let keep = if past_the_end { 0 } else { 1 };
        let mut removed = false;
        while self.segments.len() > keep {
            let goes = self.segments.front().filter(|oldest| oldest.next() <= upto.index + 1);
            let Some(oldest) = goes else { break };
            let done = self.files.remove(&name(oldest.first));
            self.named(oldest.first, done)?;
            self.segments.pop_front();
            removed = true;
        }
        if removed {
            self.in_folder(self.files.sync_directory(FOLDER))?;
        }
        self.sketch();
        Ok(())
    }
}
