//! What peers call: the redemption of a peering token, and the stream.

use std::sync::Arc;

use mesh::{
    identity::{Role, Secret},
    model::RegionId,
    net::grpc::{Caller, MESSAGE_BYTES_MAX},
    runtime::OnExit,
};
use proto::federation::v1::{
    AcceptReply, AcceptRequest, PeerMessage,
    federation_server::{Federation, FederationServer},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use tracing::{info, warn};

use super::{
    Shared,
    dial::Incoming,
    export::{self, Card},
    join,
    session::{OUT_MAX, Session, chain},
};
use crate::{
    catalog::{Command, Grant, Reply, State},
    raft::propose,
};

/// Metadata of a refusal by a node that does not lead: the leader's federation address.
pub(super) const LEADER: &str = "isthmus-leader";

/// The gRPC service.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    pub(super) fn server(shared: Arc<Shared>) -> FederationServer<Self> {
        FederationServer::new(Self { shared })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn own_card(&self) -> Result<Card, Status> {
        let card = export::card(&self.shared.hub.state(), self.shared.home.addresses());
        card.ok_or_else(|| Status::unavailable("the region is not initialised yet"))
    }

    async fn commit(&self, command: Command) -> Result<Reply, Status> {
        match self.shared.home.propose(command).await {
            Ok(Reply::Refused(refusal)) => Err(Status::failed_precondition(refusal.to_string())),
            Ok(reply) => Ok(reply),
            Err(error) => Err(retry_later(&error)),
        }
    }
}

fn retry_later(error: &propose::Error) -> Status {
    Status::unavailable(error.to_string())
}

#[tonic::async_trait]
impl Federation for Service {
    async fn accept(&self, request: Request<AcceptRequest>) -> Result<Response<AcceptReply>, Status> {
        let request = request.into_inner();
        let own = self.own_card()?;
        let card = request
            .card
            .ok_or_else(|| Status::invalid_argument("card: is missing"))?;
        let card = Card::try_from(card).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let secret = join::secret(&request.secret).ok_or_else(|| Status::invalid_argument("secret: is malformed"))?;
        let record = join::record(&self.shared.hub.state(), card);
        // What would be refused must not use up the token.
        join::rehearse(&self.shared.hub.state(), &record, self.shared.clock.wall())
            .map_err(Status::failed_precondition)?;
        self.redeem(&secret, &record.region).await?;
        let region = record.region.clone();
        self.commit(Command::PutPeer(record)).await?;
        info!(peer = %region, "peering token redeemed");
        Ok(Response::new(AcceptReply { card: Some(own.into()) }))
    }

    type ExchangeStream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<PeerMessage, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<PeerMessage>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let caller = Caller::of(&request).cloned();
        let incoming = Box::pin(request.into_inner());
        let messages = accept(&self.shared, caller.as_ref(), incoming)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(messages).map(Ok))))
    }
}

/// Takes a stream that a peer dialled; gives what this side sends on it.
pub(super) fn accept(
    shared: &Arc<Shared>,
    caller: Option<&Caller>,
    incoming: Incoming,
) -> Result<mpsc::Receiver<PeerMessage>, Status> {
    let state = shared.hub.state();
    let own = state
        .region()
        .ok_or_else(|| Status::unavailable("the region is not initialised yet"))?;
    let peer = peer_of(caller, &state)?;
    if !shared.home.is_leader() {
        return Err(not_leader(shared));
    }
    let slot = shared.slots.of(&peer);
    let stop = shared.tasks.stop();
    let place = slot
        .enter(&peer, own, stop, shared.clock.wall())
        .ok_or_else(|| Status::already_exists("the stream that this region dialled stands"))?;
    let (out, messages) = mpsc::channel(OUT_MAX);
    let session = Session {
        shared: Arc::clone(shared),
        peer: peer.clone(),
        place,
    };
    shared.tasks.spawn("federation-stream", OnExit::Ignore, async move {
        let error = session.run(incoming, out).await;
        warn!(%peer, error = chain(&error), "stream that the peer dialled has ended");
    });
    Ok(messages)
}

fn not_leader(shared: &Shared) -> Status {
    let Some(address) = shared.home.leader_address() else {
        return Status::unavailable("the region has no leader at the moment");
    };
    let mut status = Status::failed_precondition(format!("this node does not lead; ask {address}"));
    // An address that is no header value is in the text at least.
    if let Ok(value) = MetadataValue::try_from(address) {
        status.metadata_mut().insert(LEADER, value);
    }
    status
}

impl Service {
    async fn redeem(&self, secret: &Secret, region: &RegionId) -> Result<(), Status> {
        let digest = secret.digest();
        let state = self.shared.hub.state();
        let is_other = |grant: &Grant| !matches!(grant, Grant::Peer { .. });
        // Another kind of token is not spent here.
        if state
            .tokens()
            .any(|token| token.digest == digest && is_other(&token.grant))
        {
            return Err(Status::permission_denied("the token is not for peering"));
        }
        let command = Command::RedeemToken {
            digest,
            region: Some(region.clone()),
        };
        match self.shared.home.propose(command).await {
            Ok(Reply::Granted(Grant::Peer { .. })) => Ok(()),
            Ok(Reply::Refused(refusal)) => Err(Status::permission_denied(refusal.to_string())),
            Ok(_) => Err(Status::permission_denied("the token is not for peering")),
            Err(error) => Err(retry_later(&error)),
        }
    }
}

/// Which peer calls: the registry of the trust domain of its certificate, and nobody else.
fn peer_of(caller: Option<&Caller>, state: &State) -> Result<RegionId, Status> {
    let id = caller.and_then(|caller| Some((caller, caller.id.as_ref()?)));
    let Some((caller, id)) = id else {
        return Err(Status::unauthenticated("show the certificate of a peer's registry"));
    };
    let domain = id.trust_domain();
    if caller.role(&domain) != Some(Role::Registry) {
        return Err(Status::permission_denied(format!("{id} is no registry")));
    }
    let mut peers = state.peers();
    let peer = peers.find(|peer| *peer.record.bundle.trust_domain() == domain);
    let peer = peer.ok_or_else(|| Status::permission_denied(format!("{domain} is not that of a peer")))?;
    Ok(peer.record.region.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{
        Command,
        testing::{World, peer},
    };

    #[test]
    fn only_a_peers_registry_opens_a_stream() {
        let mut world = World::new("eu");
        world.run(Command::PutPeer(peer("us")));
        let code = |id: Option<&str>| {
            let caller = Caller {
                id: id.map(|id| id.parse().unwrap()),
                address: ([127, 0, 0, 1], 1).into(),
            };
            peer_of(Some(&caller), &world.state).map_err(|status| status.code())
        };
        assert_eq!(code(None), Err(tonic::Code::Unauthenticated));
        for id in [
            "spiffe://us.test/ns/shop/sa/pay",
            "spiffe://us.test/ns/isthmus-system/sa/gateway",
            "spiffe://eu.test/ns/isthmus-system/sa/registry",
            "spiffe://ap.test/ns/isthmus-system/sa/registry",
        ] {
            assert_eq!(code(Some(id)), Err(tonic::Code::PermissionDenied), "{id}");
        }
        let registry = "spiffe://us.test/ns/isthmus-system/sa/registry";
        assert_eq!(code(Some(registry)), Ok("us".parse().unwrap()));
    }
}
