//! Decides what an agent may register: a proxy its own workload, a gateway itself. Promises that what passes keeps every
//! bound of the catalogue and names nobody but the caller; proposes nothing. Pure.

use std::collections::BTreeSet;

use mesh::{
    identity::{SpiffeId, TrustDomain, system},
    model::{EndpointId, EndpointState, Gateway, Namespace, NodeId, Port, RegionId, ServiceName, WireError},
};
use proto::registry::v1 as pb;
use thiserror::Error;

use crate::catalog::{GatewayLease, WorkloadLease, WorkloadService};

const TEXT_BYTES_MAX: usize = 256;
/// An RFC 1123 label.
const HOSTNAME_BYTES_MAX: usize = 63;
const WEIGHT_DEFAULT: u32 = 100;
const WEIGHT_MAX: u32 = 1000;

/// How many of each a registration may have: settings, at most what the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// `limits.workload_services`.
    pub services: usize,
    /// `limits.workload_labels`.
    pub labels: usize,
    /// `limits.service_ports`.
    pub ports: usize,
}

/// Why a registration is turned away.
#[derive(Debug, Error)]
pub(crate) enum Turned {
    /// The connection carries no SVID.
    #[error("registering needs a client certificate; get one with a join token first")]
    Anonymous,
    /// The SVID is another one's.
    #[error("{caller} may not register {what}; {hint}")]
    NotYours {
        /// Who asked.
        caller: SpiffeId,
        /// For what.
        what: String,
        /// What would be right.
        hint: String,
    },
    /// A field breaks a bound.
    #[error(transparent)]
    Field(#[from] WireError),
}

/// What a registration is judged by.
pub(crate) struct Judge<'a> {
    /// From the client's certificate; none = it showed none.
    pub caller: Option<&'a SpiffeId>,
    /// The region of this registry.
    pub region: &'a RegionId,
    /// Its trust domain: only its own workloads register here.
    pub trust_domain: &'a TrustDomain,
    /// The identity of gateways.
    pub gateway: &'a SpiffeId,
    /// The node that holds the stream.
    pub holder: NodeId,
    /// How much a registration may hold.
    pub counts: Counts,
}

impl Judge<'_> {
    fn caller(&self) -> Result<&SpiffeId, Turned> {
        self.caller.ok_or(Turned::Anonymous)
    }

    /// A workload as the catalogue takes it. `endpoint` gives the id for each service: the known one, or a fresh one.
    pub(crate) fn workload(
        &self,
        message: pb::Workload,
        mut endpoint: impl FnMut(&ServiceName) -> EndpointId,
    ) -> Result<WorkloadLease, Turned> {
        let identity = self.caller()?.clone();
        let namespace: Namespace = field("workload.namespace", message.namespace.parse())?;
        let service_account = field("workload.service_account", message.service_account.parse())?;
        let own = self.trust_domain.workload(&namespace, &service_account);
        if own != identity || namespace.as_str() == system::NAMESPACE {
            return Err(Turned::NotYours {
                what: format!("a workload of {own}"),
                hint: "a proxy registers the namespace and service account of its own certificate".to_owned(),
                caller: identity,
            });
        }
        check_text(&message, self.counts)?;
        let mut names = BTreeSet::new();
        let mut services = Vec::with_capacity(message.services.len());
        for service in message.services {
            let name = field(
                "workload.services.name",
                ServiceName::new(&service.name, namespace.clone()),
            )?;
            if !names.insert(name.clone()) {
                return Err(WireError::new("workload.services.name", format!("{name} is listed twice")).into());
            }
            let endpoint = endpoint(&name);
            services.push(WorkloadService {
                ports: ports(service.ports, self.counts.ports)?,
                headless: service.headless,
                name,
                endpoint,
            });
        }
        let weight = if message.weight == 0 {
            WEIGHT_DEFAULT
        } else {
            message.weight.min(WEIGHT_MAX)
        };
        Ok(WorkloadLease {
            id: field("workload.id", message.id.parse())?,
            namespace,
            service_account,
            identity,
            cluster: field("workload.cluster", message.cluster.parse())?,
            zone: field("workload.zone", message.zone.parse())?,
            address: field("workload.address", message.address.parse())?,
            inbound_port: inbound_port(message.inbound_port)?,
            services,
            state: state(message.state),
            labels: message.labels.into_iter().collect(),
            weight,
            capacity_rps: message.capacity_rps,
            hostname: message.hostname,
            holder: self.holder,
        })
    }

    /// A gateway as the catalogue takes it. Region and identity may be left empty: they can only be the caller's.
    pub(crate) fn gateway(&self, mut message: pb::Gateway) -> Result<GatewayLease, Turned> {
        let identity = self.caller()?.clone();
        if message.region.is_empty() {
            message.region = self.region.to_string();
        }
        if message.spiffe_id.is_empty() {
            message.spiffe_id = identity.to_string();
        }
        let gateway = Gateway::try_from(message)?;
        if identity != *self.gateway || gateway.identity != identity || gateway.region != *self.region {
            return Err(Turned::NotYours {
                what: format!(
                    "gateway {} of {} in region {}",
                    gateway.id, gateway.identity, gateway.region
                ),
                hint: format!(
                    "a gateway registers itself, as {} in region {}",
                    self.gateway, self.region
                ),
                caller: identity,
            });
        }
        Ok(GatewayLease {
            gateway,
            holder: self.holder,
        })
    }
}

/// A state as an agent reports it; one that a newer agent knows counts as unhealthy.
pub(crate) fn state(raw: i32) -> EndpointState {
    pb::EndpointState::try_from(raw).unwrap_or_default().into()
}

fn field<T, E: ToString>(name: &'static str, parsed: Result<T, E>) -> Result<T, WireError> {
    parsed.map_err(|fault| WireError::new(name, fault))
}

fn at_most(name: &'static str, len: usize, max: usize) -> Result<(), WireError> {
    if len > max {
        return Err(WireError::new(name, format!("{len} is more than the allowed {max}")));
    }
    Ok(())
}

/// As above, for a bound that an operator can change.
fn within(name: &'static str, len: usize, max: usize, setting: &str) -> Result<(), WireError> {
    if len > max {
        let fault = format!("{len} is more than the {max} that {setting} allows");
        return Err(WireError::new(name, fault));
    }
    Ok(())
}

fn check_text(message: &pb::Workload, counts: Counts) -> Result<(), WireError> {
    let (services, labels) = (message.services.len(), message.labels.len());
    within(
        "workload.services",
        services,
        counts.services,
        "limits.workload_services",
    )?;
    within("workload.labels", labels, counts.labels, "limits.workload_labels")?;
    for (key, value) in &message.labels {
        at_most("workload.labels", key.len().max(value.len()), TEXT_BYTES_MAX)?;
    }
    at_most("workload.hostname", message.hostname.len(), HOSTNAME_BYTES_MAX)?;
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if !message.hostname.bytes().all(label) || message.hostname.starts_with('-') || message.hostname.ends_with('-') {
        return Err(WireError::new(
            "workload.hostname",
            "is no RFC 1123 label; leave it empty or use lower-case letters, digits and '-'",
        ));
    }
    Ok(())
}

fn inbound_port(number: u32) -> Result<u16, WireError> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => Err(WireError::new("workload.inbound_port", "must be 1 to 65535")),
    }
}

fn ports(raw: Vec<pb::Port>, most: usize) -> Result<Vec<Port>, WireError> {
    const FIELD: &str = "workload.services.ports";
    within(FIELD, raw.len(), most, "limits.service_ports")?;
    if raw.is_empty() {
        return Err(WireError::new(FIELD, "is empty; a service has at least one port"));
    }
    let ports: Vec<Port> = raw.into_iter().map(Port::try_from).collect::<Result<_, _>>()?;
    let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
    for port in &ports {
        if !numbers.insert(port.number) {
            return Err(WireError::new(FIELD, format!("{} is listed twice", port.number)));
        }
        if !names.insert(port.name.as_str()) {
            let fault = format!(
                "name {:?} is used twice; with several ports each needs its own",
                port.name
            );
            return Err(WireError::new(FIELD, fault));
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> pb::Workload {
        pb::Workload {
            id: "pay-1".into(),
            namespace: "shop".into(),
            service_account: "pay".into(),
            cluster: "eu-a".into(),
            zone: "a".into(),
            address: "10.0.0.7".into(),
            inbound_port: 15006,
            services: vec![pb::WorkloadService {
                name: "pay".into(),
                ports: vec![pb::Port {
                    name: String::new(),
                    number: 80,
                    protocol: "http".into(),
                }],
                headless: false,
            }],
            state: pb::EndpointState::Ready.into(),
            ..pb::Workload::default()
        }
    }

    fn judged<T>(caller: Option<&str>, judge: impl FnOnce(&Judge<'_>) -> Result<T, Turned>) -> Result<T, Turned> {
        let trust_domain = TrustDomain::parse("eu").expect("valid");
        let region = RegionId::parse("eu").expect("valid");
        let gateway = SpiffeId::parse("spiffe://eu/ns/isthmus-system/sa/gateway").expect("valid");
        let caller = caller.map(|id| SpiffeId::parse(id).expect("valid"));
        judge(&Judge {
            caller: caller.as_ref(),
            region: &region,
            trust_domain: &trust_domain,
            gateway: &gateway,
            holder: NodeId(1),
            counts: Counts {
                services: 32,
                labels: 64,
                ports: 64,
            },
        })
    }

    fn fixed(_: &ServiceName) -> EndpointId {
        EndpointId::parse("ep-1").expect("valid")
    }

    #[test]
    fn a_proxy_registers_only_its_own_workload() {
        let own = "spiffe://eu/ns/shop/sa/pay";
        let lease = judged(Some(own), |judge| judge.workload(workload(), fixed)).expect("its own");
        assert_eq!((lease.weight, lease.identity.as_str()), (100, own));
        for other in [
            "spiffe://eu/ns/shop/sa/cart",
            "spiffe://eu/ns/bank/sa/pay",
            "spiffe://us/ns/shop/sa/pay",
            "spiffe://eu/ns/isthmus-system/sa/gateway",
            "spiffe://eu/ns/isthmus-system/sa/operator",
            "spiffe://eu/other",
        ] {
            let refused = judged(Some(other), |judge| judge.workload(workload(), fixed));
            assert!(matches!(refused, Err(Turned::NotYours { .. })), "{other}");
        }
        let refused = judged(None, |judge| judge.workload(workload(), fixed));
        assert!(matches!(refused, Err(Turned::Anonymous)));
    }

    #[test]
    fn a_system_identity_is_no_workload() {
        let mut message = workload();
        (message.namespace, message.service_account) = ("isthmus-system".into(), "gateway".into());
        let caller = Some("spiffe://eu/ns/isthmus-system/sa/gateway");
        let refused = judged(caller, |judge| judge.workload(message, fixed));
        assert!(matches!(refused, Err(Turned::NotYours { .. })));
    }

    #[test]
    fn only_a_gateway_registers_a_gateway() {
        let message = |region: &str| pb::Gateway {
            id: "gw-1".into(),
            region: region.into(),
            cluster: "eu-a".into(),
            address: "gw.eu:15443".into(),
            ..pb::Gateway::default()
        };
        let gateway = Some("spiffe://eu/ns/isthmus-system/sa/gateway");
        let lease = judged(gateway, |judge| judge.gateway(message(""))).expect("itself");
        assert_eq!(lease.gateway.region.as_str(), "eu");
        for (caller, region) in [
            (gateway, "us"),
            (Some("spiffe://eu/ns/shop/sa/pay"), ""),
            (Some("spiffe://us/ns/isthmus-system/sa/gateway"), ""),
        ] {
            let refused = judged(caller, |judge| judge.gateway(message(region)));
            assert!(matches!(refused, Err(Turned::NotYours { .. })), "{caller:?} {region}");
        }
    }

    #[test]
    fn a_bad_field_is_named() {
        type Spoil = fn(&mut pb::Workload);
        let cases: [(&str, Spoil); 10] = [
            (
                "workload.services: 33 is more than the 32 that limits.workload_services",
                |w| {
                    w.services = vec![w.services[0].clone(); 33];
                },
            ),
            (
                "workload.services.ports: 65 is more than the 64 that limits.service_ports",
                |w| {
                    w.services[0].ports = vec![w.services[0].ports[0].clone(); 65];
                },
            ),
            ("workload.id", |w| w.id = "A".into()),
            ("workload.address", |w| w.address = "here".into()),
            ("workload.inbound_port", |w| w.inbound_port = 0),
            ("workload.services.name", |w| w.services.push(w.services[0].clone())),
            ("workload.services.ports", |w| w.services[0].ports.clear()),
            ("workload.services.ports", |w| {
                let port = w.services[0].ports[0].clone();
                w.services[0].ports.push(port);
            }),
            ("workload.hostname", |w| w.hostname = "a.b".into()),
            ("workload.labels", |w| {
                w.labels.insert("k".into(), "v".repeat(300));
            }),
        ];
        for (name, spoil) in cases {
            let mut message = workload();
            spoil(&mut message);
            let error = judged(Some("spiffe://eu/ns/shop/sa/pay"), |judge| {
                judge.workload(message, fixed)
            })
            .expect_err(name)
            .to_string();
            assert!(error.starts_with(name), "{name}: {error}");
        }
    }
}
