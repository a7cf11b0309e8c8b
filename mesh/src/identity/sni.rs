//! The name under which one service port of the mesh is called through gateways: Istio's SNI form
//! `outbound_.<port>_.<subset>_.<name>.<namespace>.svc.cluster.local`. The subset slot is empty or names an endpoint.
//! Also the ALPN tokens that travel with it. A name that does not fit DNS's bounds is refused when it is made. Pure.

use std::{fmt, str::FromStr};

use rustls_pki_types::ServerName;
use thiserror::Error;

use crate::model::{EndpointId, Namespace, ServiceName};

/// A list of ALPN tokens, best first.
pub type Alpn = &'static [&'static [u8]];

/// No ALPN at all.
pub const ALPN_NONE: Alpn = &[];
/// gRPC between daemons, and what an inbound proxy answers to HTTP.
pub const ALPN_H2: Alpn = &[b"h2"];
/// What an outbound proxy offers for HTTP. The first two open the filter chains of Istio's gateways.
pub const ALPN_HTTP_CLIENT: Alpn = &[b"istio-h2", b"istio", b"h2"];
/// What an outbound proxy offers for opaque TCP.
pub const ALPN_TCP_CLIENT: Alpn = &[b"istio"];

const ISTIO_TOKENS: [&[u8]; 5] = [
    b"istio",
    b"istio-peer-exchange",
    b"istio-http/1.0",
    b"istio-http/1.1",
    b"istio-h2",
];
const DIRECTION: &str = "outbound";
const SUFFIX: &str = ".svc.cluster.local";
/// Longest DNS name, in bytes.
const NAME_BYTES_MAX: usize = 253;
/// Longest DNS label, in bytes; the subset slot is a label that ends in `_`.
const LABEL_BYTES_MAX: usize = 63;

/// Whether a ClientHello's ALPN says that mesh traffic follows.
pub fn has_istio_token<'a>(offered: impl IntoIterator<Item = &'a [u8]>) -> bool {
    offered.into_iter().any(|token| ISTIO_TOKENS.contains(&token))
}

/// Why a name is none of the mesh.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SniError {
    /// Not the four slots, or not below `svc.cluster.local`.
    #[error("server name is not of the form outbound_.<port>_.<subset>_.<name>.<namespace>.svc.cluster.local")]
    Form,
    /// No number from 1 to 65535 in its plain form.
    #[error("server name has no port from 1 to 65535 in its port slot")]
    Port,
    /// No endpoint id.
    #[error("server name has no endpoint id in its subset slot")]
    Subset,
    /// No service name.
    #[error("server name has no <name>.<namespace> in its service slot")]
    Service,
    /// The name would have more than 253 bytes.
    #[error("server name has {bytes} bytes, more than the 253 of DNS; shorten the service, namespace or endpoint id")]
    TooLong {
        /// How many.
        bytes: usize,
    },
    /// The subset slot, with its underscore, would have more than 63 bytes.
    #[error("endpoint id has {bytes} bytes, more than the 62 that fit the subset slot of a server name")]
    SubsetTooLong {
        /// How many.
        bytes: usize,
    },
}

/// A parsed name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sni {
    /// The service's port, not the application's.
    pub port: u16,
    /// The endpoint that the caller picked; none = any.
    pub subset: Option<EndpointId>,
    /// The service.
    pub service: ServiceName,
}

impl Sni {
    /// Puts a name together and checks that it fits.
    ///
    /// # Errors
    /// Port 0, or a name or label that DNS has no room for.
    pub fn new(service: ServiceName, port: u16, subset: Option<EndpointId>) -> Result<Self, SniError> {
        if port == 0 {
            return Err(SniError::Port);
        }
        let sni = Self { port, subset, service };
        sni.check_size()?;
        Ok(sni)
    }

    /// Whether any endpoint id of the longest kind fits behind this service and port; asked when a service is exported.
    ///
    /// # Errors
    /// How long the name would be.
    pub fn check_export(service: &ServiceName, port: u16, subset_bytes_max: usize) -> Result<(), SniError> {
        let bytes = format!("{DIRECTION}_.{port}_._.{service}{SUFFIX}").len() + subset_bytes_max;
        if bytes > NAME_BYTES_MAX {
            return Err(SniError::TooLong { bytes });
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), SniError> {
        if let Some(bytes) = self.subset.as_ref().map(|id| id.as_str().len())
            && bytes >= LABEL_BYTES_MAX
        {
            return Err(SniError::SubsetTooLong { bytes });
        }
        let bytes = self.to_string().len();
        if bytes > NAME_BYTES_MAX {
            return Err(SniError::TooLong { bytes });
        }
        Ok(())
    }

    /// The form that TLS takes.
    ///
    /// # Errors
    /// When the name does not fit; never for one that [`Sni::new`] or parsing made.
    pub fn server_name(&self) -> Result<ServerName<'static>, SniError> {
        self.check_size()?;
        ServerName::try_from(self.to_string()).map_err(|_| SniError::Form)
    }
}

impl FromStr for Sni {
    type Err = SniError;

    /// DNS names have no case, so ASCII upper case is read as lower case.
    fn from_str(text: &str) -> Result<Self, SniError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(SniError::TooLong { bytes: text.len() });
        }
        let text = text.to_ascii_lowercase();
        let mut slots = text.splitn(4, "_.");
        let (Some(DIRECTION), Some(port), Some(subset), Some(host)) =
            (slots.next(), slots.next(), slots.next(), slots.next())
        else {
            return Err(SniError::Form);
        };
        if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) || port.starts_with('0') {
            return Err(SniError::Port);
        }
        let port = port.parse().map_err(|_| SniError::Port)?;
        let subset = match subset {
            "" => None,
            id => Some(EndpointId::parse(id).map_err(|_| SniError::Subset)?),
        };
        let host = host.strip_suffix(SUFFIX).ok_or(SniError::Form)?;
        let (name, namespace) = host.split_once('.').ok_or(SniError::Service)?;
        let namespace = Namespace::parse(namespace).map_err(|_| SniError::Service)?;
        let service = ServiceName::new(name, namespace).map_err(|_| SniError::Service)?;
        Self::new(service, port, subset)
    }
}

impl fmt::Display for Sni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subset = self.subset.as_ref().map_or("", EndpointId::as_str);
        write!(f, "{DIRECTION}_.{}_.{subset}_.{}{SUFFIX}", self.port, self.service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, namespace: &str) -> ServiceName {
        ServiceName::new(name, Namespace::parse(namespace).unwrap()).unwrap()
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for text in [
            "outbound_.80_._.pay.shop.svc.cluster.local",
            "outbound_.8080_.ep-7f3a9c_.pay.shop.svc.cluster.local",
            "outbound_.65535_._.a.b.svc.cluster.local",
        ] {
            let sni: Sni = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(sni.to_string(), text);
            assert!(sni.server_name().is_ok(), "{text} is legal in a ClientHello");
        }
        let sni: Sni = "OUTBOUND_.80_.EP-1_.Pay.Shop.svc.Cluster.local".parse().unwrap();
        assert_eq!(sni.to_string(), "outbound_.80_.ep-1_.pay.shop.svc.cluster.local");
    }

    #[test]
    fn other_names_are_refused() {
        for (text, fault) in [
            ("", SniError::Form),
            ("pay.shop", SniError::Form),
            ("inbound_.80_._.pay.shop.svc.cluster.local", SniError::Form),
            ("outbound.80.pay.shop.svc.cluster.local", SniError::Form),
            ("outbound_.80_.pay.shop.svc.cluster.local", SniError::Form),
            ("outbound_.80_._.pay.shop.svc.clusterset.local", SniError::Form),
            ("outbound_.80_._.pay.shop.svc.cluster.local.", SniError::Form),
            ("outbound_.0_._.pay.shop.svc.cluster.local", SniError::Port),
            ("outbound_.080_._.pay.shop.svc.cluster.local", SniError::Port),
            ("outbound_.+80_._.pay.shop.svc.cluster.local", SniError::Port),
            ("outbound_.65536_._.pay.shop.svc.cluster.local", SniError::Port),
            ("outbound_._._.pay.shop.svc.cluster.local", SniError::Port),
            ("outbound_.80_.v_1_.pay.shop.svc.cluster.local", SniError::Subset),
            ("outbound_.80_.a.b_.pay.shop.svc.cluster.local", SniError::Subset),
            ("outbound_.80_._.pay.svc.cluster.local", SniError::Service),
            ("outbound_.80_._.pay.shop.x.svc.cluster.local", SniError::Service),
            ("outbound_.80_._..shop.svc.cluster.local", SniError::Service),
            ("outbound_.80_._.*.shop.svc.cluster.local", SniError::Service),
        ] {
            assert_eq!(text.parse::<Sni>(), Err(fault), "{text}");
        }
        let long = format!("outbound_.80_._.{}.svc.cluster.local", "a".repeat(300));
        assert!(matches!(long.parse::<Sni>(), Err(SniError::TooLong { .. })));
    }

    #[test]
    fn names_that_do_not_fit_dns_cannot_be_made() {
        let longest = service(&"a".repeat(63), &"b".repeat(63));
        let fits = Sni::new(
            longest.clone(),
            65535,
            Some(EndpointId::parse(&"c".repeat(62)).unwrap()),
        );
        let fits = fits.expect("the longest labels fit");
        assert!(fits.to_string().len() <= 253);
        assert!(fits.server_name().is_ok());
        let subset = EndpointId::parse(&"c".repeat(63)).unwrap();
        assert_eq!(
            Sni::new(longest.clone(), 80, Some(subset)),
            Err(SniError::SubsetTooLong { bytes: 63 })
        );
        assert_eq!(Sni::new(longest.clone(), 0, None), Err(SniError::Port));
        assert!(Sni::check_export(&longest, 80, 62).is_ok());
        assert!(matches!(
            Sni::check_export(&longest, 80, 200),
            Err(SniError::TooLong { .. })
        ));
    }

    #[test]
    fn mesh_traffic_is_known_by_its_alpn() {
        assert!(has_istio_token(ALPN_HTTP_CLIENT.iter().copied()));
        assert!(has_istio_token(ALPN_TCP_CLIENT.iter().copied()));
        assert!(has_istio_token([b"istio-peer-exchange".as_slice(), b"h2"]));
        assert!(!has_istio_token(ALPN_H2.iter().copied()));
        assert!(!has_istio_token([b"istio-x".as_slice(), b"ISTIO"]));
        assert!(!has_istio_token(std::iter::empty()));
    }
}
