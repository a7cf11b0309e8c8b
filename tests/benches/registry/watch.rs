//! One change to 1,000 watchers: from before the write is sent until the last of them has it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh::runtime::{OnExit, Stop, Tasks, clock};
use tokio::time::Instant;

use crate::{
    Args,
    etcd::{self, Etcd, Putter},
    load::Writer,
    ours::{self, Agent},
    report::{Bar, Report, quantile},
};

const WATCHERS: usize = 1000;
const CONNECTIONS: usize = 16;
const PAUSE: Duration = Duration::from_millis(50);
/// For the last watcher of the last change.
const PATIENCE: Duration = Duration::from_secs(10);

/// When which change had reached how many.
struct Seen {
    begun: Instant,
    /// By change: how many have it, and when the last of them got it, in microseconds.
    changes: Vec<(AtomicUsize, AtomicU64)>,
}

impl Seen {
    fn new(changes: usize) -> Arc<Self> {
        let changes = (0..changes).map(|_| Default::default()).collect();
        Arc::new(Self {
            begun: clock::now(),
            changes,
        })
    }

    /// A watcher that has seen `from..=upto` of the changes.
    fn mark(&self, from: usize, upto: usize) {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        for (count, last) in self.changes.get(from..=upto).unwrap_or_default() {
            last.fetch_max(micros, Ordering::Relaxed);
            count.fetch_add(1, Ordering::Release);
        }
    }

    async fn complete(&self) -> anyhow::Result<()> {
        let until = clock::now() + PATIENCE;
        while self
            .changes
            .iter()
            .any(|(count, _)| count.load(Ordering::Acquire) < WATCHERS)
        {
            anyhow::ensure!(clock::now() < until, "a watcher missed a change");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// A subscriber of either side.
trait Watcher: Send + 'static {
    fn next(&mut self) -> impl Future<Output = anyhow::Result<String>> + Send;
}

impl Watcher for etcd::Watch {
    async fn next(&mut self) -> anyhow::Result<String> {
        self.next().await
    }
}

impl Watcher for ours::Watch {
    async fn next(&mut self) -> anyhow::Result<String> {
        self.next().await
    }
}

/// Milliseconds until the last watcher was served, for each change.
async fn measure<T: Watcher, W: Writer>(watchers: Vec<T>, mut writer: W, changes: usize) -> anyhow::Result<Vec<f64>> {
    let (tasks, seen) = (Tasks::new(Stop::default()), Seen::new(changes));
    for mut watcher in watchers {
        let (seen, stop) = (Arc::clone(&seen), tasks.stop().clone());
        tasks.spawn("watcher", OnExit::Ignore, async move {
            let mut next = 0;
            loop {
                let value = tokio::select! {
                    () = stop.ordered() => return,
                    value = watcher.next() => value,
                };
                // A stream that ends shows as a change that is missed.
                let Ok(value) = value else { return };
                if let Ok(number) = value.trim_start_matches('-').parse::<usize>() {
                    seen.mark(next, number);
                    next = number + 1;
                }
            }
        });
    }
    let mut sent = Vec::new();
    for number in 0..changes {
        sent.push(seen.begun.elapsed().as_micros());
        writer.write(&format!("{number:->256}")).await?;
        tokio::time::sleep(PAUSE).await;
    }
    let complete = seen.complete().await;
    tasks.stop().order();
    complete?;
    let last = seen
        .changes
        .iter()
        .map(|(_, last)| u128::from(last.load(Ordering::Relaxed)));
    Ok(last
        .zip(sent)
        .map(|(last, sent)| last.saturating_sub(sent) as f64 / 1e3)
        .collect())
}

pub(crate) async fn run(args: &Args, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    let etcd = Etcd::start(&dir.join("etcd"), args.plain_etcd).await?;
    let mut lab = ours::plan(args, &dir.join("isthmus"), &["eu"], 3)?;
    let region = lab.region("eu").map_err(anyhow::Error::msg)?;
    region.form_registry().await.map_err(anyhow::Error::msg)?;
    let identity = ours::identity(region).await?;
    let leader = ours::leader(region).await?;
    let changes = usize::try_from(args.length().as_millis() / PAUSE.as_millis())?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let channels = etcd.connect(CONNECTIONS).await?;
        let mut watchers = Vec::new();
        for at in 0..WATCHERS {
            watchers.push(etcd::Watch::begin(&channels[at % CONNECTIONS], "/bench").await?);
        }
        let channel = etcd.connect(1).await?.remove(0);
        let key = "/bench".to_owned();
        let theirs = measure(watchers, Putter { channel, key }, changes).await?;

        let channel = ours::connect(leader, &identity, 1).await?.remove(0);
        let agent = Agent::attach(&channel, ours::workload("bench-1".to_owned(), "bench")).await?;
        let channels = ours::connect(leader, &identity, CONNECTIONS).await?;
        let mut watchers = Vec::new();
        for at in 0..WATCHERS {
            watchers.push(ours::Watch::begin(&channels[at % CONNECTIONS], "bench").await?);
        }
        rounds.push((measure(watchers, agent, changes).await?, theirs));
    }
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let rounds = rounds
            .iter()
            .map(|(ours, theirs)| (quantile(ours, share), quantile(theirs, share)));
        let figure = format!("change to 1,000 watchers, last served, {name}");
        report.compare(&figure, "ms", &rounds.collect::<Vec<_>>(), Bar::AtMost(0.5));
    }
    lab.end().await;
    Ok(())
}
