//! How the nodes of a region reach each other: bytes there, bytes back. gRPC in a daemon (see `channels`), memory in a
//! simulation.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;
use tonic::Status;

/// What a node asks of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Entries, or a heartbeat.
    Append,
    /// A vote in an election.
    Vote,
    /// A part of a snapshot.
    Install,
    /// Commands, or a change of the members, for the leader.
    Propose,
    /// From where on a read is linearizable, for the leader.
    ReadIndex,
}

/// Who is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Its id.
    pub id: u64,
    /// `host:port` of its Raft listener.
    pub address: &'a str,
}

/// Why there is no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failed {
    /// It has not done anything for the request.
    #[error("request was not taken: {0}")]
    NotSent(String),
    /// It may have acted on the request.
    #[error("answer was lost: {0}")]
    Lost(String),
}

impl From<&Status> for Failed {
    fn from(status: &Status) -> Self {
        let reason = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            // Refused before anything was done: see `service`.
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied | tonic::Code::ResourceExhausted => {
                Self::NotSent(reason)
            }
            _ => Self::Lost(reason),
        }
    }
}

/// The way to the other nodes. A call is given its timeout by who makes it, and may be dropped at any time.
pub trait Transport: Send + Sync + 'static {
    /// Gives a request to [`super::Replica::answer`] of another node, and brings what comes of it.
    fn call(&self, to: Target<'_>, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, Failed>>;

    /// Nodes that are no members any more will not be called again; what is kept for them can go.
    fn retain(&self, is_member: &dyn Fn(u64) -> bool) {
        let _ = is_member;
    }
}
