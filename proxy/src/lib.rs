//! The proxy beside one workload: carries its calls out and other people's calls in, answers its names, keeps it in the
//! registry and keeps its certificate. `app` knows all parts; the parts know no more of each other than their types.

pub mod agent;
mod app;
mod child;
pub mod config;
mod hop;
pub mod inbound;
pub mod outbound;
pub mod outside;
mod pages;
#[cfg(test)]
mod testing;

pub use app::{Addresses, Ended, Error, Running, run, start};
pub use config::Config;
