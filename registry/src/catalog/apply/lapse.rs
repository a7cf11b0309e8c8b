//! Leases that were not renewed. A few are believed at once; when many lapse together, a broken switch is likelier than so
//! many deaths, and their endpoints stay, marked unverified. Pure.

use std::{sync::Arc, time::Duration};

use mesh::model::Timestamp;

use super::{Outcome, Transaction};
use crate::catalog::{Command, GatewayHold, Lessee, Reply, WorkloadHold};

/// Lapses that are this close together are judged together: longer than one lease, so that one broken switch is one event.
const WINDOW: Duration = Duration::from_secs(30);
/// Share of the region's leases that may lapse in one window and be believed, in percent.
const BELIEVED_PERCENT_MAX: u64 = 15;
/// Fewer lapses than this are always believed: in a small region one host is a large share.
const MASS_MIN: u64 = 5;

impl Transaction<'_> {
    /// Counts the lapses of a batch before any of them is judged: the first of many is as doubtful as the last.
    pub(super) fn note_lapses(&mut self, commands: &[Command]) {
        let lapses = commands.iter().filter(|command| match command {
            Command::Lapse { lessee, epoch } => self.is_current(lessee, *epoch),
            _ => false,
        });
        let count = u32::try_from(lapses.count()).unwrap_or(u32::MAX);
        if count == 0 {
            return;
        }
        let at = self.at;
        let window = &mut self.meta().lapses;
        window.retain(|lapsed_at, _| at.since(*lapsed_at) < WINDOW);
        window.entry(at).or_default().all += count;
    }

    /// Whether the lease is held under this epoch and not yet held back.
    fn is_current(&self, lessee: &Lessee, epoch: u64) -> bool {
        match lessee {
            Lessee::Workload(id) => {
                let hold = self.state.workload(id);
                hold.is_some_and(|hold| hold.epoch == epoch && !hold.unverified)
            }
            Lessee::Gateway(id) => {
                let hold = self.state.gateway_lease(id);
                hold.is_some_and(|hold| hold.epoch == epoch && !hold.unverified)
            }
        }
    }

    pub(super) fn lapse(&mut self, lessee: &Lessee, epoch: u64) -> Outcome {
        if !self.is_current(lessee, epoch) {
            return Ok(Reply::Done);
        }
        if self.is_mass_loss() {
            return self.hold_back(lessee);
        }
        let at = self.at;
        self.meta().lapses.entry(at).or_default().believed += 1;
        self.withdraw(lessee)
    }

    fn is_mass_loss(&self) -> bool {
        let at: Timestamp = self.at;
        let window = self.state.meta.lapses.iter();
        let window = window.filter(|(lapsed_at, _)| at.since(**lapsed_at) < WINDOW);
        let (mut all, mut believed) = (0_u64, 0_u64);
        for (_, lapses) in window {
            all += u64::from(lapses.all);
            believed += u64::from(lapses.believed);
        }
        // The leases as they stood before the window.
        let leases = self.state.lease_count() as u64 + believed;
        all >= MASS_MIN && all * 100 > leases * BELIEVED_PERCENT_MAX
    }

    fn hold_back(&mut self, lessee: &Lessee) -> Outcome {
        let region = self.own_region()?;
        match lessee {
            Lessee::Workload(id) => {
                if let Some(hold) = self.state.workload(id) {
                    let (epoch, lease) = (hold.epoch, Arc::clone(&hold.lease));
                    self.put_endpoints(&region, &lease, true);
                    let unverified = true;
                    self.put_workload(
                        id,
                        WorkloadHold {
                            epoch,
                            lease,
                            unverified,
                        },
                    );
                }
            }
            Lessee::Gateway(id) => {
                if let Some(hold) = self.state.gateway_lease(id) {
                    let (epoch, lease) = (hold.epoch, Arc::clone(&hold.lease));
                    let unverified = true;
                    self.put_gateway_lease(
                        id,
                        GatewayHold {
                            epoch,
                            lease,
                            unverified,
                        },
                    );
                }
            }
        }
        Ok(Reply::Done)
    }

    pub(super) fn release_unverified(&mut self) -> Outcome {
        let workloads = self.state.workloads.iter();
        let workloads = workloads.filter(|(_, hold)| hold.unverified);
        let workloads = workloads.map(|(id, _)| Lessee::Workload(id.clone()));
        let gateways = self.state.gateway_leases.iter();
        let gateways = gateways.filter(|(_, hold)| hold.unverified);
        let gateways = gateways.map(|(id, _)| Lessee::Gateway(id.clone()));
        for lessee in workloads.chain(gateways).collect::<Vec<_>>() {
            self.withdraw(&lessee)?;
        }
        Ok(Reply::Done)
    }
}
