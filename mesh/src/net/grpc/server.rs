//! Serving: accept, handshake beside each other and bounded, then gRPC. On stop: no new connections, running calls may
//! finish until the deadline, the rest is cut.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use metrics::Counter;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{service::Routes, transport::Server};
use tracing::{debug, error, warn};

use super::{
    Caller,
    connection::{Connection, Sweep},
};
use crate::{
    identity::{ALPN_H2, ClientAuth, Identity, Side},
    net::listen::{Accepted, Acceptor},
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks, clock},
};

/// A stranger's patience is not ours.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// One line about failed handshakes in this time; the metric counts all of them.
const LOG_INTERVAL_MS: i64 = 1_000;
/// Connections that finished their handshake and wait for gRPC; it takes them at once.
const READY_MAX: usize = 64;
/// A peer that vanished is noticed after both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// How a listener serves.
#[derive(Clone, Debug)]
pub struct Serve {
    /// In logs, metrics and task names.
    pub name: &'static str,
    /// Whether callers need a certificate.
    pub client_auth: ClientAuth,
    /// Beyond it connections are reset.
    pub connections_max: usize,
    /// Beyond it connections wait in the kernel's backlog.
    pub handshakes_max: usize,
    /// How long running calls may take to finish after the order to stop.
    pub drain: Duration,
}

impl Serve {
    /// 10 000 connections, 512 handshakes at once, 5 s to drain.
    #[must_use]
    pub const fn new(name: &'static str, client_auth: ClientAuth) -> Self {
        Self {
            name,
            client_auth,
            connections_max: 10_000,
            handshakes_max: 512,
            drain: Duration::from_secs(5),
        }
    }
}

/// What every handshake needs.
#[derive(Clone)]
struct Handshake {
    identity: Identity,
    options: Serve,
    stop: Stop,
    cut: Stop,
    /// When a failure was last logged, in milliseconds: strangers must not be able to fill the log.
    logged: Arc<AtomicI64>,
    ready: mpsc::Sender<Connection>,
    failed: Counter,
    swept: Counter,
}

/// Serves `routes` until the tasks' stop is ordered and running calls have finished or were cut. Run it as a task.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    options: Serve,
    routes: Routes,
    tasks: Tasks,
    metrics: Metrics,
) {
    let label = [("listener", options.name)];
    let (ready, incoming) = mpsc::channel(READY_MAX);
    let cut = Stop::default();
    let handshake = Handshake {
        identity,
        options: options.clone(),
        stop: tasks.stop().clone(),
        cut: cut.clone(),
        logged: Arc::default(),
        ready,
        failed: metrics.counter(
            "isthmus_handshake_failed_total",
            "TLS handshakes that failed or took too long",
            &label,
        ),
        swept: metrics.counter(
            "isthmus_connections_swept_total",
            "connections closed because bundles changed and their peer is no longer trusted",
            &label,
        ),
    };
    let acceptor = Acceptor::new(listener, options.name, options.connections_max, &metrics);
    let stop = tasks.stop().clone();
    tasks.spawn(options.name, OnExit::Ignore, accept(acceptor, handshake, tasks.clone()));

    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .serve_with_incoming_shutdown(
            routes.prepare(),
            ReceiverStream::new(incoming).map(Ok::<_, Infallible>),
            stop.ordered(),
        );
    let deadline = async {
        stop.ordered().await;
        tokio::time::sleep(options.drain).await;
    };
    tokio::select! {
        ended = server => {
            if let Err(error) = ended {
                error!(listener = options.name, %error, "gRPC server failed");
            }
        }
        () = deadline => debug!(listener = options.name, "calls cut at the deadline"),
    }
    cut.order();
}

async fn accept(mut acceptor: Acceptor, handshake: Handshake, tasks: Tasks) {
    let permits = Arc::new(Semaphore::new(handshake.options.handshakes_max));
    loop {
        let next = async {
            // The semaphore is never closed.
            let permit = Arc::clone(&permits).acquire_owned().await.ok()?;
            Some((acceptor.accept().await, permit))
        };
        let accepted = tokio::select! {
            () = tasks.stop().ordered() => return,
            accepted = next => accepted,
        };
        let Some((accepted, permit)) = accepted else { return };
        let name = handshake.options.name;
        tasks.spawn(name, OnExit::Ignore, handshake.clone().run(accepted, permit));
    }
}

impl Handshake {
    async fn run(self, accepted: Accepted, permit: OwnedSemaphorePermit) {
        let (peer, name) = (accepted.peer, self.options.name);
        let shaken = tokio::select! {
            () = self.stop.ordered() => return,
            shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(accepted)) => shaken,
        };
        match shaken {
            Ok(Ok(connection)) => {
                drop(permit);
                // Gone only when the server stops.
                let _ = self.ready.send(connection).await;
            }
            Ok(Err(error)) => {
                self.failed.increment(1);
                if self.may_log() {
                    warn!(listener = name, %peer, error, "TLS handshake failed");
                }
            }
            Err(_) => {
                self.failed.increment(1);
                debug!(listener = name, %peer, "TLS handshake took too long");
            }
        }
    }

    fn may_log(&self) -> bool {
        let now = clock::wall().0;
        let last = self.logged.swap(now, Ordering::Relaxed);
        if now.saturating_sub(last) >= LOG_INTERVAL_MS {
            return true;
        }
        self.logged.store(last, Ordering::Relaxed);
        false
    }

    async fn shake(&self, accepted: Accepted) -> Result<Connection, String> {
        let Accepted { stream, peer, slot } = accepted;
        let changed = self.identity.changed();
        let config = self.identity.server_config(self.options.client_auth, ALPN_H2);
        let tls = TlsAcceptor::from(config)
            .accept(stream)
            .await
            .map_err(|error| error.to_string())?;
        let (_, state) = tls.get_ref();
        let id = self
            .identity
            .peer(state, Side::Client)
            .map_err(|fault| fault.to_string())?;
        let caller = Caller { id, address: peer };
        let sweep = state.peer_certificates().map(|chain| {
            let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
            Sweep::new(self.identity.clone(), Side::Client, chain, changed, self.swept.clone())
        });
        Ok(Connection::new(tls.into(), caller, sweep, self.cut.clone(), Some(slot)))
    }
}
