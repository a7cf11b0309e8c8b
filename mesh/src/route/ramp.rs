//! Coming back: wait, then rise. The first endpoint of a tier to return is not taken for the whole tier. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Standing, TierKey, eject::Elapsed};
use crate::model::EndpointId;

/// A ramp begins with this part: with nothing at all it would prove nothing.
const FIRST_PART: f64 = 0.1;
/// After hold and ramp the memory of a tier's old size fades over this time; then its new size is the truth.
const FADE: Duration = Duration::from_secs(60);

/// How fast something that was down gets its traffic back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// It must answer for this long before it gets anything. Default 5 s.
    pub hold: Duration,
    /// Then its share rises for this long. Default 10 s.
    pub ramp: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(5),
            ramp: Duration::from_secs(10),
        }
    }
}

impl Pace {
    /// The part of its share that something gets this long after its ramp began.
    #[must_use]
    pub fn rise(&self, age: Duration) -> f64 {
        if age >= self.ramp {
            return 1.0;
        }
        (age.as_secs_f64() / self.ramp.as_secs_f64()).max(FIRST_PART)
    }
}

/// Something that came back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Returning {
    /// Since when it answers again.
    pub since: Elapsed,
}

impl Returning {
    /// How it stands.
    #[must_use]
    pub fn standing(&self, now: Elapsed, pace: &Pace) -> Standing {
        let age = now.saturating_sub(self.since);
        if age < pace.hold {
            return Standing::Held { left: pace.hold - age };
        }
        match pace.rise(age - pace.hold) {
            part if part >= 1.0 => Standing::Up,
            part => Standing::Ramp(part),
        }
    }
}

/// How an endpoint that just became usable is to be treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// There is nothing to be careful about: the first view, or a tier that never was.
    New,
    /// Its tier is alive: ramp, without waiting.
    Fresh,
    /// Its tier was down: wait, then ramp.
    Back,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Tier {
    usable: BTreeSet<EndpointId>,
    /// Weight while it was up.
    steady: f64,
    recovering_since: Option<Elapsed>,
}

/// What an asker remembers of the tiers of one service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TierMemory {
    tiers: BTreeMap<TierKey, Tier>,
}

impl TierMemory {
    /// Compares a tier with what it was: `usable` are the endpoints that could take work now, with their weights. Returns
    /// how to treat those that could not before. Tiers that are empty now must be told, too.
    pub fn observe(
        &mut self,
        key: &TierKey,
        usable: &BTreeMap<EndpointId, f64>,
        now: Elapsed,
    ) -> Vec<(EndpointId, Seen)> {
        let known = self.tiers.contains_key(key);
        if !known && usable.is_empty() {
            return Vec::new();
        }
        let tier = self.tiers.entry(key.clone()).or_default();
        let was_alive = !tier.usable.is_empty();
        let seen = match (known, was_alive) {
            (false, _) => Seen::New,
            (true, true) if tier.recovering_since.is_none() => Seen::Fresh,
            (true, _) => Seen::Back,
        };
        let arrived = usable.keys().filter(|id| !tier.usable.contains(*id));
        let arrived = arrived.map(|id| (id.clone(), seen)).collect();
        if known && !was_alive && !usable.is_empty() {
            tier.recovering_since = Some(now);
        }
        if usable.is_empty() {
            tier.recovering_since = None;
        } else if tier.recovering_since.is_none() {
            tier.steady = usable.values().sum();
        }
        tier.usable = usable.keys().cloned().collect();
        arrived
    }

    /// [`TierMemory::observe`] for all tiers at once; tiers that are not named are empty.
    pub fn observe_all(
        &mut self,
        tiers: &BTreeMap<TierKey, BTreeMap<EndpointId, f64>>,
        now: Elapsed,
    ) -> Vec<(EndpointId, Seen)> {
        let keys: BTreeSet<TierKey> = self.tiers.keys().chain(tiers.keys()).cloned().collect();
        let empty = BTreeMap::new();
        keys.iter()
            .flat_map(|key| self.observe(key, tiers.get(key).unwrap_or(&empty), now))
            .collect()
    }

    /// The weight that a tier counts with at least, while it recovers.
    #[must_use]
    pub fn steady_weight(&self, key: &TierKey, now: Elapsed, pace: &Pace) -> f64 {
        let Some((tier, since)) = self
            .tiers
            .get(key)
            .and_then(|tier| Some((tier, tier.recovering_since?)))
        else {
            return 0.0;
        };
        let faded = now.saturating_sub(since + pace.hold + pace.ramp).as_secs_f64() / FADE.as_secs_f64();
        tier.steady * (1.0 - faded).max(0.0)
    }

    /// Ends recoveries whose memory has faded. Returns whether any tier still recovers.
    pub fn settle(&mut self, now: Elapsed, pace: &Pace) -> bool {
        let mut recovering = false;
        for tier in self.tiers.values_mut() {
            if let Some(since) = tier.recovering_since {
                if now.saturating_sub(since) >= pace.hold + pace.ramp + FADE {
                    tier.recovering_since = None;
                } else {
                    recovering = true;
                }
            }
        }
        recovering
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        hold: Duration::from_secs(5),
        ramp: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Elapsed {
        Duration::from_secs(500 + seconds)
    }

    fn endpoints(ids: &[&str]) -> BTreeMap<EndpointId, f64> {
        ids.iter()
            .map(|id| (EndpointId::parse(id).expect("valid"), 100.0))
            .collect()
    }

    #[test]
    fn a_new_tier_is_used_at_once_and_newcomers_beside_others_ramp() {
        let mut memory = TierMemory::default();
        let first = memory.observe(&TierKey::Zone, &endpoints(&["a", "b"]), at(0));
        assert!(first.iter().all(|(_, seen)| *seen == Seen::New) && first.len() == 2);
        let second = memory.observe(&TierKey::Zone, &endpoints(&["a", "b", "c"]), at(1));
        assert_eq!(second, [(EndpointId::parse("c").expect("valid"), Seen::Fresh)]);
    }

    #[test]
    fn a_tier_that_was_down_comes_back_slowly_and_remembers_its_size() {
        let mut memory = TierMemory::default();
        memory.observe(&TierKey::Zone, &endpoints(&["a", "b", "c", "d"]), at(0));
        assert!(memory.observe(&TierKey::Zone, &endpoints(&[]), at(10)).is_empty());
        assert!(
            memory.steady_weight(&TierKey::Zone, at(11), &PACE).abs() < 1e-9,
            "down, not recovering"
        );
        let back = memory.observe(&TierKey::Zone, &endpoints(&["e"]), at(20));
        assert_eq!(back, [(EndpointId::parse("e").expect("valid"), Seen::Back)]);
        let steady = |memory: &TierMemory, now| memory.steady_weight(&TierKey::Zone, now, &PACE);
        assert!((steady(&memory, at(20)) - 400.0).abs() < 1e-9);
        assert!(
            (steady(&memory, at(35)) - 400.0).abs() < 1e-9,
            "to the end of hold and ramp"
        );
        assert!((steady(&memory, at(65)) - 200.0).abs() < 1e-9, "then it fades");
        assert!(memory.settle(at(94), &PACE));
        assert!(!memory.settle(at(95), &PACE));
        assert!(steady(&memory, at(95)).abs() < 1e-9);
    }

    #[test]
    fn scaling_down_is_no_outage() {
        let mut memory = TierMemory::default();
        memory.observe(&TierKey::Zone, &endpoints(&["a", "b", "c", "d"]), at(0));
        memory.observe(&TierKey::Zone, &endpoints(&["a"]), at(10));
        assert!(memory.steady_weight(&TierKey::Zone, at(11), &PACE).abs() < 1e-9);
    }

    #[test]
    fn the_rise_is_monotone_and_bounded() {
        let mut last = 0.0;
        for second in 0..12 {
            let part = PACE.rise(Duration::from_secs(second));
            assert!(part >= last && part > 0.0 && part <= 1.0);
            last = part;
        }
        assert!((last - 1.0).abs() < 1e-9);
    }
}
