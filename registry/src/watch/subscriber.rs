//! One subscriber's way through the moments: it waits, gathers what changed meanwhile, and gives the next update.
//!
//! It keeps no queue: whoever is slow gets the newest state of each key once, however often it changed.

use std::{sync::Arc, time::Duration};

use mesh::{
    model::{Held, Update},
    runtime::clock,
};
use prost::Message as _;
use proto::registry::v1 as pb;
use tokio::{sync::watch, time::Instant};

use super::{Hub, Moment, Scope};
use crate::catalog::State;

/// Least time between two updates, so that changes which come close together go out together: far below what a caller
/// notices, and it spares a busy region most of the work for a thousand subscribers.
const COALESCED: Duration = Duration::from_millis(3);
/// How long a position may lag behind while nothing visible changes: so that a resume seldom needs a snapshot.
const QUIET_MAX: Duration = Duration::from_secs(1);
/// How long to wait for a node that is behind what the subscriber holds, before it gets the older truth after all.
const BEHIND_MAX: Duration = Duration::from_secs(5);
/// Bounds of one message: well below the 4 MiB that gRPC takes.
const CHUNK_RESOURCES_MAX: usize = 2_000;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A position in the catalogue and a scope; gives updates.
#[derive(Debug)]
pub struct Subscriber {
    moments: watch::Receiver<Arc<Moment>>,
    scope: Scope,
    /// Everything visible up to here was given.
    held: Option<Held>,
    /// The position of the update that was given last, with the state that it was made of and the time.
    given: Option<(Held, Arc<State>)>,
    given_at: Instant,
    /// The scope that `held` was shown under, when another one has taken its place since.
    replaced: Option<Scope>,
    behind_until: Instant,
}

enum Step {
    Give(Update),
    Wait { until: Option<Instant> },
}

impl Subscriber {
    /// Goes on from `held`; from nothing when it is none.
    #[must_use]
    pub fn new(hub: &Hub, scope: Scope, held: Option<Held>) -> Self {
        let now = clock::now();
        Self {
            moments: hub.moments(),
            scope,
            held,
            given: None,
            given_at: now,
            replaced: None,
            behind_until: now + BEHIND_MAX,
        }
    }

    /// Goes on from `held`, which was shown under another scope, perhaps by another node.
    #[must_use]
    pub fn resumed(hub: &Hub, scope: Scope, held: Option<Held>, shown: Scope) -> Self {
        Self {
            replaced: Some(shown),
            ..Self::new(hub, scope, held)
        }
    }

    /// From now on shows `scope`. The next update holds what it adds and removes, and is given even when that is nothing.
    pub fn set_scope(&mut self, scope: Scope) {
        let old = std::mem::replace(&mut self.scope, scope);
        // Replaced twice before an update: what was shown is still what the first one showed.
        self.replaced.get_or_insert(old);
    }

    /// The position of the update that was given last, and the catalogue that it was made of.
    #[must_use]
    pub fn given(&self) -> Option<(Held, &Arc<State>)> {
        self.given.as_ref().map(|(held, state)| (*held, state))
    }

    /// The next update, once there is one; none when the hub is gone. Safe to cancel: what was not returned is still to
    /// come.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            let moment = Arc::clone(&self.moments.borrow_and_update());
            match self.step(&moment, clock::now()) {
                Step::Give(update) => return Some(update),
                Step::Wait { until } => self.wait(until).await?,
            }
        }
    }

    /// Waits for a newer moment, or until a time; none when the hub is gone.
    async fn wait(&mut self, until: Option<Instant>) -> Option<()> {
        match until {
            None => self.moments.changed().await.ok()?,
            Some(until) => match tokio::time::timeout_at(until, self.moments.changed()).await {
                Ok(changed) => changed.ok()?,
                Err(_) => return Some(()),
            },
        }
        // Alone it goes at once; the next ones, close behind, go together.
        tokio::time::sleep_until(self.given_at + COALESCED).await;
        Some(())
    }

    fn step(&mut self, moment: &Moment, now: Instant) -> Step {
        let is_behind = self
            .held
            .is_some_and(|held| held.incarnation == moment.state.incarnation() && held.revision > moment.revision);
        if is_behind && now < self.behind_until {
            return Step::Wait {
                until: Some(self.behind_until),
            };
        }
        // A state without a region is not one yet.
        let Some(update) = self.update(moment) else {
            return Step::Wait { until: None };
        };
        let is_empty =
            !update.full && update.upserts.is_empty() && update.removed.is_empty() && self.replaced.is_none();
        if let (true, Some((given, _))) = (is_empty, &self.given) {
            self.held = Some(update.held);
            let quiet_until = self.given_at + QUIET_MAX;
            if *given == update.held {
                return Step::Wait { until: None };
            }
            // Nothing that it sees: only its position moves, and that may wait.
            if now < quiet_until {
                return Step::Wait {
                    until: Some(quiet_until),
                };
            }
        }
        self.held = Some(update.held);
        self.given = Some((update.held, Arc::clone(&moment.state)));
        self.given_at = now;
        self.replaced = None;
        Step::Give(update)
    }

    fn update(&self, moment: &Moment) -> Option<Update> {
        let delta = self.held.and_then(|held| self.scope.delta(moment, held));
        let Some(mut update) = delta else {
            return self.scope.snapshot(moment);
        };
        if let Some(old) = &self.replaced {
            // What was shown in another session is not known here.
            let shown = self.given.as_ref().map(|(_, shown)| shown.as_ref());
            if !self.scope.widen(&mut update, old, shown, &moment.state) {
                return self.scope.snapshot(moment);
            }
        }
        Some(update)
    }
}

/// An update as messages of a bounded size; the receiver applies all of them at the last one.
#[must_use]
pub fn chunks(update: Update) -> Vec<pb::Update> {
    let mut head = pb::Update::from(update);
    let (removed, upserts) = (std::mem::take(&mut head.removed), std::mem::take(&mut head.upserts));
    head.more = true;
    let mut chunks = Chunks {
        done: Vec::new(),
        open: head.clone(),
        head,
        bytes: 0,
    };
    for key in removed {
        chunks.make_room(key.len());
        chunks.open.removed.push(key);
    }
    for resource in upserts {
        chunks.make_room(resource.encoded_len());
        chunks.open.upserts.push(resource);
    }
    chunks.open.more = false;
    chunks.done.push(chunks.open);
    chunks.done
}

struct Chunks {
    head: pb::Update,
    done: Vec<pb::Update>,
    open: pb::Update,
    bytes: usize,
}

impl Chunks {
    /// Opens another chunk when `len` more bytes do not fit.
    fn make_room(&mut self, len: usize) {
        let count = self.open.removed.len() + self.open.upserts.len();
        if count > 0 && (count == CHUNK_RESOURCES_MAX || self.bytes + len > CHUNK_BYTES_MAX) {
            self.done.push(std::mem::replace(&mut self.open, self.head.clone()));
            self.bytes = 0;
        }
        self.bytes += len;
    }
}
