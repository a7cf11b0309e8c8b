//! Dialling: a name is resolved at each dial, the peer must be who is expected, a peer that vanished is noticed.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use metrics::Counter;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{
    Caller,
    connection::{Connection, Sweep},
};
use crate::{
    identity::{ALPN_H2, Bootstrap, Expect, Fault, Identity, Side},
    net,
    runtime::Stop,
};

/// A peer that vanished is noticed after both.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// As whom to call.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// With an SVID.
    Identity(Identity),
    /// With nothing yet but anchors.
    Bootstrap(Bootstrap),
}

impl From<Identity> for Credentials {
    fn from(identity: Identity) -> Self {
        Self::Identity(identity)
    }
}

impl From<Bootstrap> for Credentials {
    fn from(bootstrap: Bootstrap) -> Self {
        Self::Bootstrap(bootstrap)
    }
}

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For name, TCP and TLS together.
    pub connect: Duration,
    /// For the answer to each call; none for streams, which live long.
    pub call: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: None,
        }
    }
}

/// Why there is no channel.
#[derive(Debug, Error)]
pub enum DialError {
    /// Not `host:port`.
    #[error("address {0:?} is not host:port")]
    Address(String),
    /// The list is empty.
    #[error("there is no address to dial")]
    NoAddress,
    /// Name, TCP, TLS or the peer's identity.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Where.
        address: String,
        /// The deepest cause.
        reason: String,
        /// What is wrong with the peer's certificate, if that is why.
        fault: Option<Fault>,
    },
}

impl DialError {
    /// What is wrong with the peer's certificate, if that is why.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Connect { fault, .. } => fault.as_ref(),
            Self::Address(_) | Self::NoAddress => None,
        }
    }

    fn connect(address: &str, error: &tonic::transport::Error) -> Self {
        let (mut reason, mut fault) = (error.to_string(), None);
        let mut source = error.source();
        while let Some(error) = source {
            reason = error.to_string();
            let rustls = error
                .downcast_ref::<io::Error>()
                .and_then(|error| error.get_ref()?.downcast_ref());
            if let Some(found) = rustls.and_then(Fault::of) {
                reason = found.to_string();
                fault = Some(found.clone());
                break;
            }
            source = error.source();
        }
        Self::Connect {
            address: address.to_owned(),
            reason,
            fault,
        }
    }
}

/// Connects to `host:port`. The channel connects again by itself, to the same address and expectation, with the newest
/// SVID, bundles and name.
///
/// # Errors
/// When the first connection does not come about.
pub async fn dial(
    address: &str,
    credentials: &Credentials,
    expect: &Expect,
    timeouts: Timeouts,
) -> Result<Channel, DialError> {
    let bad = || DialError::Address(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
    let dialer = Arc::new(Dialer {
        address: address.to_owned(),
        name,
        credentials: credentials.clone(),
        expect: expect.clone(),
        timeout: timeouts.connect,
    });
    let mut endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| bad())?
        .connect_timeout(timeouts.connect)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true);
    if let Some(timeout) = timeouts.call {
        endpoint = endpoint.timeout(timeout);
    }
    let connector = tower::service_fn(move |_| {
        let dialer = Arc::clone(&dialer);
        async move { dialer.connect().await.map(TokioIo::new) }
    });
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| DialError::connect(address, &error))
}

/// Connects to the first of `addresses` that answers, in random order. One round; the caller waits between rounds, and
/// comes back here when the channel stops working, for it stays with one address.
///
/// # Errors
/// Why the last of them did not answer.
pub async fn connect_any(
    addresses: &[String],
    credentials: &Credentials,
    expect: &Expect,
    timeouts: Timeouts,
) -> Result<Channel, DialError> {
    let mut order: Vec<_> = addresses.iter().collect();
    fastrand::shuffle(&mut order);
    let mut last = DialError::NoAddress;
    for address in order {
        match dial(address, credentials, expect, timeouts).await {
            Ok(channel) => return Ok(channel),
            Err(error) => last = error,
        }
    }
    Err(last)
}

struct Dialer {
    address: String,
    name: ServerName<'static>,
    credentials: Credentials,
    expect: Expect,
    timeout: Duration,
}

impl Dialer {
    async fn connect(&self) -> io::Result<Connection> {
        match tokio::time::timeout(self.timeout, self.shake()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
        }
    }

    async fn shake(&self) -> io::Result<Connection> {
        let stream = net::dial::dial(&self.address, self.timeout)
            .await
            .map_err(io::Error::other)?;
        let address = stream.peer_addr()?;
        let (config, identity) = match &self.credentials {
            Credentials::Identity(identity) => (
                identity.client_config(&self.expect, ALPN_H2),
                Some((identity, identity.changed())),
            ),
            Credentials::Bootstrap(bootstrap) => (bootstrap.client_config(&self.expect, ALPN_H2), None),
        };
        let tls = TlsConnector::from(config).connect(self.name.clone(), stream).await?;
        let (_, state) = tls.get_ref();
        let (mut id, mut sweep) = (None, None);
        if let Some((identity, changed)) = identity {
            id = identity.peer(state, Side::Server).map_err(io::Error::other)?;
            let chain = state.peer_certificates().unwrap_or_default();
            let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
            sweep = Some(Sweep::new(
                identity.clone(),
                Side::Server,
                chain,
                changed,
                Counter::noop(),
            ));
        }
        Ok(Connection::new(
            tls.into(),
            Caller { id, address },
            sweep,
            Stop::default(),
        ))
    }
}
