//! Asking a gateway how it is: one mutual TLS connection to the gateway's own name, one question, one answer. The asker
//! names the services that it wants to hear of, so that an answer stays small and tells nobody a name that it did not know.

use std::{collections::BTreeMap, io, time::Duration};

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::dial::{DialError, dial};
use crate::{
    identity::{Alpn, Expect, Fault, Identity, Role, Side, TrustDomain},
    model::{ClusterId, EndpointState, RegionId, ServiceName},
};

/// What a probe offers; no workload does.
pub const ALPN_PROBE: Alpn = &[b"isthmus-probe"];
/// Longest question, in bytes.
pub const QUESTION_BYTES_MAX: usize = 64 * 1024;
/// Longest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// The name that a cluster's gateways answer themselves: `probe.<cluster>.gateway.isthmus`.
#[must_use]
pub fn server_name(cluster: &ClusterId) -> String {
    format!("probe.{cluster}.gateway.isthmus")
}

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The services to tell about. Those that the gateway's cluster does not export are left out of the answer.
    pub services: Vec<ServiceName>,
}

/// How a gateway is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The cluster that it leads into.
    pub cluster: ClusterId,
    /// Its region.
    pub region: RegionId,
    /// Ready, or draining.
    pub state: EndpointState,
    /// By service that was asked for and is exported.
    pub services: BTreeMap<ServiceName, ServiceHealth>,
}

/// How a service is in one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// Endpoints that take new work.
    pub ready: u32,
    /// Endpoints in any state.
    pub total: u32,
}

/// Why a gateway could not be asked.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The gateway is not there, or the way to it is cut.
    #[error("gateway is not reachable")]
    Dial(#[from] DialError),
    /// The handshake or the talk failed.
    #[error("talk with the gateway at {address} failed")]
    Talk {
        /// Where.
        address: String,
        /// How.
        #[source]
        source: io::Error,
    },
    /// Whoever answered is not the gateway that was expected.
    #[error("{address} is not the expected gateway")]
    Identity {
        /// Where.
        address: String,
        /// Who it is instead.
        #[source]
        source: Fault,
    },
    /// The answer makes no sense.
    #[error("gateway at {address} answers {fault}")]
    Answer {
        /// Where.
        address: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The gateway was reached and did not answer.
    #[error("no answer from the gateway at {address} within {waited:?}")]
    TimedOut {
        /// Where.
        address: String,
        /// The limit.
        waited: Duration,
    },
}

/// Asks the gateway at `address` (`host:port`), which must lead into `cluster` and belong to `domain`. Takes at most
/// twice `timeout`: once to connect, once to talk.
///
/// # Errors
/// See [`ProbeError`].
pub async fn probe(
    address: &str,
    identity: &Identity,
    cluster: &ClusterId,
    domain: &TrustDomain,
    question: &Question,
    timeout: Duration,
) -> Result<Health, ProbeError> {
    let stream = dial(address, timeout).await?;
    let talk = talk(address, stream, identity, cluster, domain, question);
    let health = tokio::time::timeout(timeout, Box::pin(talk))
        .await
        .unwrap_or_else(|_| {
            Err(ProbeError::TimedOut {
                address: address.to_owned(),
                waited: timeout,
            })
        })?;
    if health.cluster != *cluster {
        return Err(ProbeError::Answer {
            address: address.to_owned(),
            fault: format!("for cluster {}, expected {cluster}", health.cluster),
        });
    }
    Ok(health)
}

async fn talk(
    address: &str,
    stream: tokio::net::TcpStream,
    identity: &Identity,
    cluster: &ClusterId,
    domain: &TrustDomain,
    question: &Question,
) -> Result<Health, ProbeError> {
    let failed = |source| ProbeError::Talk {
        address: address.to_owned(),
        source,
    };
    let nonsense = |fault: String| ProbeError::Answer {
        address: address.to_owned(),
        fault,
    };
    let name = ServerName::try_from(server_name(cluster)).map_err(|error| failed(io::Error::other(error)))?;
    let expect = Expect::System(Role::Gateway, domain.clone());
    let connector = TlsConnector::from(identity.client_config(&expect, ALPN_PROBE));
    let mut stream = connector.connect(name, stream).await.map_err(failed)?;
    let other = |source| ProbeError::Identity {
        address: address.to_owned(),
        source,
    };
    identity.peer(stream.get_ref().1, Side::Server).map_err(other)?;
    let question = serde_json::to_vec(question).map_err(|error| failed(error.into()))?;
    stream.write_all(&question).await.map_err(failed)?;
    stream.shutdown().await.map_err(failed)?;
    let mut answer = Vec::new();
    let bound = ANSWER_BYTES_MAX as u64 + 1;
    stream.take(bound).read_to_end(&mut answer).await.map_err(failed)?;
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(nonsense(format!("more than {ANSWER_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&answer).map_err(|error| nonsense(format!("what is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_cluster_has_a_name_that_tls_takes() {
        let cluster = ClusterId::parse(&"c".repeat(63)).unwrap();
        ServerName::try_from(server_name(&cluster)).unwrap();
        assert_eq!(
            server_name(&ClusterId::parse("eu-1").unwrap()),
            "probe.eu-1.gateway.isthmus"
        );
    }
}
