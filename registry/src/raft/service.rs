//! The Raft service as the other nodes call it over gRPC. Says who calls and passes the bytes on to `answer`; `Join`, which
//! needs no certificate, belongs to [`Admit`].

use std::sync::Arc;

use futures_util::future::BoxFuture;
use mesh::{
    identity::Identity,
    net::grpc::{Caller, MESSAGE_BYTES_MAX},
};
use proto::raft::v1::{
    JoinReply, JoinRequest, Payload,
    raft_server::{Raft as RaftApi, RaftServer},
};
use tonic::{Request, Response, Status};

use super::{core::Core, transport::Method};

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

impl Service {
    pub(crate) fn server(core: Arc<Core>, identity: Identity, admit: Arc<dyn Admit>) -> RaftServer<Self> {
        RaftServer::new(Self { core, identity, admit })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    async fn answer(&self, method: Method, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        let role = Caller::of(&request).and_then(|caller| caller.role(&self.identity.trust_domain()));
        let request = request.into_inner().body;
        let body = Box::pin(self.core.answer(method, role, &request)).await?;
        Ok(Response::new(Payload { body }))
    }
}

#[tonic::async_trait]
impl RaftApi for Service {
    async fn append_entries(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.answer(Method::Append, request).await
    }

    async fn vote(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.answer(Method::Vote, request).await
    }

    async fn install_snapshot(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.answer(Method::Install, request).await
    }

    async fn propose(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.answer(Method::Propose, request).await
    }

    async fn read_index(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.answer(Method::ReadIndex, request).await
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        self.admit.join(request.into_inner()).await.map(Response::new)
    }
}
