//! How traffic spreads over tiers: each carries what it can, the rest goes on to the next. Pure.

/// A tier with 1/1.4 = 71 % of its weight healthy still carries everything: it has that much room by assumption.
pub const OVERPROVISIONING: f64 = 1.4;

/// What one tier can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Carry {
    /// Part of all traffic that it can carry, 0 to 1.
    pub can: f64,
    /// Part of what it would get that it keeps while a drill evacuates its region, 0 to 1; 1 = no drill.
    pub keep: f64,
}

/// The share of each tier, in order of preference. They add up to 1, or are all 0 when no tier can carry anything.
///
/// When all together carry less than everything, each gets more in proportion: refusing would help nobody. Drills come
/// second to that: an order to evacuate never loses traffic that nobody else can take.
#[must_use]
pub fn spread(tiers: &[Carry]) -> Vec<f64> {
    let mut left = 1.0;
    let mut shares: Vec<f64> = tiers
        .iter()
        .map(|tier| {
            let share = tier.can.clamp(0.0, 1.0).min(left) * tier.keep.clamp(0.0, 1.0);
            left -= share;
            share
        })
        .collect();
    if left <= f64::EPSILON {
        return shares;
    }
    // Those that no drill restrains take the rest, in proportion to what they can; failing these, the restrained ones.
    for restrained in [false, true] {
        let eligible = |tier: &Carry| if (tier.keep < 1.0) == restrained { tier.can } else { 0.0 };
        let sum: f64 = tiers.iter().map(eligible).sum();
        if sum > 0.0 {
            for (share, tier) in shares.iter_mut().zip(tiers) {
                *share += left * eligible(tier) / sum;
            }
            break;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy(part: f64) -> Carry {
        Carry {
            can: (part * OVERPROVISIONING).min(1.0),
            keep: 1.0,
        }
    }

    #[test]
    fn a_tier_carries_what_it_can_and_the_rest_goes_on() {
        let evacuated = |part, percent: f64| Carry {
            keep: 1.0 - percent / 100.0,
            ..healthy(part)
        };
        for (what, tiers, expected) in [
            ("whole", vec![healthy(1.0), healthy(1.0)], vec![1.0, 0.0]),
            ("just enough", vec![healthy(0.72), healthy(1.0)], vec![1.0, 0.0]),
            ("half", vec![healthy(0.5), healthy(1.0)], vec![0.7, 0.3]),
            (
                "three",
                vec![healthy(0.25), healthy(0.25), healthy(1.0)],
                vec![0.35, 0.35, 0.30],
            ),
            ("down", vec![healthy(0.0), healthy(1.0)], vec![0.0, 1.0]),
            ("short of all", vec![healthy(0.25), healthy(0.25)], vec![0.5, 0.5]),
            ("nothing", vec![healthy(0.0), healthy(0.0)], vec![0.0, 0.0]),
            ("drill", vec![evacuated(1.0, 100.0), healthy(1.0)], vec![0.0, 1.0]),
            ("half a drill", vec![evacuated(1.0, 50.0), healthy(1.0)], vec![0.5, 0.5]),
            (
                "drill, weak survivor",
                vec![evacuated(1.0, 100.0), healthy(0.1)],
                vec![0.0, 1.0],
            ),
            (
                "drill, no survivor",
                vec![evacuated(1.0, 100.0), healthy(0.0)],
                vec![1.0, 0.0],
            ),
            (
                "drill of the second",
                vec![healthy(0.5), evacuated(1.0, 100.0), healthy(1.0)],
                vec![0.7, 0.0, 0.3],
            ),
        ] {
            let shares = spread(&tiers);
            for (share, expected) in shares.iter().zip(&expected) {
                assert!((share - expected).abs() < 1e-9, "{what}: {shares:?}");
            }
        }
    }
}
