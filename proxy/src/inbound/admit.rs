//! Who may reach what here: the server name must name a service and port of this workload (and no other endpoint than its
//! own), and the caller must be one whom the service lets in. Pure.

use mesh::{
    identity::{Sni, SniError, SpiffeId, TrustDomain},
    model::{EndpointId, ServiceName, View},
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
    /// Of a peer's trust domain, to which the service is not exported.
    #[error("caller {0} is of another trust domain, and {1} is not exported to its region; export it there")]
    NotExported(SpiffeId, ServiceName),
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
            Self::NotExported(..) => "not-exported",
            Self::Anonymous | Self::NotAllowed(..) => "not-allowed",
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
    view: &View,
    served: &Served,
) -> Result<SpiffeId, Denied> {
    let caller = caller.ok_or(Denied::Anonymous)?;
    let domain = caller.trust_domain();
    if domain != *own && !view.is_exported_to(&served.service, &domain) {
        return Err(Denied::NotExported(caller.clone(), served.service.clone()));
    }
    match &served.allow {
        Some(allow) if !allow.contains(caller) => Err(Denied::NotAllowed(caller.clone(), served.service.clone())),
        _ => Ok(caller.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh::model::{Audience, Held, Protocol, RegionId, RegionStatus, Resource, Service, Timestamp, Update};

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

    /// The view of region eu, which exports `pay.shop` to us and federates with ap, too.
    fn view() -> View {
        let region = |name: &str| RegionId::parse(name).expect("valid");
        let peer = |name: &str| {
            Resource::Region(RegionStatus {
                region: region(name),
                trust_domain: TrustDomain::parse(name).expect("valid"),
                round_trip: None,
                heard_at: Timestamp(0),
                connected: true,
                tenant_proxies: BTreeMap::new(),
            })
        };
        let service = Service {
            name: ServiceName::parse("pay.shop").expect("valid"),
            ports: Vec::new(),
            virtual_ips: Vec::new(),
            origins: vec![region("eu")],
            created_at: Timestamp(0),
            conflict: String::new(),
            headless: false,
            exported_to: Audience::Regions([region("us")].into()),
        };
        View::default().updated(Update {
            region: region("eu"),
            held: Held::default(),
            full: true,
            upserts: vec![peer("us"), peer("ap"), Resource::Service(service)],
            removed: Vec::new(),
            committed_at: None,
        })
    }

    #[test]
    fn callers_are_judged_by_export_and_list() {
        let own = TrustDomain::parse("eu").expect("valid");
        let ids = ["eu", "us", "ap", "zz"].map(|domain| format!("spiffe://{domain}/ns/shop/sa/web"));
        let [near, far, other, stranger] = ids.each_ref().map(String::as_str);
        let word = |caller: Option<&str>, view: &View, allow: Option<&[&str]>| {
            let caller = caller.map(|id| SpiffeId::parse(id).expect("valid"));
            let judged = judge(caller.as_ref(), &own, view, &served(allow));
            judged.err().map(|denied| denied.word())
        };
        let view = view();
        assert_eq!(word(Some(near), &view, None), None);
        assert_eq!(word(Some(far), &view, None), None);
        assert_eq!(
            word(Some(other), &view, None),
            Some("not-exported"),
            "a peer that was not granted it"
        );
        assert_eq!(
            word(Some(stranger), &view, None),
            Some("not-exported"),
            "no peer's trust domain"
        );
        assert_eq!(
            word(Some(far), &View::default(), None),
            Some("not-exported"),
            "nothing is known yet"
        );
        assert_eq!(word(None, &view, None), Some("not-allowed"));
        assert_eq!(word(Some(far), &view, Some(&[far])), None);
        assert_eq!(word(Some(near), &view, Some(&[far])), Some("not-allowed"));
    }
}
