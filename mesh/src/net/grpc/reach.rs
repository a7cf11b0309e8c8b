//! Can an address be reached, and is whoever answers the one who should? For those who look for what is wrong: it tells
//! the reasons apart that a channel would report as one failure. Sends no call and keeps no connection.

use std::{io, time::Duration};

use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::Credentials;
use crate::{
    identity::{ALPN_H2, Expect, Fault, Side},
    net::dial::{self, DialError},
    runtime::clock,
};

/// A connection preface of HTTP/2 with empty settings: the server answers with its own, or with why it refuses us.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Why not.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unreached {
    /// Not `host:port`.
    #[error("{0:?} is not host:port")]
    Address(String),
    /// The name has no address.
    #[error("the name does not resolve: {0}")]
    Name(String),
    /// Nobody listens there, or something on the way says no.
    #[error("refused: {0}")]
    Refused(String),
    /// Nothing came back.
    #[error("no answer within {0:?}; a firewall that drops, or a machine that is down")]
    Silent(Duration),
    /// Somebody listens who does not speak TLS as we do.
    #[error("whoever listens there does not speak mutual TLS: {0}")]
    NotTls(String),
    /// The other side's certificate is not good.
    #[error("{0}")]
    Certificate(#[from] Fault),
    /// The other side does not take our certificate.
    #[error("it does not take this side's certificate: {0}")]
    Rejected(String),
}

impl Unreached {
    /// A word for programs; never changes.
    #[must_use]
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Name(_) => "name",
            Self::Refused(_) => "refused",
            Self::Silent(_) => "silent",
            Self::NotTls(_) => "not-tls",
            Self::Rejected(_) => "rejected",
            Self::Certificate(fault) => match fault {
                Fault::UnknownTrustDomain(_) | Fault::Revoked(_) => "unknown-domain",
                Fault::WrongCa(_) => "wrong-ca",
                Fault::Expired(_) => "expired",
                Fault::NotYetValid(_) => "not-yet-valid",
                Fault::Unexpected { .. } => "wrong-identity",
                _ => "bad-certificate",
            },
        }
    }
}

/// Whether anybody accepts connections there. Returns how long that took.
///
/// # Errors
/// See [`Unreached`].
pub async fn reach_port(address: &str, timeout: Duration) -> Result<Duration, Unreached> {
    let begun = clock::now();
    connect(address, timeout).await?;
    Ok(begun.elapsed())
}

/// Whether `expect` answers there, and takes our certificate. Returns how long that took.
///
/// # Errors
/// See [`Unreached`].
pub async fn reach(
    address: &str,
    credentials: &Credentials,
    expect: &Expect,
    timeout: Duration,
) -> Result<Duration, Unreached> {
    let begun = clock::now();
    let stream = connect(address, timeout).await?;
    let left = timeout.saturating_sub(begun.elapsed());
    let shaken = tokio::time::timeout(left, shake(address, stream, credentials, expect)).await;
    shaken.map_err(|_| Unreached::Silent(timeout))??;
    Ok(begun.elapsed())
}

async fn connect(address: &str, timeout: Duration) -> Result<TcpStream, Unreached> {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() {
        return Err(Unreached::Address(address.to_owned()));
    }
    dial::dial(address, timeout).await.map_err(|error| match error {
        DialError::Resolve { source, .. } => Unreached::Name(source.to_string()),
        DialError::Connect { source, .. } => Unreached::Refused(source.to_string()),
        DialError::TimedOut { waited, .. } => Unreached::Silent(waited),
    })
}

async fn shake(address: &str, stream: TcpStream, credentials: &Credentials, expect: &Expect) -> Result<(), Unreached> {
    let bad = || Unreached::Address(address.to_owned());
    let host = address.rsplit_once(':').map(|(host, _)| host).ok_or_else(bad)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|_| bad())?;
    let config = match credentials {
        Credentials::Identity(identity) => identity.client_config(expect, ALPN_H2),
        Credentials::Bootstrap(bootstrap) => bootstrap.client_config(expect, ALPN_H2),
    };
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let mut tls = connected.map_err(|error| told(&error))?;
    if let Credentials::Identity(identity) = credentials {
        // A resumed session was not verified again by TLS itself.
        identity.peer(tls.get_ref().1, Side::Server)?;
    }
    tls.write_all(PREFACE).await.map_err(|error| told(&error))?;
    answered(&mut tls).await
}

/// With TLS 1.3 a client knows only from the first answer whether its certificate was taken.
async fn answered(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), Unreached> {
    match stream.read_u8().await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Unreached::Rejected("it closed the connection".to_owned()))
        }
        Err(error) => Err(told(&error)),
    }
}

fn told(error: &io::Error) -> Unreached {
    let rustls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match rustls {
        Some(rustls::Error::AlertReceived(alert)) => Unreached::Rejected(format!("{alert:?}")),
        Some(error) => match Fault::of(error) {
            Some(fault) => Unreached::Certificate(fault.clone()),
            None => Unreached::NotTls(error.to_string()),
        },
        None => Unreached::NotTls(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Role, TrustDomain, testing::Ca},
        net::{
            grpc::{Serve, serve},
            listen::listen,
        },
        ops::Metrics,
        runtime::{OnExit, Tasks},
    };

    const PATIENCE: Duration = Duration::from_secs(10);

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn id(role: Role, of: &str) -> String {
        role.id(&domain(of)).to_string()
    }

    async fn slug(address: &str, credentials: &Credentials, expect: &Expect) -> &'static str {
        match reach(address, credentials, expect, PATIENCE).await {
            Ok(_) => "reached",
            Err(unreached) => unreached.slug(),
        }
    }

    #[tokio::test]
    async fn each_reason_is_told_apart() {
        let (ca, other) = (Ca::new("eu"), Ca::new("eu"));
        let tasks = Tasks::default();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = serve(
            listener,
            ca.identity(&id(Role::Registry, "eu"), &[]),
            Serve::new("test", crate::identity::ClientAuth::Optional),
            tonic::service::Routes::default(),
            tasks.clone(),
            Metrics::default(),
        );
        tasks.spawn("serve", OnExit::Ignore, served);
        let registry = Expect::System(Role::Registry, domain("eu"));
        let own = Credentials::from(ca.identity(&id(Role::Operator, "eu"), &[]));
        assert_eq!(slug(&address, &own, &registry).await, "reached");
        assert!(reach_port(&address, PATIENCE).await.is_ok());
        let gateway = Expect::System(Role::Gateway, domain("eu"));
        assert_eq!(slug(&address, &own, &gateway).await, "wrong-identity");
        let stranger = Credentials::from(other.identity(&id(Role::Operator, "eu"), &[]));
        assert_eq!(slug(&address, &stranger, &registry).await, "wrong-ca");
        // Trusts the server, but is not trusted by it.
        let us = Ca::new("us");
        let foreign = Credentials::from(us.identity(&id(Role::Registry, "us"), &[&ca]));
        assert_eq!(slug(&address, &foreign, &registry).await, "rejected");
        assert_eq!(slug("no-port-here", &own, &registry).await, "address");
        assert_eq!(slug("no-such-name.invalid:1", &own, &registry).await, "name");
        let closed = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        assert_eq!(slug(&closed.to_string(), &own, &registry).await, "refused");
        tasks.stop().order();
        tasks.join(PATIENCE).await.unwrap();
    }
}
