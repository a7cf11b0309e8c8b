//! Linearizable reads. Promises that a read that comes in after a write was acknowledged, by whichever node, sees it.
//!
//! Readers that came in before a check began share it: a check asks a majority. A leader commits an entry of its own before
//! its first check after each start and election, because a restarted leader may not know yet what it had committed.

use std::{sync::Arc, time::Duration};

use mesh::{
    model::Revision,
    runtime::{Backoff, Stop, clock},
};
use metrics::Counter;
use openraft::error::RaftError;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Node,
    core::{Core, Lead},
    peers::CallError,
    propose::{self, Error, Origin, Proposal},
    transport::Method,
    wire::{Failure, Index},
};
use crate::catalog::Command;

/// Readers that wait for a check; more are refused.
pub(crate) const READERS_MAX: usize = 4096;
/// Between attempts while there is no leader; a change of leader ends the wait.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(300));

/// One that waits.
pub(crate) struct Reader {
    pub(crate) origin: Origin,
    pub(crate) reply: oneshot::Sender<Result<Revision, Failure>>,
}

impl Reader {
    fn answer(self, result: Result<Revision, Failure>) {
        let _ = self.reply.send(result); // the asker left
    }
}

/// Answers readers until the stop.
pub(crate) struct Checker {
    core: Arc<Core>,
    queue: mpsc::Receiver<Reader>,
    /// The term in which this process has committed an entry of its own.
    confirmed: Option<u64>,
    checks: Counter,
}

impl Checker {
    pub(crate) fn new(core: Arc<Core>, queue: mpsc::Receiver<Reader>, metrics: &mesh::ops::Metrics) -> Self {
        let help = "checks of leadership for linearizable reads; many readers share one";
        Self {
            core,
            queue,
            confirmed: None,
            checks: metrics.counter("isthmus_raft_read_checks_total", help, &[]),
        }
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        let mut leader = self.core.leader();
        loop {
            let first = tokio::select! {
                () = stop.ordered() => return,
                changed = leader.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // At once, not only before the first read: a new leader's own catalogue may be behind until then.
                    let until = clock::now() + propose::PATIENCE;
                    if matches!(self.core.lead(), Lead::Me) {
                        let _ = self.confirm(until).await; // the first read tries again
                    }
                    continue;
                }
                next = self.queue.recv() => match next {
                    Some(reader) => reader,
                    None => return,
                },
            };
            let mut readers = vec![first];
            while let Ok(next) = self.queue.try_recv() {
                readers.push(next);
            }
            tokio::select! {
                () = stop.ordered() => return,
                () = self.serve(readers) => {}
            }
        }
    }

    async fn serve(&mut self, mut readers: Vec<Reader>) {
        let begun = clock::now();
        let until = begun + propose::PATIENCE;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut leader = self.core.leader();
        loop {
            leader.mark_unchanged();
            let lead = self.core.lead();
            if !matches!(lead, Lead::Me) {
                readers = give_back(readers);
            }
            if readers.is_empty() {
                return;
            }
            self.checks.increment(1);
            let checked = match lead {
                Lead::Me => self.check(until).await,
                Lead::Other(id, node) => self.ask(id, &node, until).await,
                Lead::Nobody => None,
            };
            let result = match checked {
                Some(result) => result,
                None if clock::now() >= until => Err(Error::NoLeader {
                    waited: begun.elapsed(),
                    majority: self.core.majority(),
                }),
                None => {
                    tokio::select! {
                        _ = leader.changed() => {} // an end of the watch is an end of this task too, by the stop
                        () = tokio::time::sleep(backoff.next_wait()) => {}
                    }
                    continue;
                }
            };
            for reader in readers {
                reader.answer(result.clone().map_err(Failure::Error));
            }
            return;
        }
    }

    /// As leader. None = try again.
    async fn check(&mut self, until: Instant) -> Option<Result<Revision, Error>> {
        if let Err(error) = self.confirm(until).await? {
            return Some(Err(error));
        }
        let checked = tokio::time::timeout_at(until, self.core.raft.ensure_linearizable()).await;
        match checked {
            Ok(Ok(log_id)) => Some(Ok(Revision(log_id.map_or(0, |log_id| log_id.index)))),
            Ok(Err(RaftError::Fatal(_))) => Some(Err(Error::Stopped)),
            Ok(Err(RaftError::APIError(_))) | Err(_) => None,
        }
    }

    /// Commits an entry of this process' own in this term. None = try again.
    async fn confirm(&mut self, until: Instant) -> Option<Result<(), Error>> {
        let term = self.core.term();
        if self.confirmed == Some(term) {
            return Some(Ok(()));
        }
        let patience = until.saturating_duration_since(clock::now());
        let (proposal, committed) = Proposal::new(Command::Noop, Origin::Follower, patience).ok()?;
        // Full: others' entries are about to do the same, so try again.
        self.core.proposals.offer(proposal).ok()?;
        match committed.await {
            Ok(Ok(_)) if self.core.term() == term => {
                self.confirmed = Some(term);
                Some(Ok(()))
            }
            Ok(Ok(_) | Err(Failure::NotLeader)) => None,
            Ok(Err(Failure::Error(error))) => Some(Err(error)),
            Err(_) => Some(Err(Error::Stopped)),
        }
    }

    /// As follower. None = try again.
    async fn ask(&self, id: u64, node: &Node, until: Instant) -> Option<Result<Revision, Error>> {
        let peer = self.core.peers.peer(id, node);
        let call = self.core.peers.call(&peer, Method::ReadIndex, &());
        let told = tokio::select! {
            told = call => told,
            () = self.core.led_by_another(id) => return None,
            () = tokio::time::sleep_until(until) => return None,
        };
        match told {
            Ok(Index::At(revision)) => {
                let reached = tokio::time::timeout_at(until, self.core.applied.reach(revision)).await;
                match reached {
                    Ok(true) => Some(Ok(revision)),
                    Ok(false) => Some(Err(Error::Stopped)),
                    Err(_) => None,
                }
            }
            Ok(Index::Failed(error)) => Some(Err(error)),
            Err(CallError::Removed { .. }) => Some(Err(Error::Removed)),
            Ok(Index::NotLeader) | Err(_) => None,
        }
    }
}

/// Keeps who asked here; who asked through a follower is told to ask again there.
fn give_back(readers: Vec<Reader>) -> Vec<Reader> {
    let (here, others): (Vec<_>, Vec<_>) = readers.into_iter().partition(|reader| reader.origin == Origin::Here);
    others
        .into_iter()
        .for_each(|reader| reader.answer(Err(Failure::NotLeader)));
    here
}
