//! Linearizability of a region of real processes: three registry nodes, each in a network namespace and on a disk of its
//! own, written and read by concurrent clients while a seeded nemesis kills, pauses, cuts off and fills. Promises a verdict
//! over what the clients saw; refuses to run (and says why) where there are no namespaces or loop devices.

pub mod check;
mod clients;
mod disk;
mod history;
mod judge;
mod nemesis;
mod network;
mod nodes;
mod run;

pub use history::{Event, Kind};
pub use nodes::Program;
pub use run::{Outcome, Plan, run};
