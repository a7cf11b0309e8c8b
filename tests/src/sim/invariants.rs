//! The laws of a world: what must hold after every step. Each law is a file that is shown what concerns it.

mod acknowledged;
mod agreement;
mod chronicle;
mod convergence;
mod drills;
mod findings;
mod held;
mod leaders;
mod owners;
mod quotas;
mod visible;
mod watchers;

use std::fmt::Display;

use mesh::model::Revision;
use proto::registry::v1 as pb;
use registry::{
    catalog::State,
    raft::Inside,
    watch::{Published, Scope},
};

use self::{
    acknowledged::{Asked, Began, Writes},
    chronicle::Chronicle,
    drills::Drills,
    findings::Findings,
    held::Positions,
    leaders::Leaders,
    watchers::Watchers,
};
use super::{
    place::Place,
    watchers::View,
    world::{Sim, Violation},
};

pub(crate) use convergence::differs;

/// All laws, with what they remember.
pub(crate) struct Laws {
    broken: Option<Violation>,
    /// The one history of each region.
    pub(crate) chronicles: Vec<Chronicle>,
    pub(crate) writes: Writes,
    pub(crate) held: Positions,
    pub(crate) drills: Drills,
    pub(crate) watchers: Watchers,
    pub(crate) findings: Findings,
    leaders: Leaders,
}

/// What a law found; the text before is what it promises.
type Found = Result<(), Broken>;

/// A law that is broken.
#[derive(Debug)]
pub(crate) struct Broken {
    invariant: &'static str,
    expected: String,
    found: String,
}

pub(crate) fn broken(invariant: &'static str, expected: impl Display, found: impl Display) -> Broken {
    Broken {
        invariant,
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

impl Laws {
    pub(crate) fn new(regions: u8) -> Self {
        Self {
            broken: None,
            chronicles: (0..regions).map(|_| Chronicle::default()).collect(),
            writes: Writes::default(),
            held: Positions::default(),
            drills: Drills::default(),
            watchers: Watchers::default(),
            findings: Findings::default(),
            leaders: Leaders::default(),
        }
    }

    fn note(&mut self, found: Found) {
        if let Err(broken) = found
            && self.broken.is_none()
        {
            self.broken = Some(Violation {
                invariant: broken.invariant.to_owned(),
                expected: broken.expected,
                found: broken.found,
            });
        }
    }

    pub(crate) fn take_broken(&mut self) -> Option<Violation> {
        self.broken.take()
    }

    fn chronicle(&self, region: u8) -> &Chronicle {
        &self.chronicles[usize::from(region)]
    }

    /// A node has applied an entry, or begun with what it had.
    pub(crate) fn published(&mut self, sim: &Sim, place: Place, published: &Published) {
        let region = place.region;
        let found = self.writes.published(place, published);
        self.note(found);
        let (is_new, found) = self.chronicles[usize::from(region)].published(place, published);
        self.note(found);
        if !is_new {
            return;
        }
        let found = owners::check(&self.chronicles, region, published);
        self.note(found);
        let found = visible::check(&self.chronicles, region, published);
        self.note(found);
        let found = self.held.committed(region, &published.state);
        self.note(found);
        let found = self.drills.published(sim, region, published);
        self.note(found);
        let found = quotas::check(sim, &self.chronicles);
        self.note(found);
        let found = self.findings.check(region, &published.state);
        self.note(found);
    }

    /// A write was answered with success.
    pub(crate) fn acknowledged(&mut self, asked: &Asked, revision: u64, done: bool) {
        let chronicle = &self.chronicles[usize::from(asked.region)];
        let found = self.writes.acknowledged(chronicle, asked, revision, done);
        self.note(found);
    }

    /// A region has lost all its nodes, and will begin again with what it had at a revision.
    pub(crate) fn lost(&mut self, sim: &Sim, region: u8, revision: Revision) {
        let chronicle = &mut self.chronicles[usize::from(region)];
        let state = chronicle.up_to(revision).cloned();
        chronicle.lost(sim.now_ms());
        self.writes.lost(region, revision.0, state.as_deref());
        self.held.lost(region);
        self.leaders.lost(region);
    }

    /// A linearizable read was answered.
    pub(crate) fn read(&mut self, place: Place, began: &Began, revision: u64, state: &State) {
        let found = self.writes.read(place, began, revision, state);
        self.note(found);
    }

    /// How Raft stands on a node.
    pub(crate) fn inside(&mut self, place: Place, inside: &Inside) {
        let found = self.leaders.look(place, inside, &self.writes);
        self.note(found);
    }

    /// A peer's update, as its region sent it.
    pub(crate) fn seen_on_wire(&mut self, from: u8, to: u8, update: &pb::Update) {
        let found = visible::on_wire(self.chronicle(from), from, to, update);
        self.note(found);
    }

    /// What a watcher holds after an update.
    pub(crate) fn check_view(&mut self, who: (u8, u8), scope: &Scope, view: &View) {
        let found = watchers::check(self.chronicle(who.0), who, scope, view);
        self.note(found);
    }

    /// A look at what time alone changes: overrides and quota leases.
    pub(crate) fn check_times(&mut self, sim: &Sim) {
        let found = self.drills.check(sim);
        self.note(found);
        let found = quotas::check(sim, &self.chronicles);
        self.note(found);
    }
}
