//! The lessor's arithmetic, without a network.

use mesh::model::{QuotaLease, RegionId, TenantId, Timestamp};

use crate::quota::{
    lessor::{Claim, FLOORS, next},
    terms::{Grant, LEASE_TTL, NO_END, SKEW_MAX, Terms},
};

const AT: Timestamp = Timestamp(1_000_000);

fn region(name: &str) -> RegionId {
    RegionId::parse(name).unwrap()
}

fn grant(name: &str, floor: f64, rate: f64) -> Grant {
    let expires_at = if name == "eu" { NO_END } else { AT.plus(LEASE_TTL) };
    Grant {
        known_end: Some(expires_at),
        ..Grant::first(QuotaLease {
            tenant: TenantId::parse("acme").unwrap(),
            region: region(name),
            epoch: 5,
            rate,
            floor,
            expires_at,
        })
    }
}

fn claim<'a>(region: &'a RegionId, wanted: f64, grant: Option<&'a Grant>) -> Claim<'a> {
    Claim {
        region,
        is_home: region.as_str() == "eu",
        is_reachable: true,
        has_proxies: true,
        wanted,
        grant,
    }
}

fn of(terms: &[Terms], region: &RegionId) -> Option<(f64, f64)> {
    let found = terms.iter().find(|terms| terms.region == *region)?;
    Some((found.floor, found.rate + found.floor))
}

fn ask(rate: f64, claims: &[Claim<'_>], at: Timestamp) -> Vec<Terms> {
    next(&TenantId::parse("acme").unwrap(), rate, 0.0, claims, at)
}

#[test]
fn a_new_tenant_is_divided_by_demand_and_everybody_has_a_floor() {
    let (eu, us, ap) = (region("eu"), region("us"), region("ap"));
    let claims = [claim(&eu, 0.0, None), claim(&us, 500.0, None), claim(&ap, 0.0, None)];
    let terms = ask(1000.0, &claims, AT);
    let total: f64 = terms.iter().map(|terms| terms.rate + terms.floor).sum();
    assert!((total - 1000.0).abs() < 1e-6, "{terms:?}");
    for terms in &terms {
        assert!((terms.floor - 1000.0 * FLOORS / 3.0).abs() < 1e-6, "{terms:?}");
    }
    let (_, us) = of(&terms, &us).unwrap();
    assert!(us > 625.0, "what it wants and a quarter more: {us}");
}

#[test]
fn growth_waits_for_the_acknowledgement_of_a_shrink() {
    let (eu, us) = (region("eu"), region("us"));
    let (mut home, away) = (grant("eu", 50.0, 850.0), grant("us", 50.0, 50.0));
    let claims = [claim(&eu, 10.0, Some(&home)), claim(&us, 800.0, Some(&away))];
    let terms = ask(1000.0, &claims, AT);
    assert_eq!(of(&terms, &us), None, "nothing is free");
    let shrunk = terms.iter().find(|terms| terms.region == eu).unwrap();
    home = home.next(shrunk, NO_END, AT);
    let claims = [claim(&eu, 10.0, Some(&home)), claim(&us, 800.0, Some(&away))];
    assert_eq!(ask(1000.0, &claims, AT), [], "proxies may still spend the older terms");
    home = home.heard(&home.lease.clone());
    let claims = [claim(&eu, 10.0, Some(&home)), claim(&us, 800.0, Some(&away))];
    let (_, total) = of(&ask(1000.0, &claims, AT), &us).unwrap();
    assert!(total > 800.0, "{total}");
}

#[test]
fn a_region_that_is_cut_off_keeps_its_lease_for_its_time_and_the_skew_and_then_its_floor() {
    let (eu, us) = (region("eu"), region("us"));
    let (home, away) = (grant("eu", 50.0, 450.0), grant("us", 50.0, 450.0));
    let claims = |reachable: bool| {
        [
            claim(&eu, 2000.0, Some(&home)),
            Claim {
                is_reachable: reachable,
                ..claim(&us, 400.0, Some(&away))
            },
        ]
    };
    let end = AT.plus(LEASE_TTL + SKEW_MAX * 2);
    assert_eq!(ask(1000.0, &claims(false), Timestamp(end.0 - 1)), []);
    let terms = ask(1000.0, &claims(false), end);
    assert_eq!(of(&terms, &us), None);
    let (_, total) = of(&terms, &eu).unwrap();
    assert!((total - 950.0).abs() < 1e-6, "all but the floor: {total}");
}

#[test]
fn terms_stay_while_nobody_is_short_and_are_renewed_when_the_holder_knew_the_last_end() {
    let (eu, us) = (region("eu"), region("us"));
    let (home, mut away) = (grant("eu", 50.0, 450.0), grant("us", 50.0, 450.0));
    for wanted in [0.0, 100.0, 300.0, 390.0] {
        let claims = [claim(&eu, wanted, Some(&home)), claim(&us, 390.0, Some(&away))];
        assert_eq!(ask(1000.0, &claims, AT), [], "{wanted}");
    }
    let later = AT.plus(LEASE_TTL / 2);
    let renewed = {
        let claims = [claim(&eu, 390.0, Some(&home)), claim(&us, 390.0, Some(&away))];
        ask(1000.0, &claims, later)
    };
    assert!(
        renewed.len() == 1 && renewed[0].renews && renewed[0].region == us,
        "{renewed:?}"
    );
    away = away.next(&renewed[0], later.plus(LEASE_TTL), later);
    let claims = [claim(&eu, 390.0, Some(&home)), claim(&us, 390.0, Some(&away))];
    assert_eq!(
        ask(1000.0, &claims, later.plus(LEASE_TTL / 2)),
        [],
        "not heard of the last renewal"
    );
}

#[test]
fn a_lowered_rate_gives_nothing_until_it_is_kept_to() {
    let (eu, us) = (region("eu"), region("us"));
    let (home, away) = (grant("eu", 50.0, 450.0), grant("us", 50.0, 450.0));
    let claims = [claim(&eu, 2000.0, Some(&home)), claim(&us, 2000.0, Some(&away))];
    for terms in ask(100.0, &claims, AT) {
        assert!(terms.rate + terms.floor <= 50.0 + 1e-9, "{terms:?}");
    }
}
