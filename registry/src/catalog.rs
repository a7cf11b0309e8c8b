//! The catalogue: commands in, state out. Pure: no tokio, clock, random numbers or sockets; applying is deterministic.

mod command;

pub use command::{
    AuthorityRecord, Batch, Command, Drill, GatewayLease, Grant, ImportSet, Lessee, PeerRecord, Refusal, Reply,
    TokenDigest, TokenRecord, WorkloadLease, WorkloadService,
};
