//! `isthmus.admin.v1`: the operator's API. Promises that only the operator's identity changes anything, that each read says
//! which truth it answers from, and that a refusal names the field and the fix. The HTTP mirror calls the same functions.

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

use mesh::{
    identity::{Role, SpiffeId, system},
    net::grpc::Caller,
    subscribe::Views,
};
use proto::admin::v1 as pb;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use tracing::info;

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

    async fn committed(&self, command: Command) -> Result<pb::Committed, Error> {
        Ok(self.commit(command).await?.1)
    }
}

fn saturating_ms(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

/// What a call does, which decides who may make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Changes nothing and shows no secret.
    Read,
    /// Everything else.
    Write,
}

/// Whether a caller of this region's trust domain may do it. Pure.
pub(crate) fn may(caller: Option<&SpiffeId>, domain: &mesh::identity::TrustDomain, act: Act) -> Result<(), Error> {
    let role = caller.filter(|id| id.trust_domain() == *domain).and_then(system::role);
    match (role, act) {
        (Some(Role::Operator), _) | (Some(Role::Registry), Act::Read) => Ok(()),
        (Some(Role::Registry | Role::Gateway) | None, _) => Err(Error::NotAllowed {
            caller: caller.cloned(),
            needs: "the operator's certificate of this region (registry init wrote it below operator/ in its data_dir)",
        }),
    }
}

/// The service: judges the caller, then asks [`Admin`].
pub(crate) struct AdminApi(pub(crate) Admin);

impl AdminApi {
    /// Judges the caller and gives the message.
    fn admit<T>(&self, request: Request<T>, act: Act, call: &'static str) -> Result<T, Status> {
        let parts = &self.0.parts;
        parts.meters.admin_calls.increment(1);
        let caller = Caller::of(&request).and_then(|caller| caller.id.as_ref());
        if let Err(error) = may(caller, &parts.trust_domain, act) {
            parts.meters.admin_refused.increment(1);
            info!(?caller, call, "call refused");
            return Err(error.into());
        }
        if act == Act::Write {
            info!(?caller, call, "operator's call");
        }
        Ok(request.into_inner())
    }

    fn answer<T>(&self, answer: Result<T, Error>) -> Result<Response<T>, Status> {
        if answer.is_err() {
            self.0.parts.meters.admin_refused.increment(1);
        }
        Ok(Response::new(answer?))
    }
}

/// One method of the service: its name, who may call it, and the function that answers.
macro_rules! methods {
    ($($method:ident($message:ty) -> $answer:ty: $act:ident;)*) => {
        #[tonic::async_trait]
        impl pb::admin_server::Admin for AdminApi {
            $(
                async fn $method(&self, request: Request<$message>) -> Result<Response<$answer>, Status> {
                    let message = self.admit(request, Act::$act, stringify!($method))?;
                    self.answer(self.0.$method(message).await)
                }
            )*

            type SaveSnapshotStream =
                std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::SnapshotChunk, Status>> + Send>>;

            async fn save_snapshot(
                &self,
                request: Request<pb::SaveSnapshotRequest>,
            ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
                // It holds the authority's key: a read only in name.
                self.admit(request, Act::Write, "save_snapshot")?;
                let chunks = ReceiverStream::new(self.0.parts.replica.snapshot());
                Ok(Response::new(Box::pin(chunks.map(|data| Ok(pb::SnapshotChunk { data })))))
            }
        }
    };
}

methods! {
    get_status(pb::StatusRequest) -> pb::Status: Read;
    diagnose(pb::DiagnoseRequest) -> pb::NodeFacts: Read;
    list_services(pb::ListServicesRequest) -> pb::ServiceList: Read;
    list_endpoints(pb::ListEndpointsRequest) -> pb::EndpointList: Read;
    resolve(pb::ResolveRequest) -> pb::ResolveReply: Read;
    why(pb::WhyRequest) -> pb::WhyReply: Read;
    list_tenants(pb::ReadOptions) -> pb::TenantList: Read;
    put_tenant(pb::PutTenantRequest) -> pb::Committed: Write;
    remove_tenant(pb::RemoveTenantRequest) -> pb::Committed: Write;
    list_exports(pb::ReadOptions) -> pb::ExportList: Read;
    put_export(pb::Export) -> pb::Committed: Write;
    remove_export(pb::RemoveExportRequest) -> pb::Committed: Write;
    put_import_policy(pb::ImportPolicy) -> pb::Committed: Write;
    create_token(pb::CreateTokenRequest) -> pb::Token: Write;
    create_peer_token(pb::CreatePeerTokenRequest) -> pb::Token: Write;
    create_node_token(pb::CreateNodeTokenRequest) -> pb::Token: Write;
    join_peer(pb::JoinPeerRequest) -> pb::Peer: Write;
    list_peers(pb::ReadOptions) -> pb::PeerList: Read;
    remove_peer(pb::RemovePeerRequest) -> pb::Committed: Write;
    remove_node(pb::RemoveNodeRequest) -> pb::Committed: Write;
    start_drill(pb::StartDrillRequest) -> pb::Drill: Write;
    renew_drill(pb::RenewDrillRequest) -> pb::Drill: Write;
    end_drill(pb::EndDrillRequest) -> pb::Committed: Write;
    list_drills(pb::ReadOptions) -> pb::DrillList: Read;
    release_unverified(pb::ReleaseUnverifiedRequest) -> pb::Committed: Write;
}

#[cfg(test)]
mod tests {
    use mesh::identity::TrustDomain;

    use super::*;

    #[test]
    fn only_the_operator_of_the_own_domain_writes() {
        let domain = TrustDomain::parse("eu").expect("valid");
        for (caller, read, write) in [
            (Some("spiffe://eu/ns/isthmus-system/sa/operator"), true, true),
            (Some("spiffe://eu/ns/isthmus-system/sa/registry"), true, false),
            (Some("spiffe://eu/ns/isthmus-system/sa/gateway"), false, false),
            (Some("spiffe://us/ns/isthmus-system/sa/operator"), false, false),
            (Some("spiffe://eu/ns/shop/sa/operator"), false, false),
            (Some("spiffe://eu/ns/isthmus-system/sa/operator2"), false, false),
            (Some("spiffe://eu/isthmus-system/operator"), false, false),
            (None, false, false),
        ] {
            let id = caller.map(|id| SpiffeId::parse(id).expect("valid"));
            assert_eq!(may(id.as_ref(), &domain, Act::Read).is_ok(), read, "{caller:?} reads");
            assert_eq!(
                may(id.as_ref(), &domain, Act::Write).is_ok(),
                write,
                "{caller:?} writes"
            );
        }
    }
}
