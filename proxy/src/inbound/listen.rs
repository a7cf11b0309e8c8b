//! Connections from the mesh: read the ClientHello, find what it asks for, finish mutual TLS, judge the caller, then serve
//! HTTP/2 or relay bytes. A connection ends when its caller is no longer vouched for, and takes no new requests when old.

use std::sync::Arc;

use http::HeaderValue;
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::{
    identity::{ALPN_H2, ALPN_NONE, ClientAuth, Side, SpiffeId},
    model::Timestamp,
    net::{
        dial::dial_address,
        listen::{Acceptor, Slot},
    },
    runtime::{OnExit, clock},
};
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tracing::{debug, info};

use super::{
    Shared,
    admit::{self, Denied},
    deliver::{Application, Caller, deliver},
    settings::{Served, ServedPort},
};
use crate::hop::{
    exec::{self, Exec},
    relay::relay,
};

const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// Accepts until the order to stop.
pub(crate) async fn accept(shared: Arc<Shared>, mut acceptor: Acceptor) {
    let stop = shared.accept.clone();
    loop {
        let accepted = tokio::select! {
            () = stop.ordered() => break,
            accepted = acceptor.accept() => accepted,
        };
        let (slot, guard) = (accepted.slot, shared.drain.guard());
        let (shared, peer) = (Arc::clone(&shared), accepted.peer);
        shared
            .tasks
            .clone()
            .spawn("inbound-connection", OnExit::Ignore, async move {
                let _guard = guard;
                if let Err(fault) = serve(&shared, accepted.stream, slot).await {
                    match &fault {
                        Fault::Denied(denied) => {
                            shared.meters.denied(denied);
                            info!(%peer, %fault, "connection refused");
                        }
                        _ => debug!(%peer, %fault, "connection ended"),
                    }
                }
            });
    }
    drop(acceptor);
    // A task that must not end before the process does.
    shared.tasks.stop().ordered().await;
}

/// Why a connection ended before it was served.
#[derive(Debug, Error)]
enum Fault {
    #[error("no TLS handshake in time")]
    TooSlow,
    #[error("crowded out before its TLS handshake was over")]
    Evicted,
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("caller: {0}")]
    Caller(#[from] mesh::identity::Fault),
    #[error("application: {0}")]
    Application(mesh::net::dial::DialError),
    #[error("HTTP/2: {0}")]
    Http(#[from] hyper::Error),
}

/// A caller that was let in, and what that was judged by.
struct Admitted {
    caller: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    since: Timestamp,
    service: Served,
}

/// A connection whose caller was let in.
struct LetIn {
    stream: TlsStream<TcpStream>,
    admitted: Admitted,
    port: ServedPort,
    http: bool,
}

async fn serve(shared: &Arc<Shared>, stream: TcpStream, mut slot: Slot) -> Result<(), Fault> {
    let limit = shared.settings.handshake_timeout;
    // Told from now on, so that no change falls between the check in the handshake and the first one below.
    let changed = shared.identity.changed();
    let let_in = tokio::select! {
        let_in = tokio::time::timeout(limit, let_in(shared, stream)) => let_in.map_err(|_| Fault::TooSlow)??,
        () = slot.evicted() => return Err(Fault::Evicted),
    };
    slot.settle();
    let caller = let_in.admitted.caller.clone();
    let vouched = until_disowned(Arc::clone(shared), changed, let_in.admitted);
    if let_in.http {
        let application = shared.application(&let_in.port);
        let caller = Caller::new(&shared.identity.id(), caller);
        return serve_http(shared, let_in.stream, application, caller, vouched).await;
    }
    let near = dial_address(let_in.port.application, shared.settings.connect_timeout).await;
    let near = near.map_err(Fault::Application)?;
    tokio::select! {
        ended = relay(let_in.stream, near, shared.settings.tunnel_idle) => debug!(?ended, "tunnel ended"),
        () = vouched => info!(%caller, "tunnel cut: the caller is no longer let in"),
    }
    Ok(())
}

async fn let_in(shared: &Shared, stream: TcpStream) -> Result<LetIn, Fault> {
    let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = start.await.map_err(Fault::Tls)?;
    let served = shared.served.load();
    let hello = start.client_hello();
    let (service, port) = admit::find(&served, hello.server_name())?;
    let offers_h2 = hello
        .alpn()
        .is_some_and(|mut offered| offered.any(|token| token == b"h2"));
    // Whoever does not offer HTTP/2 on an HTTP port asks for a tunnel of bytes.
    let http = port.protocol.is_http() && offers_h2;
    let alpn = if http { ALPN_H2 } else { ALPN_NONE };
    let config = shared.identity.server_config(ClientAuth::Required, alpn);
    let stream = start.into_stream(config).await.map_err(Fault::Tls)?;
    let session = stream.get_ref().1;
    let caller = shared.identity.peer(session, Side::Client)?;
    let own = shared.identity.trust_domain();
    let caller = admit::judge(caller.as_ref(), &own, &shared.views.load(), service)?;
    let chain = session.peer_certificates().unwrap_or_default();
    let admitted = Admitted {
        caller,
        chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        since: clock::wall(),
        service: service.clone(),
    };
    Ok(LetIn {
        admitted,
        port: port.clone(),
        http,
        stream,
    })
}

/// Returns when the caller is no longer let in: its trust domain lost the anchors that vouched for it, or the service is no
/// longer exported to it.
async fn until_disowned(shared: Arc<Shared>, mut trust: watch::Receiver<u64>, let_in: Admitted) {
    let mut views = shared.views.clone();
    let own = shared.identity.trust_domain();
    loop {
        let goes_on = tokio::select! {
            changed = trust.changed() => changed.is_ok(),
            // Only an export can be withdrawn from a caller of another domain; others need not wake up for each view.
            changed = views.changed(), if let_in.caller.trust_domain() != own => changed.is_ok(),
        };
        let trusted = shared.identity.still_trusts(&let_in.chain, Side::Client, let_in.since);
        let judged = admit::judge(Some(&let_in.caller), &own, &shared.views.load(), &let_in.service);
        if trusted.is_err() || judged.is_err() {
            return;
        }
        if !goes_on {
            // Nobody changes bundles or views any more.
            std::future::pending::<()>().await;
        }
    }
}

async fn serve_http(
    shared: &Arc<Shared>,
    stream: TlsStream<TcpStream>,
    application: Arc<Application>,
    caller: Caller,
    disowned: impl Future<Output = ()>,
) -> Result<(), Fault> {
    let mut builder = http2::Builder::new(Exec(shared.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(shared.settings.streams_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_pending_accept_reset_streams(exec::RESET_PENDING_MAX)
        .max_local_error_reset_streams(exec::RESET_LOCAL_MAX)
        .keep_alive_interval(exec::KEEPALIVE.0)
        .keep_alive_timeout(exec::KEEPALIVE.1)
        .enable_connect_protocol();
    let caller = Arc::new(caller);
    let service = {
        let (shared, caller) = (Arc::clone(shared), Arc::clone(&caller));
        service_fn(move |request| {
            deliver(
                Arc::clone(&shared),
                Arc::clone(&application),
                Arc::clone(&caller),
                request,
            )
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let age = shared.settings.connection_age.mul_f64(1.0 - fastrand::f64() / 10.0);
    let retire = async {
        tokio::select! {
            () = shared.accept.ordered() => {}
            () = tokio::time::sleep(age) => {}
        }
    };
    let mut disowned = std::pin::pin!(disowned);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = disowned.as_mut() => {}
        () = retire => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = disowned => {}
            }
        }
    }
    info!(caller = ?caller.card(), "connection cut: the caller is no longer let in");
    Ok(())
}

/// What an application reads about its caller.
pub(crate) fn client_cert(own: &SpiffeId, caller: &SpiffeId) -> HeaderValue {
    // SPIFFE IDs have no character that a header refuses.
    HeaderValue::from_str(&format!("By={own};URI={caller}")).unwrap_or_else(|_| HeaderValue::from_static(""))
}
