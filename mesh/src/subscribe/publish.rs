//! One writer publishes views; any number of readers load the newest without a lock.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::model::{Held, View};

/// The reading end; cheap to clone.
#[derive(Clone, Debug)]
pub struct Views {
    current: Arc<ArcSwap<View>>,
    held: watch::Receiver<Held>,
}

impl Views {
    /// The newest view. Takes no lock that a writer can hold.
    #[must_use]
    pub fn load(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Returns after the next publication; then [`Views::load`] gives that view or a newer one. An error means that the
    /// writer is gone: the last view stays good.
    ///
    /// # Errors
    /// When the publisher was dropped.
    pub async fn changed(&mut self) -> Result<Held, watch::error::RecvError> {
        self.held.changed().await?;
        Ok(*self.held.borrow_and_update())
    }
}

/// The writing end. Not cloneable: a state has one writer.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<View>>,
    held: watch::Sender<Held>,
}

impl Publisher {
    /// Starts with a view (from disk, or empty).
    #[must_use]
    pub fn new(view: View) -> (Self, Views) {
        let held = watch::Sender::new(view.held());
        let current = Arc::new(ArcSwap::from_pointee(view));
        let views = Views {
            current: Arc::clone(&current),
            held: held.subscribe(),
        };
        (Self { current, held }, views)
    }

    /// The view that was published last.
    #[must_use]
    pub fn current(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Makes a view the newest.
    pub fn publish(&self, view: View) {
        let held = view.held();
        self.current.store(Arc::new(view));
        self.held.send_replace(held);
    }
}
