//! Puts a proxy together and takes it apart: the only file that knows every part. What starts is undone when a later part
//! does not; stopping goes in the order in which others notice it least.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::Router;
use mesh::{
    dns,
    identity::{self, Obtain, ObtainError},
    net::listen::ListenError,
    ops::{Metrics, admin},
    route::Source,
    runtime::{Drain, OnExit, Ready, Stop, TaskError, Tasks},
    subscribe::{Attachment, Settings as SubscribeSettings, Spending, Subscription, attach},
};
use thiserror::Error;
use tokio::sync::watch;
use tracing::info;

use crate::{
    agent::{probe, register},
    child::Application,
    config::Config,
    inbound::{self, Inbound},
    outbound::{self, Outbound},
    pages::{self, Drainer, Pages},
};

/// For tasks to end after everything was drained.
const JOIN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a proxy does not start, or ended.
#[derive(Debug, Error)]
pub enum Error {
    /// A port is taken.
    #[error("{what} cannot listen")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Why.
        #[source]
        source: ListenError,
    },
    /// Names cannot be served.
    #[error("dns cannot start")]
    Dns(#[from] dns::ServeError),
    /// The token file is not readable.
    #[error("identity.token_file {path} is not readable")]
    TokenFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No identity, and waiting brings none.
    #[error("no identity")]
    Identity(#[from] ObtainError),
    /// The application does not start.
    #[error("application {program:?} does not start; is it installed and executable?")]
    Application {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A part that must run ended.
    #[error("the proxy failed")]
    Task(#[from] TaskError),
}

/// Where a proxy listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP of the application.
    pub outbound: SocketAddr,
    /// What the mesh sends.
    pub inbound: SocketAddr,
    /// Names for the workload; none when switched off.
    pub dns: Option<SocketAddr>,
    /// `/ready`.
    pub ready: SocketAddr,
    /// `/metrics`.
    pub metrics: SocketAddr,
    /// All admin pages.
    pub pages: SocketAddr,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By the order to stop; with the application's exit code, where there was one.
    Stopped(Option<i32>),
    /// The application ended by itself, with this exit code.
    Application(i32),
}

/// A proxy that runs.
pub struct Running {
    /// Where it listens.
    pub addresses: Addresses,
    config: Config,
    outer: Stop,
    /// Stopped last, after everything was drained.
    inner: Tasks,
    attachment: Arc<Attachment>,
    subscription: Subscription,
    drainer: Drainer,
    outbound: Outbound,
    inbound_side: Side,
    outbound_side: Side,
}

/// One direction of traffic: it stops accepting, and then it is waited for.
struct Side {
    accept: Stop,
    drain: Drain,
}

impl Side {
    /// Stops accepting at the latest when the process does.
    fn new(tasks: &Tasks) -> Self {
        Self {
            accept: tasks.stop().child(),
            drain: Drain::default(),
        }
    }

    async fn close(&self, deadline: Duration) {
        self.accept.order();
        let left = self.drain.finish(deadline).await;
        if left > 0 {
            info!(left, "connections cut at the deadline");
        }
    }
}

/// Starts a proxy. Returns once everything runs, which at the very first start needs the registry: until then the admin
/// pages tell what is waited for.
///
/// # Errors
/// A port that is taken, or an identity that waiting will not bring. Nothing is left running then.
pub async fn start(config: Config, stop: Stop) -> Result<Running, Error> {
    let inner = Tasks::new(Stop::default());
    let started = build(config, stop, inner.clone()).await;
    if started.is_err() {
        inner.stop().order();
        // The error that is returned says more than what the tasks were doing.
        let _ = inner.join(JOIN_DEADLINE).await;
    }
    started
}

async fn build(config: Config, outer: Stop, inner: Tasks) -> Result<Running, Error> {
    let (metrics, ready) = (Metrics::default(), Ready::default());
    let stop = inner.stop().clone();
    let upkeep = metrics.clone().upkeep();
    inner.spawn("metrics", OnExit::StopProcess, async move {
        tokio::select! {
            () = stop.ordered() => {}
            () = upkeep => {}
        }
    });
    let mut pages = Pages::bind(&config.admin)?;
    pages.serve_early(&ready, &metrics, &inner);

    let waiting = ready.hold("identity");
    let mut obtain = Obtain::new(
        Some(config.identity.directory.clone()),
        token(&config).await?,
        config.registry.clone(),
    );
    let workload = &config.workload;
    obtain.expected = Some((workload.namespace.clone(), workload.service_account.clone()));
    let identity = tokio::select! {
        identity = identity::obtain(obtain, &inner, &metrics) => identity?,
        // Whoever waits for a registry must hear the order to stop.
        () = outer.ordered() => return Err(ObtainError::Stopped.into()),
    };
    drop(waiting);

    let subscribe = SubscribeSettings::new(
        config.registry.clone(),
        format!("proxy/{}", workload.id),
        config.outbound.interest(),
        Some(config.data_dir.join("view")),
    );
    let subscription = Subscription::spawn(subscribe, identity.clone(), &inner, &metrics, &ready);
    let views = subscription.views();
    let demand = subscription.demand(config.outbound.demand, config.outbound.pinned(), &metrics);
    let (inbound_side, outbound_side) = (Side::new(&inner), Side::new(&inner));
    let inbound = Inbound::new(
        config.inbound.clone(),
        register::served(&config.services, &[]),
        inbound::Deps {
            identity: identity.clone(),
            views: views.clone(),
            metrics: metrics.clone(),
            tasks: inner.clone(),
            accept: inbound_side.accept.clone(),
            drain: inbound_side.drain.clone(),
        },
    )
    .map_err(|source| Error::Listen {
        what: "inbound",
        source,
    })?;
    let spending = Arc::new(Spending::default());
    let outbound = Outbound::new(
        config.outbound.clone(),
        outbound::Deps {
            demand: demand.clone(),
            identity: identity.clone(),
            source: Source {
                locality: config.locality(),
                cluster: config.cluster.clone(),
            },
            namespace: workload.namespace.clone(),
            spending: Arc::clone(&spending),
            metrics: metrics.clone(),
            tasks: inner.clone(),
            accept: outbound_side.accept.clone(),
            drain: outbound_side.drain.clone(),
        },
    )
    .map_err(|source| Error::Listen {
        what: "outbound",
        source,
    })?;

    // A restart from disk does not wait for the registry: others still know the endpoints.
    let registered = if views.load().region().is_some() {
        Ready::default()
    } else {
        ready.clone()
    };
    let attach = attach::Settings {
        spending: Some(spending),
        ..attach::Settings::new(config.registry.clone())
    };
    let attachment = Arc::new(Attachment::spawn(
        attach,
        register::lessee(&config, inbound.address()),
        identity.clone(),
        &inner,
        &metrics,
        &registered,
    ));
    let ids = attachment.watch_endpoint_ids();
    register::follow_endpoint_ids(config.services.clone(), ids, inbound.clone(), &inner);
    let healthy = probe::watch(&config.services, &inner, &metrics);
    let (draining, drains) = watch::channel(false);
    register::report(Arc::clone(&attachment), healthy, drains, &inner);

    let dns = match config.dns_listen {
        None => None,
        Some(listen) => {
            let serving = dns::serve(config.dns.clone(), listen, demand, config.locality(), &inner, &metrics);
            Some(serving.await?.address)
        }
    };
    let drainer = Drainer::new(draining, ready.clone());
    let addresses = Addresses {
        outbound: outbound.address(),
        inbound: inbound.address(),
        dns,
        ready: pages.ready,
        metrics: pages.metrics,
        pages: pages.pages,
    };
    let routes = Router::new()
        .merge(admin::readiness(ready.clone()))
        .merge(admin::metrics(metrics.clone()))
        .merge(admin::view(views))
        .merge(admin::config(config.describe()))
        .merge(drainer.clone().routes())
        .merge(pages::outbound(outbound.clone()));
    pages.serve(routes, &inner);
    Ok(Running {
        addresses,
        config,
        outer,
        inner,
        attachment,
        subscription,
        drainer,
        outbound,
        inbound_side,
        outbound_side,
    })
}

async fn token(config: &Config) -> Result<Option<String>, Error> {
    let Some(path) = config.identity.token_file.clone() else {
        return Ok(config.identity.token.clone());
    };
    match tokio::fs::read_to_string(&path).await {
        Ok(token) => Ok(Some(token)),
        // A token is often taken away after its first use; a saved identity needs none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::TokenFile { path, source }),
    }
}

impl Running {
    /// Waits for the order to stop, or for the failure of a part, then goes away: says that it drains, waits until callers
    /// have heard it, finishes what is on its way, leaves the registry.
    ///
    /// # Errors
    /// The part that failed.
    pub async fn finish(self) -> Result<(), Error> {
        self.conclude(None).await.map(drop)
    }

    /// The outbound side: where it listens for single upstreams, and why it sends what where.
    #[must_use]
    pub fn outbound(&self) -> &Outbound {
        &self.outbound
    }

    /// Whether the registry's stream stands, and how old the view is.
    #[must_use]
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    async fn conclude(self, mut application: Option<Application>) -> Result<Ended, Error> {
        let ended = tokio::select! {
            () = self.outer.ordered() => None,
            () = self.inner.stop().ordered() => None,
            code = ended(&mut application) => Some(code),
        };
        let drain = self.config.drain;
        self.drainer.begin();
        match ended {
            // Nobody answers any more: the sooner others know, the better.
            Some(code) => info!(code, "application ended"),
            None if self.attachment.is_attached() && !self.inner.stop().is_ordered() => {
                tokio::time::sleep(drain.delay).await;
            }
            None => {}
        }
        let deadline = if ended.is_some() {
            Duration::ZERO
        } else {
            drain.deadline
        };
        self.inbound_side.close(deadline).await;
        // The application may call others while it ends, so that the outbound side outlives it.
        let code = match (&mut application, ended) {
            (Some(application), None) => Some(application.end(drain.application).await),
            _ => None,
        };
        self.outbound_side.close(deadline).await;
        self.attachment.detach().await;
        self.inner.stop().order();
        self.inner.join(JOIN_DEADLINE).await?;
        Ok(ended.map_or(Ended::Stopped(code), Ended::Application))
    }
}

/// Never, where there is no application.
async fn ended(application: &mut Option<Application>) -> i32 {
    match application {
        Some(application) => application.ended().await,
        None => std::future::pending().await,
    }
}

/// Runs a proxy until `stop`, and an application beside it where there is a command. The application is started once the
/// proxy serves; it is told to end after what was on its way to it has been answered; its own end is the proxy's, too.
///
/// # Errors
/// What [`start`] says, an application that does not start, or a part that failed.
pub async fn run(config: Config, command: Option<Vec<String>>, stop: Stop) -> Result<Ended, Error> {
    let running = match start(config, stop.clone()).await {
        Ok(running) => running,
        Err(Error::Identity(ObtainError::Stopped)) => return Ok(Ended::Stopped(None)),
        Err(error) => return Err(error),
    };
    let application = match command {
        None => None,
        Some(command) => match Application::spawn(&command) {
            Ok(application) => Some(application),
            Err(source) => {
                stop.order();
                // Why the application does not start is the news, not how the proxy ended.
                let _ = running.conclude(None).await;
                let program = command.into_iter().next().unwrap_or_default();
                return Err(Error::Application { program, source });
            }
        },
    };
    running.conclude(application).await
}

#[cfg(test)]
mod tests;
