//! The acts: what is done to the federation, what is waited for, and what each promises. Measures with the tally only.

mod failures;
mod leader;
mod quota;

use std::{collections::BTreeMap, time::Duration};

use mesh::runtime::{Stop, Tasks, clock};
use tokio::time::Instant;

use super::{
    converge,
    display::Display,
    lab::Lab,
    report::{Act, Quantiles, Report},
    tally::{Figures, Tally},
};
use crate::failure::{Exit, Failure, Outcome};

/// With how long a demo the times of the acts are as written.
const FULL: Duration = Duration::from_secs(100);
/// Shorter says nothing about the steady state.
const HOLD_MIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// How long a region may take to come back: start, election, hold-down and ramp on a busy machine.
const RETURN_PATIENCE: Duration = Duration::from_secs(120);

/// Bars of the demo; it fails when one is missed.
const LOST_WITH_A_REGION_MAX: u64 = 2;
const SHIFT_MAX: Duration = Duration::from_secs(3);
const CONVERGENCE_P99_MAX_MS: f64 = 500.0;
const MEMORY_MAX_MB: [(&str, f64); 2] = [("proxy", 20.0), ("gateway", 15.0)];

/// Everything an act needs.
pub(super) struct Stage<'a> {
    pub(super) lab: &'a mut Lab,
    pub(super) tally: Tally,
    pub(super) display: Display,
    pub(super) tasks: Tasks,
    pub(super) stop: Stop,
    pub(super) report: Report,
    pub(super) duration: Duration,
}

impl Stage<'_> {
    /// All acts, in order.
    pub(super) async fn play(mut self) -> Outcome<Report> {
        self.steady().await?;
        self.converge().await?;
        failures::workloads(&mut self).await?;
        failures::region(&mut self).await?;
        failures::failback(&mut self).await?;
        quota::play(&mut self).await?;
        leader::play(&mut self).await?;
        self.lab.check()?;
        let total = self.tally.total(clock::now());
        (self.report.requests, self.report.failed) = (total.requests, total.failed);
        Ok(self.report)
    }

    /// Waits; longer in a longer demo.
    async fn hold(&mut self, seconds: u64) -> Outcome {
        let factor = self.duration.as_secs_f64() / FULL.as_secs_f64();
        tokio::time::sleep(Duration::from_secs(seconds).mul_f64(factor).max(HOLD_MIN)).await;
        self.lab.check()
    }

    /// Waits until the requests of the last `window` satisfy `done`.
    async fn until(&mut self, what: &str, window: Duration, done: impl Fn(&Figures) -> bool) -> Outcome {
        let begun = clock::now();
        loop {
            let now = clock::now();
            let figures = self.tally.window(now - window, now);
            if begun.elapsed() >= window && done(&figures) {
                return Ok(());
            }
            if begun.elapsed() > RETURN_PATIENCE {
                let shares: Vec<_> = figures
                    .served
                    .iter()
                    .map(|(region, n)| format!("{region} {n}"))
                    .collect();
                let failure = figures.failure.as_deref().unwrap_or("none");
                return Err(Failure::text(
                    Exit::Failed,
                    format!(
                        "{what} did not happen within {RETURN_PATIENCE:?}; the last second's answers: {}; last failure: {failure}",
                        shares.join(", ")
                    ),
                ));
            }
            self.lab.check()?;
            tokio::time::sleep(POLL).await;
        }
    }

    /// The name of the region that the callers are in.
    fn home(&self) -> String {
        self.lab
            .regions
            .first()
            .map(|region| region.name.clone())
            .unwrap_or_default()
    }

    /// Notes an act with the figures of everything sent since `begun`, and says them.
    fn note(&mut self, name: &'static str, begun: Instant, shift: Option<Duration>) -> Figures {
        let figures = self.tally.window(begun, clock::now());
        let act = Act::new(name, &figures, shift);
        let shifted = act
            .time_to_shift_ms
            .map(|ms| format!(", shifted in {}", crate::render::millis(ms)));
        self.display.say(&format!(
            "  {} requests, {} failed{}",
            act.requests,
            act.failed,
            shifted.unwrap_or_default()
        ));
        if let Some(failure) = &figures.failure {
            self.display.say(&format!("  a failure: {failure}"));
        }
        self.report.acts.push(act);
        figures
    }

    async fn steady(&mut self) -> Outcome {
        let home = self.home();
        self.display
            .act("steady", &format!("callers in {home} are served in {home}"));
        let begun = clock::now();
        self.hold(10).await?;
        let figures = self.note("steady", begun, None);
        self.report.expect(figures.failed == 0, || {
            format!("steady: {} requests failed", figures.failed)
        });
        self.report.expect(figures.share(&home) >= 99.9, || {
            format!("steady: only {:.1} % were served in {home}", figures.share(&home))
        });
        Ok(())
    }

    async fn converge(&mut self) -> Outcome {
        let [.., from, other] = self.lab.regions.as_slice() else {
            return Ok(());
        };
        self.display.act(
            "convergence",
            &format!(
                "new endpoints in {}; when do proxies of the other regions know them?",
                from.name
            ),
        );
        let near = self.lab.callers.iter().map(|caller| caller.admin).take(1);
        let watchers: Vec<_> = near
            .chain(other.workloads.iter().map(|workload| workload.admin).take(1))
            .collect();
        let rounds = if self.duration < FULL { 15 } else { 50 };
        let mut spans = converge::measure(from, &watchers, rounds, &self.tasks).await?;
        let quantiles = Quantiles::of(&mut spans);
        self.report.convergence_ms = quantiles;
        self.display.say(&format!(
            "  {} measurements: p50 {:.0}ms, p99 {:.0}ms",
            spans.len(),
            quantiles.p50,
            quantiles.p99
        ));
        self.report.expect(quantiles.p99 < CONVERGENCE_P99_MAX_MS, || {
            format!(
                "convergence: p99 is {:.0}ms; promised are {CONVERGENCE_P99_MAX_MS:.0}ms",
                quantiles.p99
            )
        });
        Ok(())
    }
}

/// Resident memory of the largest process of each kind, in MB.
pub(super) fn memory(lab: &Lab, report: &mut Report) {
    let mut largest = BTreeMap::<&str, u64>::new();
    for process in lab.processes() {
        let kib = process.resident_kib().unwrap_or(0);
        let most = largest.entry(process.kind.as_str()).or_default();
        *most = kib.max(*most);
    }
    let mb = |kib: u64| (kib as f64 * 1.024 / 100.0).round() / 10.0;
    report.memory_mb = largest
        .iter()
        .map(|(kind, kib)| ((*kind).to_owned(), mb(*kib)))
        .collect();
    if cfg!(debug_assertions) {
        // A build without optimisation is several times as large; nobody runs one.
        return;
    }
    for (kind, most) in MEMORY_MAX_MB {
        let used = report.memory_mb.get(kind).copied().unwrap_or(0.0);
        report.expect(used < most, || {
            format!("memory: an idle {kind} takes {used:.1} MB; promised are {most:.0} MB")
        });
    }
}
