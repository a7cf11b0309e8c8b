//! The gateway over real sockets, in one process. Views are published by the test instead of a registry.

mod admission;
mod lifecycle;
mod registry;
mod tunnels;
pub(crate) mod world;
