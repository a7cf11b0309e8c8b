//! `isthmus.admin.v1`: the operator's API. Promises that each read says which truth it answers from, and that a refusal
//! names the field and the fix. Who may call is judged before, by the table in `rules`. The HTTP mirror calls the same
//! functions.

mod authority;
mod catalogue;
pub(crate) mod diagnose;
mod drills;
mod exports;
mod nodes;
mod peers;
mod routing;
mod status;
mod tenants;
mod tokens;

use std::sync::Arc;

use bytes::Bytes;
use mesh::subscribe::Views;
use proto::admin::v1 as pb;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};

use super::Error;
use crate::{
    app::Parts,
    catalog::{Command, Reply, State},
    raft::Position,
};

/// Answers the operator; cheap to clone.
#[derive(Clone)]
pub(crate) struct Admin {
    parts: Arc<Parts>,
}

/// A truth and its position.
struct Reading {
    state: Arc<State>,
    position: pb::Position,
}

impl Admin {
    pub(crate) fn new(parts: Arc<Parts>) -> Self {
        Self { parts }
    }

    /// What proxies of this region route by.
    pub(crate) fn views(&self) -> Views {
        self.parts.views.clone()
    }

    async fn read(&self, options: Option<pb::ReadOptions>) -> Result<Reading, Error> {
        let linearizable = !options.unwrap_or_default().local;
        if linearizable {
            self.parts.replica.linearize().await?;
        }
        // The position first: the state is then at least as new as it says.
        let position = self.parts.replica.position();
        let state = self.parts.replica.state();
        Ok(Reading {
            position: self.position(&state, position, linearizable),
            state,
        })
    }

    fn position(&self, state: &State, position: Position, linearizable: bool) -> pb::Position {
        let age = if linearizable { None } else { Some(position.age) };
        // Never heard of a leader since the start: as old as can be said.
        let age_ms = age.map_or(0, |age| age.map_or(u64::MAX, |age| saturating_ms(age.as_millis())));
        pb::Position {
            region: self.parts.config.region.to_string(),
            incarnation: state.incarnation().0,
            revision: position.revision.0,
            age_ms,
            linearizable,
            node: self.parts.node.0,
        }
    }

    /// Proposes, and answers with the position of the commit.
    async fn commit(&self, command: Command) -> Result<(Reply, pb::Committed), Error> {
        let committed = self.parts.propose(command).await?;
        let state = self.parts.replica.state();
        let mut position = self.position(&state, self.parts.replica.position(), true);
        position.revision = committed.revision.0;
        let position = Some(position);
        Ok((committed.reply, pb::Committed { position }))
    }

    /// Not older than any write acknowledged before the call, unless the caller takes what this node has.
    async fn save_snapshot(&self, message: pb::SaveSnapshotRequest) -> Result<mpsc::Receiver<Bytes>, Error> {
        let reading = self.read(message.read).await?;
        if reading.state.region().is_none() {
            return Err(Error::Empty);
        }
        Ok(self.parts.replica.snapshot())
    }

    async fn committed(&self, command: Command) -> Result<pb::Committed, Error> {
        Ok(self.commit(command).await?.1)
    }
}

fn saturating_ms(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// The service: asks [`Admin`], and counts.
pub(crate) struct AdminApi(pub(crate) Admin);

impl AdminApi {
    fn count<T>(&self, request: Request<T>) -> T {
        self.0.parts.meters.admin_calls.increment(1);
        request.into_inner()
    }

    fn answer<T>(&self, answer: Result<T, Error>) -> Result<Response<T>, Status> {
        if answer.is_err() {
            self.0.parts.meters.admin_refused.increment(1);
        }
        Ok(Response::new(answer?))
    }
}

/// One method of the service: its name and the function that answers.
macro_rules! methods {
    ($($method:ident($message:ty) -> $answer:ty;)*) => {
        #[tonic::async_trait]
        impl pb::admin_server::Admin for AdminApi {
            $(
                async fn $method(&self, request: Request<$message>) -> Result<Response<$answer>, Status> {
                    let message = self.count(request);
                    self.answer(self.0.$method(message).await)
                }
            )*

            type SaveSnapshotStream =
                std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::SnapshotChunk, Status>> + Send>>;

            async fn save_snapshot(
                &self,
                request: Request<pb::SaveSnapshotRequest>,
            ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
                let message = self.count(request);
                let parts = self.0.save_snapshot(message).await;
                let parts = self.answer(parts)?.into_inner();
                let chunks = ReceiverStream::new(parts).map(|data| Ok(pb::SnapshotChunk { data }));
                Ok(Response::new(Box::pin(chunks)))
            }
        }
    };
}

methods! {
    get_status(pb::StatusRequest) -> pb::Status;
    diagnose(pb::DiagnoseRequest) -> pb::NodeFacts;
    list_services(pb::ListServicesRequest) -> pb::ServiceList;
    list_endpoints(pb::ListEndpointsRequest) -> pb::EndpointList;
    resolve(pb::ResolveRequest) -> pb::ResolveReply;
    why(pb::WhyRequest) -> pb::WhyReply;
    list_tenants(pb::ReadOptions) -> pb::TenantList;
    put_tenant(pb::PutTenantRequest) -> pb::Committed;
    remove_tenant(pb::RemoveTenantRequest) -> pb::Committed;
    list_exports(pb::ReadOptions) -> pb::ExportList;
    put_export(pb::Export) -> pb::Committed;
    remove_export(pb::RemoveExportRequest) -> pb::Committed;
    put_import_policy(pb::ImportPolicy) -> pb::Committed;
    create_token(pb::CreateTokenRequest) -> pb::Token;
    create_peer_token(pb::CreatePeerTokenRequest) -> pb::Token;
    create_node_token(pb::CreateNodeTokenRequest) -> pb::Token;
    join_peer(pb::JoinPeerRequest) -> pb::Peer;
    list_peers(pb::ReadOptions) -> pb::PeerList;
    remove_peer(pb::RemovePeerRequest) -> pb::Committed;
    repair_peer(pb::RepairPeerRequest) -> pb::Committed;
    rotate_authority(pb::RotateAuthorityRequest) -> pb::Committed;
    get_authority(pb::ReadOptions) -> pb::AuthorityStatus;
    remove_node(pb::RemoveNodeRequest) -> pb::Committed;
    start_drill(pb::StartDrillRequest) -> pb::Drill;
    renew_drill(pb::RenewDrillRequest) -> pb::Drill;
    end_drill(pb::EndDrillRequest) -> pb::Committed;
    list_drills(pb::ReadOptions) -> pb::DrillList;
    release_unverified(pb::ReleaseUnverifiedRequest) -> pb::Committed;
}
