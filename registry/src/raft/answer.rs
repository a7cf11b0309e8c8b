//! What another node asked, answered: bytes in, bytes out, whatever brought them. Admits only the region's own registry
//! nodes; refuses what is meant for another node or another life of the region, before anything is done.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use mesh::{
    identity::Role,
    model::{Incarnation, Revision},
};
use openraft::{
    error::{InstallSnapshotError, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;
use tonic::Status;

use super::{
    core::{Core, Lead},
    membership::Tried,
    propose::{self, Origin, Proposal},
    read::{READERS_MAX, Reader},
    transport::Method,
    type_config::{TypeConfig, any, decode, encode},
    wire::{Answer, Ask, Envelope, Failure, Index, Told},
};
use crate::catalog::{Command, LEVEL};

/// What a request turned out to be.
enum Opened<T> {
    Body(T),
    /// To be answered as it is.
    Removed(Bytes),
}

fn reply<T: Serialize>(answer: &T) -> Result<Bytes, Status> {
    let body = encode("answer", answer).map_err(|error| Status::internal(any(&error).to_string()))?;
    Ok(body.into())
}

macro_rules! open {
    ($core:expr, $request:expr, $kind:ty) => {
        match $core.opened::<$kind>($request)? {
            Opened::Body(body) => body,
            Opened::Removed(reply) => return Ok(reply),
        }
    };
}

impl Core {
    /// Answers a request of a caller with this role.
    pub(crate) async fn answer(&self, method: Method, role: Option<Role>, request: &[u8]) -> Result<Bytes, Status> {
        if role != Some(Role::Registry) {
            return Err(Status::permission_denied(
                "only registry nodes of this region may call this",
            ));
        }
        match method {
            Method::Append => self.append(request).await,
            Method::Vote => {
                let vote = open!(self, request, VoteRequest<u64>);
                let done: Result<VoteResponse<u64>, RaftError<u64>> = self.raft.vote(vote).await;
                reply(&Answer::Body(done))
            }
            Method::Install => self.install(request).await,
            Method::Propose => Box::pin(self.propose_for(request)).await,
            Method::ReadIndex => self.read_index(request).await,
        }
    }

    /// Who asks, and what: everything that is refused is refused here, before anything is done.
    fn opened<T: DeserializeOwned>(&self, request: &[u8]) -> Result<Opened<T>, Status> {
        let envelope: Envelope<T> =
            decode("request", request).map_err(|error| Status::failed_precondition(any(&error).to_string()))?;
        if envelope.to != self.id() {
            let text = format!(
                "this is node {}, not {}; was its address given away?",
                self.id(),
                envelope.to
            );
            return Err(Status::failed_precondition(text));
        }
        let local = self.applied.load();
        let group = local.state.incarnation();
        let unknown = Incarnation::default();
        if envelope.group != group && envelope.group != unknown && group != unknown {
            let text = format!(
                "node {} belongs to incarnation {}, this region is {group}; add it anew with an empty data directory",
                envelope.from, envelope.group
            );
            return Err(Status::failed_precondition(text));
        }
        let members = local.membership.membership();
        let newer = local.membership.log_id().map(|log_id| log_id.index) > envelope.members_at;
        if envelope.members_at.is_some() && newer && members.get_node(&envelope.from).is_none() {
            return Ok(Opened::Removed(reply(&Answer::<()>::Removed)?));
        }
        Ok(Opened::Body(envelope.body))
    }

    async fn append(&self, request: &[u8]) -> Result<Bytes, Status> {
        let append = open!(self, request, AppendEntriesRequest<TypeConfig>);
        self.is_called.store(true, Ordering::Relaxed);
        if !append.entries.is_empty() {
            // Heartbeats still pass, so that this node goes on serving reads and no election begins.
            self.room()
                .map_err(|full| Status::resource_exhausted(full.to_string()))?;
        }
        let committed = append
            .leader_commit
            .map_or(Revision(0), |log_id| Revision(log_id.index));
        let done: Result<AppendEntriesResponse<u64>, RaftError<u64>> = self.raft.append_entries(append).await;
        if let Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) = &done {
            self.fresh.heard(committed, self.applied.load().revision());
        }
        reply(&Answer::Body(done))
    }

    async fn install(&self, request: &[u8]) -> Result<Bytes, Status> {
        let part = open!(self, request, InstallSnapshotRequest<TypeConfig>);
        self.is_called.store(true, Ordering::Relaxed);
        self.room()
            .map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let done: Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> =
            self.raft.install_snapshot(part).await;
        reply(&Answer::Body(done))
    }

    async fn propose_for(&self, request: &[u8]) -> Result<Bytes, Status> {
        let told = match open!(self, request, Ask) {
            Ask::Propose { commands, patience_ms } => {
                let patience = Duration::from_millis(patience_ms).min(propose::PATIENCE);
                Box::pin(self.propose_all(commands, patience)).await
            }
            Ask::Change(change) => match Box::pin(self.change(&change)).await {
                Tried::Done(done) => Told::Changed(done),
                Tried::NotLeader => Told::NotLeader,
            },
            Ask::Elect => {
                // An error means that this node is stopping; the leader that goes asks another one.
                let stands = self.raft.trigger().elect().await;
                stands.map_or(Told::NotLeader, |()| Told::Standing)
            }
            Ask::Level => Told::Level(LEVEL),
        };
        reply(&Answer::Body(told))
    }

    async fn propose_all(&self, commands: Vec<Command>, patience: Duration) -> Told {
        if !matches!(self.lead(), Lead::Me) {
            return Told::NotLeader;
        }
        let one = |command| async {
            let (proposal, answer) = Proposal::new(command, Origin::Follower, patience).map_err(Failure::Error)?;
            let full = propose::Error::Full {
                bound: propose::QUEUE_MAX,
            };
            // With back-pressure: a follower's batch is one proposal of its own queue's bound.
            let put = tokio::time::timeout(patience, self.proposals.put(proposal)).await;
            put.map_err(|_| Failure::Error(full))?
                .map_err(|_| Failure::Error(propose::Error::Stopped))?;
            answer.await.unwrap_or(Err(Failure::Error(propose::Error::Stopped)))
        };
        Told::Proposed(join_all(commands.into_iter().map(one)).await)
    }

    async fn read_index(&self, request: &[u8]) -> Result<Bytes, Status> {
        open!(self, request, ());
        let (sender, answer) = oneshot::channel();
        let reader = Reader {
            origin: Origin::Follower,
            reply: sender,
        };
        let index = match self.reads.offer(reader) {
            Err(_) => Index::Failed(propose::Error::Full { bound: READERS_MAX }),
            Ok(()) => match answer.await {
                Ok(Ok(revision)) => Index::At(revision),
                Ok(Err(Failure::NotLeader)) => Index::NotLeader,
                Ok(Err(Failure::Error(error))) => Index::Failed(error),
                Err(_) => Index::Failed(propose::Error::Stopped),
            },
        };
        reply(&Answer::Body(index))
    }
}
