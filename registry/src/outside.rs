//! The parsers of outside bytes that this crate keeps to itself, each as one plain function, for fuzzing. Promises that a
//! function here does with the bytes what the daemon does, up to the first side effect.

use std::time::Duration;

use mesh::{
    identity::{SpiffeId, TrustDomain, system},
    model::{EndpointId, NodeId, RegionId, Timestamp},
};
use prost::Message as _;
use proto::{federation::v1 as federation, raft::v1 as raft, registry::v1 as pb};

use crate::{
    authority::Authority,
    federation::export::Card,
    ingest::{Counts, Judge},
};

/// Whose registry this is; the caller is always [`CALLER`].
const REGION: &str = "eu";
/// Who calls.
pub const CALLER: &str = "spiffe://eu/ns/shop/sa/pay";

/// A message of an agent's stream: true when it is a registration that is taken.
///
/// # Panics
/// When what was taken breaks a promise: it must be the caller's own.
#[must_use]
pub fn agent_message(bytes: &[u8]) -> bool {
    let (Ok(region), Ok(trust_domain), Ok(caller)) = (
        RegionId::parse(REGION),
        TrustDomain::parse(REGION),
        SpiffeId::parse(CALLER),
    ) else {
        return false;
    };
    let gateway = system::gateway(&trust_domain);
    let judge = |caller: &SpiffeId, message| {
        let judge = Judge {
            caller: Some(caller),
            region: &region,
            trust_domain: &trust_domain,
            gateway: &gateway,
            holder: NodeId(1),
            counts: Counts {
                services: 32,
                labels: 64,
                ports: 64,
            },
        };
        match message {
            pb::agent_message::Kind::Attach(workload) => {
                let id = EndpointId::parse("ep-1").expect("three letters and a digit are a label");
                let lease = judge.workload(workload, |_| id.clone()).ok();
                lease.map(|lease| lease.identity)
            }
            pb::agent_message::Kind::Gateway(gateway) => {
                judge.gateway(gateway).ok().map(|lease| lease.gateway.identity)
            }
            _ => None,
        }
    };
    let Some(message) = pb::AgentMessage::decode(bytes).ok().and_then(|message| message.kind) else {
        return false;
    };
    let mut taken = false;
    for caller in [&caller, &gateway] {
        if let Some(identity) = judge(caller, message.clone()) {
            assert_eq!(identity, *caller, "a registration is the caller's own");
            taken = true;
        }
    }
    taken
}

/// The body of each request of the Raft service, and what it carries.
pub fn raft_request(bytes: &[u8]) {
    let body = raft::Payload::decode(bytes).map_or_else(|_| bytes.to_vec(), |payload| payload.body.to_vec());
    crate::raft::try_requests(&body);
}

/// What peers say: a card, and the messages of the stream.
pub fn peer_message(bytes: &[u8]) {
    if let Ok(request) = federation::AcceptRequest::decode(bytes)
        && let Some(card) = request.card
        && let Ok(card) = Card::try_from(card)
    {
        assert_eq!(*card.bundle.region(), card.region, "a card is one region's");
    }
    // The messages of the stream hold updates, which have a target of their own.
    let _ = federation::PeerMessage::decode(bytes).is_ok();
}

/// A certificate signing request; true when it was signed.
///
/// # Panics
/// When what was signed is not for whom it was made.
#[must_use]
pub fn signing_request(authority: &Authority, der: &[u8], now: Timestamp) -> bool {
    let Ok(id) = SpiffeId::parse(CALLER) else { return false };
    let Ok(chain) = authority.issue(der, &id, Duration::from_secs(60), now) else {
        return false;
    };
    let leaf = chain.first().expect("a chain has a leaf");
    let named = mesh::identity::check_leaf(&leaf.as_slice().into());
    assert_eq!(named.as_ref(), Ok(&id), "the request decides nothing but the key");
    true
}
