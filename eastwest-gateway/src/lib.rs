//! The east-west gateway: one per cluster and failure domain, on port 15443. A connection passes through the files in this
//! order: `accept` lets it in, `hello` reads whom it wants, `admit` asks whether this cluster exports that, `resolve` picks
//! the endpoint, `dial` connects to it, `relay` carries the bytes. It holds no key of any workload and decrypts nothing but
//! probes of itself (`probe`). What it knows comes from the view of its region's registry; without one it goes on with the
//! last.

mod accept;
mod admit;
mod app;
mod config;
mod dial;
mod hello;
mod limit;
mod load;
mod metrics;
mod probe;
mod refusal;
mod relay;
mod resolve;
#[cfg(test)]
mod tests;

pub use app::{Addresses, Error, Running, run, start};
pub use config::{Config, IdentityConfig, LimitConfig, TimeoutConfig};
