//! Between regions: what is offered to a peer, what is taken from it, and the one stream that carries both.

pub mod merge;
