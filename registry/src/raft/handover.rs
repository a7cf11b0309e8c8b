//! A leader that stops hands over first. Promises that writes wait for moments instead of an election, that nothing is
//! written by the old leader meanwhile, and that a failure costs no more than a stop without it.
//!
//! The heir stands for election at once. The other followers have heard the old leader a moment ago and refuse their vote,
//! as they should; the old leader's own vote and the heir's are a majority of three. In a group of five the heir stands
//! again when the others' patience is over, which is still sooner than the first of them would have stood.

use std::{sync::atomic::Ordering, time::Duration};

use mesh::runtime::clock;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Node,
    core::{Core, Lead},
    transport::Method,
    wire::{AskRef, Told},
};

/// From the first invitation: shorter than the election that it replaces would be worth nothing, longer delays the stop.
const HANDOVER_MAX: Duration = Duration::from_millis(1500);
/// Between two looks and two invitations.
const LOOK: Duration = Duration::from_millis(5);
const INVITE_EVERY: Duration = Duration::from_millis(300);

impl Core {
    /// Makes another voter lead, if this node does. False: it did not lead, or nobody took over in time.
    pub(crate) async fn hand_over(&self) -> bool {
        if !matches!(self.lead(), Lead::Me) || !self.has_live_voters() {
            return false;
        }
        // A leader that was elected a moment ago refuses its own vote, and an heir that stands too early only disturbs.
        while self.led_for() <= self.settings.election_max + INVITE_EVERY {
            tokio::time::sleep(LOOK * 10).await;
            if !matches!(self.lead(), Lead::Me) {
                return false;
            }
        }
        let begun = clock::now();
        // From here on proposals and reads wait for the next leader.
        self.leaving.store(true, Ordering::Release);
        let until = begun + HANDOVER_MAX;
        let done = self.settle_heir(until).await;
        self.leaving.store(false, Ordering::Release);
        if done {
            info!(node = self.id(), took = ?begun.elapsed(), "leadership handed over");
        } else {
            warn!(node = self.id(), waited = ?begun.elapsed(), "nobody took over the leadership in time; an election follows");
        }
        done
    }

    async fn settle_heir(&self, until: Instant) -> bool {
        let mut invited: Option<Instant> = None;
        while clock::now() < until {
            let other = self.metrics.borrow().current_leader;
            if other.is_some_and(|leader| leader != self.id()) {
                return true;
            }
            if invited.is_none_or(|at| at.elapsed() >= INVITE_EVERY)
                && let Some((id, node)) = self.heir()
            {
                invited = Some(clock::now());
                self.invite(id, &node, until).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    fn has_live_voters(&self) -> bool {
        let metrics = self.metrics.borrow();
        let mut voters = metrics.membership_config.voter_ids();
        voters.any(|id| id != self.id() && self.is_live(id))
    }

    /// A voter that has all of the log and answered just now.
    fn heir(&self) -> Option<(u64, Node)> {
        let metrics = self.metrics.borrow();
        let last = metrics.last_log_index;
        let matched = metrics.replication.as_ref()?;
        let mut voters = metrics.membership_config.voter_ids();
        let id = voters.find(|id| {
            let has_all = matched.get(id).is_some_and(|at| at.map(|log_id| log_id.index) == last);
            *id != self.id() && has_all && self.is_live(*id)
        })?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some((id, node.clone()))
    }

    async fn invite(&self, id: u64, node: &Node, until: Instant) {
        let peer = self.peers.peer(id, node);
        let call = self.peers.call(&peer, Method::Propose, &AskRef::Elect);
        match tokio::time::timeout_at(until, call).await {
            Ok(Ok(Told::Standing)) => {}
            // An older program does not know the invitation; the next look may find another heir.
            other => info!(heir = id, ?other, "heir does not stand for election"),
        }
    }
}
