//! One region's catalogue, replicated, and its federation with the registries of other regions.

pub mod api;
pub mod authority;
pub mod catalog;
pub mod config;
pub mod federation;
pub mod raft;
pub mod watch;

pub use config::Config;
