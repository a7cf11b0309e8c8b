//! Quotas: by what rules a proxy spends its share of a tenant's rate, and how it keeps to them.

mod gcra;
mod holder;

use std::time::Duration;

pub use gcra::Gcra;
pub use holder::{Allowance, Confirmed, Holder};

/// How long a proxy may spend a share after the latest time at which it was known to be in force. Long enough for the loss of
/// two heartbeats and for an election, short enough that a share moves within seconds. Every part of the proof that the sum
/// never exceeds the quota stands on this span; it is no setting, so that all nodes and proxies agree on it.
pub const SHARE_TTL: Duration = Duration::from_secs(10);

/// The rate of a share of nothing: 0 would be unlimited.
pub const NOTHING: f64 = 1e-9;
