//! A peer that sends what it does not own. Pure.

use mesh::model::{Endpoint, EndpointState, Labels, Locality, Resource};
use proto::registry::v1 as pb;

use super::place::{REGIONS, domain, region};

/// The mark of a forged record.
pub(crate) const FORGED: &str = "ep-forged";

/// Adds endpoints of the receiver, and of the third region, to an update.
pub(crate) fn spoil(from: u8, to: u8, update: &mut pb::Update) {
    for owner in 0..REGIONS.len() as u8 {
        if owner == from {
            continue;
        }
        // Whoever it is said to be of, the sender vouches for it with its own trust domain, or with the owner's.
        for (identity, name) in [(from, "by"), (owner, "of")] {
            let endpoint = Endpoint {
                id: format!("{FORGED}-{name}-{from}-{to}-{owner}").parse().unwrap(),
                service: "s0.shop".parse().unwrap(),
                locality: Locality {
                    region: region(owner),
                    zone: "a".parse().unwrap(),
                },
                cluster: format!("{}-1", REGIONS[usize::from(owner)]).parse().unwrap(),
                address: [203, 0, 113, 66].into(),
                inbound_port: 15006,
                state: EndpointState::Ready,
                weight: 100,
                capacity_rps: 0,
                labels: Labels::default(),
                identity: format!("spiffe://{}/ns/shop/sa/pay", domain(identity)).parse().unwrap(),
                ports: vec![80],
                unverified: false,
                hostname: String::new(),
            };
            update.upserts.push(Resource::from(endpoint).into());
        }
    }
}
