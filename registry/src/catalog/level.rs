//! The feature level: what every program of a region can read. A command of a newer level is not proposed before all nodes
//! can apply it, and a program that is older than its region refuses to run. Pure.
//!
//! 1: regions as they were first made. 2: refused records and findings of peers, quota leases, this level itself.

use super::{Command, State};

/// What this program can read and write. Grows by one with the first new command or record after a release.
pub const LEVEL: u32 = 2;

impl State {
    /// What all programs of the region can read; 1 where it was never raised.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level.max(1)
    }
}

impl Command {
    /// The level from which on this may be proposed. No catch-all arm: a new command decides here.
    #[must_use]
    pub fn level(&self) -> u32 {
        match self {
            Self::Noop
            | Self::Init { .. }
            | Self::AttachWorkload(_)
            | Self::AttachGateway(_)
            | Self::SetWorkloadState { .. }
            | Self::SetGatewayState { .. }
            | Self::Lapse { .. }
            | Self::Detach { .. }
            | Self::ReleaseUnverified
            | Self::PutExport(_)
            | Self::RemoveExport(_)
            | Self::PutImportPolicy { .. }
            | Self::PutTenant(_)
            | Self::RemoveTenant(_)
            | Self::PutToken(_)
            | Self::RedeemToken { .. }
            | Self::PutPeer(_)
            | Self::RemovePeer(_)
            | Self::Import { .. }
            | Self::PutPeerStatus { .. }
            | Self::PutBundle(_)
            | Self::PutAuthority(_)
            | Self::StartDrill(_)
            | Self::RenewDrill(_)
            | Self::EndDrill(_)
            | Self::Sweep
            | Self::AllocateNode => 1,
            Self::RepairPeer(_) | Self::Checkpoint(_) | Self::PutFinding { .. } | Self::Rotate(_) => 2,
            // Proposed only when every node has said that it knows it.
            Self::RaiseLevel(_) => 1,
            Self::GrantLeases(_)
            | Self::ImportLeases { .. }
            | Self::EndLease { .. }
            | Self::SettleLease { .. }
            | Self::OpenQuotas
            | Self::PutDemand { .. } => 2,
        }
    }
}
