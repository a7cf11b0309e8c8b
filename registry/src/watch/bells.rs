//! Wakes everyone who waits for the next moment. A bell is hung once and rung for each moment: what is paid per moment and
//! subscriber is the wake-up itself.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;

/// All bells of a hub.
#[derive(Default)]
pub(super) struct Bells {
    /// Guards the table only.
    table: Mutex<BTreeMap<u64, Arc<AtomicWaker>>>,
    next: AtomicU64,
}

impl fmt::Debug for Bells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bells").field("count", &self.lock().len()).finish()
    }
}

impl Bells {
    /// One more, which is taken down when it is dropped.
    pub(super) fn hang(self: &Arc<Self>) -> Bell {
        let (id, waker) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        self.lock().insert(id, Arc::clone(&waker));
        let bells = Arc::clone(self);
        Bell { bells, id, waker }
    }

    /// Wakes whoever has waited since the last time.
    pub(super) fn ring(&self) {
        // Not under the lock: nobody knows what a waker does.
        let wakers: Vec<_> = self.lock().values().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<AtomicWaker>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subscriber's.
#[derive(Debug)]
pub(super) struct Bell {
    bells: Arc<Bells>,
    id: u64,
    waker: Arc<AtomicWaker>,
}

impl Bell {
    /// From now on wakes `waker`. Look for news after this, so that none comes between.
    pub(super) fn wake(&self, waker: &Waker) {
        self.waker.register(waker);
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.bells.lock().remove(&self.id);
    }
}

/// Rings a last time when it is dropped.
#[derive(Debug)]
pub(super) struct LastRing(pub(super) Arc<Bells>);

impl Drop for LastRing {
    fn drop(&mut self) {
        self.0.ring();
    }
}
