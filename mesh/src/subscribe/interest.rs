//! What a subscriber wants to see. Gateways, bundles, shares and overrides always come along.
//! Pure.

use std::collections::BTreeSet;

use proto::registry::v1 as pb;

use crate::model::{ClusterId, ServiceName};

/// What a view shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Everything that is visible in the region.
    pub everything: bool,
    /// These services.
    pub services: BTreeSet<ServiceName>,
    /// The exported services of this cluster, and its endpoints only: what an east-west gateway may admit.
    pub exported_by: Option<ClusterId>,
}

impl Interest {
    /// For a proxy, whose application may call any name that resolves.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// For the gateway of a cluster.
    #[must_use]
    pub fn exported_by(cluster: ClusterId) -> Self {
        Self {
            exported_by: Some(cluster),
            ..Self::default()
        }
    }

    pub(super) fn to_wire(&self) -> pb::Interest {
        pb::Interest {
            everything: self.everything,
            services: self.services.iter().map(ToString::to_string).collect(),
            exported_by_cluster: self.exported_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }

    /// None when it names something that is no name.
    pub(super) fn from_wire(wire: &pb::Interest) -> Option<Self> {
        let cluster = &wire.exported_by_cluster;
        Some(Self {
            everything: wire.everything,
            services: wire
                .services
                .iter()
                .map(|name| ServiceName::parse(name).ok())
                .collect::<Option<_>>()?,
            exported_by: (!cluster.is_empty())
                .then(|| ClusterId::parse(cluster))
                .transpose()
                .ok()?,
        })
    }
}
