//! Where a node's proxies hear that their shares are good, and say what they want; and where the leader's steward works.
//!
//! A node confirms only what it knows: once a second it asks for a linearizable read, and what it has applied when the answer
//! comes was in force at some time after the question. A node that is cut off from its leader confirms nothing newer, and
//! its proxies fall to their floors in time. Charges nothing, and never changes the catalogue itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::{
    model::{Namespace, NodeId, TenantId, Timestamp, Usage, WorkloadId},
    ops::Metrics,
    quota::SHARE_TTL,
    runtime::{Stop, clock},
};
use metrics::{Counter, Gauge};
use proto::registry::v1 as pb;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info};

use super::steward::Steward;
use crate::{
    catalog::{Command, State},
    raft::Replica,
};

/// How often the node asks whether it is up to date, gathers demand, and, when it leads, looks after leases.
const TICK: Duration = Duration::from_secs(1);
/// A proxy that said nothing for so long wants nothing.
const SAID_KEPT: Duration = Duration::from_secs(12);
/// Unchanged demand is said again this often: what a node says is forgotten when it is older.
const SAY_AGAIN: Duration = Duration::from_secs(20);
/// Smaller changes are not said: of the demand itself, and requests per second.
const CHANGE_MIN: f64 = 0.2;
const CHANGE_MIN_RATE: f64 = 0.5;
/// Most tenants of one command.
const TENANTS_MAX: usize = 1_000;
/// A proxy cannot want more.
const WANTED_MAX: f64 = 1e7;

/// One node's desk. Clones are the same.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    /// Guards plain tables; held for a lookup, never over an await.
    book: Mutex<Book>,
    meters: Meters,
}

#[derive(Default)]
struct Book {
    /// What this node had applied at some time after this was in force then.
    current_at: Option<Instant>,
    said: BTreeMap<WorkloadId, Said>,
    /// What was committed of it, and when.
    committed: BTreeMap<TenantId, (Usage, Instant)>,
}

struct Said {
    tenant: TenantId,
    usage: Usage,
    at: Instant,
}

struct Meters {
    confirmed: Counter,
    unconfirmed: Counter,
    granted: Counter,
    ended: Counter,
    settled: Counter,
    denied: Counter,
    exposed: Gauge,
}

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.counter(name, help, &[]);
        Self {
            confirmed: counter("isthmus_quota_confirmed_total", "shares confirmed to proxies of this node"),
            unconfirmed: counter(
                "isthmus_quota_unconfirmed_total",
                "shares not confirmed, since this node was not up to date or the lease about to end",
            ),
            granted: counter("isthmus_quota_terms_total", "terms of leases that this leader proposed"),
            ended: counter("isthmus_quota_leases_ended_total", "leases that this leader saw end without renewal"),
            settled: counter("isthmus_quota_leases_settled_total", "smaller leases that all proxies keep to"),
            denied: counter(
                "isthmus_quota_growth_denied_total",
                "looks of this leader at a region that wants more of a tenant's rate than is free, counted once a second",
            ),
            exposed: metrics.gauge(
                "isthmus_quota_exposed_ratio_max",
                "highest part of any tenant's rate that may be spent at this moment, at the leader of its home; never above 1",
                &[],
            ),
        }
    }
}

impl Desk {
    /// A desk that has confirmed nothing yet.
    #[must_use]
    pub fn new(node: NodeId, metrics: &Metrics) -> Self {
        Self {
            inner: Arc::new(Inner {
                node,
                book: Mutex::default(),
                meters: Meters::new(metrics),
            }),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a heartbeat of a workload whose lease is good: notes what it wants, and confirms its share.
    #[must_use]
    pub fn heard(
        &self,
        state: &State,
        (workload, namespace): (&WorkloadId, &Namespace),
        heartbeat: &pb::Heartbeat,
        now: Instant,
        at: Timestamp,
    ) -> Option<pb::ShareConfirmation> {
        let tenant = state.tenant_of(namespace)?;
        let division = state.division(&tenant.id)?;
        let mut book = self.book();
        let sane = |rate: f64| {
            if rate.is_finite() {
                rate.clamp(0.0, WANTED_MAX)
            } else {
                0.0
            }
        };
        let said = Said {
            tenant: tenant.id.clone(),
            usage: Usage {
                used: sane(heartbeat.used),
                refused: sane(heartbeat.refused),
            },
            at: now,
        };
        book.said.insert(workload.clone(), said);
        let current_at = book.current_at;
        drop(book);
        let age = current_at.map(|current_at| now.saturating_duration_since(current_at));
        let valid = validity(state, &tenant.id, at);
        let Some(age) = age.filter(|age| *age < valid) else {
            self.inner.meters.unconfirmed.increment(1);
            return None;
        };
        self.inner.meters.confirmed.increment(1);
        Some(pb::ShareConfirmation {
            tenant: tenant.id.to_string(),
            incarnation: state.incarnation().0,
            epoch: division.epoch,
            member: state.member(workload),
            // Rounded so that rounding never makes a share last longer.
            age_ms: u32::try_from(age.as_millis()).unwrap_or(u32::MAX).saturating_add(1),
            valid_ms: u32::try_from(valid.as_millis()).unwrap_or(u32::MAX),
        })
    }

    /// This node had applied everything that was committed before `asked_at`.
    pub fn is_current(&self, asked_at: Instant) {
        let mut book = self.book();
        book.current_at = book.current_at.max(Some(asked_at));
    }

    /// What is worth a proposal of what this node's proxies want.
    pub fn demand(&self, now: Instant) -> Vec<Command> {
        let mut book = self.book();
        book.said
            .retain(|_, said| now.saturating_duration_since(said.at) < SAID_KEPT);
        let mut sums: BTreeMap<TenantId, Usage> = BTreeMap::new();
        for said in book.said.values() {
            let sum = sums.entry(said.tenant.clone()).or_default();
            sum.used += said.usage.used;
            sum.refused += said.usage.refused;
        }
        for tenant in book.committed.keys() {
            sums.entry(tenant.clone()).or_default();
        }
        let mut changed = Vec::new();
        for (tenant, usage) in sums {
            let (before, since) = book.committed.get(&tenant).copied().unwrap_or((Usage::default(), now));
            let is_again = usage.wanted() > 0.0 && now.saturating_duration_since(since) >= SAY_AGAIN;
            if is_other(before, usage) || is_again {
                if usage.wanted() > 0.0 {
                    book.committed.insert(tenant.clone(), (usage, now));
                } else {
                    book.committed.remove(&tenant);
                }
                changed.push((tenant, usage));
            }
        }
        let node = self.inner.node;
        let commands = changed.chunks(TENANTS_MAX).map(|usage| Command::PutDemand {
            node,
            usage: usage.to_vec(),
        });
        commands.collect()
    }

    /// Looks after quotas until the stop.
    pub async fn run(self, replica: Replica, stop: Stop) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leading: Option<(Steward, Instant)> = None;
        loop {
            tokio::select! {
                biased; // a stop outranks
                () = stop.ordered() => return,
                _ = tick.tick() => {}
            }
            if !(replica.state().leases_quotas() && replica.state().has_quotas()) {
                continue;
            }
            let asked_at = clock::now();
            tokio::select! {
                biased; // a stop outranks
                () = stop.ordered() => return,
                read = replica.linearize() => if read.is_ok() {
                    self.is_current(asked_at);
                },
            }
            let mut commands = self.demand(clock::now());
            if replica.position().is_leader {
                let (steward, since) = leading.get_or_insert_with(|| (Steward::default(), asked_at));
                let (state, at) = (replica.state(), replica.clock().wall());
                let now = clock::now().saturating_duration_since(*since);
                commands.extend(steward.step(&state, at, now));
                self.note(&state, at);
            } else {
                leading = None;
            }
            tokio::select! {
                biased; // a stop outranks
                () = stop.ordered() => return,
                () = self.propose(&replica, commands) => {}
            }
        }
    }

    async fn propose(&self, replica: &Replica, commands: Vec<Command>) {
        let meters = &self.inner.meters;
        for command in commands {
            match &command {
                Command::GrantLeases(terms) => meters.granted.increment(terms.len() as u64),
                Command::EndLease { tenant, epoch, .. } => {
                    info!(%tenant, epoch, "quota lease ends without renewal; the floor is left");
                    meters.ended.increment(1);
                }
                Command::SettleLease { .. } => meters.settled.increment(1),
                _ => {}
            }
            if let Err(error) = replica.propose(command).await {
                // The next tick proposes it again, if it is still so.
                debug!(%error, "quota command was not committed");
                return;
            }
        }
    }

    /// Gauges of the tenants whose home this is.
    fn note(&self, state: &State, at: Timestamp) {
        let Some(own) = state.region() else { return };
        let limited = state.tenants().filter(|tenant| tenant.region == *own);
        let limited = limited.filter(|tenant| tenant.quota.requests_per_second > 0.0);
        let mut highest: f64 = 0.0;
        for tenant in limited {
            let rate = tenant.quota.requests_per_second;
            let exposed = state.exposed(&tenant.id, at);
            highest = highest.max(exposed / rate);
            let mut grants = state.grants_of(&tenant.id);
            let is_short = grants.any(|grant| {
                let wanted = if grant.lease.region == *own {
                    state.demand(&tenant.id).wanted()
                } else {
                    state
                        .report(&tenant.id, &grant.lease.region)
                        .map_or(0.0, |report| report.usage.wanted())
                };
                wanted > grant.lease.total() && exposed >= rate * 0.98
            });
            if is_short {
                self.inner.meters.denied.increment(1);
            }
        }
        self.inner.meters.exposed.set(highest);
    }
}

/// For how long a share is good after it was in force: never beyond the end of the region's lease.
fn validity(state: &State, tenant: &TenantId, at: Timestamp) -> Duration {
    match state.holding(tenant) {
        Some(holding) if !holding.is_over && holding.lease.rate > 0.0 => {
            SHARE_TTL.min(holding.lease.expires_at.since(at))
        }
        _ => SHARE_TTL,
    }
}

fn is_other(before: Usage, after: Usage) -> bool {
    let other = |before: f64, after: f64| {
        let least = (before.max(after) * CHANGE_MIN).max(CHANGE_MIN_RATE);
        (before - after).abs() >= least || ((before > 0.0) != (after > 0.0) && before.max(after) >= 0.05)
    };
    other(before.used, after.used) || other(before.refused, after.refused)
}
