//! Who does not read. A stream is asked for its next message only once the last one was taken: that nothing is taken shows
//! only from outside. One task looks at all readers from time to time, so that none of them needs a timer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    net::grpc::Hangup,
    runtime::{OnExit, Tasks, clock},
};
use tokio::time::Instant;

use crate::watch::Hub;

/// How often it looks in the time that a reader has: it is cut late by this fraction of it at most.
const LOOKS: u32 = 8;

/// All readers of a service.
pub(super) struct Readers {
    /// Guards the table only.
    table: Mutex<BTreeMap<u64, Arc<Reader>>>,
    next: AtomicU64,
    began: Instant,
}

struct Reader {
    hangup: Hangup,
    /// When it was given the update that it is taking, in milliseconds since the beginning and one more; 0 while it has taken
    /// all.
    since: AtomicU64,
}

impl Readers {
    /// Cuts whoever takes longer than `slow_max` for an update, for as long as the tasks run.
    pub(super) fn watched(hub: Arc<Hub>, tasks: &Tasks, slow_max: Duration) -> Arc<Self> {
        let readers = Arc::new(Self {
            table: Mutex::default(),
            next: AtomicU64::new(0),
            began: clock::now(),
        });
        let (watched, stop) = (Arc::clone(&readers), tasks.stop().clone());
        tasks.spawn("watch-readers", OnExit::StopProcess, async move {
            loop {
                tokio::select! {
                    () = stop.ordered() => return,
                    () = tokio::time::sleep(slow_max / LOOKS) => {}
                }
                for reader in watched.slow(slow_max) {
                    hub.subscribers().count_cut();
                    reader.hangup.cut();
                    // Once is enough.
                    reader.since.store(0, Ordering::Relaxed);
                }
            }
        });
        readers
    }

    /// One more, until it is dropped. `hangup` cuts its call.
    pub(super) fn enter(self: &Arc<Self>, hangup: Hangup) -> Reading {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let reader = Arc::new(Reader {
            hangup,
            since: AtomicU64::new(0),
        });
        self.lock().insert(id, Arc::clone(&reader));
        let readers = Arc::clone(self);
        Reading { readers, id, reader }
    }

    fn slow(&self, slow_max: Duration) -> Vec<Arc<Reader>> {
        let before = self.now().saturating_sub(millis(slow_max));
        let table = self.lock();
        let is_slow = |reader: &&Arc<Reader>| (1..before).contains(&reader.since.load(Ordering::Relaxed));
        table.values().filter(is_slow).cloned().collect()
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed()).saturating_add(1)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Reader>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// One reader's entry.
pub(super) struct Reading {
    readers: Arc<Readers>,
    id: u64,
    reader: Arc<Reader>,
}

impl Reading {
    /// There is an update for it.
    pub(super) fn given(&self) {
        self.reader.since.store(self.readers.now(), Ordering::Relaxed);
    }

    /// It has taken all of it.
    pub(super) fn taken(&self) {
        self.reader.since.store(0, Ordering::Relaxed);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.readers.lock().remove(&self.id);
    }
}
