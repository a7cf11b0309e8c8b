//! The way in: many proposals become one log entry, one flush acknowledges them all.

mod error;

pub use error::Error;

use mesh::model::Revision;

use crate::catalog::Reply;

/// A proposal that is committed, applied on this node's leader and durable on a majority.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Committed {
    /// The entry that carried it.
    pub revision: Revision,
    /// The catalogue's answer.
    pub reply: Reply,
}
