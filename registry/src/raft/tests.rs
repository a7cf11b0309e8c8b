//! Whole groups in one process: real disks, real TLS, real sockets on loopback.

mod cut;
mod group;
mod members;
mod store;
mod world;
