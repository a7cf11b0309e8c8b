//! The seam to the state machine: it publishes, and knows nothing of who listens.

use std::sync::Arc;

use mesh::model::{Revision, Timestamp};

use crate::catalog::{Change, State};

/// One applied entry.
#[derive(Clone, Debug)]
pub struct Published {
    /// The catalogue after it.
    pub state: Arc<State>,
    /// Its revision.
    pub revision: Revision,
    /// When its leader proposed it.
    pub at: Timestamp,
    /// What it changed.
    pub changes: Vec<Change>,
    /// The state was read from disk or from a snapshot: what changed since the last publication is not known.
    pub reset: bool,
}

/// Whoever is told of applied entries.
pub trait Publish: Send + Sync + 'static {
    /// Called after each applied entry, in order, by one task at a time. Must not block.
    fn publish(&self, published: Published);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPublish;

impl Publish for NoPublish {
    fn publish(&self, _: Published) {}
}
