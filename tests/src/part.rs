//! A part of a region that can be started, stopped, killed and started again with the same settings and folder.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use futures_util::future::LocalBoxFuture;
use mesh::runtime::Stop;

use crate::{
    daemon::{Daemon, Life},
    eventually, http,
};

type Start = Arc<dyn Fn(Stop) -> LocalBoxFuture<'static, anyhow::Result<Life>> + Send + Sync>;

/// See the module.
pub struct Part {
    /// For messages, unique in the world.
    pub name: String,
    start: Start,
    ready: (std::net::SocketAddr, &'static str),
    /// Guards the handle only.
    running: Mutex<Option<Daemon>>,
}

impl Part {
    pub(crate) fn new<F, S>(name: String, ready: (std::net::SocketAddr, &'static str), start: S) -> Self
    where
        F: Future<Output = anyhow::Result<Life>> + 'static,
        S: Fn(Stop) -> F + Send + Sync + 'static,
    {
        Self {
            name,
            start: Arc::new(move |stop| Box::pin(start(stop))),
            ready,
            running: Mutex::default(),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(&self) {
        self.launch();
        self.ready().await;
    }

    /// Starts it without waiting for anything.
    pub fn launch(&self) {
        let mut running = self.running();
        assert!(running.is_none(), "{} runs already", self.name);
        let start = Arc::clone(&self.start);
        *running = Some(Daemon::launch(&self.name, move |stop| start(stop)));
    }

    /// Waits until it says that it is ready, and fails with the reason when it ends instead.
    pub async fn ready(&self) {
        let (address, path) = self.ready;
        eventually(&format!("{} is ready", self.name), async || {
            self.check().await;
            match http::page(address, path).await {
                Ok((200, _)) => Ok(()),
                Ok((status, body)) => Err(format!("{status} {body}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Fails when it ended by itself.
    async fn check(&self) {
        let ended = self
            .running()
            .as_mut()
            .unwrap_or_else(|| panic!("{} was not started", self.name))
            .has_ended();
        if ended {
            let daemon = self.running().take().unwrap();
            let why = daemon.stop().await.context("it ended");
            panic!("{} ended by itself: {why:?}", self.name);
        }
    }

    /// Stops it in order.
    pub async fn stop(&self) {
        let daemon = self.running().take();
        let daemon = daemon.unwrap_or_else(|| panic!("{} does not run", self.name));
        if let Err(error) = daemon.stop().await {
            panic!("{} did not stop well: {error:#}", self.name);
        }
    }

    /// Cuts it off.
    pub async fn kill(&self) {
        let daemon = self.running().take();
        daemon
            .unwrap_or_else(|| panic!("{} does not run", self.name))
            .kill()
            .await;
    }

    /// Whether it was started and not stopped or killed.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running().is_some()
    }
}
