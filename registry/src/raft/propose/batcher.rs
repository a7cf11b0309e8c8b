//! One task that takes what waits, and has one batch under way at a time: more were measured to be slower, and one keeps
//! the order of each caller's proposals.

use std::sync::Arc;

use mesh::{
    model::Revision,
    ops::Metrics,
    runtime::{Backoff, Stop, clock},
};
use metrics::{Counter, Histogram};
use openraft::error::RaftError;
use tokio::{sync::mpsc, time::Instant};
use tracing::debug;

use super::{BATCH_BYTES_MAX, COMMANDS_MAX, Committed, Error, Origin, Proposal, repeatable};
use crate::{
    catalog::{Batch, Command},
    raft::{
        Node,
        core::{Core, Lead},
        peers::CallError,
        transport::Method,
        wire::{AskRef, Failure, Told},
    },
};

/// Between attempts while there is no leader; a change of leader ends the wait.
const RETRY: (std::time::Duration, std::time::Duration) = (
    std::time::Duration::from_millis(20),
    std::time::Duration::from_millis(300),
);

/// Takes proposals from the queue until the stop.
pub(crate) struct Batcher {
    core: Arc<Core>,
    queue: mpsc::Receiver<Proposal>,
    /// Taken from the queue, but too long for the batch before.
    carried: Option<Proposal>,
    commands: Counter,
    entries: Counter,
    queued: Histogram,
    seconds: Histogram,
}

impl Batcher {
    pub(crate) fn new(core: Arc<Core>, queue: mpsc::Receiver<Proposal>, metrics: &Metrics) -> Self {
        Self {
            core,
            queue,
            carried: None,
            commands: metrics.counter(
                "isthmus_raft_commands_total",
                "commands committed through this node",
                &[],
            ),
            entries: metrics.counter(
                "isthmus_raft_batches_total",
                "batches of commands that this leader wrote",
                &[],
            ),
            queued: metrics.histogram(
                "isthmus_raft_queue_seconds",
                "from a proposal to the batch that takes it up",
                &[],
            ),
            seconds: metrics.histogram(
                "isthmus_raft_commit_seconds",
                "from a proposal to its answer: committed, and applied on the leader",
                &[],
            ),
        }
    }

    pub(crate) async fn run(mut self, stop: Stop) {
        loop {
            let first = match self.carried.take() {
                Some(carried) => carried,
                None => tokio::select! {
                    () = stop.ordered() => break,
                    next = self.queue.recv() => match next {
                        Some(proposal) => proposal,
                        None => break,
                    },
                },
            };
            let batch = self.fill(first);
            for proposal in &batch {
                self.queued.record(proposal.begun.elapsed().as_secs_f64());
            }
            tokio::select! {
                // What is under way is answered `Stopped` by the drop of its reply.
                () = stop.ordered() => break,
                () = self.commit(batch) => {}
            }
        }
    }

    fn fill(&mut self, first: Proposal) -> Vec<Proposal> {
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while batch.len() < COMMANDS_MAX {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes += next.bytes;
            if bytes > BATCH_BYTES_MAX {
                self.carried = Some(next);
                break;
            }
            batch.push(next);
        }
        batch
    }

    async fn commit(&self, mut batch: Vec<Proposal>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut leader = self.core.leader();
        loop {
            leader.mark_unchanged();
            batch = match self.core.lead() {
                Lead::Me => self.write(batch).await,
                Lead::Other(id, node) => self.pass_on(id, &node, give_back(batch)).await,
                Lead::Nobody => give_back(batch),
            };
            batch = self.expire(batch);
            if batch.is_empty() {
                return;
            }
            tokio::select! {
                _ = leader.changed() => {} // an end of the watch is an end of this task too, by the stop
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// As leader. Returns what is to be tried again.
    async fn write(&self, batch: Vec<Proposal>) -> Vec<Proposal> {
        let mut batch = self.refuse_when_full(batch);
        if batch.is_empty() {
            return batch;
        }
        // The entry takes the commands: they come back from it in the rare case that they are needed again.
        let commands = batch
            .iter_mut()
            .map(|proposal| std::mem::replace(&mut proposal.command, Command::Noop));
        let entry = Arc::new(Batch {
            at: self.core.clock.wall(),
            commands: commands.collect(),
        });
        let write = self.core.raft.client_write(Arc::clone(&entry));
        let written = tokio::time::timeout_at(latest(&batch), write).await;
        match written {
            Ok(Ok(response)) => {
                self.entries.increment(1);
                let revision = Revision(response.log_id.index);
                for (proposal, reply) in batch.into_iter().zip(response.data) {
                    self.done(proposal, Committed { revision, reply });
                }
                Vec::new()
            }
            // The entry was not written, or another leader's took its place: nothing was done.
            Ok(Err(RaftError::APIError(_))) => {
                for (proposal, command) in batch.iter_mut().zip(&entry.commands) {
                    proposal.command = command.clone();
                }
                batch
            }
            Ok(Err(RaftError::Fatal(_))) => {
                batch.into_iter().for_each(|proposal| proposal.fail(Error::Stopped));
                Vec::new()
            }
            Err(_) => {
                batch.into_iter().for_each(unknown);
                Vec::new()
            }
        }
    }

    /// While room is short, only what reads need is written: an empty entry fits into the reserve.
    fn refuse_when_full(&self, batch: Vec<Proposal>) -> Vec<Proposal> {
        let Err(full) = self.core.room() else { return batch };
        let is_empty = |proposal: &Proposal| matches!(proposal.command, Command::Noop);
        let (empty, refused): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_empty);
        refused.into_iter().for_each(|proposal| proposal.fail(full.clone()));
        empty
    }

    /// To the leader. Returns what is to be tried again.
    async fn pass_on(&self, id: u64, node: &Node, batch: Vec<Proposal>) -> Vec<Proposal> {
        if batch.is_empty() {
            return batch;
        }
        let until = latest(&batch);
        let ask = AskRef::Propose {
            commands: batch.iter().map(|proposal| &proposal.command).collect(),
            patience_ms: u64::try_from(until.saturating_duration_since(clock::now()).as_millis()).unwrap_or(0),
        };
        let peer = self.core.peers.peer(id, node);
        let call = self.core.peers.call(&peer, Method::Propose, &ask);
        let told = tokio::select! {
            told = call => told,
            () = self.core.led_by_another(id) => Err(CallError::Lost { id, address: node.raft_address.clone(), reason: "another node leads now".to_owned() }),
            () = tokio::time::sleep_until(until) => Err(CallError::Lost { id, address: node.raft_address.clone(), reason: "timed out".to_owned() }),
        };
        match told {
            Ok(Told::Proposed(results)) if results.len() == batch.len() => {
                let mut again = Vec::new();
                for (proposal, result) in batch.into_iter().zip(results) {
                    match result {
                        Ok(committed) => self.done(proposal, committed),
                        Err(Failure::NotLeader) => again.push(proposal),
                        Err(error) => proposal.answer(Err(error)),
                    }
                }
                again
            }
            Ok(Told::NotLeader) | Err(CallError::NotSent { .. }) => batch,
            Err(CallError::Removed { .. }) => {
                batch.into_iter().for_each(|proposal| proposal.fail(Error::Removed));
                Vec::new()
            }
            Ok(Told::Proposed(_) | Told::Changed(_) | Told::Standing | Told::Level(_))
            | Err(CallError::Lost { .. }) => {
                debug!(
                    leader = id,
                    commands = batch.len(),
                    "leader was lost with proposals under way"
                );
                let (mut again, lost): (Vec<_>, Vec<_>) = batch.into_iter().partition(|lost| repeatable(&lost.command));
                lost.into_iter().for_each(unknown);
                again.iter_mut().for_each(|proposal| proposal.maybe = true);
                again
            }
        }
    }

    fn done(&self, proposal: Proposal, committed: Committed) {
        self.commands.increment(1);
        self.seconds.record(proposal.begun.elapsed().as_secs_f64());
        proposal.answer(Ok(committed));
    }

    /// Answers those whose time is over.
    fn expire(&self, batch: Vec<Proposal>) -> Vec<Proposal> {
        let now = clock::now();
        let (over, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(|proposal| proposal.deadline <= now);
        for proposal in over {
            if proposal.maybe {
                unknown(proposal);
                continue;
            }
            let waited = now.saturating_duration_since(proposal.begun);
            let majority = self.core.majority();
            proposal.fail(Error::NoLeader { waited, majority });
        }
        left
    }
}

fn latest(batch: &[Proposal]) -> Instant {
    let latest = batch.iter().map(|proposal| proposal.deadline).max();
    latest.unwrap_or_else(clock::now)
}

fn unknown(proposal: Proposal) {
    let waited = proposal.begun.elapsed();
    proposal.fail(Error::Unknown { waited });
}

/// Keeps what came in here; what a follower sent goes back to it.
fn give_back(batch: Vec<Proposal>) -> Vec<Proposal> {
    let (here, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(|proposal| proposal.origin == Origin::Here);
    others
        .into_iter()
        .for_each(|proposal| proposal.answer(Err(Failure::NotLeader)));
    here
}
