//! The transport of a daemon: one gRPC channel to each other node. Promises that dialling goes on when the caller that
//! began it has given up, and that a node that is gone is not hammered.

use std::{
    collections::BTreeMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh::{
    identity::{Expect, Identity, Role},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
    runtime::{Backoff, OnExit, Tasks, clock},
};
use proto::raft::v1::{Payload, raft_client::RaftClient};
use tokio::{sync::watch, time::Instant};
use tonic::{Status, transport::Channel};

use super::{
    transport::{Failed, Method, Target, Transport},
    type_config::any,
};

/// For name, TCP and TLS of one connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Between two attempts to connect: a node that restarts is back within the first, a dead one is not hammered.
const REDIAL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

type Client = RaftClient<Channel>;

/// One channel a node.
pub struct Channels {
    identity: Identity,
    tasks: Tasks,
    /// Guards the table only; never held over a wait.
    table: Mutex<BTreeMap<u64, Arc<Line>>>,
}

/// To one node at one address.
struct Line {
    address: String,
    link: watch::Sender<Link>,
    /// Guards the count of failed dials only.
    backoff: Mutex<Backoff>,
}

#[derive(Clone)]
enum Link {
    Down { retry_at: Instant, reason: String },
    Dialling,
    Up(Client),
}

impl Channels {
    /// Dials as this node, in tasks of `tasks`.
    #[must_use]
    pub fn new(identity: Identity, tasks: Tasks) -> Self {
        Self {
            identity,
            tasks,
            table: Mutex::default(),
        }
    }

    /// The line at the node's newest address.
    fn line(&self, to: Target<'_>) -> Arc<Line> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = table.get(&to.id).filter(|line| line.address == to.address) {
            return Arc::clone(line);
        }
        let line = Arc::new(Line {
            address: to.address.to_owned(),
            link: watch::Sender::new(Link::Down {
                retry_at: clock::now(),
                reason: String::new(),
            }),
            backoff: Mutex::new(Backoff::new(REDIAL.0, REDIAL.1)),
        });
        table.insert(to.id, Arc::clone(&line));
        line
    }
}

impl Transport for Channels {
    fn call(&self, to: Target<'_>, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, Failed>> {
        let (line, identity, tasks) = (self.line(to), self.identity.clone(), self.tasks.clone());
        Box::pin(async move {
            let mut client = line.client(identity, &tasks).await?;
            let request = Payload { body: request };
            let reply = match method {
                Method::Append => client.append_entries(request).await,
                Method::Vote => client.vote(request).await,
                Method::Install => client.install_snapshot(request).await,
                Method::Propose => client.propose(request).await,
                Method::ReadIndex => client.read_index(request).await,
            };
            let reply = reply.map_err(|status| failed(&status))?;
            Ok(reply.into_inner().body)
        })
    }

    fn retain(&self, is_member: &dyn Fn(u64) -> bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|id, _| is_member(*id));
    }
}

impl Line {
    async fn client(self: Arc<Self>, identity: Identity, tasks: &Tasks) -> Result<Client, Failed> {
        let mut link = self.link.subscribe();
        let begin = self.link.send_if_modified(|link| match link {
            Link::Down { retry_at, .. } if *retry_at <= clock::now() => {
                *link = Link::Dialling;
                true
            }
            _ => false,
        });
        if begin {
            // A task of its own, because the caller's timeout is shorter than a handshake on a busy machine.
            tasks.spawn("raft-dial", OnExit::Ignore, Arc::clone(&self).connect(identity));
        }
        let settled = link.wait_for(|link| !matches!(link, Link::Dialling)).await;
        match settled.as_deref() {
            Ok(Link::Up(client)) => Ok(client.clone()),
            Ok(Link::Down { reason, .. }) => Err(Failed::NotSent(reason.clone())),
            Ok(Link::Dialling) | Err(_) => Err(Failed::NotSent("stopped".to_owned())),
        }
    }

    /// Dials once; until the next attempt is due, callers are told why this one failed.
    async fn connect(self: Arc<Self>, identity: Identity) {
        let expect = Expect::System(Role::Registry, identity.trust_domain());
        let timeouts = Timeouts {
            connect: CONNECT_TIMEOUT,
            call: None, // each call has its own
        };
        match grpc::dial(&self.address, &Credentials::from(identity), &expect, timeouts).await {
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
}

fn failed(status: &Status) -> Failed {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return Failed::NotSent(any(error).to_string());
        }
        cause = error.source();
    }
    Failed::from(status)
}
