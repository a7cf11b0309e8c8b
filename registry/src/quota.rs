//! A tenant's rate is one for the whole mesh: the home region leases parts of it to the others, each region divides its part
//! among its proxies. At any moment the leases that may still be spent and the floors add up to no more than the rate.
//!
//! What is decided is pure: [`lessor`] (who gets how much), [`terms`] (what a holder may still spend), [`division`] (a
//! region's part by proxy), [`steward`] (what the leader proposes). [`desk`] answers heartbeats and gathers demand.

pub mod desk;
pub mod division;
pub mod lessor;
pub mod steward;
pub mod terms;
#[cfg(test)]
mod tests;
