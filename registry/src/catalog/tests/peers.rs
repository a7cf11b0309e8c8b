use mesh::model::{Audience, ImportPolicy, Key, Protocol, Resource, Timestamp};

use super::super::testing::{
    World, bundle, domain, drill, endpoint, export, gateway, id, import, import_set, peer, port, region, service,
    tenant, workload,
};
use crate::catalog::{Command, ImportSet, Reply};

fn with_peers() -> World {
    let mut world = World::new("eu");
    for name in ["us", "ap"] {
        assert_eq!(world.run(Command::PutPeer(peer(name))), Reply::Done);
    }
    world
}

fn us_pay(revision: u64) -> ImportSet {
    ImportSet {
        services: vec![service("pay.shop", "us")],
        endpoints: vec![endpoint("ep-us", "pay.shop", "us")],
        gateways: vec![gateway("gw-us", "us")],
        ..import_set(revision, true)
    }
}

#[test]
fn an_import_is_visible_here_and_never_exported_again() {
    let mut world = with_peers();
    world.run(export("pay.shop", Audience::Everybody));
    let applied = world.apply(vec![import("us", us_pay(5))]);
    let state = &world.state;
    assert_eq!(state.peer(&region("us")).unwrap().held, Some(import_set(5, true).held));
    assert_eq!(state.imported_endpoint_count(&region("us")), 1);
    assert_eq!(state.service(&id("pay.shop")).unwrap().origins, [region("us")]);
    for key in state.keys() {
        if let Some((resource, _)) = state.exported(&key) {
            assert!(
                !matches!(
                    resource,
                    Resource::Service(_) | Resource::Endpoint(_) | Resource::Gateway(_)
                ),
                "{resource:?} is transit"
            );
        }
    }
    assert!(
        applied
            .changes
            .iter()
            .all(|change| change.audience_before == Audience::Nobody)
    );
}

#[test]
fn what_a_peer_does_not_own_is_dropped_and_counted() {
    let mut world = with_peers();
    world.attach(workload("w1", &["pay.shop"]));
    world.run(import(
        "ap",
        ImportSet {
            endpoints: vec![endpoint("ep-ap", "pay.shop", "ap")],
            tenants: vec![tenant("acme", &["shop"], "ap", 10.0)],
            ..import_set(1, true)
        },
    ));
    let before = world.state.clone();
    let mut impostor = endpoint("ep-x", "pay.shop", "us");
    impostor.identity = id("spiffe://eu.test/ns/shop/sa/pay");
    let mut taken = endpoint("ep-ap", "pay.shop", "us");
    taken.weight = 1;
    let mut order = drill("d1", "us", "eu").order;
    order.origin = id("ap");
    let set = ImportSet {
        services: vec![service("pay.shop", "eu"), service("pay.shop", "ap")],
        endpoints: vec![endpoint("ep-eu", "pay.shop", "eu"), impostor, taken],
        gateways: vec![gateway("gw-eu", "eu")],
        bundles: vec![bundle("eu", 99), bundle("ap", 99)],
        tenants: vec![
            tenant("acme", &["shop"], "us", 1.0),
            tenant("evil", &["shop"], "us", 1.0),
        ],
        overrides: vec![order],
        removed: vec![
            "service/pay.shop".into(),
            "endpoint/pay.shop/ep-w1-pay-shop".into(),
            "endpoint/pay.shop/ep-ap".into(),
            "tenant/acme".into(),
            "bundle/eu.test".into(),
            "nonsense".into(),
        ],
        ..import_set(2, false)
    };
    world.run(import("us", set));
    let after = &world.state;
    assert_eq!(after.peer(&region("us")).unwrap().dropped, 12);
    assert_eq!(before.endpoints, after.endpoints);
    assert_eq!(before.definitions, after.definitions);
    assert_eq!(before.bundles, after.bundles);
    assert_eq!(before.tenants, after.tenants);
    assert_eq!(before.gateways, after.gateways);
    assert_eq!(before.overrides, after.overrides);
}

#[test]
fn a_full_import_takes_away_what_it_does_not_name_but_never_the_bundle() {
    let mut world = with_peers();
    world.run(import("us", us_pay(5)));
    world.run(import(
        "ap",
        ImportSet {
            services: vec![service("cart.shop", "ap")],
            ..import_set(3, true)
        },
    ));
    world.run(import("us", import_set(9, true)));
    let names: Vec<String> = world.state.services().map(|service| service.name.to_string()).collect();
    assert_eq!(names, ["cart.shop"], "another peer's stays");
    assert_eq!(world.state.all_endpoints().count() + world.state.gateways().count(), 0);
    assert!(world.state.bundles.contains_key(&domain("us")));
}

#[test]
fn an_unknown_peer_cannot_send_anything() {
    let mut world = World::new("eu");
    assert_eq!(
        world.refused(import("us", us_pay(1))),
        "peer \"us\" is not known here; list them to see the names"
    );
}

#[test]
fn the_import_policy_decides_what_is_taken() {
    let mut world = with_peers();
    let policy = |names: &[&str]| Command::PutImportPolicy {
        peer: region("us"),
        policy: ImportPolicy::Services(names.iter().map(|name| id(name)).collect()),
    };
    world.run(import("us", us_pay(5)));
    world.run(policy(&["cart.shop"]));
    assert_eq!(world.state.service_count() + world.state.all_endpoints().count(), 0);
    assert_eq!(world.state.gateways().count(), 1, "gateways always come along");
    let held = |world: &World| world.state.peer(&region("us")).unwrap().held;
    assert_eq!(held(&world), None, "a wider policy needs what was not kept");
    world.run(import("us", us_pay(6)));
    assert_eq!(world.state.service_count(), 0);
    assert_eq!(
        world.state.peer(&region("us")).unwrap().dropped,
        0,
        "not taken is not wrong"
    );
    world.run(policy(&["cart.shop", "pay.shop"]));
    world.run(import("us", us_pay(7)));
    assert_eq!(world.state.all_endpoints().count(), 1);
}

#[test]
fn removing_a_peer_removes_all_that_it_gave() {
    let mut world = with_peers();
    let clean = world.state.clone();
    world.run(import(
        "ap",
        ImportSet {
            tenants: vec![tenant("acme", &["shop"], "ap", 10.0)],
            overrides: vec![drill("d1", "us", "ap").order],
            tenant_proxies: Some([(id("acme"), 3)].into()),
            ..us_pay(1)
        },
    ));
    // Nothing of `us` was in it: those records were not the sender's.
    assert_eq!(world.state.service_count(), 0);
    world.run(Command::RemovePeer(region("ap")));
    assert!(!world.state.bundles.contains_key(&domain("ap")));
    assert_eq!(world.state.tenants().count() + world.state.overrides.len(), 0);
    assert_eq!(world.state.region_statuses().count(), 1);
    world.run(Command::PutPeer(peer("ap")));
    assert_eq!(world.state.tenants, clean.tenants);
    assert!(world.refused(Command::RemovePeer(region("sa"))).contains("\"sa\""));
}

#[test]
fn a_peer_has_a_name_and_a_trust_domain_of_its_own() {
    let mut world = with_peers();
    let mut stranger = peer("sa");
    stranger.bundle = mesh::identity::Bundle::new(domain("eu"), id("sa"), 1, vec![]).unwrap();
    let mut liar = peer("sa");
    liar.bundle = bundle("us", 2);
    for (record, reason) in [
        (peer("eu"), "region eu cannot be its own peer"),
        (
            stranger,
            "trust domain eu.test of region sa is already that of region eu",
        ),
        (liar, "region sa sent the bundle of region us"),
    ] {
        let text = world.refused(Command::PutPeer(record));
        assert!(text.starts_with(reason), "{text}");
    }
}

#[test]
fn a_record_that_was_looked_up_before_the_newest_command_undoes_nothing() {
    let mut world = with_peers();
    // What a stream read of its peer, before an operator and an import came between.
    let mut old = peer("us");
    old.addresses = vec!["moved.test:15016".into()];
    let policy = ImportPolicy::Services([id("pay.shop")].into());
    world.run(Command::PutImportPolicy {
        peer: region("us"),
        policy: policy.clone(),
    });
    world.run(import(
        "us",
        ImportSet {
            bundles: vec![bundle("us", 7)],
            ..us_pay(1)
        },
    ));
    let kept = |world: &World| {
        let peer = world.state.peer(&region("us")).unwrap();
        let sequence = world.state.bundles[&domain("us")].sequence();
        (peer.record.import.clone(), peer.record.bundle.sequence(), sequence)
    };
    assert_eq!(world.run(Command::PutPeer(old.clone())), Reply::Done);
    assert_eq!(kept(&world), (policy.clone(), 7, 7));
    let peer = world.state.peer(&region("us")).unwrap();
    assert_eq!((&peer.record.addresses, peer.held.is_some()), (&old.addresses, true));
    // Another life's anchors are taken as they are.
    old.incarnation = mesh::model::Incarnation(old.incarnation.0 + 1);
    world.run(Command::PutPeer(old.clone()));
    let sequence = old.bundle.sequence();
    assert_eq!(kept(&world), (policy, sequence, sequence));
}

#[test]
fn a_peers_newer_bundle_is_taken_and_an_older_one_is_not() {
    let mut world = with_peers();
    for (sequence, kept) in [(3, 3), (2, 3), (4, 4)] {
        world.run(import(
            "us",
            ImportSet {
                bundles: vec![bundle("us", sequence)],
                ..import_set(sequence, false)
            },
        ));
        assert_eq!(world.state.bundles[&domain("us")].sequence(), kept);
        assert_eq!(world.state.peer(&region("us")).unwrap().record.bundle.sequence(), kept);
    }
}

#[test]
fn an_own_service_is_as_old_as_its_export_and_the_oldest_origin_wins() {
    let mut world = with_peers();
    let mut lease = workload("w1", &["pay.shop"]);
    lease.services[0].ports = vec![port("", 80, Protocol::Grpc)];
    world.attach(lease);
    let mut theirs = us_pay(1);
    theirs.services[0].created_at = Timestamp(700);
    world.run(import("us", theirs));
    let winner = |world: &World| world.state.service(&id("pay.shop")).unwrap().ports[0].protocol;
    assert_eq!(
        winner(&world),
        Protocol::Http,
        "defined at 1000 here, exported at 700 there"
    );
    world.run(export("pay.shop", Audience::Everybody));
    assert_eq!(winner(&world), Protocol::Grpc, "exported at 500 here");
    assert_eq!(world.state.conflicts().count(), 1);
    // Replacing the export makes it no younger.
    world.run(Command::PutExport(mesh::model::Export {
        service: id("pay.shop"),
        to: Audience::Nobody,
        created_at: Timestamp(9_000),
    }));
    assert_eq!(world.state.export(&id("pay.shop")).unwrap().created_at, Timestamp(500));
}

#[test]
fn unexporting_tells_only_those_who_saw_it() {
    let mut world = with_peers();
    world.attach(workload("w1", &["pay.shop"]));
    let only_us = super::super::testing::regions(&["us"]);
    world.run(export("pay.shop", only_us.clone()));
    let applied = world.apply(vec![Command::RemoveExport(id("pay.shop"))]);
    assert_eq!(applied.changes.len(), 2);
    assert!(applied.changes.iter().all(|change| change.audience_before == only_us));
    assert_eq!(world.state.audience(&Key::Service(id("pay.shop"))), Audience::Nobody);
    assert!(
        world
            .refused(Command::RemoveExport(id("pay.shop")))
            .contains("pay.shop")
    );
}

#[test]
fn a_delta_that_stands_on_another_position_is_refused() {
    let mut world = with_peers();
    world.run(import("us", us_pay(5)));
    let delta = |base: u64| {
        let set = ImportSet {
            base: Some(import_set(base, false).held),
            ..import_set(9, false)
        };
        import("us", set)
    };
    assert!(
        world
            .refused(delta(4))
            .starts_with("imports from region us are held at another position")
    );
    assert_eq!(world.run(delta(5)), Reply::Done);
    world.run(Command::PutImportPolicy {
        peer: region("us"),
        policy: ImportPolicy::Services([id("cart.shop")].into()),
    });
    assert!(world.refused(delta(9)).contains("ask it for a snapshot"));
}
