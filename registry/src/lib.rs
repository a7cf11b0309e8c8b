//! One region's catalogue, replicated, and its federation with the registries of other regions.

pub mod catalog;
pub mod config;
pub mod raft;

pub use config::Config;
