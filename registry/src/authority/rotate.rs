//! When to renew what. An issuing certificate is renewed under the same root, which nobody else notices. A new root is
//! first published beside the old one; it signs only once every peer has acknowledged both, and the old one is withdrawn
//! only when its last certificate has expired. Pure.

use std::{collections::BTreeMap, time::Duration};

use mesh::model::{RegionId, Timestamp};

use super::attest::TTL_MAX;

/// With less left of the old root the new one signs although a peer has not acknowledged it: after the end nothing works
/// for anybody.
const PATIENCE_END: Duration = Duration::from_secs(7 * 24 * 3600);
/// Those who poll the bundle, and acknowledge nothing, have seen it after that (five times the refresh hint).
const PUBLISHED_MIN: Duration = Duration::from_secs(5 * 300);

/// How long a change of the root waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// See [`PATIENCE_END`].
    pub patience_end: Duration,
    /// See [`PUBLISHED_MIN`].
    pub published_min: Duration,
    /// The longest life of a certificate.
    pub certificate_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            patience_end: PATIENCE_END,
            published_min: PUBLISHED_MIN,
            certificate_max: TTL_MAX,
        }
    }
}

/// The validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
}

impl Span {
    /// When a part of its life, in hundredths, has passed.
    fn at(self, percent: u32) -> Timestamp {
        let life = self.not_after.since(self.not_before);
        self.not_before.plus(life.mul_f64(f64::from(percent) / 100.0))
    }
}

/// How far a new root is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is none.
    None,
    /// It is made, nobody knows it.
    Made,
    /// It is published beside the old one.
    Published {
        /// In the bundle of this sequence.
        sequence: u64,
        /// Since when.
        at: Timestamp,
    },
    /// It signs.
    Signing {
        /// Since when.
        since: Timestamp,
    },
}

/// All that the decision depends on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The leader's clock.
    pub now: Timestamp,
    /// The issuing certificate in use.
    pub issuing: Span,
    /// The root that signed it.
    pub root: Span,
    /// An operator ordered a new root.
    pub ordered: bool,
    /// How far the new root is.
    pub change: Change,
    /// The sequence of this region's bundle that each peer acknowledged last.
    pub acknowledged: &'a BTreeMap<RegionId, u64>,
    /// How long to wait.
    pub pace: Pace,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing; look again then at the latest.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// Nothing until these peers have acknowledged the new bundle; they would refuse certificates of the new root.
    WaitFor(Vec<RegionId>),
    /// Sign a new issuing certificate with the same root.
    RenewIssuing,
    /// Make a new root and keep its key beside the old one.
    MakeRoot,
    /// Publish a bundle with both anchors and the next sequence.
    Publish,
    /// Issue from the new root.
    SignWithNew,
    /// Publish a bundle without the old anchor; the change is done.
    Withdraw,
}

/// Decides. Each step is safe to take twice, as after a change of leader.
#[must_use]
pub fn decide(facts: &Facts<'_>) -> Step {
    let (root_due, issuing_due) = (facts.root.at(80), facts.issuing.at(66));
    match facts.change {
        Change::None if facts.ordered || facts.now >= root_due => Step::MakeRoot,
        Change::None if facts.now >= issuing_due => Step::RenewIssuing,
        Change::None => Step::Wait {
            until: root_due.min(issuing_due),
        },
        Change::Made => Step::Publish,
        Change::Published { sequence, at } => published(facts, sequence, at),
        Change::Signing { since } => {
            let last_expires = since.plus(facts.pace.certificate_max);
            if facts.now >= last_expires {
                Step::Withdraw
            } else {
                Step::Wait { until: last_expires }
            }
        }
    }
}

fn published(facts: &Facts<'_>, sequence: u64, at: Timestamp) -> Step {
    let seen_by_pollers = at.plus(facts.pace.published_min);
    if facts.now.plus(facts.pace.patience_end) >= facts.root.not_after {
        return Step::SignWithNew;
    }
    let behind: Vec<_> = facts
        .acknowledged
        .iter()
        .filter(|(_, acknowledged)| **acknowledged < sequence)
        .map(|(region, _)| region.clone())
        .collect();
    if behind.is_empty() && facts.now >= seen_by_pollers {
        return Step::SignWithNew;
    }
    // However long that takes, the old root goes on.
    if facts.now >= facts.issuing.at(66) && facts.issuing.not_after < facts.root.not_after {
        return Step::RenewIssuing;
    }
    if behind.is_empty() {
        return Step::Wait { until: seen_by_pollers };
    }
    Step::WaitFor(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: i64 = 24 * HOUR;

    fn span(days: i64) -> Span {
        Span {
            not_before: Timestamp(0),
            not_after: Timestamp(days * DAY),
        }
    }

    fn facts(now: i64, change: Change, acknowledged: &BTreeMap<RegionId, u64>) -> Facts<'_> {
        Facts {
            now: Timestamp(now),
            issuing: span(365),
            root: span(3650),
            ordered: false,
            change,
            acknowledged,
            pace: Pace::default(),
        }
    }

    fn peer(name: &str) -> RegionId {
        RegionId::parse(name).unwrap()
    }

    #[test]
    fn certificates_are_renewed_long_before_their_end() {
        let none = BTreeMap::new();
        assert!(matches!(decide(&facts(0, Change::None, &none)), Step::Wait { .. }));
        assert_eq!(decide(&facts(300 * DAY, Change::None, &none)), Step::RenewIssuing);
        assert_eq!(decide(&facts(3000 * DAY, Change::None, &none)), Step::MakeRoot);
        let ordered = Facts {
            ordered: true,
            ..facts(0, Change::None, &none)
        };
        assert_eq!(decide(&ordered), Step::MakeRoot);
        let Step::Wait { until } = decide(&facts(0, Change::None, &none)) else {
            panic!("nothing is due")
        };
        assert_eq!(
            decide(&facts(until.0, Change::None, &none)),
            Step::RenewIssuing,
            "wakes in time"
        );
    }

    #[test]
    fn a_new_root_signs_only_once_everybody_knows_it() {
        let change = Change::Published {
            sequence: 5,
            at: Timestamp(DAY),
        };
        let behind = BTreeMap::from([(peer("us"), 4), (peer("ap"), 5)]);
        assert_eq!(
            decide(&facts(2 * DAY, change.clone(), &behind)),
            Step::WaitFor(vec![peer("us")])
        );
        let all = BTreeMap::from([(peer("us"), 6), (peer("ap"), 5)]);
        assert!(
            matches!(decide(&facts(DAY, change.clone(), &all)), Step::Wait { .. }),
            "those who poll need time"
        );
        assert_eq!(decide(&facts(2 * DAY, change.clone(), &all)), Step::SignWithNew);
        assert_eq!(
            decide(&facts(300 * DAY, change.clone(), &behind)),
            Step::RenewIssuing,
            "the old root goes on meanwhile"
        );
        assert_eq!(
            decide(&facts(3645 * DAY, change, &behind)),
            Step::SignWithNew,
            "an unreachable peer must not take the region down"
        );
        assert_eq!(decide(&facts(0, Change::Made, &all)), Step::Publish);
    }

    #[test]
    fn the_old_root_outlives_its_last_certificate() {
        let none = BTreeMap::new();
        let change = Change::Signing { since: Timestamp(0) };
        assert_eq!(
            decide(&facts(29 * DAY, change.clone(), &none)),
            Step::Wait {
                until: Timestamp(30 * DAY)
            }
        );
        assert_eq!(decide(&facts(30 * DAY, change, &none)), Step::Withdraw);
    }
}
