//! Names: from Host, `:authority` or a DNS question to a service, its port and perhaps one region. The name that resolves
//! is the name that routes, so DNS reads names here, too. Pure.

use std::net::IpAddr;

use thiserror::Error;

use crate::model::{IdError, Namespace, Protocol, RegionId, Service, ServiceName, View};

/// Suffixes under which a service has its mesh-wide name, longest first.
const SERVICE_SUFFIXES: [&str; 3] = [".svc.clusterset.local", ".svc.cluster.local", ".svc"];
/// Suffix of names that one region answers alone: `<name>.<namespace>.svc.<region>.region.isthmus`.
const REGION_SUFFIX: &str = ".region.isthmus";
/// The port of a name that gives none, where the service has it.
const PORT_DEFAULT: u16 = 80;

/// What a name means, without its port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The service; it need not exist.
    pub service: ServiceName,
    /// Only this region, without failover.
    pub region: Option<RegionId>,
}

/// Where a request wants to go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The service; it exists in the view that was asked.
    pub service: ServiceName,
    /// One of its ports.
    pub port: u16,
    /// What that port speaks.
    pub protocol: Protocol,
    /// Only this region, without failover.
    pub region: Option<RegionId>,
}

/// Why a text is no name of a service.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Not in a form that the mesh knows.
    #[error("{0:?} is no name of the mesh; use <service>.<namespace>")]
    Foreign(String),
    /// In such a form, with a bad label.
    #[error(transparent)]
    Label(#[from] IdError),
}

/// Why a request cannot be routed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The port is no number from 1 to 65535.
    #[error("{0:?} has a bad port; use a number from 1 to 65535")]
    Port(String),
    /// A virtual address that belongs to nobody.
    #[error("no service has the address {0}")]
    Address(IpAddr),
    /// The service is not in the view.
    #[error("service {0} is not known here; is it registered, or exported to this region?")]
    Unknown(ServiceName),
    /// The service lacks the port.
    #[error("service {service} has no port {port}; it has {known}")]
    NoPort {
        /// The service.
        service: ServiceName,
        /// The port that was asked for.
        port: u16,
        /// The ports that it has.
        known: String,
    },
    /// No port was asked for and several would do.
    #[error("service {service} has several ports; name one of {known}")]
    WhichPort {
        /// The service.
        service: ServiceName,
        /// The ports that it has.
        known: String,
    },
}

/// Reads a name without port, in any case and with or without the final dot. `own` completes a bare `name`.
///
/// # Errors
/// When it has none of the forms of the mesh, or a bad label.
pub fn read_name(text: &str, own: &Namespace) -> Result<Name, NameError> {
    let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if let Some(rest) = lower.strip_suffix(REGION_SUFFIX) {
        let foreign = || NameError::Foreign(short(text));
        let (service, region) = rest.rsplit_once(".svc.").ok_or_else(foreign)?;
        return Ok(Name {
            service: ServiceName::parse(service)?,
            region: Some(RegionId::parse(region)?),
        });
    }
    let stem = SERVICE_SUFFIXES.iter().find_map(|suffix| lower.strip_suffix(suffix));
    let service = match (stem, lower.matches('.').count()) {
        (Some(stem), _) => ServiceName::parse(stem)?,
        (None, 0) => ServiceName::new(&lower, own.clone())?,
        (None, 1) => ServiceName::parse(&lower)?,
        (None, _) => return Err(NameError::Foreign(short(text))),
    };
    Ok(Name { service, region: None })
}

/// Finds what an authority (`name`, `name:port`, a virtual address with or without port) means in a view.
///
/// # Errors
/// Each names what to write instead.
pub fn resolve(authority: &str, view: &View, own: &Namespace) -> Result<Target, TargetError> {
    let (host, port) = split(authority)?;
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let name = match bare.parse::<IpAddr>() {
        Ok(address) => Name {
            service: view.service_at(address).ok_or(TargetError::Address(address))?.clone(),
            region: None,
        },
        Err(_) => read_name(host, own)?,
    };
    let Some((service, _)) = view.service(&name.service) else {
        return Err(TargetError::Unknown(name.service));
    };
    let (port, protocol) = choose_port(service, port)?;
    Ok(Target {
        service: name.service,
        port,
        protocol,
        region: name.region,
    })
}

fn choose_port(service: &Service, asked: Option<u16>) -> Result<(u16, Protocol), TargetError> {
    let known = || {
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| format!("{} ({})", port.number, port.protocol))
            .collect();
        if ports.is_empty() {
            "none".to_owned()
        } else {
            ports.join(", ")
        }
    };
    let name = || service.name.clone();
    if let Some(number) = asked {
        let port = service.port(number).ok_or_else(|| TargetError::NoPort {
            service: name(),
            port: number,
            known: known(),
        })?;
        return Ok((port.number, port.protocol));
    }
    if let Some(port) = service.port(PORT_DEFAULT) {
        return Ok((port.number, port.protocol));
    }
    let mut http = service.ports.iter().filter(|port| port.protocol.is_http());
    match (http.next(), http.next(), service.ports.as_slice()) {
        (Some(only), None, _) | (None, _, [only]) => Ok((only.number, only.protocol)),
        (None, _, []) => Err(TargetError::NoPort {
            service: name(),
            port: PORT_DEFAULT,
            known: known(),
        }),
        _ => Err(TargetError::WhichPort {
            service: name(),
            known: known(),
        }),
    }
}

fn split(authority: &str) -> Result<(&str, Option<u16>), TargetError> {
    // An IPv6 address without brackets has colons of its own.
    if authority.parse::<IpAddr>().is_ok() {
        return Ok((authority, None));
    }
    let after_bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let Some(colon) = authority[after_bracket..].rfind(':').map(|at| at + after_bracket) else {
        return Ok((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let number = port.parse::<u16>().ok().filter(|number| digits && *number > 0);
    number
        .map(|number| (host, Some(number)))
        .ok_or_else(|| TargetError::Port(short(authority)))
}

/// A hostile text is not repeated at length.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Held, Incarnation, Port, Resource, Revision, Timestamp, Update};

    fn shop() -> Namespace {
        Namespace::parse("shop").expect("valid")
    }

    fn view(services: &[(&str, &[(u16, Protocol)])]) -> View {
        let upserts = services.iter().map(|(name, ports)| {
            let name = ServiceName::parse(name).expect("valid");
            Resource::Service(Service {
                virtual_ips: crate::model::virtual_ips(&name, 0).to_vec(),
                name,
                ports: ports
                    .iter()
                    .map(|(number, protocol)| Port {
                        name: String::new(),
                        number: *number,
                        protocol: *protocol,
                    })
                    .collect(),
                origins: Vec::new(),
                created_at: Timestamp(1),
                conflict: String::new(),
                exported_to: crate::model::Audience::Nobody,
                headless: false,
            })
        });
        View::default().updated(Update {
            region: RegionId::parse("eu").expect("valid"),
            held: Held {
                incarnation: Incarnation(1),
                revision: Revision(1),
            },
            full: true,
            upserts: upserts.collect(),
            removed: Vec::new(),
            committed_at: None,
        })
    }

    #[test]
    fn all_forms_of_a_name_mean_the_same_service() {
        for text in [
            "pay.shop",
            "PAY.Shop",
            "pay.shop.",
            "pay",
            "pay.shop.svc",
            "pay.shop.svc.cluster.local",
            "pay.shop.svc.clusterset.local.",
        ] {
            let name = read_name(text, &shop()).expect(text);
            assert_eq!(name.service.to_string(), "pay.shop", "{text}");
            assert_eq!(name.region, None);
        }
        let name = read_name("pay.shop.svc.us.region.isthmus", &shop()).expect("region name");
        assert_eq!(name.service.to_string(), "pay.shop");
        assert_eq!(name.region, RegionId::parse("us").ok());
    }

    #[test]
    fn other_names_are_refused() {
        for text in [
            "",
            ".",
            "example.co.uk",
            "a.b.shop.svc.cluster.local",
            "pay.shop.us.region.isthmus",
            "pay_.shop",
            "svc.cluster.local",
            ".shop",
            "pay.shop..",
        ] {
            assert!(read_name(text, &shop()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ports_are_found_or_named() {
        let view = view(&[
            ("web.shop", &[(80, Protocol::Http), (9090, Protocol::Http)]),
            ("pay.shop", &[(8080, Protocol::Grpc), (5432, Protocol::Tcp)]),
            ("db.shop", &[(5432, Protocol::Tcp)]),
            ("two.shop", &[(8080, Protocol::Http), (8081, Protocol::Http)]),
        ]);
        let port = |authority| resolve(authority, &view, &shop()).map(|target| (target.port, target.protocol));
        assert_eq!(port("web.shop"), Ok((80, Protocol::Http)));
        assert_eq!(port("web.shop:9090"), Ok((9090, Protocol::Http)));
        assert_eq!(port("pay"), Ok((8080, Protocol::Grpc)), "the only HTTP port");
        assert_eq!(port("db"), Ok((5432, Protocol::Tcp)), "the only port");
        let text = |authority| port(authority).expect_err(authority).to_string();
        assert!(text("two").contains("8080 (http), 8081 (http)"), "{}", text("two"));
        assert!(text("web:81").contains("no port 81; it has 80 (http), 9090 (http)"));
        assert!(text("web:0").contains("bad port"));
        assert!(text("web:").contains("bad port"));
        assert!(text("web:+80").contains("bad port"));
        assert!(text("nobody.shop").contains("not known here"));
    }

    #[test]
    fn virtual_addresses_route_too() {
        let view = view(&[("web.shop", &[(80, Protocol::Http)])]);
        let [v4, v6] = crate::model::virtual_ips(&ServiceName::parse("web.shop").expect("valid"), 0);
        for authority in [
            v4.to_string(),
            format!("{v4}:80"),
            v6.to_string(),
            format!("[{v6}]"),
            format!("[{v6}]:80"),
        ] {
            let target = resolve(&authority, &view, &shop()).expect(&authority);
            assert_eq!((target.service.to_string().as_str(), target.port), ("web.shop", 80));
        }
        assert_eq!(
            resolve("10.0.0.1:80", &view, &shop()),
            Err(TargetError::Address("10.0.0.1".parse().expect("address")))
        );
    }
}
