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
use proto::raft::v1::{Payload, raft_client::RaftClient};
use serde::{Serialize, de::DeserializeOwned};
use tonic::{Response, Status, transport::Channel};

use super::{
    Node,
    peers::{CallError, Peer, Peers},
    type_config::TypeConfig,
};

/// Between attempts to reach a node that does not answer: soon enough to notice its restart, with jitter, because the
/// followers of a lost leader all look for it.
const UNREACHABLE_WAIT: Duration = Duration::from_millis(200);

/// Makes links.
pub(crate) struct Network(pub(crate) Arc<Peers>);

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        Link {
            peers: Arc::clone(&self.0),
            peer: self.0.peer(target, node),
            target,
        }
    }
}

/// To one node.
pub(crate) struct Link {
    peers: Arc<Peers>,
    peer: Arc<Peer>,
    target: u64,
}

type Refused<E> = RPCError<u64, Node, RaftError<u64, E>>;

impl Link {
    async fn call<Q, A, E, F>(
        &self,
        body: &Q,
        timeout: Duration,
        method: impl FnOnce(RaftClient<Channel>, Payload) -> F + Send,
    ) -> Result<A, Refused<E>>
    where
        Q: Serialize + Sync,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
        F: Future<Output = Result<Response<Payload>, Status>> + Send,
    {
        let call = self
            .peers
            .call::<Q, Result<A, RaftError<u64, E>>, F>(&self.peer, body, method);
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
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Refused<openraft::error::Infallible>> {
        let method = |mut client: RaftClient<Channel>, payload| async move { client.append_entries(payload).await };
        self.call(&rpc, option.hard_ttl(), method).await
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Refused<InstallSnapshotError>> {
        let method = |mut client: RaftClient<Channel>, payload| async move { client.install_snapshot(payload).await };
        self.call(&rpc, option.hard_ttl(), method).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Refused<openraft::error::Infallible>> {
        let method = |mut client: RaftClient<Channel>, payload| async move { client.vote(payload).await };
        self.call(&rpc, option.hard_ttl(), method).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat_with(|| {
            UNREACHABLE_WAIT.mul_f64(0.5 + fastrand::f64())
        }))
    }
}
