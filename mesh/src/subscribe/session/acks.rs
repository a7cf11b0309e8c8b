//! When to acknowledge: some time after an update was applied, and then for all that were applied by then. Whoever reads
//! acknowledgements counts seconds. A change reaches the thousand subscribers of a node in the same moment; their answers need
//! not come in the next one, while others still wait for theirs.

use std::{pin::Pin, time::Duration};

use proto::registry::v1 as pb;
use tokio::time::Sleep;

use crate::{model::Held, runtime::clock};

/// From an update to its acknowledgement, at least; at most twice that.
const AFTER: Duration = Duration::from_secs(1);

/// What is to be acknowledged.
#[derive(Debug, Default)]
pub(super) struct Acks {
    pending: Option<(pb::Ack, Pin<Box<Sleep>>)>,
}

impl Acks {
    /// Everything up to `held` is applied.
    pub(super) fn applied(&mut self, held: Held) {
        let ack = pb::Ack {
            held: Some(held.into()),
            applied_at_ms: clock::wall().0,
        };
        match &mut self.pending {
            Some((pending, _)) => *pending = ack,
            None => {
                let after = AFTER.mul_f64(1.0 + fastrand::f64());
                self.pending = Some((ack, Box::pin(tokio::time::sleep(after))));
            }
        }
    }

    /// The next one, once it may be sent. Safe to cancel.
    pub(super) async fn due(&mut self) -> pb::Ack {
        match &mut self.pending {
            Some((_, sleep)) => sleep.await,
            None => std::future::pending().await,
        }
        self.pending.take().map(|(ack, _)| ack).unwrap_or_default()
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
    async fn those_of_a_second_go_together_and_none_goes_at_once() {
        let mut acks = Acks::default();
        let begun = clock::now();
        acks.applied(held(1));
        let early = tokio::time::timeout(AFTER - Duration::from_millis(1), acks.due()).await;
        assert!(early.is_err(), "too soon");
        acks.applied(held(2));
        assert_eq!(acks.due().await.held, Some(held(2).into()));
        assert!(begun.elapsed() >= AFTER && begun.elapsed() <= AFTER * 2 + Duration::from_millis(1));
        let none = tokio::time::timeout(AFTER * 8, acks.due()).await;
        assert!(none.is_err(), "nothing new");
    }
}
