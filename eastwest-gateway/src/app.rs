//! Puts the gateway together: binds, wires, and takes it down in order. The only file that knows all parts.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh::{
    identity::{Identity, Obtain, obtain, system},
    model::{EndpointState, Namespace, ServiceAccount},
    net::{
        copy::Pool,
        listen::{Acceptor, ListenError, listen},
    },
    ops::{Metrics, admin},
    runtime::{Drain, OnExit, Ready, Stop, TaskError, Tasks},
    subscribe::{Attachment, Interest, Lessee, Settings, Subscription, Views, attach},
};
use proto::registry::v1 as pb;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    accept::{self, Hall},
    config::Config,
    limit::Ledger,
    load::Loads,
    metrics::GatewayMetrics,
};

/// Least time between two writes of the view on disk: a start without registry needs it, and nothing sooner.
const VIEW_SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long tasks may take to end after the last tunnel was cut.
const JOIN_DEADLINE: Duration = Duration::from_secs(2);

/// Why a gateway did not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("gateway cannot listen")]
    Listen(#[from] ListenError),
    /// A bound socket is gone.
    #[error("gateway lost a listener")]
    Socket(#[source] io::Error),
    /// The token file cannot be read.
    #[error("cannot read identity.token_file {path}")]
    TokenFile {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The own folder cannot be made.
    #[error("cannot make data_dir {path}")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No identity to be had.
    #[error("gateway has no identity")]
    Identity(#[from] mesh::identity::ObtainError),
    /// The subscription ended before the first view.
    #[error("gateway's subscription ended before the first view came")]
    Subscription,
    /// A part ended by itself.
    #[error("gateway ended")]
    Task(#[from] TaskError),
}

/// A gateway that runs.
pub struct Running {
    /// Where it listens.
    pub addresses: Addresses,
    data_path: DataPath,
    attachment: Attachment,
}

impl Running {
    /// Returns when the order to stop was given and everything has ended in order: the registry is told, the listener is
    /// closed, open tunnels may finish until the deadline and are then cut.
    ///
    /// # Errors
    /// When a part of the gateway ended by itself.
    pub async fn finish(self) -> Result<(), Error> {
        let Self {
            data_path, attachment, ..
        } = self;
        let farewell = async || attachment.set_state(EndpointState::Draining);
        data_path.finish(farewell, || attachment.detach()).await
    }
}

/// Runs a gateway until `stop` is ordered and its tunnels have ended.
///
/// # Errors
/// See [`Error`].
pub async fn run(config: Config, stop: Stop) -> Result<(), Error> {
    tokio::select! {
        // While starting it waits for the registry's word, which may never come.
        () = stop.ordered() => return Ok(()),
        running = Box::pin(start(config, stop.clone())) => running?,
    }
    .finish()
    .await
}

/// Starts a gateway: gets its identity and its view, those on disk if they are good, else from the registry, for which it
/// waits as long as it takes; then lets clients in and registers. Until then clients are refused instead of kept waiting,
/// and `/ready` tells what is missing. Call [`Running::finish`] to take it down.
///
/// # Errors
/// See [`Error`].
pub async fn start(config: Config, stop: Stop) -> Result<Running, Error> {
    // Only a try, so that a port in use is told now and not after the registry has answered.
    drop(listen(config.listen)?);
    let data_dir = |source| Error::DataDir {
        path: config.data_dir.clone(),
        source,
    };
    tokio::fs::create_dir_all(&config.data_dir).await.map_err(data_dir)?;
    let ground = Ground::new(stop);
    let admin = ground.open_pages(&config)?;
    let waiting = ground.ready.hold("identity");
    let identity = obtain(who(&config).await?, &ground.tasks, &ground.metrics).await?;
    drop(waiting);
    let mut settings = Settings::new(
        config.registry.clone(),
        format!("gateway {}", config.id),
        Interest::exported_by(config.cluster.clone()),
        Some(config.data_dir.join("view")),
    );
    settings.cache_interval = VIEW_SAVE_INTERVAL;
    let subscription = Subscription::spawn(
        settings,
        identity.clone(),
        &ground.tasks,
        &ground.metrics,
        &ground.ready,
    );
    let views = subscription.views();
    let from_disk = views.load().region().is_some();
    first_view(views.clone(), &ground.tasks).await?;
    let data_path = DataPath::start(&config, admin, views, identity.clone(), ground.clone())?;
    // With a view from disk it can serve before the registry is back; without one nobody knows it anyway.
    let ready = if from_disk {
        Ready::default()
    } else {
        ground.ready.clone()
    };
    let attachment = Attachment::spawn(
        attach::Settings::new(config.registry.clone()),
        Lessee::Gateway(pb::Gateway {
            id: config.id.to_string(),
            region: config.region.to_string(),
            cluster: config.cluster.to_string(),
            address: config.advertise.clone(),
            state: pb::EndpointState::from(EndpointState::Ready).into(),
            spiffe_id: identity.id().to_string(),
        }),
        identity,
        &ground.tasks,
        &ground.metrics,
        &ready,
    );
    let addresses = data_path.addresses;
    info!(tunnels = %addresses.tunnels, "gateway runs");
    Ok(Running {
        addresses,
        data_path,
        attachment,
    })
}

/// Without any view every client would be told that its service is not exported.
async fn first_view(mut views: Views, tasks: &Tasks) -> Result<(), Error> {
    while views.load().region().is_none() {
        let changed = tokio::select! {
            changed = views.changed() => changed.is_ok(),
            () = tasks.stop().ordered() => false,
        };
        if !changed {
            tasks.stop().order();
            tasks.join(JOIN_DEADLINE).await?;
            return Err(Error::Subscription);
        }
    }
    Ok(())
}

/// Who the gateway is to be, and how it proves that.
async fn who(config: &Config) -> Result<Obtain, Error> {
    let token = match &config.identity.token_file {
        None => config.identity.token.clone(),
        Some(path) => {
            let unreadable = |source| Error::TokenFile {
                path: path.clone(),
                source,
            };
            match tokio::fs::read_to_string(path).await {
                Ok(text) => Some(text.trim().to_owned()),
                // The token is for the first start; whoever removes it afterwards does well.
                Err(error) if error.kind() == io::ErrorKind::NotFound && config.identity.directory.exists() => None,
                Err(error) => return Err(unreadable(error)),
            }
        }
    };
    let mut settings = Obtain::new(Some(config.identity.directory.clone()), token, config.registry.clone());
    let account = (
        Namespace::parse(system::NAMESPACE),
        ServiceAccount::parse(system::Role::Gateway.as_str()),
    );
    if let (Ok(namespace), Ok(account)) = account {
        settings.expected = Some((namespace, account));
    }
    Ok(settings)
}

/// Where a gateway listens; what was configured, with real ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// For other clusters' proxies.
    pub tunnels: SocketAddr,
    /// `/ready`
    pub ready: SocketAddr,
    /// `/metrics`
    pub metrics: SocketAddr,
    /// All pages.
    pub pages: SocketAddr,
}

/// The pages that are open from the beginning, and where.
pub(crate) struct Admin {
    ready: SocketAddr,
    metrics: SocketAddr,
    /// Opened once there is a view to show.
    pages: TcpListener,
}

/// What runs beside the tunnels, whoever feeds them.
#[derive(Clone)]
pub(crate) struct Ground {
    /// All tasks; their stop is ordered when everything else is over.
    pub(crate) tasks: Tasks,
    pub(crate) metrics: Metrics,
    pub(crate) ready: Ready,
    /// The order to go away in good order.
    pub(crate) stop: Stop,
}

impl Ground {
    pub(crate) fn new(stop: Stop) -> Self {
        let ground = Self {
            tasks: Tasks::new(Stop::default()),
            metrics: Metrics::default(),
            ready: Ready::default(),
            stop,
        };
        ground.spawn("metrics-upkeep", ground.metrics.clone().upkeep());
        ground
    }

    /// Serves readiness and metrics, which are asked for while the gateway still waits for its registry.
    pub(crate) fn open_pages(&self, config: &Config) -> Result<Admin, Error> {
        let open = |name, address, routes| {
            let listener = listen(address)?;
            let address = listener.local_addr().map_err(Error::Socket)?;
            self.spawn(name, admin::serve(listener, routes, self.tasks.stop().clone()));
            Ok::<_, Error>(address)
        };
        Ok(Admin {
            ready: open("admin-ready", config.admin.ready, admin::readiness(self.ready.clone()))?,
            metrics: open(
                "admin-metrics",
                config.admin.metrics,
                admin::metrics(self.metrics.clone()),
            )?,
            pages: listen(config.admin.pages)?,
        })
    }

    /// A task that lives until everything is over.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.tasks.stop().clone();
        self.tasks.spawn(name, OnExit::StopProcess, async move {
            tokio::select! {
                () = over.ordered() => {}
                () = task => {}
            }
        });
    }
}

/// The path of tunnels, running.
pub(crate) struct DataPath {
    pub(crate) addresses: Addresses,
    ground: Ground,
    drain: Drain,
    cut: Stop,
    deadline: Duration,
}

impl DataPath {
    /// Serves tunnels by `views`, and the pages that show them.
    pub(crate) fn start(
        config: &Config,
        admin: Admin,
        views: Views,
        identity: Identity,
        ground: Ground,
    ) -> Result<Self, Error> {
        let tunnels = listen(config.listen)?;
        let addresses = Addresses {
            tunnels: tunnels.local_addr().map_err(Error::Socket)?,
            ready: admin.ready,
            metrics: admin.metrics,
            pages: admin.pages.local_addr().map_err(Error::Socket)?,
        };
        let over = ground.tasks.stop();
        let routes = admin::readiness(ground.ready.clone())
            .merge(admin::metrics(ground.metrics.clone()))
            .merge(admin::view(views.clone()))
            .merge(admin::config(told(config)));
        ground.spawn("admin-pages", admin::serve(admin.pages, routes, over.clone()));
        let (drain, cut) = (Drain::default(), Stop::default());
        let limits = config.limits;
        let deadline = config.timeouts.drain;
        let hall = Arc::new(Hall {
            views,
            identity,
            loads: Loads::new(limits.connections_per_service, &ground.metrics),
            metrics: GatewayMetrics::new(&ground.metrics),
            pool: Pool::new(limits.spare_buffers, limits.pipes),
            sources: Mutex::new(Ledger::new(limits.connections_per_source)),
            drain: drain.clone(),
            stop: ground.stop.clone(),
            cut: cut.clone(),
            config: config.clone(),
        });
        let acceptor =
            Acceptor::new(tunnels, "tunnels", limits.connections, &ground.metrics).with_newcomers(limits.newcomers());
        let (tasks, over) = (ground.tasks.clone(), over.clone());
        ground.spawn("accept", async move {
            accept::run(acceptor, hall, tasks).await;
            // It ends before the other parts do: that is no failure.
            over.ordered().await;
        });
        Ok(Self {
            addresses,
            ground,
            drain,
            cut,
            deadline,
        })
    }

    /// Waits for the order to stop, or for a part that failed; tells that in `farewell` before the drain and in `gone` after
    /// it.
    pub(crate) async fn finish(self, farewell: impl AsyncFnOnce(), gone: impl AsyncFnOnce()) -> Result<(), Error> {
        tokio::select! {
            () = self.ground.stop.ordered() => {}
            // A critical part has failed: the same order of leaving, so that tunnels may finish.
            () = self.ground.tasks.stop().ordered() => self.ground.stop.order(),
        }
        let _draining = self.ground.ready.hold("drain");
        farewell().await;
        info!(tunnels = self.drain.count(), deadline = ?self.deadline, "draining");
        let left = self.drain.finish(self.deadline).await;
        if left > 0 {
            warn!(tunnels = left, "cut at the end of the drain");
        }
        self.cut.order();
        gone().await;
        self.ground.tasks.stop().order();
        self.ground.tasks.join(JOIN_DEADLINE).await.map_err(Error::Task)
    }
}

/// The settings for operators, without the token.
fn told(config: &Config) -> String {
    let mut config = config.clone();
    config.identity.token = config.identity.token.map(|_| "(not shown)".to_owned());
    format!("{config:#?}\n")
}
