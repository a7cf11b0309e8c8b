//! The proxy beside a workload: carries its requests into the mesh and the mesh's requests to it.

mod hop;
pub mod inbound;
pub mod outbound;
#[cfg(test)]
mod testing;
