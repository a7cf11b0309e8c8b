//! Leases: who attaches, with what, and how they go away on purpose. Pure.
//!
//! A lease's epoch grows with each attachment, so that a node that lost the lease cannot change it any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh::model::{Endpoint, EndpointId, EndpointState, GatewayId, Locality, Port, RegionId, ServiceName, WorkloadId};

use super::{Outcome, Transaction, not_owner};
use crate::{
    catalog::{
        Definition, GatewayHold, GatewayLease, Lessee, Refusal, Reply, WorkloadHold, WorkloadLease, WorkloadService,
    },
    federation::merge::{Shown, clash},
};

impl Transaction<'_> {
    fn next_epoch(&mut self) -> u64 {
        let meta = self.meta();
        meta.next_epoch += 1;
        meta.next_epoch
    }

    pub(super) fn attach_workload(&mut self, lease: &Arc<WorkloadLease>) -> Outcome {
        let region = self.own_region()?;
        let before = self.state.workloads.get(&lease.id).cloned();
        if let Some(hold) = &before
            && hold.lease.identity != lease.identity
        {
            let (id, holder, asker) = (&lease.id, &hold.lease.identity, &lease.identity);
            let text = format!("workload id {id:?} is in use by {holder}; {asker} must choose another");
            return Err(Refusal::Conflict(text));
        }
        let before = before.map(|hold| Arc::clone(&hold.lease));
        let mut lease = self.with_kept_ids(lease, before.as_deref())?;
        self.check_quota(&lease, before.as_deref())?;
        for service in &lease.services {
            self.define(&region, &lease, service)?;
        }
        if before.is_none() {
            // Once: changes come often, and are not copied for the little that this saves.
            self.state.share_lease(Arc::make_mut(&mut lease));
        }
        for service in before.iter().flat_map(|before| &before.services) {
            if lease.services.iter().all(|kept| kept.name != service.name) {
                self.remove_endpoint(&service.name, &service.endpoint);
                self.retire(&region, &service.name);
            }
        }
        let epoch = self.next_epoch();
        self.put_endpoints(&region, &lease, false);
        let endpoints = lease.services.iter().map(|service| service.endpoint.clone()).collect();
        let hold = WorkloadHold {
            epoch,
            unverified: false,
            lease,
        };
        self.put_workload(&hold.lease.id.clone(), hold);
        Ok(Reply::Attached { epoch, endpoints })
    }

    /// The lease with the endpoint ids that the workload had before; nearly always it has them already, and is not copied.
    fn with_kept_ids(
        &self,
        lease: &Arc<WorkloadLease>,
        before: Option<&WorkloadLease>,
    ) -> Result<Arc<WorkloadLease>, Refusal> {
        let before = before.into_iter().flat_map(|before| &before.services);
        let kept: BTreeMap<&ServiceName, &EndpointId> =
            before.map(|service| (&service.name, &service.endpoint)).collect();
        let mut with_kept = Arc::clone(lease);
        let mut seen = BTreeSet::new();
        for (at, service) in lease.services.iter().enumerate() {
            let name = &service.name;
            if *name.namespace() != lease.namespace {
                let text = format!(
                    "service {name} is outside namespace {} of workload {}",
                    lease.namespace, lease.id
                );
                return Err(Refusal::Conflict(text));
            }
            if !seen.insert(name) {
                let text = format!(
                    "workload {} names service {name} twice; name it once with all ports",
                    lease.id
                );
                return Err(Refusal::Conflict(text));
            }
            if let Some(&id) = kept.get(name) {
                if *id != service.endpoint {
                    Arc::make_mut(&mut with_kept).services[at].endpoint = id.clone();
                }
            } else if self.state.endpoint(name, &service.endpoint).is_some() {
                let text = format!(
                    "endpoint id {} of service {name} is taken; attach again",
                    service.endpoint
                );
                return Err(Refusal::Conflict(text));
            }
        }
        Ok(with_kept)
    }

    /// Limits count what is added: a workload that attaches again is never refused for what it had.
    fn check_quota(&self, lease: &WorkloadLease, before: Option<&WorkloadLease>) -> Result<(), Refusal> {
        let Some(tenant) = self.state.tenant_of(&lease.namespace) else {
            return Ok(());
        };
        let quota = tenant.quota;
        if quota.services == 0 && quota.endpoints == 0 {
            return Ok(());
        }
        let (services, endpoints) = self.state.usage(tenant);
        let names = lease.services.iter().map(|service| &service.name);
        let new_services = names.filter(|name| !self.state.definitions.contains_key(*name)).count();
        let new_endpoints = lease
            .services
            .len()
            .saturating_sub(before.map_or(0, |b| b.services.len()));
        let limits = [
            ("services", services, new_services, quota.services),
            ("endpoints", endpoints, new_endpoints, quota.endpoints),
        ];
        for (what, used, new, limit) in limits {
            if limit > 0 && new > 0 && used + new > limit as usize {
                return Err(Refusal::Quota {
                    tenant: tenant.id.clone(),
                    what: what.to_owned(),
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Unites the service's definition with what the workload serves. A workload that is alone in serving it may change it.
    fn define(&mut self, region: &RegionId, lease: &WorkloadLease, service: &WorkloadService) -> Result<(), Refusal> {
        let name = &service.name;
        let mut ports: Vec<Port> = Vec::new();
        let before = self.state.own_definition(name).cloned();
        let others = self.state.endpoints(name);
        let is_shared = others
            .filter(|endpoint| endpoint.locality.region == *region)
            .any(|endpoint| endpoint.id != service.endpoint);
        if let Some(definition) = before.as_ref().filter(|_| is_shared) {
            if definition.headless != service.headless {
                let (mine, theirs) = if service.headless {
                    ("headless", "not")
                } else {
                    ("not headless", "headless")
                };
                let text = format!(
                    "workload {} declares {name} {mine}, region {region} has it as {theirs}; \
                     make all workloads of the service agree",
                    lease.id
                );
                return Err(Refusal::Conflict(text));
            }
            ports.clone_from(&definition.ports);
        }
        for port in &service.ports {
            match clash(&ports, port) {
                None => ports.push(port.clone()),
                Some(other) if other == port => {}
                Some(other) => {
                    let (mine, theirs) = (Shown(port), Shown(other));
                    let text = format!(
                        "workload {} serves {name} on port {mine}, region {region} defines {theirs}; \
                         make all workloads of the service agree",
                        lease.id
                    );
                    return Err(Refusal::Conflict(text));
                }
            }
        }
        ports.sort_by_key(|port| port.number);
        let definition = Definition {
            ports,
            headless: service.headless,
            created_at: before.map_or(self.at, |definition| definition.created_at),
            empty_since: None,
        };
        self.put_definition(name, region, definition);
        Ok(())
    }

    /// Notes since when nobody serves a service any more.
    fn retire(&mut self, region: &RegionId, name: &ServiceName) {
        let is_served = self
            .state
            .endpoints(name)
            .any(|endpoint| endpoint.locality.region == *region);
        if is_served {
            return;
        }
        if let Some(definition) = self.state.own_definition(name) {
            let mut definition = Definition::clone(definition);
            definition.empty_since = Some(self.at);
            self.put_definition(name, region, definition);
        }
    }

    pub(super) fn put_endpoints(&mut self, region: &RegionId, lease: &WorkloadLease, unverified: bool) {
        for service in &lease.services {
            self.put_endpoint(Endpoint {
                id: service.endpoint.clone(),
                service: service.name.clone(),
                locality: Locality {
                    region: region.clone(),
                    zone: lease.zone.clone(),
                },
                cluster: lease.cluster.clone(),
                address: lease.address,
                inbound_port: lease.inbound_port,
                state: lease.state,
                weight: lease.weight,
                capacity_rps: lease.capacity_rps,
                labels: lease.labels.clone(),
                identity: lease.identity.clone(),
                ports: service.ports.iter().map(|port| port.number).collect(),
                unverified,
                hostname: lease.hostname.clone(),
            });
        }
    }

    pub(super) fn set_workload_state(&mut self, id: &WorkloadId, epoch: u64, state: EndpointState) -> Outcome {
        let region = self.own_region()?;
        let hold = self.state.workloads.get(id).filter(|hold| hold.epoch == epoch);
        let hold = hold.ok_or_else(|| Refusal::StaleLease(format!("workload {id}")))?;
        let mut lease = WorkloadLease::clone(&hold.lease);
        lease.state = state;
        // Who reports a state lives, whatever the lapse said.
        self.put_endpoints(&region, &lease, false);
        let hold = WorkloadHold {
            epoch,
            lease: Arc::new(lease),
            unverified: false,
        };
        self.put_workload(id, hold);
        Ok(Reply::Done)
    }

    pub(super) fn attach_gateway(&mut self, lease: &GatewayLease) -> Outcome {
        let region = self.own_region()?;
        let id = &lease.gateway.id;
        if lease.gateway.region != region {
            return Err(not_owner(format!("gateway {id}"), &lease.gateway.region));
        }
        if let Some(other) = self.state.gateways.get(id)
            && other.region != region
        {
            return Err(not_owner(format!("gateway {id}"), &other.region));
        }
        let epoch = self.next_epoch();
        self.put_gateway(lease.gateway.clone());
        let hold = GatewayHold {
            epoch,
            lease: Arc::new(lease.clone()),
            unverified: false,
        };
        self.put_gateway_lease(id, hold);
        let endpoints = Vec::new();
        Ok(Reply::Attached { epoch, endpoints })
    }

    pub(super) fn set_gateway_state(&mut self, id: &GatewayId, epoch: u64, state: EndpointState) -> Outcome {
        let hold = self.state.gateway_leases.get(id).filter(|hold| hold.epoch == epoch);
        let hold = hold.ok_or_else(|| Refusal::StaleLease(format!("gateway {id}")))?;
        let mut lease = GatewayLease::clone(&hold.lease);
        lease.gateway.state = state;
        self.put_gateway(lease.gateway.clone());
        let hold = GatewayHold {
            epoch,
            lease: Arc::new(lease),
            unverified: false,
        };
        self.put_gateway_lease(id, hold);
        Ok(Reply::Done)
    }

    pub(super) fn detach(&mut self, lessee: &Lessee, epoch: u64) -> Outcome {
        let (current, what) = match lessee {
            Lessee::Workload(id) => (self.state.workload(id).map(|hold| hold.epoch), format!("workload {id}")),
            Lessee::Gateway(id) => (
                self.state.gateway_lease(id).map(|hold| hold.epoch),
                format!("gateway {id}"),
            ),
        };
        if current.is_some_and(|current| current != epoch) {
            return Err(Refusal::StaleLease(what));
        }
        let outcome = self.withdraw(lessee)?;
        if let Lessee::Workload(id) = lessee {
            self.note_left(id);
        }
        Ok(outcome)
    }

    /// Everything that a lease stands for goes.
    pub(super) fn withdraw(&mut self, lessee: &Lessee) -> Outcome {
        let region = self.own_region()?;
        match lessee {
            Lessee::Workload(id) => {
                let lease = self.state.workloads.get(id).map(|hold| Arc::clone(&hold.lease));
                self.remove_workload(id);
                for service in lease.iter().flat_map(|lease| &lease.services) {
                    self.remove_endpoint(&service.name, &service.endpoint);
                    self.retire(&region, &service.name);
                }
            }
            Lessee::Gateway(id) => {
                if self.state.gateway_leases.contains_key(id) {
                    self.remove_gateway_lease(id);
                    self.remove_gateway(id);
                }
            }
        }
        Ok(Reply::Done)
    }
}
