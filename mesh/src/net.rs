//! Sockets: listening, dialling, reading a ClientHello, relaying. Says how bytes move, never where they should go.

pub mod allowance;
pub mod copy;
pub mod dial;
pub mod grpc;
pub mod hello;
pub mod listen;
pub mod newcomers;
pub mod probe;
