//! What openraft is about here, and how it is written: postcard behind a version byte.

use std::sync::Arc;

use openraft::{AnyError, StorageIOError};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Node, runtime::Runtime, storage::Blob};
use crate::{
    catalog::{Batch, Reply},
    codec::encode_versioned,
};

openraft::declare_raft_types!(
    /// An entry is a batch (shared, because the log's cache, every follower's stream and the state machine hold it); a
    /// snapshot is a file.
    pub(crate) TypeConfig:
        D = Arc<Batch>,
        R = Vec<Reply>,
        NodeId = u64,
        Node = Node,
        SnapshotData = Blob,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, Node>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type StorageError = openraft::StorageError<u64>;

/// Of everything that is written to disk or to a peer.
const VERSION: u8 = 1;

/// Why bytes are not what they should be.
#[derive(Debug, Error)]
pub(crate) enum CodecError {
    #[error("{what} has version {found}; this node knows {VERSION}: is it older than its peers or its disk?")]
    Version { what: &'static str, found: u8 },
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is not readable")]
    Malformed {
        what: &'static str,
        source: postcard::Error,
    },
}

/// The version byte and the value.
pub(crate) fn encode<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Result<Vec<u8>, CodecError> {
    encode_versioned(VERSION, value).map_err(|source| CodecError::Malformed { what, source })
}

/// The value behind the version byte.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|source| CodecError::Malformed { what, source }),
        Some((&found, _)) => Err(CodecError::Version { what, found }),
        None => Err(CodecError::Empty { what }),
    }
}

/// An error with its causes in one line, as openraft keeps it.
pub(crate) fn any(error: &(dyn std::error::Error + 'static)) -> AnyError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    AnyError::error(text)
}

/// A failed write; openraft stops the node on it.
pub(crate) fn write_failed(error: &(dyn std::error::Error + 'static)) -> StorageError {
    StorageIOError::write(any(error)).into()
}

/// A failed read; openraft stops the node on it.
pub(crate) fn read_failed(error: &(dyn std::error::Error + 'static)) -> StorageError {
    StorageIOError::read(any(error)).into()
}
