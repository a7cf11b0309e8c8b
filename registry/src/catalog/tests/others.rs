use std::{sync::Arc, time::Duration};

use mesh::model::{Incarnation, Key, NodeId, Quota, Timestamp};

use super::super::testing::{
    World, bundle, domain, drill, id, import, import_set, init, peer, region, tenant, workload,
};
use crate::catalog::{Command, Grant, ImportSet, Reply, TokenRecord};

#[test]
fn a_region_is_initialised_once_and_again_only_in_another_life() {
    let mut world = World::new("eu");
    for other in [init("eu", 7), init("us", 8)] {
        assert_eq!(world.refused(other), "region is already initialised");
    }
    assert_eq!(world.run(init("eu", 8)), Reply::Done);
    assert_eq!(world.state.incarnation(), Incarnation(8));
    let mut empty = World::new("eu");
    empty.state = super::super::State::default();
    let text = empty.refused(Command::AttachWorkload(Arc::new(workload("w1", &[]))));
    assert!(text.starts_with("region is not initialised"), "{text}");
}

#[test]
fn node_ids_begin_behind_the_first_node_and_never_come_again() {
    let mut world = World::new("eu");
    for node in 2..5 {
        assert_eq!(world.run(Command::AllocateNode), Reply::Node(NodeId(node)));
    }
}

#[test]
fn a_namespace_has_one_tenant() {
    let mut world = World::new("eu");
    world.run(Command::PutTenant(tenant("acme", &["shop", "bank"], "eu", 10.0)));
    let other = Command::PutTenant(tenant("other", &["bank"], "eu", 10.0));
    assert_eq!(
        world.refused(other.clone()),
        "namespace bank belongs to tenant acme and cannot belong to other too"
    );
    world.run(Command::PutTenant(tenant("acme", &["shop"], "eu", 10.0)));
    assert_eq!(world.run(other), Reply::Done, "the namespace was given up");
    let foreign = Command::PutTenant(tenant("mine", &[], "us", 10.0));
    assert_eq!(
        world.refused(foreign),
        "tenant mine belongs to region us; change it there"
    );
    world.run(Command::RemoveTenant(id("acme")));
    assert!(world.state.tenant_of(&id("shop")).is_none());
}

#[test]
fn limits_count_what_is_added() {
    let mut world = World::new("eu");
    let mut limited = tenant("acme", &["shop"], "eu", 0.0);
    limited.quota = Quota {
        services: 2,
        endpoints: 3,
        ..Quota::default()
    };
    world.run(Command::PutTenant(limited));
    world.attach(workload("w1", &["pay.shop", "cart.shop"]));
    let text = world.refused(Command::AttachWorkload(Arc::new(workload("w2", &["new.shop"]))));
    assert_eq!(text, "tenant acme has reached its quota of 2 services");
    world.attach(workload("w2", &["pay.shop"]));
    let text = world.refused(Command::AttachWorkload(Arc::new(workload("w3", &["pay.shop"]))));
    assert_eq!(text, "tenant acme has reached its quota of 3 endpoints");
    world.attach(workload("w3", &[]));
    world.attach(workload("w1", &["pay.shop", "cart.shop"]));
}

#[test]
fn shares_follow_every_live_proxy_and_the_regions_lease() {
    let mut world = World::new("eu");
    world.run(Command::PutPeer(peer("us")));
    world.run(Command::PutTenant(tenant("acme", &["shop"], "eu", 60.0)));
    let rate = |world: &World| {
        let share = world.state.share(&id("acme")).unwrap();
        ((share.rate * 1_000.0).round() / 1_000.0, share.proxies)
    };
    // Half of the rate, of which an eighth of the floor is set aside.
    assert_eq!(rate(&world), (29.625, 1), "no proxy yet");
    let share = Key::Share(id("acme"));
    let attach = |name: &str| Command::AttachWorkload(Arc::new(workload(name, &[])));
    let applied = world.apply(vec![attach("w1"), attach("w2")]);
    assert!(applied.changes.iter().any(|change| change.key == share));
    assert_eq!(rate(&world), (14.813, 2));
    let applied = world.apply(vec![import(
        "us",
        ImportSet {
            tenant_proxies: Some([(id("acme"), 4)].into()),
            ..import_set(1, false)
        },
    )]);
    assert!(
        applied.changes.iter().all(|change| change.key != share),
        "proxies elsewhere spend another lease"
    );
    let tenant_of = world.state.tenant(&id("acme")).unwrap();
    assert_eq!(
        (
            world.state.proxies_here(tenant_of),
            world.state.proxies_everywhere(tenant_of)
        ),
        (2, 6)
    );
    let applied = world.apply(vec![Command::PutTenant(tenant("acme", &["shop"], "eu", 15.0))]);
    assert!(applied.changes.iter().any(|change| change.key == share));
    assert_eq!(rate(&world), (7.313, 2), "never above the tenant's rate");
    let applied = world.apply(vec![attach("w1")]);
    assert!(
        applied.changes.iter().all(|change| change.key != share),
        "the count is the same"
    );
}

#[test]
fn tokens_are_used_up_expire_and_may_be_for_one_region() {
    let mut world = World::new("eu");
    let token = |digest: u8, grant: Grant, uses| {
        Command::PutToken(TokenRecord {
            digest: [digest; 32],
            grant,
            expires_at: Timestamp(5_000),
            uses,
        })
    };
    let redeem = |digest: u8, by: Option<&str>| Command::RedeemToken {
        digest: [digest; 32],
        region: by.map(region),
    };
    world.run(token(1, Grant::Node, 2));
    let for_us = Grant::Peer {
        for_region: Some(region("us")),
    };
    world.run(token(2, for_us.clone(), 1));
    world.run(token(3, Grant::Node, 1));
    assert!(world.refused(token(1, Grant::Node, 2)).starts_with("token was already"));
    for _ in 0..2 {
        assert_eq!(world.run(redeem(1, None)), Reply::Granted(Grant::Node));
    }
    let unknown = "token is not known, or used up; ask for a new one";
    assert_eq!(world.refused(redeem(1, None)), unknown);
    assert_eq!(world.refused(redeem(9, None)), unknown);
    for by in [None, Some("ap")] {
        assert_eq!(
            world.refused(redeem(2, by)),
            "token is for region us only; ask for a new one"
        );
    }
    assert_eq!(world.run(redeem(2, Some("us"))), Reply::Granted(for_us));
    world.at = 5_000;
    assert_eq!(world.refused(redeem(3, None)), "token is expired; ask for a new one");
    world.run(Command::Sweep);
    assert_eq!(world.state.tokens().count(), 0);
}

#[test]
fn a_drill_is_a_lease_that_ends_by_itself() {
    let mut world = World::new("eu");
    let Reply::Drill(begun) = world.run(Command::StartDrill(drill("d1", "us", "eu"))) else {
        panic!("begun")
    };
    assert_eq!(begun.order.expires_at, Timestamp(16_000), "one lease");
    let again = Command::StartDrill(drill("d2", "us", "eu"));
    assert!(
        world
            .refused(again.clone())
            .starts_with("region us is already evacuated by drill d1 of region eu")
    );
    assert!(
        world
            .refused(Command::StartDrill(drill("d3", "us", "ap")))
            .contains("belongs to region ap")
    );
    world.at = 10_000;
    let Reply::Drill(renewed) = world.run(Command::RenewDrill(id("d1"))) else {
        panic!("renewed")
    };
    assert_eq!(renewed.order.expires_at, Timestamp(21_000), "never beyond its end");
    world.at = 21_000;
    assert!(world.refused(Command::RenewDrill(id("d1"))).starts_with("active drill"));
    let mut later = drill("d2", "us", "eu");
    later.ends_at = Timestamp(60_000);
    assert!(
        matches!(world.run(Command::StartDrill(later)), Reply::Drill(_)),
        "the first has ended"
    );
    world.run(Command::Sweep);
    assert_eq!(world.state.drills().count(), 1);
    assert_eq!(world.run(Command::EndDrill(id("d2"))), Reply::Done);
    assert!(world.refused(Command::EndDrill(id("d2"))).starts_with("drill"));
    assert_eq!(world.state.overrides(Timestamp(0)).count(), 0);
}

#[test]
fn bundles_of_the_region_only_grow() {
    let mut world = World::new("eu");
    assert_eq!(world.run(Command::PutBundle(bundle("eu", 2))), Reply::Done);
    assert_eq!(
        world.refused(Command::PutBundle(bundle("eu", 2))),
        "bundle sequence 2 must be above 2"
    );
    assert!(
        world
            .refused(Command::PutBundle(bundle("us", 9)))
            .contains("belongs to region us")
    );
}

#[test]
fn a_status_shows_the_stream_and_keeps_the_counts() {
    let mut world = World::new("eu");
    world.run(Command::PutPeer(peer("us")));
    world.run(import(
        "us",
        ImportSet {
            tenant_proxies: Some([(id("acme"), 4)].into()),
            ..import_set(1, false)
        },
    ));
    world.run(Command::PutPeerStatus {
        peer: region("us"),
        connected: true,
        round_trip: Some(Duration::from_millis(80)),
        heard_at: Timestamp(2_000),
    });
    let status = world.state.region_statuses().next().unwrap();
    assert!(status.connected && status.trust_domain == domain("us"));
    assert_eq!(status.round_trip, Some(Duration::from_millis(80)));
    assert_eq!(status.tenant_proxies[&id("acme")], 4);
}

#[test]
fn colliding_names_get_different_addresses() {
    // Two names of the same slot, found by search.
    let mut by_slot = std::collections::HashMap::new();
    let (first, second) = (0..100_000)
        .find_map(|n| {
            let name: mesh::model::ServiceName = id(&format!("s{n}.shop"));
            let slot = mesh::model::virtual_ips(&name, 0)[0];
            by_slot.insert(slot, name.clone()).map(|other| (other, name))
        })
        .expect("65,024 slots");
    let mut world = World::new("eu");
    world.attach(workload("w1", &[&first.to_string()]));
    world.attach(workload("w2", &[&second.to_string()]));
    let address = |name| world.state.service(name).unwrap().virtual_ips[0];
    assert_eq!(address(&first), mesh::model::virtual_ips(&first, 0)[0]);
    assert_eq!(address(&second), mesh::model::virtual_ips(&second, 1)[0]);
}
