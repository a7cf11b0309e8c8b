//! A snapshot: the catalogue's records at one revision, as bytes that can prove themselves whole. Files are made under
//! another name and renamed when they are durable, so that a file with a snapshot's name is always complete.
//!
//! Layout: magic, version, then frames of `length, crc32, payload`. The first payload is the header, the others are
//! records; an empty frame and the number of records end it.

use std::{
    io::{self, BufReader, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use mesh::model::{Incarnation, RegionId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    storage::{File, Files, Record, Sequential, is_full},
    type_config::{LogId, Membership, SnapshotMeta},
};
use crate::{
    catalog::{Loader, RecordError, State},
    codec::encode_onto,
};

const MAGIC: &[u8; 8] = b"ISTHSNAP";
const VERSION: u32 = 1;
/// A frame is closed when it has grown to this.
const FRAME_BYTES: usize = 256 * 1024;
/// More than any frame that we write: a length beyond it is damage, and is not allocated.
const FRAME_BYTES_MAX: usize = 4 << 20;
const SUFFIX: &str = "snapshot";
/// In the data directory.
const FOLDER: &str = "snapshots";

/// Why a snapshot cannot be used.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The reading or writing itself failed.
    #[error("snapshot could not be read or written")]
    Io(#[from] io::Error),
    /// Some other file.
    #[error("this is no snapshot of an Isthmus registry; give a file made by `registry snapshot save`")]
    NotOurs,
    /// Made by a newer program.
    #[error("snapshot has version {found}, this program reads {VERSION}; use a newer one")]
    Newer {
        /// The version found.
        found: u32,
    },
    /// Bytes were changed or lost.
    #[error("snapshot is damaged in part {frame} (0 = header); take another copy")]
    Damaged {
        /// Which part.
        frame: u64,
    },
    /// The records do not make a catalogue.
    #[error("snapshot's records do not make a catalogue")]
    Records(#[source] RecordError),
}

/// What a snapshot says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The last entry in it.
    pub(crate) last: Option<LogId>,
    /// Who the members are after that entry.
    pub(crate) membership: Membership,
    /// Unique.
    pub(crate) id: String,
    /// Time of the last entry.
    pub(crate) at: Timestamp,
    /// Whose catalogue; none before the region was initialised.
    pub(crate) region: Option<RegionId>,
    /// Which life of it.
    pub(crate) incarnation: Incarnation,
}

impl SnapshotError {
    /// Whether there was no room for it.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io(error) if is_full(error))
    }
}

impl Header {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: self.id.clone(),
        }
    }
}

fn frame(out: &mut Vec<u8>, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&crc32fast::hash(payload).to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

/// The bytes of a whole snapshot, made as they are asked for.
pub(crate) struct Parts<'a> {
    begin: Option<&'a Header>,
    records: Option<Box<dyn Iterator<Item = Record> + Send + 'a>>,
    count: u64,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(header: &'a Header, state: &'a State) -> Self {
        Self {
            begin: Some(header),
            records: Some(Box::new(state.records())),
            count: 0,
        }
    }

    fn begin(header: &Header) -> io::Result<Vec<u8>> {
        let mut out = [MAGIC.as_slice(), &VERSION.to_be_bytes()].concat();
        frame(&mut out, &postcard::to_stdvec(header).map_err(io::Error::other)?)?;
        Ok(out)
    }

    /// One frame of records; none when there are no more.
    fn records(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(records) = self.records.as_mut() else {
            return Ok(None);
        };
        let mut open = Vec::with_capacity(FRAME_BYTES + 4096);
        while open.len() < FRAME_BYTES {
            let Some(record) = records.next() else { break };
            open = encode_onto(open, &record).map_err(io::Error::other)?;
            self.count += 1;
        }
        let mut out = Vec::with_capacity(open.len() + 8);
        if !open.is_empty() {
            frame(&mut out, &open)?;
            return Ok(Some(out));
        }
        self.records = None;
        frame(&mut out, &[])?;
        frame(&mut out, &self.count.to_be_bytes())?;
        Ok(Some(out))
    }
}

impl Iterator for Parts<'_> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.begin.take() {
            Some(header) => Some(Self::begin(header)),
            None => self.records().transpose(),
        }
    }
}

/// Writes a whole snapshot.
pub(crate) fn write(out: &mut impl Write, header: &Header, state: &State) -> Result<(), SnapshotError> {
    for part in Parts::new(header, state) {
        out.write_all(&part?)?;
    }
    Ok(())
}

/// Reads a snapshot from its beginning, and refuses it unless every byte is as it was written.
pub(crate) fn read(from: &mut impl Read) -> Result<(Header, State), SnapshotError> {
    let mut loader = Loader::default();
    let header = scan(from, |(key, value)| {
        loader.add(key, value).map_err(SnapshotError::Records)
    })?;
    let state = loader.finish().map_err(SnapshotError::Records)?;
    Ok((header, state))
}

/// Shows every record; the checks are done when it returns.
fn scan(
    from: &mut impl Read,
    mut each: impl FnMut((&[u8], &[u8])) -> Result<(), SnapshotError>,
) -> Result<Header, SnapshotError> {
    let header = read_header(from)?;
    let (mut count, mut number) = (0_u64, 1);
    loop {
        let payload = read_frame(from, number)?;
        if payload.is_empty() {
            break;
        }
        let mut rest = payload.as_slice();
        while !rest.is_empty() {
            let damaged = |_| SnapshotError::Damaged { frame: number };
            let (record, left) = postcard::take_from_bytes::<(&[u8], &[u8])>(rest).map_err(damaged)?;
            rest = left;
            each(record)?;
            count += 1;
        }
        number += 1;
    }
    if read_frame(from, number + 1)? != count.to_be_bytes() {
        return Err(SnapshotError::Damaged { frame: number + 1 });
    }
    Ok(header)
}

fn read_header(from: &mut impl Read) -> Result<Header, SnapshotError> {
    let mut start = [0; 12];
    from.read_exact(&mut start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::NotOurs,
        _ => SnapshotError::Io(error),
    })?;
    let (magic, version) = start.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(SnapshotError::NotOurs);
    }
    let found = version.try_into().map_or(0, u32::from_be_bytes);
    if found != VERSION {
        return Err(SnapshotError::Newer { found });
    }
    postcard::from_bytes(&read_frame(from, 0)?).map_err(|_| SnapshotError::Damaged { frame: 0 })
}

fn read_frame(from: &mut impl Read, number: u64) -> Result<Vec<u8>, SnapshotError> {
    let damaged = || SnapshotError::Damaged { frame: number };
    let torn = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(),
        _ => SnapshotError::Io(error),
    };
    let (mut length, mut sum) = ([0; 4], [0; 4]);
    from.read_exact(&mut length).map_err(torn)?;
    from.read_exact(&mut sum).map_err(torn)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| damaged())?;
    if length > FRAME_BYTES_MAX {
        return Err(damaged());
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).map_err(torn)?;
    if crc32fast::hash(&payload) != u32::from_be_bytes(sum) {
        return Err(damaged());
    }
    Ok(payload)
}

/// A snapshot with its file.
type Kept = (Header, Arc<dyn File>);

/// The folder of a node's snapshots.
#[derive(Clone)]
pub(crate) struct Shelf {
    files: Arc<dyn Files>,
    /// A snapshot was made or found, usable or not.
    had_one: Arc<AtomicBool>,
}

fn name(file: &str) -> String {
    format!("{FOLDER}/{file}")
}

impl Shelf {
    /// The folder `snapshots` of a data directory; what was left unfinished in it is deleted. Blocks.
    pub(crate) fn open(files: Arc<dyn Files>) -> io::Result<Self> {
        files.make_folder(FOLDER)?;
        for file in files.list(FOLDER)? {
            if !is_snapshot(&file) {
                files.remove(&name(&file))?;
            }
        }
        let had_one = !files.list(FOLDER)?.is_empty();
        Ok(Self {
            files,
            had_one: Arc::new(AtomicBool::new(had_one)),
        })
    }

    /// Whether there should be a snapshot.
    pub(crate) fn had_one(&self) -> bool {
        self.had_one.load(Ordering::Relaxed)
    }

    /// A file to receive a peer's snapshot in. It has no name: whatever happens, nothing of it is left. Blocks.
    pub(crate) fn receive(&self) -> io::Result<Arc<dyn File>> {
        let file = self.files.create(&name("receiving"))?;
        self.files.remove(&name("receiving"))?;
        Ok(file)
    }

    /// Keeps a snapshot durably, and drops the older ones. Blocks.
    pub(crate) fn keep(&self, header: &Header, state: &State) -> Result<(), SnapshotError> {
        let kept = format!("{}.{SUFFIX}", header.id);
        let unfinished = name(&format!("{}.unfinished", header.id));
        let file = self.files.create(&unfinished)?;
        let mut out = Sequential::new(Arc::clone(&file));
        let written = write(&mut out, header, state).and_then(|()| Ok(file.sync()?));
        if let Err(error) = written {
            // It may be what fills the disk. When it cannot be removed either, the next start does it.
            let _ = self.files.remove(&unfinished);
            return Err(error);
        }
        self.files.rename(&unfinished, &name(&kept))?;
        self.files.sync_directory(FOLDER)?;
        self.had_one.store(true, Ordering::Relaxed);
        for other in self.names()? {
            if other != kept {
                self.files.remove(&name(&other))?;
            }
        }
        Ok(())
    }

    /// The newest snapshot that is whole, with its file. Blocks for as long as reading it takes.
    pub(crate) fn newest(&self) -> Result<Option<Kept>, SnapshotError> {
        let mut found: Option<Kept> = None;
        for kept in self.names()? {
            let file = self.files.open(&name(&kept))?;
            match scan(&mut reader(Sequential::new(Arc::clone(&file))), |_| Ok(())) {
                Ok(header) => {
                    if found.as_ref().is_none_or(|(best, _)| best.last < header.last) {
                        found = Some((header, file));
                    }
                }
                Err(SnapshotError::Io(error)) => return Err(SnapshotError::Io(error)),
                Err(error) => {
                    let file = self.files.display(&name(&kept));
                    tracing::error!(file, %error, "snapshot is not usable; another is made");
                }
            }
        }
        Ok(found)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.files.list(FOLDER)?;
        names.retain(|name| is_snapshot(name));
        Ok(names)
    }
}

fn is_snapshot(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, suffix)| suffix == SUFFIX)
}

/// Reads a kept or received file in parts of a frame's size.
pub(crate) fn reader(file: Sequential) -> BufReader<Sequential> {
    BufReader::with_capacity(FRAME_BYTES, file)
}
