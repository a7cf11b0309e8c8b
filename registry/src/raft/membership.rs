//! Who belongs to the group: one change at a time, made by the leader. Promises that a node gets a vote only once it has
//! caught up, and that no change is begun that would leave the group without a majority that answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use mesh::{model::NodeId, runtime::clock};
use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;
use tracing::info;

use super::{
    Node, NodeStatus,
    core::{Core, Lead},
    propose,
};

/// For so long a node that was let in is added again when it was given up.
pub(crate) const JOIN_MAX: Duration = Duration::from_secs(180);
/// How long a new node may take to catch up: a large catalogue over a slow link, and longer than an operator waits gladly.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);
/// A new node that does not answer at all for so long died while it joined; it may have to start first.
const SILENT_MAX: Duration = Duration::from_secs(10);
/// Between two looks at a node that catches up.
const LOOK: Duration = Duration::from_millis(500);
/// So close to the end of the log a node counts as caught up: with one batch under way there is always something missing.
const LAG_MAX: u64 = 10;
/// For a change's own entries.
const COMMIT_MAX: Duration = Duration::from_secs(10);
/// All of a change, as a follower that passed it on waits for it.
pub(crate) const CHANGE_MAX: Duration = Duration::from_secs(90);

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// Adds a voter.
    Add { id: u64, node: Node },
    /// Removes a node.
    Remove { id: u64 },
}

/// Why the members were not changed.
#[derive(Clone, Debug, ThisError, PartialEq, Eq, Serialize, Deserialize)]
pub enum Error {
    /// The region exists already, or this node belongs to one.
    #[error("node {node} belongs to a region already; use an empty data directory for a new one")]
    Initialised {
        /// Which node.
        node: u64,
    },
    /// No such node.
    #[error("node {node} is no member; list the nodes to see the ids")]
    NotFound {
        /// Which node.
        node: u64,
    },
    /// The id or the address belongs to another member.
    #[error("{what} belongs to node {node} already; remove that node first")]
    InUse {
        /// Id or address.
        what: String,
        /// Whose it is.
        node: u64,
    },
    /// The last voter.
    #[error("node {node} is the region's last voter; removing it would end the region")]
    LastVoter {
        /// Which node.
        node: u64,
    },
    /// Too few voters would answer afterwards.
    #[error(
        "without node {node} only {live} of {voters} voters answer and {majority} are needed; bring {silent:?} back or \
         add a node first"
    )]
    QuorumLost {
        /// Whose removal.
        node: u64,
        /// Voters that answer.
        live: usize,
        /// Voters afterwards.
        voters: usize,
        /// How many of them make a quorum.
        majority: usize,
        /// Voters that do not answer.
        silent: Vec<u64>,
    },
    /// The new node stays without a vote and was taken out again.
    #[error("node {node} still lacks {lag} entries after {waited:?}; is it reachable at its Raft address?")]
    NotCaughtUp {
        /// Which node.
        node: u64,
        /// What it lacks.
        lag: u64,
        /// How long was waited.
        waited: Duration,
    },
    /// Another change is under way.
    #[error("another change of the members is under way; try again later")]
    Busy,
    /// It may have happened; look at the nodes before trying again.
    #[error("the change was not confirmed within {waited:?}; list the nodes before trying again")]
    Unknown {
        /// How long was waited.
        waited: Duration,
    },
    /// No leader, or this node does not serve.
    #[error(transparent)]
    Unavailable(#[from] propose::Error),
}

type Refused = RaftError<u64, ClientWriteError<u64, Node>>;

/// What came of one try on the leader.
pub(crate) enum Tried {
    Done(Result<(), Error>),
    /// Nothing was done: this node does not lead.
    NotLeader,
}

impl Core {
    /// Makes a change, if this node leads.
    pub(crate) async fn change(&self, change: &Change) -> Tried {
        if !matches!(self.lead(), Lead::Me) {
            return Tried::NotLeader;
        }
        let done = match change {
            Change::Add { id, node } => self.add(*id, node.clone()).await,
            Change::Remove { id } => self.remove(*id).await,
        };
        match done {
            Ok(()) => Tried::Done(Ok(())),
            Err(Fault::NotLeader) => Tried::NotLeader,
            Err(Fault::Error(error)) => Tried::Done(Err(error)),
        }
    }

    /// Learner first, then voter. Others may change the group while the new node catches up.
    async fn add(&self, id: u64, node: Node) -> Result<(), Fault> {
        if self.add_learner(id, node).await? {
            return Ok(()); // a repeated request
        }
        match self.caught_up(id).await {
            Err(Fault::Error(error)) => {
                self.give_up(id).await?;
                Err(error.into())
            }
            Err(fault) => Err(fault),
            Ok(()) => {
                let _one = self.turn().await?;
                let vote = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
                confirmed(self.raft.change_membership(vote, true)).await?;
                info!(node = id, "node votes now");
                Ok(())
            }
        }
    }

    /// Returns whether it votes already.
    async fn add_learner(&self, id: u64, node: Node) -> Result<bool, Fault> {
        let _one = self.turn().await?;
        let membership = self.metrics.borrow().membership_config.clone();
        let known: BTreeMap<u64, Node> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
        if membership.voter_ids().any(|voter| voter == id) && known.get(&id) == Some(&node) {
            return Ok(true);
        }
        for (other, taken) in &known {
            let what = if *other == id && *taken != node {
                format!("id {id}")
            } else if *other != id && taken.raft_address == node.raft_address {
                format!("address {}", node.raft_address)
            } else {
                continue;
            };
            return Err(Error::InUse { what, node: *other }.into());
        }
        info!(node = id, address = node.raft_address, "adding a node");
        confirmed(self.raft.add_learner(id, node, false)).await?;
        Ok(false)
    }

    /// A node that does not come is taken out again, unless another request has made it a voter meanwhile.
    async fn give_up(&self, id: u64) -> Result<(), Fault> {
        let _one = self.turn().await?;
        let members = self.metrics.borrow().membership_config.clone();
        if members.voter_ids().any(|voter| voter == id) || members.nodes().all(|(member, _)| *member != id) {
            return Ok(());
        }
        let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        confirmed(self.raft.change_membership(gone, false)).await
    }

    /// Changes take turns; each is a few round trips.
    async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Fault> {
        let turn = tokio::time::timeout(COMMIT_MAX, self.change.lock()).await;
        turn.map_err(|_| Error::Busy.into())
    }

    /// Waits until a learner lacks next to nothing. Gives up early on one that does not answer at all: it died.
    async fn caught_up(&self, id: u64) -> Result<(), Fault> {
        let (begun, mut metrics) = (clock::now(), self.metrics.clone());
        loop {
            if !matches!(self.lead(), Lead::Me) {
                return Err(Fault::NotLeader);
            }
            let lacks = lag(&metrics.borrow_and_update(), id);
            // One that never answered may lack little of a short log, and must not get a vote.
            let answers = has_answered(&metrics.borrow(), id) && self.is_live(id);
            if answers && lacks.is_some_and(|lag| lag <= LAG_MAX) {
                return Ok(());
            }
            let waited = begun.elapsed();
            let silent = self.peers.heard(id).map_or(waited, |heard| heard.min(waited));
            if waited >= CATCH_UP_MAX || silent >= SILENT_MAX {
                let lag = lacks.unwrap_or_else(|| metrics.borrow().last_log_index.unwrap_or(0));
                return Err(Error::NotCaughtUp { node: id, lag, waited }.into());
            }
            tokio::select! {
                changed = metrics.changed() => {
                    if changed.is_err() {
                        // What it showed last stays, also that this node leads: Raft has ended.
                        return Err(Error::Unavailable(propose::Error::Stopped).into());
                    }
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn remove(&self, id: u64) -> Result<(), Fault> {
        let _one = self.turn().await?;
        let membership = self.metrics.borrow().membership_config.clone();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let is_member = membership.nodes().any(|(member, _)| *member == id);
        if !is_member {
            return Err(Error::NotFound { node: id }.into());
        }
        if voters.contains(&id) {
            check_quorum(id, &voters, |voter| self.is_live(voter))?;
            info!(node = id, "removing a voter");
            let gone = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
            // Not retained: it is no learner afterwards either.
            confirmed(self.raft.change_membership(gone, false)).await?;
        } else {
            info!(node = id, "removing a node without a vote");
            let gone = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
            confirmed(self.raft.change_membership(gone, false)).await?;
        }
        Ok(())
    }

    /// Whether a node answers; as the leader sees it.
    pub(crate) fn is_live(&self, id: u64) -> bool {
        let heard = self.peers.heard(id);
        id == self.id() || heard.is_some_and(|heard| heard <= self.settings.election_max)
    }

    /// All members.
    pub(crate) fn nodes(&self) -> Vec<NodeStatus> {
        let metrics = self.metrics.borrow().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.voter_ids().collect();
        let leads = matches!(self.lead(), Lead::Me);
        let status = |(id, node): (&u64, &Node)| {
            let (me, leader) = (*id == self.id(), metrics.current_leader == Some(*id));
            let heard_leader = || self.fresh_within(self.settings.election_max);
            NodeStatus {
                id: NodeId(*id),
                node: node.clone(),
                voter: voters.contains(id),
                leader,
                lag: match (leads, me) {
                    (true, true) => Some(0),
                    (true, false) => lag(&metrics, *id),
                    (false, _) => None,
                },
                reachable: match (leads, me, leader) {
                    (true, ..) => Some(self.is_live(*id)),
                    (false, true, _) => Some(true),
                    (false, false, true) => Some(heard_leader()),
                    (false, false, false) => None,
                },
            }
        };
        metrics.membership_config.nodes().map(status).collect()
    }

    fn fresh_within(&self, limit: Duration) -> bool {
        self.position().age.is_some_and(|age| age <= limit)
    }
}

/// What a node lacks, as the leader sees it.
fn lag(metrics: &openraft::RaftMetrics<u64, Node>, id: u64) -> Option<u64> {
    let matched = metrics
        .replication
        .as_ref()?
        .get(&id)?
        .map_or(0, |log_id| log_id.index + 1);
    Some((metrics.last_log_index.unwrap_or(0) + 1).saturating_sub(matched))
}

/// Whether a node has taken any entry at all.
fn has_answered(metrics: &openraft::RaftMetrics<u64, Node>, id: u64) -> bool {
    let replication = metrics.replication.as_ref();
    replication.is_some_and(|nodes| nodes.get(&id).is_some_and(Option::is_some))
}

/// Refuses a removal after which too few voters answer. Pure.
fn check_quorum(id: u64, voters: &BTreeSet<u64>, is_live: impl Fn(u64) -> bool) -> Result<(), Error> {
    let left: Vec<u64> = voters.iter().copied().filter(|voter| *voter != id).collect();
    if left.is_empty() {
        return Err(Error::LastVoter { node: id });
    }
    let (live, silent): (Vec<u64>, Vec<u64>) = left.iter().partition(|voter| is_live(**voter));
    let majority = left.len() / 2 + 1;
    if live.len() < majority {
        return Err(Error::QuorumLost {
            node: id,
            live: live.len(),
            voters: left.len(),
            majority,
            silent,
        });
    }
    Ok(())
}

/// Why a step did not happen.
enum Fault {
    NotLeader,
    Error(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Waits for a change's entries to be committed.
async fn confirmed<T: Debug>(step: impl Future<Output = Result<T, Refused>>) -> Result<(), Fault> {
    let begun = clock::now();
    let Ok(done) = tokio::time::timeout(COMMIT_MAX, step).await else {
        return Err(Error::Unknown {
            waited: begun.elapsed(),
        }
        .into());
    };
    match done {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(Fault::NotLeader),
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(Fault::Error(match error {
            ChangeMembershipError::InProgress(_) => Error::Busy,
            ChangeMembershipError::EmptyMembership(_) => Error::LastVoter { node: 0 },
            ChangeMembershipError::LearnerNotFound(missing) => Error::NotFound { node: missing.node_id },
        })),
        Err(RaftError::Fatal(_)) => Err(Error::Unavailable(propose::Error::Stopped).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_needs_a_majority_that_answers_afterwards() {
        for (voters, silent, removed, good) in [
            (vec![1], vec![], 1, false),
            (vec![1, 2], vec![], 2, true),
            (vec![1, 2], vec![2], 2, true),
            (vec![1, 2, 3], vec![], 3, true),
            (vec![1, 2, 3], vec![3], 3, true),
            (vec![1, 2, 3], vec![3], 2, false),
            (vec![1, 2, 3, 4, 5], vec![4, 5], 5, true),
            (vec![1, 2, 3, 4, 5], vec![4, 5], 3, false),
        ] {
            let set: BTreeSet<u64> = voters.iter().copied().collect();
            let checked = check_quorum(removed, &set, |voter| !silent.contains(&voter));
            assert_eq!(
                checked.is_ok(),
                good,
                "{voters:?} without {removed}, silent {silent:?}: {checked:?}"
            );
        }
    }
}
