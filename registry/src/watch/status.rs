//! Who watches and how far they are: acknowledgements, lag, and the time from commit to applied.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    model::{Held, Revision, Timestamp},
    ops::Metrics,
};
use metrics::{Counter, Gauge, Histogram};

/// Most subscribers of one node: each holds a stream and some kilobytes.
const SUBSCRIBERS_MAX: usize = 10_000;
/// Most sent updates of one subscriber whose acknowledgement is awaited; older ones are then measured with the next.
const AWAITED_MAX: usize = 256;

/// One subscriber, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberStatus {
    /// What it calls itself.
    pub name: String,
    /// Of its program; empty when it does not say.
    pub version: String,
    /// What it has applied.
    pub acknowledged: Revision,
    /// How long ago the oldest update was sent that it has not acknowledged; zero when it has them all.
    pub lag: Duration,
}

/// Table of the subscribers of one node.
#[derive(Debug)]
pub struct Subscribers {
    /// Guards the table only.
    table: Mutex<BTreeMap<u64, Arc<Row>>>,
    next: AtomicU64,
    count: Gauge,
    sent: Histogram,
    applied: Histogram,
    cut: Counter,
}

#[derive(Debug)]
struct Row {
    name: String,
    version: String,
    /// Guards plain values; a thousand subscribers are served at a time, so that each has its own.
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    acknowledged: Revision,
    /// Of updates that are not acknowledged yet, oldest first.
    awaited: VecDeque<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    revision: Revision,
    sent_at: Timestamp,
    /// Of the oldest change in it.
    committed_at: Option<Timestamp>,
}

impl Subscribers {
    pub(super) fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            next: AtomicU64::new(1),
            count: metrics.gauge("isthmus_watch_subscribers", "open subscriptions on this node", &[]),
            sent: metrics.histogram(
                "isthmus_watch_commit_to_sent_seconds",
                "from the proposal of a change to its way to a subscriber; clocks of two nodes are compared",
                &[],
            ),
            applied: metrics.histogram(
                "isthmus_watch_commit_to_applied_seconds",
                "from the proposal of a change to its application by a subscriber; clocks of two machines are compared",
                &[],
            ),
            cut: metrics.counter(
                "isthmus_watch_cut_total",
                "subscriptions cut because nothing of an update was read in time",
                &[],
            ),
        })
    }

    /// A subscription is cut, because its reader does not read.
    pub fn count_cut(&self) {
        self.cut.increment(1);
    }

    /// Enters a subscriber; none at the bound. It is struck out when the ticket is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &str, version: &str) -> Option<Ticket> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.lock();
        if table.len() >= SUBSCRIBERS_MAX {
            return None;
        }
        let row = Arc::new(Row {
            // For people: a name needs no more.
            name: name.chars().take(128).collect(),
            version: version.chars().take(32).collect(),
            progress: Mutex::default(),
        });
        table.insert(id, Arc::clone(&row));
        self.show(table.len());
        let subscribers = Arc::clone(self);
        Some(Ticket { subscribers, id, row })
    }

    /// All subscribers, in the order in which they came.
    #[must_use]
    pub fn list(&self, now: Timestamp) -> Vec<SubscriberStatus> {
        let table = self.lock();
        let rows = table.values().map(|row| {
            let progress = row.lock();
            SubscriberStatus {
                name: row.name.clone(),
                version: row.version.clone(),
                acknowledged: progress.acknowledged,
                lag: progress.lag(now),
            }
        });
        rows.collect()
    }

    /// That of the slowest subscriber.
    #[must_use]
    pub fn lag_max(&self, now: Timestamp) -> Duration {
        let table = self.lock();
        let lags = table.values().map(|row| row.lock().lag(now));
        lags.max().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Row>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, count: usize) {
        self.count.set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

impl Row {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress {
    fn lag(&self, now: Timestamp) -> Duration {
        let oldest = self.awaited.iter().map(|awaited| now.since(awaited.sent_at)).max();
        oldest.unwrap_or_default()
    }
}

/// A subscriber's entry in the table.
#[derive(Debug)]
pub struct Ticket {
    subscribers: Arc<Subscribers>,
    id: u64,
    row: Arc<Row>,
}

impl Ticket {
    /// An update was sent.
    pub fn sent(&self, held: Held, sent_at: Timestamp, committed_at: Option<Timestamp>) {
        if let Some(committed_at) = committed_at {
            self.subscribers.sent.record(sent_at.since(committed_at).as_secs_f64());
        }
        let mut progress = self.row.lock();
        // Of another life than those before: nobody will acknowledge these.
        let is_back = |last: &Awaited| last.revision > held.revision;
        if progress.awaited.back().is_some_and(is_back) {
            progress.awaited.clear();
        }
        if progress.awaited.len() < AWAITED_MAX {
            progress.awaited.push_back(Awaited {
                revision: held.revision,
                sent_at,
                committed_at,
            });
        }
    }

    /// The subscriber applied everything up to `held`, at `applied_at` by its own clock.
    pub fn acknowledged(&self, held: Held, applied_at: Timestamp) {
        let mut progress = self.row.lock();
        let is_applied = |awaited: &Awaited| awaited.revision <= held.revision;
        let count = progress.awaited.partition_point(is_applied);
        // The time is that of the newest; those before it were applied some time sooner.
        let newest = progress.awaited.drain(..count).next_back();
        progress.acknowledged = held.revision;
        drop(progress);
        if let Some(committed_at) = newest.and_then(|newest| newest.committed_at) {
            self.subscribers
                .applied
                .record(applied_at.since(committed_at).as_secs_f64());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.subscribers.lock();
        table.remove(&self.id);
        self.subscribers.show(table.len());
    }
}
