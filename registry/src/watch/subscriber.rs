//! One subscriber's way through the moments: it waits, gathers what changed meanwhile, and gives the next update.
//!
//! It keeps no queue: whoever is slow gets the newest state of each key once, however often it changed.

use std::{
    future::{Future, poll_fn},
    iter::{Map, Peekable},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec,
};

use mesh::{
    model::{Held, Key, Resource, Update},
    runtime::clock,
};
use proto::registry::v1 as pb;
use tokio::{
    sync::watch,
    time::{Instant, Sleep},
};

use super::{Given, Hub, Moment, Scope, bells::Bell, given::Kept, scope::Sight};
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
    bell: Bell,
    kept: Arc<Kept>,
    scope: Scope,
    sight: Sight,
    /// Everything visible up to here was given.
    held: Option<Held>,
    /// The position of the update that was given last, with the state that it was made of and the time.
    given: Option<(Held, Arc<State>)>,
    given_at: Instant,
    /// The scope that `held` was shown under, when another one has taken its place since.
    replaced: Option<Scope>,
    behind_until: Instant,
    next: Next,
    alarm: Alarm,
}

/// When to look at the newest moment again.
#[derive(Clone, Copy, Debug)]
enum Next {
    Now,
    /// At a newer moment, or at a time.
    News {
        until: Option<Instant>,
    },
}

enum Step {
    Give(Given),
    Wait { until: Option<Instant> },
}

impl Subscriber {
    /// Goes on from `held`; from nothing when it is none.
    #[must_use]
    pub fn new(hub: &Hub, scope: Scope, held: Option<Held>) -> Self {
        let now = clock::now();
        Self {
            moments: hub.moments(),
            bell: hub.bell(),
            kept: Arc::clone(hub.kept()),
            sight: scope.sight(),
            scope,
            held,
            given: None,
            given_at: now,
            replaced: None,
            behind_until: now + BEHIND_MAX,
            next: Next::Now,
            alarm: Alarm::default(),
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
        self.sight = scope.sight();
        let old = std::mem::replace(&mut self.scope, scope);
        // Replaced twice before an update: what was shown is still what the first one showed.
        self.replaced.get_or_insert(old);
        self.next = Next::Now;
    }

    /// The position of the update that was given last, and the catalogue that it was made of.
    #[must_use]
    pub fn given(&self) -> Option<(Held, &Arc<State>)> {
        self.given.as_ref().map(|(held, state)| (*held, state))
    }

    /// The next update, once there is one; none when the hub is gone. Safe to cancel: what was not returned is still to
    /// come.
    pub async fn next(&mut self) -> Option<Update> {
        poll_fn(|cx| self.poll_next(cx)).await.map(Given::into_update)
    }

    /// As [`Subscriber::next`], perhaps shared with others. Wakes the last task that asked.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Given>> {
        self.bell.wake(cx.waker());
        loop {
            if let Next::News { until } = self.next {
                match self.moments.has_changed() {
                    // Alone it goes at once; the next ones, close behind, go together.
                    Ok(true) => ready!(self.alarm.poll(self.given_at + COALESCED, cx)),
                    Ok(false) => match until {
                        Some(until) => ready!(self.alarm.poll(until, cx)),
                        None => return Poll::Pending,
                    },
                    Err(_) => return Poll::Ready(None),
                }
            }
            let moment = Arc::clone(&self.moments.borrow_and_update());
            match self.step(&moment, clock::now()) {
                Step::Give(given) => {
                    self.next = Next::News { until: None };
                    return Poll::Ready(Some(given));
                }
                Step::Wait { until } => self.next = Next::News { until },
            }
        }
    }

    fn step(&mut self, moment: &Arc<Moment>, now: Instant) -> Step {
        let is_behind = self
            .held
            .is_some_and(|held| held.incarnation == moment.state.incarnation() && held.revision > moment.revision);
        if is_behind && now < self.behind_until {
            return Step::Wait {
                until: Some(self.behind_until),
            };
        }
        // A state without a region is not one yet.
        let Some(given) = self.give(moment) else {
            return Step::Wait { until: None };
        };
        let update = given.update();
        let is_empty =
            !update.full && update.upserts.is_empty() && update.removed.is_empty() && self.replaced.is_none();
        if let (true, Some((last, _))) = (is_empty, &self.given) {
            self.held = Some(update.held);
            let quiet_until = self.given_at + QUIET_MAX;
            if *last == update.held {
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
        Step::Give(given)
    }

    fn give(&self, moment: &Arc<Moment>) -> Option<Given> {
        let snapshot = || self.scope.snapshot(moment).map(Given::alone);
        let Some(touched) = self.held.and_then(|held| self.scope.touched(moment, held)) else {
            return snapshot();
        };
        let tell = || self.scope.told(moment, &touched);
        let Some(old) = &self.replaced else {
            return self.kept.get_or_make(moment, &self.sight, &touched, tell);
        };
        let mut update = tell()?;
        // What was shown in another session is not known here.
        let shown = self.given.as_ref().map(|(_, shown)| shown.as_ref());
        if !self.scope.widen(&mut update, old, shown, &moment.state) {
            return snapshot();
        }
        Some(Given::alone(update))
    }
}

/// A timer that is there only while it is needed, which is seldom.
#[derive(Debug, Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if clock::now() >= at {
            // One that is armed for later stays: it is most often asked for again.
            return Poll::Ready(());
        }
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        ready!(sleep.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(())
    }
}

/// An update as messages of a bounded size, made one by one; the receiver applies all of them at the last one.
pub fn chunks(mut update: Update) -> Chunks {
    let (removed, upserts) = (std::mem::take(&mut update.removed), std::mem::take(&mut update.upserts));
    let text: fn(Key) -> String = |key| key.to_string();
    let message: fn(Resource) -> pb::Resource = Into::into;
    Chunks {
        head: update.into(),
        removed: removed.into_iter().map(text).peekable(),
        upserts: upserts.into_iter().map(message).peekable(),
        has_ended: false,
    }
}

/// Made when it is looked at.
type Converted<T, M> = Peekable<Map<vec::IntoIter<T>, fn(T) -> M>>;

/// The messages of an update.
#[derive(Debug)]
pub struct Chunks {
    /// What all have in common.
    pub(super) head: pb::Update,
    removed: Converted<Key, String>,
    upserts: Converted<Resource, pb::Resource>,
    has_ended: bool,
}

impl Chunks {
    /// Length of what comes next.
    fn len_of_next(&mut self) -> Option<usize> {
        let removed = self.removed.peek().map(String::len);
        removed.or_else(|| self.upserts.peek().map(prost::Message::encoded_len))
    }
}

impl Iterator for Chunks {
    type Item = pb::Update;

    fn next(&mut self) -> Option<pb::Update> {
        if self.has_ended {
            return None;
        }
        let (mut chunk, mut count, mut bytes) = (self.head.clone(), 0, 0);
        while let Some(len) = self.len_of_next() {
            if count > 0 && (count == CHUNK_RESOURCES_MAX || bytes + len > CHUNK_BYTES_MAX) {
                chunk.more = true;
                return Some(chunk);
            }
            (count, bytes) = (count + 1, bytes + len);
            match self.removed.next() {
                Some(key) => chunk.removed.push(key),
                None => chunk.upserts.extend(self.upserts.next()),
            }
        }
        self.has_ended = true;
        Some(chunk)
    }
}
