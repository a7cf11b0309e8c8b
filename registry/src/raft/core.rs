//! What the parts of a replica share: the running Raft, who leads, and what is applied.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::{
    model::{NodeId, Revision},
    runtime::{Clock, clock, queue},
};
use openraft::RaftMetrics;
use tokio::{sync::watch, time::Instant};

use super::{
    Node, Position, Settings,
    disk::{Disk, Lane},
    log::{Log, Shape},
    peers::Peers,
    propose::{self, Proposal},
    read::Reader,
    state_machine::Applied,
    type_config::Raft,
};

/// Shared by everything that a replica runs.
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) raft: Raft,
    pub(crate) metrics: watch::Receiver<RaftMetrics<u64, Node>>,
    pub(crate) disk: Disk,
    /// The log's files.
    pub(crate) log: Arc<Shape>,
    pub(crate) log_lane: Lane<Log>,
    pub(crate) applied: Applied,
    pub(crate) peers: Arc<Peers>,
    pub(crate) proposals: queue::Sender<Proposal>,
    pub(crate) reads: queue::Sender<Reader>,
    pub(crate) leader: watch::Sender<Option<NodeId>>,
    pub(crate) fresh: Fresh,
    /// A leader has called this node since this was last set to false.
    pub(crate) is_called: AtomicBool,
    /// One change of the members at a time; not held while a new node catches up.
    pub(crate) change: tokio::sync::Mutex<()>,
    /// This node hands its leadership over and writes nothing more.
    pub(crate) leaving: AtomicBool,
    /// When the newest change of the leader was noticed. Guards one value.
    pub(crate) leader_since: Mutex<Instant>,
}

/// Who leads, as far as this node knows.
pub(crate) enum Lead {
    Me,
    Other(u64, Node),
    /// Nobody, or this node without a majority that answers.
    Nobody,
}

impl Core {
    pub(crate) fn id(&self) -> u64 {
        self.settings.node_id.0
    }

    pub(crate) fn lead(&self) -> Lead {
        let metrics = self.metrics.borrow();
        match metrics.current_leader {
            Some(leader) if leader == self.id() => {
                if !metrics.state.is_leader() || self.leaving.load(Ordering::Acquire) || self.is_cut_off(&metrics) {
                    return Lead::Nobody;
                }
                Lead::Me
            }
            Some(leader) => {
                let node = metrics.membership_config.membership().get_node(&leader);
                node.map_or(Lead::Nobody, |node| Lead::Other(leader, node.clone()))
            }
            None => Lead::Nobody,
        }
    }

    /// A leader that a majority has not answered for so long would only collect entries that another leader drops.
    fn is_cut_off(&self, metrics: &RaftMetrics<u64, Node>) -> bool {
        let silent = metrics.millis_since_quorum_ack.map(Duration::from_millis);
        silent.is_some_and(|silent| silent > self.settings.election_max * 2)
    }

    /// Returns when a node other than `id` leads.
    pub(crate) async fn led_by_another(&self, id: u64) {
        let mut metrics = self.metrics.clone();
        let other = |metrics: &RaftMetrics<u64, Node>| metrics.current_leader.is_some_and(|leader| leader != id);
        if metrics.wait_for(other).await.is_err() {
            // Raft has ended; the stop that follows ends the waiting.
            std::future::pending::<()>().await;
        }
    }

    /// For how long the leader has been the same.
    pub(crate) fn led_for(&self) -> Duration {
        self.leader_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }

    /// Whether this node has a vote, as far as it knows.
    pub(crate) fn votes(&self) -> bool {
        let id = self.id();
        self.metrics
            .borrow()
            .membership_config
            .voter_ids()
            .any(|voter| voter == id)
    }

    pub(crate) fn leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.subscribe()
    }

    pub(crate) fn term(&self) -> u64 {
        self.metrics.borrow().current_term
    }

    /// How many voters make a quorum.
    pub(crate) fn majority(&self) -> usize {
        self.metrics.borrow().membership_config.voter_ids().count() / 2 + 1
    }

    /// Whether the disk may be written to.
    pub(crate) fn room(&self) -> Result<(), propose::Error> {
        let (free_mib, reserve_mib) = (self.disk.free_mib(), self.settings.disk_reserve_mib);
        let free_mib = if self.log.has_room() { free_mib } else { 0 };
        if free_mib >= reserve_mib {
            return Ok(());
        }
        Err(propose::Error::DiskFull {
            node: self.id(),
            free_mib,
            reserve_mib,
        })
    }

    pub(crate) fn position(&self) -> Position {
        let revision = self.applied.load().revision();
        let metrics = self.metrics.borrow();
        let is_leader = metrics.current_leader == Some(self.id()) && metrics.state.is_leader();
        let age = if is_leader {
            let alone = metrics.membership_config.voter_ids().count() == 1;
            let quorum = metrics.millis_since_quorum_ack.map(Duration::from_millis);
            quorum.or(alone.then_some(Duration::ZERO))
        } else {
            self.fresh.age(revision)
        };
        Position {
            revision,
            age,
            is_leader,
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
        }
    }
}

/// How fresh a follower is: when it last had applied what its leader had committed.
#[derive(Default)]
pub(crate) struct Fresh {
    /// Guards three values.
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    /// The leader's word that is not applied yet: heard when, committed up to where.
    open: Option<(Instant, Revision)>,
    at: Option<Instant>,
}

impl Fresh {
    /// The leader said how far it has committed.
    pub(crate) fn heard(&self, committed: Revision, applied: Revision) {
        let now = clock::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.settle(applied);
        if committed <= applied {
            seen.at = Some(now);
        } else if seen.open.is_none() {
            seen.open = Some((now, committed));
        }
    }

    fn age(&self, applied: Revision) -> Option<Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.settle(applied);
        seen.at.map(|at| at.elapsed())
    }
}

impl Seen {
    fn settle(&mut self, applied: Revision) {
        if let Some((at, _)) = self.open.filter(|(_, committed)| *committed <= applied) {
            self.at = self.at.max(Some(at));
            self.open = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn age_counts_from_the_last_word_that_was_applied() {
        let fresh = Fresh::default();
        assert_eq!(fresh.age(Revision(0)), None, "never heard");
        fresh.heard(Revision(5), Revision(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(fresh.age(Revision(3)), None, "behind");
        fresh.heard(Revision(9), Revision(3));
        assert_eq!(
            fresh.age(Revision(5)),
            Some(Duration::from_secs(1)),
            "the first word is applied"
        );
        fresh.heard(Revision(9), Revision(9));
        assert_eq!(fresh.age(Revision(9)), Some(Duration::ZERO));
    }
}
