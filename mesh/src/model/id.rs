//! Ids: each is its own type, so that swapped arguments do not compile, and each parses or refuses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use super::{
    Texts,
    text::{as_text, from_text},
};

/// Why a text is no id. Names the operand and what to check.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{what} {text:?} {fault}")]
pub struct IdError {
    what: &'static str,
    text: String,
    fault: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, fault: &'static str) -> Self {
        // A hostile text is not repeated at length.
        let text = text.chars().take(80).collect();
        Self { what, text, fault }
    }
}

/// Longest RFC 1123 label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

fn check_label(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty; give a name of lower-case letters, digits and '-'");
    }
    if text.len() > LABEL_BYTES_MAX {
        return Err("is longer than 63 characters");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("starts or ends with '-'");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err("has a character other than lower-case letters, digits and '-' (an RFC 1123 label)");
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// An RFC 1123 label: 1 to 63 lower-case letters, digits and inner hyphens.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// When it is no RFC 1123 label.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check_label(text).map_err(|fault| IdError::new($what, text, fault))?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Keeps the text once for all that have it.
            pub fn share(&mut self, texts: &mut Texts) {
                texts.share(&mut self.0);
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        as_text!($name);

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label!(
    /// A region: one replicated registry, by default one trust domain.
    RegionId, "region"
);
label!(
    /// A cluster: one network, inside which endpoints reach each other directly. A region has one or more.
    ClusterId, "cluster"
);
label!(
    /// A failure domain inside a region.
    Zone, "zone"
);
label!(
    /// A namespace, the unit that a tenant owns.
    Namespace, "namespace"
);
label!(
    /// The account that a workload runs as; with its namespace it is the workload's identity.
    ServiceAccount, "service account"
);
label!(
    /// A tenant: owner of namespaces, holder of a quota.
    TenantId, "tenant"
);
label!(
    /// One running copy of a service, unique in the mesh; fits the subset slot of an SNI.
    EndpointId, "endpoint id"
);
label!(
    /// One east-west gateway process, unique in the mesh.
    GatewayId, "gateway id"
);
label!(
    /// One workload (a proxy with its application); stable over restarts of its agent.
    WorkloadId, "workload id"
);
label!(
    /// One drill's override.
    OverrideId, "drill id"
);

/// A node of a region's registry; never used again after the node was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A service's name in its namespace; written `<name>.<namespace>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    namespace: Namespace,
    name: std::sync::Arc<str>,
}

impl ServiceName {
    /// Puts a name together.
    ///
    /// # Errors
    /// When `name` is no RFC 1123 label.
    pub fn new(name: &str, namespace: Namespace) -> Result<Self, IdError> {
        check_label(name).map_err(|fault| IdError::new("service", name, fault))?;
        Ok(Self {
            namespace,
            name: name.into(),
        })
    }

    /// Reads `<name>.<namespace>`.
    ///
    /// # Errors
    /// When the text has not exactly two labels or one of them is no RFC 1123 label.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let (name, namespace) = text
            .split_once('.')
            .ok_or_else(|| IdError::new("service", text, "has no namespace; write <name>.<namespace>"))?;
        Self::new(name, Namespace::parse(namespace)?)
    }

    /// The first label.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Keeps the text of the namespace once for all that have it.
    pub fn share(&mut self, texts: &mut Texts) {
        self.namespace.share(texts);
    }

    /// Keeps the text of the namespace once for both, where it is the same: thousands of names have a few namespaces.
    pub(super) fn share_namespace(&mut self, other: &Self) {
        if self.namespace == other.namespace {
            self.namespace = other.namespace.clone();
        }
    }
}

impl FromStr for ServiceName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

from_text!(ServiceName);

impl Serialize for ServiceName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Through the formatter it takes several times as long, and every record has some.
        let mut text = String::with_capacity(2 * LABEL_BYTES_MAX + 1);
        for part in [self.name(), ".", self.namespace.as_str()] {
            text.push_str(part);
        }
        to.serialize_str(&text)
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        let long = "a".repeat(64);
        for (text, good) in [
            ("eu", true),
            ("eu-west-1", true),
            ("9", true),
            ("", false),
            ("-eu", false),
            ("eu-", false),
            ("EU", false),
            ("eu_west", false),
            ("a.b", false),
            (long.as_str(), false),
            (&long[..63], true),
        ] {
            assert_eq!(RegionId::parse(text).is_ok(), good, "{text:?}");
        }
    }

    #[test]
    fn a_service_name_has_two_labels() {
        let pay = ServiceName::parse("pay.shop").expect("two labels");
        assert_eq!((pay.name(), pay.namespace().as_str()), ("pay", "shop"));
        assert_eq!(pay.to_string(), "pay.shop");
        for bad in ["pay", "pay.", ".shop", "pay.shop.svc", "Pay.shop"] {
            assert!(ServiceName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_error_names_the_operand_and_stays_short() {
        let text = IdError::new("region", &"x".repeat(1000), "is longer than 63 characters").to_string();
        assert!(text.starts_with("region ") && text.len() < 200, "{text}");
    }
}
