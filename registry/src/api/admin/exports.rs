//! What is offered to peers, and what is taken from them.

use std::collections::BTreeSet;

use mesh::{
    model::{Audience, Export, ImportPolicy, RegionId, ServiceName, WireError},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::{Error, outward::field},
    catalog::Command,
};

impl Admin {
    pub(crate) async fn list_exports(&self, options: pb::ReadOptions) -> Result<pb::ExportList, Error> {
        let reading = self.read(Some(options)).await?;
        Ok(pb::ExportList {
            exports: reading.state.exports().map(|export| outward(export)).collect(),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn put_export(&self, request: pb::Export) -> Result<pb::Committed, Error> {
        let service: ServiceName = field("service", request.service.parse())?;
        let to = audience(&request)?;
        // Of two regions' definitions the older export wins: changing the audience must not make an export younger.
        let known = self
            .parts
            .replica
            .state()
            .export(&service)
            .map(|export| export.created_at);
        let export = Export {
            created_at: known.unwrap_or_else(clock::wall),
            service,
            to,
        };
        self.committed(Command::PutExport(export)).await
    }

    pub(crate) async fn remove_export(&self, request: pb::RemoveExportRequest) -> Result<pb::Committed, Error> {
        let service: ServiceName = field("service", request.service.parse())?;
        self.committed(Command::RemoveExport(service)).await
    }

    pub(crate) async fn put_import_policy(&self, request: pb::ImportPolicy) -> Result<pb::Committed, Error> {
        let peer: RegionId = field("peer", request.peer.parse())?;
        let services = request.services.iter().map(|name| field("services", name.parse()));
        let services: BTreeSet<ServiceName> = services.collect::<Result<_, _>>()?;
        let policy = match (request.all, services.is_empty()) {
            (true, true) => ImportPolicy::All,
            (true, false) => return Err(WireError::new("services", "must be empty when all is set").into()),
            (false, _) => ImportPolicy::Services(services),
        };
        self.committed(Command::PutImportPolicy { peer, policy }).await
    }
}

fn audience(request: &pb::Export) -> Result<Audience, Error> {
    let regions = request.to.iter().map(|region| field("to", region.parse()));
    let regions: BTreeSet<RegionId> = regions.collect::<Result<_, _>>()?;
    match (request.to_all, regions.is_empty()) {
        (true, true) => Ok(Audience::Everybody),
        (false, false) => Ok(Audience::Regions(regions)),
        (true, false) => Err(WireError::new("to", "must be empty when to_all is set").into()),
        (false, true) => Err(WireError::new("to", "names no peer; name some, set to_all, or remove the export").into()),
    }
}

/// An export as the wire has it.
pub(super) fn outward(export: &Export) -> pb::Export {
    let (to_all, to) = match &export.to {
        Audience::Nobody => (false, Vec::new()),
        Audience::Regions(regions) => (false, regions.iter().map(ToString::to_string).collect()),
        Audience::Everybody => (true, Vec::new()),
    };
    pb::Export {
        service: export.service.to_string(),
        to_all,
        to,
        created_at_ms: export.created_at.0,
    }
}

/// An import policy as the wire has it.
pub(super) fn policy_outward(peer: &RegionId, policy: &ImportPolicy) -> pb::ImportPolicy {
    let (all, services) = match policy {
        ImportPolicy::All => (true, Vec::new()),
        ImportPolicy::Services(services) => (false, services.iter().map(ToString::to_string).collect()),
    };
    pb::ImportPolicy {
        peer: peer.to_string(),
        all,
        services,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_is_to_all_or_to_named_peers() {
        let request = |to_all, to: &[&str]| pb::Export {
            service: "pay.shop".into(),
            to_all,
            to: to.iter().map(ToString::to_string).collect(),
            created_at_ms: 0,
        };
        assert_eq!(audience(&request(true, &[])).expect("all"), Audience::Everybody);
        assert!(
            audience(&request(false, &["us"]))
                .expect("one")
                .includes(&RegionId::parse("us").expect("valid"))
        );
        for bad in [request(true, &["us"]), request(false, &[]), request(false, &["US"])] {
            assert!(audience(&bad).is_err(), "{bad:?}");
        }
    }
}
