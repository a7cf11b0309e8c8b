//! The thread that owns the database. Promises that jobs run one after the other in the order in which they were given,
//! and that no runtime worker ever waits inside the database; when the thread is gone, so is every promise of storage.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh::{ops::Metrics, runtime::clock};
use metrics::Histogram;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, EngineError, Sled};

/// Jobs that wait for the thread. Raft keeps one append, one apply and a few reads in flight, so the bound is met only by
/// a disk that hangs; then the givers wait.
const JOBS_MAX: usize = 256;

type Job = Box<dyn FnOnce(&dyn Engine) + Send>;

enum Order {
    Run(Job),
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

/// The giving end; clones give to the same thread.
#[derive(Clone)]
pub(crate) struct Disk {
    orders: mpsc::Sender<Order>,
    free: Arc<Free>,
    sync_seconds: Histogram,
}

/// How much room there is.
struct Free {
    path: PathBuf,
    bytes: AtomicU64,
    #[cfg(test)]
    pretended: std::sync::atomic::AtomicBool,
}

/// sled panics when it is dropped over a disk that has failed. Where a panic is the end of the process, it is left to the
/// end of the process, which follows in order.
fn close(engine: Sled) {
    if cfg!(panic = "abort") && engine.sync().is_err() {
        std::mem::forget(engine);
    }
}

impl Disk {
    /// Opens the database of `data_dir` on its own thread.
    pub(crate) async fn open(data_dir: &Path, metrics: &Metrics) -> Result<Self, DiskError> {
        let (orders, mut inbox) = mpsc::channel::<Order>(JOBS_MAX);
        let (opened, is_open) = oneshot::channel();
        let path = data_dir.join("db");
        let run = move || {
            let engine = match Sled::open(&path) {
                Ok(engine) => engine,
                Err(error) => {
                    // The opener waits below; if it is gone, nobody wants to know.
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            let _ = opened.send(Ok(())); // as above
            while let Some(order) = inbox.blocking_recv() {
                match order {
                    Order::Run(job) => job(&engine),
                    Order::Close(closed) => {
                        close(engine);
                        let _ = closed.send(()); // nobody waits any more
                        return;
                    }
                }
            }
        };
        // A plain thread, because jobs block; its end is seen by every giver as `Gone`.
        std::thread::Builder::new()
            .name("raft-disk".to_owned())
            .spawn(run)
            .map_err(|source| EngineError::File {
                path: data_dir.to_owned(),
                source,
            })?;
        is_open.await.map_err(|_| DiskError::Gone)??;
        let disk = Self {
            orders,
            free: Arc::new(Free {
                path: data_dir.to_owned(),
                bytes: AtomicU64::new(u64::MAX),
                #[cfg(test)]
                pretended: Default::default(),
            }),
            sync_seconds: metrics.histogram("isthmus_raft_sync_seconds", "time of one append with its flush", &[]),
        };
        disk.look();
        Ok(disk)
    }

    /// Gives a job and waits for its answer.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, DiskError> {
        let (reply, answer) = oneshot::channel();
        self.give(move |engine| {
            let _ = reply.send(job(engine)); // the asker left
        })
        .await?;
        Ok(answer.await.map_err(|_| DiskError::Gone)??)
    }

    /// Gives a job without waiting for it to be done.
    pub(crate) async fn give(&self, job: impl FnOnce(&dyn Engine) + Send + 'static) -> Result<(), DiskError> {
        let order = Order::Run(Box::new(job));
        self.orders.send(order).await.map_err(|_| DiskError::Gone)
    }

    /// Runs the jobs that were given, then closes the database and gives its lock back.
    pub(crate) async fn close(&self) {
        let (closed, is_closed) = oneshot::channel();
        // Either way the thread is gone afterwards.
        if self.orders.send(Order::Close(closed)).await.is_ok() {
            let _ = is_closed.await;
        }
    }

    /// Times `sync` as one append sees it.
    pub(crate) fn timed_sync(seconds: &Histogram, engine: &dyn Engine) -> Result<(), EngineError> {
        let begun = clock::now();
        engine.sync()?;
        seconds.record(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// For [`Disk::timed_sync`] inside a job.
    pub(crate) fn sync_seconds(&self) -> Histogram {
        self.sync_seconds.clone()
    }

    /// Looks how much room there is; blocks as briefly as a system call.
    pub(crate) fn look(&self) {
        #[cfg(test)]
        if self.free.pretended.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(stat) = rustix::fs::statvfs(&self.free.path) {
            let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
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

    /// What was free at the last look.
    pub(crate) fn free_mib(&self) -> u64 {
        self.free.bytes.load(Ordering::Relaxed) >> 20
    }
}
