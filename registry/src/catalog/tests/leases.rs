use std::sync::Arc;

use mesh::model::{Audience, EndpointState, Key, Protocol};

use super::super::testing::{World, export, gateway_lease, id, lapse, port, workload};
use crate::catalog::{Command, Lessee, Reply};

#[test]
fn attaching_defines_the_service_and_registers_the_endpoint() {
    let mut world = World::new("eu");
    let (_, ids) = world.attach(workload("w1", &["pay.shop"]));
    assert_eq!(world.endpoint_ids("pay.shop"), ids);
    let service = world.state.service(&id("pay.shop")).unwrap();
    assert_eq!(service.virtual_ips, mesh::model::virtual_ips(&service.name, 0));
    assert_eq!(service.origins, [id("eu")]);
}

#[test]
fn attaching_again_keeps_the_endpoint_ids_and_moves_the_lease() {
    let mut world = World::new("eu");
    let (first, ids) = world.attach(workload("w1", &["pay.shop", "cart.shop"]));
    let mut again = workload("w1", &["pay.shop"]);
    again.services[0].endpoint = id("ep-other");
    let (second, kept) = world.attach(again);
    assert!(second > first);
    assert_eq!(kept, ids[..1], "the id that callers know");
    assert_eq!(
        world.endpoint_ids("cart.shop"),
        Vec::<String>::new(),
        "no longer served"
    );
    let state = |epoch| Command::SetWorkloadState {
        workload: id("w1"),
        epoch,
        state: EndpointState::Draining,
    };
    assert_eq!(
        world.refused(state(first)),
        "lease of workload w1 has moved on; attach again"
    );
    assert_eq!(world.run(state(second)), Reply::Done);
    let endpoint = world.state.endpoints(&id("pay.shop")).next().unwrap();
    assert_eq!(endpoint.state, EndpointState::Draining);
    // A lapse of the old lease comes too late.
    world.run(lapse("w1", first));
    assert_eq!(world.endpoint_ids("pay.shop").len(), 1);
    world.run(lapse("w1", second));
    assert_eq!(world.endpoint_ids("pay.shop").len(), 0);
    assert!(
        world.state.service(&id("pay.shop")).is_some(),
        "the name outlives a restart"
    );
}

#[test]
fn what_stands_in_the_way_is_named() {
    let mut world = World::new("eu");
    world.attach(workload("w1", &["pay.shop"]));
    let mut other = workload("w2", &["pay.shop"]);
    other.services[0].ports = vec![port("", 80, Protocol::Grpc)];
    let mut headless = workload("w2", &["pay.shop"]);
    headless.services[0].headless = true;
    let mut thief = workload("w1", &[]);
    thief.identity = id("spiffe://eu.test/ns/shop/sa/other");
    let outside = workload("w2", &["pay.bank"]);
    let twice = workload("w2", &["cart.shop", "cart.shop"]);
    let mut taken = workload("w2", &["pay.shop"]);
    taken.services[0].endpoint = id("ep-w1-pay-shop");
    for (lease, reason) in [
        (
            other,
            "workload w2 serves pay.shop on port 80/grpc, region eu defines 80/http",
        ),
        (headless, "workload w2 declares pay.shop headless"),
        (thief, "workload id w1 is in use by spiffe://eu.test/ns/shop/sa/pay"),
        (outside, "service pay.bank is outside namespace shop"),
        (twice, "workload w2 names service cart.shop twice"),
        (taken, "endpoint id ep-w1-pay-shop of service pay.shop is taken"),
    ] {
        let text = world.refused(Command::AttachWorkload(Arc::new(lease)));
        assert!(text.starts_with(reason), "{text}");
    }
}

#[test]
fn a_workload_that_is_alone_may_change_the_definition_and_others_may_add_to_it() {
    let mut world = World::new("eu");
    world.attach(workload("w1", &["pay.shop"]));
    let mut changed = workload("w1", &["pay.shop"]);
    changed.services[0].ports = vec![port("web", 80, Protocol::Grpc)];
    world.attach(changed);
    let mut more = workload("w2", &["pay.shop"]);
    more.services[0].ports = vec![port("admin", 90, Protocol::Http)];
    world.attach(more);
    let ports = world.state.service(&id("pay.shop")).unwrap().ports;
    assert_eq!(
        ports,
        [port("web", 80, Protocol::Grpc), port("admin", 90, Protocol::Http)]
    );
}

#[test]
fn a_few_lapses_are_believed_and_many_are_not() {
    // (leases, lapses in one batch, endpoints that stay)
    for (leases, lapses, left) in [(4, 4, 0), (100, 15, 85), (100, 16, 100), (5, 5, 5), (40, 6, 34)] {
        let mut world = World::new("eu");
        let mut epochs = Vec::new();
        for n in 0..leases {
            epochs.push(world.attach(workload(&format!("w{n}"), &["pay.shop"])).0);
        }
        let batch = (0..lapses).map(|n| lapse(&format!("w{n}"), epochs[n])).collect();
        world.apply(batch);
        assert_eq!(world.endpoint_ids("pay.shop").len(), left, "{lapses} of {leases}");
        let held_back = if left == leases { lapses } else { 0 };
        assert_eq!(world.state.unverified_count(), held_back, "{lapses} of {leases}");
    }
}

#[test]
fn lapses_in_one_window_are_judged_together_and_later_ones_anew() {
    let mut world = World::new("eu");
    let mut epochs = Vec::new();
    for n in 0..40 {
        epochs.push(world.attach(workload(&format!("w{n}"), &["pay.shop"])).0);
    }
    let left = |world: &World| (world.endpoint_ids("pay.shop").len(), world.state.unverified_count());
    for (n, epoch) in epochs[..6].iter().enumerate() {
        world.at += 1_000;
        world.run(lapse(&format!("w{n}"), *epoch));
    }
    assert_eq!(left(&world), (34, 0));
    world.at += 1_000;
    world.run(lapse("w6", epochs[6]));
    assert_eq!(left(&world), (34, 1), "the seventh of forty in one window");
    world.at += 31_000;
    world.run(lapse("w7", epochs[7]));
    assert_eq!(left(&world), (33, 1), "alone in its window");
}

#[test]
fn held_endpoints_come_back_by_a_word_from_them_or_go_by_an_operator() {
    let mut world = World::new("eu");
    let epochs: Vec<u64> = (0..5)
        .map(|n| world.attach(workload(&format!("w{n}"), &["pay.shop"])).0)
        .collect();
    world.apply((0..5).map(|n| lapse(&format!("w{n}"), epochs[n])).collect());
    assert_eq!(world.state.unverified_count(), 5);
    world.attach(workload("w0", &["pay.shop"]));
    world.run(Command::SetWorkloadState {
        workload: id("w1"),
        epoch: epochs[1],
        state: EndpointState::Ready,
    });
    assert_eq!(world.state.unverified_count(), 3);
    world.run(Command::ReleaseUnverified);
    assert_eq!(world.endpoint_ids("pay.shop").len(), 2);
    assert_eq!(world.state.lease_count(), 2);
}

#[test]
fn gateways_hold_leases_too() {
    let mut world = World::new("eu");
    let Reply::Attached { epoch, .. } = world.run(Command::AttachGateway(Box::new(gateway_lease("gw-1", "eu")))) else {
        panic!("attached")
    };
    let state = |epoch| Command::SetGatewayState {
        gateway: id("gw-1"),
        epoch,
        state: EndpointState::Draining,
    };
    assert!(world.refused(state(epoch + 1)).starts_with("lease of gateway gw-1"));
    assert_eq!(world.run(state(epoch)), Reply::Done);
    assert_eq!(world.state.gateways().next().unwrap().state, EndpointState::Draining);
    let foreign = Command::AttachGateway(Box::new(gateway_lease("gw-2", "us")));
    assert_eq!(
        world.refused(foreign),
        "gateway gw-2 belongs to region us; change it there"
    );
    let lessee = Lessee::Gateway(id("gw-1"));
    world.run(Command::Detach { lessee, epoch });
    assert_eq!(world.state.gateways().count(), 0);
}

#[test]
fn changes_say_who_saw_them_before() {
    let mut world = World::new("eu");
    let (epoch, ids) = world.attach(workload("w1", &["pay.shop"]));
    let keys = [Key::Service(id("pay.shop")), Key::Endpoint(id("pay.shop"), id(&ids[0]))];
    let exported = world.apply(vec![export("pay.shop", Audience::Everybody)]);
    let seen: Vec<_> = exported.changes.iter().map(|c| (&c.key, &c.audience_before)).collect();
    assert_eq!(seen, [(&keys[0], &Audience::Nobody), (&keys[1], &Audience::Nobody)]);
    let lessee = Lessee::Workload(id("w1"));
    let gone = world.apply(vec![Command::Detach { lessee, epoch }]);
    let seen: Vec<_> = gone.changes.iter().map(|c| (&c.key, &c.audience_before)).collect();
    assert_eq!(seen, [(&keys[1], &Audience::Everybody)], "the definition itself stays");
}

#[test]
fn a_definition_goes_a_while_after_its_last_endpoint() {
    let mut world = World::new("eu");
    let (epoch, _) = world.attach(workload("w1", &["pay.shop"]));
    let lessee = Lessee::Workload(id("w1"));
    world.run(Command::Detach { lessee, epoch });
    world.at += 599_000;
    world.run(Command::Sweep);
    assert_eq!(world.state.service_count(), 1);
    world.at += 1_000;
    world.run(Command::Sweep);
    assert_eq!(world.state.service_count(), 0);
    assert!(
        world.state.probes.is_empty() && world.state.virtual_v4.is_empty(),
        "its address is free"
    );
}

#[test]
fn a_command_that_is_refused_halfway_leaves_nothing_and_the_rest_of_the_batch_stands() {
    let mut world = World::new("eu");
    world.attach(workload("w1", &["pay.shop"]));
    // The first of its services would be new; the second has that port with another protocol.
    let halfway = || {
        let mut lease = workload("w3", &["cart.shop", "pay.shop"]);
        lease.services[1].ports = vec![port("", 80, Protocol::Grpc)];
        Command::AttachWorkload(Arc::new(lease))
    };
    let attach = |name: &str, service: &str| Command::AttachWorkload(Arc::new(workload(name, &[service])));
    let mut without = world.clone();
    let good = [
        attach("w2", "pay.shop"),
        attach("w4", "stock.shop"),
        attach("w5", "pay.shop"),
    ];
    let replies = without.apply(good.to_vec()).replies;
    let [first, second, third] = good;
    let mixed = world.apply(vec![first, halfway(), second, halfway(), third]).replies;
    assert!(matches!(&mixed[1], Reply::Refused(_)) && mixed[1] == mixed[3]);
    assert_eq!(
        [&mixed[0], &mixed[2], &mixed[4]],
        [&replies[0], &replies[1], &replies[2]]
    );
    assert!(
        world.state == without.state,
        "as if nobody had asked for the refused ones"
    );
}
