//! Who watches and how far they are: acknowledgements, lag, and the time from commit to applied.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
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
    table: Mutex<BTreeMap<u64, Row>>,
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
    acknowledged: Revision,
    /// Revision, time of sending and of the oldest change, of updates that are not acknowledged yet.
    awaited: BTreeMap<Revision, (Timestamp, Option<Timestamp>)>,
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

    /// Enters a subscriber; none at the bound. It is struck out when the ticket is dropped.
    #[must_use]
    pub fn enter(self: &Arc<Self>, name: &str, version: &str) -> Option<Ticket> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.lock();
        if table.len() >= SUBSCRIBERS_MAX {
            return None;
        }
        let row = Row {
            // For people: a name needs no more.
            name: name.chars().take(128).collect(),
            version: version.chars().take(32).collect(),
            acknowledged: Revision(0),
            awaited: BTreeMap::new(),
        };
        table.insert(id, row);
        self.show(table.len());
        let subscribers = Arc::clone(self);
        Some(Ticket { subscribers, id })
    }

    /// All subscribers, in the order in which they came.
    #[must_use]
    pub fn list(&self, now: Timestamp) -> Vec<SubscriberStatus> {
        let table = self.lock();
        let rows = table.values().map(|row| SubscriberStatus {
            name: row.name.clone(),
            version: row.version.clone(),
            acknowledged: row.acknowledged,
            lag: row.lag(now),
        });
        rows.collect()
    }

    /// That of the slowest subscriber.
    #[must_use]
    pub fn lag_max(&self, now: Timestamp) -> Duration {
        self.lock().values().map(|row| row.lag(now)).max().unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Row>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, count: usize) {
        self.count.set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

impl Row {
    fn lag(&self, now: Timestamp) -> Duration {
        let oldest = self.awaited.values().map(|(sent_at, _)| now.since(*sent_at)).max();
        oldest.unwrap_or_default()
    }
}

/// A subscriber's entry in the table.
#[derive(Debug)]
pub struct Ticket {
    subscribers: Arc<Subscribers>,
    id: u64,
}

impl Ticket {
    /// The subscription is cut, because its reader does not read.
    pub fn cut(&self) {
        self.subscribers.cut.increment(1);
    }

    /// An update was sent.
    pub fn sent(&self, held: Held, sent_at: Timestamp, committed_at: Option<Timestamp>) {
        if let Some(committed_at) = committed_at {
            self.subscribers.sent.record(sent_at.since(committed_at).as_secs_f64());
        }
        if let Some(row) = self.subscribers.lock().get_mut(&self.id)
            && row.awaited.len() < AWAITED_MAX
        {
            row.awaited.insert(held.revision, (sent_at, committed_at));
        }
    }

    /// The subscriber applied everything up to `held`, at `applied_at` by its own clock.
    pub fn acknowledged(&self, held: Held, applied_at: Timestamp) {
        let mut table = self.subscribers.lock();
        let Some(row) = table.get_mut(&self.id) else {
            return;
        };
        let newer = row.awaited.split_off(&Revision(held.revision.0.saturating_add(1)));
        let applied = std::mem::replace(&mut row.awaited, newer);
        row.acknowledged = held.revision;
        drop(table);
        // The time is that of the newest; those before it were applied some time sooner.
        if let Some((_, (_, Some(committed_at)))) = applied.last_key_value() {
            self.subscribers
                .applied
                .record(applied_at.since(*committed_at).as_secs_f64());
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
