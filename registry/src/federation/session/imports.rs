//! The importing side of a stream: what the peer shows is committed, acknowledged, and compared with what is held.

use futures_util::{StreamExt, stream};
use mesh::{
    model::{Held, ImportPolicy, Key, Update},
    runtime::clock,
};
use proto::federation::v1::{PeerMessage, peer_message::Kind};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info};

use super::{Met, Session, SessionError, send};
use crate::{
    catalog::{Command, Finding, ImportSet, Subject},
    federation::{
        compare::{self, Shown},
        import,
    },
};

/// Sets that are proposed at once: the next one is on its way while the last one is written.
const IMPORTS_AT_ONCE: usize = 8;
/// A position that moved less, with nothing visible in it, is not worth a commit.
const POSITION_LAG_MAX: u64 = 1_000;

impl Session {
    pub(super) async fn import(
        &self,
        out: &mpsc::Sender<PeerMessage>,
        met: &Met,
        mut updates: mpsc::Receiver<Update>,
        mut shown: watch::Receiver<Option<Shown>>,
    ) -> Result<(), SessionError> {
        // Where the peer's records are held, which the catalogue says only now and then while nothing visible changes.
        let mut committed = met.held;
        let mut position = committed;
        loop {
            tokio::select! {
                biased;
                update = updates.recv() => {
                    let update = update.ok_or(SessionError::Closed)?;
                    if update.region != self.peer {
                        return Err(SessionError::Protocol(format!("an update of region {}", update.region)));
                    }
                    let (held, committed_at, arrived) = (update.held, update.committed_at, clock::now());
                    if !is_skipped(&update, committed) {
                        self.take(update, committed).await?;
                        committed = Some(held);
                        self.place.meters().committed(arrived, committed_at, self.shared.clock.wall());
                    }
                    position = Some(held);
                    send(out, Kind::Ack(held.into())).await?;
                }
                changed = shown.changed() => changed.map_err(|_| SessionError::Closed)?,
            }
            let newest = shown.borrow_and_update().clone();
            if let Some(shown) = newest.filter(|shown| Some(shown.held) == position) {
                self.compare(&shown, &met.taken).await?;
            }
        }
    }

    /// Commits what an update brings.
    async fn take(&self, update: Update, committed: Option<Held>) -> Result<(), SessionError> {
        let owned: Vec<Key> = match update.full {
            true => self.shared.hub.state().imported_keys(&self.peer),
            false => Vec::new(),
        };
        let commit = |set: ImportSet| {
            self.commit(Command::Import {
                peer: self.peer.clone(),
                set: Box::new(set),
            })
        };
        // Leases first: the position must not run ahead of them. A region whose programs do not all know them yet gets them
        // with a later grant.
        let leases = self.shared.hub.state().leases_quotas().then(|| import::leases(&update));
        for set in leases.into_iter().flatten() {
            self.commit(Command::ImportLeases {
                peer: self.peer.clone(),
                set: Box::new(set),
            })
            .await?;
        }
        // Asked in order, they are committed in order: each one names the position that the one before it leaves.
        let sets = import::sets(&self.peer, update, committed, &owned);
        let mut commits = stream::iter(sets.into_iter().map(commit)).buffered(IMPORTS_AT_ONCE);
        while let Some(done) = commits.next().await {
            done?;
        }
        Ok(())
    }

    /// Compares what is held with what the peer shows at the same position; keeps what is found.
    async fn compare(&self, shown: &Shown, taken: &ImportPolicy) -> Result<(), SessionError> {
        let state = self.shared.hub.state();
        let peer = state.peer(&self.peer).ok_or(SessionError::PeerRemoved)?;
        if peer.record.import != *taken || peer.held.is_none() {
            // Ordered a moment ago; the stream ends over it.
            return Ok(());
        }
        let Some(held) = state.held_of(&self.peer) else {
            return Ok(());
        };
        let (parts, subject) = (shown.differing(&held), Subject::Peer(self.peer.clone()));
        let finding = match (parts.is_empty(), state.finding(&subject)) {
            (true, None) => return Ok(()),
            (false, Some(known)) if known.parts == parts => return Ok(()),
            (true, Some(_)) => {
                info!(peer = %self.peer, "imports agree again with what the peer shows");
                None
            }
            (false, _) => {
                let (differ, revision) = (compare::names(&parts), shown.held.revision);
                error!(peer = %self.peer, %revision, differ, "imports differ from what the peer shows; run: isthmus peer \
                    repair {}", self.peer);
                Some(Finding {
                    revision,
                    at: self.shared.clock.wall(),
                    parts,
                })
            }
        };
        if let Err(error) = self.commit(Command::PutFinding { subject, finding }).await {
            // The next comparison tries again, if it is still so; the stream has another purpose.
            debug!(peer = %self.peer, %error, "finding was not committed");
        }
        Ok(())
    }
}

/// A delta with nothing in it that is near to what is committed: acknowledged without a commit.
fn is_skipped(update: &Update, committed: Option<Held>) -> bool {
    let is_empty = !update.full && update.upserts.is_empty() && update.removed.is_empty();
    is_empty
        && committed.is_some_and(|held| {
            let ahead = update.held.revision.0.checked_sub(held.revision.0);
            held.incarnation == update.held.incarnation && ahead.is_some_and(|ahead| ahead < POSITION_LAG_MAX)
        })
}
