//! The catalogue: commands in, state out. Pure: no tokio, clock, random numbers or sockets; applying is deterministic.
//!
//! A state is immutable to its readers and cheap to clone: the maps are persistent, so that the state before a change and
//! the one after it share what did not change.

mod apply;
mod change;
mod command;
pub mod digest;
mod entry;
mod finding;
mod level;
mod quota;
mod record;
mod rotation;
mod share;
mod state;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
pub(crate) mod tests;
mod visible;

pub use change::{Applied, Change};
pub use command::{
    AuthorityRecord, Batch, Command, Drill, GatewayLease, Grant, ImportSet, LeaseSet, Lessee, PeerRecord, Refusal,
    Reply, TokenDigest, TokenRecord, WorkloadLease, WorkloadService,
};
pub use entry::{Definition, GatewayHold, Peer, WorkloadHold};
pub use finding::{Checkpoint, Finding, Subject};
pub use level::LEVEL;
pub use record::{Loader, RecordError};
pub use rotation::{NextRoot, RotateStep, Rotation, Stage};
pub use state::State;
