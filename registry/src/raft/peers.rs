//! The other nodes as this one reaches them: one channel each. Promises that a call never waits for more than its own
//! timeout, and that dialling goes on when the caller that began it has given up.

use std::{
    collections::BTreeMap,
    error::Error as _,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use mesh::{
    identity::{Expect, Identity, Role},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
    runtime::{Backoff, OnExit, Tasks, clock},
};
use proto::raft::v1::{Payload, raft_client::RaftClient};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};
use tonic::{Response, Status, transport::Channel};

use super::{
    Node,
    state_machine::Applied,
    type_config::{any, decode, encode},
    wire::{Answer, Envelope},
};

/// For name, TCP and TLS of one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts to connect: a node that restarts is back within the first, a dead one is not hammered.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Client = RaftClient<Channel>;
/// Connects to an address.
type Dial = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Channel, grpc::DialError>> + Send + Sync>;

/// Why a peer did not answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// It has not seen the request.
    #[error("node {id} at {address} is not reachable: {reason}")]
    NotSent { id: u64, address: String, reason: String },
    /// It may have acted on the request.
    #[error("node {id} at {address} did not answer: {reason}")]
    Lost { id: u64, address: String, reason: String },
    /// It answered that this node is no member.
    #[error("node {id} says that this node was removed from the region")]
    Removed { id: u64 },
}

/// Who is called how.
pub(crate) struct Peers {
    me: u64,
    dial: Dial,
    tasks: Tasks,
    applied: Applied,
    begun: Instant,
    /// Guards the table only; never held over a wait.
    table: Mutex<BTreeMap<u64, Arc<Peer>>>,
    removed: watch::Sender<bool>,
}

/// One of them.
pub(crate) struct Peer {
    id: u64,
    address: String,
    link: watch::Sender<Link>,
    /// Guards the count of failed dials only.
    backoff: Mutex<Backoff>,
    /// When it last answered, in milliseconds since the start plus one; zero = never.
    heard: AtomicU64,
}

#[derive(Clone)]
enum Link {
    Down { retry_at: Instant, reason: String },
    Dialling,
    Up(Client),
}

impl Peers {
    pub(crate) fn new(me: u64, identity: Identity, applied: Applied, tasks: Tasks) -> Self {
        let dial: Dial = Arc::new(move |address| {
            let identity = identity.clone();
            Box::pin(async move {
                let expect = Expect::System(Role::Registry, identity.trust_domain());
                let timeouts = Timeouts {
                    connect: CONNECT_TIMEOUT,
                    call: None, // each call has its own
                };
                grpc::dial(&address, &Credentials::from(identity), &expect, timeouts).await
            })
        });
        Self {
            me,
            dial,
            tasks,
            applied,
            begun: clock::now(),
            table: Mutex::default(),
            removed: watch::Sender::new(false),
        }
    }

    /// The peer at its newest address.
    pub(crate) fn peer(&self, id: u64, node: &Node) -> Arc<Peer> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = table.get(&id).filter(|peer| peer.address == node.raft_address) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer {
            id,
            address: node.raft_address.clone(),
            link: watch::Sender::new(Link::Down {
                retry_at: clock::now(),
                reason: String::new(),
            }),
            backoff: Mutex::new(Backoff::new(REDIAL.0, REDIAL.1)),
            heard: AtomicU64::new(0),
        });
        table.insert(id, Arc::clone(&peer));
        peer
    }

    /// Forgets whoever is no member.
    pub(crate) fn retain(&self, keep: impl Fn(u64) -> bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|id, _| keep(*id));
    }

    /// How long ago a peer last answered.
    pub(crate) fn heard(&self, id: u64) -> Option<Duration> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let at = table.get(&id)?.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.begun.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    /// Becomes true when a peer proved that this node was removed.
    pub(crate) fn removed(&self) -> &watch::Sender<bool> {
        &self.removed
    }

    /// Calls a method of a peer's Raft service. Give it a timeout.
    pub(crate) async fn call<Q, A, F>(
        &self,
        peer: &Arc<Peer>,
        body: &Q,
        method: impl FnOnce(Client, Payload) -> F + Send,
    ) -> Result<A, CallError>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
        F: Future<Output = Result<Response<Payload>, Status>> + Send,
    {
        let client = self.client(peer).await?;
        let request = self.request(peer, body)?;
        let reply = method(client, request).await.map_err(|status| peer.failed(&status))?;
        let at = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        peer.heard.store(at + 1, Ordering::Relaxed);
        let decoded = decode("answer", &reply.into_inner().body);
        match decoded.map_err(|error| peer.lost(any(&error).to_string()))? {
            Answer::Body(body) => Ok(body),
            Answer::Removed => {
                self.removed.send_replace(true);
                Err(CallError::Removed { id: peer.id })
            }
        }
    }

    fn request<Q: Serialize>(&self, peer: &Peer, body: &Q) -> Result<Payload, CallError> {
        let local = self.applied.load();
        let envelope = Envelope {
            group: local.state.incarnation(),
            from: self.me,
            to: peer.id,
            members_at: local.membership.log_id().map(|log_id| log_id.index),
            body,
        };
        let bytes = encode("request", &envelope).map_err(|error| peer.not_sent(any(&error).to_string()))?;
        Ok(Payload { body: bytes.into() })
    }

    async fn client(&self, peer: &Arc<Peer>) -> Result<Client, CallError> {
        let mut link = peer.link.subscribe();
        let begin = peer.link.send_if_modified(|link| match link {
            Link::Down { retry_at, .. } if *retry_at <= clock::now() => {
                *link = Link::Dialling;
                true
            }
            _ => false,
        });
        if begin {
            let (dial, dialled) = (Arc::clone(&self.dial), Arc::clone(peer));
            // A task of its own, because the caller's timeout is shorter than a handshake on a busy machine.
            self.tasks.spawn("raft-dial", OnExit::Ignore, dialled.connect(dial));
        }
        let settled = link.wait_for(|link| !matches!(link, Link::Dialling)).await;
        match settled.as_deref() {
            Ok(Link::Up(client)) => Ok(client.clone()),
            Ok(Link::Down { reason, .. }) => Err(peer.not_sent(reason.clone())),
            Ok(Link::Dialling) | Err(_) => Err(peer.not_sent("stopped".to_owned())),
        }
    }
}

impl Peer {
    /// Dials once; until the next attempt is due, callers are told why this one failed.
    async fn connect(self: Arc<Self>, dial: Dial) {
        match dial(self.address.clone()).await {
            Ok(channel) => {
                let client = RaftClient::new(channel)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX);
                self.link.send_replace(Link::Up(client));
            }
            Err(error) => {
                let reason = error.to_string();
                let wait = self.backoff.lock().unwrap_or_else(PoisonError::into_inner).next_wait();
                let retry_at = clock::now() + wait;
                self.link.send_replace(Link::Down { retry_at, reason });
            }
        }
    }

    fn not_sent(&self, reason: String) -> CallError {
        CallError::NotSent {
            id: self.id,
            address: self.address.clone(),
            reason,
        }
    }

    fn lost(&self, reason: String) -> CallError {
        CallError::Lost {
            id: self.id,
            address: self.address.clone(),
            reason,
        }
    }

    fn failed(&self, status: &Status) -> CallError {
        let mut cause = status.source();
        while let Some(error) = cause {
            if error.is::<tonic::ConnectError>() {
                return self.not_sent(any(error).to_string());
            }
            cause = error.source();
        }
        let reason = format!("{:?}: {}", status.code(), status.message());
        match status.code() {
            // Refused before anything was done: see `service`.
            tonic::Code::FailedPrecondition | tonic::Code::PermissionDenied | tonic::Code::ResourceExhausted => {
                self.not_sent(reason)
            }
            _ => self.lost(reason),
        }
    }
}
