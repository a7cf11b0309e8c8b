//! One daemon on a thread and a runtime of its own. Stopping is orderly; killing drops the whole runtime in the middle of
//! whatever it does, so that its sockets close as those of a killed process do.

use std::{future::Future, thread, time::Duration};

use anyhow::Context;
use futures_util::future::LocalBoxFuture;
use mesh::runtime::Stop;
use tokio::sync::oneshot;

/// For threads that are in the middle of a disk write when their runtime is dropped.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// What a start gives: the rest of the daemon's life.
pub type Life = LocalBoxFuture<'static, anyhow::Result<()>>;

/// A daemon that was started.
pub struct Daemon {
    stop: Stop,
    cut: Stop,
    started: Option<oneshot::Receiver<()>>,
    ended: Option<oneshot::Receiver<anyhow::Result<()>>>,
}

impl Daemon {
    /// Starts a daemon; `start` runs on its runtime and returns its life once it listens.
    pub fn launch<F>(name: &str, start: impl FnOnce(Stop) -> F + Send + 'static) -> Self
    where
        F: Future<Output = anyhow::Result<Life>> + 'static,
    {
        let (stop, cut) = (Stop::default(), Stop::default());
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let (order, killed) = (stop.clone(), cut.clone());
        let body = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let outcome = runtime.block_on(async move {
                let whole = async {
                    let life = start(order).await?;
                    // Nobody may be waiting for that.
                    let _ = tell_started.send(());
                    life.await
                };
                tokio::select! {
                    () = killed.ordered() => Ok(()),
                    outcome = whole => outcome,
                }
            });
            runtime.shutdown_timeout(SHUTDOWN);
            // Whoever let go of it does not care how it ended.
            let _ = tell_ended.send(outcome);
        };
        thread::Builder::new().name(name.to_owned()).spawn(body).unwrap();
        Self {
            stop,
            cut,
            started: Some(started),
            ended: Some(ended),
        }
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn started(&mut self) -> anyhow::Result<()> {
        let Some(started) = self.started.take() else {
            return Ok(());
        };
        if started.await.is_ok() {
            return Ok(());
        }
        match self.ended.take() {
            Some(ended) => ended.await.context("the daemon's thread panicked")?,
            None => Ok(()),
        }
        .and_then(|()| anyhow::bail!("ended before it listened"))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.ended
            .as_mut()
            .is_none_or(|ended| !matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)))
    }

    /// Orders it to stop and waits until it has.
    ///
    /// # Errors
    /// How it failed instead.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.order();
        match self.ended.take() {
            Some(ended) => ended.await.context("the daemon's thread panicked")?,
            None => Ok(()),
        }
    }

    /// Cuts it off and waits until its sockets are closed and its files are free.
    pub async fn kill(mut self) {
        self.cut.order();
        if let Some(ended) = self.ended.take() {
            // How it would have ended does not matter any more.
            let _ = ended.await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.cut.order();
    }
}
