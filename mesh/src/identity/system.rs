//! Who may act for a region: the identities of its infrastructure, all in one namespace that no tenant can own. Pure.

use std::fmt;

use super::{SpiffeId, TrustDomain};

/// The namespace of the infrastructure. Only tokens that an operator made for a gateway or an operator may name it.
pub const NAMESPACE: &str = "isthmus-system";

/// What a piece of infrastructure does; its service account has the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A node of a region's registry.
    Registry,
    /// An east-west gateway.
    Gateway,
    /// A person or program that runs the region.
    Operator,
}

impl Role {
    /// The name of its service account.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }

    /// The identity of this role in a trust domain.
    #[must_use]
    pub fn id(self, domain: &TrustDomain) -> SpiffeId {
        domain.with_path(&format!("/ns/{NAMESPACE}/sa/{}", self.as_str()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of all nodes of a region's registry.
#[must_use]
pub fn registry(domain: &TrustDomain) -> SpiffeId {
    Role::Registry.id(domain)
}

/// The identity of a region's gateways.
#[must_use]
pub fn gateway(domain: &TrustDomain) -> SpiffeId {
    Role::Gateway.id(domain)
}

/// The identity of those who run a region.
#[must_use]
pub fn operator(domain: &TrustDomain) -> SpiffeId {
    Role::Operator.id(domain)
}

/// The role of an identity, whatever its trust domain; the caller still has to compare that.
#[must_use]
pub fn role(id: &SpiffeId) -> Option<Role> {
    let account = id
        .path()
        .strip_prefix("/ns/")?
        .strip_prefix(NAMESPACE)?
        .strip_prefix("/sa/")?;
    [Role::Registry, Role::Gateway, Role::Operator]
        .into_iter()
        .find(|role| role.as_str() == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_told_from_workloads() {
        let domain = TrustDomain::parse("eu").unwrap();
        assert_eq!(registry(&domain).as_str(), "spiffe://eu/ns/isthmus-system/sa/registry");
        for (text, expected) in [
            ("spiffe://eu/ns/isthmus-system/sa/registry", Some(Role::Registry)),
            ("spiffe://us/ns/isthmus-system/sa/gateway", Some(Role::Gateway)),
            ("spiffe://eu/ns/isthmus-system/sa/operator", Some(Role::Operator)),
            ("spiffe://eu/ns/isthmus-system/sa/other", None),
            ("spiffe://eu/ns/isthmus-system/sa/registry/x", None),
            ("spiffe://eu/ns/isthmus-system2/sa/registry", None),
            ("spiffe://eu/ns/shop/sa/registry", None),
            ("spiffe://eu", None),
        ] {
            assert_eq!(role(&SpiffeId::parse(text).unwrap()), expected, "{text}");
        }
    }
}
