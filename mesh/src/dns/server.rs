//! The sockets of the name server. Authoritative answers are made where the request is read, since they wait for nobody; only
//! forwarding, and the first question about endpoints that the view does not hold, take a task, of which there is a bound.
//! (`hickory-server` starts a task for each datagram and accepts any number of connections, so that only its wire format is
//! used.)

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use metrics::Counter;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use super::{
    answer::{self, Outcome, Reply, Via},
    askers::{self, Askers},
    forward::{self, Forwarder, Upstreams},
    source::Names,
    zone::Asker,
};
use crate::{
    model::{Locality, ServiceName},
    ops::{Metrics, Section},
    runtime::{Backoff, OnExit, Tasks, clock},
    subscribe::{Demand, Views},
};

/// Requests are small; one with EDNS options and a cookie stays far below.
const REQUEST_BYTES_MAX: usize = 4096;
/// Tries to find a port that is free for UDP and for TCP, when any port will do.
const BIND_ATTEMPTS_MAX: usize = 16;
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How names are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Of all answers but the version's. Default 5 s: long enough to spare the server, short enough that a client notices a
    /// change before it gives up.
    pub ttl: Duration,
    /// Where other names go. Default nowhere: they are refused.
    pub upstreams: Upstreams,
    /// For each upstream. Default 1.5 s: three of them fit into a client's usual 5 s.
    pub upstream_timeout: Duration,
    /// Requests in flight that are forwarded or wait for endpoints; beyond, requests over UDP are dropped. Default 256.
    pub in_flight_max: usize,
    /// Connections over TCP; beyond, new ones wait. Default 64.
    pub connections_max: usize,
    /// A connection without a request for so long is closed. Default 10 s.
    pub idle: Duration,
    /// Requests of one address a second, with as many at once; beyond, they are dropped. An address may also take half of
    /// `in_flight_max` and a quarter of `connections_max`. Default 5 000: a whole machine may ask through one address. 0
    /// is no bound.
    pub queries_per_source: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(5),
            upstreams: Upstreams::None,
            upstream_timeout: Duration::from_millis(1500),
            in_flight_max: 256,
            connections_max: 64,
            idle: Duration::from_secs(10),
            queries_per_source: 5_000,
        }
    }
}

impl Settings {
    /// Reads a `[dns]` table: `ttl`, `upstreams` (`"none"`, `"system"` or a list of addresses), `upstream_timeout`,
    /// `in_flight_max`, `connections_max`, `idle`, `queries_per_source`. The caller reads where to listen, and calls `finish_section`.
    #[must_use]
    pub fn read(section: &Section) -> Self {
        let default = Self::default();
        let settings = Self {
            ttl: section.or("ttl", default.ttl),
            upstreams: section.or("upstreams", default.upstreams),
            upstream_timeout: section.or("upstream_timeout", default.upstream_timeout),
            in_flight_max: section.or("in_flight_max", default.in_flight_max),
            connections_max: section.or("connections_max", default.connections_max),
            idle: section.or("idle", default.idle),
            queries_per_source: section.or("queries_per_source", default.queries_per_source),
        };
        if settings.ttl > Duration::from_secs(3600) {
            section.fault("ttl", "is over 1h; answers must follow the view, the default is \"5s\"");
        }
        for (key, is_zero) in [
            ("upstream_timeout", settings.upstream_timeout.is_zero()),
            ("in_flight_max", settings.in_flight_max == 0),
            ("connections_max", settings.connections_max == 0),
            ("idle", settings.idle.is_zero()),
        ] {
            if is_zero {
                section.fault(key, "must be more than 0");
            }
        }
        settings
    }
}

impl crate::ops::Setting for Upstreams {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match value.as_str() {
            Some("none") => Ok(Self::None),
            Some("system") => Ok(Self::System),
            Some(other) => Err(format!(
                "{other:?} is no upstream; write \"none\", \"system\" or [\"192.0.2.1:53\"]"
            )),
            None => Vec::<SocketAddr>::read(value).map(Self::Servers),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address is taken, or not one of this machine.
    #[error("dns cannot listen on {address}; is the port free, and may this user bind it?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The system's upstreams are wanted and not readable.
    #[error("{RESOLV_CONF} is not readable; name the upstreams instead of \"system\"")]
    System(#[source] io::Error),
}

/// A running server.
#[derive(Clone, Copy, Debug)]
pub struct Serving {
    /// Where it listens, over UDP and TCP.
    pub address: SocketAddr,
}

struct Shared {
    views: Views,
    demand: Option<Demand>,
    from: Locality,
    ttl: u32,
    idle: Duration,
    forwarder: Forwarder,
    in_flight: Arc<Semaphore>,
    askers: Askers,
    began: Instant,
    tasks: Tasks,
    meters: Meters,
}

struct Meters {
    answers: [(Outcome, Counter); 5],
    forwarded: Counter,
    forward_failed: Counter,
    dropped: Counter,
    limited: Counter,
}

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        let answer = |outcome, code: &str| {
            let help = "answers from the own zones, and refusals";
            (
                outcome,
                metrics.counter("isthmus_dns_answers_total", help, &[("code", code)]),
            )
        };
        let forward = |result: &str| {
            let help = "requests that went to an upstream";
            metrics.counter("isthmus_dns_forwarded_total", help, &[("result", result)])
        };
        Self {
            answers: [
                answer(Outcome::Answer, "NOERROR"),
                answer(Outcome::NoData, "NODATA"),
                answer(Outcome::NoName, "NXDOMAIN"),
                answer(Outcome::Failed, "SERVFAIL"),
                answer(Outcome::Refused, "REFUSED"),
            ],
            forwarded: forward("answered"),
            forward_failed: forward("failed"),
            dropped: metrics.counter(
                "isthmus_dns_dropped_total",
                "requests dropped because too many were in flight",
                &[],
            ),
            limited: metrics.counter(
                "isthmus_dns_limited_total",
                "requests and connections dropped because their address is at its own bound",
                &[],
            ),
        }
    }

    fn count(&self, outcome: Outcome) {
        if let Some((_, counter)) = self.answers.iter().find(|(it, _)| *it == outcome) {
            counter.increment(1);
        }
    }
}

/// Serves names over UDP and TCP on one port until the tasks' stop; `from` is where the askers are. Port 0 takes any.
///
/// # Errors
/// When the port cannot be bound, or `/etc/resolv.conf` is wanted and not readable.
pub async fn serve(
    settings: Settings,
    listen: SocketAddr,
    names: impl Into<Names>,
    from: Locality,
    tasks: &Tasks,
    metrics: &Metrics,
) -> Result<Serving, ServeError> {
    let (udp, tcp) = bind(listen).await.map_err(|source| ServeError::Bind {
        address: listen,
        source,
    })?;
    let address = udp.local_addr().map_err(|source| ServeError::Bind {
        address: listen,
        source,
    })?;
    let servers = match settings.upstreams {
        Upstreams::None => Vec::new(),
        Upstreams::Servers(servers) => servers,
        Upstreams::System => {
            let text = tokio::fs::read_to_string(RESOLV_CONF).await;
            forward::system_upstreams(&text.map_err(ServeError::System)?)
        }
    };
    let (views, demand) = names.into().parts();
    let shared = Arc::new(Shared {
        views,
        demand,
        from,
        ttl: u32::try_from(settings.ttl.as_secs()).unwrap_or(u32::MAX),
        idle: settings.idle,
        forwarder: Forwarder::new(servers, address, settings.upstream_timeout),
        in_flight: Arc::new(Semaphore::new(settings.in_flight_max)),
        askers: Askers::new(askers::Bounds {
            per_second: settings.queries_per_source,
            connections_max: bound(settings.connections_max.div_ceil(4)),
            forwards_max: bound(settings.in_flight_max.div_ceil(2)),
        }),
        began: clock::now(),
        tasks: tasks.clone(),
        meters: Meters::new(metrics),
    });
    info!(%address, "dns serves");
    tasks.spawn("dns-udp", OnExit::StopProcess, serve_udp(udp, Arc::clone(&shared)));
    tasks.spawn(
        "dns-tcp",
        OnExit::StopProcess,
        serve_tcp(tcp, shared, settings.connections_max),
    );
    Ok(Serving { address })
}

fn bound(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut attempt = 1;
    loop {
        let udp = UdpSocket::bind(listen).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if listen.port() == 0 && attempt < BIND_ATTEMPTS_MAX => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

impl Shared {
    /// Whether an address may ask once more; counts where it may not.
    fn may_ask(&self, from: IpAddr) -> bool {
        let now = clock::now().saturating_duration_since(self.began);
        self.within(self.askers.may_ask(from, now).then_some(())).is_some()
    }

    fn within<T>(&self, room: Option<T>) -> Option<T> {
        if room.is_none() {
            self.meters.limited.increment(1);
        }
        room
    }

    fn answer(&self, request: &[u8], via: Via) -> Reply {
        let view = self.views.load();
        let asker = Asker {
            from: &self.from,
            now: clock::wall(),
            shuffle: fastrand::u64(..),
            ttl: self.ttl,
        };
        let reply = answer::answer(&view, asker, request, via);
        match reply {
            Reply::Send(_, outcome) => self.meters.count(outcome),
            Reply::Forward if self.forwarder.is_empty() => {
                self.meters.count(Outcome::Refused);
                let refusal = answer::failure(request, ResponseCode::Refused, false);
                return refusal.map_or(Reply::Drop, |bytes| Reply::Send(bytes, Outcome::Refused));
            }
            Reply::Forward | Reply::Fetch(_) | Reply::Drop => {}
        }
        reply
    }

    /// What comes of a request that could not be answered at once.
    async fn later(&self, request: &[u8], via: Via, fetch: Option<ServiceName>) -> Option<Vec<u8>> {
        match fetch {
            None => self.forward(request, via).await,
            Some(service) => self.fetch(request, via, &service).await,
        }
    }

    async fn fetch(&self, request: &[u8], via: Via, service: &ServiceName) -> Option<Vec<u8>> {
        if let Some(demand) = &self.demand
            && let Err(error) = demand.ensure(service).await
        {
            debug!(%error, "name not answered");
        }
        match self.answer(request, via) {
            Reply::Send(bytes, _) => Some(bytes),
            _ => {
                self.meters.count(Outcome::Failed);
                answer::failure(request, ResponseCode::ServFail, false)
            }
        }
    }

    async fn forward(&self, request: &[u8], via: Via) -> Option<Vec<u8>> {
        match self.forwarder.ask(request, via).await {
            Ok(answer) => {
                self.meters.forwarded.increment(1);
                Some(answer)
            }
            Err(error) => {
                debug!(%error, "name not forwarded");
                self.meters.forward_failed.increment(1);
                answer::failure(request, ResponseCode::ServFail, true)
            }
        }
    }
}

async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let stop = shared.tasks.stop().clone();
    let socket = Arc::new(socket);
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = stop.ordered() => return,
        };
        let (len, client) = match received {
            Ok(received) => received,
            Err(error) => {
                // Often news of a client that left; a lasting fault must not take a whole core.
                debug!(%error, "dns socket");
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
        };
        backoff.reset();
        if !shared.may_ask(client.ip()) {
            continue;
        }
        match shared.answer(&buffer[..len], Via::Udp) {
            Reply::Drop => {}
            Reply::Send(reply, _) => {
                // A client that left does not miss it; a full socket buffer is the network's back-pressure: clients ask again.
                let _ = socket.try_send_to(&reply, client);
            }
            reply @ (Reply::Forward | Reply::Fetch(_)) => {
                let Ok(permit) = Arc::clone(&shared.in_flight).try_acquire_owned() else {
                    shared.meters.dropped.increment(1);
                    continue;
                };
                let (request, socket, inner) = (buffer[..len].to_vec(), Arc::clone(&socket), Arc::clone(&shared));
                shared.tasks.spawn("dns-later", OnExit::Ignore, async move {
                    let Some(_room) = inner.within(inner.askers.forward(client.ip())) else {
                        return;
                    };
                    if let Some(reply) = inner.later(&request, Via::Udp, reply.fetches()).await {
                        // As above.
                        let _ = socket.send_to(&reply, client).await;
                    }
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>, connections_max: usize) {
    let stop = shared.tasks.stop().clone();
    let connections = Arc::new(Semaphore::new(connections_max));
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            () = stop.ordered() => return,
        };
        let (stream, from, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "dns cannot accept");
                tokio::time::sleep(backoff.next_wait()).await;
                continue;
            }
        };
        backoff.reset();
        let (inner, stop) = (Arc::clone(&shared), stop.clone());
        shared.tasks.spawn("dns-connection", OnExit::Ignore, async move {
            tokio::select! {
                ended = serve_connection(stream, from, &inner) => {
                    if let Err(error) = ended {
                        debug!(%error, "dns connection ended");
                    }
                }
                () = stop.ordered() => {}
            }
            drop(permit);
        });
    }
}

/// Takes a connection only when there is room, so that the rest wait in the system's queue. Safe to cancel: nothing is
/// accepted before both are there.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer.ip(), permit))
}

async fn serve_connection(mut stream: TcpStream, from: IpAddr, shared: &Shared) -> io::Result<()> {
    let Some(_room) = shared.within(shared.askers.connect(from)) else {
        return Ok(());
    };
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let request = timeout(shared.idle, read_request(&mut stream)).await.map_err(late)??;
        if !shared.may_ask(from) {
            return Ok(());
        }
        let reply = match shared.answer(&request, Via::Tcp) {
            Reply::Drop => return Ok(()),
            Reply::Send(reply, _) => Some(reply),
            reply @ (Reply::Forward | Reply::Fetch(_)) => {
                let Some(_room) = shared.within(shared.askers.forward(from)) else {
                    return Ok(());
                };
                let _permit = shared.in_flight.acquire().await.map_err(io::Error::other)?;
                shared.later(&request, Via::Tcp, reply.fetches()).await
            }
        };
        let Some(reply) = reply else { return Ok(()) };
        let len = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&len.to_be_bytes()[..], &reply].concat();
        timeout(shared.idle, stream.write_all(&framed)).await.map_err(late)??;
    }
}

async fn read_request(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = usize::from(stream.read_u16().await?);
    if len > REQUEST_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "request is too long"));
    }
    let mut request = vec![0; len];
    stream.read_exact(&mut request).await?;
    Ok(request)
}
