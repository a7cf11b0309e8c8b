//! One TLS connection under gRPC: it ends itself when its peer is no longer trusted, or when it is cut.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::Stream;
use metrics::Counter;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::TlsStream;
use tokio_stream::wrappers::WatchStream;
use tracing::info;

use super::{Caller, merge::Merge};
use crate::{
    identity::{Fault, Identity, Side},
    model::Timestamp,
    runtime::{Stop, clock},
};

/// Checks a connection's peer again after each change of bundles.
pub(super) struct Sweep {
    identity: Identity,
    /// Which end the peer is.
    side: Side,
    chain: Vec<CertificateDer<'static>>,
    since: Timestamp,
    changes: WatchStream<u64>,
    swept: Counter,
}

impl Sweep {
    /// `changed` was subscribed to before the handshake, so that no change falls between.
    pub(super) fn new(
        identity: Identity,
        side: Side,
        chain: Vec<CertificateDer<'static>>,
        changed: watch::Receiver<u64>,
        swept: Counter,
    ) -> Self {
        Self {
            identity,
            side,
            chain,
            since: clock::wall(),
            changes: WatchStream::from_changes(changed),
            swept,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.changes).poll_next(cx) {
            self.identity.still_trusts(&self.chain, self.side, self.since)?;
        }
        Ok(())
    }
}

/// What gRPC reads and writes.
pub(super) struct Connection {
    tls: Merge<Box<TlsStream<TcpStream>>>,
    caller: Caller,
    /// None when there is nothing to check: the peer showed no certificate, or this end has no identity yet.
    sweep: Option<Sweep>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Connection {
    pub(super) fn new(tls: TlsStream<TcpStream>, caller: Caller, sweep: Option<Sweep>, cut: Stop) -> Self {
        Self {
            tls: Merge::new(Box::new(tls)),
            caller,
            sweep,
            cut: Box::pin(async move { cut.ordered().await }),
            over: false,
        }
    }

    /// Both reasons to end are watched where the connection always waits: in reading.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.over && self.cut.as_mut().poll(cx).is_ready() {
            self.over = true;
        }
        if !self.over
            && let Some(sweep) = &mut self.sweep
            && let Err(fault) = sweep.poll(cx)
        {
            self.over = true;
            sweep.swept.increment(1);
            info!(peer = %self.caller.address, id = ?self.caller.id, %fault, "connection closed: its peer is no longer trusted");
        }
        self.still_good()
    }

    fn still_good(&self) -> io::Result<()> {
        if self.over {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.tls).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.still_good()?;
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.still_good()?;
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}
