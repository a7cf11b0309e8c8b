//! How facts come in from agents: what they may say, the leases that their streams stand for, and when a lease is over.
//! Proposes; never changes the catalogue itself.

mod admit;
mod agent;
mod expire;
mod lease;

pub(crate) use admit::{Counts, Judge, Turned};
pub(crate) use agent::Agents;
pub use expire::{LeaseTimes, Watch, watch};
pub use lease::{Leases, Term};
