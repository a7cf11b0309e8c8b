use std::sync::Arc;

use mesh::model::{Endpoint, Labels};

use super::super::testing::{World, endpoint, id, import, import_set, peer, workload};
use crate::catalog::{Command, State, WorkloadHold};

fn labels(value: &str) -> Labels {
    [("value", value)].into_iter().collect()
}

fn only(state: &State, service: &str) -> Arc<Endpoint> {
    let mut endpoints = state.endpoints(&id(service));
    let endpoint = endpoints.next().expect("there is one");
    assert!(endpoints.next().is_none());
    Arc::clone(endpoint)
}

fn hold(state: &State, workload: &str) -> Arc<WorkloadHold> {
    Arc::clone(state.workload(&id(workload)).expect("it is attached"))
}

/// Whether two texts lie in the same place.
fn is_one(one: &str, other: &str) -> bool {
    assert_eq!(one, other);
    std::ptr::eq(one, other)
}

/// What holds in a catalogue that commands made, and in one that was read back.
fn check(state: &State) {
    let (pay, cart) = (only(state, "pay.shop"), only(state, "cart.shop"));
    let (first, second) = (hold(state, "w1"), hold(state, "w2"));
    for (hold, endpoint) in [(&first, &pay), (&second, &cart)] {
        assert!(hold.lease.labels.ptr_eq(&endpoint.labels) && !endpoint.labels.is_empty());
        let service = &hold.lease.services[0];
        assert!(is_one(service.endpoint.as_str(), endpoint.id.as_str()));
        assert!(is_one(service.name.name(), endpoint.service.name()));
        assert!(is_one(hold.lease.identity.as_str(), endpoint.identity.as_str()));
    }
    assert!(is_one(pay.locality.zone.as_str(), cart.locality.zone.as_str()));
    assert!(is_one(pay.locality.region.as_str(), cart.locality.region.as_str()));
    assert!(is_one(pay.cluster.as_str(), second.lease.cluster.as_str()));
    assert!(is_one(pay.identity.as_str(), cart.identity.as_str()));
    let namespaces = [&pay.service, &cart.service].map(|name| name.namespace().as_str());
    assert!(is_one(namespaces[0], namespaces[1]));
    assert!(is_one(first.lease.namespace.as_str(), namespaces[0]));
}

#[test]
fn what_records_repeat_is_kept_once() {
    let mut world = World::new("eu");
    for (name, service) in [("w1", "pay.shop"), ("w2", "cart.shop")] {
        let mut lease = workload(name, &[service]);
        lease.labels = labels(name);
        // As it comes from the log: with texts of its own.
        let read = postcard::from_bytes(&postcard::to_stdvec(&lease).unwrap()).unwrap();
        world.attach(read);
    }
    check(&world.state);
    let again = State::from_records(world.state.records()).unwrap();
    assert!(again == world.state);
    check(&again);
}

#[test]
fn a_change_is_not_seen_by_who_has_what_was_before() {
    let mut world = World::new("eu");
    let mut lease = workload("w1", &["pay.shop"]);
    lease.labels = labels("1");
    world.attach(lease.clone());
    let before = only(&world.state, "pay.shop");
    lease.labels = labels("2");
    world.attach(lease);
    let after = only(&world.state, "pay.shop");
    assert!(after.labels.ptr_eq(&hold(&world.state, "w1").lease.labels));
    assert_eq!((&before.labels, &after.labels), (&labels("1"), &labels("2")));
}

#[test]
fn imports_share_what_they_repeat() {
    let mut world = World::new("eu");
    world.run(Command::PutPeer(peer("us")));
    let mut set = import_set(1, true);
    set.endpoints = vec![endpoint("ep-1", "pay.shop", "us"), endpoint("ep-2", "cart.shop", "us")];
    world.run(import("us", set));
    for state in [&world.state, &State::from_records(world.state.records()).unwrap()] {
        let (pay, cart) = (only(state, "pay.shop"), only(state, "cart.shop"));
        assert!(is_one(pay.locality.region.as_str(), cart.locality.region.as_str()));
        assert!(is_one(pay.locality.zone.as_str(), cart.locality.zone.as_str()));
        assert!(is_one(pay.identity.as_str(), cart.identity.as_str()));
    }
}
