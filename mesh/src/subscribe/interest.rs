//! What a subscriber wants to see. Gateways, bundles, shares and overrides always come along.
//! Pure.

use std::{collections::BTreeSet, sync::Arc};

use proto::registry::v1 as pb;

use crate::model::{ClusterId, Coverage, ServiceName};

/// What a view shall hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Everything that is visible in the region.
    pub everything: bool,
    /// These services; with `names` their endpoints.
    pub services: BTreeSet<ServiceName>,
    /// The exported services of this cluster, and its endpoints only: what an east-west gateway may admit.
    pub exported_by: Option<ClusterId>,
    /// The names (definitions) of all services that are visible in the region, endpoints only of `services`.
    pub names: bool,
}

impl Interest {
    /// For whoever needs all of it.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// For a proxy, whose application may call any name that resolves and calls some: all names, and the endpoints of the
    /// services that it calls.
    #[must_use]
    pub fn names(services: BTreeSet<ServiceName>) -> Self {
        Self {
            names: true,
            services,
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

    /// Of which services a view under this interest has the endpoints.
    pub(super) fn coverage(&self) -> Coverage {
        if self.names {
            Coverage::Of(Arc::new(self.services.clone()))
        } else {
            Coverage::All
        }
    }

    /// For a registry. One that does not know `names` reads an interest in everything.
    pub(super) fn to_wire(&self, sequence: u64) -> pb::Interest {
        let services = self.services.iter().map(ToString::to_string).collect();
        let (services, endpoints_of) = if self.names {
            (Vec::new(), services)
        } else {
            (services, Vec::new())
        };
        pb::Interest {
            everything: self.everything || self.names,
            services,
            exported_by_cluster: self.exported_by.as_ref().map(ToString::to_string).unwrap_or_default(),
            names: self.names,
            endpoints_of,
            sequence,
        }
    }

    /// For the file. A version that does not know `names` must not take the view for everything.
    pub(super) fn to_file(&self) -> pb::Interest {
        pb::Interest {
            everything: self.everything,
            ..self.to_wire(0)
        }
    }

    /// None when it names something that is no name.
    pub(super) fn from_wire(wire: &pb::Interest) -> Option<Self> {
        let cluster = &wire.exported_by_cluster;
        let services = wire.services.iter().chain(&wire.endpoints_of);
        Some(Self {
            everything: wire.everything && !wire.names,
            services: services
                .map(|name| ServiceName::parse(name).ok())
                .collect::<Option<_>>()?,
            exported_by: (!cluster.is_empty())
                .then(|| ClusterId::parse(cluster))
                .transpose()
                .ok()?,
            names: wire.names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interest_in_names_comes_back_and_says_everything_to_those_who_do_not_know_it() {
        let names = Interest::names([ServiceName::parse("pay.shop").unwrap()].into());
        let wire = names.to_wire(3);
        assert!(wire.everything && wire.services.is_empty() && wire.sequence == 3);
        assert_eq!(Interest::from_wire(&wire), Some(names.clone()));
        let file = names.to_file();
        assert!(
            !file.everything,
            "an older version would resume from it as from everything"
        );
        assert_eq!(Interest::from_wire(&file), Some(names));
    }
}
