//! The other nodes as this one calls them, and when each was last heard. Promises that a request names the group and both
//! nodes; waits for as long as its caller lets it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mesh::runtime::clock;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{sync::watch, time::Instant};

use super::{
    Node,
    state_machine::Applied,
    transport::{Failed, Method, Target, Transport},
    type_config::{Membership, any, decode, encode},
    wire::{Answer, Envelope},
};

/// Why a peer did not answer.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// It has not seen the request.
    #[error("node {id} at {address} is not reachable: {reason}")]
    NotSent { id: u64, address: String, reason: String },
    /// It may have acted on the request.
    #[error("node {id} at {address} did not answer: {reason}")]
    Lost { id: u64, address: String, reason: String },
    /// It answered that this node is no member.
    #[error("node {id} says that this node was removed from the region")]
    Removed { id: u64 },
}

/// Who is called how.
pub(crate) struct Peers {
    me: u64,
    transport: Arc<dyn Transport>,
    applied: Applied,
    begun: Instant,
    /// Guards the table only; never held over a wait.
    table: Mutex<BTreeMap<u64, Arc<Peer>>>,
    belonging: Belonging,
    removed: watch::Sender<bool>,
}

/// Whether this node was a member at any time of this life. A new node applies memberships of the time before it was added
/// while it catches up: that it is missing from those, and from later ones that others know, says nothing.
struct Belonging {
    me: u64,
    is_known: AtomicBool,
}

impl Belonging {
    /// Whether it is a member, or was one before.
    fn is_known(&self, applied: &Membership) -> bool {
        if applied.membership().get_node(&self.me).is_some() {
            self.is_known.store(true, Ordering::Relaxed);
        }
        self.is_known.load(Ordering::Relaxed)
    }

    /// The newest membership against which others may say that this node was removed.
    fn members_at(&self, applied: &Membership) -> Option<u64> {
        let newest = applied.log_id().map(|log_id| log_id.index);
        newest.filter(|_| self.is_known(applied))
    }
}

/// One of them.
pub(crate) struct Peer {
    id: u64,
    address: String,
    /// When it last answered, in milliseconds since the start plus one; zero = never.
    heard: AtomicU64,
}

impl Peers {
    pub(crate) fn new(me: u64, transport: Arc<dyn Transport>, applied: Applied) -> Self {
        Self {
            me,
            transport,
            applied,
            begun: clock::now(),
            table: Mutex::default(),
            belonging: Belonging {
                me,
                is_known: AtomicBool::new(false),
            },
            removed: watch::Sender::new(false),
        }
    }

    /// The peer at its newest address.
    pub(crate) fn peer(&self, id: u64, node: &Node) -> Arc<Peer> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = table.get(&id).filter(|peer| peer.address == node.raft_address) {
            return Arc::clone(peer);
        }
        let peer = Arc::new(Peer {
            id,
            address: node.raft_address.clone(),
            heard: AtomicU64::new(0),
        });
        table.insert(id, Arc::clone(&peer));
        peer
    }

    /// Forgets whoever is no member.
    pub(crate) fn retain(&self, keep: impl Fn(u64) -> bool) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|id, _| keep(*id));
        drop(table);
        self.transport.retain(&keep);
    }

    /// How long ago a peer last answered.
    pub(crate) fn heard(&self, id: u64) -> Option<Duration> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let at = table.get(&id)?.heard.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.begun.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    /// Whether this node is a member by a membership that is applied here, or was one before in this life.
    pub(crate) fn belongs(&self, applied: &Membership) -> bool {
        self.belonging.is_known(applied)
    }

    /// Becomes true when a peer proved that this node was removed.
    pub(crate) fn removed(&self) -> &watch::Sender<bool> {
        &self.removed
    }

    /// Calls a method of a peer's Raft service. Give it a timeout.
    pub(crate) async fn call<Q, A>(&self, peer: &Peer, method: Method, body: &Q) -> Result<A, CallError>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
    {
        let request = self.request(peer, body)?;
        let to = Target {
            id: peer.id,
            address: &peer.address,
        };
        let called = self.transport.call(to, method, request).await;
        let reply = called.map_err(|failed| match failed {
            Failed::NotSent(reason) => peer.not_sent(reason),
            Failed::Lost(reason) => peer.lost(reason),
        })?;
        let at = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        peer.heard.store(at + 1, Ordering::Relaxed);
        let decoded = decode("answer", &reply);
        match decoded.map_err(|error| peer.lost(any(&error).to_string()))? {
            Answer::Body(body) => Ok(body),
            Answer::Removed => {
                self.removed.send_replace(true);
                Err(CallError::Removed { id: peer.id })
            }
        }
    }

    fn request<Q: Serialize>(&self, peer: &Peer, body: &Q) -> Result<Bytes, CallError> {
        let local = self.applied.load();
        let envelope = Envelope {
            group: local.state.incarnation(),
            from: self.me,
            to: peer.id,
            members_at: self.belonging.members_at(&local.membership),
            body,
        };
        let bytes = encode("request", &envelope).map_err(|error| peer.not_sent(any(&error).to_string()))?;
        Ok(bytes.into())
    }
}

impl Peer {
    fn not_sent(&self, reason: String) -> CallError {
        CallError::NotSent {
            id: self.id,
            address: self.address.clone(),
            reason,
        }
    }

    fn lost(&self, reason: String) -> CallError {
        CallError::Lost {
            id: self.id,
            address: self.address.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::type_config::LogId;

    fn membership(index: u64, members: &[u64]) -> Membership {
        let nodes: BTreeMap<u64, Node> = members.iter().map(|id| (*id, Node::default())).collect();
        let voters = members.iter().copied().collect();
        let at = LogId::new(openraft::CommittedLeaderId::new(1, 1), index);
        Membership::new(Some(at), openraft::Membership::new(vec![voters], nodes))
    }

    #[test]
    fn a_node_that_catches_up_cannot_be_told_that_it_was_removed() {
        let belonging = Belonging {
            me: 4,
            is_known: AtomicBool::new(false),
        };
        assert_eq!(belonging.members_at(&Membership::default()), None);
        // Of the time before it was added: whoever has applied only a little more does not know it either.
        assert_eq!(belonging.members_at(&membership(10, &[1, 2, 3])), None);
        assert_eq!(belonging.members_at(&membership(20, &[1, 2, 3, 4])), Some(20));
        // It sees its own removal, and whoever knows a later membership may confirm it.
        assert_eq!(belonging.members_at(&membership(30, &[1, 2, 3])), Some(30));
    }
}
