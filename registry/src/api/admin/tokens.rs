//! Tokens: the secret goes to the caller once, its digest into the catalogue.

use std::time::Duration;

use mesh::{
    identity::{Secret, Token, TokenKind},
    model::{Namespace, ServiceAccount, WireError},
    runtime::clock,
};
use proto::admin::v1 as pb;

use super::Admin;
use crate::{
    api::{Error, outward::field},
    authority::attest::{self, Proof},
    catalog::{Command, Grant, TokenRecord},
    raft::Node,
};

/// A token that nobody limited is good for an hour.
const TTL_DEFAULT: Duration = Duration::from_secs(3600);
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const USES_MAX: u32 = 100_000;

impl Admin {
    pub(crate) async fn create_token(&self, request: pb::CreateTokenRequest) -> Result<pb::Token, Error> {
        let namespace: Namespace = field("namespace", request.namespace.parse())?;
        let service_account: ServiceAccount = field("service_account", request.service_account.parse())?;
        if request.uses > USES_MAX {
            return Err(WireError::new("uses", format!("{} is over {USES_MAX}", request.uses)).into());
        }
        let grant = Grant::Workload {
            namespace,
            service_account,
        };
        // What could not be redeemed is not given out.
        attest::decide(Proof::Token(&grant), &self.parts.trust_domain)?;
        let uses = request.uses.max(1);
        self.give(TokenKind::Workload, grant, request.ttl_seconds, uses, |node| {
            &node.api_address
        })
        .await
    }

    pub(crate) async fn create_peer_token(&self, request: pb::CreatePeerTokenRequest) -> Result<pb::Token, Error> {
        let for_region = match request.for_region.as_str() {
            "" => None,
            text => Some(field("for_region", text.parse())?),
        };
        if for_region.as_ref() == Some(&self.parts.config.region) {
            return Err(WireError::new("for_region", "is this region; name the other one").into());
        }
        let grant = Grant::Peer { for_region };
        self.give(TokenKind::Peer, grant, request.ttl_seconds, 1, |node| {
            &node.federation_address
        })
        .await
    }

    pub(crate) async fn create_node_token(&self, request: pb::CreateNodeTokenRequest) -> Result<pb::Token, Error> {
        self.give(TokenKind::Node, Grant::Node, request.ttl_seconds, 1, |node| {
            &node.raft_address
        })
        .await
    }

    async fn give(
        &self,
        kind: TokenKind,
        grant: Grant,
        ttl_seconds: u64,
        uses: u32,
        address: impl Fn(&Node) -> &String,
    ) -> Result<pb::Token, Error> {
        let ttl = match ttl_seconds {
            0 => TTL_DEFAULT,
            seconds => Duration::from_secs(seconds),
        };
        if ttl > TTL_MAX {
            return Err(WireError::new("ttl_seconds", format!("is over {} (30 days)", TTL_MAX.as_secs())).into());
        }
        let parts = &self.parts;
        let state = parts.replica.state();
        let bundle = state.own_bundle().ok_or(Error::Empty)?;
        let secret = Secret::generate().map_err(|fault| Error::Authority(fault.to_string()))?;
        let expires_at = clock::wall().plus(ttl);
        let record = TokenRecord {
            digest: secret.digest(),
            grant,
            expires_at,
            uses,
        };
        self.committed(Command::PutToken(record)).await?;
        let nodes = parts.replica.nodes();
        let token = Token {
            kind,
            region: parts.config.region.clone(),
            trust_domain: parts.trust_domain.clone(),
            addresses: nodes.iter().map(|status| address(&status.node).clone()).collect(),
            anchors: bundle.anchors().map(|der| der.to_vec()).collect(),
            secret,
            expires_at,
        };
        Ok(pb::Token {
            token: token.encode(),
            expires_at_ms: expires_at.0,
        })
    }
}
