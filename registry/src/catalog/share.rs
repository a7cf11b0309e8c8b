//! Keeps once what records repeat: a lease and its endpoints have the same labels and ids, and all records have few names of
//! services, regions, zones and identities between them. Changes what a catalogue weighs, and nothing that it says. Pure.

use mesh::model::{Endpoint, ServiceName};

use super::{State, WorkloadLease};

impl State {
    /// A service's name as the maps have it.
    pub(super) fn known(&self, name: ServiceName) -> ServiceName {
        match self.definitions.get_key_value(&name) {
            Some((known, _)) => known.clone(),
            None => name,
        }
    }

    /// For an endpoint that is about to be kept.
    pub(super) fn share_endpoint(&mut self, endpoint: &mut Endpoint) {
        match self.definitions.get_key_value(&endpoint.service) {
            Some((known, _)) => endpoint.service = known.clone(),
            None => endpoint.service.share(&mut self.texts),
        }
        endpoint.share(&mut self.texts);
    }

    /// For a lease that is about to be kept; its endpoints are made of it, or were kept before.
    pub(super) fn share_lease(&mut self, lease: &mut WorkloadLease) {
        lease.namespace.share(&mut self.texts);
        lease.service_account.share(&mut self.texts);
        lease.identity.share(&mut self.texts);
        lease.cluster.share(&mut self.texts);
        lease.zone.share(&mut self.texts);
        lease.services.shrink_to_fit();
        lease.hostname.shrink_to_fit();
        for service in &mut lease.services {
            if let Some((known, _)) = self.definitions.get_key_value(&service.name) {
                service.name = known.clone();
            }
            service.ports.shrink_to_fit();
            let kept = self.endpoints.get(&service.name);
            if let Some(kept) = kept.and_then(|kept| kept.get(&service.endpoint)) {
                service.endpoint = kept.id.clone();
                lease.labels.share(&kept.labels);
            }
        }
    }
}
