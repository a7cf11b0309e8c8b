//! Bounded queues: each has a name, a bound, and an answer at the bound that a metric counts.

use metrics::Counter;
use tokio::sync::mpsc;

use crate::ops::Metrics;

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bound is reached; the caller decides whether to try later.
    #[error("queue is full")]
    Full,
    /// The reader is gone.
    #[error("queue is closed")]
    Closed,
}

/// The writing end.
pub struct Sender<T> {
    inner: mpsc::Sender<T>,
    full: Counter,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            full: self.full.clone(),
        }
    }
}

impl<T> Sender<T> {
    /// Puts an item in, or refuses at the bound.
    ///
    /// # Errors
    /// [`Refused::Full`] at the bound, [`Refused::Closed`] when the reader is gone.
    pub fn offer(&self, item: T) -> Result<(), Refused> {
        self.inner.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                self.full.increment(1);
                Refused::Full
            }
            mpsc::error::TrySendError::Closed(_) => Refused::Closed,
        })
    }

    /// Puts an item in, waiting for room: back-pressure on the caller.
    ///
    /// # Errors
    /// [`Refused::Closed`] when the reader is gone.
    pub async fn put(&self, item: T) -> Result<(), Refused> {
        if self.inner.capacity() == 0 {
            self.full.increment(1);
        }
        self.inner.send(item).await.map_err(|_| Refused::Closed)
    }
}

/// A queue of at most `bound` items; `isthmus_queue_full_total{queue=name}` counts how often the bound was met.
pub fn bounded<T>(metrics: &Metrics, name: &'static str, bound: usize) -> (Sender<T>, mpsc::Receiver<T>) {
    let (inner, receiver) = mpsc::channel(bound);
    let full = metrics.counter(
        "isthmus_queue_full_total",
        "times a queue's bound was met",
        &[("queue", name)],
    );
    (Sender { inner, full }, receiver)
}
