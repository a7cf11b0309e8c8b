//! Decides when a lease has been silent for too long: those whose stream this node holds, and those that nobody holds.
//! Promises that no lease is called lapsed before its time, however often it is asked; proposes nothing. Pure.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mesh::model::NodeId;

use crate::catalog::Lessee;

/// How long an expiry that was proposed may take before it is proposed again.
const PROPOSED_AGAIN: Duration = Duration::from_secs(5);

/// A lease by its holder's view: the epoch tells one attachment from the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Whose lease.
    pub lessee: Lessee,
    /// From its attachment.
    pub epoch: u64,
}

/// The leases of a node, shared by its streams and by who watches over them. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    /// Guards the times at which leases were heard; held for a lookup, never over an await.
    held: Arc<Mutex<Held>>,
}

impl Leases {
    /// Guarded for a moment only; a panic elsewhere left it whole, since no change of it can panic half way.
    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease began, or was heard. An older epoch than the known one is not heard any more.
    pub fn heard(&self, term: &Term, now: Instant) {
        self.held().heard(term, now);
    }

    /// The lease is over, or somebody else's.
    pub fn forget(&self, term: &Term) {
        self.held().forget(term);
    }
}

/// The leases whose streams this node holds, and when each was last heard.
#[derive(Debug, Default)]
pub(crate) struct Held {
    leases: BTreeMap<Lessee, HeldLease>,
}

#[derive(Debug)]
struct HeldLease {
    epoch: u64,
    heard: Instant,
    proposed: Option<Instant>,
}

impl Held {
    /// A lease began, or was heard. An older epoch than the known one is not heard any more.
    pub(crate) fn heard(&mut self, term: &Term, now: Instant) {
        match self.leases.get_mut(&term.lessee) {
            Some(lease) if lease.epoch > term.epoch => {}
            Some(lease) => {
                *lease = HeldLease {
                    epoch: term.epoch,
                    heard: now,
                    proposed: None,
                };
            }
            None => {
                let lease = HeldLease {
                    epoch: term.epoch,
                    heard: now,
                    proposed: None,
                };
                self.leases.insert(term.lessee.clone(), lease);
            }
        }
    }

    /// The lease is over, or somebody else's.
    pub(crate) fn forget(&mut self, term: &Term) {
        if self
            .leases
            .get(&term.lessee)
            .is_some_and(|lease| lease.epoch <= term.epoch)
        {
            self.leases.remove(&term.lessee);
        }
    }

    /// Whether this node watches over the lease.
    pub(crate) fn holds(&self, lessee: &Lessee) -> bool {
        self.leases.contains_key(lessee)
    }

    /// How many leases this node watches over.
    pub(crate) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Leases that were silent for `ttl`. Each is returned again only when its proposal seems to be lost.
    pub(crate) fn due(&mut self, ttl: Duration, now: Instant) -> Vec<Term> {
        let due = self.leases.iter_mut().filter_map(|(lessee, lease)| {
            let silent = now.saturating_duration_since(lease.heard) >= ttl;
            let waiting = lease
                .proposed
                .is_some_and(|proposed| now.saturating_duration_since(proposed) < PROPOSED_AGAIN);
            if !silent || waiting {
                return None;
            }
            lease.proposed = Some(now);
            Some(Term {
                lessee: lessee.clone(),
                epoch: lease.epoch,
            })
        });
        due.collect()
    }
}

/// A lease as the catalogue has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Whose, and which attachment.
    pub term: Term,
    /// The node that held its stream when it attached.
    pub holder: NodeId,
}

/// The leases that no live node watches over, and since when.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    since: BTreeMap<Term, Since>,
}

#[derive(Debug)]
struct Since {
    orphaned: Instant,
    proposed: Option<Instant>,
}

impl Orphans {
    /// Looks at all leases of the catalogue; `orphan` tells whether nobody watches over one. Returns those that have been
    /// orphans for `patience`: agents had that long to attach elsewhere, which would have made a new epoch.
    pub(crate) fn due(
        &mut self,
        leases: impl IntoIterator<Item = Known>,
        orphan: impl Fn(&Known) -> bool,
        patience: Duration,
        now: Instant,
    ) -> Vec<Term> {
        let mut before = std::mem::take(&mut self.since);
        let mut due = Vec::new();
        for lease in leases {
            if !orphan(&lease) {
                continue;
            }
            let mut since = before.remove(&lease.term).unwrap_or(Since {
                orphaned: now,
                proposed: None,
            });
            let waiting = since
                .proposed
                .is_some_and(|proposed| now.saturating_duration_since(proposed) < PROPOSED_AGAIN);
            if now.saturating_duration_since(since.orphaned) >= patience && !waiting {
                since.proposed = Some(now);
                due.push(lease.term.clone());
            }
            self.since.insert(lease.term, since);
        }
        due
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do as the beginning")]
mod tests {
    use mesh::model::WorkloadId;

    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn term(name: &str, epoch: u64) -> Term {
        Term {
            lessee: Lessee::Workload(WorkloadId::parse(name).expect("valid")),
            epoch,
        }
    }

    #[test]
    fn a_silent_lease_is_due_once_per_proposal() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.heard(&term("pay-1", 1), start);
        assert!(held.due(TTL, start + TTL - Duration::from_millis(1)).is_empty());
        assert_eq!(held.due(TTL, start + TTL), [term("pay-1", 1)]);
        assert!(held.due(TTL, start + TTL).is_empty(), "its expiry is on the way");
        assert_eq!(held.due(TTL, start + TTL + PROPOSED_AGAIN).len(), 1, "it got lost");
        held.forget(&term("pay-1", 1));
        assert!(!held.holds(&term("pay-1", 1).lessee));
    }

    #[test]
    fn a_heartbeat_prolongs_and_an_old_stream_does_not() {
        let (mut held, start) = (Held::default(), Instant::now());
        held.heard(&term("pay-1", 2), start);
        held.heard(&term("pay-1", 1), start + TTL);
        assert_eq!(held.due(TTL, start + TTL), [term("pay-1", 2)]);
        held.heard(&term("pay-1", 2), start + TTL);
        assert!(held.due(TTL, start + TTL + PROPOSED_AGAIN).is_empty());
        held.forget(&term("pay-1", 1));
        assert!(held.holds(&term("pay-1", 2).lessee), "an old stream's end is no end");
    }

    #[test]
    fn an_orphan_is_due_after_patience_and_a_new_attachment_starts_anew() {
        let (mut orphans, start) = (Orphans::default(), Instant::now());
        let lease = |epoch| Known {
            term: term("pay-1", epoch),
            holder: NodeId(2),
        };
        let gone = |known: &Known| known.holder == NodeId(2);
        let mut ask = |epoch, after| orphans.due([lease(epoch)], gone, TTL, start + after);
        assert!(ask(1, Duration::ZERO).is_empty());
        assert_eq!(ask(1, TTL), [term("pay-1", 1)]);
        assert!(ask(1, TTL).is_empty(), "proposed already");
        assert!(ask(2, TTL).is_empty(), "it attached again: a new term");
        assert_eq!(ask(2, TTL * 2), [term("pay-1", 2)]);
    }

    #[test]
    fn a_holder_that_came_back_ends_the_wait() {
        let (mut orphans, start) = (Orphans::default(), Instant::now());
        let lease = || Known {
            term: term("pay-1", 1),
            holder: NodeId(2),
        };
        assert!(orphans.due([lease()], |_| true, TTL, start).is_empty());
        assert!(orphans.due([lease()], |_| false, TTL, start + TTL).is_empty());
        assert!(
            orphans.due([lease()], |_| true, TTL, start + TTL).is_empty(),
            "counted from anew"
        );
    }
}
