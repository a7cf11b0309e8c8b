//! The subscription to the registry: keeps a view current, publishes it, and keeps it on disk for a start without registry.

mod publish;

pub use publish::{Publisher, Views};
