//! Whether a run goes on: virtual time passes only when no task has anything to do, so tasks that wake each other without an
//! end would stop it, and a task that never returns would stop everything. Both become a broken law instead of a hang.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic::Location,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh::runtime::clock;
use tokio::time::Instant;

use super::world::Sim;

/// The law that tasks break which wake each other without an end.
const TIME: &str = "virtual time goes on";
/// Polls of tasks at one instant. Some hundreds are usual at most; a loop makes as many within a second.
const POLLS_MAX: u64 = 100_000;
/// From then on it is noted who is polled.
const NOTED_FROM: u64 = POLLS_MAX / 2;
/// How many of them are named.
const NAMED: usize = 8;

type Place = &'static Location<'static>;

/// What the thread that waits for a run may see of it.
#[derive(Default)]
pub(super) struct Progress {
    polls: AtomicU64,
    /// Where the task was spawned that is polled. Guards this value only.
    task: Mutex<Option<Place>>,
}

impl Progress {
    pub(super) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// The task that was polled last.
    pub(super) fn task(&self) -> String {
        let task = *self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.map_or_else(|| "none".to_owned(), |place| place.to_string())
    }
}

struct Pulse {
    progress: Arc<Progress>,
    sim: Option<Sim>,
    at: Option<Instant>,
    polls: u64,
    busiest: u64,
    noted: BTreeMap<(&'static str, u32), u64>,
}

thread_local! {
    /// Of the run of this thread.
    static PULSE: RefCell<Option<Pulse>> = const { RefCell::new(None) };
}

/// A run begins on this thread.
pub(super) fn begin(progress: Arc<Progress>) {
    let pulse = Pulse {
        progress,
        sim: None,
        at: None,
        polls: 0,
        busiest: 0,
        noted: BTreeMap::new(),
    };
    PULSE.set(Some(pulse));
}

/// Whose law is broken when time stands still.
pub(super) fn watch(sim: &Sim) {
    PULSE.with_borrow_mut(|pulse| {
        if let Some(pulse) = pulse {
            pulse.sim = Some(sim.clone());
        }
    });
}

/// The run is over; says how many polls its busiest instant had.
pub(super) fn end() -> u64 {
    PULSE.take().map_or(0, |pulse| pulse.busiest)
}

/// A task that was spawned at `place` is about to be polled.
pub(super) fn polled(place: Place) {
    let now = clock::now();
    let stuck = PULSE.with_borrow_mut(|pulse| pulse.as_mut()?.polled(place, now));
    // Outside of the borrow: who is woken may be polled at once.
    if let Some((sim, found)) = stuck {
        sim.fail(TIME, &format!("at most {POLLS_MAX} polls at one instant"), &found);
    }
}

impl Pulse {
    fn polled(&mut self, place: Place, now: Instant) -> Option<(Sim, String)> {
        self.progress.polls.fetch_add(1, Ordering::Relaxed);
        *self.progress.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        if self.at != Some(now) {
            (self.at, self.polls) = (Some(now), 0);
            self.noted.clear();
        }
        self.polls += 1;
        self.busiest = self.busiest.max(self.polls);
        if self.polls < NOTED_FROM {
            return None;
        }
        *self.noted.entry((place.file(), place.line())).or_default() += 1;
        if self.polls != POLLS_MAX {
            return None;
        }
        let mut noted: Vec<_> = self.noted.iter().collect();
        noted.sort_by(|(_, one), (_, other)| other.cmp(one));
        let named = noted.iter().take(NAMED);
        let names: Vec<String> = named
            .map(|((file, line), count)| format!("{count} of the task of {file}:{line}"))
            .collect();
        let found = format!("time stands still; of the last polls {}", names.join(", "));
        Some((self.sim.clone()?, found))
    }
}
