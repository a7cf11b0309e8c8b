//! A snapshot: the catalogue's records at one revision, as bytes that can prove themselves whole. Files are made under
//! another name and renamed when they are durable, so that a file with a snapshot's name is always complete.
//!
//! Layout: magic, version, then frames of `length, crc32, payload`. The first payload is the header, the others are
//! records; an empty frame and the number of records end it.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

use mesh::model::{Incarnation, RegionId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    engine::sync_directory,
    type_config::{LogId, Membership, SnapshotMeta},
};
use crate::catalog::{RecordError, State};

const MAGIC: &[u8; 8] = b"ISTHSNAP";
const VERSION: u32 = 1;
/// A frame is closed when it has grown to this.
const FRAME_BYTES: usize = 256 * 1024;
/// More than any frame that we write: a length beyond it is damage, and is not allocated.
const FRAME_BYTES_MAX: usize = 4 << 20;
const SUFFIX: &str = "snapshot";

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

impl Header {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
            snapshot_id: self.id.clone(),
        }
    }
}

fn frame(out: &mut impl Write, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&crc32fast::hash(payload).to_be_bytes())?;
    out.write_all(payload)
}

/// Writes a whole snapshot.
pub(crate) fn write(out: &mut impl Write, header: &Header, state: &State) -> Result<(), SnapshotError> {
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_be_bytes())?;
    frame(out, &postcard::to_stdvec(header).map_err(io::Error::other)?)?;
    let (mut count, mut open) = (0_u64, Vec::with_capacity(FRAME_BYTES));
    for record in state.records() {
        open = postcard::to_extend(&record, open).map_err(io::Error::other)?;
        count += 1;
        if open.len() >= FRAME_BYTES {
            frame(out, &open)?;
            open.clear();
        }
    }
    if !open.is_empty() {
        frame(out, &open)?;
    }
    frame(out, &[])?;
    frame(out, &count.to_be_bytes())?;
    Ok(())
}

/// Reads a snapshot from its beginning, and refuses it unless every byte is as it was written.
pub(crate) fn read(from: &mut impl Read) -> Result<(Header, State), SnapshotError> {
    let mut records = Vec::new();
    let header = scan(from, |record| records.push(record))?;
    let state = State::from_records(records).map_err(SnapshotError::Records)?;
    Ok((header, state))
}

/// Shows every record; the checks are done when it returns.
fn scan(from: &mut impl Read, mut each: impl FnMut((Vec<u8>, Vec<u8>))) -> Result<Header, SnapshotError> {
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
            let (record, left) = postcard::take_from_bytes(rest).map_err(damaged)?;
            rest = left;
            each(record);
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

/// The folder of a node's snapshots.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    path: PathBuf,
}

impl Shelf {
    /// The folder `snapshots` in `data_dir`; what was left unfinished in it is deleted. Blocks.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("snapshots");
        fs::create_dir_all(&path)?;
        for file in fs::read_dir(&path)? {
            let file = file?.path();
            if file.extension().is_none_or(|extension| extension != SUFFIX) {
                fs::remove_file(file)?;
            }
        }
        sync_directory(data_dir)?;
        Ok(Self { path })
    }

    fn file(&self, id: &str) -> PathBuf {
        self.path.join(format!("{id}.{SUFFIX}"))
    }

    /// A file to receive a peer's snapshot in. It has no name: whatever happens, nothing of it is left. Blocks.
    pub(crate) fn receive(&self) -> io::Result<File> {
        let name = self.path.join("receiving");
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = File::options().read(true).write(true).create_new(true).open(&name)?;
        fs::remove_file(&name)?;
        Ok(file)
    }

    /// Keeps a snapshot durably, and drops the older ones. Blocks.
    pub(crate) fn keep(&self, header: &Header, state: &State) -> Result<(), SnapshotError> {
        let unfinished = self.path.join(format!("{}.unfinished", header.id));
        let mut out = BufWriter::with_capacity(FRAME_BYTES, File::create(&unfinished)?);
        write(&mut out, header, state)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        drop(out);
        fs::rename(&unfinished, self.file(&header.id))?;
        sync_directory(&self.path)?;
        for other in self.names()? {
            if other != self.file(&header.id) {
                fs::remove_file(other)?;
            }
        }
        Ok(())
    }

    /// The newest snapshot that is whole, with its file at the beginning. Blocks for as long as reading it takes.
    pub(crate) fn newest(&self) -> Result<Option<(Header, File)>, SnapshotError> {
        let mut found: Option<(Header, File)> = None;
        for name in self.names()? {
            let mut file = File::open(&name)?;
            match scan(&mut BufReader::new(&mut file), drop) {
                Ok(header) => {
                    if found.as_ref().is_none_or(|(best, _)| best.last < header.last) {
                        file.rewind()?;
                        found = Some((header, file));
                    }
                }
                Err(SnapshotError::Io(error)) => return Err(SnapshotError::Io(error)),
                Err(error) => {
                    tracing::error!(file = %name.display(), %error, "snapshot is not usable; another is made")
                }
            }
        }
        Ok(found)
    }

    fn names(&self) -> io::Result<Vec<PathBuf>> {
        let files = fs::read_dir(&self.path)?.map(|file| file.map(|file| file.path()));
        let files: io::Result<Vec<_>> = files.collect();
        let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == SUFFIX);
        Ok(files?.into_iter().filter(is_snapshot).collect())
    }
}
