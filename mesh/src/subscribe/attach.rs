//! The lease: one stream to any node of the region's registry keeps a workload or a gateway in the catalogue. When the stream
//! ends it is opened again elsewhere, under the newest definition and state; only going away on purpose detaches.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use metrics::{Counter, Gauge};
use proto::registry::v1::{
    self as pb, agent_message::Kind, agent_reply::Kind as ReplyKind, register_client::RegisterClient,
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use crate::{
    identity::{Expect, Identity, Role},
    model::EndpointState,
    net::grpc::{self, Credentials, DialError, Timeouts},
    ops::Metrics,
    runtime::{Backoff, OnExit, Pending, Ready, Stop, Tasks, clock},
    subscribe::spending::{Rates, Spending},
};

/// Messages that wait to be sent; the node reads them at once or is lost.
const MESSAGES_MAX: usize = 16;
/// Bounds of the heartbeat, whatever lease the node grants.
const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);
/// Where the answers confirm a share, two of them may be lost before it ends.
const HEARTBEAT_OF_SPENDER_MAX: Duration = Duration::from_secs(3);
/// How long going away may take: a stop must not wait for a registry that is gone.
const DETACH_TIMEOUT: Duration = Duration::from_secs(2);

/// How to attach.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of the region's registry nodes.
    pub addresses: Vec<String>,
    /// Waits between attempts, first and longest. Default 100 ms to 5 s.
    pub retry: (Duration, Duration),
    /// For one connection, handshake included. Default 2 s.
    pub connect_timeout: Duration,
    /// For a node's answer to the attachment, which is a commit. Default 5 s: longer than an election.
    pub commit_timeout: Duration,
    /// What a tenant's share is spent by; none for who spends nothing.
    pub spending: Option<Arc<Spending>>,
}

impl Settings {
    /// The defaults.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            retry: (Duration::from_millis(100), Duration::from_secs(5)),
            connect_timeout: Duration::from_secs(2),
            commit_timeout: Duration::from_secs(5),
            spending: None,
        }
    }
}

/// Who holds the lease. The `state` inside is where it begins.
#[derive(Clone, Debug, PartialEq)]
pub enum Lessee {
    /// A proxy with its application.
    Workload(pb::Workload),
    /// An east-west gateway.
    Gateway(pb::Gateway),
}

impl Lessee {
    fn state(&self) -> pb::EndpointState {
        match self {
            Self::Workload(workload) => workload.state(),
            Self::Gateway(gateway) => gateway.state(),
        }
    }

    fn set_state(&mut self, state: pb::EndpointState) {
        match self {
            Self::Workload(workload) => workload.set_state(state),
            Self::Gateway(gateway) => gateway.set_state(state),
        }
    }

    fn with_state(&self, state: pb::EndpointState) -> Self {
        let mut lessee = self.clone();
        lessee.set_state(state);
        lessee
    }

    fn message(self) -> Kind {
        match self {
            Self::Workload(workload) => Kind::Attach(workload),
            Self::Gateway(gateway) => Kind::Gateway(gateway),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    /// Holds the state, too.
    lessee: Lessee,
    detach: bool,
}

/// A lease that is kept. It lives as long as the tasks it was started with, or until it is detached.
#[derive(Debug)]
pub struct Attachment {
    wanted: watch::Sender<Wanted>,
    endpoint_ids: watch::Receiver<Vec<String>>,
    attached: Arc<AtomicBool>,
    detached: Stop,
}

impl Attachment {
    /// Attaches, and again whenever the stream ends. `ready` waits for the first time.
    #[must_use]
    pub fn spawn(
        settings: Settings,
        lessee: Lessee,
        identity: Identity,
        tasks: &Tasks,
        metrics: &Metrics,
        ready: &Ready,
    ) -> Self {
        let (wanted, changes) = watch::channel(Wanted { lessee, detach: false });
        let (ids, endpoint_ids) = watch::channel(Vec::new());
        let (attached, detached) = (Arc::new(AtomicBool::new(false)), Stop::default());
        let keeper = Keeper {
            settings,
            identity,
            changes,
            ids,
            attached: Arc::clone(&attached),
            gauge: metrics.gauge("isthmus_attached", "1 while the registry holds the lease", &[]),
            ended: metrics.counter("isthmus_attach_ended_total", "leases whose stream ended", &[]),
            pending: Some(ready.hold("registered")),
        };
        let (stop, done) = (tasks.stop().clone(), detached.clone());
        tasks.spawn("attachment", OnExit::StopProcess, async move {
            tokio::select! {
                () = stop.ordered() => {}
                () = keeper.run() => {}
            }
            done.order();
            // Detached on purpose: the rest of the process goes on until its stop.
            stop.ordered().await;
        });
        Self {
            wanted,
            endpoint_ids,
            attached,
            detached,
        }
    }

    /// Tells the registry the state, now or as soon as it is attached again. The latest wins.
    pub fn set_state(&self, state: EndpointState) {
        let state = pb::EndpointState::from(state);
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.lessee.state() != state;
            wanted.lessee.set_state(state);
            changed
        });
    }

    /// Changes the definition. Its `state` counts, too.
    pub fn redefine(&self, lessee: Lessee) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.lessee != lessee;
            wanted.lessee = lessee;
            changed
        });
    }

    /// Whether the stream stands and the node answered.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// Ids of the endpoints, in the order of the workload's services; empty before the first attachment.
    #[must_use]
    pub fn endpoint_ids(&self) -> Vec<String> {
        self.endpoint_ids.borrow().clone()
    }

    /// The same, to wait for changes: another registry may name them anew.
    #[must_use]
    pub fn watch_endpoint_ids(&self) -> watch::Receiver<Vec<String>> {
        self.endpoint_ids.clone()
    }

    /// Goes away on purpose: the endpoints are removed at once. Waits at most 2 s; where nobody hears it the lease lapses.
    pub async fn detach(&self) {
        self.wanted.send_modify(|wanted| wanted.detach = true);
        // The lease lapses in any case.
        let _ = tokio::time::timeout(DETACH_TIMEOUT, self.detached.ordered()).await;
    }
}

/// Why a stream ended.
#[derive(Debug, Error)]
enum AttachError {
    #[error("no node of the registry answers: {0}")]
    Dial(#[from] DialError),
    #[error("registry ended the lease ({:?}): {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("registry closed the stream")]
    Closed,
    #[error("registry did not answer in time")]
    Silent,
}

impl From<tonic::Status> for AttachError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

struct Keeper {
    settings: Settings,
    identity: Identity,
    changes: watch::Receiver<Wanted>,
    ids: watch::Sender<Vec<String>>,
    attached: Arc<AtomicBool>,
    gauge: Gauge,
    ended: Counter,
    pending: Option<Pending>,
}

impl Keeper {
    /// Ends once detached.
    async fn run(mut self) {
        let mut backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
        loop {
            if self.changes.borrow().detach {
                return;
            }
            let ended = self.session().await;
            if self.attached.swap(false, Ordering::Relaxed) {
                self.gauge.set(0.0);
                backoff.reset();
            }
            match ended {
                Ok(()) => return,
                Err(error) => {
                    self.ended.increment(1);
                    warn!(%error, "not attached to the registry");
                }
            }
            let detach = self.changes.wait_for(|wanted| wanted.detach);
            if tokio::time::timeout(backoff.next_wait(), detach).await.is_ok() {
                return;
            }
        }
    }

    async fn session(&mut self) -> Result<(), AttachError> {
        let expect = Expect::System(Role::Registry, self.identity.trust_domain());
        let timeouts = Timeouts {
            connect: self.settings.connect_timeout,
            ..Timeouts::default()
        };
        let credentials = Credentials::from(self.identity.clone());
        let channel = grpc::connect_any(&self.settings.addresses, &credentials, &expect, timeouts).await?;
        let mut sent = self.changes.borrow_and_update().lessee.clone();
        let (messages, outgoing) = mpsc::channel(MESSAGES_MAX);
        // The queue is new and its reader lives in the call below.
        let _ = messages.try_send(message(sent.clone().message()));
        let call = async {
            let mut replies = RegisterClient::new(channel)
                .attach(ReceiverStream::new(outgoing))
                .await?
                .into_inner();
            let first = replies.message().await?.ok_or(AttachError::Closed)?;
            Ok::<_, AttachError>((replies, first))
        };
        let timely = tokio::time::timeout(self.settings.commit_timeout, call).await;
        let (mut replies, first) = timely.map_err(|_| AttachError::Silent)??;
        let mut beat = tokio::time::interval(self.heard(first));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let spending = self.settings.spending.clone();
        if spending.is_none() {
            // Nothing waits for the first answer.
            beat.reset();
        }
        let mut rates = Rates::new(spending.as_deref(), clock::now());
        // When the heartbeats were sent that are not answered yet: answers come in order.
        let mut asked: VecDeque<Instant> = VecDeque::new();
        loop {
            let next = tokio::select! {
                reply = replies.message() => {
                    let reply = reply?.ok_or(AttachError::Closed)?;
                    match reply.kind {
                        Some(ReplyKind::Attached(_)) => {
                            beat = tokio::time::interval(self.heard(reply));
                            beat.reset();
                        }
                        Some(ReplyKind::Heartbeat(answer)) => {
                            if let (Some(sent_at), Some(spending), Some(share)) = (asked.pop_front(), &spending, answer.share) {
                                spending.hear(&share, sent_at);
                            }
                        }
                        _ => {}
                    }
                    continue;
                }
                _ = beat.tick() => {
                    let now = clock::now();
                    // Beyond the bound an answer is taken for one to an older heartbeat, which confirms less.
                    if asked.len() < MESSAGES_MAX {
                        asked.push_back(now);
                    }
                    Kind::Heartbeat(rates.heartbeat(spending.as_deref(), now))
                }
                Ok(()) = self.changes.changed() => {
                    let wanted = self.changes.borrow_and_update().clone();
                    if wanted.detach {
                        return self.leave(&messages, replies).await;
                    }
                    let kind = change(&sent, &wanted.lessee);
                    sent = wanted.lessee;
                    kind
                }
            };
            let put = messages.send(message(next));
            let timely = tokio::time::timeout(self.settings.commit_timeout, put).await;
            timely
                .map_err(|_| AttachError::Silent)?
                .map_err(|_| AttachError::Closed)?;
        }
    }

    /// Notes an attachment; gives the time between heartbeats.
    fn heard(&mut self, reply: pb::AgentReply) -> Duration {
        let Some(ReplyKind::Attached(attached)) = reply.kind else {
            return HEARTBEAT_MAX.min(Duration::from_secs(1));
        };
        info!(endpoints = ?attached.endpoint_ids, revision = attached.revision, "attached to the registry");
        self.ids.send_replace(attached.endpoint_ids);
        self.attached.store(true, Ordering::Relaxed);
        self.gauge.set(1.0);
        self.pending = None;
        // A third: two may be lost or late before the lease is.
        let longest = if self.settings.spending.is_some() {
            HEARTBEAT_OF_SPENDER_MAX
        } else {
            HEARTBEAT_MAX
        };
        Duration::from_millis(attached.lease_ttl_ms / 3).clamp(HEARTBEAT_MIN, longest)
    }

    /// Says goodbye and waits until the node has heard it, that is until it ends the stream or commits.
    async fn leave(
        &mut self,
        messages: &mpsc::Sender<pb::AgentMessage>,
        mut replies: tonic::Streaming<pb::AgentReply>,
    ) -> Result<(), AttachError> {
        let put = messages.send(message(Kind::Detach(pb::Detach {})));
        let goodbye = async {
            if put.await.is_err() {
                return;
            }
            while let Ok(Some(reply)) = replies.message().await {
                if matches!(reply.kind, Some(ReplyKind::CommittedRevision(_))) {
                    return;
                }
            }
        };
        // Whoever did not hear it lets the lease lapse.
        let _ = tokio::time::timeout(DETACH_TIMEOUT, goodbye).await;
        Ok(())
    }
}

/// The smallest message that leads from one definition to the other.
fn change(sent: &Lessee, wanted: &Lessee) -> Kind {
    let state = wanted.state();
    if sent.with_state(state) == *wanted {
        Kind::State(pb::StateChange { state: state.into() })
    } else {
        wanted.clone().message()
    }
}

fn message(kind: Kind) -> pb::AgentMessage {
    pb::AgentMessage { kind: Some(kind) }
}
