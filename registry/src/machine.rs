//! What a node stands on: its clock, and the files of its replica. The machine's own, unless a test puts something else in
//! their place; knows nothing of what is done with them.

use std::sync::Arc;

use mesh::runtime::Clock;

use crate::{
    config::Config,
    raft::storage::{Directory, Files},
};

/// A clock and a disk.
pub struct Machine {
    /// Wall time.
    pub clock: Clock,
    /// The replica's folder.
    pub files: Arc<dyn Files>,
}

impl Machine {
    /// The real one.
    #[must_use]
    pub fn real(config: &Config) -> Self {
        Self {
            clock: Clock::system(),
            files: Arc::new(Directory::new(config.data_dir.join("raft"))),
        }
    }
}
