//! What applying a batch gives back: replies to the askers, changes for the watch hub, records for the disk. Pure.

use mesh::model::{Audience, Key};

use super::Reply;

/// One resource that is not what it was before the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// The peers that could see it before: only they may hear that it is gone.
    pub audience_before: Audience,
}

/// The outcome of one batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One per command, in order.
    pub replies: Vec<Reply>,
    /// Each key once, in key order.
    pub changes: Vec<Change>,
    /// Keys of the records to write again, or to delete where [`super::State::record`] gives none; in order.
    pub dirty: Vec<Vec<u8>>,
}
