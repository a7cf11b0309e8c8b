use std::collections::BTreeSet;

use mesh::model::{Audience, EndpointId, GatewayId, Held, ImportPolicy, Incarnation, Revision, ServiceName, TenantId};
use proptest::prelude::*;

use super::{
    super::testing::{
        World, domain, endpoint, export, gateway, gateway_lease, id, import, import_set, peer, region, regions,
        service, tenant, workload,
    },
    random::commands,
};
use crate::{
    catalog::{Command, Finding, Reply, State, Subject, digest::Part},
    federation::import::sets,
    watch::{History, Moment, Scope},
};

/// Gives `to` all that `from` shows it.
fn carry(from: &World, to: &mut World) {
    let (here, there) = (from.state.region().unwrap().clone(), to.state.region().unwrap().clone());
    let moment = Moment {
        state: std::sync::Arc::new(from.state.clone()),
        revision: Revision(from.revision),
        history: History::new(Revision(from.revision), 1),
    };
    let update = Scope::ExportedTo(there).snapshot(&moment).unwrap();
    let committed = to.state.peer(&here).unwrap().held;
    let owned = to.state.imported_keys(&here);
    for set in sets(&here, update, committed, &owned) {
        assert_eq!(to.run(import(here.as_str(), set)), Reply::Done);
    }
}

fn differing(from: &World, to: &World) -> Vec<&'static str> {
    let (here, there) = (from.state.region().unwrap(), to.state.region().unwrap());
    let takes = &to.state.peer(here).unwrap().record.import;
    let (shown, held) = (from.state.shown_to(there, takes), to.state.held_of(here).unwrap());
    let differ = Part::ALL.into_iter().filter(|part| shown.get(*part) != held.get(*part));
    differ.map(Part::name).collect()
}

fn pair() -> (World, World) {
    let (mut eu, mut us) = (World::new("eu"), World::new("us"));
    eu.run(Command::PutPeer(peer("us")));
    let mut record = peer("eu");
    record.incarnation = Incarnation(7);
    us.run(Command::PutPeer(record));
    (eu, us)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_held_has_the_digest_of_what_is_shown(
        steps in prop::collection::vec(commands(), 1..40),
        some in prop::sample::subsequence(vec!["pay.shop", "cart.shop", "ledger.bank"], 0..=2),
    ) {
        let (mut eu, mut us) = pair();
        for step in steps {
            // The peer itself stays one.
            if !matches!(&step, Command::RemovePeer(gone) if *gone == region("us")) {
                eu.run(step);
            }
        }
        eu.run(Command::PutPeer(peer("us")));
        for policy in [ImportPolicy::All, ImportPolicy::Services(some.iter().map(|name| id(name)).collect())] {
            us.run(Command::PutImportPolicy { peer: region("eu"), policy });
            carry(&eu, &mut us);
            prop_assert_eq!(differing(&eu, &us), Vec::<&str>::new());
        }
    }
}

fn busy() -> (World, World) {
    let (mut eu, mut us) = pair();
    eu.attach(workload("w1", &["pay.shop", "cart.shop"]));
    eu.run(Command::AttachGateway(Box::new(gateway_lease("gw-1", "eu"))));
    eu.run(export("pay.shop", Audience::Everybody));
    eu.run(export("cart.shop", regions(&["us"])));
    eu.run(Command::PutTenant(tenant("acme", &["shop"], "eu", 10.0)));
    carry(&eu, &mut us);
    assert!(differing(&eu, &us).is_empty());
    (eu, us)
}

#[test]
fn every_kind_of_difference_is_seen_and_a_snapshot_mends_it() {
    type Spoil = fn(&mut State);
    let cases: [(&str, Spoil); 6] = [
        ("services", |state| state.spoil_service("pay.shop", "eu")),
        ("endpoints", |state| {
            state.spoil_endpoint("cart.shop", "ep-w1-cart-shop")
        }),
        ("gateways", |state| state.spoil_gateway("gw-1")),
        ("trust bundle", |state| state.spoil_bundle("eu")),
        ("tenants", |state| state.spoil_tenant("acme")),
        ("proxy counts", |state| state.spoil_counts("eu")),
    ];
    for (part, spoil) in cases {
        let (eu, mut us) = busy();
        let sum = us.state.sum();
        spoil(&mut us.state);
        assert_eq!(differing(&eu, &us), [part]);
        assert_ne!(us.state.sum(), sum, "{part}: a replica's digest sees it too");
        assert_eq!(us.run(Command::RepairPeer(region("eu"))), Reply::Done);
        assert_eq!(us.state.peer(&region("eu")).unwrap().held, None, "asks for a snapshot");
        assert_eq!(
            us.state.all_endpoints().count(),
            2,
            "what is here stays in use meanwhile"
        );
        carry(&eu, &mut us);
        assert!(differing(&eu, &us).is_empty(), "{part}");
    }
}

#[test]
fn what_a_peer_may_not_send_is_no_difference_for_ever() {
    let (mut eu, mut us) = busy();
    // Two regions own one namespace: the later one's tenant is not taken.
    us.run(Command::PutTenant(tenant("ours", &["bank"], "us", 1.0)));
    eu.run(Command::PutTenant(tenant("theirs", &["bank"], "eu", 1.0)));
    carry(&eu, &mut us);
    assert!(us.state.tenant(&id("theirs")).is_none());
    assert!(differing(&eu, &us).is_empty(), "sending it again would change nothing");
    let again = State::from_records(us.state.records()).unwrap();
    assert!(again == us.state, "a restart remembers it");
    eu.run(Command::RemoveTenant(id("theirs")));
    carry(&eu, &mut us);
    assert!(differing(&eu, &us).is_empty(), "and it is forgotten with its record");
    // So many that they are not remembered: no digest at all, instead of a wrong one.
    let many = (0..1_001)
        .map(|n| endpoint(&format!("ep-{n}"), "pay.shop", "ap"))
        .collect();
    let set = crate::catalog::ImportSet {
        endpoints: many,
        ..import_set(9, false)
    };
    us.run(import("eu", set));
    assert!(us.state.held_of(&region("eu")).is_none());
    carry(&eu, &mut us);
    assert!(differing(&eu, &us).is_empty(), "a snapshot begins anew");
}

#[test]
fn a_change_costs_no_look_at_the_rest_and_order_does_not_matter() {
    let mut one = World::new("eu");
    let mut other = World::new("eu");
    for name in ["us", "ap"] {
        one.run(Command::PutPeer(peer(name)));
        other.run(Command::PutPeer(peer(name)));
    }
    let set = |names: &[&str]| crate::catalog::ImportSet {
        services: vec![service("pay.shop", "us")],
        endpoints: names.iter().map(|name| endpoint(name, "pay.shop", "us")).collect(),
        gateways: vec![gateway("gw-us", "us")],
        ..import_set(5, false)
    };
    one.run(import("us", set(&["a", "b", "c"])));
    other.run(import("us", set(&["c", "a"])));
    assert_ne!(one.state.sum(), other.state.sum());
    other.run(import("us", set(&["b"])));
    assert_eq!(one.state.sum(), other.state.sum());
    let keys: BTreeSet<_> = one.state.records().map(|(key, _)| key).collect();
    assert_eq!(keys, other.state.records().map(|(key, _)| key).collect());
}

#[test]
fn findings_are_kept_and_end_with_their_peer() {
    let (_, mut us) = busy();
    let subject = Subject::Peer(region("eu"));
    let finding = Finding {
        revision: Revision(5),
        at: mesh::model::Timestamp(9),
        parts: vec![Part::Endpoints],
    };
    let put = |finding: Option<Finding>| Command::PutFinding {
        subject: Subject::Peer(region("eu")),
        finding,
    };
    for node in [2, 10, 9] {
        let subject = Subject::Node(mesh::model::NodeId(node));
        us.run(Command::PutFinding {
            subject,
            finding: Some(finding.clone()),
        });
    }
    let keys: Vec<_> = us.state.records().map(|(key, _)| key).collect();
    assert!(keys.is_sorted());
    us.run(put(Some(finding.clone())));
    assert_eq!(
        us.state.finding(&subject).map(|found| (**found).clone()),
        Some(finding.clone())
    );
    assert!(State::from_records(us.state.records()).unwrap() == us.state);
    us.run(put(None));
    assert!(us.state.finding(&subject).is_none());
    us.run(put(Some(finding)));
    us.run(Command::RemovePeer(region("eu")));
    assert_eq!(us.state.findings().count(), 3, "those of nodes stay");
    assert!(us.refused(put(None)).contains("\"eu\""));
}

#[test]
fn a_restored_peer_replaces_what_its_other_life_showed() {
    let (mut eu, mut us) = busy();
    let snapshot = eu.clone();
    eu.attach(workload("w2", &["pay.shop"]));
    carry(&eu, &mut us);
    assert_eq!(us.state.all_endpoints().count(), 3);
    // The peer begins again from the older snapshot, with another incarnation, and its revisions start lower.
    let mut restored = snapshot;
    restored.state = restored.state.with_incarnation(Incarnation(8));
    restored.revision = 2;
    assert!(State::from_records(restored.state.records()).unwrap() == restored.state);
    let mut record = us.state.peer(&region("eu")).unwrap().record.clone();
    record.incarnation = Incarnation(8);
    us.run(Command::PutPeer(record));
    assert_eq!(
        us.state.peer(&region("eu")).unwrap().held,
        None,
        "the old position is of another life"
    );
    assert_eq!(
        us.state.all_endpoints().count(),
        3,
        "nothing is withdrawn before the snapshot"
    );
    carry(&restored, &mut us);
    assert_eq!(
        us.state.all_endpoints().count(),
        2,
        "what the snapshot does not name is gone"
    );
    let held = us.state.peer(&region("eu")).unwrap().held.unwrap();
    assert_eq!(
        held,
        Held {
            incarnation: Incarnation(8),
            revision: Revision(2)
        }
    );
    assert!(differing(&restored, &us).is_empty());
}

#[test]
fn a_root_changes_in_steps_that_each_leader_takes_once() {
    use crate::catalog::{AuthorityRecord, NextRoot, RotateStep, Stage};
    let mut eu = World::new("eu");
    let next = NextRoot {
        anchor: bundle_anchor(),
        authority: AuthorityRecord {
            chain: vec![vec![9]],
            key: vec![8],
            not_after: mesh::model::Timestamp(5),
        },
    };
    let step = |step: RotateStep| Command::Rotate(Box::new(step));
    assert!(eu.refused(step(RotateStep::Publish)).contains("stage before"));
    eu.run(step(RotateStep::Order));
    assert!(eu.refused(step(RotateStep::Order)).contains("under way"));
    eu.run(step(RotateStep::Make(next.clone())));
    assert!(
        eu.refused(step(RotateStep::Make(next.clone())))
            .contains("stage before")
    );
    assert_eq!(eu.state.own_bundle().unwrap().sequence(), 1, "nobody knows it yet");
    eu.run(step(RotateStep::Publish));
    let stage = eu.state.rotation().unwrap().stage;
    let Stage::Published {
        sequence: 2, revision, ..
    } = stage
    else {
        panic!("{stage:?}")
    };
    assert_eq!(revision, Revision(eu.revision));
    assert_ne!(
        eu.state.authority().unwrap().chain,
        next.authority.chain,
        "the old one still issues"
    );
    eu.run(step(RotateStep::Sign));
    assert_eq!(eu.state.authority().unwrap().chain, next.authority.chain);
    assert!(State::from_records(eu.state.records()).unwrap() == eu.state);
    eu.run(step(RotateStep::Withdraw));
    let own = eu.state.own_bundle().unwrap();
    assert_eq!((own.sequence(), own.anchors().count()), (3, 1));
    assert!(eu.state.rotation().is_none());
}

fn bundle_anchor() -> Vec<u8> {
    use crate::authority::Root;
    let root = Root::create(&region("eu"), &domain("eu"), mesh::runtime::clock::wall()).unwrap();
    root.certificate().to_vec()
}

/// A damaged disk or a fault of a version, as far as a state can tell: the record is another one and the digests follow.
impl State {
    pub(crate) fn spoil(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        *self = Self::from_records(self.records()).unwrap();
    }

    fn spoil_service(&mut self, name: &str, origin: &str) {
        self.spoil(|state| {
            let origins = state.definitions.get_mut(&id::<ServiceName>(name)).unwrap();
            std::sync::Arc::make_mut(origins.get_mut(&region(origin)).unwrap()).headless = true;
        });
    }

    pub(crate) fn spoil_endpoint(&mut self, service: &str, endpoint: &str) {
        self.spoil(|state| {
            let set = state.endpoints.get_mut(&id::<ServiceName>(service)).unwrap();
            std::sync::Arc::make_mut(set.get_mut(&id::<EndpointId>(endpoint)).unwrap()).weight = 7;
        });
    }

    fn spoil_gateway(&mut self, gateway: &str) {
        self.spoil(|state| {
            std::sync::Arc::make_mut(state.gateways.get_mut(&id::<GatewayId>(gateway)).unwrap()).address =
                "other.test:1".into();
        });
    }

    fn spoil_bundle(&mut self, of: &str) {
        self.spoil(|state| {
            let old = state.bundles.get(&domain(of)).unwrap();
            let other = mesh::identity::Bundle::new(domain(of), id(of), old.sequence(), vec![bundle_anchor()]).unwrap();
            state.bundles.insert(domain(of), std::sync::Arc::new(other));
        });
    }

    fn spoil_tenant(&mut self, tenant: &str) {
        self.spoil(|state| {
            std::sync::Arc::make_mut(state.tenants.get_mut(&id::<TenantId>(tenant)).unwrap())
                .quota
                .burst = 77.0;
        });
    }

    fn spoil_counts(&mut self, of: &str) {
        self.spoil(|state| {
            let status = std::sync::Arc::make_mut(state.regions.get_mut(&region(of)).unwrap());
            status.tenant_proxies.insert(id("acme"), 99);
        });
    }
}
