//! The Raft service as the other nodes call it. Admits only the region's own registry nodes, except to `Join`, which
//! belongs to [`Admit`]; refuses what is meant for another node or another life of the region.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, join_all};
use mesh::{
    identity::{Identity, Role},
    model::{Incarnation, Revision},
    net::grpc::{Caller, MESSAGE_BYTES_MAX},
};
use openraft::{
    error::{InstallSnapshotError, RaftError},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use proto::raft::v1::{
    JoinReply, JoinRequest, Payload,
    raft_server::{Raft as RaftApi, RaftServer},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::{
    core::{Core, Lead},
    membership::Tried,
    propose::{self, Origin, Proposal},
    read::Reader,
    type_config::{TypeConfig, any, decode, encode},
    wire::{Answer, Ask, Envelope, Failure, Index, Told},
};
use crate::catalog::Command;

/// Decides about new nodes.
pub trait Admit: Send + Sync + 'static {
    /// A node asks for a certificate and for membership, with a token.
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinReply, Status>>;
}

/// Answers the other nodes.
pub struct Service {
    core: Arc<Core>,
    identity: Identity,
    admit: Arc<dyn Admit>,
}

/// What a request turned out to be.
enum Opened<T> {
    Body(T),
    /// To be answered as it is.
    Removed(Response<Payload>),
}

impl Service {
    pub(crate) fn server(core: Arc<Core>, identity: Identity, admit: Arc<dyn Admit>) -> RaftServer<Self> {
        RaftServer::new(Self { core, identity, admit })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Who asks, and what: everything that is refused is refused here, before anything is done.
    fn open<T: DeserializeOwned>(&self, request: Request<Payload>) -> Result<Opened<T>, Status> {
        let role = Caller::of(&request).and_then(|caller| caller.role(&self.identity.trust_domain()));
        if role != Some(Role::Registry) {
            return Err(Status::permission_denied(
                "only registry nodes of this region may call this",
            ));
        }
        let bytes = request.into_inner().body;
        let envelope: Envelope<T> =
            decode("request", &bytes).map_err(|error| Status::failed_precondition(any(&error).to_string()))?;
        if envelope.to != self.core.id() {
            let text = format!(
                "this is node {}, not {}; was its address given away?",
                self.core.id(),
                envelope.to
            );
            return Err(Status::failed_precondition(text));
        }
        let local = self.core.applied.load();
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

    async fn propose_all(&self, commands: Vec<Command>, patience: Duration) -> Told {
        if !matches!(self.core.lead(), Lead::Me) {
            return Told::NotLeader;
        }
        let one = |command| async {
            let (proposal, answer) = Proposal::new(command, Origin::Follower, patience).map_err(Failure::Error)?;
            let full = propose::Error::Full {
                bound: propose::QUEUE_MAX,
            };
            // With back-pressure: a follower's batch is one proposal of its own queue's bound.
            let put = tokio::time::timeout(patience, self.core.proposals.put(proposal)).await;
            put.map_err(|_| Failure::Error(full))?
                .map_err(|_| Failure::Error(propose::Error::Stopped))?;
            answer.await.unwrap_or(Err(Failure::Error(propose::Error::Stopped)))
        };
        Told::Proposed(join_all(commands.into_iter().map(one)).await)
    }
}

fn reply<T: Serialize>(answer: &T) -> Result<Response<Payload>, Status> {
    let body = encode("answer", answer).map_err(|error| Status::internal(any(&error).to_string()))?;
    Ok(Response::new(Payload { body: body.into() }))
}

macro_rules! open {
    ($service:expr, $request:expr, $kind:ty) => {
        match $service.open::<$kind>($request)? {
            Opened::Body(body) => body,
            Opened::Removed(reply) => return Ok(reply),
        }
    };
}

#[tonic::async_trait]
impl RaftApi for Service {
    async fn append_entries(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let append = open!(self, request, AppendEntriesRequest<TypeConfig>);
        if !append.entries.is_empty() {
            // Heartbeats still pass, so that this node goes on serving reads and no election begins.
            self.core
                .room()
                .map_err(|full| Status::resource_exhausted(full.to_string()))?;
        }
        let committed = append
            .leader_commit
            .map_or(Revision(0), |log_id| Revision(log_id.index));
        let done: Result<AppendEntriesResponse<u64>, RaftError<u64>> = self.core.raft.append_entries(append).await;
        if let Ok(AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) = &done {
            self.core.fresh.heard(committed, self.core.applied.load().revision());
        }
        reply(&Answer::Body(done))
    }

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let vote = open!(self, request, VoteRequest<u64>);
        let done: Result<VoteResponse<u64>, RaftError<u64>> = self.core.raft.vote(vote).await;
        reply(&Answer::Body(done))
    }

    async fn install_snapshot(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let part = open!(self, request, InstallSnapshotRequest<TypeConfig>);
        self.core
            .room()
            .map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let done: Result<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> =
            self.core.raft.install_snapshot(part).await;
        reply(&Answer::Body(done))
    }

    async fn propose(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let told = match open!(self, request, Ask) {
            Ask::Propose { commands, patience_ms } => {
                let patience = Duration::from_millis(patience_ms).min(propose::PATIENCE);
                Box::pin(self.propose_all(commands, patience)).await
            }
            Ask::Change(change) => match Box::pin(self.core.change(&change)).await {
                Tried::Done(done) => Told::Changed(done),
                Tried::NotLeader => Told::NotLeader,
            },
        };
        reply(&Answer::Body(told))
    }

    async fn read_index(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        open!(self, request, ());
        let (sender, answer) = oneshot::channel();
        let reader = Reader {
            origin: Origin::Follower,
            reply: sender,
        };
        let index = match self.core.reads.offer(reader) {
            Err(_) => Index::Failed(propose::Error::Full {
                bound: super::read::READERS_MAX,
            }),
            Ok(()) => match answer.await {
                Ok(Ok(revision)) => Index::At(revision),
                Ok(Err(Failure::NotLeader)) => Index::NotLeader,
                Ok(Err(Failure::Error(error))) => Index::Failed(error),
                Err(_) => Index::Failed(propose::Error::Stopped),
            },
        };
        reply(&Answer::Body(index))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        self.admit.join(request.into_inner()).await.map(Response::new)
    }
}
