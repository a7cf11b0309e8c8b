//! What a proxy's view costs. Measures the whole process, so it is run alone:
//! `cargo test --workspace --lib -- --ignored a_view_of_names`.

use prost::Message as _;
use proto::registry::v1 as pb;

use crate::{
    model::{Endpoint, Resource, Update, View},
    subscribe::samples,
};

const NAMES: usize = 5_000;
const USED: usize = 10;
const ENDPOINTS: usize = 20;
/// Of a proxy's 25 MB some 15 are there when it holds nothing.
const BYTES_MAX: usize = 6 << 20;

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn name(at: usize) -> String {
    format!("service-{at:04}.namespace-{:02}", at % 50)
}

fn endpoint(service: usize, at: usize) -> Resource {
    let wire = pb::Endpoint {
        id: format!("ep-{service}-{at}"),
        service: name(service).split('.').next().unwrap().to_owned(),
        namespace: name(service).split('.').nth(1).unwrap().to_owned(),
        region: "eu".into(),
        cluster: "eu-1".into(),
        zone: "a".into(),
        address: "10.0.0.1".into(),
        inbound_port: 15006,
        state: pb::EndpointState::Ready.into(),
        weight: 100,
        spiffe_id: "spiffe://eu/ns/shop/sa/pay".into(),
        ports: vec![80],
        ..pb::Endpoint::default()
    };
    Endpoint::try_from(wire).unwrap().into()
}

/// As it comes over the wire: messages of a thousand records.
fn messages() -> Vec<Vec<u8>> {
    let names: Vec<String> = (0..NAMES).map(name).collect();
    let mut messages = Vec::new();
    for chunk in names.chunks(1000) {
        let names: Vec<&str> = chunk.iter().map(String::as_str).collect();
        messages.push(samples::update(7, 10, messages.is_empty(), &names));
    }
    let endpoints = (0..USED).flat_map(|service| (0..ENDPOINTS).map(move |at| endpoint(service, at)));
    messages.push(Update {
        upserts: endpoints.collect(),
        ..samples::update(7, 10, false, &[])
    });
    messages
        .into_iter()
        .map(|update| pb::Update::from(update).encode_to_vec())
        .collect()
}

#[test]
#[ignore = "measures the whole process: to be run alone"]
fn a_view_of_names_and_a_few_services_is_small() {
    let messages = messages();
    let before = resident();
    let mut view = View::default();
    for message in &messages {
        let update = pb::Update::decode(message.as_slice()).unwrap();
        view = view.updated(Update::try_from(update).unwrap());
    }
    let grown = resident().saturating_sub(before);
    assert_eq!(view.services().count(), NAMES);
    assert!(grown < BYTES_MAX, "{grown} bytes, {} for each name", grown / NAMES);
}
