//! The tenant's share: what this proxy's workload may spend, charged at the source. A new share is taken over without a
//! fresh burst.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use mesh::{
    model::{Namespace, TenantShare, View},
    ops::Metrics,
    quota::Gcra,
    route::eject::Elapsed,
};
use metrics::Counter;

struct Tenant {
    share: Arc<TenantShare>,
    limiter: Arc<Gcra>,
    refused: Counter,
}

/// Admits requests of one namespace.
#[derive(Default)]
pub(crate) struct Meter {
    tenant: ArcSwapOption<Tenant>,
}

impl Meter {
    /// Takes over the share of a view. One caller at a time.
    pub(crate) fn update(&self, view: &View, namespace: &Namespace, metrics: &Metrics, now: Elapsed) {
        let Some(share) = view.share_of(namespace) else {
            return self.tenant.store(None);
        };
        let current = self.tenant.load();
        let same_tenant = current.as_ref().filter(|current| current.share.tenant == share.tenant);
        if same_tenant.is_some_and(|current| current.share == *share) {
            return;
        }
        let limiter = match same_tenant {
            Some(current) => {
                current.limiter.set(share.rate, share.burst, now);
                Arc::clone(&current.limiter)
            }
            None => Arc::new(Gcra::new(share.rate, share.burst)),
        };
        let refused = metrics.counter(
            "isthmus_quota_refused_total",
            "requests over the tenant's quota",
            &[("tenant", share.tenant.as_str())],
        );
        self.tenant.store(Some(Arc::new(Tenant {
            share: Arc::clone(share),
            limiter,
            refused,
        })));
    }

    /// Admits one request.
    ///
    /// # Errors
    /// When to come again, and whose quota is spent.
    pub(crate) fn admit(&self, now: Elapsed) -> Result<(), (Duration, String)> {
        let tenant = self.tenant.load();
        let Some(tenant) = tenant.as_ref() else { return Ok(()) };
        tenant.limiter.admit(now).map_err(|after| {
            tenant.refused.increment(1);
            (after, tenant.share.tenant.to_string())
        })
    }
}
