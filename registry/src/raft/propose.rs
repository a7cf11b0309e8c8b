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

use super::{engine::VALUE_BYTES_MAX, wire::Failure};
use crate::catalog::{Command, Reply};

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
    let size = postcard::ser_flavors::Size::default();
    // A command that cannot be encoded is refused like one that is too long; none is known.
    postcard::serialize_with_flavor(command, size).unwrap_or(usize::MAX)
}

/// Whether doing it twice leaves the catalogue as doing it once does, and answers the caller as well.
fn repeatable(command: &Command) -> bool {
    match command {
        // The second redemption takes another use; the others would be refused because of the first.
        Command::RedeemToken { .. } | Command::StartDrill(_) | Command::Init { .. } => false,
        // A second lease or node id replaces or skips the first one, which nobody was told.
        Command::AttachWorkload(_) | Command::AttachGateway(_) | Command::AllocateNode => true,
        Command::Noop
        | Command::SetWorkloadState { .. }
        | Command::SetGatewayState { .. }
        | Command::Lapse { .. }
        | Command::Detach { .. }
        | Command::ReleaseUnverified
        | Command::PutExport(_)
        | Command::RemoveExport(_)
        | Command::PutImportPolicy { .. }
        | Command::PutTenant(_)
        | Command::RemoveTenant(_)
        | Command::PutToken(_)
        | Command::PutPeer(_)
        | Command::RemovePeer(_)
        | Command::Import { .. }
        | Command::PutPeerStatus { .. }
        | Command::PutBundle(_)
        | Command::PutAuthority(_)
        | Command::RenewDrill(_)
        | Command::EndDrill(_)
        | Command::Sweep => true,
    }
}
