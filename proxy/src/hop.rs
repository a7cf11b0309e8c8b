//! What both HTTP hops share, out of the application and into it: reading the first bytes of a connection, refusing
//! ambiguous framing, headers that end at a hop, bodies, and hyper's way to start tasks.

pub(crate) mod body;
pub(crate) mod exec;
pub(crate) mod framing;
pub(crate) mod headers;
pub(crate) mod relay;
pub(crate) mod screen;
