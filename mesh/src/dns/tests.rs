//! Names from the view to the wire: tables for the rules, then real queries over UDP and TCP.

mod names;
mod wire;

use std::net::IpAddr;

use crate::{
    identity::SpiffeId,
    model::{
        ClusterId, Endpoint, EndpointState, Held, Incarnation, Locality, Override, Port, Protocol, RegionId, Resource,
        Revision, Service, ServiceName, Timestamp, Update, View, virtual_ips,
    },
};

fn locality(region: &str, zone: &str) -> Locality {
    Locality {
        region: RegionId::parse(region).unwrap(),
        zone: zone.parse().unwrap(),
    }
}

fn service(name: &str, headless: bool, ports: &[(&str, u16)]) -> Service {
    let name = ServiceName::parse(name).unwrap();
    Service {
        virtual_ips: if headless {
            Vec::new()
        } else {
            virtual_ips(&name, 0).to_vec()
        },
        name,
        ports: ports
            .iter()
            .map(|(name, number)| Port {
                name: (*name).to_owned(),
                number: *number,
                protocol: Protocol::Tcp,
            })
            .collect(),
        origins: vec![RegionId::parse("eu").unwrap()],
        created_at: Timestamp(1),
        conflict: String::new(),
        headless,
        exported_to: crate::model::Audience::Nobody,
    }
}

/// `id` is unique; the zone is `<region>-a` unless the id ends in `-b`.
fn endpoint(service: &str, id: &str, region: &str, address: &str, state: EndpointState) -> Endpoint {
    let zone = if id.ends_with("-b") { "b" } else { "a" };
    Endpoint {
        id: id.parse().unwrap(),
        service: ServiceName::parse(service).unwrap(),
        locality: locality(region, &format!("{region}-{zone}")),
        cluster: ClusterId::parse(&format!("{region}-1")).unwrap(),
        address: address.parse().unwrap(),
        inbound_port: 15006,
        state,
        weight: 100,
        capacity_rps: 0,
        identity: SpiffeId::parse(&format!("spiffe://{region}/ns/shop/sa/x")).unwrap(),
        ports: vec![80],
        labels: Default::default(),
        unverified: false,
        hostname: String::new(),
    }
}

fn view(resources: Vec<Resource>) -> View {
    View::default().updated(Update {
        region: RegionId::parse("eu").unwrap(),
        held: Held {
            incarnation: Incarnation(7),
            revision: Revision(42),
        },
        full: true,
        upserts: resources,
        removed: Vec::new(),
        committed_at: None,
    })
}

/// Named endpoints of a headless service `db.shop` in two regions, a plain service `pay.shop`, and services at the edges.
fn sample() -> View {
    use EndpointState::{Draining, Ready, Serving, Unhealthy};
    let mut named = endpoint("db.shop", "db-1", "eu", "10.0.0.1", Ready);
    named.hostname = "Web-0".to_owned();
    let mut twin = endpoint("db.shop", "db-1v6", "eu", "fd00::1", Ready);
    twin.hostname = "web-0".to_owned();
    let endpoints = [
        named,
        twin,
        endpoint("db.shop", "db-2-b", "eu", "10.0.0.2", Ready),
        endpoint("db.shop", "db-3", "us", "10.1.0.3", Ready),
        endpoint("db.shop", "db-4", "us", "10.1.0.4", Unhealthy),
        endpoint("pay.shop", "pay-1", "eu", "10.0.0.5", Serving),
        endpoint("pay.shop", "pay-2-b", "eu", "10.0.0.6", Ready),
        endpoint("pay.shop", "pay-3", "us", "10.1.0.7", Ready),
        endpoint("pay.shop", "pay-4", "eu", "10.0.0.8", Draining),
        endpoint("down.shop", "down-1", "eu", "10.0.0.9", Unhealthy),
    ];
    let services = [
        service("pay.shop", false, &[("http", 80), ("admin", 9000), ("", 70)]),
        service("db.shop", true, &[("pg", 5432), ("metrics", 9187)]),
        service("down.shop", true, &[("http", 80)]),
        service("idle.shop", false, &[("http", 80)]),
        // As the conformance suite has it: one number, two protocols.
        service("both.shop", false, &[("tcp", 42), ("udp", 42)]),
    ];
    let services = services.into_iter().map(Resource::Service);
    view(services.chain(endpoints.into_iter().map(Resource::from)).collect())
}

fn vip(name: &str) -> [IpAddr; 2] {
    virtual_ips(&ServiceName::parse(name).unwrap(), 0)
}

fn evacuated(region: &str, percent: u8) -> Resource {
    Resource::Override(Override {
        id: "drill-1".parse().unwrap(),
        region: RegionId::parse(region).unwrap(),
        percent,
        expires_at: Timestamp(1_000),
        origin: RegionId::parse("eu").unwrap(),
        reason: String::new(),
    })
}
