//! What each command means, by tables; and what no sequence of them may break.

mod digests;
mod leases;
mod others;
mod peers;
mod random;
