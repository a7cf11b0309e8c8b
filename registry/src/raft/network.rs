//! Raft's messages to the other nodes, as openraft sends them.

use std::{sync::Arc, time::Duration};

use openraft::{
    RaftNetwork, RaftNetworkFactory,
    error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
        VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Node,
    log::ahead::Ahead,
    peers::{CallError, Peer, Peers},
    transport::Method,
    type_config::TypeConfig,
};

/// Between attempts to reach a node that does not answer: soon enough to notice its restart, with jitter, because the
/// followers of a lost leader all look for it.
const UNREACHABLE_WAIT: Duration = Duration::from_millis(200);

/// What part of a call's time it may wait for the own disk.
const FLUSH_SHARE: u32 = 4;

/// Makes links.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
    pub(crate) ahead: Arc<Ahead>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        Link {
            peers: Arc::clone(&self.peers),
            ahead: Arc::clone(&self.ahead),
            peer: self.peers.peer(target, node),
            target,
        }
    }
}

/// To one node.
pub(crate) struct Link {
    peers: Arc<Peers>,
    ahead: Arc<Ahead>,
    peer: Arc<Peer>,
    target: u64,
}

type Refused<E> = RPCError<u64, Node, RaftError<u64, E>>;

impl Link {
    async fn call<Q, A, E>(&self, method: Method, body: &Q, timeout: Duration) -> Result<A, Refused<E>>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let call = self
            .peers
            .call::<Q, Result<A, RaftError<u64, E>>>(&self.peer, method, body);
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(RPCError::RemoteError(RemoteError::new(self.target, error))),
            // With the wait of `backoff`; the other kinds are tried again at once.
            Ok(Err(error @ (CallError::NotSent { .. } | CallError::Removed { .. }))) => {
                Err(RPCError::Unreachable(Unreachable::new(&error)))
            }
            Ok(Err(error @ CallError::Lost { .. })) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(elapsed) => Err(RPCError::Network(NetworkError::new(&elapsed))),
        }
    }
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Refused<openraft::error::Infallible>> {
        if let Some(committed) = rpc.leader_commit {
            // Nearly always it is durable by now. A slow disk must not keep the heartbeat back, though.
            let patience = option.hard_ttl() / FLUSH_SHARE;
            let _ = tokio::time::timeout(patience, self.ahead.reach(committed)).await;
            rpc.leader_commit = self.ahead.bound(Some(committed));
        }
        self.call(Method::Append, &rpc, option.hard_ttl()).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Refused<InstallSnapshotError>> {
        self.call(Method::Install, &rpc, option.hard_ttl()).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Refused<openraft::error::Infallible>> {
        self.call(Method::Vote, &rpc, option.hard_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat_with(|| {
            UNREACHABLE_WAIT.mul_f64(0.5 + fastrand::f64())
        }))
    }
}
