//! Metrics without a global: each daemon owns its recorder, so that a test runs several in one process.
//!
//! Handles are made once and held; a held counter costs nanoseconds, a lookup by label does not.

use std::{sync::Arc, time::Duration};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

/// Bounds of all histograms of durations, in seconds: from a local hit to a client's patience.
const SECONDS_BUCKETS: [f64; 14] = [
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];
/// Samples wait in memory until upkeep moves them into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A daemon's metrics. Clones are the same.
#[derive(Clone)]
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Default for Metrics {
    fn default() -> Self {
        let builder =
            PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS);
        // The builder refuses empty buckets only.
        let recorder = builder.unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder();
        Self {
            handle: recorder.handle(),
            recorder: Arc::new(recorder),
        }
    }
}

impl Metrics {
    /// A counter; by convention its name ends in `_total`.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Counter {
        self.recorder
            .describe_counter(KeyName::from(name), None, SharedString::const_str(help));
        self.recorder.register_counter(&key(name, labels), &METADATA)
    }

    /// A gauge.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Gauge {
        self.recorder
            .describe_gauge(KeyName::from(name), None, SharedString::const_str(help));
        self.recorder.register_gauge(&key(name, labels), &METADATA)
    }

    /// A histogram of seconds; its name ends in `_seconds`.
    pub fn histogram(&self, name: &'static str, help: &'static str, labels: &[(&'static str, &str)]) -> Histogram {
        self.recorder
            .describe_histogram(KeyName::from(name), None, SharedString::const_str(help));
        self.recorder.register_histogram(&key(name, labels), &METADATA)
    }

    /// All of them in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves histogram samples into their buckets until dropped. Run it as a task, else samples pile up.
    pub async fn upkeep(self) {
        let mut tick = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tick.tick().await;
            self.handle.run_upkeep();
        }
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| Label::new(*key, (*value).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_daemons_in_one_process_do_not_share_metrics() {
        let (one, other) = (Metrics::default(), Metrics::default());
        one.counter("isthmus_test_total", "a test", &[("kind", "a")])
            .increment(3);
        assert!(
            one.render().contains("isthmus_test_total{kind=\"a\"} 3"),
            "{}",
            one.render()
        );
        assert!(!other.render().contains("isthmus_test_total"));
    }
}
