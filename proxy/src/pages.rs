//! The admin pages: those of all daemons, and what a proxy has beside them. Plain HTTP without any check of who asks,
//! therefore for loopback.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use axum::{
    Json, Router,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use mesh::{
    net::listen::listen,
    ops::{Metrics, admin},
    runtime::{OnExit, Pending, Ready, Tasks},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    app::Error,
    outbound::{Missing, Outbound},
};

/// `GET /why?to=<name or Host>`: the candidates for a destination, their state and the rule that decides. Asks for the
/// endpoints of a service that was not used yet, as a request for it would.
/// `GET /outbound`: routes, endpoints, pools and gateways as this proxy sees them.
pub(crate) fn outbound(outbound: Outbound) -> Router {
    async fn why(
        State(outbound): State<Outbound>,
        Query(query): Query<std::collections::BTreeMap<String, String>>,
    ) -> Response {
        let Some(to) = query.get("to") else {
            return (
                StatusCode::BAD_REQUEST,
                "to: is missing; ask for example /why?to=pay.shop\n",
            )
                .into_response();
        };
        let mut explained = outbound.explain(to);
        if let Err(Missing::Endpoints(service)) = &explained {
            if let Err(error) = outbound.fetch(service).await {
                return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
            }
            explained = outbound.explain(to);
        }
        match explained {
            Ok(explanation) => Json(json!(explanation)).into_response(),
            Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        }
    }
    async fn status(State(outbound): State<Outbound>) -> Json<Value> {
        Json(outbound.status())
    }
    Router::new()
        .route("/why", get(why))
        .route("/outbound", get(status))
        .with_state(outbound)
}

/// Tells the registry and the readiness page that this workload goes away. Traffic goes on.
#[derive(Clone)]
pub(crate) struct Drainer {
    draining: watch::Sender<bool>,
    ready: Ready,
    held: Arc<OnceLock<Pending>>,
}

impl Drainer {
    pub(crate) fn new(draining: watch::Sender<bool>, ready: Ready) -> Self {
        Self {
            draining,
            ready,
            held: Arc::default(),
        }
    }

    pub(crate) fn begin(&self) {
        self.held.get_or_init(|| self.ready.hold("draining"));
        self.draining.send_replace(true);
    }

    /// `POST /drain`: for a hook before the stop. What is on its way is answered; the stop itself comes by signal.
    pub(crate) fn routes(self) -> Router {
        async fn page(State(drainer): State<Drainer>) -> (StatusCode, &'static str) {
            drainer.begin();
            (StatusCode::ACCEPTED, "draining\n")
        }
        Router::new().route("/drain", post(page)).with_state(self)
    }
}

/// The admin listeners: bound first, served as soon as there is something to tell.
pub(crate) struct Pages {
    pub(crate) ready: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) pages: SocketAddr,
    early: Vec<TcpListener>,
    late: TcpListener,
}

impl Pages {
    pub(crate) fn bind(settings: &admin::Settings) -> Result<Self, Error> {
        let bind = |address| {
            let listener = listen(address).map_err(|source| Error::Listen { what: "admin", source })?;
            let address = listener.local_addr().unwrap_or(address);
            Ok::<_, Error>((listener, address))
        };
        let (late, pages) = bind(settings.pages)?;
        let mut early = Vec::new();
        let mut bind_early = |wanted: SocketAddr| {
            if wanted == settings.pages && wanted.port() != 0 {
                return Ok(pages);
            }
            let (listener, address) = bind(wanted)?;
            early.push(listener);
            Ok::<_, Error>(address)
        };
        let ready = bind_early(settings.ready)?;
        let metrics = if settings.metrics == settings.ready && settings.metrics.port() != 0 {
            ready
        } else {
            bind_early(settings.metrics)?
        };
        Ok(Self {
            ready,
            metrics,
            pages,
            early,
            late,
        })
    }

    /// Readiness and metrics, which have something to tell before there is an identity.
    pub(crate) fn serve_early(&mut self, ready: &Ready, metrics: &Metrics, tasks: &Tasks) {
        for listener in self.early.drain(..) {
            let routes = admin::readiness(ready.clone()).merge(admin::metrics(metrics.clone()));
            let serve = admin::serve(listener, routes, tasks.stop().clone());
            tasks.spawn("admin", OnExit::StopProcess, serve);
        }
    }

    pub(crate) fn serve(self, routes: Router, tasks: &Tasks) {
        let serve = admin::serve(self.late, routes, tasks.stop().clone());
        tasks.spawn("admin-pages", OnExit::StopProcess, serve);
    }
}
