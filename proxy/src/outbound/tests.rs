//! Behaviour over real sockets: requests from a caller through both sides of two proxies to an application.

mod demand;
mod failover;
mod http;
mod tunnels;
