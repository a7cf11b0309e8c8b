//! The leader's own flush beside those of its followers. Promises that nothing is applied, answered, or told as committed to
//! another node before it is durable here, although the entry goes to the followers while it is being flushed.
//!
//! To openraft an entry that this node appends as leader counts as written at once, so that its flush and the followers' run
//! side by side instead of one after the other. That alone would be wrong: with one follower's flush openraft takes the entry
//! for committed, and a leader that then loses its power leaves it on a minority. So what follows from a commit waits here:
//! the state machine applies, and a message to a follower names as committed, only what is durable. An entry that was
//! counted too early is then like one that was never counted: nobody has seen it.
//!
//! A follower's append is answered when it is durable, as ever: followers vouch for the leader, nobody vouches for them.

use tokio::sync::watch;

use crate::raft::type_config::LogId;

/// How far the leader's own appends are.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    /// The newest entry that counted as written before it was.
    counted: Option<LogId>,
    /// The newest of these that is durable.
    durable: Option<LogId>,
    /// An append failed after it had counted.
    failed: bool,
}

impl Marks {
    fn is_durable(&self, entry: LogId) -> bool {
        Some(entry) > self.counted || Some(entry) <= self.durable
    }
}

/// Shared by the log, which moves the marks, and those who wait for them.
#[derive(Debug, Default)]
pub(crate) struct Ahead(watch::Sender<Marks>);

/// The entry will never be durable here: the disk has failed.
#[derive(Debug, thiserror::Error)]
#[error("an append to the log failed; this node must be started again")]
pub(crate) struct Failed;

impl Ahead {
    /// Entries up to this one count as written; they are on their way to the disk.
    pub(super) fn count(&self, upto: LogId) {
        self.0.send_modify(|marks| marks.counted = Some(upto));
    }

    /// Entries up to this one, which counted, are durable.
    pub(super) fn finish(&self, upto: LogId) {
        self.0.send_modify(|marks| marks.durable = Some(upto));
    }

    /// Entries that counted could not be written.
    pub(super) fn fail(&self) {
        self.0.send_modify(|marks| marks.failed = true);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.borrow().failed
    }

    /// Waits until an entry is durable here.
    pub(crate) async fn reach(&self, entry: LogId) -> Result<(), Failed> {
        let mut marks = self.0.subscribe();
        let reached = marks.wait_for(|marks| marks.failed || marks.is_durable(entry)).await;
        // The sender is this very value.
        reached.map_or(Err(Failed), |marks| match marks.is_durable(entry) {
            true => Ok(()),
            false => Err(Failed),
        })
    }

    /// The newest entry up to `committed` that is durable here, as far as is known.
    pub(crate) fn bound(&self, committed: Option<LogId>) -> Option<LogId> {
        let marks = *self.0.borrow();
        match committed {
            Some(entry) if !marks.is_durable(entry) => marks.durable,
            committed => committed,
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;
    use std::time::Duration;

    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 1), index)
    }

    #[tokio::test(start_paused = true)]
    async fn what_counted_is_waited_for_and_what_did_not_is_not() {
        let ahead = Ahead::default();
        ahead
            .reach(id(1, 4))
            .await
            .expect("a follower's entry is durable when it counts");
        ahead.count(id(2, 7));
        let waiting = tokio::time::timeout(Duration::from_secs(1), ahead.reach(id(2, 6)));
        assert!(waiting.await.is_err(), "on its way");
        assert_eq!(ahead.bound(Some(id(2, 6))), None);
        ahead.finish(id(2, 6));
        ahead.reach(id(2, 6)).await.expect("durable");
        assert_eq!(ahead.bound(Some(id(2, 7))), Some(id(2, 6)));
        assert_eq!(ahead.bound(Some(id(2, 5))), Some(id(2, 5)));
        ahead.reach(id(3, 8)).await.expect("another leader's");
        ahead.fail();
        assert!(ahead.has_failed());
        assert!(ahead.reach(id(2, 7)).await.is_err());
        ahead.reach(id(2, 6)).await.expect("that one is durable");
    }
}
