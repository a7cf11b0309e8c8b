//! Supervised tasks: each has a name and an exit policy, and all are joined. The unexpected end of a critical one ends
//! the process instead of leaving it half alive.

use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::FutureExt;
use thiserror::Error;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::{Stop, life};

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// It runs as long as the process: its end, unless a stop was ordered, stops the process with an error.
    StopProcess,
    /// It may end at any time, as a connection does. A panic is logged.
    Ignore,
}

/// A critical task that ended.
#[derive(Clone, Debug, Error)]
pub enum TaskError {
    /// It returned although nobody had ordered a stop.
    #[error("task {0} ended unexpectedly")]
    Ended(&'static str),
    /// It panicked; the message is in the log.
    #[error("task {0} panicked")]
    Panicked(&'static str),
}

/// Spawns and supervises the tasks of one daemon.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Stop,
    failure: Arc<OnceLock<TaskError>>,
}

impl Tasks {
    /// Tasks that end with `stop`, and that order it when a critical one fails.
    #[must_use]
    pub fn new(stop: Stop) -> Self {
        Self {
            stop,
            ..Self::default()
        }
    }

    /// The order that these tasks obey.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task.
    #[track_caller]
    pub fn spawn(&self, name: &'static str, on_exit: OnExit, task: impl Future<Output = ()> + Send + 'static) {
        let (stop, failure) = (self.stop.clone(), Arc::clone(&self.failure));
        let task = self.tracker.track_future(async move {
            let panicked = std::panic::AssertUnwindSafe(task).catch_unwind().await.is_err();
            if panicked {
                error!(task = name, "task panicked");
            }
            if on_exit == OnExit::StopProcess && !stop.is_ordered() {
                let fault = if panicked {
                    TaskError::Panicked(name)
                } else {
                    TaskError::Ended(name)
                };
                error!(task = name, "critical task ended; stopping");
                // Only the first failure is reported; later ones follow from it.
                let _ = failure.set(fault);
                stop.order();
            }
        });
        // Joined through the tracker.
        drop(life::spawn(task));
    }

    /// Waits for the order to stop, then for all tasks, at most `deadline`.
    ///
    /// # Errors
    /// The first critical task that ended by itself.
    pub async fn join(&self, deadline: Duration) -> Result<(), TaskError> {
        self.stop.ordered().await;
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_err() {
            debug!(left = self.tracker.len(), "tasks cut at the deadline");
        }
        self.failure.get().cloned().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_critical_task_stops_the_process() {
        let tasks = Tasks::new(Stop::default());
        tasks.spawn("hub", OnExit::StopProcess, async {});
        let error = tasks.join(Duration::from_secs(1)).await.expect_err("hub ended");
        assert_eq!(error.to_string(), "task hub ended unexpectedly");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_joins_all_tasks() {
        let tasks = Tasks::new(Stop::default());
        let stop = tasks.stop().clone();
        tasks.spawn("hub", OnExit::StopProcess, async move { stop.ordered().await });
        tasks.spawn("connection", OnExit::Ignore, async {});
        tasks.stop().order();
        tasks
            .join(Duration::from_secs(1))
            .await
            .expect("an ordered stop is no failure");
    }
}
