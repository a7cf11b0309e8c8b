//! One region's log: consensus by openraft, disk by files and sled, peers by gRPC or what stands in for it. The only module
//! that knows those three.
//!
//! The way of a fact: [`propose`] batches it, `log` makes it durable, `network` replicates it, `state_machine`
//! applies it to the catalogue and publishes what came out. Nothing here knows what a command means.

mod answer;
mod channels;
mod core;
mod disk;
mod handover;
mod keeper;
mod log;
pub mod membership;
mod network;
mod node;
mod owner;
mod peers;
pub mod propose;
mod read;
mod records;
mod replace;
mod replica;
mod restore;
mod runtime;
mod seams;
mod service;
mod settings;
mod snapshot;
mod state_machine;
mod steward;
pub mod storage;
#[cfg(test)]
mod tests;
mod transport;
mod type_config;
mod wire;

pub use channels::Channels;
pub use node::{Node, NodeStatus, Position};
pub use replica::{Error, Replica};
pub use restore::{Inspected, Restored, inspect, restore, restore_on};
pub use seams::{Inside, Seams};
pub use service::{Admit, Service};
pub use settings::Settings;
pub use snapshot::SnapshotError;
pub use transport::{Failed, Method, Target, Transport};
pub(crate) use wire::try_requests;
