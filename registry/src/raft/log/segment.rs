//! One file of the log. Promises that a file with a segment's name has a durable header, and that an append that returned is
//! durable.

use std::{io, sync::Arc};

use super::{
    Pending,
    frame::{self, HEAD_BYTES, HEADER_BYTES, Head},
};
use crate::raft::{
    storage::{File, Files},
    type_config::LogId,
};

/// In the data directory.
pub(super) const FOLDER: &str = "log";
/// What a segment is called before it is one.
const UNFINISHED: &str = "log/unfinished";
const SUFFIX: &str = ".log";

/// An open segment.
pub(super) struct Segment {
    /// Index of its first entry.
    pub(super) first: u64,
    file: Arc<dyn File>,
    offsets: Vec<u32>,
    end: u64,
    reserved: u64,
}

/// Its name in the data directory.
pub(super) fn name(first: u64) -> String {
    format!("{FOLDER}/{first:020}{SUFFIX}")
}

/// The first index that a name in the folder tells; none for other files.
pub(super) fn first(file: &str) -> Option<u64> {
    file.strip_suffix(SUFFIX)?.parse().ok()
}

impl Segment {
    /// A new one, durable with its name before it returns, so that an entry in it cannot lose its file.
    pub(super) fn create(files: &dyn Files, first: u64, reserve: u64) -> io::Result<Self> {
        let header = frame::header(first);
        let file = files.create(UNFINISHED)?;
        let prepared = (|| {
            file.reserve(reserve)?;
            file.write_at(0, &header)?;
            file.sync()
        })();
        if let Err(error) = prepared {
            // It may hold the last room that there is. When it cannot be removed either, the next start does it.
            let _ = files.remove(UNFINISHED);
            return Err(error);
        }
        files.rename(UNFINISHED, &name(first))?;
        files.sync_directory(FOLDER)?;
        Ok(Self {
            first,
            file,
            offsets: Vec::new(),
            end: HEADER_BYTES as u64,
            reserved: reserve,
        })
    }

    /// One that is there, as a scan has found it.
    pub(super) fn found(first: u64, file: Arc<dyn File>, offsets: Vec<u32>, end: u64) -> Self {
        Self {
            first,
            file,
            offsets,
            end,
            reserved: end,
        }
    }

    /// The index that follows its last entry.
    pub(super) fn next(&self) -> u64 {
        self.first + self.offsets.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Takes room for this many bytes more.
    pub(super) fn reserve(&mut self, ahead: u64) -> io::Result<()> {
        let upto = self.end + ahead;
        if upto > self.reserved {
            self.file.reserve(upto + ahead)?;
            self.reserved = upto + ahead;
        }
        Ok(())
    }

    /// Gives back what was reserved, because nothing follows.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.reserved = self.end;
        self.file.set_length(self.end)
    }

    /// One write and one flush. When it fails, the segment must not be used any more.
    pub(super) fn append(&mut self, entries: &[Pending], committed: u64) -> io::Result<()> {
        let bytes = entries.iter().map(|entry| HEAD_BYTES + entry.payload.len()).sum();
        let (mut out, mut offsets) = (Vec::with_capacity(bytes), Vec::with_capacity(entries.len()));
        for entry in entries {
            if entry.payload.len() > frame::PAYLOAD_BYTES_MAX {
                return Err(io::Error::other("an entry is over the limit of a frame"));
            }
            offsets.push(u32::try_from(self.end + out.len() as u64).map_err(io::Error::other)?);
            let head = Head {
                log_id: entry.log_id,
                durable: self.end,
                committed,
            };
            frame::encode(&mut out, &head, &entry.payload);
        }
        self.file.write_at(self.end, &out)?;
        self.file.sync()?;
        self.end += out.len() as u64;
        self.offsets.append(&mut offsets);
        Ok(())
    }

    /// Takes back what a failed append may have left; for the file's sake only, because nobody was told of it.
    pub(super) fn unwrite(&self) {
        // When this fails too, the next start finds a torn end and does the same.
        let _ = self.file.set_length(self.end);
    }

    /// The position of an entry, and its length with its head.
    fn place(&self, index: u64) -> Option<(u64, usize)> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        let begin = u64::from(*self.offsets.get(at)?);
        let end = self.offsets.get(at + 1).map_or(self.end, |next| u64::from(*next));
        Some((begin, usize::try_from(end - begin).ok()?))
    }

    /// How long an entry is on disk.
    pub(super) fn length(&self, index: u64) -> usize {
        self.place(index).map_or(0, |(_, length)| length)
    }

    /// An entry with its position.
    pub(super) fn read(&self, index: u64) -> io::Result<Pending> {
        let (at, length) = self.place(index).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; length];
        let read = self.file.read_at(at, &mut bytes)?;
        let whole = frame::decode(&bytes[..read]).filter(|(head, _)| head.log_id.index == index);
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {index} at byte {at} is damaged"),
            )
        };
        let (head, payload) = whole.ok_or_else(damaged)?;
        Ok(Pending {
            log_id: head.log_id,
            payload: payload.to_vec(),
        })
    }

    /// Removes the entries from `from` on, durably.
    pub(super) fn cut(&mut self, from: u64) -> io::Result<()> {
        let Some((at, _)) = self.place(from) else {
            return Ok(());
        };
        self.file.set_length(at)?;
        self.file.sync()?;
        self.offsets
            .truncate(usize::try_from(from - self.first).unwrap_or(usize::MAX));
        (self.end, self.reserved) = (at, at);
        Ok(())
    }

    pub(super) fn last(&self) -> io::Result<Option<LogId>> {
        match self.offsets.len() {
            0 => Ok(None),
            _ => self.read(self.next() - 1).map(|entry| Some(entry.log_id)),
        }
    }
}
