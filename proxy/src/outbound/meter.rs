//! The tenant's share: what this proxy's workload may spend, charged at the source. A new share is taken over without a
//! fresh burst; one that is not confirmed any more leaves the floor. The request path reads atomic words only.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use mesh::{
    model::{Namespace, TenantId, View},
    ops::Metrics,
    quota::{Allowance, Confirmed, Gcra, Holder},
    route::eject::Elapsed,
    runtime::clock,
    subscribe::{Confirmation, Spending},
};
use metrics::Counter;

use super::Shared;

struct Tenant {
    id: TenantId,
    limiter: Gcra,
    /// Nanoseconds until which the limiter counts; then the floor does.
    until: AtomicU64,
    floor: Gcra,
    refused: Counter,
}

fn nanos(time: Elapsed) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Tenant {
    fn new(id: TenantId, allowance: &Allowance, metrics: &Metrics, now: Elapsed) -> Self {
        let (rate, burst) = (allowance.rate, allowance.burst);
        let limiter = if allowance.until == Duration::MAX {
            Gcra::new(rate, burst)
        } else {
            // Else every restart would be a burst.
            Gcra::spent(rate, burst, now)
        };
        let refused = metrics.counter(
            "isthmus_quota_refused_total",
            "requests over the tenant's quota",
            &[("tenant", id.as_str())],
        );
        Self {
            limiter,
            until: AtomicU64::new(nanos(allowance.until)),
            floor: Gcra::spent(allowance.floor, 1.0, now),
            refused,
            id,
        }
    }

    fn set(&self, allowance: &Allowance, now: Elapsed) {
        self.limiter.set(allowance.rate, allowance.burst, now);
        self.floor.set(allowance.floor, 1.0, now);
        self.until.store(nanos(allowance.until), Ordering::Relaxed);
    }
}

/// A share that has grown counts at most this much later than it might.
const TICK: Duration = Duration::from_secs(1);

/// Keeps the meter told of confirmations, and of what time alone changes, until the stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.tasks.stop().clone();
    let mut confirmations = shared.meter.spending.confirmations();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased; // a stop outranks
            () = stop.ordered() => return,
            // Its sender lives in the meter.
            Ok(()) = confirmations.changed() => {
                let confirmation = confirmations.borrow_and_update().clone();
                if let Some(confirmation) = confirmation {
                    shared.meter.confirm(confirmation, clock::now(), shared.health.clock.elapsed());
                }
            }
            _ = tick.tick() => shared.meter.tick(shared.health.clock.elapsed()),
        }
    }
}

/// Admits requests of one namespace.
#[derive(Default)]
pub(crate) struct Meter {
    tenant: ArcSwapOption<Tenant>,
    /// Guards what is known of the share; no request waits for it.
    holder: Mutex<Holder>,
    spending: Arc<Spending>,
}

impl Meter {
    pub(crate) fn new(spending: Arc<Spending>) -> Self {
        Self {
            spending,
            ..Self::default()
        }
    }

    /// Takes over the share of a view.
    pub(crate) fn update(&self, view: &View, namespace: &Namespace, metrics: &Metrics, now: Elapsed) {
        let share = view.share_of(namespace);
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        holder.share(share, view.held().incarnation, now);
        let allowance = share.and_then(|share| Some((share.tenant.clone(), holder.allowance(now)?)));
        // The lock is held to the end: limiters are set by one at a time.
        let Some((id, allowance)) = allowance else {
            return self.tenant.store(None);
        };
        match self.tenant.load().as_ref().filter(|tenant| tenant.id == id) {
            Some(tenant) => tenant.set(&allowance, now),
            None => self
                .tenant
                .store(Some(Arc::new(Tenant::new(id, &allowance, metrics, now)))),
        }
    }

    /// Takes over a confirmation that came `now`, at `instant` by the clock that it is dated by.
    fn confirm(&self, confirmation: Confirmation, instant: tokio::time::Instant, now: Elapsed) {
        let left = confirmation.until.saturating_duration_since(instant);
        let confirmed = Confirmed {
            tenant: confirmation.tenant,
            incarnation: confirmation.incarnation,
            epoch: confirmation.epoch,
            member: confirmation.member,
            until: now + left,
        };
        self.with_holder(now, |holder| holder.confirm(confirmed, now));
    }

    /// Takes over what time alone has changed.
    fn tick(&self, now: Elapsed) {
        self.with_holder(now, |_| {});
    }

    fn with_holder(&self, now: Elapsed, change: impl FnOnce(&mut Holder)) {
        let mut holder = self.holder.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut holder);
        if let (Some(tenant), Some(allowance)) = (self.tenant.load().as_ref(), holder.allowance(now)) {
            tenant.set(&allowance, now);
        }
    }

    /// Admits one request.
    ///
    /// # Errors
    /// When to come again, and whose quota is spent.
    pub(crate) fn admit(&self, now: Elapsed) -> Result<(), (Duration, String)> {
        let tenant = self.tenant.load();
        let Some(tenant) = tenant.as_ref() else { return Ok(()) };
        let limiter = if nanos(now) < tenant.until.load(Ordering::Relaxed) {
            &tenant.limiter
        } else {
            &tenant.floor
        };
        match limiter.admit(now) {
            Ok(()) => {
                self.spending.used();
                Ok(())
            }
            Err(after) => {
                tenant.refused.increment(1);
                self.spending.refused();
                Err((after, tenant.id.to_string()))
            }
        }
    }
}
