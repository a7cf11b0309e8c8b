//! What one proxy of a tenant may spend: an even part of the mesh-wide quota. Pure.

use crate::model::{Tenant, TenantShare};

/// The share of one of `proxies` live proxies, or none when the tenant's rate is unlimited.
///
/// The rates of all shares add up to the quota. Each burst is at least 1, else a proxy could never send anything: bursts may
/// add up to one request per proxy above the quota's burst.
#[must_use]
pub fn share(tenant: &Tenant, proxies: u32) -> Option<TenantShare> {
    if tenant.quota.requests_per_second == 0.0 {
        return None;
    }
    let proxies = proxies.max(1);
    let parts = f64::from(proxies);
    Some(TenantShare {
        tenant: tenant.id.clone(),
        namespaces: tenant.namespaces.clone(),
        rate: tenant.quota.requests_per_second / parts,
        burst: (tenant.quota.burst / parts).max(1.0),
        proxies,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Quota, RegionId, TenantId};

    fn tenant(requests_per_second: f64, burst: f64) -> Tenant {
        Tenant {
            id: TenantId::parse("acme").expect("valid"),
            namespaces: std::iter::once("shop".parse().expect("valid")).collect(),
            quota: Quota {
                requests_per_second,
                burst,
                ..Quota::default()
            },
            region: RegionId::parse("eu").expect("valid"),
        }
    }

    #[test]
    fn shares_are_even_and_add_up_to_the_quota() {
        for (proxies, rate, burst) in [(0, 90.0, 30.0), (1, 90.0, 30.0), (3, 30.0, 10.0), (90, 1.0, 1.0)] {
            let share = share(&tenant(90.0, 30.0), proxies).expect("limited");
            assert_eq!((share.rate, share.burst), (rate, burst), "{proxies} proxies");
            assert_eq!(share.proxies, proxies.max(1));
        }
    }

    #[test]
    fn an_unlimited_tenant_has_no_share() {
        assert_eq!(share(&tenant(0.0, 30.0), 3), None);
    }
}
