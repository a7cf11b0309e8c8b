//! What a replica keeps its data on, behind seams: the files of one data directory, an embedded database beside them, and
//! who does the work. The daemon has the file system, sled and threads of their own; a simulation brings all three.

mod blob;
mod directory;
mod engine;
mod files;
mod sled;

use std::{path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;

pub(crate) use blob::Blob;
pub use directory::Directory;
pub(crate) use engine::VALUE_BYTES_MAX;
pub use engine::{Each, Engine, EngineError, Record, Space, Writes};
pub use files::{File, Files};
pub(crate) use files::{Sequential, is_full};
pub use sled::Sled;

/// Opens the database; called once, before anything is read.
pub type OpenEngine = Box<dyn FnOnce() -> Result<Box<dyn Engine>, EngineError> + Send>;

/// When work on the disk is done, for a storage without threads.
pub trait Pace: Send + Sync + 'static {
    /// Ends when the next piece of work may be done; work is given in order and done one piece at a time.
    fn wait(&self) -> BoxFuture<'static, ()>;
}

/// Everything that one replica writes to and reads from.
///
/// A piece of work that fails ends the node: it stops taking part and must be opened anew, on what is durable.
pub struct Storage {
    /// The files of the data directory.
    pub files: Arc<dyn Files>,
    /// The database.
    pub engine: OpenEngine,
    /// None: threads do the blocking work. Some: it is done on the runtime, after each wait.
    pub pace: Option<Arc<dyn Pace>>,
}

impl Storage {
    /// A folder of the real file system.
    #[must_use]
    pub fn directory(path: PathBuf) -> Self {
        let database = path.join("db");
        Self {
            files: Arc::new(Directory::new(path)),
            engine: Box::new(move || Ok(Box::new(Sled::open(&database)?))),
            pace: None,
        }
    }
}
