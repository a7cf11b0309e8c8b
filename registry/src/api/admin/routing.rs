//! What a name resolves to, and why a request would go where it goes: asked of the code that answers live traffic.

use std::collections::BTreeSet;

use mesh::{
    dns,
    model::{ClusterId, Endpoint, Locality, Namespace, RegionId, View, WorkloadId, Zone},
    route::{self, NoEvidence, Query, Source, TargetError, TierKey, matcher},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::{Error, outward::field},
    catalog::State,
};

impl Admin {
    pub(crate) async fn resolve(&self, request: pb::ResolveRequest) -> Result<pb::ResolveReply, Error> {
        let reading = self.read(request.read).await?;
        let view = self.parts.views.load();
        let from = Locality {
            region: match request.from_region.as_str() {
                "" => self.parts.config.region.clone(),
                text => field("from_region", text.parse())?,
            },
            zone: match request.from_zone.as_str() {
                "" => self.parts.config.node.zone.clone(),
                text => field("from_zone", text.parse())?,
            },
        };
        let asker = dns::Asker {
            from: &from,
            now: clock::wall(),
            shuffle: 0,
            ttl: u32::try_from(self.parts.config.dns.ttl.as_secs()).unwrap_or(u32::MAX),
        };
        let resolved = dns::resolve_text(&view, &request.name, asker);
        let source = Source {
            cluster: cluster_at(&reading.state, &from).unwrap_or_else(|| nowhere(&from.region)),
            locality: from,
        };
        let endpoints = target(&request.name, &view).map(|target| in_order(&view, &target, &source));
        Ok(pb::ResolveReply {
            code: resolved.code.to_owned(),
            records: resolved.records,
            // What is no service of the mesh has no endpoints; the code says so.
            endpoints: endpoints.unwrap_or_default(),
            position: Some(reading.position),
        })
    }

    pub(crate) async fn why(&self, request: pb::WhyRequest) -> Result<pb::WhyReply, Error> {
        let reading = self.read(request.read).await?;
        let source = self.source(&reading.state, &request.source)?;
        let view = self.parts.views.load();
        let target = match target(&request.destination, &view) {
            Err(TargetError::Unknown(_) | TargetError::Address(_)) => return Err(unknown(&request.destination)),
            target => field("destination", target)?,
        };
        let (_, entry) = view
            .service(&target.service)
            .ok_or_else(|| unknown(&request.destination))?;
        let query = query(&view, entry, &target, &source);
        let explanation = route::explain(&target.service, &query, &NoEvidence);
        let order = peer_tiers(&view, &explanation.rows);
        let candidate = |row: &route::Row| {
            let endpoint = entry.endpoints.get(&row.endpoint).map(|endpoint| outward(endpoint));
            pb::Candidate {
                endpoint,
                tier: row.tier.as_ref().map(|tier| tier_number(tier, &order)),
                percent: row.percent,
                reason: row.reason.clone(),
                via_gateway: match &row.via {
                    Some(route::Via::Gateway(cluster)) => gateways(&view, cluster),
                    Some(route::Via::Direct) | None => String::new(),
                },
            }
        };
        Ok(pb::WhyReply {
            candidates: explanation.rows.iter().map(candidate).collect(),
            verdict: explanation.verdict.clone(),
            position: Some(reading.position),
        })
    }

    /// A workload id of this region, or `<region>[/<zone>]`.
    fn source(&self, state: &State, text: &str) -> Result<Source, Error> {
        let workload = WorkloadId::parse(text).ok();
        if let Some(hold) = workload.as_ref().and_then(|id| state.workload(id)) {
            return Ok(Source {
                locality: Locality {
                    region: self.parts.config.region.clone(),
                    zone: hold.lease.zone.clone(),
                },
                cluster: hold.lease.cluster.clone(),
            });
        }
        let (region, zone) = text.split_once('/').unwrap_or((text, ""));
        let region: RegionId = field("source", region.parse())?;
        let known = region == self.parts.config.region || state.peer(&region).is_some();
        if !known {
            return Err(Error::NotFound {
                what: "workload or region",
                id: text.to_owned(),
                hint: "give a workload id of this region, or <region>[/<zone>]",
            });
        }
        let zone: Zone = match zone {
            "" => self.parts.config.node.zone.clone(),
            zone => field("source", zone.parse())?,
        };
        let locality = Locality { region, zone };
        Ok(Source {
            cluster: cluster_at(state, &locality).unwrap_or_else(|| nowhere(&locality.region)),
            locality,
        })
    }
}

/// Bare names are of the namespace `default`: an operator's question has none of its own.
fn target(text: &str, view: &View) -> Result<route::Target, TargetError> {
    let own = Namespace::parse("default").expect("a label");
    matcher::resolve(text, view, &own)
}

fn unknown(destination: &str) -> Error {
    Error::NotFound {
        what: "service",
        id: destination.to_owned(),
        hint: "isthmus services lists them",
    }
}

fn query<'a>(
    view: &'a View,
    entry: &'a mesh::model::ServiceEntry,
    target: &'a route::Target,
    source: &'a Source,
) -> Query<'a> {
    Query {
        view,
        entry,
        port: target.port,
        region: target.region.as_ref(),
        source,
        prefer: &[],
        demand_rps: None,
        now: clock::wall(),
    }
}

fn in_order(view: &View, target: &route::Target, source: &Source) -> Vec<proto::registry::v1::Endpoint> {
    let Some((_, entry)) = view.service(&target.service) else {
        return Vec::new();
    };
    let plan = route::plan(&query(view, entry, target, source), &NoEvidence);
    plan.candidates()
        .map(|candidate| outward(&candidate.endpoint))
        .collect()
}

fn outward(endpoint: &Endpoint) -> proto::registry::v1::Endpoint {
    endpoint.into()
}

/// A cluster that has something running at a place, the zone's first: an asker from there is most likely in it.
fn cluster_at(state: &State, place: &Locality) -> Option<ClusterId> {
    let clusters = |same_zone: bool| {
        let endpoints = state.all_endpoints().filter(move |endpoint| {
            endpoint.locality.region == place.region && (!same_zone || endpoint.locality.zone == place.zone)
        });
        endpoints.map(|endpoint| endpoint.cluster.clone()).next()
    };
    let gateway = || {
        let mut gateways = state.gateways().filter(|gateway| gateway.region == place.region);
        gateways.next().map(|gateway| gateway.cluster.clone())
    };
    clusters(true).or_else(|| clusters(false)).or_else(gateway)
}

/// A cluster that nothing is in, so that everything is reached through gateways.
fn nowhere(region: &RegionId) -> ClusterId {
    let name: String = format!("outside-{region}").chars().take(63).collect();
    ClusterId::parse(name.trim_end_matches('-')).expect("a cut of a prefix and a region's label is a label")
}

fn gateways(view: &View, cluster: &ClusterId) -> String {
    let ids: Vec<_> = view.gateways_into(cluster).map(|gateway| gateway.id.as_str()).collect();
    ids.join(", ")
}

fn peer_tiers(view: &View, rows: &[route::Row]) -> Vec<RegionId> {
    let peers: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| match &row.tier {
            Some(TierKey::Peer(region)) => Some(region.clone()),
            Some(TierKey::Zone | TierKey::Region) | None => None,
        })
        .collect();
    route::peer_order(view, &[], peers)
}

fn tier_number(tier: &TierKey, peers: &[RegionId]) -> u32 {
    match tier {
        TierKey::Zone => 0,
        TierKey::Region => 1,
        TierKey::Peer(region) => {
            let at = peers.iter().position(|peer| peer == region).unwrap_or(peers.len());
            2 + u32::try_from(at).unwrap_or(u32::MAX - 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_numbered_after_the_own_region() {
        let region = |name| RegionId::parse(name).expect("valid");
        let order = [region("us"), region("ap")];
        assert_eq!(tier_number(&TierKey::Zone, &order), 0);
        assert_eq!(tier_number(&TierKey::Region, &order), 1);
        assert_eq!(tier_number(&TierKey::Peer(region("ap")), &order), 3);
    }

    #[test]
    fn a_long_region_still_has_a_place_outside() {
        let region = RegionId::parse(&"a".repeat(63)).expect("valid");
        assert!(nowhere(&region).as_str().starts_with("outside-a"));
    }
}
