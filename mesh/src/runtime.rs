//! Running: supervised tasks, stop and drain, readiness, bounded queues, back-off, the clock.

pub mod backoff;
pub mod clock;
pub mod life;
pub mod queue;
pub mod ready;
pub mod shutdown;
pub mod tasks;

pub use backoff::Backoff;
pub use clock::Clock;
pub use life::Life;
pub use ready::{Pending, Ready};
pub use shutdown::{Drain, DrainGuard, Stop};
pub use tasks::{OnExit, TaskError, Tasks};
