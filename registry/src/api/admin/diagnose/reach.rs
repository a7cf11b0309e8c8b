//! What this node can connect to: its own listeners, the other nodes of its region, its peers' registries, gateways.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream};
use mesh::{
    identity::{Expect, Role},
    model::EndpointState,
    net::grpc::{self, Credentials, Unreached},
};
use proto::admin::v1 as pb;

use super::dns::dialled;
use crate::{app::Parts, catalog::State};

/// For each attempt: a far region answers within a second, and a look must not take longer than its asker waits.
const WAIT: Duration = Duration::from_secs(2);
/// Attempts in all, and at once: more than a region of the intended size has.
const TARGETS_MAX: usize = 256;
const AT_ONCE_MAX: usize = 64;

struct Target {
    kind: &'static str,
    name: String,
    port: &'static str,
    address: String,
    /// Who must answer; none where only the port matters.
    expect: Option<Expect>,
}

pub(super) async fn look(parts: &Parts, state: &State) -> Vec<pb::Reach> {
    let credentials = Credentials::from(parts.identity.clone());
    let targets = targets(parts, state).into_iter().take(TARGETS_MAX);
    let attempts = targets.map(|target| {
        let credentials = credentials.clone();
        async move {
            let done = match &target.expect {
                Some(expect) => grpc::reach(&target.address, &credentials, expect, WAIT).await,
                None => grpc::reach_port(&target.address, WAIT).await,
            };
            row(target, done)
        }
    });
    stream::iter(attempts).buffered(AT_ONCE_MAX).collect().await
}

fn row(target: Target, done: Result<Duration, Unreached>) -> pb::Reach {
    let (took, fault, detail) = match done {
        Ok(took) => (took, String::new(), String::new()),
        Err(unreached) => (Duration::ZERO, unreached.slug().to_owned(), unreached.to_string()),
    };
    pb::Reach {
        kind: target.kind.to_owned(),
        target: target.name,
        port: target.port.to_owned(),
        address: target.address,
        fault,
        detail,
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
    }
}

fn targets(parts: &Parts, state: &State) -> Vec<Target> {
    let mut all = Vec::new();
    let registry = Expect::System(Role::Registry, parts.trust_domain.clone());
    let mut add = |kind, name: String, port, address: String, expect: Option<&Expect>| {
        if !address.is_empty() {
            let expect = expect.cloned();
            all.push(Target {
                kind,
                name,
                port,
                address,
                expect,
            });
        }
    };
    let own = parts.node.to_string();
    if let Some(bound) = parts.addresses.get() {
        let at = |address: SocketAddr| dialled(address).to_string();
        add("self", own.clone(), "api", at(bound.api), Some(&registry));
        add("self", own.clone(), "raft", at(bound.raft), Some(&registry));
        add("self", own.clone(), "federation", at(bound.federation), Some(&registry));
        add("self", own, "http", at(bound.http), None);
    }
    let others = parts
        .replica
        .nodes()
        .into_iter()
        .filter(|status| status.id != parts.node);
    for status in others {
        let (id, node) = (status.id.to_string(), status.node);
        add("node", id.clone(), "raft", node.raft_address, Some(&registry));
        add("node", id.clone(), "api", node.api_address, Some(&registry));
        add("node", id, "federation", node.federation_address, Some(&registry));
    }
    for peer in state.peers() {
        let record = &peer.record;
        let expect = Expect::System(Role::Registry, record.bundle.trust_domain().clone());
        for address in &record.addresses {
            add(
                "peer",
                record.region.to_string(),
                "federation",
                address.clone(),
                Some(&expect),
            );
        }
    }
    let gone = |state| matches!(state, EndpointState::Draining | EndpointState::Maintenance);
    for gateway in state.gateways().filter(|gateway| !gone(gateway.state)) {
        add(
            "gateway",
            gateway.id.to_string(),
            "tunnels",
            gateway.address.clone(),
            None,
        );
    }
    all
}
