//! Drives the change of the region's root, on the node that leads: each step is one commit, so that a new leader goes on
//! where the old one was. The new root's key stays on the disk of the node that made it, to be taken away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::{
    model::{RegionId, Timestamp},
    runtime::{Clock, OnExit, Stop},
};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{Error, disk::Disk};
use crate::{
    app::Parts,
    authority::{
        Root,
        rotate::{self, Change, Facts, Pace, Span, Step},
    },
    catalog::{Command, NextRoot, Reply, RotateStep, Stage, State},
    federation::{Federation, Home},
    watch::Hub,
};

/// How often it looks whether something is due.
const LOOK: Duration = Duration::from_secs(5);

/// What the decision depends on, of a catalogue.
pub(crate) struct Known {
    issuing: Span,
    root: Span,
    change: Change,
    ordered: bool,
    acknowledged: BTreeMap<RegionId, u64>,
}

/// None while the region has no authority. `acknowledged` gives the revision that a peer has committed.
pub(crate) fn facts(state: &State, federation: &Federation) -> Option<Known> {
    let rotation = state.rotation();
    let next = rotation.and_then(|rotation| rotation.next.as_ref());
    let anchors = state.own_bundle()?;
    let anchors = anchors.anchors();
    let old = anchors.filter(|der| next.is_none_or(|next| next.anchor.as_slice() != der.as_ref()));
    let spans = old.filter_map(|der| crate::authority::span(&der));
    let issuing = crate::authority::span(state.authority()?.chain.first()?)?;
    let mut published = None;
    let change = match rotation.map(|rotation| rotation.stage) {
        None | Some(Stage::Ordered) => Change::None,
        Some(Stage::Made) => Change::Made,
        Some(Stage::Published { sequence, revision, at }) => {
            published = Some((sequence, revision));
            Change::Published { sequence, at }
        }
        Some(Stage::Signing { since }) => Change::Signing { since },
    };
    let peers = state.peers().map(|peer| {
        let region = &peer.record.region;
        let held = federation.status(region).acknowledged;
        let sequence = published.filter(|(_, revision)| held >= *revision);
        (region.clone(), sequence.map_or(0, |(sequence, _)| sequence))
    });
    Some(Known {
        issuing,
        root: spans.max_by_key(|span| span.not_after)?,
        change,
        ordered: rotation.is_some(),
        acknowledged: peers.collect(),
    })
}

/// What is to be done.
pub(crate) fn step(known: &Known, now: Timestamp, pace: Pace) -> Step {
    rotate::decide(&Facts {
        now,
        issuing: known.issuing,
        root: known.root,
        ordered: known.ordered,
        change: known.change.clone(),
        acknowledged: &known.acknowledged,
        pace,
    })
}

/// The driver.
pub(crate) struct Rotator {
    home: Arc<dyn Home>,
    hub: Arc<Hub>,
    federation: Federation,
    disk: Disk,
    clock: Clock,
    pace: Pace,
    /// The authority comes from files: its root is the operator's own affair.
    is_foreign: bool,
    /// The last thing that was said, so that it is said once.
    said: Option<Step>,
}

impl Rotator {
    pub(crate) fn new(
        home: Arc<dyn Home>,
        hub: Arc<Hub>,
        federation: Federation,
        (disk, is_foreign): (Disk, bool),
        clock: Clock,
    ) -> Self {
        Self {
            home,
            hub,
            federation,
            disk,
            clock,
            pace: Pace::default(),
            is_foreign,
            said: None,
        }
    }

    /// Watches over a node's part in the region's authority.
    pub(crate) fn start(parts: &Parts) {
        let (hub, federation) = (Arc::clone(&parts.hub), parts.federation.clone());
        let disk = (Disk::new(&parts.config.data_dir), parts.config.authority.is_some());
        let rotator = Self::new(parts.home(), hub, federation, disk, parts.clock());
        let run = rotator.run(parts.tasks.stop().clone());
        parts.tasks.spawn("rotation", OnExit::StopProcess, run);
    }

    /// For tests that cannot wait for months.
    #[cfg(test)]
    pub(crate) fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Runs until the stop.
    pub(crate) async fn run(mut self, stop: Stop) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.ordered() => return,
                _ = tick.tick() => {}
            }
            tokio::select! {
                () = stop.ordered() => return,
                done = self.turn() => if let Err(error) = done {
                    warn!(%error, "the region's authority was not renewed; trying again");
                },
            }
        }
    }

    /// Takes the next step, if this node leads and one is due.
    pub(crate) async fn turn(&mut self) -> Result<(), Error> {
        let state = self.hub.state();
        self.adopt(&state)?;
        let Some(known) = facts(&state, &self.federation).filter(|_| self.home.is_leader()) else {
            return Ok(());
        };
        let next = step(&known, self.clock.wall(), self.pace);
        if self.said.as_ref() != Some(&next) {
            info!(step = ?next, "authority");
        }
        let is_new = self.said.replace(next.clone()).as_ref() != Some(&next);
        match next {
            Step::Wait { .. } | Step::WaitFor(_) => Ok(()),
            Step::RenewIssuing => self.renew_issuing(&state, is_new).await,
            Step::MakeRoot => self.make_root(&state, &known, is_new).await,
            Step::Publish => self.take(RotateStep::Publish).await,
            Step::SignWithNew => self.take(RotateStep::Sign).await,
            Step::Withdraw => self.take(RotateStep::Withdraw).await,
        }
    }

    async fn renew_issuing(&self, state: &State, is_new: bool) -> Result<(), Error> {
        let (Some(region), Some(domain)) = (state.region(), state.trust_domain()) else {
            return Ok(());
        };
        let Some(pem) = self.disk.root().filter(|_| !self.is_foreign) else {
            if is_new {
                warn!("the issuing certificate is due and its root's key is not on this node; run: isthmus ca rotate");
            }
            return Ok(());
        };
        let root = Root::from_pem(&pem, region, domain)?;
        let is_anchor = state
            .own_bundle()
            .is_some_and(|bundle| bundle.anchors().any(|der| der == *root.certificate()));
        if is_anchor {
            self.propose(Command::PutAuthority(root.issuing(self.clock.wall())?.record()))
                .await?;
        }
        Ok(())
    }

    async fn make_root(&self, state: &State, known: &Known, is_new: bool) -> Result<(), Error> {
        let (Some(region), Some(domain)) = (state.region(), state.trust_domain()) else {
            return Ok(());
        };
        if self.is_foreign {
            if is_new {
                warn!("the root comes from files and ends soon: make a new one, and a new region with it");
            }
            return Ok(());
        }
        if !known.ordered {
            self.take(RotateStep::Order).await?;
        }
        let now = self.clock.wall();
        let root = Root::create(region, domain, now)?;
        let authority = root.issuing(now)?.record();
        let path = self.disk.write_next_root(&root.to_pem())?;
        let anchor = root.certificate().to_vec();
        self.take(RotateStep::Make(NextRoot { anchor, authority })).await?;
        info!(path = %path.display(), "a new root was made; take its key away from this machine when the change is done");
        Ok(())
    }

    /// A new root that is the only one by now.
    fn adopt(&self, state: &State) -> Result<(), Error> {
        let (None, Some(pem)) = (state.rotation(), self.disk.next_root()) else {
            return Ok(());
        };
        let (Some(region), Some(domain), Some(bundle)) = (state.region(), state.trust_domain(), state.own_bundle())
        else {
            return Ok(());
        };
        let root = Root::from_pem(&pem, region, domain)?;
        if bundle.anchors().all(|der| der == *root.certificate()) {
            let path = self.disk.adopt_root(&pem)?;
            info!(path = %path.display(), "the new root is the only one; take its key away from this machine");
        }
        Ok(())
    }

    async fn take(&self, step: RotateStep) -> Result<(), Error> {
        self.propose(Command::Rotate(Box::new(step))).await
    }

    async fn propose(&self, command: Command) -> Result<(), Error> {
        match self.home.propose(command).await? {
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }
}
