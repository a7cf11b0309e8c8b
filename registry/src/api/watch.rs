//! The gRPC side of the hub: who may watch what, requests in, updates out. What an update holds is decided in `crate::watch`.
//!
//! The service is written out where others are generated: its messages come encoded, because many subscribers share them.

mod readers;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use mesh::{
    identity::Role,
    model::{ClusterId, ServiceName},
    net::grpc::{Caller, Hangup},
    runtime::Tasks,
};
use proto::registry::v1::{self as pb, watch_request::Kind, watch_server};
use tonic::{
    Request, Status, Streaming,
    codec::Codec,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::NamedService,
};
use tonic_prost::ProstCodec;
use tower::Service;

use self::{
    readers::Readers,
    stream::{Requests, Turn, Updates},
};
use super::turns::Turns;
use crate::{
    catalog::State,
    watch::{Hub, Scope, Subscriber},
};

/// How long a reader may take for one update: longer than a full one takes on a slow line, and so long at most is an update
/// kept for a reader that does not read.
const SLOW_MAX: Duration = Duration::from_secs(60);
/// Longest message of a subscriber: as many services as an interest may name.
const REQUEST_BYTES_MAX: usize = 2 << 20;
/// How long a new stream may take to say what it wants.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Most services of one interest; a proxy bounds what it wants far below.
const INTEREST_SERVICES_MAX: usize = 10_000;
const SUBSCRIBE: &str = "/isthmus.registry.v1.Watch/Subscribe";

/// The service.
#[derive(Clone)]
pub struct WatchService {
    hub: Arc<Hub>,
    tasks: Tasks,
    turns: Turns,
    readers: Arc<Readers>,
}

impl WatchService {
    /// The gRPC service over a hub; its streams end with `tasks`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, tasks: Tasks) -> Self {
        Self::with_patience(hub, tasks, SLOW_MAX)
    }

    /// As [`WatchService::new`], with another patience for slow readers.
    #[must_use]
    pub fn with_patience(hub: Arc<Hub>, tasks: Tasks, slow_max: Duration) -> Self {
        Self {
            readers: Readers::watched(Arc::clone(&hub), &tasks, slow_max),
            hub,
            tasks,
            turns: Turns::default(),
        }
    }

    async fn subscribe(&self, request: Request<Streaming<pb::WatchRequest>>) -> Result<Updates, Status> {
        let caller = Caller::of(&request).cloned();
        let hangup = Hangup::of(&request);
        let role = admit(caller.as_ref(), &self.hub.state())?;
        let mut incoming = request.into_inner();
        let start = tokio::time::timeout(START_TIMEOUT, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no start message in time"))??;
        let Some(Kind::Start(start)) = start.and_then(|request| request.kind) else {
            return Err(Status::invalid_argument("the first message must be start"));
        };
        let interest = start.interest.unwrap_or_default();
        let sequence = interest.sequence;
        let scope = scope(interest, role)?;
        let shown = start.shown.map(|shown| self::scope(shown, role)).transpose()?;
        let ticket = self
            .hub
            .subscribers()
            .enter(&start.subscriber, &start.version)
            .ok_or_else(|| {
                Status::resource_exhausted("this node has as many subscribers as it takes; ask another node")
            })?;
        let held = start.held.map(Into::into);
        Ok(Updates {
            subscriber: match shown {
                Some(shown) => Subscriber::resumed(&self.hub, scope, held, shown),
                None => Subscriber::new(&self.hub, scope, held),
            },
            ticket,
            role,
            sequence,
            reading: self.readers.enter(hangup),
            turn: Turn::new(self.turns.of(caller.and_then(|caller| caller.id))),
            requests: Requests::new(incoming, self.tasks.stop().clone()),
            sending: None,
            is_over: false,
        })
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = watch_server::SERVICE_NAME;
}

impl<B> Service<http::Request<B>> for WatchService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            if parts.uri.path() != SUBSCRIBE {
                return Ok(Status::unimplemented("this version has no such call").into_http());
            }
            let decoder = ProstCodec::<pb::Update, pb::WatchRequest>::default().decoder();
            let incoming = Streaming::new_request(decoder, body, None, Some(REQUEST_BYTES_MAX));
            let metadata = MetadataMap::from_headers(parts.headers);
            let request = Request::from_parts(metadata, parts.extensions, incoming);
            Ok(match service.subscribe(request).await {
                Err(status) => status.into_http(),
                Ok(updates) => {
                    let mut response = http::Response::new(tonic::body::Body::new(updates));
                    let headers = response.headers_mut();
                    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
                    response
                }
            })
        })
    }
}

/// What the caller is to this region; none for workloads.
fn admit(caller: Option<&Caller>, state: &State) -> Result<Option<Role>, Status> {
    let id = caller.and_then(|caller| Some((caller, caller.id.as_ref()?)));
    let Some((caller, id)) = id else {
        return Err(Status::unauthenticated("show a certificate of this region to watch it"));
    };
    let domain = state
        .trust_domain()
        .ok_or_else(|| Status::unavailable("the region is not initialised yet"))?;
    if id.trust_domain() != *domain {
        return Err(Status::permission_denied(format!(
            "{id} is not of trust domain {domain}; watch the registry of its own region"
        )));
    }
    Ok(caller.role(domain))
}

fn scope(interest: pb::Interest, role: Option<Role>) -> Result<Scope, Status> {
    let bad = |fault: String| Status::invalid_argument(format!("interest: {fault}"));
    let kinds = [
        interest.everything || interest.names,
        !interest.services.is_empty(),
        !interest.exported_by_cluster.is_empty(),
    ];
    if kinds.into_iter().filter(|is_set| *is_set).count() > 1 {
        return Err(bad("choose one of everything, services and exported_by_cluster".into()));
    }
    if role == Some(Role::Gateway) && interest.exported_by_cluster.is_empty() {
        return Err(Status::permission_denied(
            "a gateway watches exported_by_cluster: it needs nothing else",
        ));
    }
    if interest.everything && !interest.names {
        return Ok(Scope::Everything);
    }
    if !interest.exported_by_cluster.is_empty() {
        let cluster = ClusterId::parse(&interest.exported_by_cluster).map_err(|error| bad(error.to_string()))?;
        return Ok(Scope::ExportedByCluster(cluster));
    }
    let services = if interest.names {
        &interest.endpoints_of
    } else {
        &interest.services
    };
    if services.len() > INTEREST_SERVICES_MAX {
        return Err(bad(format!(
            "{} services are more than {INTEREST_SERVICES_MAX}; watch everything",
            services.len()
        )));
    }
    let parsed = services.iter().map(|name| ServiceName::parse(name));
    let services = parsed
        .collect::<Result<_, _>>()
        .map_err(|error| bad(error.to_string()))?;
    Ok(if interest.names {
        Scope::Names(services)
    } else {
        Scope::Services(services)
    })
}
