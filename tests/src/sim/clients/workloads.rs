//! A workload's agent: attaches through some node, is heard there, changes its state and what it serves, goes away, or is
//! silent until its lease lapses.

use std::{sync::Arc, time::Duration};

use mesh::{
    model::{EndpointState, Labels, Port, Protocol},
    runtime::clock,
};
use registry::{
    catalog::{Command, Lessee, Reply, WorkloadLease, WorkloadService},
    ingest::Term,
};

use super::pause;
use crate::sim::{
    place::{Place, REGIONS, domain},
    world::Sim,
};

/// Services of a region.
pub(crate) const SERVICES: u8 = 4;

/// What a workload asks for.
fn lease(region: u8, number: u8, holder: Place) -> WorkloadLease {
    let name = REGIONS[usize::from(region)];
    let id = format!("w-{name}-{number}");
    let mut services = Vec::new();
    for service in 0..SERVICES {
        if fastrand::bool() {
            services.push(WorkloadService {
                name: format!("s{service}.shop").parse().unwrap(),
                ports: vec![Port {
                    name: String::new(),
                    number: 80,
                    protocol: Protocol::Http,
                }],
                headless: false,
                endpoint: format!("ep-{id}-s{service}").parse().unwrap(),
            });
        }
    }
    WorkloadLease {
        namespace: "shop".parse().unwrap(),
        service_account: "pay".parse().unwrap(),
        identity: format!("spiffe://{}/ns/shop/sa/pay", domain(region)).parse().unwrap(),
        cluster: format!("{name}-1").parse().unwrap(),
        zone: "a".parse().unwrap(),
        address: [10, 0, region, number].into(),
        inbound_port: 15006,
        services,
        state: EndpointState::Ready,
        labels: Labels::default(),
        weight: fastrand::u32(1..=100),
        capacity_rps: 0,
        hostname: String::new(),
        holder: holder.id(),
        id: id.parse().unwrap(),
    }
}

/// Runs a workload.
pub(crate) async fn run(sim: Sim, region: u8, number: u8) {
    while pause(&sim, 50, 2_000).await {
        let Some((place, running)) = sim.any(region) else {
            continue;
        };
        let lease = lease(region, number, place);
        let lessee = Lessee::Workload(lease.id.clone());
        sim.step("attach", Place::of(region), place, number.into());
        let attached = running.replica.propose(Command::AttachWorkload(Arc::new(lease))).await;
        let Ok(Reply::Attached { epoch, .. }) = attached.map(|committed| committed.reply) else {
            continue;
        };
        sim.step("attached", place, Place::of(region), epoch);
        let term = Term { lessee, epoch };
        let beats = fastrand::u32(..12);
        for _ in 0..beats {
            running.leases.heard(&term, clock::now().into_std());
            if fastrand::u8(..3) == 0 && !set_state(&sim, &running.replica, &term).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(200..3_000))).await;
            if running.tasks.stop().is_ordered() || sim.is_calm() {
                break;
            }
        }
        match fastrand::u8(..4) {
            // Silent until the lease is over, or until it attaches again.
            0 => tokio::time::sleep(Duration::from_secs(fastrand::u64(1..20))).await,
            1 => {
                let (lessee, epoch) = (term.lessee.clone(), term.epoch);
                let gone = running.replica.propose(Command::Detach { lessee, epoch }).await;
                if gone.is_ok() {
                    running.leases.forget(&term);
                }
            }
            _ => {}
        }
    }
}

/// False when the lease has moved on.
async fn set_state(sim: &Sim, replica: &registry::raft::Replica, term: &Term) -> bool {
    let Lessee::Workload(workload) = term.lessee.clone() else {
        return false;
    };
    let state = if fastrand::bool() {
        EndpointState::Ready
    } else {
        EndpointState::Draining
    };
    let epoch = term.epoch;
    let set = replica
        .propose(Command::SetWorkloadState { workload, epoch, state })
        .await;
    sim.step("state", Place::default(), Place::default(), epoch);
    !matches!(set.map(|committed| committed.reply), Ok(Reply::Refused(_)))
}
