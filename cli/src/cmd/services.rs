//! `isthmus services`, `endpoints` and `resolve`: what the catalogue holds, and what a name leads to.

use proto::{
    admin::v1::{
        EndpointList, Export, ListEndpointsRequest, ListServicesRequest, ReleaseUnverifiedRequest, ResolveReply,
        ResolveRequest, ServiceList,
    },
    registry::v1::{Endpoint, EndpointState},
};

use super::Context;
use crate::{
    args::{EndpointsArgs, ResolveArgs},
    failure::{Exit, Failure, Outcome},
    render::Table,
};

pub(super) async fn list(context: &Context, namespace: String) -> Outcome {
    let client = context.client().await?;
    let read = client.read();
    let request = ListServicesRequest { read, namespace };
    let services = client
        .call(|mut admin| async move { admin.list_services(request).await })
        .await?;
    context.printer.show(&services, listed)
}

fn listed(list: &ServiceList) -> String {
    let mut table = Table::new(&[
        "SERVICE",
        "PORTS",
        "READY",
        "ENDPOINTS",
        "ORIGINS",
        "EXPORTED TO",
        "ADDRESS",
    ]);
    let mut conflicts = String::new();
    for row in &list.services {
        let Some(service) = &row.service else { continue };
        let ports: Vec<String> = service
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.number, port.protocol))
            .collect();
        table.row([
            format!("{}.{}", service.name, service.namespace),
            ports.join(","),
            row.ready.to_string(),
            row.endpoints.to_string(),
            service.origins.join(","),
            row.export.as_ref().map(audience).unwrap_or_default(),
            service.virtual_ips.first().cloned().unwrap_or_default(),
        ]);
        if !service.conflict.is_empty() {
            conflicts.push_str(&format!(
                "\n{}.{}: {}",
                service.name, service.namespace, service.conflict
            ));
        }
    }
    let mut text = table.text("no services; a proxy with a [[service]] section registers one");
    if !conflicts.is_empty() {
        text.push_str("\nregions disagree about (the oldest export wins):");
        text.push_str(&conflicts);
    }
    text
}

/// To whom an export goes.
pub(super) fn audience(export: &Export) -> String {
    if export.to_all {
        "all".to_owned()
    } else {
        export.to.join(",")
    }
}

pub(super) async fn endpoints(context: &Context, args: EndpointsArgs) -> Outcome {
    let client = context.client().await?;
    let Some(service) = args.service else {
        // The only other form is release-unverified.
        let done = client
            .call(|mut admin| async move { admin.release_unverified(ReleaseUnverifiedRequest {}).await })
            .await?;
        return context
            .printer
            .show(&done, |_| "unverified endpoints are removed".to_owned());
    };
    let request = ListEndpointsRequest {
        read: client.read(),
        service: service.clone(),
    };
    let endpoints = client
        .call(|mut admin| async move { admin.list_endpoints(request).await })
        .await?;
    context.printer.show(&endpoints, |list: &EndpointList| {
        table(&list.endpoints).text(&format!("{service} has no endpoints; who would register it?"))
    })
}

fn table(endpoints: &[Endpoint]) -> Table {
    let mut table = Table::new(&[
        "ENDPOINT", "LOCALITY", "CLUSTER", "ADDRESS", "STATE", "WEIGHT", "IDENTITY",
    ]);
    for endpoint in endpoints {
        table.row([
            endpoint.id.clone(),
            locality(endpoint),
            endpoint.cluster.clone(),
            address(endpoint),
            state(endpoint),
            endpoint.weight.to_string(),
            endpoint.spiffe_id.clone(),
        ]);
    }
    table
}

pub(super) fn locality(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.region, endpoint.zone)
}

fn address(endpoint: &Endpoint) -> String {
    if endpoint.address.contains(':') {
        format!("[{}]:{}", endpoint.address, endpoint.inbound_port)
    } else {
        format!("{}:{}", endpoint.address, endpoint.inbound_port)
    }
}

pub(super) fn state(endpoint: &Endpoint) -> String {
    let name = match endpoint.state() {
        EndpointState::Ready => "ready",
        EndpointState::Serving => "serving",
        EndpointState::Draining => "draining",
        EndpointState::Maintenance => "maintenance",
        EndpointState::Unhealthy => "unhealthy",
        EndpointState::Unspecified => "unspecified",
    };
    let doubt = if endpoint.unverified { " (unverified)" } else { "" };
    format!("{name}{doubt}")
}

/// Splits `REGION[/ZONE]`.
pub(super) fn place(text: &str) -> (String, String) {
    let (region, zone) = text.split_once('/').unwrap_or((text, ""));
    (region.to_owned(), zone.to_owned())
}

pub(super) async fn resolve(context: &Context, args: ResolveArgs) -> Outcome {
    let client = context.client().await?;
    let (from_region, from_zone) = place(&args.from);
    let request = ResolveRequest {
        read: client.read(),
        name: args.name.clone(),
        from_region,
        from_zone,
    };
    let reply = client
        .call(|mut admin| async move { admin.resolve(request).await })
        .await?;
    context.printer.show(&reply, resolved)?;
    if reply.code == "NXDOMAIN" {
        return Err(
            Failure::text(Exit::NotFound, format!("{} does not resolve in this region", args.name))
                .next("`isthmus services` lists what does; a peer's service must be exported there and accepted here"),
        );
    }
    Ok(())
}

fn resolved(reply: &ResolveReply) -> String {
    let mut text = reply.code.clone();
    for record in &reply.records {
        text.push('\n');
        text.push_str(record);
    }
    if !reply.endpoints.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(&reply.endpoints).text(""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_may_leave_the_zone_out() {
        assert_eq!(place("eu/b"), ("eu".to_owned(), "b".to_owned()));
        assert_eq!(place("eu"), ("eu".to_owned(), String::new()));
        assert_eq!(place(""), (String::new(), String::new()));
    }

    #[test]
    fn endpoint_row_shows_doubt_and_brackets_ipv6() {
        let endpoint = Endpoint {
            address: "fd00::1".into(),
            inbound_port: 15006,
            state: EndpointState::Ready.into(),
            unverified: true,
            ..Endpoint::default()
        };
        let text = table(&[endpoint]).text("none");
        assert!(
            text.contains("[fd00::1]:15006") && text.contains("ready (unverified)"),
            "{text}"
        );
    }
}
