//! Watches over leases: those of this node's streams, those that a restart of this node left without one, and, on the
//! leader, those of nodes that are gone. Promises that silence is reported once, after its time, as a proposal that the
//! catalogue may hold back; and that the leader sweeps when something is due.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use mesh::{
    model::{NodeId, Revision, Timestamp},
    runtime::{Stop, clock},
};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info, warn};

use super::{
    agent::epoch,
    lease::{Known, Leases, Orphans, Term},
};
use crate::{
    api,
    catalog::{Command, Lessee, Reply, State},
    metrics::Meters,
    raft::{NodeStatus, Replica},
};

/// How often the whole catalogue is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What no date announces (definitions that nobody serves) is swept this often.
const SWEEP: Duration = Duration::from_secs(60);
/// Expiries that are under way at once; a batch takes many.
const PROPOSALS_MAX: usize = 64;

/// How long leases live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTimes {
    /// Silence after which a lease lapses.
    pub ttl: Duration,
    /// On top of it when the node that held the stream is gone: agents attach elsewhere meanwhile.
    pub grace: Duration,
}

/// What watching over leases needs of a node.
pub struct Watch {
    /// To propose, and to see what is leased.
    pub replica: Replica,
    /// This node.
    pub node: NodeId,
    /// Those whose streams this node holds.
    pub leases: Leases,
    /// How long they live.
    pub times: LeaseTimes,
    /// The end of watching.
    pub stop: Stop,
}

/// Watches until the stop.
pub async fn watch(watch: Watch, meters: Meters) {
    let expiry = Expiry {
        watch,
        meters,
        orphans: Orphans::default(),
        swept: clock::now(),
    };
    expiry.run().await;
}

/// The task that watches.
struct Expiry {
    watch: Watch,
    meters: Meters,
    orphans: Orphans,
    swept: Instant,
}

impl Expiry {
    async fn run(mut self) {
        let (stop, ttl) = (self.watch.stop.clone(), self.watch.times.ttl);
        let mut tick = tokio::time::interval((ttl / 20).clamp(Duration::from_millis(50), LOOK));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = clock::now();
        loop {
            tokio::select! {
                biased;
                () = stop.ordered() => return,
                _ = tick.tick() => {}
            }
            let now = clock::now();
            let mut due = self.watch.leases.held().due(ttl, now.into_std());
            if now.saturating_duration_since(looked) >= LOOK {
                looked = now;
                due.extend(self.orphans_due());
                self.sweep().await;
            }
            self.report(due).await;
            self.meters.leases_held.set(self.watch.leases.held().len() as f64);
        }
    }

    fn orphans_due(&mut self) -> Vec<Term> {
        let (replica, times) = (&self.watch.replica, self.watch.times);
        let position = replica.position();
        let here = self.watch.node;
        // Only the leader knows who is reachable, and only one node should speak for the absent.
        let present = if position.is_leader {
            Some(present(&replica.nodes()))
        } else {
            None
        };
        let held = self.watch.leases.held();
        let orphan = |known: &Known| {
            if known.holder == here {
                !held.holds(&known.term.lessee)
            } else {
                present.as_ref().is_some_and(|present| !present.contains(&known.holder))
            }
        };
        let state = replica.state();
        self.orphans
            .due(leases(&state), orphan, times.ttl + times.grace, clock::now().into_std())
    }

    async fn report(&self, due: Vec<Term>) {
        if due.is_empty() {
            return;
        }
        let reports = due.into_iter().map(|term| self.lapse(term));
        stream::iter(reports)
            .buffer_unordered(PROPOSALS_MAX)
            .collect::<()>()
            .await;
    }

    async fn lapse(&self, term: Term) {
        let command = Command::Lapse {
            lessee: term.lessee.clone(),
            epoch: term.epoch,
        };
        match self.propose(command).await {
            Ok(revision) => {
                self.watch.leases.forget(&term);
                self.meters.lapses.increment(1);
                let state = self.watch.replica.state();
                let held_back = epoch(&state, &term.lessee) == Some(term.epoch);
                if held_back {
                    self.meters.lapses_held_back.increment(1);
                }
                info!(lessee = ?term.lessee, epoch = term.epoch, %revision, held_back, "lease lapsed");
            }
            // It is proposed again later; meanwhile the endpoint stays.
            Err(error) => warn!(lessee = ?term.lessee, %error, "lapse was not committed"),
        }
    }

    async fn sweep(&mut self) {
        let (replica, now) = (&self.watch.replica, clock::now());
        let overdue = now.saturating_duration_since(self.swept) >= SWEEP;
        if !replica.position().is_leader || !(overdue || sweep_is_due(&replica.state(), replica.clock().wall())) {
            return;
        }
        self.swept = now;
        if let Err(error) = self.propose(Command::Sweep).await {
            warn!(%error, "sweep was not committed");
        }
    }

    async fn propose(&self, command: Command) -> Result<Revision, api::Error> {
        let committed = self.watch.replica.propose(command).await?;
        match committed.reply {
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Ok(committed.revision),
        }
    }
}

/// Nodes that may still hold streams: in doubt a node is present.
fn present(nodes: &[NodeStatus]) -> BTreeSet<NodeId> {
    nodes
        .iter()
        .filter(|node| node.reachable != Some(false))
        .map(|node| node.id)
        .collect()
}

/// All leases that are believed. Those that mass-loss protection holds wait for their agent or an operator.
fn leases(state: &State) -> impl Iterator<Item = Known> {
    let workloads = state
        .workloads()
        .filter(|(_, hold)| !hold.unverified)
        .map(|(id, hold)| Known {
            term: Term {
                lessee: Lessee::Workload(id.clone()),
                epoch: hold.epoch,
            },
            holder: hold.lease.holder,
        });
    let gateways = state
        .gateway_leases()
        .filter(|(_, hold)| !hold.unverified)
        .map(|(id, hold)| Known {
            term: Term {
                lessee: Lessee::Gateway(id.clone()),
                epoch: hold.epoch,
            },
            holder: hold.lease.holder,
        });
    workloads.chain(gateways)
}

/// Whether something has expired that still takes room.
fn sweep_is_due(state: &State, now: Timestamp) -> bool {
    state.drills().any(|drill| !drill.order.is_active(now)) || state.tokens().any(|token| token.expires_at <= now)
}
