//! What became of each request, and the figures of any span of time. Decides nothing, keeps everything: a demo has few
//! enough requests. Pure but for the lock around the list.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Answered by a workload of this region.
    Served(Arc<str>),
    /// Refused for the tenant's quota.
    Refused,
    /// Anything else, in words.
    Failed(Arc<str>),
}

impl Verdict {
    pub(crate) fn failed(why: &str) -> Self {
        Self::Failed(why.into())
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    sent: Instant,
    took: Duration,
    verdict: Verdict,
}

impl Sample {
    pub(crate) fn new(sent: Instant, took: Duration, verdict: Verdict) -> Self {
        Self { sent, took, verdict }
    }

    fn ended(&self) -> Instant {
        self.sent + self.took
    }
}

/// All requests of a load. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    begun: Instant,
    /// Guards the list only; nothing is called under it.
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Tally {
    pub(crate) fn new(begun: Instant) -> Self {
        Self {
            begun,
            samples: Arc::default(),
        }
    }

    pub(crate) fn add(&self, sample: Sample) {
        self.samples().push(sample);
    }

    fn samples(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures of the requests that were sent in `from..until`.
    pub(crate) fn window(&self, from: Instant, until: Instant) -> Figures {
        let mut figures = Figures::default();
        for sample in self
            .samples()
            .iter()
            .filter(|sample| (from..until).contains(&sample.sent))
        {
            figures.add(sample);
        }
        figures.latencies.sort_unstable();
        figures
    }

    /// The figures of all requests.
    pub(crate) fn total(&self, until: Instant) -> Figures {
        self.window(self.begun, until)
    }

    /// How long after `event` the callers noticed it: until the end of the last request that failed, or until the first
    /// answer from outside `region` where none did. None when neither happened before `until`.
    pub(crate) fn shift(&self, event: Instant, until: Instant, region: &str) -> Option<Duration> {
        let samples = self.samples();
        // Requests that were under way when it happened count, too.
        let after = samples
            .iter()
            .filter(|sample| sample.ended() >= event && sample.sent < until);
        let (mut last_failure, mut first_away) = (None, None);
        for sample in after {
            let at = sample.ended() - event;
            match &sample.verdict {
                Verdict::Failed(_) => last_failure = last_failure.max(Some(at)),
                Verdict::Served(by) if &**by != region => {
                    first_away = Some(first_away.map_or(at, |first: Duration| first.min(at)));
                }
                Verdict::Served(_) | Verdict::Refused => {}
            }
        }
        last_failure.max(first_away)
    }
}

/// The figures of a span of time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) refused: u64,
    pub(crate) served: BTreeMap<Arc<str>, u64>,
    /// One of the failures, in words.
    pub(crate) failure: Option<Arc<str>>,
    latencies: Vec<Duration>,
}

impl Figures {
    fn add(&mut self, sample: &Sample) {
        self.requests += 1;
        match &sample.verdict {
            Verdict::Served(region) => {
                *self.served.entry(Arc::clone(region)).or_default() += 1;
                self.latencies.push(sample.took);
            }
            Verdict::Refused => self.refused += 1,
            Verdict::Failed(why) => {
                self.failed += 1;
                self.failure = Some(Arc::clone(why));
            }
        }
    }

    pub(crate) fn served_by(&self, region: &str) -> u64 {
        self.served.get(region).copied().unwrap_or(0)
    }

    /// Percent of the answered requests that a region answered.
    pub(crate) fn share(&self, region: &str) -> f64 {
        let all: u64 = self.served.values().sum();
        percent(self.served_by(region), all)
    }

    /// Percent of requests that did not fail; refusals are answers.
    pub(crate) fn success(&self) -> f64 {
        percent(self.requests - self.failed, self.requests)
    }

    /// The latency that this share of answered requests did not exceed; zero when there were none.
    pub(crate) fn latency(&self, quantile: f64) -> Duration {
        super::report::quantile(&self.latencies, quantile).unwrap_or_default()
    }
}

fn percent(part: u64, all: u64) -> f64 {
    if all == 0 {
        0.0
    } else {
        part as f64 * 100.0 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use mesh::runtime::clock;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn tally(samples: &[(u32, u32, Verdict)]) -> (Tally, Instant) {
        let begun = clock::now();
        let tally = Tally::new(begun);
        for (sent, took, verdict) in samples {
            tally.add(Sample::new(begun + MS * *sent, MS * *took, verdict.clone()));
        }
        (tally, begun)
    }

    fn by(region: &str) -> Verdict {
        Verdict::Served(region.into())
    }

    #[test]
    fn window_counts_by_when_a_request_was_sent() {
        let (tally, begun) = tally(&[
            (0, 5, by("eu")),
            (10, 500, by("us")),
            (20, 1, Verdict::Refused),
            (30, 1, by("eu")),
        ]);
        let figures = tally.window(begun + MS * 10, begun + MS * 30);
        assert_eq!((figures.requests, figures.refused, figures.failed), (2, 1, 0));
        assert_eq!(figures.served_by("us"), 1);
        assert_eq!(figures.share("us"), 100.0);
        assert_eq!(figures.latency(0.5), MS * 500);
    }

    #[test]
    fn shift_lasts_until_the_last_failure() {
        let failed = || Verdict::failed("x");
        let (tally, begun) = tally(&[
            (0, 1, by("eu")),
            (100, 50, failed()),
            (110, 5, by("us")),
            (120, 900, failed()),
            (130, 5, by("us")),
        ]);
        let event = begun + MS * 100;
        assert_eq!(tally.shift(event, begun + MS * 10_000, "eu"), Some(MS * 920));
    }

    #[test]
    fn shift_without_a_failure_lasts_until_the_first_answer_from_elsewhere() {
        let (tally, begun) = tally(&[(90, 30, by("us")), (95, 2, by("eu")), (101, 4, by("ap"))]);
        let event = begun + MS * 100;
        assert_eq!(tally.shift(event, begun + MS * 10_000, "eu"), Some(MS * 5));
        assert_eq!(tally.shift(event + MS * 100, begun + MS * 10_000, "eu"), None);
    }

    #[test]
    fn refusal_is_an_answer_and_failure_is_none() {
        let (tally, begun) = tally(&[
            (0, 1, Verdict::Refused),
            (1, 1, Verdict::failed("x")),
            (2, 1, by("eu")),
            (3, 1, by("eu")),
        ]);
        let figures = tally.total(begun + MS * 10);
        assert_eq!(figures.success(), 75.0);
        assert_eq!(figures.failure.as_deref(), Some("x"));
    }
}
