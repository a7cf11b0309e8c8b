//! `isthmus.registry.v1.Register`: hands an agent's stream to ingest, with the caller's identity.

use std::sync::Arc;

use mesh::net::grpc::Caller;
use proto::registry::v1::{self as pb, register_server::Register};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::ingest::Agents;

/// The service.
pub(crate) struct RegisterApi(pub(crate) Arc<Agents>);

#[tonic::async_trait]
impl Register for RegisterApi {
    type AttachStream = ReceiverStream<Result<pb::AgentReply, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let caller = Caller::of(&request).and_then(|caller| caller.id.clone());
        let replies = self.0.accept(caller, request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(replies)))
    }
}
