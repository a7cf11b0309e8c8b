//! Decides whether a hello may be relayed at all: a name of the mesh, a protocol of the mesh, a service that this cluster
//! exports. Which endpoint answers is decided by `resolve`.
//! Pure.

use mesh::{
    identity::{Sni, has_istio_token},
    model::{ClusterId, View},
    net::{hello::Hello, probe},
};

use crate::refusal::Refusal;

/// What a hello may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// An answer of the gateway itself.
    Probe,
    /// A tunnel to this port of this service.
    Tunnel(Sni),
}

/// Judges a hello by the view, which holds nothing but what this cluster exports.
pub(crate) fn admit(hello: &Hello, view: &View, cluster: &ClusterId) -> Result<Admission, Refusal> {
    if hello.server_name == probe::server_name(cluster) {
        return Ok(Admission::Probe);
    }
    let sni: Sni = hello.server_name.parse().map_err(|_| Refusal::ServerName)?;
    if !has_istio_token(hello.alpn.iter().map(Vec::as_slice)) {
        return Err(Refusal::Alpn);
    }
    let (service, entry) = view.service(&sni.service).ok_or(Refusal::NotExported)?;
    // The view is narrowed to what this cluster exports; a service with endpoints of other clusters alone is none of it.
    if !entry.endpoints.is_empty() && !entry.endpoints.values().any(|endpoint| endpoint.cluster == *cluster) {
        return Err(Refusal::NotExported);
    }
    service.port(sni.port).ok_or(Refusal::Port)?;
    Ok(Admission::Tunnel(sni))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world::{cluster, endpoint, service, view_of};

    fn hello(name: &str, alpn: &[&[u8]]) -> Hello {
        Hello {
            server_name: name.into(),
            alpn: alpn.iter().map(|token| token.to_vec()).collect(),
        }
    }

    #[test]
    fn only_exported_ports_by_mesh_names_and_protocols_are_admitted() {
        let mut elsewhere = endpoint("far-1", "far.shop", 1);
        elsewhere.cluster = ClusterId::parse("other").unwrap();
        let view = view_of(
            [service("pay.shop"), service("far.shop"), service("none.shop")],
            [endpoint("ep-1", "pay.shop", 1), elsewhere],
        );
        let good = "outbound_.80_._.pay.shop.svc.cluster.local";
        let mesh: &[&[u8]] = &[b"istio-h2", b"istio", b"h2"];
        for (name, alpn, outcome) in [
            (good, mesh, None),
            ("outbound_.80_.ep-1_.pay.shop.svc.cluster.local", mesh, None),
            ("outbound_.80_._.none.shop.svc.cluster.local", mesh, None),
            (good, &[], Some(Refusal::Alpn)),
            (good, &[b"h2", b"http/1.1"], Some(Refusal::Alpn)),
            ("pay.shop", mesh, Some(Refusal::ServerName)),
            ("probe.other.gateway.isthmus", mesh, Some(Refusal::ServerName)),
            (
                "outbound_.80_._.cart.shop.svc.cluster.local",
                mesh,
                Some(Refusal::NotExported),
            ),
            (
                "outbound_.80_._.far.shop.svc.cluster.local",
                mesh,
                Some(Refusal::NotExported),
            ),
            ("outbound_.81_._.pay.shop.svc.cluster.local", mesh, Some(Refusal::Port)),
        ] {
            let got = admit(&hello(name, alpn), &view, &cluster());
            assert_eq!(got.err(), outcome, "{name} {alpn:?}");
        }
        let probe = admit(
            &hello("probe.eu-1.gateway.isthmus", &[b"isthmus-probe"]),
            &view,
            &cluster(),
        );
        assert_eq!(probe, Ok(Admission::Probe));
    }
}
