//! Failover drills: leases on an override. Whoever runs one renews it; when nobody does, it ends by itself everywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh::model::{EndpointState, Override, OverrideId, RegionId, ServiceName, WireError};
use proto::admin::v1 as pb;

use super::{Admin, saturating_ms};
use crate::{
    api::{Error, outward::field},
    catalog::{Command, Drill, Reply, State},
};

/// How long the order holds without being renewed: an operator's terminal that dies ends the drill this fast.
const LEASE: Duration = Duration::from_secs(10);
const FOR_DEFAULT: Duration = Duration::from_secs(300);
const FOR_MAX: Duration = Duration::from_secs(24 * 3600);
const REASON_CHARS_MAX: usize = 200;
/// Services that a refusal names.
const NAMED_MAX: usize = 20;

impl Admin {
    pub(crate) async fn start_drill(&self, request: pb::StartDrillRequest) -> Result<pb::Drill, Error> {
        let region: RegionId = field("region", request.region.parse())?;
        let percent = match request.percent {
            0 => 100,
            percent => u8::try_from(percent).unwrap_or(u8::MAX),
        };
        if percent > 100 {
            return Err(WireError::new("percent", "must be 1 to 100").into());
        }
        let length = match request.for_seconds {
            0 => FOR_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        if length > FOR_MAX {
            return Err(WireError::new("for_seconds", format!("is over {} (a day)", FOR_MAX.as_secs())).into());
        }
        let state = self.read(None).await?.state;
        let own = &self.parts.config.region;
        if region != *own && state.peer(&region).is_none() {
            return Err(Error::NotFound {
                what: "region",
                id: region.to_string(),
                hint: "isthmus peer list names the peers",
            });
        }
        if !request.force {
            check_capacity(&state, &region)?;
        }
        let now = self.parts.clock().wall();
        let ends_at = now.plus(length);
        let id = format!("drill-{:08x}", fastrand::u32(..));
        let order = Override {
            id: field("id", id.parse())?,
            region,
            percent,
            expires_at: now.plus(LEASE).min(ends_at),
            origin: own.clone(),
            reason: request.reason.chars().take(REASON_CHARS_MAX).collect(),
        };
        let drill = Drill {
            order,
            ends_at,
            lease: LEASE,
        };
        self.drill(Command::StartDrill(drill)).await
    }

    pub(crate) async fn renew_drill(&self, request: pb::RenewDrillRequest) -> Result<pb::Drill, Error> {
        let id: OverrideId = field("id", request.id.parse())?;
        self.drill(Command::RenewDrill(id)).await
    }

    pub(crate) async fn end_drill(&self, request: pb::EndDrillRequest) -> Result<pb::Committed, Error> {
        let id: OverrideId = field("id", request.id.parse())?;
        self.committed(Command::EndDrill(id)).await
    }

    pub(crate) async fn list_drills(&self, options: pb::ReadOptions) -> Result<pb::DrillList, Error> {
        let reading = self.read(Some(options)).await?;
        let (state, now) = (&reading.state, self.parts.clock().wall());
        let mut drills: BTreeMap<_, _> = state
            .overrides(now)
            .map(|order| (order.id.clone(), foreign(order)))
            .collect();
        // Of the own ones more is known.
        for drill in state.drills().filter(|drill| drill.order.is_active(now)) {
            drills.insert(drill.order.id.clone(), outward(drill));
        }
        Ok(pb::DrillList {
            drills: drills.into_values().collect(),
            position: Some(reading.position),
        })
    }

    async fn drill(&self, command: Command) -> Result<pb::Drill, Error> {
        match self.commit(command).await?.0 {
            Reply::Drill(drill) => Ok(outward(&drill)),
            _ => Err(Error::Unexpected),
        }
    }
}

pub(super) fn outward(drill: &Drill) -> pb::Drill {
    pb::Drill {
        ends_at_ms: drill.ends_at.0,
        lease_ms: saturating_ms(drill.lease.as_millis()),
        ..foreign(&drill.order)
    }
}

/// A drill that another region runs: its lease is that region's affair.
fn foreign(order: &Override) -> pb::Drill {
    pb::Drill {
        id: order.id.to_string(),
        region: order.region.to_string(),
        percent: order.percent.into(),
        ends_at_ms: order.expires_at.0,
        lease_ms: 0,
        reason: order.reason.clone(),
    }
}

/// Refuses to evacuate a region that alone has ready endpoints of some service.
fn check_capacity(state: &State, region: &RegionId) -> Result<(), Error> {
    let ready = state
        .all_endpoints()
        .filter(|endpoint| endpoint.state == EndpointState::Ready)
        .map(|endpoint| (&endpoint.service, &endpoint.locality.region));
    let alone = without_survivor(ready, region);
    if alone.is_empty() {
        return Ok(());
    }
    let mut services: Vec<_> = alone.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    if alone.len() > NAMED_MAX {
        services.push(format!("{} more", alone.len() - NAMED_MAX));
    }
    Err(Error::Capacity {
        region: region.to_string(),
        services,
    })
}

/// The services whose ready endpoints are all in `region`. Pure.
fn without_survivor<'a>(
    ready: impl Iterator<Item = (&'a ServiceName, &'a RegionId)>,
    region: &RegionId,
) -> BTreeSet<&'a ServiceName> {
    let (mut inside, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for (service, place) in ready {
        if place == region {
            inside.insert(service);
        } else {
            outside.insert(service);
        }
    }
    inside.difference(&outside).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_is_alone_with_a_service_is_not_evacuated() {
        let service = |name| ServiceName::parse(name).expect("valid");
        let region = |name| RegionId::parse(name).expect("valid");
        let ready = [
            (service("pay.shop"), region("eu")),
            (service("pay.shop"), region("us")),
            (service("cart.shop"), region("eu")),
            (service("news.shop"), region("us")),
        ];
        let pairs = || ready.iter().map(|(service, region)| (service, region));
        assert_eq!(without_survivor(pairs(), &region("eu")), [&service("cart.shop")].into());
        assert_eq!(without_survivor(pairs(), &region("us")), [&service("news.shop")].into());
        assert!(without_survivor(pairs(), &region("ap")).is_empty());
    }
}
