//! How a stream to a peer is opened: over gRPC in a daemon, in memory in a simulation.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, future::BoxFuture};
use mesh::{
    identity::{Expect, Identity, Role, TrustDomain},
    net::grpc::{Credentials, MESSAGE_BYTES_MAX, Timeouts, dial},
};
use proto::federation::v1::{PeerMessage, federation_client::FederationClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::server::LEADER;

/// For name, TCP and TLS; a far region needs some round trips.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For the answer to the call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the other side sends.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<PeerMessage, Status>> + Send>>;

/// Why no stream came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// That node does not lead; this address is the leader's.
    Other(String),
    /// The reason in words.
    Failed(String),
}

impl NoStream {
    /// A node's refusal.
    #[must_use]
    pub fn refused(address: &str, status: &Status) -> Self {
        let leader = status.metadata().get(LEADER).and_then(|value| value.to_str().ok());
        match leader {
            Some(leader) => Self::Other(leader.to_owned()),
            None => Self::Failed(format!("{address}: {}", status.message())),
        }
    }
}

/// Opens streams.
pub trait Dial: Send + Sync + 'static {
    /// To the registry of `domain` at `address`. What is put into `out` arrives there in order; the stream ends when either
    /// side drops its end.
    fn open(
        &self,
        address: String,
        domain: TrustDomain,
        out: mpsc::Receiver<PeerMessage>,
    ) -> BoxFuture<'static, Result<Incoming, NoStream>>;
}

/// Over gRPC, as this node.
pub(super) struct Grpc(pub(super) Identity);

impl Dial for Grpc {
    fn open(
        &self,
        address: String,
        domain: TrustDomain,
        out: mpsc::Receiver<PeerMessage>,
    ) -> BoxFuture<'static, Result<Incoming, NoStream>> {
        let credentials = Credentials::from(self.0.clone());
        Box::pin(async move {
            let timeouts = Timeouts {
                connect: CONNECT_TIMEOUT,
                call: None,
            };
            let expect = Expect::System(Role::Registry, domain);
            let channel = dial(&address, &credentials, &expect, timeouts).await;
            let channel = channel.map_err(|error| NoStream::Failed(error.to_string()))?;
            let mut client = FederationClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let call = client.exchange(ReceiverStream::new(out));
            match tokio::time::timeout(CALL_TIMEOUT, call).await {
                Ok(Ok(reply)) => Ok(Box::pin(reply.into_inner()) as Incoming),
                Ok(Err(status)) => Err(NoStream::refused(&address, &status)),
                Err(_) => Err(NoStream::Failed(format!(
                    "{address}: no answer within {CALL_TIMEOUT:?}"
                ))),
            }
        })
    }
}
