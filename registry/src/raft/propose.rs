//! The way in: many proposals become one log entry, one flush acknowledges them all. A follower passes them on to the
//! leader, batched as well, and follows the leader when it changes.
//!
//! Refuses when too many wait. A proposal whose fate is not known is tried again only if doing it twice does no harm.

mod batcher;
mod error;

pub(crate) use batcher::Batcher;
pub use error::Error;

use std::time::Duration;

use mesh::{model::Revision, runtime::clock};
use tokio::{sync::oneshot, time::Instant};

use super::{storage::VALUE_BYTES_MAX, wire::Failure};
use crate::{
    catalog::{Command, Reply},
    codec::encoded_len,
};

/// Proposals that wait for the batcher; more are refused.
pub(crate) const QUEUE_MAX: usize = 1024;
/// Commands in one entry.
const COMMANDS_MAX: usize = 512;
/// Encoded commands in one entry; also the longest single command.
const BATCH_BYTES_MAX: usize = VALUE_BYTES_MAX;
/// How long a caller waits when there is no leader: four of the longest elections at the default timers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// A proposal that is committed: applied on the leader, durable on a majority.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Committed {
    /// The entry that carried it.
    pub revision: Revision,
    /// The catalogue's answer.
    pub reply: Reply,
}

/// Where a proposal came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Here: it is passed on when another node leads.
    Here,
    /// From a follower: it goes back there when this node does not lead, so that it cannot go round in circles.
    Follower,
}

/// One that waits.
pub(crate) struct Proposal {
    command: Command,
    bytes: usize,
    origin: Origin,
    begun: Instant,
    deadline: Instant,
    /// A leader that was lost had it: it may be committed.
    maybe: bool,
    reply: oneshot::Sender<Result<Committed, Failure>>,
}

impl Proposal {
    /// With the receiver of its fate.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub(crate) fn new(
        command: Command,
        origin: Origin,
        patience: Duration,
    ) -> Result<(Self, oneshot::Receiver<Result<Committed, Failure>>), Error> {
        let bytes = encoded_bytes(&command);
        if bytes > BATCH_BYTES_MAX {
            return Err(Error::TooLarge {
                bytes,
                max: BATCH_BYTES_MAX,
            });
        }
        let (reply, answer) = oneshot::channel();
        let begun = clock::now();
        let proposal = Self {
            command,
            bytes,
            origin,
            begun,
            deadline: begun + patience,
            maybe: false,
            reply,
        };
        Ok((proposal, answer))
    }

    fn answer(self, result: Result<Committed, Failure>) {
        let _ = self.reply.send(result); // the asker left
    }

    fn fail(self, error: Error) {
        self.answer(Err(Failure::Error(error)));
    }
}

fn encoded_bytes(command: &Command) -> usize {
    // A command that cannot be encoded is refused like one that is too long; none is known.
    encoded_len(command).unwrap_or(usize::MAX)
}

/// Whether doing it again later does no harm, and answers the caller as well. Others may have written in between: what
/// replaces a record would then undo what they were told is done.
fn repeatable(command: &Command) -> bool {
    match command {
        // Another node id is skipped, which nobody was told.
        Command::Noop | Command::Sweep | Command::AllocateNode | Command::RaiseLevel(_) | Command::RepairPeer(_) => {
            true
        }
        // Guarded by the epoch of a lease that only the caller holds.
        Command::SetWorkloadState { .. }
        | Command::SetGatewayState { .. }
        | Command::Lapse { .. }
        | Command::Detach { .. } => true,
        // The second one is refused when others came between.
        Command::Import { set, .. } => set.base.is_some(),
        // Each names what it stands on, and finds something else the second time.
        Command::GrantLeases(_) | Command::EndLease { .. } | Command::SettleLease { .. } | Command::OpenQuotas => true,
        // Takes another use, or is refused because of the first one.
        Command::RedeemToken { .. }
        | Command::StartDrill(_)
        | Command::RenewDrill(_)
        | Command::EndDrill(_)
        | Command::Init { .. }
        | Command::RemoveExport(_)
        | Command::RemoveTenant(_)
        | Command::RemovePeer(_)
        | Command::PutBundle(_)
        | Command::Rotate(_) => false,
        // Replaces what others may have put there since: another stream of the same workload, or another operator.
        Command::AttachWorkload(_)
        | Command::AttachGateway(_)
        | Command::ReleaseUnverified
        | Command::PutExport(_)
        | Command::PutImportPolicy { .. }
        | Command::PutTenant(_)
        | Command::PutToken(_)
        | Command::PutPeer(_)
        | Command::PutPeerStatus { .. }
        | Command::PutAuthority(_)
        | Command::Checkpoint(_)
        | Command::ImportLeases { .. }
        | Command::PutDemand { .. }
        | Command::PutFinding { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_others_may_have_replaced_is_not_done_again() {
        let tenant = mesh::model::TenantId::parse("acme").expect("valid");
        assert!(repeatable(&Command::AllocateNode));
        assert!(!repeatable(&Command::RemoveTenant(tenant)));
        let peer = mesh::model::RegionId::parse("us").expect("valid");
        let import = |base| Command::Import {
            peer: peer.clone(),
            set: Box::new(crate::catalog::ImportSet {
                base,
                ..crate::catalog::ImportSet::default()
            }),
        };
        assert!(repeatable(&import(Some(mesh::model::Held::default()))));
        assert!(
            !repeatable(&import(None)),
            "it would put an older snapshot in the place of a newer one"
        );
    }
}
