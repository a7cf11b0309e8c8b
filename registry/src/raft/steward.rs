//! What a leader does by itself for its group: takes out a member that is dead for good, and raises the feature level once
//! every node can read it. Promises to ask before it acts: everything goes through the same checks as an operator's order.

use std::{sync::Arc, time::Duration};

use mesh::runtime::{Stop, clock};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};

use super::{
    core::{Core, Lead},
    membership::{Change, Tried},
    propose::{Origin, PATIENCE, Proposal},
    replace::{self, Seen},
    transport::Method,
    wire::{AskRef, Told},
};
use crate::catalog::{Command, LEVEL};

/// How often it looks; a silence that is shorter does not count anyway.
const LOOK: Duration = Duration::from_secs(1);
/// For the answer of one node.
const ASK_MAX: Duration = Duration::from_secs(2);

/// The task of one node; idle while another one leads.
pub(crate) struct Steward {
    core: Arc<Core>,
    /// Since when this node leads: it has heard nobody before.
    leads_since: Option<Instant>,
    /// Nodes that did not know the newest level when they were last asked, to say so once.
    behind: Vec<u64>,
}

impl Steward {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            leads_since: None,
            behind: Vec::new(),
        }
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
            if !matches!(self.core.lead(), Lead::Me) {
                self.leads_since = None;
                continue;
            }
            let since = *self.leads_since.get_or_insert_with(clock::now);
            tokio::select! {
                biased;
                () = stop.ordered() => return,
                () = self.look(since) => {}
            }
        }
    }

    async fn look(&mut self, since: Instant) {
        self.replace(since).await;
        self.raise_level().await;
    }

    async fn replace(&self, since: Instant) {
        let after = self.core.settings.replace_after;
        if after.is_zero() {
            return;
        }
        let seen = self.seen(since.elapsed());
        let Some(id) = replace::due(&seen, after, self.core.settings.election_max) else {
            return;
        };
        info!(node = id, silent_for = ?after, "node is dead and replaced; removing it");
        match Box::pin(self.core.change(&Change::Remove { id })).await {
            Tried::Done(Ok(())) | Tried::NotLeader => {}
            Tried::Done(Err(error)) => warn!(node = id, %error, "dead node was not removed"),
        }
    }

    fn seen(&self, leads_for: Duration) -> Vec<Seen> {
        let metrics = self.core.metrics.borrow();
        let members = &metrics.membership_config;
        let voters: Vec<u64> = members.voter_ids().collect();
        let seen = |id: u64| {
            let silent = match self.core.peers.heard(id) {
                _ if id == self.core.id() => Duration::ZERO,
                Some(heard) => heard.min(leads_for),
                None => leads_for,
            };
            let voter = voters.contains(&id);
            Seen { id, voter, silent }
        };
        members.nodes().map(|(id, _)| seen(*id)).collect()
    }

    /// Proposes the newest level when all members say that they know it.
    async fn raise_level(&mut self) {
        let state = Arc::clone(&self.core.applied.load().state);
        if state.level() >= LEVEL || state.region().is_none() {
            return;
        }
        let behind = self.behind().await;
        if !behind.is_empty() {
            if self.behind != behind {
                info!(nodes = ?behind, level = LEVEL, "these nodes do not answer for the newest feature level yet; it is raised once all are upgraded");
            }
            self.behind = behind;
            return;
        }
        // Full: tried again with the next look.
        let Ok((proposal, committed)) = Proposal::new(Command::RaiseLevel(LEVEL), Origin::Follower, PATIENCE) else {
            return;
        };
        if self.core.proposals.offer(proposal).is_err() {
            return;
        }
        match committed.await {
            Ok(Ok(_)) => info!(
                level = LEVEL,
                "the region's feature level is raised; older programs are refused from now on"
            ),
            other => debug!(?other, "feature level was not raised yet"),
        }
    }

    /// Members whose program does not know the newest level, or that do not answer.
    async fn behind(&self) -> Vec<u64> {
        let members: Vec<_> = {
            let metrics = self.core.metrics.borrow();
            let nodes = metrics.membership_config.nodes();
            nodes.map(|(id, node)| (*id, node.clone())).collect()
        };
        let mut behind = Vec::new();
        for (id, node) in members {
            if id == self.core.id() {
                continue;
            }
            let peer = self.core.peers.peer(id, &node);
            let call = self.core.peers.call(&peer, Method::Propose, &AskRef::Level);
            match tokio::time::timeout(ASK_MAX, call).await {
                Ok(Ok(Told::Level(level))) if level >= LEVEL => {}
                // An older program does not know the question.
                _ => behind.push(id),
            }
        }
        behind
    }
}
