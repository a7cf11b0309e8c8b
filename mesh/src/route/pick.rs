//! Which of several: a tier by its share, then the cheaper of two random candidates. Chance is an argument. Pure.

use std::time::Duration;

/// How fast an old latency peak is forgotten: it halves in about 7 s.
const DECAY: Duration = Duration::from_secs(10);
/// A candidate that was never used counts as this fast: quick enough to be tried, too slow to take everything.
pub const LATENCY_UNKNOWN_US: f64 = 1_000.0;

/// The next peak-EWMA: a slower sample counts at once, a faster one only as time passes.
#[must_use]
pub fn peak_ewma(previous_us: f64, since_previous: Duration, sample_us: f64) -> f64 {
    if sample_us >= previous_us {
        return sample_us;
    }
    let keep = (-since_previous.as_secs_f64() / DECAY.as_secs_f64()).exp();
    previous_us * keep + sample_us * (1.0 - keep)
}

/// What it costs to send one more request there; smaller is better.
#[must_use]
pub fn cost(latency_us: f64, in_flight: u32, weight: f64) -> f64 {
    latency_us.max(1.0) * (f64::from(in_flight) + 1.0) / weight.max(1e-6)
}

/// The index that a die in `[0, 1)` falls on, by weight; none when all weights are 0.
pub fn by_weight(weights: impl Iterator<Item = f64> + Clone, die: f64) -> Option<usize> {
    let sum: f64 = weights.clone().sum();
    if sum <= 0.0 {
        return None;
    }
    let mut left = die * sum;
    let mut last = None;
    for (at, weight) in weights.enumerate() {
        if weight <= 0.0 {
            continue;
        }
        last = Some(at);
        if left < weight {
            break;
        }
        left -= weight;
    }
    last
}

/// Power of two choices: draws two different candidates by weight and takes the cheaper one.
pub fn two_choices(
    weights: impl Iterator<Item = f64> + Clone,
    dice: [f64; 2],
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    let first = by_weight(weights.clone(), dice[0])?;
    let others = weights
        .enumerate()
        .map(move |(at, weight)| if at == first { 0.0 } else { weight });
    match by_weight(others, dice[1]) {
        Some(second) if cost(second) < cost(first) => Some(second),
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let peak = peak_ewma(1_000.0, Duration::from_millis(1), 9_000.0);
        assert!((peak - 9_000.0).abs() < 1e-9);
        let soon = peak_ewma(peak, Duration::from_millis(10), 1_000.0);
        assert!(soon > 8_900.0, "{soon}");
        let later = peak_ewma(peak, Duration::from_secs(60), 1_000.0);
        assert!(later < 1_100.0, "{later}");
    }

    #[test]
    fn dice_fall_in_proportion_to_weight() {
        let weights = [1.0, 0.0, 3.0];
        let draw = |die| by_weight(weights.into_iter(), die);
        assert_eq!(draw(0.0), Some(0));
        assert_eq!(draw(0.24), Some(0));
        assert_eq!(draw(0.26), Some(2));
        assert_eq!(draw(0.999_999_999), Some(2));
        assert_eq!(by_weight([0.0, 0.0].into_iter(), 0.5), None);
        assert_eq!(by_weight(std::iter::empty(), 0.5), None);
    }

    #[test]
    fn the_cheaper_of_two_different_ones_is_taken() {
        let costs = [5.0, 1.0, 3.0];
        let take = |dice| two_choices([1.0; 3].into_iter(), dice, |at| costs[at]);
        assert_eq!(take([0.0, 0.0]), Some(1), "0 against 1");
        assert_eq!(take([0.0, 0.9]), Some(2), "0 against 2");
        assert_eq!(take([0.5, 0.9]), Some(1), "1 against 2");
        assert_eq!(two_choices([1.0].into_iter(), [0.3, 0.3], |_| 1.0), Some(0));
        assert_eq!(two_choices(std::iter::empty(), [0.3, 0.3], |_| 1.0), None);
    }

    #[test]
    fn load_and_weight_change_the_cost() {
        assert!(cost(1_000.0, 4, 100.0) > cost(1_000.0, 0, 100.0));
        assert!(cost(1_000.0, 0, 10.0) > cost(1_000.0, 0, 100.0));
    }
}
