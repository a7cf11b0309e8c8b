//! A few runs of the simulation, and that a run can be replayed. `just sim` runs many.
#![allow(clippy::panic, reason = "a test stops where it fails")]

use tests::sim::{Plan, run};

const STEPS: u64 = 5_000;

#[test]
fn the_same_seed_does_the_same_steps() {
    let plan = Plan { seed: 7, steps: STEPS };
    let (first, second) = (run(plan), run(plan));
    assert_eq!(
        (first.steps, first.hash),
        (second.steps, second.hash),
        "{}",
        second.shown
    );
    let other = run(Plan { seed: 8, steps: STEPS });
    assert_ne!(first.hash, other.hash, "another seed is another run");
}

#[test]
fn a_few_seeds_break_no_law() {
    for seed in 1..=4 {
        let report = run(Plan { seed, steps: STEPS });
        if let Some(violation) = report.violation {
            panic!(
                "seed {seed}, {} steps: {}\nexpected: {}\nfound: {}\n{}",
                report.steps, violation.invariant, violation.expected, violation.found, report.shown
            );
        }
    }
}
