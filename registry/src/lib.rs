//! One region's catalogue, replicated, and its federation with the registries of other regions.
//!
//! The way of a fact: `ingest` proposes it, [`raft`] commits it, [`catalog`] applies it, [`watch`] publishes it. `app` wires
//! a node together, `node` makes one, `api` is what others call.

pub mod api;
mod app;
mod audit;
pub mod authority;
pub mod catalog;
mod codec;
pub mod config;
pub mod federation;
mod gauges;
#[cfg(test)]
mod golden;
pub mod ingest;
mod machine;
mod metrics;
mod node;
pub mod outside;
pub mod quota;
pub mod raft;
pub mod watch;

pub use app::{Addresses, Running, run, start, start_on};
pub use config::Config;
pub use machine::Machine;
pub use metrics::Meters;
pub use node::{Error, InitReport, init, restore};
