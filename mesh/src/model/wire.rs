//! Between protobuf messages and the model. Everything from outside passes here and is refused when it breaks a bound.

mod policy;
mod update;

use std::net::IpAddr;

use proto::registry::v1 as pb;
use thiserror::Error;

use super::{
    Audience, Endpoint, EndpointState, Gateway, Held, Incarnation, Key, Locality, Port, Resource, Revision, Service,
    ServiceName, Timestamp,
};
use crate::identity::{Bundle, SpiffeId, TrustDomain};

/// Most ports of a service, endpoints' ports included: an SRV answer must still fit a message.
const PORTS_MAX: usize = 64;
/// Most labels of an endpoint, and the longest key or value in bytes.
const LABELS_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 256;

/// A message that is not acceptable; names the field and the fault.
#[derive(Debug, Error)]
#[error("{field}: {fault}")]
pub struct WireError {
    field: &'static str,
    fault: String,
}

impl WireError {
    /// For faults that only the caller can see.
    pub fn new(field: &'static str, fault: impl ToString) -> Self {
        Self {
            field,
            fault: fault.to_string(),
        }
    }
}

fn field<T, E: ToString>(field: &'static str, parsed: Result<T, E>) -> Result<T, WireError> {
    parsed.map_err(|fault| WireError::new(field, fault))
}

fn at_most(name: &'static str, len: usize, max: usize) -> Result<(), WireError> {
    if len > max {
        Err(WireError::new(name, format!("{len} is more than the allowed {max}")))
    } else {
        Ok(())
    }
}

impl From<Held> for pb::Held {
    fn from(held: Held) -> Self {
        Self {
            incarnation: held.incarnation.0,
            revision: held.revision.0,
        }
    }
}

impl From<pb::Held> for Held {
    fn from(held: pb::Held) -> Self {
        Self {
            incarnation: Incarnation(held.incarnation),
            revision: Revision(held.revision),
        }
    }
}

impl From<EndpointState> for pb::EndpointState {
    fn from(state: EndpointState) -> Self {
        match state {
            EndpointState::Ready => Self::Ready,
            EndpointState::Serving => Self::Serving,
            EndpointState::Draining => Self::Draining,
            EndpointState::Maintenance => Self::Maintenance,
            EndpointState::Unhealthy => Self::Unhealthy,
        }
    }
}

impl From<pb::EndpointState> for EndpointState {
    /// A state that a newer version added counts as unhealthy: nothing is trusted that is not understood.
    fn from(state: pb::EndpointState) -> Self {
        match state {
            pb::EndpointState::Ready => Self::Ready,
            pb::EndpointState::Serving => Self::Serving,
            pb::EndpointState::Draining => Self::Draining,
            pb::EndpointState::Maintenance => Self::Maintenance,
            pb::EndpointState::Unhealthy | pb::EndpointState::Unspecified => Self::Unhealthy,
        }
    }
}

impl From<Port> for pb::Port {
    fn from(port: Port) -> Self {
        Self {
            name: port.name,
            number: port.number.into(),
            protocol: port.protocol.as_str().to_owned(),
        }
    }
}

impl TryFrom<pb::Port> for Port {
    type Error = WireError;
    fn try_from(port: pb::Port) -> Result<Self, WireError> {
        at_most("port.name", port.name.len(), 15)?;
        let number = port_number("port.number", port.number)?;
        Ok(Self {
            name: port.name,
            number,
            protocol: field("port.protocol", port.protocol.parse())?,
        })
    }
}

fn port_number(name: &'static str, number: u32) -> Result<u16, WireError> {
    let number = field(name, u16::try_from(number))?;
    if number == 0 {
        Err(WireError::new(name, "must be 1 to 65535"))
    } else {
        Ok(number)
    }
}

impl From<Service> for pb::Service {
    fn from(service: Service) -> Self {
        Self {
            name: service.name.name().to_owned(),
            namespace: service.name.namespace().to_string(),
            ports: service.ports.into_iter().map(Into::into).collect(),
            virtual_ips: service.virtual_ips.iter().map(IpAddr::to_string).collect(),
            origins: service.origins.iter().map(ToString::to_string).collect(),
            created_at_ms: service.created_at.0,
            conflict: service.conflict,
            headless: service.headless,
            exported_to_all: service.exported_to == Audience::Everybody,
            exported_to: match &service.exported_to {
                Audience::Regions(regions) => regions.iter().map(ToString::to_string).collect(),
                Audience::Nobody | Audience::Everybody => Vec::new(),
            },
        }
    }
}

impl TryFrom<pb::Service> for Service {
    type Error = WireError;
    fn try_from(service: pb::Service) -> Result<Self, WireError> {
        at_most("service.ports", service.ports.len(), PORTS_MAX)?;
        at_most("service.origins", service.origins.len(), TEXT_BYTES_MAX)?;
        let ips = service
            .virtual_ips
            .iter()
            .map(|ip| field("service.virtual_ips", ip.parse()));
        at_most("service.exported_to", service.exported_to.len(), TEXT_BYTES_MAX)?;
        let exported_to = service.exported_to.iter();
        let exported_to = exported_to.map(|region| field("service.exported_to", region.parse()));
        let origins = service
            .origins
            .iter()
            .map(|region| field("service.origins", region.parse()));
        Ok(Self {
            name: service_name(&service.name, &service.namespace)?,
            ports: service
                .ports
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            virtual_ips: ips.collect::<Result<_, _>>()?,
            origins: origins.collect::<Result<_, _>>()?,
            created_at: Timestamp(service.created_at_ms),
            conflict: service.conflict.chars().take(TEXT_BYTES_MAX).collect(),
            headless: service.headless,
            exported_to: match service.exported_to_all {
                true => Audience::Everybody,
                false if service.exported_to.is_empty() => Audience::Nobody,
                false => Audience::Regions(exported_to.collect::<Result<_, _>>()?),
            },
        })
    }
}

fn service_name(name: &str, namespace: &str) -> Result<ServiceName, WireError> {
    field(
        "service",
        ServiceName::new(name, field("namespace", namespace.parse())?),
    )
}

impl From<&Endpoint> for pb::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id.to_string(),
            service: endpoint.service.name().to_owned(),
            namespace: endpoint.service.namespace().to_string(),
            region: endpoint.locality.region.to_string(),
            cluster: endpoint.cluster.to_string(),
            zone: endpoint.locality.zone.to_string(),
            address: endpoint.address.to_string(),
            inbound_port: endpoint.inbound_port.into(),
            state: pb::EndpointState::from(endpoint.state).into(),
            weight: endpoint.weight,
            capacity_rps: endpoint.capacity_rps,
            labels: (&endpoint.labels).into(),
            spiffe_id: endpoint.identity.to_string(),
            ports: endpoint.ports.iter().copied().map(u32::from).collect(),
            unverified: endpoint.unverified,
            hostname: endpoint.hostname.clone(),
        }
    }
}

impl TryFrom<pb::Endpoint> for Endpoint {
    type Error = WireError;
    fn try_from(endpoint: pb::Endpoint) -> Result<Self, WireError> {
        at_most("endpoint.labels", endpoint.labels.len(), LABELS_MAX)?;
        at_most("endpoint.ports", endpoint.ports.len(), PORTS_MAX)?;
        at_most("endpoint.hostname", endpoint.hostname.len(), 63)?;
        for (key, value) in &endpoint.labels {
            at_most("endpoint.labels", key.len().max(value.len()), TEXT_BYTES_MAX)?;
        }
        let ports = endpoint
            .ports
            .iter()
            .map(|number| port_number("endpoint.ports", *number));
        Ok(Self {
            id: field("endpoint.id", endpoint.id.parse())?,
            service: service_name(&endpoint.service, &endpoint.namespace)?,
            locality: Locality {
                region: field("endpoint.region", endpoint.region.parse())?,
                zone: field("endpoint.zone", endpoint.zone.parse())?,
            },
            cluster: field("endpoint.cluster", endpoint.cluster.parse())?,
            address: field("endpoint.address", endpoint.address.parse())?,
            inbound_port: port_number("endpoint.inbound_port", endpoint.inbound_port)?,
            state: pb::EndpointState::try_from(endpoint.state).unwrap_or_default().into(),
            weight: endpoint.weight.clamp(1, 1000),
            capacity_rps: endpoint.capacity_rps,
            identity: field("endpoint.spiffe_id", endpoint.spiffe_id.parse())?,
            ports: ports.collect::<Result<_, _>>()?,
            labels: endpoint.labels.into_iter().collect(),
            unverified: endpoint.unverified,
            hostname: endpoint.hostname,
        })
    }
}

impl From<Gateway> for pb::Gateway {
    fn from(gateway: Gateway) -> Self {
        Self {
            id: gateway.id.to_string(),
            region: gateway.region.to_string(),
            cluster: gateway.cluster.to_string(),
            address: gateway.address,
            state: pb::EndpointState::from(gateway.state).into(),
            spiffe_id: gateway.identity.to_string(),
        }
    }
}

impl TryFrom<pb::Gateway> for Gateway {
    type Error = WireError;
    fn try_from(gateway: pb::Gateway) -> Result<Self, WireError> {
        at_most("gateway.address", gateway.address.len(), 261)?;
        if gateway
            .address
            .rsplit_once(':')
            .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
        {
            return Err(WireError::new(
                "gateway.address",
                format!("{:?} is not host:port", gateway.address),
            ));
        }
        Ok(Self {
            id: field("gateway.id", gateway.id.parse())?,
            region: field("gateway.region", gateway.region.parse())?,
            cluster: field("gateway.cluster", gateway.cluster.parse())?,
            address: gateway.address,
            state: pb::EndpointState::try_from(gateway.state).unwrap_or_default().into(),
            identity: field("gateway.spiffe_id", gateway.spiffe_id.parse())?,
        })
    }
}

impl From<Bundle> for pb::TrustBundle {
    fn from(bundle: Bundle) -> Self {
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            sequence: bundle.sequence(),
            anchors: bundle.anchors().map(|der| der.to_vec().into()).collect(),
            refresh_hint_seconds: bundle.refresh_hint().as_secs(),
            region: bundle.region().to_string(),
        }
    }
}

impl TryFrom<pb::TrustBundle> for Bundle {
    type Error = WireError;
    fn try_from(bundle: pb::TrustBundle) -> Result<Self, WireError> {
        at_most("bundle.anchors", bundle.anchors.len(), 16)?;
        let domain: TrustDomain = field("bundle.trust_domain", bundle.trust_domain.parse())?;
        let region = field("bundle.region", bundle.region.parse())?;
        let anchors = bundle.anchors.iter().map(|der| der.to_vec()).collect();
        field("bundle.anchors", Self::new(domain, region, bundle.sequence, anchors))
    }
}

impl From<Resource> for pb::Resource {
    fn from(resource: Resource) -> Self {
        use pb::resource::Kind;
        let kind = match resource {
            Resource::Service(service) => Kind::Service(service.into()),
            Resource::Endpoint(endpoint) => Kind::Endpoint(endpoint.as_ref().into()),
            Resource::Gateway(gateway) => Kind::Gateway(gateway.into()),
            Resource::Bundle(bundle) => Kind::TrustBundle(bundle.into()),
            Resource::Share(share) => Kind::TenantShare(share.into()),
            Resource::Override(order) => Kind::Override(order.into()),
            Resource::Tenant(tenant) => Kind::Tenant(tenant.into()),
            Resource::Region(status) => Kind::RegionStatus(status.into()),
            Resource::Lease(lease) => Kind::QuotaLease(lease.into()),
            Resource::Report(report) => Kind::LeaseReport(report.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::resource::Kind> for Resource {
    type Error = WireError;
    fn try_from(kind: pb::resource::Kind) -> Result<Self, WireError> {
        use pb::resource::Kind;
        Ok(match kind {
            Kind::Service(service) => Self::Service(service.try_into()?),
            Kind::Endpoint(endpoint) => Endpoint::try_from(endpoint)?.into(),
            Kind::Gateway(gateway) => Self::Gateway(gateway.try_into()?),
            Kind::TrustBundle(bundle) => Self::Bundle(bundle.try_into()?),
            Kind::TenantShare(share) => Self::Share(share.try_into()?),
            Kind::Override(order) => Self::Override(order.try_into()?),
            Kind::Tenant(tenant) => Self::Tenant(tenant.try_into()?),
            Kind::RegionStatus(status) => Self::Region(status.try_into()?),
            Kind::QuotaLease(lease) => Self::Lease(lease.try_into()?),
            Kind::LeaseReport(report) => Self::Report(report.try_into()?),
        })
    }
}

impl Key {
    /// Reads what `Display` writes.
    ///
    /// # Errors
    /// When the kind is not known or the id does not parse.
    pub fn parse(text: &str) -> Result<Self, WireError> {
        let (kind, id) = text
            .split_once('/')
            .ok_or_else(|| WireError::new("key", "has no '/'"))?;
        Ok(match kind {
            "service" => Self::Service(field("key", id.parse())?),
            "endpoint" => {
                let (service, id) = id
                    .split_once('/')
                    .ok_or_else(|| WireError::new("key", "endpoint has no id"))?;
                Self::Endpoint(field("key", service.parse())?, field("key", id.parse())?)
            }
            "gateway" => Self::Gateway(field("key", id.parse())?),
            "bundle" => Self::Bundle(field("key", id.parse())?),
            "share" => Self::Share(field("key", id.parse())?),
            "override" => Self::Override(field("key", id.parse())?),
            "tenant" => Self::Tenant(field("key", id.parse())?),
            "region" => Self::Region(field("key", id.parse())?),
            "lease" | "report" => policy::lease_key(kind == "lease", id)?,
            _ => return Err(WireError::new("key", "has an unknown kind")),
        })
    }
}

/// For messages that carry an ID as text.
impl TryFrom<&pb::IssueReply> for SpiffeId {
    type Error = WireError;
    fn try_from(reply: &pb::IssueReply) -> Result<Self, WireError> {
        field("spiffe_id", reply.spiffe_id.parse())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> pb::Endpoint {
        pb::Endpoint {
            id: "ep-1".into(),
            service: "pay".into(),
            namespace: "shop".into(),
            region: "eu".into(),
            cluster: "eu-1".into(),
            zone: "a".into(),
            address: "10.0.0.1".into(),
            inbound_port: 15006,
            state: pb::EndpointState::Ready.into(),
            weight: 100,
            spiffe_id: "spiffe://eu/ns/shop/sa/pay".into(),
            ports: vec![80],
            ..pb::Endpoint::default()
        }
    }

    #[test]
    fn an_endpoint_travels_unchanged() {
        let model = Endpoint::try_from(endpoint()).expect("valid");
        assert_eq!(pb::Endpoint::from(&model), endpoint());
    }

    #[test]
    fn a_bad_field_is_named() {
        type Spoil = fn(&mut pb::Endpoint);
        let cases: [(&str, Spoil); 6] = [
            ("endpoint.id", |e| e.id = "A".into()),
            ("service", |e| e.service = String::new()),
            ("endpoint.address", |e| e.address = "nowhere".into()),
            ("endpoint.inbound_port", |e| e.inbound_port = 70_000),
            ("endpoint.spiffe_id", |e| e.spiffe_id = "spiffe://EU/a".into()),
            ("endpoint.ports", |e| e.ports = vec![0]),
        ];
        for (name, spoil) in cases {
            let mut bad = endpoint();
            spoil(&mut bad);
            let error = Endpoint::try_from(bad).expect_err(name).to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }

    #[test]
    fn keys_read_what_they_write() {
        for text in [
            "service/pay.shop",
            "endpoint/pay.shop/ep-1",
            "bundle/eu.example",
            "region/eu",
            "share/acme",
            "lease/acme/us",
            "report/acme/us",
        ] {
            assert_eq!(Key::parse(text).expect(text).to_string(), text);
        }
        for bad in [
            "",
            "service",
            "service/pay",
            "endpoint/pay.shop",
            "thing/x",
            "lease/acme",
        ] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }
}
