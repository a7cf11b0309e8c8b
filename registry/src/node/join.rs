//! Joins a region: a new node shows its token to any node, and gets a certificate, an id and, once it runs, membership.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh::{
    identity::{Expect, KeyRequest, Role, Token, TokenKind},
    model::NodeId,
    net::grpc::{self, Credentials, Timeouts},
    runtime::{Backoff, clock},
};
use proto::raft::v1::{JoinReply, JoinRequest, raft_client::RaftClient};
use tracing::{info, warn};

use super::{
    Error,
    disk::{Card, Disk},
};
use crate::{catalog::LEVEL, config::Config};

/// How long a new node tries to reach a node of its region: the others may be starting, too.
const REACH_WAIT: Duration = Duration::from_secs(60);
/// An answer takes two commits.
const CALL_WAIT: Duration = Duration::from_secs(20);

/// Makes this node a member of the token's region. Writes everything that `start` needs.
pub(crate) async fn join(config: &Config, token: &str) -> Result<Card, Error> {
    let disk = Disk::new(&config.data_dir);
    disk.prepare()?;
    let token = Token::decode(token, TokenKind::Node)?;
    token.check_time(clock::wall())?;
    if token.region != config.region {
        return Err(Error::TokenRegion {
            token: token.region,
            wanted: config.region.clone(),
        });
    }
    let key = KeyRequest::generate()?;
    let request = JoinRequest {
        secret: URL_SAFE_NO_PAD.encode(token.secret.as_bytes()),
        csr: key.der().to_vec().into(),
        raft_address: config.advertise.raft.clone(),
        api_address: config.advertise.api.clone(),
        federation_address: config.advertise.federation.clone(),
        zone: config.node.zone.to_string(),
        level: LEVEL,
    };
    let reply = ask(&token, request).await?;
    let refuse = |text: &str| Error::JoinRefused(text.to_owned());
    if reply.region != config.region.as_str() || reply.node_id == 0 {
        return Err(refuse(
            "its answer names another region or no node; is the token from there?",
        ));
    }
    let svid = key.complete(reply.chain.iter().map(|der| der.to_vec()).collect())?;
    let anchors: Vec<_> = reply.anchors.iter().map(|der| der.to_vec()).collect();
    let card = Card::new(
        config.region.clone(),
        token.trust_domain,
        NodeId(reply.node_id),
        &anchors,
    );
    if card.bundle().is_none() {
        return Err(refuse("its anchors are no CA certificates"));
    }
    svid.save(&disk.identity())?;
    disk.write_card(&card)?;
    info!(node = reply.node_id, region = %config.region, "joined");
    Ok(card)
}

/// Tries all addresses until one answers. A token is not shown twice unless the connection itself failed.
async fn ask(token: &Token, request: JoinRequest) -> Result<JoinReply, Error> {
    let credentials = Credentials::from(token.bootstrap()?);
    let expect = Expect::System(Role::Registry, token.trust_domain.clone());
    let timeouts = Timeouts {
        call: Some(CALL_WAIT),
        ..Timeouts::default()
    };
    let began = clock::now();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let channel = loop {
        let source = match grpc::connect_any(&token.addresses, &credentials, &expect, timeouts).await {
            Ok(channel) => break channel,
            Err(source) => source,
        };
        let waited = clock::now().saturating_duration_since(began);
        if waited >= REACH_WAIT {
            return Err(Error::Unreachable {
                waited,
                source: Box::new(source),
            });
        }
        warn!(error = %source, "no node of the region answers yet");
        tokio::time::sleep(backoff.next_wait()).await;
    };
    match RaftClient::new(channel).join(request).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(Error::JoinRefused(status.message().to_owned())),
    }
}
