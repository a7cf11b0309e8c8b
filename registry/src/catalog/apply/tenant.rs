//! Tenants of this region. Pure.

use mesh::model::{Namespace, Tenant, TenantId};

use super::{Outcome, Transaction, not_found, not_owner};
use crate::catalog::{Refusal, Reply};

impl Transaction<'_> {
    pub(super) fn put_home_tenant(&mut self, tenant: &Tenant) -> Outcome {
        let own = self.own_region()?;
        let owner = self
            .state
            .tenants
            .get(&tenant.id)
            .map_or(&tenant.region, |old| &old.region);
        if *owner != own {
            return Err(not_owner(format!("tenant {}", tenant.id), owner));
        }
        if let Some((namespace, other)) = self.namespace_taken(tenant) {
            let text = format!(
                "namespace {namespace} belongs to tenant {other} and cannot belong to {} too",
                tenant.id
            );
            return Err(Refusal::Conflict(text));
        }
        self.put_tenant(tenant.clone());
        self.grant_first(tenant);
        Ok(Reply::Done)
    }

    pub(super) fn remove_home_tenant(&mut self, id: &TenantId) -> Outcome {
        let own = self.own_region()?;
        let tenant = self.state.tenants.get(id).ok_or_else(|| not_found("tenant", id))?;
        if tenant.region != own {
            return Err(not_owner(format!("tenant {id}"), &tenant.region));
        }
        self.remove_tenant(id);
        self.forget_holding(id);
        Ok(Reply::Done)
    }

    /// A namespace of the tenant that another one owns.
    pub(super) fn namespace_taken(&self, tenant: &Tenant) -> Option<(Namespace, TenantId)> {
        let mut owners = tenant.namespaces.iter().filter_map(|namespace| {
            let owner = self.state.owners.get(namespace)?;
            Some((namespace.clone(), owner.clone()))
        });
        owners.find(|(_, owner)| *owner != tenant.id)
    }
}
