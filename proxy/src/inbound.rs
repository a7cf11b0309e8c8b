//! Out of the mesh, into the application: lets verified callers in to what this workload serves, and tells the application
//! who calls. Decides nothing about where requests go.

mod admit;
mod deliver;
mod listen;
mod settings;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use http::StatusCode;
use mesh::{
    identity::Identity,
    model::Protocol,
    net::{
        listen::{Acceptor, ListenError, listen as bind},
        newcomers,
    },
    ops::Metrics,
    runtime::{Drain, OnExit, Stop, Tasks},
    subscribe::Views,
};
use metrics::Counter;

use self::{admit::Denied, deliver::Application};
pub use settings::{Served, ServedPort, Settings};

/// What the inbound side is given.
pub struct Deps {
    /// Who this workload is.
    pub identity: Identity,
    /// Says to whom this region exports what.
    pub views: Views,
    /// For its metrics.
    pub metrics: Metrics,
    /// Supervises its tasks.
    pub tasks: Tasks,
    /// Ends accepting; connections then finish what they have begun.
    pub accept: Stop,
    /// Held by each connection.
    pub drain: Drain,
}

pub(crate) struct Meters {
    classes: [Counter; 5],
    metrics: Metrics,
}

impl Meters {
    fn new(metrics: Metrics) -> Self {
        let counter = |code| {
            let name = "isthmus_inbound_requests_total";
            metrics.counter(
                name,
                "requests delivered to the application, by class of status",
                &[("code", code)],
            )
        };
        Self {
            classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter),
            metrics,
        }
    }

    pub(crate) fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.classes[class].increment(1);
    }

    /// A refused connection is no hot path: its counter is looked up.
    pub(crate) fn denied(&self, denied: &Denied) {
        let name = "isthmus_inbound_denied_total";
        let label = [("reason", denied.word())];
        self.metrics
            .counter(name, "connections that were not let in", &label)
            .increment(1);
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) identity: Identity,
    pub(crate) views: Views,
    pub(crate) served: ArcSwap<Vec<Served>>,
    pub(crate) meters: Meters,
    pub(crate) tasks: Tasks,
    pub(crate) accept: Stop,
    pub(crate) drain: Drain,
    /// Guards the table; asked once a connection.
    applications: Mutex<HashMap<(SocketAddr, Protocol), Arc<Application>>>,
}

impl Shared {
    /// The application behind a port.
    pub(crate) fn application(&self, port: &ServedPort) -> Arc<Application> {
        // A table of connections: a panic leaves nothing half done.
        let mut applications = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
        let known = applications
            .entry((port.application, port.protocol))
            .or_insert_with(|| {
                Arc::new(Application::new(
                    port.application,
                    port.protocol,
                    self.tasks.clone(),
                    self.settings.connect_timeout,
                    self.settings.application_idle,
                ))
            });
        Arc::clone(known)
    }
}

/// The inbound side of a proxy. Clones are the same one.
#[derive(Clone)]
pub struct Inbound {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Inbound {
    /// Binds its listener and starts.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn new(settings: Settings, served: Vec<Served>, deps: Deps) -> Result<Self, ListenError> {
        let listener = bind(settings.listen)?;
        // A bound socket knows its address.
        let address = listener.local_addr().unwrap_or(settings.listen);
        // A whole cluster may come from the address of one gateway: only the share of all newcomers is bounded.
        let newcomers = newcomers::Bounds {
            total_max: settings.connections_max,
            source_max: settings.connections_max,
        };
        let acceptor = Acceptor::new(listener, "inbound", settings.connections_max, &deps.metrics);
        let acceptor = acceptor.with_newcomers(newcomers);
        let shared = Arc::new(Shared {
            settings,
            identity: deps.identity,
            views: deps.views,
            served: ArcSwap::from_pointee(served),
            meters: Meters::new(deps.metrics),
            tasks: deps.tasks,
            accept: deps.accept,
            drain: deps.drain,
            applications: Mutex::default(),
        });
        let task = listen::accept(Arc::clone(&shared), acceptor);
        shared.tasks.spawn("inbound-listen", OnExit::StopProcess, task);
        Ok(Self { shared, address })
    }

    /// Where the mesh comes in.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is what the workload serves: called again when the registry names its endpoints.
    pub fn serve(&self, served: Vec<Served>) {
        self.shared.served.store(Arc::new(served));
    }
}
