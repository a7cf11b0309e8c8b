//! What at least two daemons share: nouns, routing decisions, identity and TLS, the subscription to the registry, runtime
//! and telemetry. Each module has one subject. Knows the wire (`proto`), and no daemon.

pub mod dns;
pub mod identity;
pub mod model;
pub mod net;
pub mod ops;
pub mod quota;
pub mod route;
pub mod runtime;
pub mod subscribe;
