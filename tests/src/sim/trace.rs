//! What happened: every step, its hash, and the newest of them in words. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Write as _},
};

use super::place::Place;

/// Steps that a report shows.
const SHOWN: usize = 50;

/// One event that the simulation delivered.
#[derive(Clone, Copy, Debug)]
struct Event {
    step: u64,
    at_ms: u64,
    what: &'static str,
    from: Place,
    to: Place,
    number: u64,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.at_ms as f64 / 1000.0;
        write!(f, "{:>8} {seconds:>9.3}s  {:<12} {}", self.step, self.what, self.from)?;
        if self.to != self.from {
            write!(f, " -> {}", self.to)?;
        }
        write!(f, "  {}", self.number)
    }
}

/// All steps of a run.
#[derive(Default)]
pub(crate) struct Trace {
    steps: u64,
    hash: u64,
    newest: VecDeque<Event>,
    counts: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub(crate) fn add(&mut self, at_ms: u64, what: &'static str, from: Place, to: Place, number: u64) -> u64 {
        self.steps += 1;
        *self.counts.entry(what).or_default() += 1;
        let kind = what.bytes().fold(0_u64, |kind, byte| kind * 31 + u64::from(byte));
        let places =
            u64::from(from.region) << 48 | u64::from(from.node) << 32 | u64::from(to.region) << 16 | u64::from(to.node);
        for part in [at_ms, kind, places, number] {
            self.hash = (self.hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
        if self.newest.len() == SHOWN {
            self.newest.pop_front();
        }
        self.newest.push_back(Event {
            step: self.steps,
            at_ms,
            what,
            from,
            to,
            number,
        });
        self.steps
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// The same for two runs that did the same.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How often each kind of event happened.
    pub(crate) fn counts(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// The newest steps, one a line.
    pub(crate) fn shown(&self) -> String {
        self.newest.iter().fold(String::new(), |mut text, event| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{event}");
            text
        })
    }
}
