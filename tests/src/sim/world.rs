//! The world of one run: its nodes, its network, its trace and its laws, shared by everything that happens in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    model::Timestamp,
    runtime::{Clock, Life, clock},
};
use registry::{federation::Federation, raft::Replica, watch::Published};
use tokio::{
    sync::{Notify, RwLock},
    time::Instant,
};
use tracing::trace;

use super::{
    invariants::Laws,
    net::Net,
    node::{Node, Running},
    place::Place,
    trace::Trace,
};

/// What the nodes' clocks show when a run begins: any day will do.
const BEGINS: Timestamp = Timestamp(1_800_000_000_000);

/// Something that must never happen, and did.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which promise was broken.
    pub invariant: String,
    /// What it promises.
    pub expected: String,
    /// What was found instead.
    pub found: String,
}

/// A world; clones are the same.
#[derive(Clone)]
pub(crate) struct Sim {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Instant,
    regions: u8,
    snapshot_every: u64,
    limit: AtomicU64,
    trace: Mutex<Trace>,
    violation: Mutex<Option<Violation>>,
    laws: Mutex<Laws>,
    net: Mutex<Net>,
    nodes: Mutex<BTreeMap<Place, Node>>,
    /// Whose removal was asked for.
    leaving: Mutex<BTreeSet<Place>>,
    /// Held for writing by who restores a region, for reading by who changes its members.
    turns: Vec<Arc<RwLock<()>>>,
    is_over: AtomicBool,
    over: Notify,
    is_calm: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sim {
    pub(crate) fn new(regions: u8, snapshot_every: u64) -> Self {
        let inner = Inner {
            origin: clock::now(),
            regions,
            snapshot_every,
            limit: AtomicU64::new(u64::MAX),
            trace: Mutex::default(),
            violation: Mutex::default(),
            laws: Mutex::new(Laws::new(regions)),
            net: Mutex::default(),
            nodes: Mutex::default(),
            leaving: Mutex::default(),
            turns: (0..regions).map(|_| Arc::default()).collect(),
            is_over: AtomicBool::new(false),
            over: Notify::new(),
            is_calm: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn regions(&self) -> u8 {
        self.inner.regions
    }

    pub(crate) fn snapshot_every(&self) -> u64 {
        self.inner.snapshot_every
    }

    /// Milliseconds since the beginning.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.inner.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What a clock that is right shows.
    pub(crate) fn true_wall(&self) -> Timestamp {
        BEGINS.plus(Duration::from_millis(self.now_ms()))
    }

    /// A clock that can be made wrong.
    pub(crate) fn clock(&self) -> Clock {
        Clock::simulated(self.inner.origin, BEGINS)
    }

    /// A task outside of every node's life.
    #[track_caller]
    #[expect(
        clippy::disallowed_methods,
        reason = "these are not a process' tasks; they end with the run"
    )]
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(tokio::spawn(task));
    }

    /// One event was delivered.
    pub(crate) fn step(&self, what: &'static str, from: Place, to: Place, number: u64) {
        let at_ms = self.now_ms();
        trace!(target: "sim", at_ms, "{what} {from} {to} {number}");
        let steps = locked(&self.inner.trace).add(at_ms, what, from, to, number);
        if steps >= self.inner.limit.load(Ordering::Relaxed) {
            self.end();
        }
    }

    /// From now on so many steps more are taken, at most.
    pub(crate) fn allow(&self, steps: u64) {
        self.inner.limit.store(self.steps() + steps, Ordering::Relaxed);
        self.inner.is_over.store(false, Ordering::Relaxed);
    }

    pub(crate) fn steps(&self) -> u64 {
        locked(&self.inner.trace).steps()
    }

    pub(crate) fn hash(&self) -> u64 {
        locked(&self.inner.trace).hash()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        locked(&self.inner.trace).counts().clone()
    }

    pub(crate) fn shown(&self) -> String {
        locked(&self.inner.trace).shown()
    }

    fn end(&self) {
        self.inner.is_over.store(true, Ordering::Relaxed);
        self.inner.over.notify_waiters();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.inner.is_over.load(Ordering::Relaxed)
    }

    /// Returns when the steps are used up or a law is broken.
    pub(crate) async fn over(&self) {
        while !self.is_over() {
            let notified = self.inner.over.notified();
            if self.is_over() {
                return;
            }
            notified.await;
        }
    }

    /// Nobody asks for anything any more, and nothing breaks.
    pub(crate) fn calm(&self) {
        self.inner.is_calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.inner.is_calm.load(Ordering::Relaxed)
    }

    /// A law is broken; the first one is reported.
    pub(crate) fn fail(&self, invariant: &str, expected: &str, found: &str) {
        let mut violation = locked(&self.inner.violation);
        if violation.is_none() {
            *violation = Some(Violation {
                invariant: invariant.to_owned(),
                expected: expected.to_owned(),
                found: found.to_owned(),
            });
        }
        drop(violation);
        self.end();
    }

    pub(crate) fn violation(&self) -> Option<Violation> {
        locked(&self.inner.violation).clone()
    }

    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.net().is_cut(from, to)
    }

    pub(crate) fn delay(&self, from: Place, to: Place) -> Duration {
        self.net().delay(from, to)
    }

    /// When a message arrives; never, once or twice.
    pub(crate) fn arrivals(&self, from: Place, to: Place, may_double: bool) -> (Option<Duration>, Option<Duration>) {
        self.net().arrivals(from, to, may_double)
    }

    pub(crate) fn resets(&self) -> u64 {
        self.net().resets
    }

    pub(crate) fn is_hostile(&self) -> bool {
        self.net().hostile
    }

    /// Held for a change only, never over a wait.
    pub(crate) fn net(&self) -> MutexGuard<'_, Net> {
        locked(&self.inner.net)
    }

    /// Lets a law look at something.
    pub(crate) fn laws<T>(&self, look: impl FnOnce(&mut Laws, &Self) -> T) -> T {
        let mut laws = locked(&self.inner.laws);
        let seen = look(&mut laws, self);
        let broken = laws.take_broken();
        drop(laws);
        if let Some(broken) = broken {
            self.fail(&broken.invariant, &broken.expected, &broken.found);
        }
        seen
    }

    /// A node shows what it has applied.
    pub(crate) fn published(&self, place: Place, published: &Published) {
        self.laws(|laws, sim| laws.published(sim, place, published));
    }

    /// A node gave an answer to another one.
    pub(crate) fn answered(&self, place: Place) {
        self.look_inside(place);
    }

    /// Looks at how Raft stands on a node.
    pub(crate) fn look_inside(&self, place: Place) {
        if let Some(running) = self.running(place) {
            let inside = running.replica.inside();
            self.laws(|laws, _| laws.inside(place, &inside));
        }
    }

    /// Drops all nodes.
    pub(crate) fn forget(&self) {
        let nodes = std::mem::take(&mut *locked(&self.inner.nodes));
        drop(nodes);
    }

    pub(crate) fn add_node(&self, place: Place) {
        let node = Node::new(self.clock());
        locked(&self.inner.nodes).insert(place, node);
    }

    /// None when there is no such node.
    pub(crate) fn with_node<T>(&self, place: Place, with: impl FnOnce(&mut Node) -> T) -> Option<T> {
        locked(&self.inner.nodes).get_mut(&place).map(with)
    }

    /// All nodes of a region that are not gone for good.
    pub(crate) fn places(&self, region: u8) -> Vec<Place> {
        let nodes = locked(&self.inner.nodes);
        let here = nodes
            .iter()
            .filter(|(place, node)| place.region == region && !node.is_gone);
        here.map(|(place, _)| *place).collect()
    }

    /// The next number of a node in a region.
    pub(crate) fn next_number(&self, region: u8) -> u16 {
        let nodes = locked(&self.inner.nodes);
        let numbers = nodes
            .keys()
            .filter(|place| place.region == region)
            .map(|place| place.node);
        numbers.max().unwrap_or(0) + 1
    }

    pub(crate) fn running(&self, place: Place) -> Option<Running> {
        locked(&self.inner.nodes).get(&place)?.running.clone()
    }

    /// Any node of a region that runs.
    pub(crate) fn any(&self, region: u8) -> Option<(Place, Running)> {
        let nodes = locked(&self.inner.nodes);
        let running: Vec<_> = nodes
            .iter()
            .filter(|(place, _)| place.region == region)
            .filter_map(|(place, node)| Some((*place, node.running.clone()?)))
            .collect();
        drop(nodes);
        if running.is_empty() {
            return None;
        }
        Some(running[fastrand::usize(..running.len())].clone())
    }

    pub(crate) fn replica_and_life(&self, place: Place) -> Option<(Replica, Life)> {
        let nodes = locked(&self.inner.nodes);
        let node = nodes.get(&place)?;
        Some((node.running.as_ref()?.replica.clone(), node.life.clone()))
    }

    pub(crate) fn federation_and_life(&self, place: Place) -> Option<(Federation, Life)> {
        let nodes = locked(&self.inner.nodes);
        let node = nodes.get(&place)?;
        Some((node.running.as_ref()?.federation.clone(), node.life.clone()))
    }

    /// What the slowest clock of a region shows, those of nodes that are gone included: proxies may have asked them.
    pub(crate) fn slowest_clock(&self, region: u8) -> Option<Timestamp> {
        let nodes = locked(&self.inner.nodes);
        let here = nodes.iter().filter(|(place, _)| place.region == region);
        here.map(|(_, node)| node.clock.wall()).min()
    }

    /// Whose turn it is to change a region's members.
    pub(crate) fn turns(&self, region: u8) -> Arc<RwLock<()>> {
        Arc::clone(&self.inner.turns[usize::from(region)])
    }

    pub(crate) fn asked_to_leave(&self, place: Place) {
        locked(&self.inner.leaving).insert(place);
    }

    pub(crate) fn may_be_removed(&self, place: Place) -> bool {
        locked(&self.inner.leaving).contains(&place)
    }
}
