//! Quotas: how a tenant's rate is divided among its proxies, and how each of them keeps to its part.

mod gcra;
mod share;

pub use gcra::Gcra;
pub use share::share;
