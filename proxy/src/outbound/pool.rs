//! Connections to one port of one endpoint: HTTP/2, shared by many requests. Bounded in number and in requests on each;
//! closed when unused, when old, and when what the far side showed is no longer vouched for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{
    identity::{Identity, Side},
    model::{ServiceName, Timestamp},
    route::eject::Elapsed,
    runtime::{OnExit, Tasks, clock},
};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::{
    dial::{Carries, DialFault, Dialer},
    record::Clock,
    route::{GatewayRef, Member},
};
use crate::hop::{body::Carried, exec::Exec};

/// Flow control windows: what may be under way to a slow reader, for one stream and for one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Longest head of a response.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// At the bound of connections each may carry this many times its usual number of requests; then the endpoint is full.
const OVERLOAD: u32 = 4;

/// A fresh connection is asked this often for its settings, only when a request wants to upgrade.
const SETTINGS_STEP: Duration = Duration::from_millis(2);

/// What all pools of a proxy share.
pub(crate) struct Pool {
    pub(crate) dialer: Dialer,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Clock,
    pub(crate) idle: Duration,
    pub(crate) age: Duration,
    pub(crate) connections_max: usize,
    pub(crate) streams: u32,
    pub(crate) silence: Duration,
}

/// The connections to one port of one endpoint.
pub(crate) struct Lane {
    connections: ArcSwap<Vec<Arc<Connection>>>,
    /// Held while one connection is opened, so that a crowd opens one and not a crowd of them.
    opening: Mutex<()>,
}

/// One connection.
struct Connection {
    sender: http2::SendRequest<Carried>,
    streams: AtomicU32,
    born: Elapsed,
    lives: Duration,
    /// Last time a request began or ended, milliseconds.
    used_at: AtomicU64,
    chain: Vec<CertificateDer<'static>>,
    shaken_at: Timestamp,
    gateway: Option<GatewayRef>,
    upgrades: Arc<Upgrades>,
    cut: CancellationToken,
}

/// Whether the far side takes extended CONNECT. Its settings come with its first bytes, and hyper tells only who asks.
#[derive(Default)]
struct Upgrades {
    taken: AtomicBool,
    asked: Notify,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The last sender goes with this: hyper then closes in order. Nothing is left to be cut.
        if let Some(gateway) = &self.gateway {
            gateway.carried(-1);
        }
    }
}

/// A place for one request on a connection.
pub(crate) struct Lease {
    connection: Arc<Connection>,
    clock: Clock,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
        self.connection.touch(self.clock.elapsed());
    }
}

impl Lease {
    /// Sends a request.
    pub(crate) async fn send(
        &self,
        request: Request<Carried>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Carried>>> {
        self.connection.sender.clone().try_send_request(request).await
    }

    /// Waits until the far side's settings say that requests may become tunnels (RFC 8441). False when they do not in time.
    pub(crate) async fn can_upgrade(&self, patience: Duration) -> bool {
        let upgrades = &self.connection.upgrades;
        let asking = async {
            while !upgrades.taken.load(Ordering::Relaxed) {
                upgrades.asked.notify_one();
                tokio::time::sleep(SETTINGS_STEP).await;
            }
        };
        tokio::time::timeout(patience, asking).await.is_ok()
    }

    /// The gateway in between.
    pub(crate) fn gateway(&self) -> Option<&GatewayRef> {
        self.connection.gateway.as_ref()
    }
}

impl Connection {
    fn touch(&self, now: Elapsed) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.used_at.store(now, Ordering::Relaxed);
    }

    fn is_usable(&self, now: Elapsed) -> bool {
        !self.sender.is_closed() && !self.cut.is_cancelled() && now.saturating_sub(self.born) < self.lives
    }

    fn is_idle(&self, now: Elapsed, idle: Duration) -> bool {
        let used_at = Duration::from_millis(self.used_at.load(Ordering::Relaxed));
        self.streams.load(Ordering::Relaxed) == 0 && now.saturating_sub(used_at) >= idle
    }
}

impl Lane {
    pub(crate) fn new() -> Self {
        Self {
            connections: ArcSwap::default(),
            opening: Mutex::new(()),
        }
    }

    /// The open connection with the fewest requests, if it has fewer than `below`.
    fn best(&self, clock: Clock, below: u32) -> Option<Lease> {
        let now = clock.elapsed();
        let connections = self.connections.load();
        let usable = connections.iter().filter(|connection| connection.is_usable(now));
        let best = usable.min_by_key(|connection| connection.streams.load(Ordering::Relaxed))?;
        if best.streams.load(Ordering::Relaxed) >= below {
            return None;
        }
        best.streams.fetch_add(1, Ordering::Relaxed);
        Some(Lease {
            connection: Arc::clone(best),
            clock,
        })
    }

    /// A place on a connection; opens one where that is needed and allowed.
    pub(crate) async fn acquire(
        &self,
        pool: &Pool,
        member: &Member,
        service: &ServiceName,
        port: u16,
    ) -> Result<Lease, DialFault> {
        if let Some(lease) = self.best(pool.clock, pool.streams) {
            return Ok(lease);
        }
        let _turn = self.opening.lock().await;
        if let Some(lease) = self.best(pool.clock, pool.streams) {
            return Ok(lease);
        }
        let now = pool.clock.elapsed();
        let open = self
            .connections
            .load()
            .iter()
            .filter(|connection| connection.is_usable(now))
            .count();
        if open >= pool.connections_max {
            return self
                .best(pool.clock, pool.streams.saturating_mul(OVERLOAD))
                .ok_or_else(|| DialFault::Full(member.endpoint.id.to_string()));
        }
        self.open(pool, member, service, port).await?;
        self.best(pool.clock, u32::MAX)
            .ok_or_else(|| DialFault::Endpoint(format!("{}: closed at once", member.endpoint.id)))
    }

    /// Opens one more connection.
    pub(crate) async fn open(
        &self,
        pool: &Pool,
        member: &Member,
        service: &ServiceName,
        port: u16,
    ) -> Result<(), DialFault> {
        let opened = pool.dialer.open(member, service, port, Carries::Http).await?;
        let mut builder = http2::Builder::new(Exec(pool.tasks.clone()));
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEAD_BYTES_MAX)
            .keep_alive_interval(pool.silence)
            .keep_alive_timeout(pool.silence.mul_f64(1.5));
        let handshake = builder.handshake::<_, Carried>(TokioIo::new(opened.stream)).await;
        let (sender, mut connection) = handshake.map_err(|error| {
            let text = super::dial::chain_text(&error);
            DialFault::Endpoint(format!("{}: HTTP/2: {text}", member.endpoint.id))
        })?;
        let cut = CancellationToken::new();
        let ordered = cut.clone();
        let upgrades = Arc::<Upgrades>::default();
        let asked = Arc::clone(&upgrades);
        pool.tasks.spawn("outbound-connection", OnExit::Ignore, async move {
            loop {
                tokio::select! {
                    () = ordered.cancelled() => return,
                    // How it ended is told to its requests; there may be none.
                    _ = &mut connection => return,
                    () = asked.asked.notified() => {
                        let taken = connection.is_extended_connect_protocol_enabled();
                        asked.taken.store(taken, Ordering::Relaxed);
                    }
                }
            }
        });
        let now = pool.clock.elapsed();
        if let Some(gateway) = &opened.gateway {
            gateway.carried(1);
        }
        let connection = Arc::new(Connection {
            sender,
            streams: AtomicU32::new(0),
            born: now,
            lives: pool.age.mul_f64(1.0 - fastrand::f64() / 10.0),
            used_at: AtomicU64::new(0),
            chain: opened.chain,
            shaken_at: clock::wall(),
            gateway: opened.gateway,
            upgrades,
            cut,
        });
        connection.touch(now);
        self.connections.rcu(|old| {
            let mut new: Vec<_> = old.iter().filter(|old| old.is_usable(now)).cloned().collect();
            new.push(Arc::clone(&connection));
            new
        });
        Ok(())
    }

    /// Lets go of connections that are closed, old or unused.
    pub(crate) fn tidy(&self, pool: &Pool) {
        let now = pool.clock.elapsed();
        let keep = |connection: &Connection| connection.is_usable(now) && !connection.is_idle(now, pool.idle);
        if self.connections.load().iter().all(|connection| keep(connection)) {
            return;
        }
        self.connections.rcu(|old| {
            old.iter()
                .filter(|connection| keep(connection))
                .cloned()
                .collect::<Vec<_>>()
        });
    }

    /// Cuts connections whose far side is no longer vouched for.
    pub(crate) fn sweep(&self, identity: &Identity) -> usize {
        let connections = self.connections.load();
        let mut cut = 0;
        for connection in connections.iter() {
            let (chain, since) = (&connection.chain, connection.shaken_at);
            if identity.still_trusts(chain, Side::Server, since).is_err() {
                connection.cut.cancel();
                cut += 1;
            }
        }
        cut
    }

    /// How many connections are open, and how many requests are on them.
    pub(crate) fn load(&self) -> (usize, u32) {
        let connections = self.connections.load();
        let streams = connections
            .iter()
            .map(|connection| connection.streams.load(Ordering::Relaxed));
        (connections.len(), streams.sum())
    }
}

/// Reads why hyper gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broke {
    /// The far side refused the stream: it has not begun to work on it.
    Refused,
    /// The far side reset the stream.
    Reset,
    /// The connection fell silent.
    Silent,
    /// The connection broke.
    Connection,
}

impl Broke {
    pub(crate) fn of(error: &hyper::Error) -> Self {
        if error.is_timeout() {
            return Self::Silent;
        }
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            if let Some(h2) = error.downcast_ref::<h2::Error>() {
                return match h2.reason() {
                    Some(h2::Reason::REFUSED_STREAM) => Self::Refused,
                    Some(_) if h2.is_reset() => Self::Reset,
                    _ => Self::Connection,
                };
            }
            if let Some(error) = error.downcast_ref::<hyper::Error>()
                && error.is_timeout()
            {
                return Self::Silent;
            }
            source = error.source();
        }
        Self::Connection
    }
}

/// A request body that is known in whole, to be sent as often as needed.
pub(crate) fn replay(bytes: &Option<Bytes>) -> Carried {
    Carried::Whole(bytes.clone())
}
