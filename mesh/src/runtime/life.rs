//! Tasks that share one fate: those of one process of a simulation, which end together and at once, as those of a killed
//! process do. A task belongs to the life of the task that spawned it. Outside of a simulation there is none, and nothing
//! is kept.
#![allow(
    clippy::disallowed_methods,
    reason = "tasks are spawned here for `Tasks` and for Raft"
)]

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::{AbortHandle, JoinHandle};

tokio::task_local! {
    static LIFE: Life;
}

/// Ended tasks are forgotten whenever so many are known.
const SWEEP_MIN: usize = 64;

/// The tasks of one simulated process. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Guards the list only.
    tasks: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    tasks: Vec<AbortHandle>,
    sweep_at: usize,
    is_over: bool,
}

impl Life {
    /// Starts a task; what it spawns belongs to this life as well. Over = it never runs.
    #[track_caller]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let handle = tokio::spawn(LIFE.scope(self.clone(), task));
        let mut known = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_over {
            handle.abort();
            return handle;
        }
        if known.tasks.len() >= known.sweep_at.max(SWEEP_MIN) {
            known.tasks.retain(|task| !task.is_finished());
            known.sweep_at = known.tasks.len() * 2;
        }
        known.tasks.push(handle.abort_handle());
        handle
    }

    /// Ends all tasks where they wait: none of them runs any further.
    pub fn end(&self) {
        let mut known = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_over = true;
        let tasks = std::mem::take(&mut known.tasks);
        drop(known);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Starts a task, in the life of the one that calls if it has one.
#[track_caller]
pub fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match LIFE.try_with(Clone::clone) {
        Ok(life) => life.spawn(task),
        Err(_) => tokio::spawn(task),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_life_ends_with_all_that_was_spawned_in_it() {
        let ran = Arc::new(AtomicU64::new(0));
        let count = |ran: Arc<AtomicU64>| async move {
            loop {
                ran.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let life = Life::default();
        let (outer, inner) = (count(Arc::clone(&ran)), count(Arc::clone(&ran)));
        life.spawn(async move {
            drop(spawn(inner));
            outer.await;
        });
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ran.load(Ordering::Relaxed), 6, "both ran three times");
        life.end();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(ran.load(Ordering::Relaxed), 6);
        assert!(life.spawn(count(ran)).await.is_err(), "nothing begins in it any more");
    }
}
