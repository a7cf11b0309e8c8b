//! Tokens: what they grant, how often, until when. Pure.

use mesh::model::RegionId;

use super::{Outcome, Transaction};
use crate::catalog::{Grant, Refusal, Reply, TokenDigest, TokenRecord};

impl Transaction<'_> {
    pub(super) fn put_token(&mut self, token: &TokenRecord) -> Outcome {
        if self.state.tokens.contains_key(&token.digest) {
            return Err(Refusal::Conflict(
                "token was already given out; draw another secret".into(),
            ));
        }
        self.set_token(&token.digest, Some(token.clone()));
        Ok(Reply::Done)
    }

    pub(super) fn redeem_token(&mut self, digest: &TokenDigest, region: Option<&RegionId>) -> Outcome {
        let refuse = |fault: String| Err(Refusal::Token(fault));
        let Some(token) = self.state.tokens.get(digest) else {
            return refuse("not known, or used up".into());
        };
        if token.expires_at <= self.at {
            return refuse("expired".into());
        }
        if token.uses == 0 {
            return refuse("used up".into());
        }
        if let Grant::Peer {
            for_region: Some(wanted),
        } = &token.grant
            && region != Some(wanted)
        {
            return refuse(format!("for region {wanted} only"));
        }
        let mut token = TokenRecord::clone(token);
        token.uses -= 1;
        let grant = token.grant.clone();
        self.set_token(digest, (token.uses > 0).then_some(token));
        Ok(Reply::Granted(grant))
    }
}
