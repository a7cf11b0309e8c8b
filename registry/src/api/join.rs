//! `isthmus.raft.v1.Raft.Join`: lets a new node in that shows a node token. The answer comes first and membership after it:
//! the new node can only be reached once it has its certificate and runs.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use mesh::{
    model::{NodeId, WireError, Zone},
    runtime::{Backoff, OnExit, clock},
};
use proto::raft::v1::{JoinReply, JoinRequest};
use tonic::Status;
use tracing::{info, warn};

use super::{
    Error,
    certificate::{self, secret_digest},
    outward::field,
};
use crate::{
    app::Parts,
    authority::attest::{self, Proof},
    catalog::{Command, Grant, Reply},
    raft::{Admit, Node, membership::JOIN_MAX},
};

const ADDRESS_BYTES_MAX: usize = 261;

/// Lets nodes in.
pub(crate) struct Joins(pub(crate) Arc<Parts>);

impl Admit for Joins {
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinReply, Status>> {
        async move {
            let reply = self.admit(request).await;
            if let Err(error) = &reply {
                warn!(%error, "node was not let in");
            }
            Ok(reply?)
        }
        .boxed()
    }
}

impl Joins {
    async fn admit(&self, request: JoinRequest) -> Result<JoinReply, Error> {
        let node = described(&request)?;
        let region = self.0.replica.state().level();
        if request.level.max(1) < region {
            let level = request.level.max(1);
            return Err(Error::OldProgram { level, region });
        }
        let digest = secret_digest(&request.secret)?;
        certificate::check_known(&self.0, &digest, |grant| matches!(grant, Grant::Node)).await?;
        let committed = self.0.propose(Command::RedeemToken { digest, region: None }).await?;
        let Reply::Granted(grant) = committed.reply else {
            return Err(Error::Unexpected);
        };
        let warrant = attest::decide(Proof::Token(&grant), &self.0.trust_domain)?;
        let Reply::Node(id) = self.0.propose(Command::AllocateNode).await?.reply else {
            return Err(Error::Unexpected);
        };
        let state = self.0.replica.state();
        let lifetime = self.0.config.certificates.lifetime;
        let (chain, _) = certificate::issue(&state, &request.csr, &warrant.id, lifetime, clock::wall())?;
        let anchors = state.own_bundle().ok_or(Error::Empty)?.anchors();
        let reply = JoinReply {
            node_id: id.0,
            chain: chain.into_iter().map(Into::into).collect(),
            anchors: anchors.map(|der| der.to_vec().into()).collect(),
            region: self.0.config.region.to_string(),
            trust_domain: self.0.trust_domain.to_string(),
        };
        info!(node = %id, address = node.raft_address, "node was let in; waiting for it to run");
        let add = add(Arc::clone(&self.0), id, node);
        self.0.tasks.spawn("add-node", OnExit::Ignore, add);
        Ok(reply)
    }
}

fn described(request: &JoinRequest) -> Result<Node, Error> {
    for (name, address) in [
        ("raft_address", &request.raft_address),
        ("api_address", &request.api_address),
        ("federation_address", &request.federation_address),
    ] {
        if address.is_empty() || address.len() > ADDRESS_BYTES_MAX || !address.contains(':') {
            return Err(WireError::new(name, "is not host:port").into());
        }
    }
    let zone: Zone = field("zone", request.zone.parse())?;
    Ok(Node {
        raft_address: request.raft_address.clone(),
        api_address: request.api_address.clone(),
        federation_address: request.federation_address.clone(),
        zone: zone.to_string(),
    })
}

/// Makes the node a member as soon as it answers. Membership changes one at a time, so that others may come first.
async fn add(parts: Arc<Parts>, id: NodeId, node: Node) {
    let began = clock::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let stop = parts.tasks.stop().clone();
    loop {
        let error = tokio::select! {
            () = stop.ordered() => return,
            added = parts.replica.add_node(id, node.clone()) => match added {
                Ok(()) => {
                    info!(node = %id, "node is a member");
                    return;
                }
                Err(error) => error,
            },
        };
        if clock::now().saturating_duration_since(began) >= JOIN_MAX {
            warn!(node = %id, address = node.raft_address, %error, "node did not come; it needs a new token and an empty data_dir");
            return;
        }
        info!(node = %id, %error, "node is not a member yet");
        tokio::time::sleep(backoff.next_wait()).await;
    }
}
