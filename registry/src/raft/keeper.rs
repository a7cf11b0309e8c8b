//! Watches over one replica: tells who leads, looks at the room on the disk, and ends the process when Raft has failed or
//! this node was removed, instead of serving half alive.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use mesh::{
    model::NodeId,
    ops::Metrics,
    runtime::{Stop, clock},
};
use metrics::Gauge;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{core::Core, membership::JOIN_MAX};
use crate::catalog::LEVEL;

/// A removed node ends after this: the answer that it was removed may have to leave first. Much longer than a leader takes to
/// call a node that it has added again.
pub(super) const FAREWELL: Duration = Duration::from_secs(3);
/// How often the room on the disk is looked at and the gauges are set.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Longer than an election, shorter than an operator's patience.
const QUORUM_SILENCE: Duration = Duration::from_secs(5);
/// Follows Raft's own state: who leads, whether it failed, whether this node still belongs to the group.
pub(crate) struct Keeper {
    core: Arc<Core>,
    is_leader: Gauge,
    term: Gauge,
    applied: Gauge,
    free: Gauge,
    reserve: Gauge,
    has_quorum: Gauge,
    nodes: Gauge,
    unreachable: Gauge,
    log_bytes: Gauge,
    log_files: Gauge,
    was_short: bool,
    /// When this node was told that it was removed.
    told: Option<Instant>,
}

impl Keeper {
    pub(crate) fn new(core: Arc<Core>, metrics: &Metrics) -> Self {
        Self {
            core,
            is_leader: metrics.gauge("isthmus_raft_is_leader", "1 on the leader", &[]),
            term: metrics.gauge("isthmus_raft_term", "the term of the group", &[]),
            applied: metrics.gauge("isthmus_raft_applied_revision", "the newest revision applied here", &[]),
            free: metrics.gauge("isthmus_raft_disk_free_bytes", "room left for the data directory", &[]),
            reserve: metrics.gauge(
                "isthmus_raft_disk_reserve_bytes",
                "writes are refused while less is free",
                &[],
            ),
            has_quorum: metrics.gauge(
                "isthmus_raft_has_quorum",
                "1 while a leader that a majority answers was heard in the last seconds",
                &[],
            ),
            nodes: metrics.gauge("isthmus_raft_nodes", "nodes of the region's group", &[]),
            unreachable: metrics.gauge(
                "isthmus_raft_nodes_unreachable",
                "nodes that do not answer this one; only the leader knows of all",
                &[],
            ),
            log_bytes: metrics.gauge("isthmus_raft_log_bytes", "the log on disk", &[]),
            log_files: metrics.gauge("isthmus_raft_log_files", "files of the log", &[]),
            was_short: false,
            told: None,
        }
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        let mut metrics = self.core.metrics.clone();
        let mut removed = self.core.peers.removed().subscribe();
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let go_on = tokio::select! {
                () = stop.ordered() => false,
                changed = metrics.changed() => changed.is_ok() && self.follow(),
                _ = async { removed.wait_for(|removed| *removed).await.is_ok() }, if self.told.is_none() => {
                    self.take_leave()
                }
                _ = look.tick() => {
                    self.look();
                    self.keep_room().await;
                    self.stays() && self.trim().await
                }
            };
            if !go_on {
                break;
            }
        }
        // An error means that it has ended already.
        let _ = self.core.raft.shutdown().await;
        self.core.log_lane.close().await;
        self.core.disk.close().await;
    }

    /// This node was told that it was removed. It goes on for a while: it may be added again, and may vote then.
    fn take_leave(&mut self) -> bool {
        if self.joins() {
            warn!(
                node = self.core.id(),
                "this node was given up while it joined; it waits to be added again"
            );
        } else {
            error!(
                node = self.core.id(),
                "this node was removed from the region; it stops. Its data directory can be deleted"
            );
        }
        self.core.is_called.store(false, Ordering::Relaxed);
        // The next term that it stands for would end the leader that adds it.
        self.core.raft.runtime_config().elect(false);
        self.told = Some(clock::now());
        true
    }

    /// False = this node was removed, and its time is over.
    fn stays(&mut self) -> bool {
        let Some(told) = self.told else { return true };
        // Leaders call their members only. What others say proves less: one that is behind does not know yet who was added.
        if self.core.is_called.load(Ordering::Relaxed) && self.is_member() {
            info!(node = self.core.id(), "this node was added again; it goes on");
            self.core.raft.runtime_config().elect(true);
            self.core.peers.removed().send_replace(false);
            self.told = None;
            return true;
        }
        if !self.joins() {
            return told.elapsed() < FAREWELL;
        }
        let is_over = told.elapsed() >= JOIN_MAX;
        if is_over {
            error!(
                node = self.core.id(),
                "this node was not added again; it stops. It needs a new token and an empty data directory"
            );
        }
        !is_over
    }

    fn is_member(&self) -> bool {
        let metrics = self.core.metrics.borrow();
        metrics
            .membership_config
            .membership()
            .get_node(&self.core.id())
            .is_some()
    }

    /// Whether this node is a member that does not vote yet, as far as it knows.
    fn joins(&self) -> bool {
        self.is_member() && !self.core.votes()
    }

    /// False = Raft has failed.
    fn follow(&self) -> bool {
        let metrics = self.core.metrics.borrow().clone();
        if let Err(fatal) = &metrics.running_state {
            error!(
                node = self.core.id(),
                error = %fatal,
                "raft has failed; this node stops. Nothing that was acknowledged is lost: mend the cause (a full disk needs room) \
                 and start it again"
            );
            return false;
        }
        let leader = metrics.current_leader.map(NodeId);
        let id = self.core.id();
        self.core.leader.send_if_modified(|known| {
            let changed = *known != leader;
            if changed {
                *self.core.leader_since.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
                info!(node = id, term = metrics.current_term, leader = ?leader, "leader changed");
            }
            *known = leader;
            changed
        });
        let local = self.core.applied.load();
        if local.state.level() > LEVEL {
            error!(
                node = self.core.id(),
                level = local.state.level(),
                known = LEVEL,
                "this program is older than its region; it stops. Start one that is as new as the others'"
            );
            return false;
        }
        let members = local.membership.membership();
        if local.membership.log_id().is_some() {
            self.core
                .peers
                .retain(|peer| metrics.membership_config.membership().get_node(&peer).is_some());
            let is_newest = metrics.membership_config.log_id() == local.membership.log_id();
            // A learner that catches up applies memberships of the time before it was added.
            let belonged = self.core.peers.belongs(&local.membership);
            let was_member = belonged || metrics.vote.leader_id().voted_for() == Some(id);
            if is_newest && members.get_node(&id).is_none() && was_member {
                self.core.peers.removed().send_replace(true);
            }
        }
        true
    }

    /// Has room for the next writes taken ahead, so that a disk which others fill is noticed before a write fails.
    async fn keep_room(&self) {
        self.core.disk.keep_room().await;
        if !self.core.log.has_room() {
            // A lane that has ended has ended Raft too.
            let _ = self.core.log_lane.give(|log| log.keep_room()).await;
        }
    }

    /// Keeps the log within its bound: a snapshot once there is much behind the last one, then a purge. False = Raft has
    /// ended.
    async fn trim(&self) -> bool {
        let (log, bound) = (&self.core.log, self.core.settings.log_mib << 20);
        let (snapshot, purged, applied) = {
            let metrics = self.core.metrics.borrow();
            let index = |log_id: Option<super::type_config::LogId>| log_id.map_or(0, |log_id| log_id.index);
            (
                index(metrics.snapshot),
                index(metrics.purged),
                index(metrics.last_applied),
            )
        };
        let trigger = self.core.raft.trigger();
        let is_due = applied > snapshot && log.bytes_behind(snapshot) > bound / 2;
        if is_due && trigger.snapshot().await.is_err() {
            return false;
        }
        let upto = log.surplus(bound / 2).map(|upto| upto.min(snapshot));
        match upto.filter(|upto| *upto > purged) {
            Some(upto) => trigger.purge_log(upto).await.is_ok(),
            None => true,
        }
    }

    fn look(&mut self) {
        self.core.disk.look();
        let position = self.core.position();
        self.is_leader.set(f64::from(u8::from(position.is_leader)));
        self.term.set(position.term as f64);
        self.applied.set(position.revision.0 as f64);
        self.free.set((self.core.disk.free_mib() << 20) as f64);
        self.reserve.set((self.core.settings.disk_reserve_mib << 20) as f64);
        let age = position.leader.and(position.age);
        let has_quorum = age.is_some_and(|age| age < QUORUM_SILENCE);
        self.has_quorum.set(f64::from(u8::from(has_quorum)));
        let nodes = self.core.nodes();
        self.nodes.set(nodes.len() as f64);
        let unreachable = nodes.iter().filter(|node| node.reachable == Some(false)).count();
        self.unreachable.set(unreachable as f64);
        self.log_bytes.set(self.core.log.bytes() as f64);
        self.log_files.set(self.core.log.files() as f64);
        match self.core.room() {
            Err(full) if !self.was_short => warn!(%full, "writes are refused until there is room; reads go on"),
            Ok(()) if self.was_short => info!("there is room again; writes are taken"),
            _ => {}
        }
        self.was_short = self.core.room().is_err();
    }
}
