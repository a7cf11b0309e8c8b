//! The view on disk, for a start without a registry. A file that is damaged, cut, or of another version is never fatal: it
//! is told in the log and left behind by the next write. All functions block.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use proto::registry::v1 as pb;
use thiserror::Error;

use super::Interest;
use crate::model::{Timestamp, Update, View};

const MAGIC: [u8; 8] = *b"isthview";
/// Of the layout around the message; protobuf takes care of the inside.
const FORMAT: u32 = 1;
/// Magic, format, check sum, time of writing, bytes of the interest.
const HEADER_BYTES: usize = 8 + 4 + 4 + 8 + 4;
/// Longer files are not ours: a view of 100,000 endpoints has about 30 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why a file is not used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The system refuses.
    #[error("view file {path} is not accessible")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Shorter than it says, or no view file at all.
    #[error("view file {path} is no view file or is cut off")]
    Shape {
        /// Which file.
        path: PathBuf,
    },
    /// Written by a version that this one does not know.
    #[error("view file {path} has format {format}, this version reads {FORMAT}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// Its bytes changed since they were written.
    #[error("view file {path} is damaged: its check sum does not match")]
    Sum {
        /// Which file.
        path: PathBuf,
    },
    /// The sum matches, and yet it does not parse.
    #[error("view file {path} has an unreadable record")]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a file holds.
#[derive(Debug)]
pub struct Cached {
    /// The last view.
    pub view: View,
    /// What it is complete for; none when the interest changed under it. A delta may only be asked for with the same.
    pub interest: Option<Interest>,
    /// When it was written.
    pub saved_at: Timestamp,
}

/// Reads a file; none when there is none.
///
/// # Errors
/// Why it is not usable.
pub fn load(path: &Path) -> Result<Option<Cached>, CacheError> {
    let file_error = |source| CacheError::File {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(error)),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(CacheError::Shape { path: path.to_owned() }),
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(file_error)?;
    read(path, &bytes).map(Some)
}

fn read(path: &Path, bytes: &[u8]) -> Result<Cached, CacheError> {
    let shape = || CacheError::Shape { path: path.to_owned() };
    let content = |source: Box<dyn std::error::Error + Send + Sync>| CacheError::Content {
        path: path.to_owned(),
        source,
    };
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(shape)?;
    if header[..8] != MAGIC {
        return Err(shape());
    }
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if number(8) != FORMAT {
        return Err(CacheError::Format {
            path: path.to_owned(),
            format: number(8),
        });
    }
    // The sum covers all that follows it, so that a cut file fails here too.
    if crc32fast::hash(&bytes[16..]) != number(12) {
        return Err(CacheError::Sum { path: path.to_owned() });
    }
    let saved_at = Timestamp(i64::from(number(16)) | (i64::from(number(20)) << 32));
    let (interest, update) = body.split_at_checked(number(24) as usize).ok_or_else(shape)?;
    let interest = if interest.is_empty() {
        None
    } else {
        let wire = pb::Interest::decode(interest).map_err(|error| content(error.into()))?;
        Interest::from_wire(&wire)
    };
    let update = pb::Update::decode(update).map_err(|error| content(error.into()))?;
    let update = Update::try_from(update).map_err(|error| content(error.into()))?;
    let coverage = interest.as_ref().map(Interest::coverage).unwrap_or_default();
    Ok(Cached {
        view: View::default().updated(update).covering(coverage),
        interest,
        saved_at,
    })
}

/// Replaces a file as a whole: whoever reads, also after a power cut, finds the old view or the new one.
///
/// # Errors
/// When the directory or the file cannot be written. A view without a region (before the first update) writes nothing.
pub fn save(path: &Path, view: &View, interest: Option<&Interest>, now: Timestamp) -> Result<(), CacheError> {
    let Some(region) = view.region().cloned() else {
        return Ok(());
    };
    let head = pb::Update::from(Update {
        region,
        held: view.held(),
        full: true,
        upserts: Vec::new(),
        removed: Vec::new(),
        committed_at: None,
    });
    let interest = interest.map_or_else(Vec::new, |interest| interest.to_file().encode_to_vec());
    let mut bytes = Vec::with_capacity(HEADER_BYTES + interest.len() + head.encoded_len());
    bytes.extend(MAGIC);
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(now.0.to_le_bytes());
    bytes.extend(u32::try_from(interest.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(interest);
    bytes.extend(head.encode_to_vec());
    // Encoded messages that follow each other are one message: so no second copy of the view is ever in memory.
    for resource in view.resources() {
        let one = pb::Update {
            upserts: vec![resource.into()],
            ..pb::Update::default()
        };
        // A growing vector takes all of it.
        let _ = one.encode(&mut bytes);
    }
    let sum = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    replace(path, &bytes).map_err(|source| CacheError::File {
        path: path.to_owned(),
        source,
    })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(directory)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscribe::samples;

    fn saved(directory: &Path) -> (PathBuf, View) {
        let path = directory.join("data/view");
        let view = samples::view(&["pay.shop", "cart.shop"]);
        save(&path, &view, Some(&Interest::everything()), Timestamp(77)).unwrap();
        (path, view)
    }

    #[test]
    fn a_view_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (path, view) = saved(directory.path());
        let cached = load(&path).unwrap().unwrap();
        assert_eq!((cached.view, cached.saved_at), (view, Timestamp(77)));
        assert_eq!(cached.interest, Some(Interest::everything()));
        assert!(load(&directory.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn a_negative_or_large_time_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("view");
        for time in [-5, i64::MAX, i64::MIN, 1_795_000_000_000] {
            save(&path, &samples::view(&["pay.shop"]), None, Timestamp(time)).unwrap();
            let cached = load(&path).unwrap().unwrap();
            assert_eq!((cached.saved_at, cached.interest), (Timestamp(time), None));
        }
    }

    #[test]
    fn spoilt_files_are_refused_each_for_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = saved(directory.path());
        let good = fs::read(&path).unwrap();
        let flipped = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            bytes
        };
        let last = good.len() - 1;
        for (name, bytes, reason) in [
            ("empty", Vec::new(), "no view file"),
            ("header only", good[..HEADER_BYTES].to_vec(), "check sum"),
            ("cut in the header", good[..10].to_vec(), "no view file"),
            ("cut in the body", good[..last].to_vec(), "check sum"),
            ("grown", [&good[..], b"x"].concat(), "check sum"),
            ("other magic", flipped(0), "no view file"),
            ("newer format", flipped(8), "has format"),
            ("flipped sum", flipped(12), "check sum"),
            ("flipped time", flipped(16), "check sum"),
            ("flipped body", flipped(last), "check sum"),
            (
                "text",
                b"region = 'eu'\n this is a settings file, not a view".to_vec(),
                "no view file",
            ),
        ] {
            fs::write(&path, bytes).unwrap();
            let error = load(&path).expect_err(name).to_string();
            assert!(error.contains(reason), "{name}: {error}");
        }
    }

    #[test]
    fn records_that_break_bounds_are_refused_though_the_sum_matches() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = saved(directory.path());
        let mut bytes = fs::read(&path).unwrap();
        // A region in capitals: the message decodes, the model refuses.
        let at = bytes.windows(2).rposition(|two| two == b"eu").unwrap();
        bytes[at..at + 2].copy_from_slice(b"EU");
        let sum = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = load(&path).expect_err("refused").to_string();
        assert!(error.contains("unreadable record"), "{error}");
    }

    #[test]
    fn a_write_leaves_no_temporary_file_and_survives_an_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("view");
        fs::write(directory.path().join("view.new"), "left by a crash").unwrap();
        save(&path, &samples::view(&["pay.shop"]), None, Timestamp(1)).unwrap();
        let names: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|it| it.unwrap().file_name())
            .collect();
        assert_eq!(names, ["view"]);
    }
}
