//! The pages that every daemon shows its operator on loopback: readiness, metrics, settings, the view. Reads only; what
//! changes something is a route of its daemon's own.

mod server;
mod settings;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use crate::{
    model::{Coverage, Resource, View},
    ops::Metrics,
    runtime::{Ready, clock},
    subscribe::Views,
};
use proto::registry::v1 as pb;
pub use server::serve;
pub use settings::Settings;

/// `GET /ready` (and `/healthz/ready`, where Istio's users look): 200, or 503 with what is still waited for.
pub fn readiness(ready: Ready) -> Router {
    async fn page(State(ready): State<Ready>) -> Response {
        let pending = ready.pending();
        if pending.is_empty() {
            return (StatusCode::OK, "ready\n").into_response();
        }
        let text = format!("waiting for {}\n", pending.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
    Router::new()
        .route("/ready", get(page))
        .route("/healthz/ready", get(page))
        .with_state(ready)
}

/// `GET /metrics`: Prometheus' text format.
pub fn metrics(metrics: Metrics) -> Router {
    async fn page(State(metrics): State<Metrics>) -> Response {
        let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
        (kind, metrics.render()).into_response()
    }
    Router::new().route("/metrics", get(page)).with_state(metrics)
}

/// `GET /view`: everything that the daemon routes by, as JSON.
pub fn view(views: Views) -> Router {
    async fn page(State(views): State<Views>) -> Json<Value> {
        Json(view_json(&views.load()))
    }
    Router::new().route("/view", get(page)).with_state(views)
}

/// `GET /config`: the settings in force, as the daemon tells them; secrets are its business to leave out.
pub fn config(settings: String) -> Router {
    async fn page(State(settings): State<String>) -> String {
        settings
    }
    Router::new().route("/config", get(page)).with_state(settings)
}

/// A view for people and programs: nouns as in `isthmus --output json`.
#[must_use]
pub fn view_json(view: &View) -> Value {
    let (mut services, mut endpoints, mut gateways, mut bundles) = (vec![], vec![], vec![], vec![]);
    let mut shares = Vec::new();
    for resource in view.resources() {
        match resource {
            Resource::Service(service) => services.push(json!(pb::Service::from(service))),
            Resource::Endpoint(endpoint) => endpoints.push(json!(pb::Endpoint::from(endpoint.as_ref()))),
            Resource::Gateway(gateway) => gateways.push(json!(pb::Gateway::from(gateway))),
            Resource::Bundle(bundle) => bundles.push(json!({
                "trust_domain": bundle.trust_domain().as_str(),
                "region": bundle.region().as_str(),
                "sequence": bundle.sequence(),
                "anchors": bundle.anchors().len(),
            })),
            Resource::Share(share) => shares.push(json!(pb::TenantShare::from(share))),
            _ => {}
        }
    }
    let by_name = |value: &Value| {
        (
            value["namespace"].to_string(),
            value["name"].to_string(),
            value["id"].to_string(),
        )
    };
    services.sort_by_key(by_name);
    endpoints.sort_by_key(by_name);
    let regions: Vec<_> = view.regions().map(|status| json!(**status)).collect();
    let overrides: Vec<_> = view
        .overrides(clock::wall())
        .map(|order| json!(pb::Override::from((**order).clone())))
        .collect();
    json!({
        "region": view.region().map(crate::model::RegionId::as_str),
        "incarnation": view.held().incarnation.to_string(),
        "revision": view.held().revision.0,
        // Of which services the endpoints are below; null where of all.
        "endpoints_of": match view.coverage() {
            Coverage::All => Value::Null,
            Coverage::Of(names) => json!(**names),
        },
        "services": services,
        "endpoints": endpoints,
        "gateways": gateways,
        "bundles": bundles,
        "regions": regions,
        "overrides": overrides,
        "shares": shares,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::{
        net::listen::listen,
        runtime::{OnExit, Stop, Tasks},
        subscribe::Publisher,
    };

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_tell_readiness_metrics_settings_and_view() {
        let (ready, numbers) = (Ready::default(), Metrics::default());
        let (_publisher, views) = Publisher::new(View::default());
        numbers.counter("isthmus_test_total", "a test", &[]).increment(1);
        let routes = readiness(ready.clone())
            .merge(metrics(numbers))
            .merge(view(views))
            .merge(config("region = \"eu\"\n".into()));
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new(Stop::default());
        tasks.spawn(
            "admin",
            OnExit::StopProcess,
            serve(listener, routes, tasks.stop().clone()),
        );

        let held = ready.hold("first view");
        let answer = fetch(address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("first view"),
            "{answer}"
        );
        drop(held);
        assert!(fetch(address, "/healthz/ready").await.starts_with("HTTP/1.1 200"));
        assert!(fetch(address, "/metrics").await.contains("isthmus_test_total 1"));
        assert!(fetch(address, "/config").await.contains("region = \"eu\""));
        let answer = fetch(address, "/view").await;
        assert!(answer.contains("\"revision\":0"), "{answer}");
        tasks.stop().order();
        tasks.join(std::time::Duration::from_secs(10)).await.unwrap();
    }

    /// Slow heads, answers that nobody reads, and connections without a word: more than there is room for.
    #[tokio::test]
    async fn idlers_do_not_keep_anybody_from_the_pages() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new(Stop::default());
        let routes = readiness(Ready::default());
        tasks.spawn(
            "admin",
            OnExit::StopProcess,
            serve(listener, routes, tasks.stop().clone()),
        );
        let mut idlers = Vec::new();
        for at in 0..600 {
            let mut idler = TcpStream::connect(address).await.unwrap();
            if at % 2 == 0 {
                // Its place may be gone already.
                let _ = idler.write_all(b"GET /ready HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
            }
            idlers.push(idler);
        }
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), fetch(address, "/ready")).await;
        assert!(answer.expect("in time").starts_with("HTTP/1.1 200"));
        tasks.stop().order();
        tasks.join(std::time::Duration::from_secs(10)).await.unwrap();
    }
}
