//! Who may have which identity: whoever redeemed a token has what the token grants, whoever still has a good certificate
//! has the same identity again. Nobody names an identity of their own. Pure.

use std::time::Duration;

use mesh::identity::{Role, SpiffeId, TrustDomain, system};
use thiserror::Error;

use crate::catalog::Grant;

/// Life of a workload's, a gateway's and a node's certificate: renewed at half of it.
pub const TTL: Duration = Duration::from_secs(3600);
/// Life of an operator's certificate, which nobody renews in the background; no other is longer.
pub const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What a caller shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof<'a> {
    /// A token that the catalogue has just redeemed.
    Token(&'a Grant),
    /// The certificate of its connection, verified and still good.
    Svid(&'a SpiffeId),
}

/// The decision: sign this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warrant {
    /// For whom.
    pub id: SpiffeId,
    /// For how long.
    pub ttl: Duration,
}

/// Why nothing is signed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Denial {
    /// Peers have a root of their own.
    #[error("a peer token grants no certificate here; use it with the command that joins a peer")]
    PeerToken,
    /// Only a node token makes a registry node, and only known roles are infrastructure.
    #[error("a workload token grants no identity {0}")]
    Infrastructure(SpiffeId),
    /// Another region's members renew there.
    #[error("{0} belongs to another trust domain; it is renewed by its own region")]
    Foreign(SpiffeId),
}

/// Decides.
///
/// # Errors
/// Why not.
pub fn decide(proof: Proof<'_>, domain: &TrustDomain) -> Result<Warrant, Denial> {
    let id = match proof {
        Proof::Token(Grant::Workload {
            namespace,
            service_account,
        }) => {
            let id = domain.workload(namespace, service_account);
            let granted = matches!(system::role(&id), Some(Role::Gateway | Role::Operator));
            if namespace.as_str() == system::NAMESPACE && !granted {
                return Err(Denial::Infrastructure(id));
            }
            id
        }
        Proof::Token(Grant::Node) => system::registry(domain),
        Proof::Token(Grant::Peer { .. }) => return Err(Denial::PeerToken),
        Proof::Svid(id) if id.trust_domain() != *domain => return Err(Denial::Foreign(id.clone())),
        Proof::Svid(id) => id.clone(),
    };
    let ttl = match system::role(&id) {
        Some(Role::Operator) => TTL_MAX,
        Some(Role::Registry | Role::Gateway) | None => TTL,
    };
    Ok(Warrant { id, ttl })
}

#[cfg(test)]
mod tests {
    use mesh::model::{Namespace, ServiceAccount};

    use super::*;

    fn workload(namespace: &str, account: &str) -> Grant {
        Grant::Workload {
            namespace: Namespace::parse(namespace).unwrap(),
            service_account: ServiceAccount::parse(account).unwrap(),
        }
    }

    #[test]
    fn a_token_grants_what_it_says_and_no_more() {
        let domain = TrustDomain::parse("eu").unwrap();
        for (grant, expected) in [
            (workload("shop", "pay"), Some(("spiffe://eu/ns/shop/sa/pay", TTL))),
            (
                workload("shop", "registry"),
                Some(("spiffe://eu/ns/shop/sa/registry", TTL)),
            ),
            (Grant::Node, Some(("spiffe://eu/ns/isthmus-system/sa/registry", TTL))),
            (
                workload("isthmus-system", "gateway"),
                Some(("spiffe://eu/ns/isthmus-system/sa/gateway", TTL)),
            ),
            (
                workload("isthmus-system", "operator"),
                Some(("spiffe://eu/ns/isthmus-system/sa/operator", TTL_MAX)),
            ),
            (workload("isthmus-system", "registry"), None),
            (workload("isthmus-system", "other"), None),
            (Grant::Peer { for_region: None }, None),
        ] {
            let got = decide(Proof::Token(&grant), &domain).ok();
            let got = got.as_ref().map(|warrant| (warrant.id.as_str(), warrant.ttl));
            assert_eq!(got, expected, "{grant:?}");
        }
    }

    #[test]
    fn a_certificate_renews_itself_at_home_only() {
        let domain = TrustDomain::parse("eu").unwrap();
        let own = SpiffeId::parse("spiffe://eu/ns/shop/sa/pay").unwrap();
        let foreign = SpiffeId::parse("spiffe://us/ns/shop/sa/pay").unwrap();
        assert_eq!(decide(Proof::Svid(&own), &domain).map(|it| it.id), Ok(own));
        assert_eq!(
            decide(Proof::Svid(&foreign), &domain),
            Err(Denial::Foreign(foreign.clone()))
        );
    }
}
