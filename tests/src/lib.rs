//! The harness that the stories speak through: whole federations inside one process, over real sockets, real TLS and real
//! disks. Each part has a runtime of its own, so that it can be stopped in order or cut off in the middle, as a process
//! is. Knows the daemons by their settings, their addresses and what they answer, never by their insides.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test stops where it fails"
)]

mod admin;
mod application;
pub mod certs;
mod daemon;
mod dig;
mod eventually;
pub mod fuzz;
pub mod http;
mod lab;
pub mod line;
pub mod linear;
mod part;
mod region;
mod relay;
mod sidecar;
pub mod sim;
pub mod text;
mod watcher;
mod world;

pub use admin::{Admin, Said};
pub use application::Application;
pub use daemon::{Daemon, Life};
pub use dig::{Answer, Transport, dig};
pub use eventually::{PATIENCE, eventually, eventually_within, holds};
pub use lab::{executable, isthmus};
pub use part::Part;
pub use region::{Gateway, Node, Region};
pub use relay::{Path, Relay};
pub use sidecar::{Plan, Sidecar};
pub use watcher::{Watcher, names};
pub use world::World;
