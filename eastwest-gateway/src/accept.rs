//! A connection's way through the gateway: accept, hello, admit, resolve, dial, relay. Each step may refuse it; every
//! refusal is counted and told to the client as far as it can be told.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use mesh::{
    identity::Identity,
    model::EndpointState,
    net::{
        copy::Pool,
        listen::{Accepted, Acceptor},
    },
    runtime::{Drain, OnExit, Stop, Tasks, clock},
    subscribe::Views,
};
use tokio::net::TcpStream;

use crate::{
    admit::{Admission, admit},
    config::Config,
    dial::dial,
    hello::{read_hello, refuse},
    limit::Ledger,
    load::{Loads, Place},
    metrics::GatewayMetrics,
    probe,
    refusal::Refusal,
    relay::carry,
};

/// Everything that connections share.
pub(crate) struct Hall {
    pub(crate) config: Config,
    pub(crate) views: Views,
    pub(crate) identity: Identity,
    pub(crate) loads: Loads,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) pool: Pool,
    /// Guards the counts only; held for one count.
    pub(crate) sources: Mutex<Ledger<IpAddr>>,
    /// Counts connections, for the drain.
    pub(crate) drain: Drain,
    /// The order to let nobody in.
    pub(crate) stop: Stop,
    /// The order to cut what is still open.
    pub(crate) cut: Stop,
}

/// Accepts until the order to stop; then the listener is closed, so that clients are refused and go elsewhere.
pub(crate) async fn run(mut acceptor: Acceptor, hall: Arc<Hall>, tasks: Tasks) {
    loop {
        tokio::select! {
            biased; // Who is told to stop lets nobody in any more.
            () = hall.stop.ordered() => return,
            accepted = acceptor.accept() => {
                let guard = hall.drain.guard();
                let hall = Arc::clone(&hall);
                tasks.spawn("connection", OnExit::Ignore, async move {
                    let _guard = guard;
                    // Boxed where it is made, because each wrapper around a task would keep room for it twice.
                    let serving = Box::pin(serve(&hall, accepted));
                    tokio::select! {
                        () = hall.cut.ordered() => {}
                        () = serving => {}
                    }
                });
            }
        }
    }
}

/// One connection from its first byte to its last.
async fn serve(hall: &Hall, accepted: Accepted) {
    let Accepted { stream, peer, mut slot } = accepted;
    let Some(_source) = Source::enter(hall, peer.ip()) else {
        hall.metrics.refused(Refusal::SourceFull, peer, &"");
        return refuse(stream, Refusal::SourceFull).await;
    };
    let began = clock::now();
    // The first steps are boxed: what they need is freed before the relay, which may last for days.
    let opened = tokio::select! {
        opened = Box::pin(open(hall, &stream)) => opened,
        // Another client came who may be quicker.
        () = slot.evicted() => Err(Refused { refusal: Refusal::HandshakesFull, server_name: String::new() }),
    };
    match opened {
        Ok(Opened::Tunnel(tunnel)) => {
            slot.settle();
            hall.metrics.open_seconds.record(began.elapsed().as_secs_f64());
            let Tunnel {
                endpoint,
                place,
                hello_bytes,
            } = tunnel;
            let patience = hall.config.patience();
            carry(
                stream,
                endpoint,
                hello_bytes,
                &place,
                patience,
                &hall.pool,
                &hall.metrics,
            )
            .await;
        }
        Ok(Opened::Probe(hello)) => tokio::select! {
            () = Box::pin(answer_probe(hall, stream, hello, peer)) => {}
            () = slot.evicted() => hall.metrics.refused(Refusal::HandshakesFull, peer, &""),
        },
        Err(Refused { refusal, server_name }) => {
            hall.metrics.refused(refusal, peer, &server_name);
            refuse(stream, refusal).await;
        }
    }
    drop(slot);
}

enum Opened {
    Tunnel(Tunnel),
    Probe(Vec<u8>),
}

struct Tunnel {
    endpoint: TcpStream,
    place: Place,
    hello_bytes: usize,
}

struct Refused {
    refusal: Refusal,
    /// Whom the client wanted; empty when it did not come to say.
    server_name: String,
}

/// All steps before the relay.
async fn open(hall: &Hall, stream: &TcpStream) -> Result<Opened, Refused> {
    let config = &hall.config;
    let unnamed = |refusal| Refused {
        refusal,
        server_name: String::new(),
    };
    let read = read_hello(stream, config.limits.hello_bytes, config.timeouts.hello);
    let (hello, bytes) = read.await.map_err(unnamed)?;
    let refused = |refusal| Refused {
        refusal,
        server_name: hello.server_name.clone(),
    };
    let view = hall.views.load();
    let sni = match admit(&hello, &view, &config.cluster).map_err(refused)? {
        Admission::Probe => return Ok(Opened::Probe(bytes)),
        Admission::Tunnel(sni) => sni,
    };
    let place = hall.loads.enter(&sni.service, &view);
    let mut place = place.map_err(|_| refused(Refusal::ServiceFull))?;
    drop(view);
    let dialled = dial(
        &hall.views,
        &sni,
        &config.cluster,
        &mut place,
        &bytes,
        config.timeouts.dial,
    );
    let endpoint = dialled.await.map_err(refused)?;
    Ok(Opened::Tunnel(Tunnel {
        endpoint,
        place,
        hello_bytes: bytes.len(),
    }))
}

async fn answer_probe(hall: &Hall, stream: TcpStream, hello: Vec<u8>, peer: SocketAddr) {
    let state = if hall.stop.is_ordered() {
        EndpointState::Draining
    } else {
        EndpointState::Ready
    };
    let place = probe::Place {
        region: &hall.config.region,
        cluster: &hall.config.cluster,
        state,
    };
    let view = hall.views.load();
    match probe::answer(stream, hello, &hall.identity, &view, place, hall.config.timeouts.hello).await {
        Ok(()) => hall.metrics.probes.increment(1),
        Err(error) => hall.metrics.refused(Refusal::Probe, peer, &Failed(error)),
    }
}

struct Failed(std::io::Error);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(own name: {})", self.0)
    }
}

/// A connection's place among those of its source.
struct Source<'a> {
    hall: &'a Hall,
    address: IpAddr,
}

impl<'a> Source<'a> {
    fn enter(hall: &'a Hall, address: IpAddr) -> Option<Self> {
        let mut sources = hall.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.enter(&address).ok()?;
        Some(Self { hall, address })
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        let mut sources = self.hall.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.leave(&self.address);
    }
}
