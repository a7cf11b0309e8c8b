//! What ends by itself: overrides and tokens at their time, definitions that nobody has served for a while. Pure.

use std::time::Duration;

use super::{Outcome, Transaction};
use crate::catalog::Reply;

/// How long a definition outlives its last endpoint: longer than a redeployment, so that names keep resolving through one.
const EMPTY_KEPT: Duration = Duration::from_secs(600);

impl Transaction<'_> {
    pub(super) fn sweep(&mut self) -> Outcome {
        let own = self.own_region()?;
        let at = self.at;
        let drills = self.state.drills.values();
        let drills = drills
            .filter(|drill| !drill.order.is_active(at))
            .map(|drill| drill.order.id.clone());
        for id in drills.collect::<Vec<_>>() {
            self.set_drill(&id, None);
        }
        let orders = self.state.overrides.values();
        let orders = orders
            .filter(|order| !order.is_active(at))
            .map(|order| order.id.clone());
        for id in orders.collect::<Vec<_>>() {
            self.set_override(&id, None);
        }
        let tokens = self.state.tokens.values();
        let tokens = tokens
            .filter(|token| token.expires_at <= at || token.uses == 0)
            .map(|token| token.digest);
        for digest in tokens.collect::<Vec<_>>() {
            self.set_token(&digest, None);
        }
        let names = self.state.definitions.iter().filter(|(_, origins)| {
            let empty_since = origins.get(&own).and_then(|definition| definition.empty_since);
            empty_since.is_some_and(|since| at.since(since) >= EMPTY_KEPT)
        });
        for name in names.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.remove_definition(&name, &own);
        }
        self.sweep_leases();
        Ok(Reply::Done)
    }
}
