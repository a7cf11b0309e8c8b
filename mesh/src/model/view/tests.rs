use super::*;
use crate::model::{
    Audience, EndpointState, Incarnation, Labels, Locality, Port, Protocol, Revision, Zone, virtual_ips,
};

fn service(name: &str) -> Service {
    let name = ServiceName::parse(name).expect("valid");
    Service {
        virtual_ips: virtual_ips(&name, 0).to_vec(),
        name,
        ports: vec![Port {
            name: String::new(),
            number: 80,
            protocol: Protocol::Http,
        }],
        origins: Vec::new(),
        created_at: Timestamp(1),
        conflict: String::new(),
        exported_to: Audience::Nobody,
        headless: false,
    }
}

fn update(revision: u64, full: bool, upserts: Vec<Resource>, removed: Vec<Key>) -> Update {
    let held = Held {
        incarnation: Incarnation(7),
        revision: Revision(revision),
    };
    Update {
        region: RegionId::parse("eu").expect("valid"),
        held,
        full,
        upserts,
        removed,
        committed_at: None,
    }
}

#[test]
fn a_delta_shares_what_it_does_not_name() {
    let (pay, cart) = (service("pay.shop"), service("cart.shop"));
    let upserts = vec![Resource::Service(pay.clone()), Resource::Service(cart.clone())];
    let first = View::default().updated(update(1, true, upserts, vec![]));
    let second = first.updated(update(2, false, vec![], vec![Key::Service(pay.name.clone())]));
    assert!(second.service(&pay.name).is_none());
    assert!(
        second.service_at(pay.virtual_ips[0]).is_none(),
        "its address is free again"
    );
    let entry = |view: &View| Arc::clone(&view.services[&cart.name]);
    assert!(Arc::ptr_eq(&entry(&first), &entry(&second)));
    assert!(first.service(&pay.name).is_some(), "the older view is untouched");
}

#[test]
fn a_full_update_drops_what_it_does_not_hold() {
    let first = View::default().updated(update(1, true, vec![Resource::Service(service("pay.shop"))], vec![]));
    let second = first.updated(update(9, true, vec![Resource::Service(service("cart.shop"))], vec![]));
    assert_eq!(second.services().count(), 1);
    assert_eq!(second.held().revision, Revision(9));
}

fn endpoint(service: &str, id: &str) -> Resource {
    Resource::from(Endpoint {
        id: EndpointId::parse(id).expect("valid"),
        service: ServiceName::parse(service).expect("valid"),
        locality: Locality {
            region: RegionId::parse("eu").expect("valid"),
            zone: Zone::parse("a").expect("valid"),
        },
        cluster: ClusterId::parse("eu-1").expect("valid"),
        address: IpAddr::from([10, 0, 0, 1]),
        inbound_port: 15006,
        state: EndpointState::Ready,
        weight: 100,
        capacity_rps: 0,
        labels: Labels::default(),
        identity: "spiffe://eu/ns/shop/sa/pay".parse().expect("valid"),
        ports: vec![80],
        unverified: false,
        hostname: String::new(),
    })
}

fn coverage(names: &[&str]) -> Coverage {
    let names = names.iter().map(|name| ServiceName::parse(name).expect("valid"));
    Coverage::Of(Arc::new(names.collect()))
}

#[test]
fn another_coverage_drops_endpoints_and_keeps_names() {
    let upserts = vec![
        Resource::Service(service("pay.shop")),
        Resource::Service(service("cart.shop")),
        endpoint("pay.shop", "ep-1"),
        endpoint("cart.shop", "ep-2"),
        endpoint("undefined.shop", "ep-3"),
    ];
    let count = |view: &View| -> usize { view.services().map(|(_, entry)| entry.endpoints.len()).sum() };
    let all = View::default().updated(update(3, true, upserts, vec![]));
    let pay = ServiceName::parse("pay.shop").expect("valid");
    assert!(all.holds_endpoints_of(&pay) && count(&all) == 3);
    let some = all.clone().covering(coverage(&["pay.shop", "cart.shop"]));
    assert_eq!((count(&some), some.services().count()), (2, 2));
    let none = some.covering(coverage(&["cart.shop", "later.shop"]));
    assert!(!none.holds_endpoints_of(&pay));
    assert_eq!((count(&none), none.services().count()), (1, 2));
    assert_eq!(count(&none.covering(Coverage::All)), 1);
    assert_eq!(count(&all), 3, "the older view is untouched");
}

#[test]
fn only_what_an_update_names_is_made_anew() {
    let upserts: Vec<_> = (0..500)
        .map(|n| endpoint("pay.shop", &format!("ep-{n}")))
        .chain([
            Resource::Service(service("pay.shop")),
            Resource::Service(service("cart.shop")),
        ])
        .collect();
    let first = View::default().updated(update(1, true, upserts, vec![]));
    let second = first.updated(update(2, false, vec![endpoint("pay.shop", "ep-7")], vec![]));
    let (pay, cart) = (service("pay.shop").name, service("cart.shop").name);
    let shared = |name: &ServiceName| Arc::ptr_eq(&first.services[name], &second.services[name]);
    assert!(shared(&cart) && !shared(&pay) && first.has_same_surroundings(&second));
    let of = |view: &View, id: &str| Arc::clone(&view.services[&pay].endpoints[&EndpointId::parse(id).expect("valid")]);
    assert!(Arc::ptr_eq(&of(&first, "ep-8"), &of(&second, "ep-8")));
}

#[test]
fn an_address_that_moves_in_one_update_belongs_to_its_new_owner() {
    let (pay, mut cart) = (service("pay.shop"), service("cart.shop"));
    let first = View::default().updated(update(1, true, vec![Resource::Service(pay.clone())], vec![]));
    cart.virtual_ips.clone_from(&pay.virtual_ips);
    let mut moved = pay.clone();
    moved.virtual_ips = virtual_ips(&pay.name, 1).to_vec();
    let upserts = vec![Resource::Service(cart.clone()), Resource::Service(moved)];
    let second = first.updated(update(2, false, upserts, vec![]));
    assert_eq!(second.service_at(pay.virtual_ips[0]), Some(&cart.name));
}

#[test]
fn resources_rebuild_the_view() {
    let upserts = vec![
        Resource::Service(service("pay.shop")),
        Resource::Service(service("cart.shop")),
    ];
    let view = View::default().updated(update(3, true, upserts, vec![]));
    let again = View::default().updated(update(3, true, view.resources().collect(), vec![]));
    assert_eq!(view, again);
}

#[test]
fn what_a_catalogue_holds_is_not_copied() {
    let Resource::Endpoint(held) = endpoint("pay.shop", "ep-1") else {
        unreachable!("it is one");
    };
    let upserts = vec![
        Resource::Service(service("pay.shop")),
        Resource::Endpoint(Arc::clone(&held)),
    ];
    let view = View::default().updated(update(1, true, upserts, vec![]));
    assert!(Arc::ptr_eq(&view.services[&held.service].endpoints[&held.id], &held));
    let shown = view.resources().find_map(|resource| match resource {
        Resource::Endpoint(endpoint) => Some(endpoint),
        _ => None,
    });
    assert!(Arc::ptr_eq(&shown.expect("it is shown"), &held));
}
