//! Whole groups in one process: real disks, real TLS, real sockets on loopback.

mod cut;
mod golden;
mod group;
mod lossy;
mod members;
mod room;
mod store;
mod torn;
mod world;
