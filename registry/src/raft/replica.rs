//! One node's part in the region's Raft group: what the rest of the registry holds. Opens the disk, starts Raft and the
//! tasks around it, and ends the process when Raft has failed or this node was removed, instead of serving half alive.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use mesh::{
    identity::{Identity, Role},
    model::{NodeId, Revision},
    ops::Metrics,
    runtime::{Backoff, Clock, OnExit, Tasks, clock, queue},
};
use openraft::error::{InitializeError, RaftError};
use proto::raft::v1::raft_server::RaftServer;
use thiserror::Error as ThisError;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::Status;

use super::{
    Admit, Channels, Inside, Method, Node, NodeStatus, Position, Seams, Service, Settings,
    core::{Core, Fresh, Lead},
    disk::Disk,
    keeper::Keeper,
    log::{Limits, LogStore},
    membership::{self, CHANGE_MAX, Change, Tried},
    network::Network,
    owner::{FORMAT, check_owner},
    peers::{CallError, Peers},
    propose::{self, Batcher, Committed, Origin, PATIENCE, Proposal, QUEUE_MAX},
    read::{Checker, READERS_MAX, Reader},
    snapshot::{self, Shelf, SnapshotError},
    state_machine::{StateMachine, header},
    steward::Steward,
    storage::Storage,
    type_config::{Raft, StorageError, any},
    wire::{AskRef, Failure, Told},
};
use crate::{
    catalog::{Command, State},
    watch::Publish,
};

/// Why a replica cannot be opened.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A file or folder.
    #[error("{} is not usable; check its owner, its mode and the disk", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database.
    #[error("database in {} cannot be opened ({reason}); does another process use it? if it is damaged, remove this node and add a new one", path.display())]
    Database {
        /// Where.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// Written by a newer program.
    #[error("{} has data format {found}, this program knows {FORMAT}; use the newer program that wrote it", path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// Written by an older program, from before anything was released.
    #[error(
        "{} has data format {found}, this program knows {FORMAT} and does not read older ones; save a snapshot with the old \
         program and restore it, or remove this node and add it anew with an empty data directory",
        path.display()
    )]
    OldFormat {
        /// Where.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// Another node's folder.
    #[error("{} belongs to node {found}, not to node {wanted}; each node has its own", path.display())]
    OtherNode {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Who was to open it.
        wanted: u64,
    },
    /// There is data already.
    #[error("{} is not empty; a restore needs an empty folder", path.display())]
    NotEmpty {
        /// Where.
        path: PathBuf,
    },
    /// What is on disk cannot be read.
    #[error("log or catalogue in {} cannot be read: {reason}", path.display())]
    Storage {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Raft refused its settings.
    #[error("raft cannot start: {0}")]
    Raft(String),
}

/// One node's replica; clones are the same.
#[derive(Clone)]
pub struct Replica {
    core: Arc<Core>,
    removed: watch::Receiver<bool>,
    tasks: Tasks,
}

impl Replica {
    /// Opens the data directory and starts. Until the node is initialised or added to a region it waits as an empty
    /// follower. It ends with the tasks' stop; a failure of its storage, or its removal, orders that stop.
    ///
    /// # Errors
    /// Names what is wrong with the data directory.
    pub async fn open(
        settings: Settings,
        identity: Identity,
        publish: Arc<dyn Publish>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let transport = Arc::new(Channels::new(identity, tasks.clone()));
        let seams = Seams {
            storage: Storage::directory(settings.data_dir.clone()),
            transport,
            clock: Clock::system(),
        };
        Self::open_on(seams, settings, publish, metrics, tasks).await
    }

    /// As [`Replica::open`], on any storage, with any way to the other nodes, by any clock.
    ///
    /// # Errors
    /// As [`Replica::open`].
    pub async fn open_on(
        seams: Seams,
        settings: Settings,
        publish: Arc<dyn Publish>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let id = settings.node_id.0;
        let path = settings.data_dir.clone();
        let io = |source| Error::Io {
            path: path.clone(),
            source,
        };
        let storage = |reason: String| Error::Storage {
            path: path.clone(),
            reason,
        };
        seams.storage.files.make_folder("").map_err(io)?;
        let disk = Disk::open(seams.storage, metrics, tasks).await;
        let disk = disk.map_err(|error| Error::Database {
            path: path.clone(),
            reason: any(&error).to_string(),
        })?;
        if let Err(error) = check_owner(&disk, &settings).await {
            disk.close().await; // whoever may open it does not find it locked
            return Err(error);
        }
        let shelf = Shelf::open(Arc::clone(&disk.files)).map_err(io)?;
        let failed = |error: StorageError| storage(error.to_string());
        let machine = StateMachine::open(disk.clone(), shelf, publish).await;
        let (mut machine, applied) = machine.map_err(failed)?;
        let snapshot = machine.snapshot_last().await.map_err(failed)?;
        let limits = Limits::within(settings.log_mib << 20);
        let log = LogStore::open(id, disk.clone(), Some(applied.clone()), snapshot, limits, tasks).await;
        let log = log.map_err(failed)?;
        if snapshot > log.last() {
            machine.adopt_snapshot().await.map_err(failed)?;
        }
        let (shape, log_lane) = (log.shape(), log.lane());
        let peers = Arc::new(Peers::new(id, seams.transport, applied.clone()));
        let config = settings.consensus().map_err(Error::Raft)?;
        let network = Network {
            peers: Arc::clone(&peers),
            ahead: disk.ahead(),
        };
        let raft = Raft::new(id, config, network, log, machine).await;
        let raft = raft.map_err(|error| storage(error.to_string()))?;
        let (proposals, proposal_queue) = queue::bounded(metrics, "propose", QUEUE_MAX);
        let (reads, read_queue) = queue::bounded(metrics, "read", READERS_MAX);
        let removed = peers.removed().subscribe();
        let core = Arc::new(Core {
            metrics: raft.metrics(),
            settings,
            clock: seams.clock,
            raft,
            disk,
            log: shape,
            log_lane,
            applied,
            peers,
            proposals,
            reads,
            leader: watch::Sender::new(None),
            fresh: Fresh::default(),
            is_called: AtomicBool::default(),
            change: tokio::sync::Mutex::default(),
            leaving: AtomicBool::default(),
            leader_since: Mutex::new(clock::now()),
        });
        let stop = || tasks.stop().clone();
        let batcher = Batcher::new(Arc::clone(&core), proposal_queue, metrics);
        tasks.spawn("raft-propose", OnExit::StopProcess, batcher.run(stop()));
        let checker = Checker::new(Arc::clone(&core), read_queue, metrics);
        tasks.spawn("raft-read", OnExit::StopProcess, checker.run(stop()));
        let steward = Steward::new(Arc::clone(&core));
        tasks.spawn("raft-steward", OnExit::StopProcess, steward.run(stop()));
        let keeper = Keeper::new(Arc::clone(&core), metrics);
        tasks.spawn("raft", OnExit::StopProcess, keeper.run(stop()));
        Ok(Self {
            core,
            removed,
            tasks: tasks.clone(),
        })
    }

    /// The gRPC service for the other nodes; serve it where clients need no certificate, because `Join` comes without.
    #[must_use]
    pub fn service(&self, identity: Identity, admit: Arc<dyn Admit>) -> RaftServer<Service> {
        Service::server(Arc::clone(&self.core), identity, admit)
    }

    /// Answers what another node's [`Transport`] was given. `role` is the caller's, as its certificate says.
    ///
    /// # Errors
    /// What is refused before anything is done: a stranger, a request for another node or another life of the region.
    pub async fn answer(&self, method: Method, role: Option<Role>, request: &[u8]) -> Result<Bytes, Status> {
        self.core.answer(method, role, request).await
    }

    /// Commits a command, on whichever node leads.
    ///
    /// # Errors
    /// Each variant says whether anything can have been changed.
    pub async fn propose(&self, command: Command) -> Result<Committed, propose::Error> {
        if *self.removed.borrow() {
            return Err(propose::Error::Removed);
        }
        let (needs, level) = (command.level(), self.core.applied.load().state.level());
        if needs > level {
            return Err(propose::Error::Level { needs, level });
        }
        let (proposal, answer) = Proposal::new(command, Origin::Here, PATIENCE)?;
        self.core.proposals.offer(proposal).map_err(|refused| match refused {
            queue::Refused::Full => propose::Error::Full { bound: QUEUE_MAX },
            queue::Refused::Closed => propose::Error::Stopped,
        })?;
        let begun = clock::now();
        match self.settle(answer).await {
            // It had been taken from here: whether it was written nobody says any more.
            Err(propose::Error::Stopped) => Err(propose::Error::Unknown {
                waited: begun.elapsed(),
            }),
            settled => settled,
        }
    }

    /// Confirms that what this node has applied by the end of the call is as new as any answer given before it began;
    /// then read [`Replica::state`].
    ///
    /// # Errors
    /// When no leader with a majority confirms it.
    pub async fn linearize(&self) -> Result<Revision, propose::Error> {
        if *self.removed.borrow() {
            return Err(propose::Error::Removed);
        }
        let (reply, answer) = oneshot::channel();
        let origin = Origin::Here;
        let offered = self.core.reads.offer(Reader { origin, reply });
        offered.map_err(|refused| match refused {
            queue::Refused::Full => propose::Error::Full { bound: READERS_MAX },
            queue::Refused::Closed => propose::Error::Stopped,
        })?;
        self.settle(answer).await
    }

    async fn settle<T>(&self, answer: oneshot::Receiver<Result<T, Failure>>) -> Result<T, propose::Error> {
        match answer.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Failure::Error(error))) => Err(error),
            // Only what came from a follower is answered so; said as what it would mean.
            Ok(Err(Failure::NotLeader)) => Err(propose::Error::NoLeader {
                waited: PATIENCE,
                majority: self.core.majority(),
            }),
            Err(_) => Err(propose::Error::Stopped),
        }
    }

    /// What this node has applied.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.core.applied.load().state)
    }

    /// Where this node stands.
    #[must_use]
    pub fn position(&self) -> Position {
        self.core.position()
    }

    /// The node's wall clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.core.clock.clone()
    }

    /// How Raft stands here.
    #[must_use]
    pub fn inside(&self) -> Inside {
        let metrics = self.core.metrics.borrow();
        let leader = metrics.vote.leader_id();
        Inside {
            vote: (leader.term, leader.node_id, metrics.vote.is_committed()),
            leads: metrics.state.is_leader(),
            last: metrics.last_log_index,
            applied: metrics
                .last_applied
                .map(|last| (last.leader_id.term, last.leader_id.node_id, last.index)),
            purged: metrics.purged.map(|last| last.index),
            snapshot: metrics.snapshot.map(|last| last.index),
        }
    }

    /// Who leads, whenever that changes.
    #[must_use]
    pub fn leader_changed(&self) -> watch::Receiver<Option<NodeId>> {
        self.core.leader()
    }

    /// Whether this node has a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        self.core.votes()
    }

    /// Before an ordered stop: makes another voter lead, if this node does, so that writes wait for moments instead of an
    /// election. Takes three seconds at most with the default timers; false when nobody took it.
    pub async fn hand_over(&self) -> bool {
        self.core.hand_over().await
    }

    /// All members of the group.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.core.nodes()
    }

    /// Whether this node belongs to a group, or did when it stopped.
    ///
    /// # Errors
    /// [`propose::Error::Stopped`].
    pub async fn is_initialised(&self) -> Result<bool, propose::Error> {
        let initialised = self.core.raft.is_initialized().await;
        initialised.map_err(|_| propose::Error::Stopped)
    }

    /// Makes a new group of which this node is the only voter.
    ///
    /// # Errors
    /// [`membership::Error::Initialised`] when it belongs to one already.
    pub async fn initialise(&self, node: Node) -> Result<(), membership::Error> {
        let id = self.core.id();
        let initialised = self.core.raft.initialize(BTreeMap::from([(id, node)])).await;
        initialised.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_)) => {
                membership::Error::Initialised { node: id }
            }
            RaftError::Fatal(_) => membership::Error::Unavailable(propose::Error::Stopped),
        })
    }

    /// Adds a node that runs with an empty data directory: it catches up first, then it votes. Repeating is harmless.
    ///
    /// # Errors
    /// Says what stands in the way; see each variant.
    pub async fn add_node(&self, id: NodeId, node: Node) -> Result<(), membership::Error> {
        self.change(Change::Add { id: id.0, node }).await
    }

    /// Removes a node, dead or alive; it stops by itself when it learns of it. Refused when too few voters would answer.
    ///
    /// # Errors
    /// Says what stands in the way; see each variant.
    pub async fn remove_node(&self, id: NodeId) -> Result<(), membership::Error> {
        self.change(Change::Remove { id: id.0 }).await
    }

    async fn change(&self, change: Change) -> Result<(), membership::Error> {
        let begun = clock::now();
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(300));
        loop {
            let tried = match self.core.lead() {
                Lead::Me => Box::pin(self.core.change(&change)).await,
                Lead::Other(id, node) => self.pass_on(id, &node, &change).await,
                Lead::Nobody => Tried::NotLeader,
            };
            if let Tried::Done(done) = tried {
                return done;
            }
            if self.core.metrics.has_changed().is_err() {
                // Raft has ended: there is no leader to wait for.
                return Err(propose::Error::Stopped.into());
            }
            if begun.elapsed() > PATIENCE {
                let (waited, majority) = (begun.elapsed(), self.core.majority());
                return Err(propose::Error::NoLeader { waited, majority }.into());
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn pass_on(&self, id: u64, node: &Node, change: &Change) -> Tried {
        let peer = self.core.peers.peer(id, node);
        let ask = AskRef::Change(change);
        let call = self.core.peers.call(&peer, Method::Propose, &ask);
        match tokio::time::timeout(CHANGE_MAX, call).await {
            Ok(Ok(Told::Changed(done))) => Tried::Done(done),
            Ok(Ok(Told::NotLeader) | Err(CallError::NotSent { .. })) => Tried::NotLeader,
            Ok(Err(CallError::Removed { .. })) => Tried::Done(Err(propose::Error::Removed.into())),
            Ok(Ok(Told::Proposed(_) | Told::Standing | Told::Level(_)) | Err(CallError::Lost { .. })) | Err(_) => {
                let waited = CHANGE_MAX;
                Tried::Done(Err(membership::Error::Unknown { waited }))
            }
        }
    }

    /// Returns once this node was removed from the region; the process is told to stop a moment later.
    pub async fn removed(&self) {
        let mut removed = self.removed.clone();
        if removed.wait_for(|removed| *removed).await.is_err() {
            std::future::pending::<()>().await; // stopped otherwise, which others notice
        }
    }

    /// The catalogue at one revision as a snapshot's bytes, in parts, while writes go on. A snapshot that lacks its end is
    /// refused by [`super::restore`].
    #[must_use]
    pub fn snapshot(&self) -> mpsc::Receiver<Bytes> {
        let (parts, receiver) = mpsc::channel(4);
        let local = self.core.applied.load();
        let header = header(&local.state, local.last, local.at, &local.membership);
        let state = Arc::clone(&local.state);
        // It ends when the receiver does.
        self.tasks.spawn("snapshot-save", OnExit::Ignore, async move {
            for part in snapshot::Parts::new(&header, &state) {
                // Neither can happen later: the receiver left, or the header cannot be encoded.
                let Ok(part) = part else { return };
                if parts.send(part.into()).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

#[cfg(test)]
impl Replica {
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// As if so much were free; none = as it is.
    pub(crate) fn pretend_room(&self, free_mib: Option<u64>) {
        self.core.disk.pretend(free_mib);
    }
}
