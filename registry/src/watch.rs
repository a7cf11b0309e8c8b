//! From the catalogue to everyone who watches it: the hub is told of each applied entry, and every subscriber gets what its
//! scope shows, as a delta where the history reaches back far enough, else as a snapshot.

mod bells;
mod given;
mod history;
mod hub;
mod publish;
mod scope;
mod status;
mod subscriber;
mod sums;
#[cfg(test)]
mod tests;

pub use given::{Given, Messages};
pub use history::History;
pub use hub::{Hub, Moment};
pub use publish::{NoPublish, Publish, Published};
pub use scope::Scope;
pub use status::{SubscriberStatus, Ticket};
pub use subscriber::{Chunks, Subscriber, chunks};
