use std::time::Duration;

use super::*;
use crate::{
    identity::{SpiffeId, TrustDomain},
    model::{
        GatewayId, Held, Incarnation, Labels, Namespace, Override, OverrideId, RegionStatus, Resource, Revision,
        ServiceAccount, ServiceName, Update, Zone,
    },
    route::{Explanation, explain},
};

const NOW: Timestamp = Timestamp(1_000_000);

fn region(text: &str) -> RegionId {
    RegionId::parse(text).unwrap()
}

fn account(text: &str) -> SpiffeId {
    let domain = TrustDomain::parse("td").unwrap();
    domain.workload(
        &Namespace::parse("shop").unwrap(),
        &ServiceAccount::parse(text).unwrap(),
    )
}

/// An endpoint in a region (also its cluster) and zone.
fn endpoint(id: &str, place: &str) -> Endpoint {
    let (place, zone) = place.split_once('/').unwrap();
    Endpoint {
        id: EndpointId::parse(id).unwrap(),
        service: ServiceName::parse("pay.shop").unwrap(),
        locality: Locality {
            region: region(place),
            zone: Zone::parse(zone).unwrap(),
        },
        cluster: ClusterId::parse(place).unwrap(),
        address: [10, 0, 0, 1].into(),
        inbound_port: 15006,
        state: EndpointState::Ready,
        weight: 100,
        capacity_rps: 0,
        labels: Labels::default(),
        identity: account("pay"),
        ports: vec![80],
        unverified: false,
        hostname: String::new(),
    }
}

fn gateway(of: &str) -> Resource {
    Resource::Gateway(Gateway {
        id: GatewayId::parse(&format!("gw-{of}")).unwrap(),
        region: region(of),
        cluster: ClusterId::parse(of).unwrap(),
        address: "192.0.2.1:15443".into(),
        state: EndpointState::Ready,
        identity: account("gateway"),
    })
}

fn round_trip(of: &str, millis: u64) -> Resource {
    Resource::Region(RegionStatus {
        region: region(of),
        trust_domain: TrustDomain::parse(of).unwrap(),
        round_trip: Some(Duration::from_millis(millis)),
        heard_at: NOW,
        connected: false,
        tenant_proxies: BTreeMap::new(),
    })
}

/// A drill that is over at this time.
fn drill(of: &str, percent: u8, until: i64) -> Resource {
    Resource::Override(Override {
        id: OverrideId::parse("drill").unwrap(),
        region: region(of),
        percent,
        expires_at: Timestamp(until),
        origin: region(of),
        reason: String::new(),
    })
}

/// A question from eu/a, and what is known.
#[derive(Default)]
struct Case {
    endpoints: Vec<Endpoint>,
    more: Vec<Resource>,
    out: Vec<&'static str>,
    gateways_out: bool,
    ramp: Option<(&'static str, f64)>,
    fresh: Option<(&'static str, f64)>,
    held: Vec<&'static str>,
    steady: f64,
    prefer: Vec<RegionId>,
    region: Option<RegionId>,
    demand: Option<f64>,
}

impl Evidence for Case {
    fn endpoint(&self, id: &EndpointId) -> Standing {
        let left = Duration::from_secs(3);
        let part = |case: &Option<(&str, f64)>| case.filter(|(other, _)| *other == id.as_str()).map(|(_, part)| part);
        if self.out.contains(&id.as_str()) {
            let fault = Fault::Connect;
            return Standing::Out { left, fault };
        }
        if self.held.contains(&id.as_str()) {
            return Standing::Held { left };
        }
        match (part(&self.ramp), part(&self.fresh)) {
            (Some(part), _) => Standing::Ramp(part),
            (_, Some(part)) => Standing::Fresh(part),
            (None, None) => Standing::Up,
        }
    }

    fn gateway(&self, _: &crate::model::GatewayId) -> Standing {
        if self.gateways_out {
            let (left, fault) = (Duration::ZERO, Fault::Connect);
            return Standing::Out { left, fault };
        }
        Standing::Up
    }

    fn steady_weight(&self, tier: &TierKey) -> f64 {
        if *tier == TierKey::Zone { self.steady } else { 0.0 }
    }
}

impl Case {
    fn of(places: &[(&str, &str)]) -> Self {
        Self {
            endpoints: places.iter().map(|(id, place)| endpoint(id, place)).collect(),
            more: vec![gateway("us"), gateway("ap")],
            ..Self::default()
        }
    }

    fn change(mut self, id: &str, change: impl Fn(&mut Endpoint)) -> Self {
        self.endpoints
            .iter_mut()
            .filter(|endpoint| endpoint.id.as_str() == id)
            .for_each(change);
        self
    }

    fn ask<T>(&self, answer: impl Fn(&ServiceName, &Query<'_>) -> T) -> T {
        let service = ServiceName::parse("pay.shop").unwrap();
        let endpoints = self.endpoints.iter().cloned().map(Resource::from);
        let define = Resource::Service(crate::model::Service {
            name: service.clone(),
            ports: Vec::new(),
            virtual_ips: Vec::new(),
            origins: Vec::new(),
            created_at: NOW,
            conflict: String::new(),
            headless: false,
            exported_to: crate::model::Audience::Nobody,
        });
        let view = View::default().updated(Update {
            region: region("eu"),
            held: Held {
                incarnation: Incarnation(1),
                revision: Revision(1),
            },
            full: true,
            upserts: endpoints.chain(self.more.iter().cloned()).chain([define]).collect(),
            removed: Vec::new(),
            committed_at: None,
        });
        let (_, entry) = view.service(&service).unwrap();
        let source = Source {
            locality: Locality {
                region: region("eu"),
                zone: Zone::parse("a").unwrap(),
            },
            cluster: ClusterId::parse("eu").unwrap(),
        };
        let query = Query {
            view: &view,
            entry,
            port: 80,
            region: self.region.as_ref(),
            source: &source,
            prefer: &self.prefer,
            demand_rps: self.demand,
            now: NOW,
        };
        answer(&service, &query)
    }

    fn plan(&self) -> Plan {
        self.ask(|_, query| plan(query, self))
    }

    fn explain(&self) -> Explanation {
        self.ask(|service, query| explain(service, query, self))
    }

    /// `id percent`, in order; those of the plan that get nothing are left out.
    fn shares(&self) -> String {
        let plan = self.plan();
        let sum: f64 = plan.candidates().map(|candidate| candidate.percent).sum();
        assert!(plan.level == Level::Nobody || (sum - 100.0).abs() < 1e-6, "{sum} %");
        let shares = plan.candidates().filter(|candidate| candidate.percent > 0.0);
        let shares: Vec<_> = shares
            .map(|candidate| format!("{} {:.0}", candidate.endpoint.id, candidate.percent))
            .collect();
        shares.join(", ")
    }

    fn order(&self) -> String {
        let plan = self.plan();
        let ids: Vec<_> = plan
            .candidates()
            .map(|candidate| candidate.endpoint.id.to_string())
            .collect();
        ids.join(" ")
    }

    fn reason(&self, id: &str) -> String {
        let explained = self.explain();
        let row = explained.rows.iter().find(|row| row.endpoint.as_str() == id);
        row.unwrap().reason.clone()
    }
}

const SPREAD: [(&str, &str); 5] = [
    ("z", "eu/a"),
    ("r", "eu/b"),
    ("u1", "us/a"),
    ("u2", "us/b"),
    ("p", "ap/a"),
];

#[test]
fn tiers_go_from_near_to_far() {
    let case = Case::of(&SPREAD);
    assert_eq!(case.shares(), "z 100");
    assert_eq!(case.order(), "z r p u1 u2", "peers by name where nothing is measured");
    let mut measured = Case::of(&SPREAD);
    measured.more.extend([round_trip("ap", 200), round_trip("us", 90)]);
    assert_eq!(
        measured.order(),
        "z r u1 u2 p",
        "a broken federation stream changes nothing"
    );
    measured.prefer = vec![region("ap")];
    assert_eq!(measured.order(), "z r p u1 u2", "the policy outranks the round trip");
}

#[test]
fn what_a_tier_cannot_carry_goes_on() {
    let four = [
        ("a", "eu/a"),
        ("b", "eu/a"),
        ("c", "eu/a"),
        ("d", "eu/a"),
        ("u", "us/a"),
    ];
    let with_out = |out: &[&'static str]| {
        let mut case = Case::of(&four);
        case.out = out.to_vec();
        case.shares()
    };
    assert_eq!(with_out(&[]), "a 25, b 25, c 25, d 25");
    assert_eq!(with_out(&["a"]), "b 33, c 33, d 33", "three quarters carry it all");
    assert_eq!(with_out(&["a", "b"]), "c 35, d 35, u 30");
    assert_eq!(with_out(&["a", "b", "c"]), "d 35, u 65");
    assert_eq!(with_out(&["a", "b", "c", "d"]), "u 100");
    assert_eq!(
        with_out(&["a", "b", "c", "d", "u"]),
        "a 25, b 25, c 25, d 25",
        "all out: tried anyway"
    );
}

#[test]
fn states_have_their_rank() {
    let case = |state| Case::of(&[("z", "eu/a"), ("u", "us/a")]).change("z", move |endpoint| endpoint.state = state);
    for (state, order, reason) in [
        (EndpointState::Serving, "u z", "not ready"),
        (EndpointState::Unhealthy, "u z", "health check"),
        (EndpointState::Draining, "u", "draining"),
        (EndpointState::Maintenance, "u", "maintenance"),
    ] {
        let case = case(state);
        assert_eq!(
            (case.shares().as_str(), case.order().as_str()),
            ("u 100", order),
            "{state}"
        );
        assert!(case.reason("z").contains(reason), "{state}: {}", case.reason("z"));
    }
    let last = Case::of(&[("z", "eu/a")]).change("z", |endpoint| endpoint.state = EndpointState::Unhealthy);
    assert_eq!(
        (last.plan().level, last.shares().as_str()),
        (Level::LastResort, "z 100")
    );
    let nobody = Case::of(&[("z", "eu/a")]).change("z", |endpoint| endpoint.state = EndpointState::Draining);
    assert_eq!((nobody.plan().level, nobody.shares().as_str()), (Level::Nobody, ""));
}

#[test]
fn silence_of_the_control_plane_withdraws_nothing() {
    let all = Case::of(&[("a", "eu/a"), ("b", "eu/a"), ("u", "us/a")])
        .change("a", |endpoint| endpoint.unverified = true)
        .change("b", |endpoint| endpoint.unverified = true);
    assert_eq!(all.shares(), "a 50, b 50");
    let four = [
        ("a", "eu/a"),
        ("b", "eu/a"),
        ("c", "eu/a"),
        ("d", "eu/a"),
        ("u", "us/a"),
    ];
    let one = Case::of(&four).change("a", |endpoint| endpoint.unverified = true);
    assert_eq!(one.shares(), "b 33, c 33, d 33", "the verified ones suffice");
    let two = Case::of(&four)
        .change("a", |endpoint| endpoint.unverified = true)
        .change("b", |endpoint| endpoint.unverified = true);
    assert_eq!(two.shares(), "a 25, b 25, c 25, d 25", "they do not");
}

#[test]
fn another_cluster_needs_a_gateway() {
    let mut without = Case::of(&[("u", "us/a")]);
    without.more.clear();
    assert_eq!(without.plan().level, Level::Nobody);
    assert!(without.reason("u").contains("no gateway into cluster us"));
    let mut out = Case::of(&[("z", "eu/a"), ("u", "us/a"), ("p", "ap/a")]);
    (out.out, out.gateways_out) = (vec!["z"], true);
    assert_eq!(out.plan().level, Level::LastResort, "all ways are out");
    assert!(out.reason("u").contains("all gateways into cluster us are ejected"));
    let neighbour = Case::of(&[("u", "us/a")]);
    assert_eq!(
        neighbour.plan().tiers[0].candidates[0].via,
        Via::Gateway(ClusterId::parse("us").unwrap())
    );
    // A second cluster of the own region is near, and behind a gateway all the same.
    let mut near =
        Case::of(&[("n", "eu/a")]).change("n", |endpoint| endpoint.cluster = ClusterId::parse("us").unwrap());
    near.more = vec![gateway("us")];
    let tier = &near.plan().tiers[0];
    assert_eq!(
        (&tier.key, tier.candidates[0].via == Via::Direct),
        (&TierKey::Zone, false)
    );
}

#[test]
fn drills_move_traffic_while_they_last() {
    let with = |percent, until| {
        let mut case = Case::of(&[("z", "eu/a"), ("r", "eu/b"), ("u", "us/a")]);
        case.more.push(drill("eu", percent, until));
        case
    };
    assert_eq!(with(100, NOW.0 + 1).shares(), "u 100");
    assert!(
        with(100, NOW.0 + 1)
            .explain()
            .verdict
            .contains("drill moves 100 % away")
    );
    assert_eq!(with(100, NOW.0).shares(), "z 100", "over, whoever forgot to say so");
    let half = with(50, NOW.0 + 1).plan();
    let far: f64 = half.tiers.last().unwrap().share;
    assert!((0.25..=0.5).contains(&far), "{far}");
    let mut alone = Case::of(&[("z", "eu/a")]);
    alone.more.push(drill("eu", 100, NOW.0 + 1));
    assert_eq!(alone.shares(), "z 100", "nobody else can take it");
}

#[test]
fn what_returns_gets_its_share_step_by_step() {
    let four = [
        ("a", "eu/a"),
        ("b", "eu/a"),
        ("c", "eu/a"),
        ("d", "eu/a"),
        ("u", "us/a"),
    ];
    let mut held = Case::of(&[("z", "eu/a"), ("u", "us/a")]);
    held.held = vec!["z"];
    assert_eq!((held.shares().as_str(), held.order().as_str()), ("u 100", "u z"));
    let mut first = Case::of(&[("a", "eu/a"), ("u", "us/a")]);
    first.steady = 400.0;
    assert_eq!(first.shares(), "a 35, u 65", "one of four is not the whole tier");
    let steady = 25.0;
    for step in 1..=10 {
        let part = f64::from(step) / 10.0;
        let mut case = Case::of(&four);
        (case.out, case.ramp) = (vec!["b", "c", "d"], Some(("a", part)));
        let plan = case.plan();
        let most = plan
            .candidates()
            .filter(|candidate| candidate.tier == TierKey::Zone)
            .map(|c| c.percent);
        assert!(most.fold(0.0, f64::max) <= 1.5 * steady + 1e-9, "part {part}");
    }
    let mut fresh = Case::of(&[("a", "eu/a"), ("b", "eu/a"), ("u", "us/a")]);
    fresh.fresh = Some(("b", 0.25));
    assert_eq!(
        fresh.shares(),
        "a 80, b 20",
        "a newcomer takes nothing away from its tier"
    );
}

#[test]
fn declared_capacity_bounds_a_tier() {
    let case = |demand| {
        let mut case = Case::of(&[("a", "eu/a"), ("u", "us/a")]).change("a", |endpoint| endpoint.capacity_rps = 60);
        case.demand = demand;
        case.shares()
    };
    assert_eq!(case(None), "a 100");
    assert_eq!(case(Some(50.0)), "a 100");
    assert_eq!(case(Some(100.0)), "a 60, u 40");
}

#[test]
fn a_region_name_has_no_failover() {
    let mut case = Case::of(&SPREAD);
    case.region = Some(region("us"));
    assert_eq!(case.shares(), "u1 50, u2 50");
    case.out = vec!["u1", "u2"];
    assert_eq!(case.shares(), "u1 50, u2 50", "nobody else is asked");
    assert!(case.reason("z").contains("region us only"));
}

#[test]
fn every_endpoint_is_explained_once() {
    let mut case = Case::of(&SPREAD).change("p", |endpoint| endpoint.ports = vec![81]);
    case.out = vec!["z"];
    let explained = case.explain();
    assert_eq!(explained.rows.len(), SPREAD.len());
    assert!(case.reason("p").contains("does not serve port 80"));
    assert!(
        case.reason("z")
            .contains("ejected: connecting failed; next trial in 3 s")
    );
    assert!(
        explained.verdict.starts_with("from eu/a: same region 100 %"),
        "{}",
        explained.verdict
    );
    assert!(Case::of(&[]).explain().verdict.contains("has no endpoints"));
}
