//! A federation in one thread, replayed from a seed: the real registries of two or three regions over a simulated network,
//! simulated disks and clocks, with everything going wrong, and laws that are checked after every step.
//!
//! A step is one event that the simulation delivers: a message, a piece of work of a disk, what a client asks or is
//! answered, a fault. One seed is one run: the same seed gives the same steps.

mod clients;
mod disk;
mod faults;
mod heal;
mod hostile;
mod invariants;
mod net;
mod node;
mod place;
mod pulse;
mod restore;
mod settle;
mod trace;
mod watchers;
mod world;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic,
    sync::{Arc, Once, mpsc},
    time::Duration,
};

use tokio::runtime::{Builder, RngSeed};

use self::{pulse::Progress, world::Sim};
pub use world::Violation;

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Everything random comes from it.
    pub seed: u64,
    /// Steps until the world is healed.
    pub steps: u64,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of the plan.
    pub seed: u64,
    /// All steps, those of the healing included.
    pub steps: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// The same for two runs that did the same.
    pub hash: u64,
    /// The law that was broken.
    pub violation: Option<Violation>,
    /// The most polls of tasks at one virtual instant.
    pub busiest: u64,
    /// How often each kind of event happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// The newest steps, one a line.
    pub shown: String,
}

thread_local! {
    /// What a task of this thread panicked with.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers a panic for the law that there is none.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_simulated = std::thread::current().name() == Some(THREAD);
            if !is_simulated {
                return before(info);
            }
            let backtrace = std::backtrace::Backtrace::force_capture().to_string();
            let ours = backtrace
                .lines()
                .filter(|line| line.contains("registry") || line.contains("openraft"));
            let text = ours.take(12).fold(info.to_string(), |text, line| text + "\n" + line);
            PANIC.with(|panic| panic.borrow_mut().get_or_insert(text).clone());
        }));
    });
}

fn panicked() -> Option<String> {
    PANIC.with(|panic| panic.borrow_mut().take())
}

/// Threads that run simulations have this name.
const THREAD: &str = "sim";

/// How often it is looked whether a run goes on, in real time, and how many looks in a row may find that it does not: far
/// more than a crowded machine makes a thread wait.
const LOOK: Duration = Duration::from_secs(1);
const STALLED_MAX: u32 = 120;

/// Runs one seed, on a thread of its own. A thread that hangs in one task is given up, and reported.
///
/// # Panics
/// When the machine gives no thread.
#[must_use]
pub fn run(plan: Plan) -> Report {
    watch_for_panics();
    let thread = std::thread::Builder::new().name(THREAD.to_owned());
    let progress = Arc::new(Progress::default());
    let (until, over) = mpsc::sync_channel::<()>(0);
    let seen = Arc::clone(&progress);
    let run = thread.spawn(move || {
        let _until = until;
        run_here(plan, progress)
    });
    let run = run.expect("a thread can be had");
    let (mut polls, mut stalled) = (0, 0);
    loop {
        if over.recv_timeout(LOOK) != Err(mpsc::RecvTimeoutError::Timeout) {
            return run.join().expect("the run itself does not panic");
        }
        let before = std::mem::replace(&mut polls, seen.polls());
        stalled = if polls == before { stalled + 1 } else { 0 };
        if stalled == STALLED_MAX {
            return hung(plan, &seen);
        }
    }
}

fn hung(plan: Plan, progress: &Progress) -> Report {
    Report {
        seed: plan.seed,
        steps: 0,
        virtual_ms: 0,
        hash: 0,
        violation: Some(Violation {
            invariant: "every poll of a task returns".to_owned(),
            expected: format!("within {} s", LOOK.as_secs() * u64::from(STALLED_MAX)),
            found: format!("the task of {} does not", progress.task()),
        }),
        busiest: 0,
        counts: BTreeMap::new(),
        shown: String::new(),
    }
}

fn run_here(plan: Plan, progress: Arc<Progress>) -> Report {
    fastrand::seed(plan.seed);
    panicked();
    pulse::begin(progress);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&plan.seed.to_le_bytes()))
        .on_before_task_poll(|task| pulse::polled(task.spawned_at()))
        .build()
        .expect("a runtime without a driver can be made");
    let (mut report, sim) = runtime.block_on(Box::pin(live(plan)));
    report.busiest = pulse::end();
    drop(runtime);
    // The nodes hold their world, and the world its nodes.
    sim.forget();
    report
}

async fn live(plan: Plan) -> (Report, Sim) {
    let regions = if fastrand::u8(..3) == 0 { 3 } else { 2 };
    let snapshot_every = fastrand::u64(20..150);
    let sim = Sim::new(regions, snapshot_every);
    pulse::watch(&sim);
    sim.spawn(look(sim.clone()));
    tokio::select! {
        biased; // a law that is broken outranks
        () = sim.over() => {}
        () = settle::found(&sim) => {}
    }
    if sim.violation().is_none() {
        sim.allow(plan.steps);
        clients::start(&sim);
        watchers::start(&sim);
        sim.spawn(faults::run(sim.clone()));
        sim.over().await;
    }
    if sim.violation().is_none() {
        heal::heal(&sim).await;
    }
    let report = Report {
        seed: plan.seed,
        steps: sim.steps(),
        virtual_ms: sim.now_ms(),
        hash: sim.hash(),
        violation: sim.violation(),
        busiest: 0,
        counts: sim.counts(),
        shown: sim.shown(),
    };
    (report, sim)
}

/// Looks at all nodes now and then, for what no message shows.
async fn look(sim: Sim) {
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        for region in 0..sim.regions() {
            for place in sim.places(region) {
                sim.look_inside(place);
            }
        }
        sim.laws(|laws, sim| laws.check_times(sim));
        if let Some(text) = panicked() {
            sim.fail("no task panics", "no panic", &text);
        }
    }
}
