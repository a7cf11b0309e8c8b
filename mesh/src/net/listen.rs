//! Listening: sockets that can be bound again at once, and an accept loop that survives running out of descriptors and
//! keeps the number of connections bounded. What is done with a connection is the caller's.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use metrics::{Counter, Gauge};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::warn;

use super::newcomers::{self, Newcomer, Newcomers};
use crate::{
    ops::Metrics,
    runtime::{Backoff, clock},
};

/// Connections that wait to be accepted; a storm of reconnects after a failover must fit.
const BACKLOG: i32 = 4096;
/// First wait after a failed accept, and the longest one.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// At most one line per this long about connections that are refused or cannot be accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that vanished without a word is noticed after 30 s + 3 × 10 s.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// Why a listener cannot be made.
#[derive(Debug, Error)]
#[error("cannot listen on {address}; is the port in use, or does it need a privilege?")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Listens on `address` (port 0 = any free one; ask the listener for it).
///
/// # Errors
/// When the address is in use or not ours.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind(address).map_err(|source| ListenError { address, source })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the connections of the process before it.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Sets what every connection of ours has: no delay of small writes, and probes that notice a vanished peer.
///
/// # Errors
/// When the socket is gone already.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (time, interval, retries) = KEEPALIVE;
    let keepalive = TcpKeepalive::new()
        .with_time(time)
        .with_interval(interval)
        .with_retries(retries);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Makes the close of `stream` a reset: the peer must not take what it got for all there was.
pub fn reset_on_close(stream: &TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A connection's place among those that the listener bounds; drop it when the connection ends.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    open: OpenGauge,
    newcomer: Option<Newcomer>,
}

impl Slot {
    /// It is known now who came: nobody can take this place any more.
    pub fn settle(&mut self) {
        self.newcomer = None;
    }

    /// Returns when the place of a connection that has not settled is taken by another one, which should end it at once.
    /// Safe to cancel; does not return a second time.
    pub async fn evicted(&mut self) {
        match &mut self.newcomer {
            Some(newcomer) => newcomer.evicted().await,
            None => std::future::pending().await,
        }
    }
}

struct OpenGauge(Gauge);

impl std::fmt::Debug for OpenGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpenGauge")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.open.0.decrement(1.0);
    }
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// Prepared by [`prepare`].
    pub stream: TcpStream,
    /// Who.
    pub peer: SocketAddr,
    /// Its place in the bound.
    pub slot: Slot,
}

/// Accepts connections, at most so many at a time.
pub struct Acceptor {
    name: &'static str,
    listener: TcpListener,
    slots: Arc<Semaphore>,
    backoff: Backoff,
    last_line: Option<tokio::time::Instant>,
    open: Gauge,
    accepted: Counter,
    refused: Counter,
    failed: Counter,
    evicted: Counter,
    newcomers: Option<Newcomers>,
}

impl Acceptor {
    /// Lets `connections_max` connections in at a time. `name` labels the metrics `isthmus_connections{listener}`,
    /// `isthmus_accepted_total`, `isthmus_accept_refused_total` (at the bound), `isthmus_accept_failed_total` and
    /// `isthmus_newcomers_evicted_total`.
    #[must_use]
    pub fn new(listener: TcpListener, name: &'static str, connections_max: usize, metrics: &Metrics) -> Self {
        let label = [("listener", name)];
        let counter = |metric, help| metrics.counter(metric, help, &label);
        Self {
            name,
            listener,
            slots: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            backoff: Backoff::new(ACCEPT_BACKOFF.0, ACCEPT_BACKOFF.1),
            last_line: None,
            open: metrics.gauge("isthmus_connections", "connections that are open", &label),
            accepted: counter("isthmus_accepted_total", "connections that were let in"),
            refused: counter(
                "isthmus_accept_refused_total",
                "connections refused at the listener's bound",
            ),
            failed: counter(
                "isthmus_accept_failed_total",
                "failed accepts, for example for lack of descriptors",
            ),
            evicted: counter(
                "isthmus_newcomers_evicted_total",
                "connections that had not shown who they are when another one took their place",
            ),
            newcomers: None,
        }
    }

    /// Bounds the connections that have not settled: see [`Slot::settle`]. They never take more than a quarter of the
    /// listener's room, so that idlers cannot fill it.
    #[must_use]
    pub fn with_newcomers(mut self, mut bounds: newcomers::Bounds) -> Self {
        let quarter = self.slots.available_permits().div_ceil(4);
        bounds.total_max = bounds.total_max.min(quarter);
        self.newcomers = Some(Newcomers::new(bounds));
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection. Waits with growing pauses while accepting fails; connections over the bound are reset at
    /// once, because a client that is refused can go elsewhere and one that hangs cannot. Safe to cancel.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.backoff.reset();
                    if let Some(accepted) = self.let_in(stream, peer) {
                        return accepted;
                    }
                }
                // The client left while it was queued: nothing is wrong here.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.failed.increment(1);
                    if self.may_log() {
                        warn!(listener = self.name, %error, "cannot accept connections; raise the limit of open files?");
                    }
                    tokio::time::sleep(self.backoff.next_wait()).await;
                }
            }
        }
    }

    fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.refused.increment(1);
            reset_on_close(&stream);
            if self.may_log() {
                warn!(listener = self.name, %peer, "connection refused: the listener's bound is met");
            }
            return None;
        };
        // A client that left already has no socket to prepare.
        prepare(&stream).ok()?;
        self.accepted.increment(1);
        self.open.increment(1.0);
        let newcomer = self.newcomers.as_ref().map(|newcomers| {
            let (newcomer, evicted) = newcomers.enter(peer.ip());
            self.evicted.increment(u64::from(evicted));
            newcomer
        });
        let slot = Slot {
            _permit: permit,
            open: OpenGauge(self.open.clone()),
            newcomer,
        };
        Some(Accepted { stream, peer, slot })
    }

    fn may_log(&mut self) -> bool {
        let now = clock::now();
        let may = self
            .last_line
            .is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if may {
            self.last_line = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn connections_over_the_bound_are_reset_and_counted() {
        let metrics = Metrics::default();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut acceptor = Acceptor::new(listener, "test", 1, &metrics);
        let _first = TcpStream::connect(address).await.unwrap();
        let held = acceptor.accept().await;
        let mut second = TcpStream::connect(address).await.unwrap();
        let mut byte = [0; 1];
        let error = tokio::select! {
            _ = acceptor.accept() => panic!("the bound is one"),
            read = second.read(&mut byte) => read.expect_err("reset"),
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(
            metrics
                .render()
                .contains("isthmus_accept_refused_total{listener=\"test\"} 1"),
            "{}",
            metrics.render()
        );
        drop(held);
        let _third = TcpStream::connect(address).await.unwrap();
        acceptor.accept().await;
    }

    #[tokio::test]
    async fn idlers_never_keep_a_newcomer_out() {
        let metrics = Metrics::default();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = newcomers::Bounds {
            total_max: 100,
            source_max: 2,
        };
        let mut acceptor = Acceptor::new(listener, "test", 8, &metrics).with_newcomers(bounds);
        let mut clients = Vec::new();
        let mut slots = Vec::new();
        for _ in 0..4 {
            clients.push(TcpStream::connect(address).await.unwrap());
            slots.push(acceptor.accept().await.slot);
        }
        slots[0].evicted().await;
        slots[1].evicted().await;
        slots[2].settle();
        clients.push(TcpStream::connect(address).await.unwrap());
        slots.push(acceptor.accept().await.slot);
        let still = tokio::time::timeout(Duration::from_millis(10), slots[3].evicted()).await;
        assert!(still.is_err(), "who settled gave its place back, so nobody had to go");
        let text = metrics.render();
        assert!(
            text.contains("isthmus_newcomers_evicted_total{listener=\"test\"} 2"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address).expect_err("in use");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
