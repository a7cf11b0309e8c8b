//! What the registry is told about this workload: its definition, and the state that health and draining add up to.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh::{
    model::{EndpointId, EndpointState},
    runtime::{OnExit, Tasks},
    subscribe::{Attachment, Lessee},
};
use proto::registry::v1 as pb;
use tokio::sync::watch;
use tracing::info;

use crate::{
    config::{Config, LocalService},
    inbound::{Inbound, Served, ServedPort},
};

/// The definition. `inbound` is where the inbound listener was bound, which tells the port and, where the settings name
/// none, the address.
pub(crate) fn lessee(config: &Config, inbound: SocketAddr) -> Lessee {
    let workload = &config.workload;
    let mut by_name: BTreeMap<&str, pb::WorkloadService> = BTreeMap::new();
    for service in &config.services {
        let entry = by_name.entry(service.name.name()).or_default();
        entry.name = service.name.name().to_owned();
        entry.headless |= service.headless;
        entry.ports.push(pb::Port {
            name: service.port_name.clone(),
            number: service.port.into(),
            protocol: service.protocol.as_str().to_owned(),
        });
    }
    let address = workload.address.unwrap_or(inbound.ip());
    Lessee::Workload(pb::Workload {
        id: workload.id.to_string(),
        namespace: workload.namespace.to_string(),
        service_account: workload.service_account.to_string(),
        cluster: config.cluster.to_string(),
        zone: config.zone.to_string(),
        address: address.to_string(),
        inbound_port: inbound.port().into(),
        services: by_name.into_values().collect(),
        state: pb::EndpointState::Unhealthy.into(),
        labels: workload.labels.clone(),
        weight: workload.weight,
        capacity_rps: workload.capacity_rps,
        hostname: workload.hostname.clone(),
    })
}

/// What the inbound side delivers, with the own endpoints as the registry named them: in the order of [`lessee`].
pub(crate) fn served(services: &[LocalService], endpoint_ids: &[String]) -> Vec<Served> {
    let mut by_name: BTreeMap<&str, Served> = BTreeMap::new();
    for service in services {
        let entry = by_name.entry(service.name.name()).or_insert_with(|| Served {
            service: service.name.clone(),
            endpoint: None,
            ports: Vec::new(),
            allow: None,
        });
        entry.ports.push(ServedPort {
            port: service.port,
            protocol: service.protocol,
            application: service.app,
        });
    }
    let mut served: Vec<_> = by_name.into_values().collect();
    for (served, id) in served.iter_mut().zip(endpoint_ids) {
        served.endpoint = EndpointId::parse(id).ok();
    }
    served
}

/// Keeps the inbound side told of the endpoints' ids until the tasks' stop.
pub(crate) fn follow_endpoint_ids(
    services: Vec<LocalService>,
    mut endpoint_ids: watch::Receiver<Vec<String>>,
    inbound: Inbound,
    tasks: &Tasks,
) {
    let stop = tasks.stop().clone();
    tasks.spawn("endpoint-ids", OnExit::StopProcess, async move {
        loop {
            tokio::select! {
                () = stop.ordered() => return,
                changed = endpoint_ids.changed() => {
                    if changed.is_err() {
                        // The lease ended with the stop.
                        return stop.ordered().await;
                    }
                }
            }
            let ids = endpoint_ids.borrow_and_update().clone();
            inbound.serve(served(&services, &ids));
        }
    });
}

/// The state that health and draining add up to. Draining wins: it is on purpose.
pub(crate) fn state(is_healthy: bool, is_draining: bool) -> EndpointState {
    match (is_draining, is_healthy) {
        (true, _) => EndpointState::Draining,
        (false, true) => EndpointState::Ready,
        (false, false) => EndpointState::Unhealthy,
    }
}

/// Tells the registry each change of state until the tasks' stop.
pub(crate) fn report(
    attachment: std::sync::Arc<Attachment>,
    mut healthy: watch::Receiver<bool>,
    mut draining: watch::Receiver<bool>,
    tasks: &Tasks,
) {
    let stop = tasks.stop().clone();
    tasks.spawn("report", OnExit::StopProcess, async move {
        loop {
            let now = state(*healthy.borrow_and_update(), *draining.borrow_and_update());
            attachment.set_state(now);
            info!(state = %now, "workload");
            tokio::select! {
                () = stop.ordered() => return,
                // Both writers live as long as the process; where one is gone its last word stands.
                Ok(()) = healthy.changed() => {}
                Ok(()) = draining.changed() => {}
                else => break,
            }
        }
        stop.ordered().await;
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_outranks_health() {
        for (is_healthy, is_draining, expected) in [
            (false, false, EndpointState::Unhealthy),
            (true, false, EndpointState::Ready),
            (true, true, EndpointState::Draining),
            (false, true, EndpointState::Draining),
        ] {
            assert_eq!(state(is_healthy, is_draining), expected);
        }
    }
}
