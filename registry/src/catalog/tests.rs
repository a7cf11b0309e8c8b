//! What each command means, by tables; and what no sequence of them may break.

mod digests;
pub(crate) mod golden;
mod leases;
mod others;
mod peers;
mod random;
mod share;
