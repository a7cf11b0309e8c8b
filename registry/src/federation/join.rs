//! Joining: the region that holds a token calls the one that gave it out, and both become peers of each other.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use mesh::{
    identity::{BundleError, Expect, Role, Secret, Token, TokenError},
    model::{ImportPolicy, RegionId, Revision, Timestamp},
    net::grpc::{Credentials, DialError, Timeouts, connect_any},
};
use proto::federation::v1::{AcceptRequest, federation_client::FederationClient};
use thiserror::Error;

use super::{
    Shared,
    export::{self, Card},
};
use crate::{
    catalog::{Batch, Command, PeerRecord, Reply, State},
    raft::propose,
};

const TIMEOUTS: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    call: Some(Duration::from_secs(15)),
};

/// Why two regions did not become peers.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The token is no good.
    #[error("token cannot be used")]
    Token(#[from] TokenError),
    /// The token's anchors are no good.
    #[error("token carries a bad anchor")]
    Anchors(#[from] BundleError),
    /// This region cannot have that peer.
    #[error("{0}")]
    Refused(String),
    /// The other region does not answer.
    #[error("region {region} is not reachable")]
    Unreachable {
        /// Whose token.
        region: RegionId,
        /// Why not.
        #[source]
        source: DialError,
    },
    /// The other region said no.
    #[error("region {region} refused: {reason}")]
    Denied {
        /// Whose token.
        region: RegionId,
        /// What it said.
        reason: String,
        /// Whether trying again may help.
        retry: bool,
    },
    /// Another region answered.
    #[error("token is of region {wanted} in {domain}, {got} answered")]
    Impostor {
        /// Whose token.
        wanted: RegionId,
        /// Its trust domain.
        domain: String,
        /// Who answered.
        got: String,
    },
    /// The peering was not committed here, while the other region holds it already: joining again with a new token mends it.
    #[error("peering was accepted by region {region} and could not be committed here")]
    Commit {
        /// Whose token.
        region: RegionId,
        /// Why not.
        #[source]
        source: propose::Error,
    },
}

/// The secret of a token as it travels.
pub(super) fn secret(text: &str) -> Option<Secret> {
    Secret::from_bytes(&BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

/// A peer's record; what is taken from it stays as it was.
pub(super) fn record(state: &State, card: Card) -> PeerRecord {
    let known = state.peer(&card.region);
    PeerRecord {
        import: known.map_or(ImportPolicy::All, |peer| peer.record.import.clone()),
        region: card.region,
        bundle: card.bundle,
        addresses: card.addresses,
        incarnation: card.incarnation,
    }
}

/// Tries the peering on a copy of the catalogue; gives the reason when it would be refused.
pub(super) fn rehearse(state: &State, record: &PeerRecord, now: Timestamp) -> Result<(), String> {
    let batch = Batch {
        at: now,
        commands: vec![Command::PutPeer(record.clone())],
    };
    match state.clone().apply(Revision(0), &batch).replies.pop() {
        Some(Reply::Refused(refusal)) => Err(refusal.to_string()),
        _ => Ok(()),
    }
}

pub(super) async fn join(shared: &Arc<Shared>, token: &Token) -> Result<RegionId, JoinError> {
    let now = shared.clock.wall();
    token.check_time(now)?;
    let bootstrap = token.bootstrap()?;
    let region = token.region.clone();
    let state = shared.hub.state();
    let own = export::card(&state, shared.home.addresses());
    let own = own.ok_or_else(|| JoinError::Refused("this region is not initialised yet".into()))?;
    // Names that collide are refused before the token is spent.
    let bundle = mesh::identity::Bundle::new(token.trust_domain.clone(), region.clone(), 0, token.anchors.clone())?;
    let stranger = Card {
        region: region.clone(),
        bundle,
        addresses: token.addresses.clone(),
        incarnation: mesh::model::Incarnation(0),
    };
    rehearse(&state, &record(&state, stranger), now).map_err(JoinError::Refused)?;
    let expect = Expect::System(Role::Registry, token.trust_domain.clone());
    let credentials = Credentials::from(bootstrap);
    let channel = connect_any(&token.addresses, &credentials, &expect, TIMEOUTS).await;
    let channel = channel.map_err(|source| JoinError::Unreachable {
        region: region.clone(),
        source,
    })?;
    let request = AcceptRequest {
        secret: BASE64_URL_SAFE_NO_PAD.encode(token.secret.as_bytes()),
        card: Some(own.into()),
    };
    let reply = FederationClient::new(channel).accept(request).await;
    let reply = reply.map_err(|status| JoinError::Denied {
        region: region.clone(),
        reason: status.message().to_owned(),
        retry: matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded),
    })?;
    let card = reply.into_inner().card.map(Card::try_from).transpose();
    let card = card.map_err(|error| JoinError::Denied {
        region: region.clone(),
        reason: format!("its answer is malformed: {error}"),
        retry: false,
    })?;
    let card = card.filter(|card| card.region == region && *card.bundle.trust_domain() == token.trust_domain);
    let card = card.ok_or_else(|| JoinError::Impostor {
        wanted: region.clone(),
        domain: token.trust_domain.to_string(),
        got: "another region".into(),
    })?;
    let command = Command::PutPeer(record(&shared.hub.state(), card));
    match shared.home.propose(command).await {
        Ok(Reply::Refused(refusal)) => Err(JoinError::Refused(refusal.to_string())),
        Ok(_) => Ok(region),
        Err(source) => Err(JoinError::Commit { region, source }),
    }
}
