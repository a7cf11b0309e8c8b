//! Who gets how much of a tenant's rate: the home region's decision, from what each region wants and what each may still
//! spend. Promises that what it gives, together with all that anybody may still spend by older terms, stays within the rate;
//! that every region gets its floor; and that terms stay as they are while nobody is short. Renews only what the holder has
//! acknowledged, so that a region that is cut off loses its lease. Pure.

use mesh::model::{RegionId, TenantId, Timestamp};

use super::terms::{Grant, LEASE_TTL, NO_END, Terms};

/// Part of the rate that is set aside for floors, all regions together.
pub const FLOORS: f64 = 0.1;
/// A region gets so much more than it wants, where there is enough: demand that grows is not refused at once.
const HEADROOM: f64 = 1.25;
/// Smaller moves than this part of the rate, and than this part of what a region has, are not worth new terms.
const MOVE_MIN: f64 = 0.02;
const MOVE_MIN_OF_OWN: f64 = 0.1;

/// One region that may use the tenant's rate.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim<'a> {
    /// Which.
    pub region: &'a RegionId,
    /// It is the grantor itself.
    pub is_home: bool,
    /// Its stream stands: what is granted now will be heard.
    pub is_reachable: bool,
    /// It has live proxies of the tenant.
    pub has_proxies: bool,
    /// Requests per second that its proxies let through and refused.
    pub wanted: f64,
    /// What it has.
    pub grant: Option<&'a Grant>,
}

impl Claim<'_> {
    /// The most that it may spend. Of a region that cannot be asked and that nothing is known of, its floor is assumed: a
    /// catalogue that was restored may have forgotten it.
    fn exposure(&self, floor: f64, at: Timestamp) -> f64 {
        let unknown = if self.is_reachable { 0.0 } else { floor };
        self.grant.map_or(unknown, |grant| grant.exposure(at))
    }

    /// What it has by the newest terms.
    fn has(&self, at: Timestamp) -> f64 {
        self.grant.map_or(0.0, |grant| grant.lease.floor + grant.rate(at))
    }

    /// Whether new terms may be made: the last ones are known to the holder, or over.
    fn is_open(&self, at: Timestamp) -> bool {
        self.is_reachable
            && self
                .grant
                .is_none_or(|grant| grant.is_acknowledged() || !(self.is_home || grant.is_valid(at)))
    }

    fn terms(&self, tenant: &TenantId, total: f64, floor: f64, renews: bool) -> Terms {
        Terms {
            tenant: tenant.clone(),
            region: self.region.clone(),
            rate: (total - floor).max(0.0),
            floor: floor.min(total),
            base: self.grant.map_or(0, |grant| grant.lease.epoch),
            renews,
        }
    }
}

/// New terms for a tenant. `elsewhere` is what regions may still spend that are no peers any more.
#[must_use]
pub fn next(tenant: &TenantId, rate: f64, elsewhere: f64, claims: &[Claim<'_>], at: Timestamp) -> Vec<Terms> {
    let targets = targets(rate, elsewhere, claims, at);
    let even = rate * FLOORS / count(claims.len());
    let mut free = rate - elsewhere - claims.iter().map(|claim| claim.exposure(even, at)).sum::<f64>();
    let is_short = |(claim, target): (&Claim<'_>, &Option<Target>)| {
        let has = claim.has(at);
        let wants_more = claim.wanted * HEADROOM > has || has == 0.0;
        target
            .as_ref()
            .is_some_and(|target| wants_more && target.total > has + least_move(rate, has))
    };
    // While nobody is short nothing is taken away: what is free is given, and that is all.
    let may_take = free < -rate * 1e-9 || claims.iter().zip(&targets).any(is_short);
    let mut next = Vec::new();
    let mut growing = Vec::new();
    for (claim, target) in claims.iter().zip(&targets) {
        let Some(target) = target else { continue };
        let (has, floor) = (claim.has(at), claim.grant.map_or(0.0, |grant| grant.lease.floor));
        let least = least_move(rate, has);
        let is_floor_other = (target.floor - floor).abs() > target.floor.max(floor) * MOVE_MIN_OF_OWN;
        if !claim.is_open(at) {
            continue;
        }
        if (may_take && target.total < has - least) || (is_floor_other && target.floor < floor && target.total <= has) {
            // Counts as free once the region has acknowledged it.
            next.push(claim.terms(tenant, target.total, target.floor, false));
        } else if target.total > has + least || (is_floor_other && target.floor > floor) {
            growing.push((claim, target, has));
        } else if let Some(grant) = claim.grant.filter(|grant| is_due(grant, at)) {
            next.push(claim.terms(tenant, grant.lease.total(), grant.lease.floor, true));
        }
    }
    // Who has least in proportion is served first: floors before leases.
    growing.sort_by(|one, other| (one.2 / one.1.total).total_cmp(&(other.2 / other.1.total)));
    for (claim, target, has) in growing {
        let total = target.total.min(has + free.max(0.0));
        let is_worth_it = total - has >= rate * MOVE_MIN || total >= target.total || has < target.floor;
        if total > has && is_worth_it {
            free -= total - has;
            next.push(claim.terms(tenant, total, target.floor, false));
        } else if let Some(grant) = claim.grant.filter(|grant| is_due(grant, at)) {
            next.push(claim.terms(tenant, grant.lease.total(), grant.lease.floor, true));
        } else if target.floor.min(has) > claim.grant.map_or(0.0, |grant| grant.lease.floor) * (1.0 + MOVE_MIN_OF_OWN) {
            // Nothing is free, but a larger part of what it has may be for good.
            next.push(claim.terms(tenant, has, target.floor, false));
        }
    }
    next
}

/// Smaller moves are not worth new terms.
fn least_move(rate: f64, has: f64) -> f64 {
    (rate * MOVE_MIN).max(has * MOVE_MIN_OF_OWN)
}

/// Whether a lease is to be prolonged: a third of its time is over, and the holder has heard of the last time.
fn is_due(grant: &Grant, at: Timestamp) -> bool {
    let end = grant.lease.expires_at;
    grant.lease.rate > 0.0
        && end != NO_END
        && grant.known_end == Some(end)
        && at.plus(LEASE_TTL * 2 / 3) >= end
        && grant.is_valid(at)
}

struct Target {
    total: f64,
    floor: f64,
}

/// What each region should have; none for those that cannot hear of it.
fn targets(rate: f64, elsewhere: f64, claims: &[Claim<'_>], at: Timestamp) -> Vec<Option<Target>> {
    let silent = claims.iter().filter(|claim| !claim.is_reachable);
    let even = rate * FLOORS / count(claims.len());
    let held = elsewhere + silent.map(|claim| claim.exposure(even, at)).sum::<f64>();
    let rest = (rate - held).max(0.0);
    let reachable: Vec<&Claim<'_>> = claims.iter().filter(|claim| claim.is_reachable).collect();
    if reachable.is_empty() {
        return claims.iter().map(|_| None).collect();
    }
    let floor = even.min(rest / count(reachable.len()));
    let pool = rest - floor * count(reachable.len());
    let wanted = reachable.iter().map(|claim| (claim.wanted * HEADROOM - floor).max(0.0));
    let mut parts = filled(pool, &wanted.collect::<Vec<_>>());
    let left = (pool - parts.iter().sum::<f64>()).max(0.0);
    let takes_rest: Vec<bool> = if reachable.iter().any(|claim| claim.has_proxies) {
        reachable.iter().map(|claim| claim.has_proxies).collect()
    } else {
        reachable.iter().map(|claim| claim.is_home).collect()
    };
    let takers = takes_rest.iter().filter(|takes| **takes).count();
    for (part, _) in parts.iter_mut().zip(takes_rest).filter(|(_, takes)| *takes) {
        *part += left / count(takers);
    }
    let mut parts = parts.into_iter();
    let target = |claim: &Claim<'_>| {
        let part = if claim.is_reachable { parts.next() } else { None };
        part.map(|part| Target {
            total: floor + part,
            floor,
        })
    };
    claims.iter().map(target).collect()
}

/// Divides a pool so that who wants little gets it, and the others get even parts of the rest.
fn filled(pool: f64, wanted: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|one, other| wanted[*one].total_cmp(&wanted[*other]));
    let (mut parts, mut rest) = (vec![0.0; wanted.len()], pool);
    for (place, index) in order.into_iter().enumerate() {
        let part = wanted[index].min(rest / count(wanted.len() - place));
        parts[index] = part;
        rest -= part;
    }
    parts
}

fn count(len: usize) -> f64 {
    f64::from(u32::try_from(len).unwrap_or(u32::MAX))
}
