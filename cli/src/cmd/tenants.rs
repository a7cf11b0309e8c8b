//! `isthmus tenants`: who owns which namespaces, and how much of the mesh they may use.

use mesh::{model::Timestamp, runtime::clock};
use proto::{
    admin::v1::{PutTenantRequest, RemoveTenantRequest, TenantList},
    registry::v1::{Quota, Tenant},
};

use super::Context;
use crate::{
    args::{TenantArgs, TenantsArgs, TenantsCommand},
    failure::Outcome,
    render::{Table, limit},
};

pub(super) async fn run(context: &Context, args: TenantsArgs) -> Outcome {
    let client = context.client().await?;
    match args.command {
        None => {
            let read = client.read().unwrap_or_default();
            let tenants = client
                .call(|mut admin| async move { admin.list_tenants(read).await })
                .await?;
            context.printer.show(&tenants, |list| listed(list, clock::wall()))
        }
        Some(TenantsCommand::Set(args)) => {
            let tenant = tenant(args);
            let name = tenant.id.clone();
            let request = PutTenantRequest { tenant: Some(tenant) };
            let done = client
                .call(|mut admin| async move { admin.put_tenant(request).await })
                .await?;
            context.printer.show(&done, |_| format!("tenant {name} is set"))
        }
        Some(TenantsCommand::Remove { name }) => {
            let request = RemoveTenantRequest { id: name.clone() };
            let done = client
                .call(|mut admin| async move { admin.remove_tenant(request).await })
                .await?;
            context.printer.show(&done, |_| format!("tenant {name} is removed"))
        }
    }
}

fn tenant(args: TenantArgs) -> Tenant {
    Tenant {
        id: args.name,
        namespaces: args.namespaces,
        quota: Some(Quota {
            requests_per_second: args.requests_per_second,
            burst: args.burst.unwrap_or(args.requests_per_second),
            services: args.services,
            endpoints: args.endpoints,
        }),
        // The registry that is asked owns the record.
        region: String::new(),
    }
}

fn listed(list: &TenantList, now: Timestamp) -> String {
    let mut table = Table::new(&[
        "TENANT",
        "NAMESPACES",
        "HOME",
        "REQUESTS/S",
        "BURST",
        "SERVICES",
        "ENDPOINTS",
        "PROXIES HERE",
        "IN ALL",
        "REGION/S",
        "SHARE/S",
    ]);
    let mut leases = Table::new(&[
        "TENANT",
        "REGION",
        "FLOOR/S",
        "LEASE/S",
        "ENDS IN",
        "EPOCH",
        "KEPT TO",
        "USED/S",
        "REFUSED/S",
    ]);
    for row in &list.tenants {
        let Some(tenant) = &row.tenant else { continue };
        let quota = tenant.quota.unwrap_or_default();
        table.row([
            tenant.id.clone(),
            tenant.namespaces.join(","),
            tenant.region.clone(),
            limit(quota.requests_per_second),
            limit(quota.burst),
            limit(quota.services.into()),
            limit(quota.endpoints.into()),
            row.proxies_here.to_string(),
            row.proxies_everywhere.to_string(),
            if quota.requests_per_second > 0.0 {
                number(row.region_rate)
            } else {
                String::new()
            },
            if quota.requests_per_second > 0.0 {
                limit(row.share_rate)
            } else {
                String::new()
            },
        ]);
        for lease in &row.leases {
            leases.row([
                tenant.id.clone(),
                lease.region.clone(),
                number(lease.floor),
                if lease.expired { "-".into() } else { number(lease.rate) },
                ends(lease.expires_at_ms, now),
                lease.epoch.to_string(),
                if lease.acknowledged { "yes" } else { "not yet" }.into(),
                number(lease.used),
                number(lease.refused),
            ]);
        }
    }
    let text =
        table.text("no tenants; add one with `isthmus tenants set NAME --namespaces a,b --requests-per-second N`");
    if list.tenants.iter().all(|row| row.leases.is_empty()) {
        return text;
    }
    format!("{text}\n\n{}", leases.text(""))
}

fn number(rate: f64) -> String {
    let text = format!("{rate:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ends(at_ms: i64, now: Timestamp) -> String {
    match at_ms {
        0 => "-".into(),
        at if at <= now.0 => "over".into(),
        at => format!("{} s", Timestamp(at).since(now).as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_defaults_to_one_second_of_the_rate() {
        let args = |burst| TenantArgs {
            name: "acme".into(),
            namespaces: vec!["shop".into()],
            requests_per_second: 20.0,
            burst,
            services: 0,
            endpoints: 0,
        };
        assert_eq!(tenant(args(None)).quota.unwrap().burst, 20.0);
        assert_eq!(tenant(args(Some(5.0))).quota.unwrap().burst, 5.0);
    }
}
