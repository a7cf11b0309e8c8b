//! Who may reach what here: the server name must name a service and port of this workload (and no other endpoint than its
//! own), and the caller must be one whom the service lets in. Pure.

use mesh::{
    identity::{Sni, SniError, SpiffeId, TrustDomain},
    model::{EndpointId, ServiceName},
};
use thiserror::Error;

use super::settings::{Served, ServedPort};

/// Why a connection is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Denied {
    /// No server name at all.
    #[error("no server name")]
    NoName,
    /// None of the mesh's form.
    #[error(transparent)]
    Name(#[from] SniError),
    /// The workload does not serve it.
    #[error("{service}:{port} is not served here")]
    NotServed {
        /// The service that was asked for.
        service: ServiceName,
        /// Its port.
        port: u16,
    },
    /// The caller picked another endpoint, which had this address before, perhaps.
    #[error("endpoint {0} is not here")]
    OtherEndpoint(EndpointId),
    /// The caller did not say who it is.
    #[error("caller without certificate")]
    Anonymous,
    /// Not of the own trust domain, and no other one is let in.
    #[error("caller {0} is of another trust domain")]
    Foreign(SpiffeId),
    /// Not on the service's list.
    #[error("caller {0} is not allowed to call {1}")]
    NotAllowed(SpiffeId, ServiceName),
}

impl Denied {
    /// The word for a metric's label.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NoName | Self::Name(_) => "bad-name",
            Self::NotServed { .. } | Self::OtherEndpoint(_) => "not-served",
            Self::Anonymous | Self::Foreign(_) | Self::NotAllowed(..) => "not-allowed",
        }
    }
}

/// Finds what a server name asks for.
pub(crate) fn find<'a>(served: &'a [Served], name: Option<&str>) -> Result<(&'a Served, &'a ServedPort), Denied> {
    let sni: Sni = name.ok_or(Denied::NoName)?.parse()?;
    let not_served = || Denied::NotServed {
        service: sni.service.clone(),
        port: sni.port,
    };
    let service = served
        .iter()
        .find(|served| served.service == sni.service)
        .ok_or_else(not_served)?;
    let port = service
        .ports
        .iter()
        .find(|port| port.port == sni.port)
        .ok_or_else(not_served)?;
    match (&sni.subset, &service.endpoint) {
        (Some(asked), Some(own)) if asked != own => Err(Denied::OtherEndpoint(asked.clone())),
        _ => Ok((service, port)),
    }
}

/// Judges a caller whose certificate was verified against its own trust domain's bundle.
pub(crate) fn judge(
    caller: Option<&SpiffeId>,
    own: &TrustDomain,
    accept_peers: bool,
    served: &Served,
) -> Result<SpiffeId, Denied> {
    let caller = caller.ok_or(Denied::Anonymous)?;
    if !accept_peers && caller.trust_domain() != *own {
        return Err(Denied::Foreign(caller.clone()));
    }
    match &served.allow {
        Some(allow) if !allow.contains(caller) => Err(Denied::NotAllowed(caller.clone(), served.service.clone())),
        _ => Ok(caller.clone()),
    }
}

#[cfg(test)]
mod tests {
    use mesh::model::Protocol;

    use super::*;

    fn served(allow: Option<&[&str]>) -> Served {
        Served {
            service: ServiceName::parse("pay.shop").expect("valid"),
            endpoint: EndpointId::parse("ep-1").ok(),
            ports: vec![ServedPort {
                port: 80,
                protocol: Protocol::Http,
                application: ([127, 0, 0, 1], 8080).into(),
            }],
            allow: allow.map(|ids| ids.iter().map(|id| SpiffeId::parse(id).expect("valid")).collect()),
        }
    }

    #[test]
    fn only_what_is_served_is_found() {
        let served = [served(None)];
        for (name, word) in [
            (Some("outbound_.80_._.pay.shop.svc.cluster.local"), None),
            (Some("outbound_.80_.ep-1_.pay.shop.svc.cluster.local"), None),
            (
                Some("outbound_.80_.ep-2_.pay.shop.svc.cluster.local"),
                Some("not-served"),
            ),
            (Some("outbound_.81_._.pay.shop.svc.cluster.local"), Some("not-served")),
            (Some("outbound_.80_._.cart.shop.svc.cluster.local"), Some("not-served")),
            (Some("pay.shop"), Some("bad-name")),
            (None, Some("bad-name")),
        ] {
            let denied = find(&served, name).err().map(|denied| denied.word());
            assert_eq!(denied, word, "{name:?}");
        }
    }

    #[test]
    fn callers_are_judged_by_domain_and_list() {
        let own = TrustDomain::parse("eu").expect("valid");
        let (near, far) = ("spiffe://eu/ns/shop/sa/web", "spiffe://us/ns/shop/sa/web");
        let judge = |caller: Option<&str>, peers, allow: Option<&[&str]>| {
            let caller = caller.map(|id| SpiffeId::parse(id).expect("valid"));
            judge(caller.as_ref(), &own, peers, &served(allow)).is_ok()
        };
        assert!(judge(Some(near), false, None));
        assert!(judge(Some(far), true, None));
        assert!(!judge(Some(far), false, None));
        assert!(!judge(None, true, None));
        assert!(judge(Some(far), true, Some(&[far])));
        assert!(!judge(Some(near), true, Some(&[far])));
    }
}
