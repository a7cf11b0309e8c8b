//! `isthmus.registry.v1.Certificates`: an SVID for whoever shows a join token or a still valid SVID. Promises that a token
//! gives exactly the identity that it was made for, and a renewal exactly the one that is shown; the CSR decides nothing
//! but the key.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh::{
    identity::{Role, Secret, SpiffeId, Token, TokenKind, system},
    model::{Timestamp, WireError},
    net::grpc::Caller,
    runtime::clock,
};
use proto::registry::v1::{self as pb, certificates_server::Certificates};
use tonic::{Request, Response, Status};
use tracing::info;

use super::Error;
use crate::{
    app::Parts,
    authority::{
        Authority,
        attest::{self, Proof},
    },
    catalog::{Command, Grant, Refusal, Reply, State, TokenDigest},
};

/// An operator's certificate lasts so long: people do not renew hourly.
pub(crate) const OPERATOR_LIFETIME: Duration = attest::TTL_MAX;
/// A CSR with one key is far below.
const CSR_BYTES_MAX: usize = 16 * 1024;

/// The service.
pub(crate) struct CertificateApi(pub(crate) Arc<Parts>);

#[tonic::async_trait]
impl Certificates for CertificateApi {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueReply>, Status> {
        let caller = Caller::of(&request).and_then(|caller| caller.id.clone());
        let answer = self.answer(caller, request.into_inner()).await;
        if answer.is_err() {
            self.0.meters.issue_refused.increment(1);
        }
        Ok(Response::new(answer?))
    }
}

impl CertificateApi {
    async fn answer(&self, caller: Option<SpiffeId>, request: pb::IssueRequest) -> Result<pb::IssueReply, Error> {
        if request.csr.is_empty() || request.csr.len() > CSR_BYTES_MAX {
            return Err(WireError::new("csr", "is missing or longer than 16 KiB").into());
        }
        let parts = &self.0;
        let id = if request.join_token.is_empty() {
            let id = self.renewed(caller)?;
            parts.meters.issued_by_svid.increment(1);
            id
        } else {
            let id = self.redeemed(&request.join_token).await?;
            parts.meters.issued_by_token.increment(1);
            id
        };
        let now = clock::wall();
        let lifetime = if system::role(&id) == Some(Role::Operator) {
            OPERATOR_LIFETIME
        } else {
            parts.config.certificates.lifetime
        };
        let state = parts.replica.state();
        let (chain, not_after) = issue(&state, &request.csr, &id, lifetime, now)?;
        info!(%id, not_after = not_after.0, "certificate issued");
        Ok(pb::IssueReply {
            chain: chain.into_iter().map(Into::into).collect(),
            bundles: bundles(&state),
            spiffe_id: id.to_string(),
            not_after_ms: not_after.0,
        })
    }

    /// A renewal: the same identity once more.
    fn renewed(&self, caller: Option<SpiffeId>) -> Result<SpiffeId, Error> {
        let needs = "a join token, or a certificate of this region that is still good";
        let Some(id) = caller.as_ref().filter(|id| id.workload().is_some()) else {
            return Err(Error::NotAllowed { caller, needs });
        };
        Ok(attest::decide(Proof::Svid(id), &self.0.trust_domain)?.id)
    }

    async fn redeemed(&self, token: &str) -> Result<SpiffeId, Error> {
        let digest = digest(token)?;
        check_known(&self.0, &digest, |grant| matches!(grant, Grant::Workload { .. })).await?;
        let committed = self.0.propose(Command::RedeemToken { digest, region: None }).await?;
        let Reply::Granted(grant) = committed.reply else {
            return Err(Error::Unexpected);
        };
        Ok(attest::decide(Proof::Token(&grant), &self.0.trust_domain)?.id)
    }
}

/// Refuses what was never given out without a proposal: anybody may call, and a flood must not reach the log. Checks the
/// kind, too, so that a token shown at the wrong door loses no use.
pub(super) async fn check_known(
    parts: &Parts,
    digest: &TokenDigest,
    kind: impl Fn(&Grant) -> bool,
) -> Result<(), Error> {
    let grant = |state: &State| {
        let token = state.tokens().find(|token| token.digest == *digest);
        token.map(|token| token.grant.clone())
    };
    let mut found = grant(&parts.replica.state());
    if found.is_none() {
        // It may have been made a moment ago on another node.
        parts.replica.linearize().await?;
        found = grant(&parts.replica.state());
    }
    match found {
        Some(grant) if kind(&grant) => Ok(()),
        Some(_) => Err(Error::Token(
            "is of another kind; workloads, peers and nodes have each their own".to_owned(),
        )),
        None => Err(Refusal::Token("not known, or used up".to_owned()).into()),
    }
}

/// The digest of a token as it is printed, or of its bare secret.
pub(crate) fn digest(token: &str) -> Result<TokenDigest, Error> {
    if token.contains('.') {
        let token = Token::decode(token, TokenKind::Workload).map_err(|fault| Error::Token(fault.to_string()))?;
        return Ok(token.secret.digest());
    }
    secret_digest(token)
}

/// The digest of a secret in base64url.
pub(crate) fn secret_digest(secret: &str) -> Result<TokenDigest, Error> {
    let bytes = URL_SAFE_NO_PAD
        .decode(secret)
        .map_err(|_| Error::Token("is no token; give it whole, as it was printed".to_owned()))?;
    let secret = Secret::from_bytes(&bytes).map_err(|fault| Error::Token(fault.to_string()))?;
    Ok(secret.digest())
}

/// Issues by the catalogue's authority. Returns the chain and its leaf's end.
pub(crate) fn issue(
    state: &State,
    csr: &[u8],
    id: &SpiffeId,
    lifetime: Duration,
    now: Timestamp,
) -> Result<(Vec<Vec<u8>>, Timestamp), Error> {
    let (Some(record), Some(bundle)) = (state.authority(), state.own_bundle()) else {
        return Err(Error::Empty);
    };
    let failed = |fault: crate::authority::AuthorityError| Error::Authority(fault.to_string());
    let authority = Authority::from_record(record, bundle.trust_domain()).map_err(failed)?;
    let chain = authority.issue(csr, id, lifetime, now).map_err(failed)?;
    Ok((chain, now.plus(lifetime).min(record.not_after)))
}

/// The own bundle first, then those of peers.
pub(crate) fn bundles(state: &State) -> Vec<pb::TrustBundle> {
    let own = state.own_bundle().cloned();
    let domain = own.as_ref().map(|bundle| bundle.trust_domain().clone());
    let others = state
        .bundles()
        .filter(|bundle| domain.as_ref() != Some(bundle.trust_domain()))
        .cloned();
    own.into_iter()
        .chain(others)
        .map(|bundle| pb::TrustBundle::from((*bundle).clone()))
        .collect()
}
