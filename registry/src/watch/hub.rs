//! The hub: holds the newest moment of the catalogue for all who watch. One writer, the state machine.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use mesh::{
    model::{Held, Key, Resource, Revision, View},
    ops::Metrics,
    runtime::{OnExit, Tasks, clock},
    subscribe::{Publisher, Views},
};
use metrics::{Gauge, Histogram};
use tokio::sync::watch;

use super::{
    History, Publish, Published, Scope,
    bells::{Bell, Bells, LastRing},
    given::Kept,
    status::Subscribers,
    sums::Sums,
};
use crate::catalog::State;

/// Changes that are kept for those who come back: minutes of a busy region, some megabytes.
const HISTORY_CHANGES_MAX: usize = 8_192;

/// The catalogue at one revision, with the way that led there.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The catalogue.
    pub state: Arc<State>,
    /// Its revision.
    pub revision: Revision,
    /// The newest changes.
    pub history: History,
}

impl Moment {
    /// The position of whoever has seen this moment.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            incarnation: self.state.incarnation(),
            revision: self.revision,
        }
    }
}

/// Publishes moments; subscribers wait on it.
#[derive(Debug)]
pub struct Hub {
    moments: watch::Sender<Arc<Moment>>,
    bells: Arc<Bells>,
    /// Dropped after the moments: whoever is woken finds that there will be no more of them.
    _last: LastRing,
    kept: Arc<Kept>,
    subscribers: Arc<Subscribers>,
    revision: Gauge,
    publish: Histogram,
    /// The own view's reading end, once it was asked for.
    views: Mutex<Option<Views>>,
    /// Guards plain values.
    sums: Mutex<Sums>,
}

impl Hub {
    /// A hub with nothing to show until the first publication.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Arc<Self> {
        let nothing = Moment {
            state: Arc::default(),
            revision: Revision(0),
            history: History::new(Revision(0), HISTORY_CHANGES_MAX),
        };
        let bells = Arc::<Bells>::default();
        Arc::new(Self {
            moments: watch::Sender::new(Arc::new(nothing)),
            _last: LastRing(Arc::clone(&bells)),
            bells,
            kept: Arc::default(),
            subscribers: Subscribers::new(metrics),
            revision: metrics.gauge(
                "isthmus_registry_revision",
                "revision of the catalogue on this node",
                &[],
            ),
            publish: metrics.histogram(
                "isthmus_watch_commit_to_published_seconds",
                "from the proposal of a change to its publication on this node; clocks of two nodes are compared",
                &[],
            ),
            views: Mutex::new(None),
            sums: Mutex::default(),
        })
    }

    /// The newest moment.
    #[must_use]
    pub fn moment(&self) -> Arc<Moment> {
        Arc::clone(&self.moments.borrow())
    }

    /// The newest catalogue.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.moments.borrow().state)
    }

    /// Hears of each new moment, or of the newest of several.
    #[must_use]
    pub fn moments(&self) -> watch::Receiver<Arc<Moment>> {
        self.moments.subscribe()
    }

    /// Rings after each new moment, and when the hub is gone.
    pub(super) fn bell(&self) -> Bell {
        self.bells.hang()
    }

    /// The updates that subscribers share.
    pub(super) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// The digest of the catalogue at a revision; none when it is not among the newest.
    #[must_use]
    pub fn sum_at(&self, revision: Revision) -> Option<u128> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).at(revision)
    }

    /// Who watches.
    #[must_use]
    pub fn subscribers(&self) -> &Arc<Subscribers> {
        &self.subscribers
    }

    /// The region's own full view, for DNS and for answers to operators; kept current by a task of `tasks`.
    #[must_use]
    pub fn local_views(&self, tasks: &Tasks) -> Views {
        // Guards the first call only.
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(views) = views.as_ref() {
            return views.clone();
        }
        let mut moments = self.moments();
        let first = follow(&View::default(), &moments.borrow_and_update());
        let (publisher, reader) = Publisher::new(first.unwrap_or_default());
        let stop = tasks.stop().clone();
        tasks.spawn("local-view", OnExit::StopProcess, async move {
            loop {
                tokio::select! {
                    () = stop.ordered() => return,
                    changed = moments.changed() => {
                        if changed.is_err() {
                            // The hub is gone: the process ends.
                            stop.ordered().await;
                            return;
                        }
                        let moment = Arc::clone(&moments.borrow_and_update());
                        if let Some(view) = follow(&publisher.current(), &moment) {
                            publisher.publish(view);
                        }
                    }
                }
            }
        });
        *views = Some(reader.clone());
        reader
    }
}

/// The view that a moment makes of the one before; none while there is no region. Its endpoints are the catalogue's own maps.
fn follow(view: &View, moment: &Moment) -> Option<View> {
    let delta = Scope::Everything.delta(moment, view.held());
    let mut update = delta.or_else(|| Scope::Everything.snapshot(moment))?;
    let mut services = BTreeSet::new();
    update.upserts.retain(|resource| match resource {
        Resource::Endpoint(endpoint) => {
            services.insert(endpoint.service.clone());
            false
        }
        _ => true,
    });
    update.removed.retain(|key| match key {
        Key::Endpoint(service, _) => {
            services.insert(service.clone());
            false
        }
        _ => true,
    });
    let mut next = view.updated(update);
    for service in services {
        next.set_endpoints(&service, moment.state.endpoint_map(&service));
    }
    Some(next)
}

impl Publish for Hub {
    fn publish(&self, published: Published) {
        let (revision, at, is_news) = (published.revision, published.at, !published.reset);
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if published.reset {
            sums.reset();
        }
        sums.push(revision, published.state.sum());
        drop(sums);
        self.moments.send_modify(|moment| {
            let mut history = moment.history.clone();
            // A new life's revisions cannot be compared with the old one's.
            if published.reset || moment.state.incarnation() != published.state.incarnation() {
                history = History::new(revision, HISTORY_CHANGES_MAX);
            } else {
                history.push(revision, published.at, published.changes);
            }
            *moment = Arc::new(Moment {
                state: published.state,
                revision,
                history,
            });
        });
        self.bells.ring();
        #[expect(clippy::cast_precision_loss, reason = "a gauge; exact up to 2^53 entries")]
        self.revision.set(revision.0 as f64);
        if is_news && at.0 > 0 {
            self.publish.record(clock::wall().since(at).as_secs_f64());
        }
    }
}
