//! When the state of a stream is worth a commit: on changes that matter, and seldom otherwise. Pure.

use std::time::Duration;

use mesh::model::{RegionStatus, Timestamp};

/// A stream that comes back within this time was not away, for others.
const AWAY_MIN: Duration = Duration::from_secs(2);
/// Round trips are committed at most this often.
const ROUND_TRIP_EVERY: Duration = Duration::from_secs(5);
/// A stream without any change is noted this often, so that operators of every node see its age.
const HEARD_EVERY: Duration = Duration::from_secs(30);
/// Smaller differences do not change any route.
const ROUND_TRIP_NOISE: Duration = Duration::from_millis(1);

/// The stream as its end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether it stands.
    pub connected: bool,
    /// Its round trip, smoothed.
    pub round_trip: Option<Duration>,
    /// When the peer was last heard; none = never.
    pub heard_at: Option<Timestamp>,
}

/// Whether `seen` is to be committed over what the catalogue has.
#[must_use]
pub fn is_due(recorded: &RegionStatus, seen: &Seen, now: Timestamp) -> bool {
    if seen.connected != recorded.connected {
        return seen.connected || now.since(seen.heard_at.unwrap_or(recorded.heard_at)) >= AWAY_MIN;
    }
    if !seen.connected {
        return false;
    }
    let age = now.since(recorded.heard_at);
    match (recorded.round_trip, seen.round_trip) {
        (None, Some(_)) => true,
        (Some(before), Some(after)) => {
            let difference = before.abs_diff(after);
            let is_other = difference > before / 4 && difference > ROUND_TRIP_NOISE;
            (is_other && age >= ROUND_TRIP_EVERY) || age >= HEARD_EVERY
        }
        (_, None) => age >= HEARD_EVERY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::{domain, region};

    #[test]
    fn only_what_matters_is_committed() {
        let ms = Duration::from_millis;
        // (recorded connected, its round trip, recorded heard at; seen connected, round trip, heard at; now) -> due
        let cases = [
            ((true, Some(80), 1_000), (true, Some(81), Some(9_000)), 9_000, false),
            ((true, Some(80), 1_000), (true, Some(120), Some(9_000)), 9_000, true),
            ((true, Some(80), 1_000), (true, Some(120), Some(3_000)), 3_000, false),
            ((true, Some(1), 1_000), (true, Some(2), Some(9_000)), 9_000, false),
            ((true, None, 1_000), (true, Some(80), Some(1_100)), 1_100, true),
            ((true, Some(80), 1_000), (true, Some(80), Some(31_000)), 31_000, true),
            ((false, None, 1_000), (true, None, Some(1_100)), 1_100, true),
            ((true, Some(80), 1_000), (false, Some(80), Some(8_000)), 9_000, false),
            ((true, Some(80), 1_000), (false, Some(80), Some(7_000)), 9_000, true),
            ((true, Some(80), 1_000), (false, None, None), 3_000, true),
            ((false, Some(80), 1_000), (false, None, None), 99_000, false),
        ];
        for (recorded, seen, now, due) in cases {
            let (status, view) = (
                RegionStatus {
                    region: region("us"),
                    trust_domain: domain("us"),
                    round_trip: recorded.1.map(ms),
                    heard_at: Timestamp(recorded.2),
                    connected: recorded.0,
                    tenant_proxies: std::collections::BTreeMap::new(),
                },
                Seen {
                    connected: seen.0,
                    round_trip: seen.1.map(ms),
                    heard_at: seen.2.map(Timestamp),
                },
            );
            assert_eq!(
                is_due(&status, &view, Timestamp(now)),
                due,
                "{recorded:?} {seen:?} {now}"
            );
        }
    }
}
