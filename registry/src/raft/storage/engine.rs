//! The embedded database behind a few methods, so that another one can take its place. Promises that what was written
//! before [`Engine::sync`] returned survives a cut of the disk, and that one [`Writes`] is there wholly or not at all.

use std::{error::Error as StdError, io, ops::ControlFlow, path::PathBuf};

use thiserror::Error;

/// Longest value: see [`super::Sled`].
pub(crate) const VALUE_BYTES_MAX: usize = 128 * 1024;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Vote, purge marker of the log, format, node id.
    Meta,
    /// The catalogue's records with the marker of what is applied.
    Catalogue,
}

/// Changes of one table that happen together.
#[derive(Debug, Default)]
pub struct Writes {
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Writes {
    /// A key gets a value.
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.changes.push((key, Some(value)));
    }

    /// A key goes, if it is there.
    pub fn delete(&mut self, key: Vec<u8>) {
        self.changes.push((key, None));
    }

    /// Keys with their new values, none = deleted; of two changes of one key the later counts.
    #[must_use]
    pub fn into_changes(self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        self.changes
    }
}

/// Why the database could not do it.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The database itself.
    #[error("database in {} failed", path.display())]
    Database {
        /// Where.
        path: PathBuf,
        /// What it says.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A file or folder of it.
    #[error("{} is not accessible", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It failed before, and what it holds since is not known.
    #[error("the database has failed before; this node must be started again")]
    Broken,
    /// A value of ours; none is known that cannot be encoded.
    #[error("a record cannot be encoded")]
    Encode {
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A value.
    #[error("record of {bytes} bytes is over the limit of {VALUE_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
}

/// A key and its value.
pub type Record = (Vec<u8>, Vec<u8>);
/// Is shown keys and values until it says stop.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What is asked of a database. Every method blocks.
pub trait Engine: Send + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;
    /// Shows entries from `from` on in key order until told to stop.
    ///
    /// # Errors
    /// When they cannot be read.
    fn scan(&self, space: Space, from: &[u8], each: &mut Each<'_>) -> Result<(), EngineError>;
    /// Makes the changes, all or none. Durable after the next `sync`, in the order of the calls.
    ///
    /// # Errors
    /// When they cannot be made; the database is then opened anew before it is used again.
    fn write(&self, space: Space, writes: Writes) -> Result<(), EngineError>;
    /// Returns when everything written so far survives a cut of the disk.
    ///
    /// # Errors
    /// As [`Engine::write`].
    fn sync(&self) -> Result<(), EngineError>;
    /// Empties a table. Not atomic.
    ///
    /// # Errors
    /// As [`Engine::write`].
    fn clear(&self, space: Space) -> Result<(), EngineError>;
    /// Takes room from the disk for the writes to come, so that a disk that others fill does not fail one of them.
    ///
    /// # Errors
    /// When there is no room; nothing is harmed.
    fn reserve(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
