//! Why a request would go where it goes, endpoint by endpoint, for people and programs. Pure.

use serde::Serialize;

use super::{Candidate, Evidence, Level, Plan, Query, TierKey, Via, plan};
use crate::model::{ClusterId, EndpointId, EndpointState, RegionId, ServiceName, Zone};

/// One endpoint of the service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Which.
    pub endpoint: EndpointId,
    /// Where it runs.
    pub region: RegionId,
    /// Where it runs.
    pub zone: Zone,
    /// The network it is on.
    pub cluster: ClusterId,
    /// `address:port` of its inbound proxy, inside its network.
    pub address: String,
    /// By its own word.
    pub state: EndpointState,
    /// How far away; none = no candidate.
    pub tier: Option<TierKey>,
    /// How it would be reached; none = no candidate.
    pub via: Option<Via>,
    /// Percent of all requests that it gets.
    pub percent: f64,
    /// Why.
    pub reason: String,
}

/// The answer to "why does it go there?".
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The service.
    pub service: ServiceName,
    /// The service port.
    pub port: u16,
    /// How good the choice is.
    pub level: Level,
    /// One line for people.
    pub verdict: String,
    /// In the order in which they are tried; those that are no candidates last.
    pub rows: Vec<Row>,
}

/// Explains what [`plan`] decides.
#[must_use]
pub fn explain(service: &ServiceName, query: &Query<'_>, evidence: &dyn Evidence) -> Explanation {
    let plan = plan(query, evidence);
    let verdict = verdict(service, query, &plan);
    let mut rows: Vec<Row> = plan.candidates().map(candidate_row).collect();
    rows.extend(plan.excluded.iter().map(|excluded| {
        let endpoint = &excluded.endpoint;
        Row {
            endpoint: endpoint.id.clone(),
            region: endpoint.locality.region.clone(),
            zone: endpoint.locality.zone.clone(),
            cluster: endpoint.cluster.clone(),
            address: std::net::SocketAddr::new(endpoint.address, endpoint.inbound_port).to_string(),
            state: endpoint.state,
            tier: None,
            via: None,
            percent: 0.0,
            reason: excluded.reason.to_string(),
        }
    }));
    Explanation {
        service: service.clone(),
        port: query.port,
        level: plan.level,
        verdict,
        rows,
    }
}

fn candidate_row(candidate: &Candidate) -> Row {
    let endpoint = &candidate.endpoint;
    Row {
        endpoint: endpoint.id.clone(),
        region: endpoint.locality.region.clone(),
        zone: endpoint.locality.zone.clone(),
        cluster: endpoint.cluster.clone(),
        address: std::net::SocketAddr::new(endpoint.address, endpoint.inbound_port).to_string(),
        state: endpoint.state,
        tier: Some(candidate.tier.clone()),
        via: Some(candidate.via.clone()),
        percent: candidate.percent,
        reason: candidate.reason.to_string(),
    }
}

fn verdict(service: &ServiceName, query: &Query<'_>, plan: &Plan) -> String {
    let from = &query.source.locality;
    match plan.level {
        Level::Nobody if query.entry.endpoints.is_empty() => {
            format!("{service} has no endpoints; is a workload registered for it, and is it exported to this region?")
        }
        Level::Nobody => format!(
            "none of the {} endpoints of {service} may be used",
            query.entry.endpoints.len()
        ),
        Level::LastResort => format!(
            "nobody healthy serves {service}:{}; the nearest of what is left is tried: {}",
            query.port,
            plan.candidates()
                .next()
                .map_or_else(String::new, |first| first.reason.to_string())
        ),
        Level::Healthy => {
            let carriers: Vec<_> = plan.tiers.iter().filter(|tier| tier.share > 0.0).collect();
            let shares: Vec<_> = carriers
                .iter()
                .map(|tier| format!("{} {:.0} %", tier.key, tier.share * 100.0))
                .collect();
            let mut text = format!("from {from}: {}", shares.join(", "));
            for tier in &plan.tiers {
                if tier.keep < 1.0 {
                    let moved = (1.0 - tier.keep) * 100.0;
                    text.push_str(&format!("; a drill moves {moved:.0} % away from {}", tier.key));
                } else if tier.health < 0.999 {
                    text.push_str(&format!("; {} is {:.0} % healthy", tier.key, tier.health * 100.0));
                }
            }
            if !plan.tiers.iter().any(|tier| !matches!(tier.key, TierKey::Peer(_))) && query.region.is_none() {
                text.push_str("; nobody healthy in the own region");
            }
            text
        }
    }
}
