//! When to acknowledge: at once after a pause, then at most once in an interval. A later acknowledgement covers those before
//! it, and a registry node has a thousand subscribers.

use std::time::Duration;

use proto::registry::v1 as pb;
use tokio::time::Instant;

use crate::{model::Held, runtime::clock};

/// Least time between two.
const INTERVAL: Duration = Duration::from_millis(250);

/// What is to be acknowledged.
#[derive(Debug, Default)]
pub(super) struct Acks {
    pending: Option<pb::Ack>,
    not_before: Option<Instant>,
}

impl Acks {
    /// Everything up to `held` is applied.
    pub(super) fn applied(&mut self, held: Held) {
        self.pending = Some(pb::Ack {
            held: Some(held.into()),
            applied_at_ms: clock::wall().0,
        });
    }

    /// The next one, once it may be sent. Safe to cancel.
    pub(super) async fn due(&mut self) -> pb::Ack {
        if self.pending.is_none() {
            std::future::pending::<()>().await;
        }
        if let Some(not_before) = self.not_before {
            tokio::time::sleep_until(not_before).await;
        }
        self.not_before = Some(clock::now() + INTERVAL);
        self.pending.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Revision};

    fn held(revision: u64) -> Held {
        Held {
            incarnation: Incarnation(1),
            revision: Revision(revision),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_the_next_ones_go_together() {
        let mut acks = Acks::default();
        let begun = clock::now();
        acks.applied(held(1));
        assert_eq!(acks.due().await.held, Some(held(1).into()));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        acks.applied(held(2));
        let early = tokio::time::timeout(INTERVAL / 2, acks.due()).await;
        assert!(early.is_err(), "too soon");
        acks.applied(held(3));
        assert_eq!(acks.due().await.held, Some(held(3).into()));
        assert_eq!(begun.elapsed(), INTERVAL);
        let none = tokio::time::timeout(INTERVAL * 4, acks.due()).await;
        assert!(none.is_err(), "nothing new");
    }
}
