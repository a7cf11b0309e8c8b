//! What nodes of one region say to each other, inside the `Payload` of the Raft service.
//!
//! Every request names the group and both nodes, so that an address that was given to another node, or a node from another
//! life of the region (before a restore), cannot do harm.

use mesh::model::{Incarnation, Revision};
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    membership::{self, Change},
    propose,
    type_config::{TypeConfig, decode},
};
use crate::catalog::Command;

/// Reads bytes as each request that a node may send; whether it can is all that there is to say.
pub(crate) fn try_requests(bytes: &[u8]) {
    fn read<T: DeserializeOwned>(bytes: &[u8]) {
        // A refusal is as good as a message here.
        let _ = decode::<Envelope<T>>("request", bytes).is_ok();
    }
    read::<AppendEntriesRequest<TypeConfig>>(bytes);
    read::<VoteRequest<u64>>(bytes);
    read::<InstallSnapshotRequest<TypeConfig>>(bytes);
    read::<Ask>(bytes);
    read::<()>(bytes);
}

/// A request with its sender and its receiver.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// The sender's life of the catalogue; zero before it knows.
    pub(crate) group: Incarnation,
    /// The sender.
    pub(crate) from: u64,
    /// Who is meant.
    pub(crate) to: u64,
    /// The entry with the newest membership that the sender has applied; none while it has not been a member by any.
    pub(crate) members_at: Option<u64>,
    /// What it wants.
    pub(crate) body: T,
}

/// What is answered to any request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer<T> {
    /// The answer itself.
    Body(T),
    /// The sender is no member any more, by a membership that is committed and newer than the one it knows.
    Removed,
}

/// For the leader, from a node that is not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Commands, each answered on its own.
    Propose {
        commands: Vec<Command>,
        /// How long the sender's callers still wait, in milliseconds.
        patience_ms: u64,
    },
    /// A change of the members.
    Change(Change),
    /// From a leader that goes: stand for election now.
    Elect,
    /// Which feature level does your program know?
    Level,
}

/// As [`Ask`], without owning the commands; the same bytes.
#[derive(Debug, Serialize)]
pub(crate) enum AskRef<'a> {
    Propose {
        commands: Vec<&'a Command>,
        patience_ms: u64,
    },
    Change(&'a Change),
    Elect,
    Level,
}

/// The leader's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// One result for each command.
    Proposed(Vec<Result<propose::Committed, Failure>>),
    /// How the change ended.
    Changed(Result<(), membership::Error>),
    /// Nothing was done: the asked node does not lead.
    NotLeader,
    /// The asked node stands for election.
    Standing,
    /// The newest feature level that its program knows.
    Level(u32),
}

/// The answer to `ReadIndex`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Index {
    /// A read that has applied this sees everything acknowledged before it was asked.
    At(Revision),
    /// The asked node does not lead.
    NotLeader,
    /// It leads, but a majority did not confirm that in time.
    Failed(propose::Error),
}

/// Why one proposal was not committed, between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// Nothing was done: the node that had it does not lead.
    NotLeader,
    /// For the caller.
    Error(propose::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::type_config::{decode, encode};

    #[test]
    fn borrowed_and_owned_asks_are_the_same_bytes() {
        let command = Command::AllocateNode;
        let borrowed = AskRef::Propose {
            commands: vec![&command],
            patience_ms: 7,
        };
        let bytes = encode("ask", &borrowed).expect("encodes");
        let Ask::Propose { commands, patience_ms } = decode("ask", &bytes).expect("decodes") else {
            panic!("another variant");
        };
        assert_eq!((commands.len(), patience_ms), (1, 7));
        for (borrowed, owned) in [(AskRef::Elect, Ask::Elect), (AskRef::Level, Ask::Level)] {
            assert_eq!(
                encode("ask", &borrowed).expect("encodes"),
                encode("ask", &owned).expect("encodes")
            );
        }
        let change = Change::Remove { id: 3 };
        let bytes = encode("ask", &AskRef::Change(&change)).expect("encodes");
        assert!(matches!(
            decode("ask", &bytes),
            Ok(Ask::Change(Change::Remove { id: 3 }))
        ));
    }
}
