//! Keeps the stream to each peer: on the leader, one task a peer that dials until a stream stands, and notes how it stands.
//!
//! The region with the smaller name dials at once, the other one only when nobody has dialled it for a while. Names are
//! resolved at each dial; a node that does not lead names the one that does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh::{
    identity::TrustDomain,
    model::RegionId,
    runtime::{Backoff, OnExit, Stop, clock},
};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::{
    Shared,
    dial::NoStream,
    freshness,
    session::{OUT_MAX, Session, chain},
    slot::Slot,
};
use crate::catalog::Command;

/// How long the region with the larger name waits to be dialled.
const TURN: Duration = Duration::from_secs(3);
/// Between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Most nodes that are asked in one attempt, those that others name included.
const ASKED_MAX: usize = 8;
/// How often the state of a stream is compared with what is committed.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// Runs one task for each peer while this node leads, until the stop.
pub(super) async fn keep(shared: Arc<Shared>) {
    let stop = shared.tasks.stop().clone();
    let mut moments = shared.hub.moments();
    let mut leader = shared.home.leader_changed();
    let mut links: BTreeMap<RegionId, Stop> = BTreeMap::new();
    loop {
        let state = Arc::clone(&moments.borrow_and_update().state);
        let own = state.region().filter(|_| shared.home.is_leader()).cloned();
        links.retain(|peer, link| {
            let is_wanted = own.is_some() && state.peer(peer).is_some();
            if !is_wanted {
                link.order();
            }
            is_wanted
        });
        shared.slots.retain(|peer| state.peer(peer).is_some());
        for peer in state.peers().map(|peer| &peer.record.region) {
            let Some(own) = own.as_ref().filter(|_| !links.contains_key(peer)) else {
                continue;
            };
            let link = Link {
                shared: Arc::clone(&shared),
                slot: shared.slots.of(peer),
                own: own.clone(),
                peer: peer.clone(),
                stop: stop.child(),
            };
            links.insert(peer.clone(), link.stop.clone());
            shared.tasks.spawn("federation-link", OnExit::Ignore, link.run());
        }
        tokio::select! {
            () = stop.ordered() => return,
            changed = moments.changed() => if changed.is_err() { return stop.ordered().await },
            changed = leader.changed() => if changed.is_err() { return stop.ordered().await },
        }
    }
}

/// The care for one peer.
struct Link {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    own: RegionId,
    peer: RegionId,
    stop: Stop,
}

impl Link {
    async fn run(self) {
        tokio::select! {
            () = self.stop.ordered() => {}
            () = self.dial_for_ever() => {}
            () = self.note_status() => {}
        }
    }

    async fn dial_for_ever(&self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut taken = self.slot.taken();
        loop {
            // The sender lives in the slot that this task holds.
            let _ = taken.wait_for(|taken| !taken).await;
            if self.own > self.peer {
                let is_dialled = tokio::time::timeout(TURN, taken.wait_for(|taken| *taken)).await;
                if is_dialled.is_ok() {
                    continue;
                }
            }
            let began = clock::now();
            match self.dial().await {
                Ok(()) => {}
                Err(error) => {
                    debug!(peer = %self.peer, error, "no stream");
                    self.slot.failed(&error);
                }
            }
            if began.elapsed() > RETRY.1 * 5 {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// Asks the peer's nodes until one takes the stream, then runs it to its end.
    async fn dial(&self) -> Result<(), String> {
        let state = self.shared.hub.state();
        let record = state.peer(&self.peer).ok_or("peer was removed")?.record.clone();
        let domain = record.bundle.trust_domain().clone();
        let mut addresses = record.addresses;
        fastrand::shuffle(&mut addresses);
        let mut asked = Vec::new();
        let mut last = "no address of the peer is known".to_owned();
        while let Some(address) = addresses.pop() {
            if asked.contains(&address) || asked.len() == ASKED_MAX {
                continue;
            }
            asked.push(address.clone());
            match self.try_address(&address, &domain).await {
                Tried::Ended => return Ok(()),
                Tried::Other(leader) => addresses.push(leader),
                Tried::Failed(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_address(&self, address: &str, domain: &TrustDomain) -> Tried {
        let (out, messages) = mpsc::channel(OUT_MAX);
        let opened = self.shared.dial.open(address.to_owned(), domain.clone(), messages);
        let incoming = match opened.await {
            Ok(incoming) => incoming,
            Err(NoStream::Other(leader)) => return Tried::Other(leader),
            Err(NoStream::Failed(error)) => return Tried::Failed(error),
        };
        let now = self.shared.clock.wall();
        let place = self.slot.enter(&self.own, &self.peer, &self.stop, now);
        let Some(place) = place else {
            // The peer's stream stands, and goes before ours.
            return Tried::Ended;
        };
        info!(peer = %self.peer, address, "stream opened");
        let session = Session {
            shared: Arc::clone(&self.shared),
            peer: self.peer.clone(),
            place,
        };
        let error = session.run(incoming, out).await;
        warn!(peer = %self.peer, address, error = chain(&error), "stream has ended");
        Tried::Ended
    }

    /// Commits how the stream stands, when that is worth it.
    async fn note_status(&self) {
        let mut tick = tokio::time::interval(STATUS_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let (state, seen, now) = (self.shared.hub.state(), self.slot.seen(), self.shared.clock.wall());
            let recorded = state.region_statuses().find(|status| status.region == self.peer);
            let Some(recorded) = recorded.filter(|recorded| freshness::is_due(recorded, &seen, now)) else {
                continue;
            };
            let command = Command::PutPeerStatus {
                peer: self.peer.clone(),
                connected: seen.connected,
                round_trip: seen.round_trip.or(recorded.round_trip),
                heard_at: seen.heard_at.unwrap_or(recorded.heard_at),
            };
            if let Err(error) = self.shared.home.propose(command).await {
                // The next tick tries again, if it is still so.
                debug!(peer = %self.peer, %error, "state of the stream was not committed");
            }
        }
    }
}

enum Tried {
    /// A stream ran, or another one stands.
    Ended,
    /// Ask this address.
    Other(String),
    Failed(String),
}
