//! One region's log: consensus by openraft, disk by sled, peers by gRPC. The only module that knows those three.
//!
//! The way of a fact: [`propose`] batches it, `log_store` makes it durable, `network` replicates it, `state_machine`
//! applies it to the catalogue and publishes what came out. Nothing here knows what a command means.

mod node;
pub mod propose;
mod settings;

pub use node::{Node, NodeStatus, Position};
pub use settings::Settings;
