//! Who works on the disk. Promises that the jobs of a lane run one after the other in the order in which they were given,
//! and that no runtime worker ever waits for the disk; when a lane is gone, so is every promise of storage.
//!
//! A lane is a thread with one thing that it owns. Without threads (see [`Pace`]) it is a task, and its jobs run inline.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use mesh::{
    ops::Metrics,
    runtime::{OnExit, Tasks},
};
use metrics::Histogram;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{
    log::ahead::Ahead,
    records::Records,
    storage::{Engine, EngineError, Files, Pace, Storage},
};

/// Jobs that wait for a lane. Raft keeps one append, one apply and a few reads in flight, so the bound is met only by a
/// disk that hangs; then the givers wait.
const JOBS_MAX: usize = 256;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

enum Order<T> {
    Run(Job<T>),
    Close(oneshot::Sender<()>),
}

/// Why a job was not done.
#[derive(Debug, Error)]
pub(crate) enum DiskError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the storage thread has ended")]
    Gone,
}

/// The giving end of one lane; clones give to the same.
pub(crate) struct Lane<T> {
    orders: mpsc::Sender<Order<T>>,
}

impl<T> Clone for Lane<T> {
    fn clone(&self) -> Self {
        Self {
            orders: self.orders.clone(),
        }
    }
}

impl<T: 'static> Lane<T> {
    /// Opens what the lane owns, on the lane.
    pub(crate) async fn open<E>(
        name: &'static str,
        pace: Option<&Arc<dyn Pace>>,
        tasks: &Tasks,
        open: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Self, E>
    where
        E: From<DiskError> + Send + 'static,
        T: Send,
    {
        let (orders, inbox) = mpsc::channel(JOBS_MAX);
        if let Some(pace) = pace {
            pace.wait().await;
            let owned = open()?;
            // Its end is seen by every giver as `Gone`.
            tasks.spawn(name, OnExit::Ignore, follow_pace(inbox, owned, Arc::clone(pace)));
            return Ok(Self { orders });
        }
        let (opened, is_open) = oneshot::channel();
        let run = move || match open() {
            Ok(owned) => {
                let _ = opened.send(Ok(())); // the opener left; the end of the inbox follows
                follow(inbox, owned);
            }
            Err(error) => {
                let _ = opened.send(Err(error)); // as above
            }
        };
        // A plain thread, because jobs block; its end is seen by every giver as `Gone`.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        thread.map_err(|_| DiskError::Gone)?;
        is_open.await.map_err(|_| DiskError::Gone)??;
        Ok(Self { orders })
    }

    /// Gives a job and waits for its answer.
    pub(crate) async fn run<A: Send + 'static, E: From<DiskError> + Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> Result<A, E> + Send + 'static,
    ) -> Result<A, E> {
        let (reply, answer) = oneshot::channel();
        self.give(move |owned| {
            let _ = reply.send(job(owned)); // the asker left
        })
        .await?;
        answer.await.map_err(|_| DiskError::Gone)?
    }

    /// Gives a job without waiting for it to be done.
    pub(crate) async fn give(&self, job: impl FnOnce(&mut T) + Send + 'static) -> Result<(), DiskError> {
        let order = Order::Run(Box::new(job));
        self.orders.send(order).await.map_err(|_| DiskError::Gone)
    }

    fn is_closed(&self) -> bool {
        self.orders.is_closed()
    }

    /// Runs the jobs that were given, then drops what the lane owns.
    pub(crate) async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        // Either way the lane is gone afterwards.
        if self.orders.send(Order::Close(closed)).await.is_ok() {
            let _ = is_closed.await;
        }
    }
}

fn follow<T>(mut inbox: mpsc::Receiver<Order<T>>, mut owned: T) {
    while let Some(order) = inbox.blocking_recv() {
        match order {
            Order::Run(job) => job(&mut owned),
            Order::Close(closed) => {
                drop(owned);
                let _ = closed.send(()); // nobody waits any more
                return;
            }
        }
    }
}

async fn follow_pace<T>(mut inbox: mpsc::Receiver<Order<T>>, mut owned: T, pace: Arc<dyn Pace>) {
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Run(job) => {
                pace.wait().await;
                job(&mut owned);
            }
            Order::Close(closed) => {
                drop(owned);
                let _ = closed.send(()); // nobody waits any more
                return;
            }
        }
    }
}

/// The storage of one node; clones are the same.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) database: Lane<Box<dyn Engine>>,
    records: Arc<Records>,
    ahead: Arc<Ahead>,
    pace: Option<Arc<dyn Pace>>,
    free: Arc<Free>,
    sync_seconds: Histogram,
    apply_seconds: Histogram,
}

/// How much room there is.
struct Free {
    bytes: AtomicU64,
    /// The database could not take room for its next writes.
    is_short: AtomicBool,
    #[cfg(test)]
    pretended: AtomicBool,
}

impl Disk {
    /// Opens the database on a lane of its own.
    pub(crate) async fn open(storage: Storage, metrics: &Metrics, tasks: &Tasks) -> Result<Self, DiskError> {
        let Storage { files, engine, pace } = storage;
        let database = Lane::open("raft-db", pace.as_ref(), tasks, move || Ok::<_, DiskError>(engine()?)).await?;
        let disk = Self {
            files,
            database,
            records: Arc::default(),
            ahead: Arc::default(),
            pace,
            free: Arc::new(Free {
                bytes: AtomicU64::new(u64::MAX),
                is_short: AtomicBool::new(false),
                #[cfg(test)]
                pretended: Default::default(),
            }),
            sync_seconds: metrics.histogram("isthmus_raft_sync_seconds", "time of one append with its flush", &[]),
            apply_seconds: metrics.histogram(
                "isthmus_raft_apply_seconds",
                "time to apply the committed entries at hand to the catalogue",
                &[],
            ),
        };
        disk.look();
        Ok(disk)
    }

    /// Gives the database a job and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, DiskError> {
        self.database
            .run(|engine: &mut Box<dyn Engine>| Ok(job(&**engine)?))
            .await
    }

    /// Gives the database a job without waiting for it to be done.
    pub(crate) async fn give(&self, job: impl FnOnce(&dyn Engine) + Send + 'static) -> Result<(), DiskError> {
        self.database.give(|engine: &mut Box<dyn Engine>| job(&**engine)).await
    }

    /// Runs the jobs that were given and writes what is applied, so that a start need not apply it again; then closes the
    /// database and gives its lock back.
    pub(crate) async fn close(&self) {
        let records = self.records();
        // What fails here is in the log.
        let _ = self
            .run(move |engine| {
                records.write(engine)?;
                engine.sync()
            })
            .await;
        self.database.close().await;
    }

    /// Work on files, away from the runtime's workers and in no order.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DiskError> {
        if let Some(pace) = &self.pace {
            pace.wait().await;
            return Ok(work());
        }
        tokio::task::spawn_blocking(work).await.map_err(|_| DiskError::Gone)
    }

    /// Whether there are threads to block.
    pub(crate) fn has_threads(&self) -> bool {
        self.pace.is_none()
    }

    /// The time of one append with its flush.
    pub(crate) fn sync_seconds(&self) -> Histogram {
        self.sync_seconds.clone()
    }

    /// For the state machine.
    pub(crate) fn apply_seconds(&self) -> &Histogram {
        &self.apply_seconds
    }

    /// What is applied but not in the database yet.
    pub(crate) fn records(&self) -> Arc<Records> {
        Arc::clone(&self.records)
    }

    /// How far the leader's own appends are.
    pub(crate) fn ahead(&self) -> Arc<Ahead> {
        Arc::clone(&self.ahead)
    }

    /// A lane of this disk for something else than the database.
    pub(crate) async fn lane<T: Send + 'static, E: From<DiskError> + Send + 'static>(
        &self,
        name: &'static str,
        tasks: &Tasks,
        open: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<Lane<T>, E> {
        Lane::open(name, self.pace.as_ref(), tasks, open).await
    }

    /// Looks how much room there is; blocks as briefly as a system call.
    pub(crate) fn look(&self) {
        #[cfg(test)]
        if self.free.pretended.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(bytes) = self.files.free_bytes() {
            self.free.bytes.store(bytes, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(crate) fn pretend(&self, free_mib: Option<u64>) {
        self.free.pretended.store(free_mib.is_some(), Ordering::Relaxed);
        match free_mib {
            Some(free_mib) => self.free.bytes.store(free_mib << 20, Ordering::Relaxed),
            None => self.look(),
        }
    }

    /// Takes room for the database's next writes; soon, on its lane.
    pub(crate) async fn keep_room(&self) {
        let free = Arc::clone(&self.free);
        let keep = move |engine: &dyn Engine| free.is_short.store(engine.reserve().is_err(), Ordering::Relaxed);
        // A lane that has ended is noticed by those who wait for it.
        let _ = self.give(keep).await;
    }

    /// What was free at the last look; nothing, when room for the next writes could not be taken.
    pub(crate) fn free_mib(&self) -> u64 {
        if self.free.is_short.load(Ordering::Relaxed) {
            return 0;
        }
        self.free.bytes.load(Ordering::Relaxed) >> 20
    }

    /// Whether the disk is closed for good.
    pub(crate) fn is_closed(&self) -> bool {
        self.database.is_closed()
    }
}
