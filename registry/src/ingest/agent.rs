//! The streams of workloads and gateways: each is a lease while it is heard. Promises that what a stream registers is the
//! caller's own, that heartbeats stay on this node, and that a stream whose lease moved on is told so. Never withdraws an
//! endpoint itself: see expire.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh::{
    identity::{SpiffeId, system},
    model::{EndpointId, EndpointState, Revision, WireError},
    net::allowance::{Accounts, Bounds, Over},
    quota::Gcra,
    runtime::clock,
};
use proto::registry::v1::{self as pb, agent_message, agent_reply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::{
    admit::{self, Judge},
    lease::{Leases, Term},
};
use crate::{
    api::Error,
    app::Parts,
    catalog::{Command, Lessee, Reply, State, WorkloadLease},
};

/// Answers that may wait for a slow agent; one is enough for an agent that reads.
const REPLIES_MAX: usize = 8;
/// An agent that does not read its answers for so long is gone.
const SEND_WAIT: Duration = Duration::from_secs(5);
/// What an agent that is turned away for the rate of attachments should wait.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// All streams of this node.
pub(crate) struct Agents {
    parts: Arc<Parts>,
    leases: Leases,
    /// Guards the rate of attachments.
    rate: Mutex<Gcra>,
    /// Guards the rates of each caller's attachments.
    attaches: Mutex<Accounts<SpiffeId>>,
    /// Guards the rates of each caller's other changes.
    changes: Mutex<Accounts<SpiffeId>>,
    started: Instant,
    streams: Arc<Semaphore>,
}

/// What comes back to an agent.
pub(crate) type Replies = mpsc::Receiver<Result<pb::AgentReply, Status>>;

impl Agents {
    pub(crate) fn new(parts: Arc<Parts>, leases: Leases) -> Arc<Self> {
        let limits = parts.config.limits;
        let rate = f64::from(limits.attaches_per_second);
        Arc::new(Self {
            leases,
            rate: Mutex::new(Gcra::new(rate, rate)),
            attaches: Mutex::default(),
            changes: Mutex::default(),
            started: clock::now(),
            streams: Arc::new(Semaphore::new(limits.agents)),
            parts,
        })
    }

    /// Serves a stream in a task of its own.
    ///
    /// # Errors
    /// When this node holds as many streams as it may.
    pub(crate) fn accept(
        self: &Arc<Self>,
        caller: Option<SpiffeId>,
        inbound: Streaming<pb::AgentMessage>,
    ) -> Result<Replies, Error> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            self.parts.meters.attaches_refused.increment(1);
            Error::Busy {
                what: "streams of agents",
                bound: self.parts.config.limits.agents,
                wait: BUSY_WAIT,
            }
        })?;
        let (out, replies) = mpsc::channel(REPLIES_MAX);
        let session = Session {
            agents: Arc::clone(self),
            caller,
            out,
            term: None,
            attached_at: Revision(0),
        };
        let stream = session.run(inbound, permit);
        self.parts.tasks.spawn("agent", mesh::runtime::OnExit::Ignore, stream);
        Ok(replies)
    }

    fn take_turn(&self, caller: Option<&SpiffeId>) -> Result<(), Error> {
        let since_start = clock::now().saturating_duration_since(self.started);
        let per_caller = self.parts.config.limits.attaches_per_caller;
        if let Some(caller) = caller {
            let charged = charge(&self.attaches, caller, f64::from(per_caller), 1.0, since_start);
            charged.map_err(|wait| {
                self.parts.meters.attaches_refused.increment(1);
                Error::Limited {
                    what: "attachments a second",
                    bound: per_caller,
                    setting: "limits.attaches_per_caller",
                    wait: wait.max(BUSY_WAIT),
                }
            })?;
        }
        let rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.admit(since_start).map_err(|wait| {
            self.parts.meters.attaches_refused.increment(1);
            Error::Busy {
                what: "attachments per second",
                bound: self.parts.config.limits.attaches_per_second as usize,
                wait: wait.max(BUSY_WAIT),
            }
        })
    }
}

impl Agents {
    /// Waits until a change of this caller is within its rate. Meanwhile its stream is not read: the flood stays with
    /// whoever sends it.
    async fn pace(&self, caller: Option<&SpiffeId>) {
        let Some(caller) = caller else { return };
        let rate = f64::from(self.parts.config.limits.changes_per_caller);
        loop {
            let since_start = clock::now().saturating_duration_since(self.started);
            match charge(&self.changes, caller, rate, 2.0, since_start) {
                Ok(()) => return,
                Err(wait) => {
                    self.parts.meters.changes_delayed.increment(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }
}

/// Charges a caller's account at `rate`, with a burst of so many seconds' worth; else says when to come back.
fn charge(
    accounts: &Mutex<Accounts<SpiffeId>>,
    caller: &SpiffeId,
    rate: f64,
    burst_seconds: f64,
    now: Duration,
) -> Result<(), Duration> {
    let bounds = Bounds {
        per_second: rate,
        burst: rate * burst_seconds,
        held_max: u32::MAX,
    };
    let mut accounts = accounts.lock().unwrap_or_else(PoisonError::into_inner);
    accounts.charge(caller, &bounds, now).map_err(|over| match over {
        Over::Rate { wait } => wait,
        Over::Held => Duration::ZERO,
    })
}

/// One stream.
struct Session {
    agents: Arc<Agents>,
    caller: Option<SpiffeId>,
    out: mpsc::Sender<Result<pb::AgentReply, Status>>,
    /// What the stream stands for, once it has attached.
    term: Option<Term>,
    attached_at: Revision,
}

impl Session {
    async fn run(mut self, inbound: Streaming<pb::AgentMessage>, _permit: OwnedSemaphorePermit) {
        match self.listen(inbound).await {
            Ok(()) => debug!(lease = ?self.term, "agent's stream ended"),
            Err(error) => {
                info!(lease = ?self.term, caller = ?self.caller, %error, "agent's stream closed");
                // An agent that is gone needs no reason.
                let _ = self.out.send_timeout(Err(error.into()), SEND_WAIT).await;
            }
        }
        // The lease lives on: it lapses when it was not heard for its time, here or anywhere.
    }

    async fn listen(&mut self, mut inbound: Streaming<pb::AgentMessage>) -> Result<(), Error> {
        let agents = Arc::clone(&self.agents);
        let (stop, ttl) = (agents.parts.tasks.stop(), agents.parts.config.lease.ttl);
        loop {
            let message = tokio::select! {
                biased; // a stop outranks: the agent can attach elsewhere at once
                () = stop.ordered() => return Err(Error::Stopping),
                message = tokio::time::timeout(ttl, inbound.message()) => message,
            };
            let message = match message {
                Err(_) => return Err(Error::Silent(ttl)),
                // Broken or closed by the agent: both are the end, and nobody is left to tell.
                Ok(Err(_) | Ok(None)) => return Ok(()),
                Ok(Ok(Some(message))) => message,
            };
            if let Some(term) = &self.term {
                agents.leases.heard(term, clock::now().into_std());
            }
            let last = matches!(message.kind, Some(agent_message::Kind::Detach(_)));
            let reply = Box::pin(self.hear(message)).await?;
            let reply = pb::AgentReply { kind: Some(reply) };
            if self.out.send_timeout(Ok(reply), SEND_WAIT).await.is_err() || last {
                return Ok(());
            }
        }
    }

    async fn hear(&mut self, message: pb::AgentMessage) -> Result<agent_reply::Kind, Error> {
        use agent_message::Kind;
        match message.kind {
            Some(Kind::Attach(workload)) => {
                let lease = self.judge(|judge| judge.workload(workload, |_| random_endpoint_id()))?;
                self.attach_workload(lease).await
            }
            Some(Kind::Gateway(gateway)) => {
                let lease = self.judge(|judge| judge.gateway(gateway))?;
                let lessee = Lessee::Gateway(lease.gateway.id.clone());
                self.attach(lessee, Command::AttachGateway(Box::new(lease))).await
            }
            Some(Kind::Heartbeat(heartbeat)) => {
                self.check_lease()?;
                let share = self.confirm(&heartbeat);
                Ok(agent_reply::Kind::Heartbeat(pb::Heartbeat {
                    share,
                    ..pb::Heartbeat::default()
                }))
            }
            Some(Kind::State(change)) => {
                self.agents.pace(self.caller.as_ref()).await;
                self.set_state(admit::state(change.state)).await
            }
            Some(Kind::Detach(_)) => self.detach().await,
            None => Err(WireError::new("kind", "is missing or of a newer version").into()),
        }
    }

    fn judge<T>(&self, judge: impl FnOnce(&Judge<'_>) -> Result<T, admit::Turned>) -> Result<T, Error> {
        let parts = &self.agents.parts;
        let gateway = system::gateway(&parts.trust_domain);
        let judged = judge(&Judge {
            caller: self.caller.as_ref(),
            region: &parts.config.region,
            trust_domain: &parts.trust_domain,
            gateway: &gateway,
            holder: parts.node,
            counts: parts.config.limits.counts(),
        });
        judged.map_err(|turned| {
            parts.meters.attaches_refused.increment(1);
            turned.into()
        })
    }

    async fn attach_workload(&mut self, mut lease: WorkloadLease) -> Result<agent_reply::Kind, Error> {
        let state = self.agents.parts.replica.state();
        if let Some(known) = state.workload(&lease.id) {
            if known.lease.identity != lease.identity {
                self.agents.parts.meters.attaches_refused.increment(1);
                return Err(admit::Turned::NotYours {
                    caller: lease.identity,
                    what: format!("workload {}", lease.id),
                    hint: format!("that id belongs to {}; choose another id", known.lease.identity),
                }
                .into());
            }
            for service in &mut lease.services {
                if let Some(same) = known.lease.services.iter().find(|known| known.name == service.name) {
                    service.endpoint = same.endpoint.clone();
                }
            }
        }
        let lessee = Lessee::Workload(lease.id.clone());
        self.attach(lessee, Command::AttachWorkload(Arc::new(lease))).await
    }

    async fn attach(&mut self, lessee: Lessee, command: Command) -> Result<agent_reply::Kind, Error> {
        if let Some(term) = &self.term
            && term.lessee != lessee
        {
            return Err(WireError::new(
                "attach.id",
                "a stream stands for one workload or gateway; open another one",
            )
            .into());
        }
        self.agents.take_turn(self.caller.as_ref())?;
        let parts = &self.agents.parts;
        let began = clock::now();
        let committed = parts.propose(command).await?;
        let Reply::Attached { epoch, endpoints } = committed.reply else {
            return Err(Error::Unexpected);
        };
        parts.meters.attached.increment(1);
        parts
            .meters
            .attach
            .record(clock::now().saturating_duration_since(began).as_secs_f64());
        let term = Term { lessee, epoch };
        self.agents.leases.heard(&term, clock::now().into_std());
        self.term = Some(term);
        self.attached_at = committed.revision;
        Ok(agent_reply::Kind::Attached(pb::Attached {
            lease_ttl_ms: u64::try_from(parts.config.lease.ttl.as_millis()).unwrap_or(u64::MAX),
            endpoint_ids: endpoints.iter().map(ToString::to_string).collect(),
            revision: committed.revision.0,
        }))
    }

    /// Whether the lease is still this stream's, as far as this node has applied the log.
    fn check_lease(&self) -> Result<(), Error> {
        let term = self.term()?;
        let parts = &self.agents.parts;
        if parts.replica.position().revision < self.attached_at {
            return Ok(()); // This node has not applied the attachment itself yet.
        }
        match epoch(&parts.replica.state(), &term.lessee) {
            Some(epoch) if epoch == term.epoch => Ok(()),
            Some(_) | None => {
                self.agents.leases.forget(term);
                Err(Error::LeaseGone(name(&term.lessee)))
            }
        }
    }

    /// Confirms a workload's share of its tenant's rate, if it is known to be in force and the lease to be this stream's.
    fn confirm(&self, heartbeat: &pb::Heartbeat) -> Option<pb::ShareConfirmation> {
        let Term {
            lessee: Lessee::Workload(workload),
            epoch,
        } = self.term.as_ref()?
        else {
            return None;
        };
        let parts = &self.agents.parts;
        // One state for all: a later one may not count the workload any more.
        let state = parts.replica.state();
        let hold = state.workload(workload).filter(|hold| hold.epoch == *epoch)?;
        let who = (workload, &hold.lease.namespace);
        parts
            .desk
            .heard(&state, who, heartbeat, clock::now(), parts.clock().wall())
    }

    fn term(&self) -> Result<&Term, Error> {
        let missing = || WireError::new("kind", "must be attach or gateway in the first message").into();
        self.term.as_ref().ok_or_else(missing)
    }

    async fn set_state(&self, state: EndpointState) -> Result<agent_reply::Kind, Error> {
        let Term { lessee, epoch } = self.term()?.clone();
        let command = match lessee {
            Lessee::Workload(workload) => Command::SetWorkloadState { workload, epoch, state },
            Lessee::Gateway(gateway) => Command::SetGatewayState { gateway, epoch, state },
        };
        let committed = self.agents.parts.propose(command).await?;
        Ok(agent_reply::Kind::CommittedRevision(committed.revision.0))
    }

    async fn detach(&self) -> Result<agent_reply::Kind, Error> {
        let term = self.term()?.clone();
        let command = Command::Detach {
            lessee: term.lessee.clone(),
            epoch: term.epoch,
        };
        let committed = self.agents.parts.propose(command).await?;
        self.agents.leases.forget(&term);
        Ok(agent_reply::Kind::CommittedRevision(committed.revision.0))
    }
}

/// The current epoch of a lease; none = it is over.
pub(super) fn epoch(state: &State, lessee: &Lessee) -> Option<u64> {
    match lessee {
        Lessee::Workload(id) => state.workload(id).map(|hold| hold.epoch),
        Lessee::Gateway(id) => state.gateway_lease(id).map(|hold| hold.epoch),
    }
}

fn name(lessee: &Lessee) -> String {
    match lessee {
        Lessee::Workload(id) => format!("workload {id}"),
        Lessee::Gateway(id) => format!("gateway {id}"),
    }
}

/// 64 random bits: unique in the mesh without asking anybody.
fn random_endpoint_id() -> EndpointId {
    let text = format!("ep-{:016x}", fastrand::u64(..));
    EndpointId::parse(&text).expect("three letters and 16 digits are an RFC 1123 label")
}
