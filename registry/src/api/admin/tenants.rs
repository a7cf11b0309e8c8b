//! Tenants: who owns which namespaces, and what they may spend.

use mesh::model::{Tenant, TenantId, WireError};
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::{Error, outward::field},
    catalog::Command,
};

impl Admin {
    pub(crate) async fn list_tenants(&self, options: pb::ReadOptions) -> Result<pb::TenantList, Error> {
        let reading = self.read(Some(options)).await?;
        let state = &reading.state;
        let row = |tenant: &std::sync::Arc<Tenant>| pb::TenantRow {
            proxies_here: state.proxies_here(tenant),
            proxies_everywhere: state.proxies_everywhere(tenant),
            share_rate: state.share(&tenant.id).map_or(0.0, |share| share.rate),
            tenant: Some((**tenant).clone().into()),
        };
        Ok(pb::TenantList {
            tenants: state.tenants().map(row).collect(),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn put_tenant(&self, request: pb::PutTenantRequest) -> Result<pb::Committed, Error> {
        let mut tenant = request.tenant.ok_or_else(|| WireError::new("tenant", "is missing"))?;
        if tenant.region.is_empty() {
            // A tenant is made at home.
            tenant.region = self.parts.config.region.to_string();
        }
        let tenant = Tenant::try_from(tenant)?;
        self.committed(Command::PutTenant(tenant)).await
    }

    pub(crate) async fn remove_tenant(&self, request: pb::RemoveTenantRequest) -> Result<pb::Committed, Error> {
        let id: TenantId = field("id", request.id.parse())?;
        self.committed(Command::RemoveTenant(id)).await
    }
}
