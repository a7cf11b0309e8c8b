//! A steady load: HTTP requests at a fixed rate through a proxy, each remembered with what became of it. Opens as many
//! connections as it needs and keeps them; never retries, for the demo is about what a caller sees.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use mesh::runtime::{OnExit, Stop, Tasks, clock};
use tokio::{
    net::TcpStream,
    time::{Instant, MissedTickBehavior},
};

use super::tally::{Sample, Tally, Verdict};

/// Longer than any failover may take: what is not answered by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at once; at 200 a second this is more than five seconds' worth.
const IN_FLIGHT_MAX: usize = 1_024;
/// An unused connection older than this may be closed by the other side at any moment.
const IDLE_MAX: Duration = Duration::from_secs(5);
const BODY_BYTES_MAX: usize = 4_096;

/// What to call, and how often.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// The proxy's outbound listener, used as `http_proxy`.
    pub(crate) proxy: SocketAddr,
    /// The address, for example `http://pay.shop/`.
    pub(crate) url: &'static str,
    /// Requests a second.
    pub(crate) rate: u32,
}

impl Load {
    /// Calls until `stop`; each outcome goes into the tally that is returned.
    pub(crate) fn start(self, tasks: &Tasks, stop: &Stop) -> Tally {
        let tally = Tally::new(clock::now());
        let run = run(self, tasks.clone(), stop.clone(), tally.clone());
        tasks.spawn("load", OnExit::Ignore, run);
        tally
    }
}

async fn run(load: Load, tasks: Tasks, stop: Stop, tally: Tally) {
    let client = Arc::new(HttpClient {
        load: load.clone(),
        idle: Mutex::default(),
        tasks: tasks.clone(),
    });
    let room = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT_MAX));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / load.rate.max(1));
    // A machine that was busy for a moment makes up for it: the rate is a promise of the report.
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tokio::select! {
            () = stop.ordered() => return,
            _ = tick.tick() => {}
        }
        let sent = clock::now();
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            tally.add(Sample::new(
                sent,
                Duration::ZERO,
                Verdict::failed("too many requests wait for an answer"),
            ));
            continue;
        };
        let (client, tally) = (Arc::clone(&client), tally.clone());
        tasks.spawn("request", OnExit::Ignore, async move {
            let verdict = match tokio::time::timeout(PATIENCE, client.call()).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => Verdict::failed(&format!("{error:#}")),
                Err(_) => Verdict::failed("no answer within 5s"),
            };
            tally.add(Sample::new(sent, sent.elapsed(), verdict));
            drop(permit);
        });
    }
}

struct HttpClient {
    load: Load,
    /// Guards connections that wait for their next request; a leaf.
    idle: Mutex<Vec<(SendRequest<Empty<Bytes>>, Instant)>>,
    tasks: Tasks,
}

impl HttpClient {
    async fn call(&self) -> anyhow::Result<Verdict> {
        let mut sender = match self.kept() {
            Some(sender) => sender,
            None => self.connect().await.context("cannot connect to the proxy")?,
        };
        // Absolute form, as an application with http_proxy sends it.
        let request = Request::get(self.load.url)
            .header(header::HOST, authority(self.load.url))
            .body(Empty::new())?;
        let response = sender
            .send_request(request)
            .await
            .context("the proxy broke the connection")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body
            .map_err(|error| anyhow::anyhow!(error))
            .context("the answer broke off")?
            .to_bytes();
        if sender.is_ready() {
            self.idle().push((sender, clock::now()));
        }
        let text = String::from_utf8_lossy(&body);
        match status {
            StatusCode::OK => match text.split_whitespace().next() {
                Some(region) => Ok(Verdict::Served(region.into())),
                None => bail!("an answer without a region"),
            },
            StatusCode::TOO_MANY_REQUESTS => Ok(Verdict::Refused),
            other => bail!("{other}: {}", text.trim()),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(SendRequest<Empty<Bytes>>, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that was used last, if any is fresh and open.
    fn kept(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() > IDLE_MAX {
                // All below are older.
                idle.clear();
                return None;
            }
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(self.load.proxy).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        self.tasks.spawn("load-connection", OnExit::Ignore, async move {
            // Whoever waits for an answer on it hears the same error.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

fn authority(url: &str) -> &str {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::app;

    #[test]
    fn authority_is_what_stands_between_scheme_and_path() {
        assert_eq!(authority("http://pay.shop/"), "pay.shop");
        assert_eq!(authority("http://pay.shop:8080/a/b"), "pay.shop:8080");
    }

    /// Waits until the figures of a load satisfy `done`.
    async fn eventually(tally: &Tally, done: impl Fn(&crate::demo::tally::Figures) -> bool) {
        let until = clock::now() + Duration::from_secs(10);
        while !done(&tally.total(clock::now())) {
            assert!(clock::now() < until, "{:?}", tally.total(clock::now()));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn free_address() -> SocketAddr {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    }

    fn load(proxy: SocketAddr) -> Load {
        Load {
            proxy,
            url: "http://pay.shop/",
            rate: 200,
        }
    }

    #[tokio::test]
    async fn answers_are_counted_by_the_region_that_they_name() {
        let (address, stop) = (free_address(), Stop::default());
        let tasks = Tasks::new(stop.clone());
        let serving = stop.clone();
        tasks.spawn("app", OnExit::Ignore, async move {
            app::serve(address, "eu", "pay-1", serving).await.unwrap();
        });
        let tally = load(address).start(&tasks, &stop);
        eventually(&tally, |figures| figures.served_by("eu") >= 20).await;
        stop.order();
    }

    #[tokio::test]
    async fn request_that_nobody_takes_is_a_failure_with_a_reason() {
        let stop = Stop::default();
        let tasks = Tasks::new(stop.clone());
        let tally = load(free_address()).start(&tasks, &stop);
        eventually(&tally, |figures| figures.failed >= 5).await;
        let failure = tally.total(clock::now()).failure.unwrap();
        assert!(failure.contains("cannot connect to the proxy"), "{failure}");
        stop.order();
    }
}
