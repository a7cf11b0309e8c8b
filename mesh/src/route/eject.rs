//! Ejection by evidence: what one endpoint or gateway did, and what follows for it. Knows nothing of the others, beyond
//! whether there are any: failing over never waits for an ejection, and when all are ejected they are tried anyway. Pure.

use std::time::Duration;

use serde::Serialize;

use super::{Pace, Returning, Standing};

/// Time since an origin that the caller chose once. Pure code reads no clock.
pub type Elapsed = Duration;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It could not be connected to: refused, timed out, wrong identity. One is enough when there are others.
    Connect,
    /// An open connection fell silent or broke under a request.
    Lost,
    /// A response that only a fault of the endpoint explains (5xx), several times in a row.
    Errors,
}

impl Fault {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connecting failed",
            Self::Lost => "connections were lost",
            Self::Errors => "it answered with errors only",
        }
    }
}

/// When to eject, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Time out after the first ejection; each further one in a row adds as much. Default 5 s: longer than a restart.
    pub base: Duration,
    /// Never longer than this. Default 60 s.
    pub max: Duration,
    /// Errors in a row that eject. Default 5.
    pub consecutive: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
            consecutive: 5,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Phase {
    #[default]
    Up,
    Fresh {
        since: Elapsed,
    },
    Out {
        since: Elapsed,
        until: Elapsed,
        fault: Fault,
    },
    Back(Returning),
}

/// The record of one endpoint or gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    phase: Phase,
    /// Errors in a row.
    errors: u32,
    /// Ejections, forgotten after `Limits::max` without a new one.
    ejections: u32,
    last_out: Elapsed,
}

impl Health {
    /// One that is new beside others: it is ramped up, without waiting.
    #[must_use]
    pub fn fresh(now: Elapsed) -> Self {
        Self {
            phase: Phase::Fresh { since: now },
            ..Self::default()
        }
    }

    /// One whose tier was down: it waits, then ramps.
    #[must_use]
    pub fn returning(now: Elapsed) -> Self {
        Self {
            phase: Phase::Back(Returning { since: now }),
            ..Self::default()
        }
    }

    /// A good answer: the row of errors ends.
    pub fn succeeded(&mut self) {
        self.errors = 0;
    }

    /// Whether recording a success would change nothing, so that the hot path can skip it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors == 0
    }

    /// Notes a fault; true when it is ejected now. `others` says whether anybody else could do the work (alone, only a row
    /// of faults ejects, which then merely puts it last). `jitter` in `[0, 1)` spreads trials: up to a tenth is added.
    pub fn failed(&mut self, now: Elapsed, fault: Fault, others: bool, jitter: f64, limits: &Limits) -> bool {
        if let Phase::Out { .. } = self.phase {
            return false; // requests that were under way when it went out
        }
        self.errors = self.errors.saturating_add(1);
        let enough = match fault {
            Fault::Connect | Fault::Lost => others || self.errors >= limits.consecutive,
            Fault::Errors => self.errors >= limits.consecutive,
        };
        if !enough {
            return false;
        }
        if now.saturating_sub(self.last_out) > limits.max {
            self.ejections = 0;
        }
        self.ejections = self.ejections.saturating_add(1);
        self.errors = 0;
        let until = now + self.term(jitter, limits);
        self.last_out = until;
        self.phase = Phase::Out {
            since: now,
            until,
            fault,
        };
        true
    }

    /// A trial of an ejected one failed: it stays out, longer.
    pub fn trial_failed(&mut self, now: Elapsed, jitter: f64, limits: &Limits) {
        if let Phase::Out { since, fault, .. } = self.phase {
            self.ejections = self.ejections.saturating_add(1);
            // Trials cost nobody a request, so they stay frequent: an endpoint that came back is found within seconds.
            let until = now + limits.base.mul_f64(1.0 + jitter / 10.0);
            self.last_out = until;
            self.phase = Phase::Out { since, until, fault };
        }
    }

    /// A trial of an ejected one succeeded: it waits, then ramps.
    pub fn trial_succeeded(&mut self, now: Elapsed) {
        if let Phase::Out { .. } = self.phase {
            self.phase = Phase::Back(Returning { since: now });
        }
    }

    /// A request that began after the ejection got through (there was nobody else): the wait is over, the ramp begins.
    pub fn proved(&mut self, now: Elapsed, began: Elapsed, pace: &Pace) {
        if let Phase::Out { since, .. } = self.phase
            && began > since
        {
            let since = now.checked_sub(pace.hold).unwrap_or_default();
            self.phase = Phase::Back(Returning { since });
        }
    }

    /// Whether it is out and its term is over.
    #[must_use]
    pub fn trial_due(&self, now: Elapsed) -> bool {
        matches!(self.phase, Phase::Out { until, .. } if now >= until)
    }

    /// Whether it is out.
    #[must_use]
    pub fn is_out(&self) -> bool {
        matches!(self.phase, Phase::Out { .. })
    }

    /// Whether its standing changes as time passes, so that plans must be made again.
    #[must_use]
    pub fn is_settled(&self, now: Elapsed, pace: &Pace) -> bool {
        self.standing(now, pace) == Standing::Up
    }

    /// How it stands.
    #[must_use]
    pub fn standing(&self, now: Elapsed, pace: &Pace) -> Standing {
        match self.phase {
            Phase::Up => Standing::Up,
            Phase::Fresh { since } => match pace.rise(now.saturating_sub(since)) {
                part if part >= 1.0 => Standing::Up,
                part => Standing::Fresh(part),
            },
            Phase::Out { until, fault, .. } => Standing::Out {
                left: until.saturating_sub(now),
                fault,
            },
            Phase::Back(returning) => returning.standing(now, pace),
        }
    }

    fn term(&self, jitter: f64, limits: &Limits) -> Duration {
        let plain = limits.base.saturating_mul(self.ejections).min(limits.max);
        plain.mul_f64(1.0 + jitter / 10.0).min(limits.max.mul_f64(1.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        base: Duration::from_secs(5),
        max: Duration::from_secs(60),
        consecutive: 5,
    };
    const PACE: Pace = Pace {
        hold: Duration::from_secs(5),
        ramp: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Elapsed {
        Duration::from_secs(1000 + seconds)
    }

    #[test]
    fn one_failed_connection_ejects_when_there_are_others() {
        let mut health = Health::default();
        assert!(health.failed(at(0), Fault::Connect, true, 0.0, &LIMITS));
        let left = Duration::from_secs(5);
        let fault = Fault::Connect;
        assert_eq!(health.standing(at(0), &PACE), Standing::Out { left, fault });
        assert!(!health.trial_due(at(4)) && health.trial_due(at(5)));
    }

    #[test]
    fn alone_it_takes_a_row_of_failures() {
        let mut health = Health::default();
        for _ in 0..4 {
            assert!(!health.failed(at(0), Fault::Connect, false, 0.0, &LIMITS));
        }
        assert!(health.failed(at(0), Fault::Connect, false, 0.0, &LIMITS));
    }

    #[test]
    fn errors_eject_only_in_a_row() {
        let mut health = Health::default();
        for _ in 0..4 {
            assert!(!health.failed(at(0), Fault::Errors, true, 0.0, &LIMITS));
        }
        health.succeeded();
        for _ in 0..4 {
            assert!(!health.failed(at(1), Fault::Errors, true, 0.0, &LIMITS));
        }
        assert!(health.failed(at(1), Fault::Errors, true, 0.0, &LIMITS));
    }

    #[test]
    fn terms_grow_to_the_bound_with_a_little_jitter() {
        let mut health = Health::default();
        let mut now = at(0);
        for count in 1..=20_u32 {
            assert!(health.failed(now, Fault::Connect, true, 0.99, &LIMITS));
            let Standing::Out { left, .. } = health.standing(now, &PACE) else {
                panic!("ejected")
            };
            let plain = Duration::from_secs(u64::from(5 * count).min(60));
            assert!(left >= plain && left <= plain.mul_f64(1.1), "{count}: {left:?}");
            now += left;
            health.trial_succeeded(now);
        }
        now += Duration::from_secs(121);
        health.failed(now, Fault::Connect, true, 0.0, &LIMITS);
        assert!(health.trial_due(now + LIMITS.base), "old sins are forgotten");
    }

    #[test]
    fn after_a_good_trial_it_waits_then_ramps() {
        let mut health = Health::default();
        health.failed(at(0), Fault::Lost, true, 0.0, &LIMITS);
        health.trial_succeeded(at(6));
        let left = Duration::from_secs(5);
        assert_eq!(health.standing(at(6), &PACE), Standing::Held { left });
        let Standing::Ramp(part) = health.standing(at(16), &PACE) else {
            panic!("ramps")
        };
        assert!((0.4..=0.6).contains(&part), "{part}");
        assert_eq!(health.standing(at(21), &PACE), Standing::Up);
    }

    #[test]
    fn a_failed_trial_keeps_it_out() {
        let mut health = Health::default();
        health.failed(at(0), Fault::Connect, true, 0.0, &LIMITS);
        health.trial_failed(at(5), 0.0, &LIMITS);
        assert!(health.is_out() && !health.trial_due(at(9)) && health.trial_due(at(10)));
    }

    #[test]
    fn a_fresh_one_ramps_without_waiting() {
        let health = Health::fresh(at(0));
        assert!(matches!(health.standing(at(0), &PACE), Standing::Fresh(part) if part > 0.0));
        assert_eq!(health.standing(at(10), &PACE), Standing::Up);
    }
}
