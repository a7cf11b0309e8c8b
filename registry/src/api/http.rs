//! Plain HTTP for probes, Prometheus and people: health, metrics, and the operator's reads as JSON, from the same functions
//! as the gRPC answers. Changes nothing, keeps no secret back because it is given none, and serves a bounded number of
//! requests, each for a bounded time.

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt;
use mesh::{
    ops::{Metrics, admin},
    runtime::Ready,
};
use proto::admin::v1 as pb;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use super::{Admin, Error, outward::may_retry};

/// Longer than a linearizable read may take during an election.
const ANSWER_WAIT: Duration = Duration::from_secs(15);

const INDEX: &str = "isthmus registry

/healthz                                  is the process alive
/readyz                                   may it be sent to; else what it waits for
/metrics                                  Prometheus
/view                                     what proxies of this region route by
/v1/status                                nodes, peers, subscribers, warnings
/v1/services?namespace=                   services
/v1/services/{name}.{namespace}/endpoints endpoints of one
/v1/tenants                               tenants and their shares
/v1/exports                               what is offered to peers
/v1/peers                                 peers with lag and age
/v1/drills                                drills that run
/v1/resolve?name=&from_region=&from_zone= what a name resolves to
/v1/why?source=&destination=              why a request goes where it goes

Reads under /v1 are linearizable; add local=true for what this node holds, also without a quorum.
";

/// All pages of a node.
pub(crate) fn pages(admin: Admin, ready: Ready, metrics: Metrics, requests_max: usize) -> Router {
    let slots = Arc::new(Semaphore::new(requests_max));
    let views = admin.views();
    let reads = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services))
        .route("/v1/services/{service}/endpoints", get(endpoints))
        .route("/v1/tenants", get(tenants))
        .route("/v1/exports", get(exports))
        .route("/v1/peers", get(peers))
        .route("/v1/drills", get(drills))
        .route("/v1/resolve", get(resolve))
        .route("/v1/why", get(why))
        .with_state(admin);
    let health = Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(ready.clone());
    reads
        .merge(admin::view(views))
        .merge(admin::metrics(metrics))
        .layer(middleware::from_fn_with_state(slots, bounded))
        // Probes stay outside the bound: a busy node is not a dead one.
        .merge(health)
        .merge(admin::readiness(ready))
        .layer(DefaultBodyLimit::max(1024))
}

async fn bounded(State(slots): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let Ok(slot) = slots.try_acquire_owned() else {
        let text = "too many requests at once; come back in a second\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")], text).into_response();
    };
    match tokio::time::timeout(ANSWER_WAIT, next.run(request)).await {
        // The place is given back when the answer was read, not when it was made: answers are what takes memory.
        Ok(response) => {
            let length = response.body().size_hint().exact();
            let mut response = response.map(|body| {
                let whole = body.into_data_stream().map(move |chunk| {
                    let _held = &slot;
                    chunk
                });
                Body::from_stream(whole)
            });
            if let Some(length) = length {
                response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            }
            response
        }
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "no answer in time; try local=true\n").into_response(),
    }
}

async fn readyz(State(ready): State<Ready>) -> Response {
    let pending = ready.pending();
    if pending.is_empty() {
        return "ready\n".into_response();
    }
    let text = format!("waiting for {}\n", pending.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

/// What any read takes.
#[derive(Deserialize)]
struct Options {
    #[serde(default)]
    local: bool,
}

impl From<Options> for pb::ReadOptions {
    fn from(options: Options) -> Self {
        Self { local: options.local }
    }
}

async fn answer<T: Serialize>(answer: impl Future<Output = Result<T, Error>>) -> Response {
    match answer.await {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => {
            let status = Status::from(error);
            let body = json!({ "error": status.message(), "retry": may_retry(&status) });
            (http_code(status.code()), Json(body)).into_response()
        }
    }
}

fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unauthenticated | Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::FailedPrecondition | Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

async fn status(State(admin): State<Admin>, Query(options): Query<Options>) -> Response {
    let request = pb::StatusRequest {
        read: Some(options.into()),
    };
    answer(admin.get_status(request)).await
}

#[derive(Deserialize)]
struct ServicesQuery {
    #[serde(default)]
    local: bool,
    #[serde(default)]
    namespace: String,
}

async fn services(State(admin): State<Admin>, Query(query): Query<ServicesQuery>) -> Response {
    let request = pb::ListServicesRequest {
        read: Some(pb::ReadOptions { local: query.local }),
        namespace: query.namespace,
    };
    answer(admin.list_services(request)).await
}

async fn endpoints(
    State(admin): State<Admin>,
    Path(service): Path<String>,
    Query(options): Query<Options>,
) -> Response {
    let request = pb::ListEndpointsRequest {
        read: Some(options.into()),
        service,
    };
    answer(admin.list_endpoints(request)).await
}

async fn tenants(State(admin): State<Admin>, Query(options): Query<Options>) -> Response {
    answer(admin.list_tenants(options.into())).await
}

async fn exports(State(admin): State<Admin>, Query(options): Query<Options>) -> Response {
    answer(admin.list_exports(options.into())).await
}

async fn peers(State(admin): State<Admin>, Query(options): Query<Options>) -> Response {
    answer(admin.list_peers(options.into())).await
}

async fn drills(State(admin): State<Admin>, Query(options): Query<Options>) -> Response {
    answer(admin.list_drills(options.into())).await
}

#[derive(Deserialize)]
struct ResolveQuery {
    name: String,
    #[serde(default)]
    from_region: String,
    #[serde(default)]
    from_zone: String,
    #[serde(default)]
    local: bool,
}

async fn resolve(State(admin): State<Admin>, Query(query): Query<ResolveQuery>) -> Response {
    let request = pb::ResolveRequest {
        read: Some(pb::ReadOptions { local: query.local }),
        name: query.name,
        from_region: query.from_region,
        from_zone: query.from_zone,
    };
    answer(admin.resolve(request)).await
}

#[derive(Deserialize)]
struct WhyQuery {
    source: String,
    destination: String,
    #[serde(default)]
    local: bool,
}

async fn why(State(admin): State<Admin>, Query(query): Query<WhyQuery>) -> Response {
    let request = pb::WhyRequest {
        read: Some(pb::ReadOptions { local: query.local }),
        source: query.source,
        destination: query.destination,
    };
    answer(admin.why(request)).await
}
