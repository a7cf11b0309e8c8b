//! The demo's result: figures per act, promises kept or broken, as JSON and as a table. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::tally::Figures;
use crate::render::{Table, millis};

/// What the demo found. Its JSON is an interface: programs and later versions compare it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Requests of the main caller, in all acts and between them.
    pub requests: u64,
    /// Those that got no good answer.
    pub failed: u64,
    /// Act by act.
    pub acts: Vec<Act>,
    /// From registration in one region to a far region's proxy having applied it.
    pub convergence_ms: Quantiles,
    /// Resident memory while idle, the largest process of each kind.
    pub memory_mb: BTreeMap<String, f64>,
    /// Promises that were not kept; empty = all were.
    pub broken: Vec<String>,
}

/// One act.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Act {
    /// `steady`, `workload-killed`, `region-killed`, `failback`, `quota` or `leader-killed`.
    pub name: &'static str,
    /// Requests that were sent while it lasted.
    pub requests: u64,
    /// Those that got no good answer.
    pub failed: u64,
    /// How long callers, or writes, noticed what was done to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_shift_ms: Option<u64>,
    /// Requests of the limited tenant that were refused; the quota act only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
    /// Percent of answers by region.
    pub share: BTreeMap<String, f64>,
    /// Latency of answers.
    pub latency_ms: Quantiles,
}

/// Two quantiles, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Half are not longer.
    pub p50: f64,
    /// 99 of 100 are not longer.
    pub p99: f64,
}

impl Quantiles {
    pub(crate) fn of(spans: &mut [Duration]) -> Self {
        spans.sort_unstable();
        let at = |q| tenths(quantile(spans, q).unwrap_or_default());
        Self {
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

/// Milliseconds to a tenth: more digits would claim more than was measured.
fn tenths(span: Duration) -> f64 {
    (span.as_secs_f64() * 10_000.0).round() / 10.0
}

/// The value that `quantile` of the sorted values do not exceed; none of nothing.
pub(crate) fn quantile(sorted: &[Duration], quantile: f64) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    // Both operands are small and not negative.
    let at = (sorted.len() as f64 * quantile).ceil() as usize;
    sorted.get(at.saturating_sub(1).min(last)).copied()
}

impl Act {
    pub(crate) fn new(name: &'static str, figures: &Figures, shift: Option<Duration>) -> Self {
        let share = |region: &str| (figures.share(region) * 10.0).round() / 10.0;
        Self {
            name,
            requests: figures.requests,
            failed: figures.failed,
            time_to_shift_ms: shift.map(|shift| u64::try_from(shift.as_millis()).unwrap_or(u64::MAX)),
            refused: None,
            share: figures
                .served
                .keys()
                .map(|region| (region.to_string(), share(region)))
                .collect(),
            latency_ms: Quantiles {
                p50: tenths(figures.latency(0.5)),
                p99: tenths(figures.latency(0.99)),
            },
        }
    }
}

impl Report {
    /// Notes a promise that was not kept.
    pub(crate) fn expect(&mut self, kept: bool, otherwise: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(otherwise());
        }
    }

    /// The table at the end.
    pub(crate) fn table(&self, regions: &[String]) -> String {
        let mut table = Table::new(&[
            "ACT",
            "REQUESTS",
            "FAILED",
            "TIME TO SHIFT",
            "P50",
            "P99",
            "ANSWERED BY",
        ]);
        for act in &self.acts {
            let shares = regions.iter().filter_map(|region| {
                let share = act.share.get(region)?;
                Some(format!("{region} {share:.0}%"))
            });
            let refused = act
                .refused
                .map(|n| format!("; {n} of the limited tenant refused"))
                .unwrap_or_default();
            table.row([
                act.name.to_owned(),
                act.requests.to_string(),
                act.failed.to_string(),
                act.time_to_shift_ms.map(millis).unwrap_or_default(),
                format!("{:.1}ms", act.latency_ms.p50),
                format!("{:.1}ms", act.latency_ms.p99),
                format!("{}{refused}", shares.collect::<Vec<_>>().join("  ")),
            ]);
        }
        let memory: Vec<_> = self
            .memory_mb
            .iter()
            .map(|(kind, mb)| format!("{kind} {mb:.1} MB"))
            .collect();
        format!(
            "{}\n{} requests, {} failed\nnew endpoint seen in the other regions: p50 {:.0}ms, p99 {:.0}ms\nmemory, idle: {}",
            table.text("no acts"),
            self.requests,
            self.failed,
            self.convergence_ms.p50,
            self.convergence_ms.p99,
            memory.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn quantiles_are_values_that_occurred() {
        let spans: Vec<_> = (1..=100).map(|ms| MS * ms).collect();
        assert_eq!(quantile(&spans, 0.5), Some(MS * 50));
        assert_eq!(quantile(&spans, 0.99), Some(MS * 99));
        assert_eq!(quantile(&spans[..1], 0.99), Some(MS));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn json_has_the_documented_fields_and_a_time_to_shift_only_where_it_applies() {
        let mut report = Report {
            requests: 10,
            acts: vec![
                Act {
                    name: "steady",
                    requests: 4,
                    ..Act::default()
                },
                Act {
                    name: "region-killed",
                    requests: 6,
                    failed: 1,
                    time_to_shift_ms: Some(700),
                    ..Act::default()
                },
            ],
            ..Report::default()
        };
        report.memory_mb.insert("proxy".into(), 12.5);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["requests"], 10);
        assert_eq!(json["failed"], 0);
        assert_eq!(json["acts"][0]["name"], "steady");
        assert!(json["acts"][0].get("time_to_shift_ms").is_none());
        assert_eq!(json["acts"][1]["time_to_shift_ms"], 700);
        assert_eq!(json["convergence_ms"]["p99"], 0.0);
        assert_eq!(json["memory_mb"]["proxy"], 12.5);
    }

    #[test]
    fn table_names_every_act_and_who_answered() {
        let act = Act {
            name: "failback",
            share: [("eu".to_owned(), 96.0), ("us".to_owned(), 4.0)].into(),
            ..Act::default()
        };
        let report = Report {
            acts: vec![act],
            ..Report::default()
        };
        let text = report.table(&["eu".to_owned(), "us".to_owned(), "ap".to_owned()]);
        assert!(text.contains("failback") && text.contains("eu 96%  us 4%"), "{text}");
    }

    #[test]
    fn broken_promise_is_noted_and_a_kept_one_is_not() {
        let mut report = Report::default();
        report.expect(true, || "not this".into());
        report.expect(false, || "2 requests failed".into());
        assert_eq!(report.broken, ["2 requests failed"]);
    }
}
