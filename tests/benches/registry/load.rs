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

/// Runs all writers for a while, and gives them back.
pub(crate) async fn run<W: Writer>(writers: Vec<W>, length: Duration) -> anyhow::Result<(Load, Vec<W>)> {
    let tasks = Tasks::new(Stop::default());
    let (done, mut ended) = mpsc::channel(writers.len().max(1));
    let (begin, end) = (clock::now() + WARM, clock::now() + WARM + length);
    for mut writer in writers {
        let done = done.clone();
        tasks.spawn("writer", OnExit::Ignore, async move {
            let mut latencies = Vec::new();
            let mut result = Ok(());
            while clock::now() < end && result.is_ok() {
                let (began, value) = (clock::now(), value());
                result = writer.write(&value).await;
                if began >= begin && clock::now() <= end {
                    latencies.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
            // The receiver waits for every one of them.
            let _ = done.send((result, latencies, writer)).await;
        });
    }
    drop(done);
    let (mut all, mut writers) = (Vec::new(), Vec::new());
    while let Some((result, latencies, writer)) = ended.recv().await {
        result?;
        all.extend(latencies);
        writers.push(writer);
    }
    let rate = all.len() as f64 / length.as_secs_f64();
    Ok((Load { rate, latencies: all }, writers))
}
