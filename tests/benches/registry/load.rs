//! Closed loops of writers, each waiting for its answer before the next write, as agents do.

use std::{future::Future, time::Duration};

use mesh::runtime::{OnExit, Stop, Tasks, clock};
use tokio::sync::mpsc;

use crate::report::quantile;

/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Not counted: connections warm up and both sides fill their caches.
const WARM: Duration = Duration::from_secs(2);

/// One that writes.
pub(crate) trait Writer: Send + 'static {
    /// Returns once the write is durable.
    fn write(&mut self, value: &str) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// What a load showed.
pub(crate) struct Load {
    /// Acknowledged writes per second.
    pub(crate) rate: f64,
    /// Microseconds of processor time of all nodes for each write, those of the warming included.
    pub(crate) cpu: f64,
    latencies: Vec<f64>,
}

impl Load {
    /// Milliseconds.
    pub(crate) fn latency(&self, share: f64) -> f64 {
        quantile(&self.latencies, share)
    }
}

/// Text that is new each time.
pub(crate) fn value() -> String {
    let mut value = String::with_capacity(VALUE_BYTES);
    while value.len() < VALUE_BYTES {
        value += &format!("{:016x}", fastrand::u64(..));
    }
    value
}

/// Runs all writers for a while; `cpu_seconds` tells the nodes' processor time.
pub(crate) async fn run<W: Writer>(
    writers: Vec<W>,
    length: Duration,
    cpu_seconds: impl Fn() -> anyhow::Result<f64>,
) -> anyhow::Result<Load> {
    let before = cpu_seconds()?;
    let tasks = Tasks::new(Stop::default());
    let (done, mut ended) = mpsc::channel(writers.len().max(1));
    let (begin, end) = (clock::now() + WARM, clock::now() + WARM + length);
    for mut writer in writers {
        let done = done.clone();
        tasks.spawn("writer", OnExit::Ignore, async move {
            let (mut latencies, mut count) = (Vec::new(), 0_u64);
            let mut result = Ok(());
            while clock::now() < end && result.is_ok() {
                let (began, value) = (clock::now(), value());
                result = writer.write(&value).await;
                count += 1;
                if began >= begin && clock::now() <= end {
                    latencies.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
            // The receiver waits for every one of them.
            let _ = done.send((result, latencies, count)).await;
        });
    }
    drop(done);
    let (mut all, mut writes) = (Vec::new(), 0);
    while let Some((result, latencies, count)) = ended.recv().await {
        result?;
        all.extend(latencies);
        writes += count;
    }
    Ok(Load {
        rate: all.len() as f64 / length.as_secs_f64(),
        cpu: (cpu_seconds()? - before) * 1e6 / writes as f64,
        latencies: all,
    })
}
