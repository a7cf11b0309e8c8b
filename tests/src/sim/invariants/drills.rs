//! An override of a drill always ends: each holds for its lease only, and nobody sees one as active a lease and the clocks'
//! skew after whoever ran it has last touched it.

use std::collections::BTreeMap;

use mesh::model::{Key, OverrideId, Resource};
use registry::watch::Published;

use super::{Found, broken};
use crate::sim::{clients::LEASE, faults::SKEW_MAX_MS, place::region as name, world::Sim};

const LAW: &str = "an override of a drill always ends";
/// What was asked may be committed a little later than its answer was waited for.
const SLACK_MS: i64 = 15_000;

#[derive(Default)]
pub(crate) struct Drills {
    /// When each was last begun or renewed.
    touched: BTreeMap<OverrideId, u64>,
}

impl Drills {
    /// Its controller asks for something, or has been answered.
    pub(crate) fn touched(&mut self, id: &OverrideId, now_ms: u64) {
        self.touched.insert(id.clone(), now_ms);
    }

    /// What is committed holds for a lease, by the leader's clock.
    pub(super) fn published(&mut self, sim: &Sim, region: u8, published: &Published) -> Found {
        let latest = sim.true_wall().0 + lease_ms() + SKEW_MAX_MS;
        for change in &published.changes {
            let Key::Override(id) = &change.key else { continue };
            let Some(Resource::Override(order)) = published.state.resource(&change.key) else {
                continue;
            };
            if order.expires_at.0 > latest {
                let found = format!(
                    "{id} in {} expires {} ms later",
                    name(region),
                    order.expires_at.0 - latest
                );
                return Err(broken(
                    LAW,
                    "an order for one lease, by a clock that is 30 s ahead at most",
                    found,
                ));
            }
        }
        Ok(())
    }

    /// Nobody sees an order of which its controller has let go long ago.
    pub(super) fn check(&mut self, sim: &Sim) -> Found {
        let now_ms = i64::try_from(sim.now_ms()).unwrap_or(i64::MAX);
        for region in 0..sim.regions() {
            for place in sim.places(region) {
                let Some(running) = sim.running(place) else { continue };
                let state = running.replica.state();
                let seen = running.replica.clock().wall();
                for order in state.overrides(seen) {
                    let touched = self.touched.get(&order.id).copied().unwrap_or(0);
                    let touched = i64::try_from(touched).unwrap_or(0);
                    let over = touched + lease_ms() + 2 * SKEW_MAX_MS + SLACK_MS;
                    if now_ms > over {
                        let found = format!("{} is active on {place}, {} ms too late", order.id, now_ms - over);
                        return Err(broken(
                            LAW,
                            "it ends a lease and the skew after its last renewal",
                            found,
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn lease_ms() -> i64 {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}
