//! The subscription: one stream to any node of the own region's registry, opened again elsewhere when it ends. Its silence
//! withdraws nothing: the last view stays published, and grows older.

mod acks;
mod meters;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use proto::registry::v1::{self as pb, watch_client::WatchClient, watch_request::Kind};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use self::{acks::Acks, meters::Meters};
use super::{
    Contact, Demand, Interest, Publisher, Views,
    asked::{Asked, Unsure},
    cache, demand,
    keep::{Save, chain, keep},
};
use crate::{
    identity::{Expect, Identity, Role},
    model::{Held, Revision, ServiceName, Timestamp, Update, View, WireError},
    net::grpc::{self, Credentials, DialError, Timeouts},
    ops::Metrics,
    runtime::{Backoff, OnExit, Pending, Ready, Tasks, clock},
};

/// Most records of one snapshot; a registry that sends more has lost its mind.
const RECORDS_MAX: usize = 2_000_000;
/// Requests that wait to be sent.
const REQUESTS_MAX: usize = 16;
/// How often a node may offer an older view than the held one before it is believed. A node that lags catches up meanwhile.
const REFUSALS_MAX: u32 = 3;
const AGE_TICK: Duration = Duration::from_secs(1);

/// How to subscribe.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of the region's registry nodes.
    pub addresses: Vec<String>,
    /// Who asks, for the operator.
    pub subscriber: String,
    /// What the view shall hold. With `names`, also the endpoints of the services that the view on disk was complete for.
    pub interest: Interest,
    /// The file that keeps the last view; none keeps nothing.
    pub cache: Option<PathBuf>,
    /// Least time between two writes of the file. Default 500 ms: a lost half second is fetched again as a delta.
    pub cache_interval: Duration,
    /// Waits between attempts to connect, first and longest. Default 100 ms to 5 s.
    pub retry: (Duration, Duration),
    /// For one connection, handshake included. Default 2 s: another node may be alive.
    pub connect_timeout: Duration,
}

impl Settings {
    /// The defaults.
    #[must_use]
    pub fn new(addresses: Vec<String>, subscriber: String, interest: Interest, cache: Option<PathBuf>) -> Self {
        Self {
            addresses,
            subscriber,
            interest,
            cache,
            cache_interval: Duration::from_millis(500),
            retry: (Duration::from_millis(100), Duration::from_secs(5)),
            connect_timeout: Duration::from_secs(2),
        }
    }
}

/// A running subscription. It lives as long as the tasks it was started with.
#[derive(Debug)]
pub struct Subscription {
    views: Views,
    interest: watch::Sender<Interest>,
    contact: Arc<Contact>,
}

impl Subscription {
    /// Publishes the view on disk, if there is a good one, and keeps it current from then on. Blocks for the reading of the
    /// file. `ready` waits for the first view, which the one from disk is.
    #[must_use]
    pub fn spawn(mut settings: Settings, identity: Identity, tasks: &Tasks, metrics: &Metrics, ready: &Ready) -> Self {
        let mut pending = Some(ready.hold("first view"));
        let cached = settings.cache.as_deref().and_then(|path| {
            cache::load(path).unwrap_or_else(|error| {
                warn!(error = %chain(&error), "view on disk is not used");
                None
            })
        });
        let contact = Arc::new(Contact::new(cached.as_ref().map(|cached| cached.saved_at)));
        let (view, complete_for) = match cached {
            None => (View::default(), None),
            Some(cached) => {
                info!(revision = %cached.view.held().revision, "view from disk");
                pending = None;
                // Bundles from before this certificate was issued may be those of an authority that is no more.
                if cached.saved_at >= identity.svid().not_before() {
                    identity.replace_bundles(cached.view.bundles().values().cloned());
                }
                if let (true, Some(before)) = (settings.interest.names, &cached.interest) {
                    // What was in use goes on being in use.
                    settings.interest.services.extend(before.services.iter().cloned());
                }
                (cached.view, cached.interest)
            }
        };
        let (publisher, views) = Publisher::new(view);
        let (interest, wanted) = watch::channel(settings.interest.clone());
        let (saves, to_save) = watch::channel(None);
        if let Some(path) = settings.cache.clone() {
            let keep = keep(path, settings.cache_interval, to_save, tasks.clone());
            tasks.spawn("view-cache", OnExit::StopProcess, keep);
        }
        let follower = Follower {
            meters: Meters::new(metrics),
            settings,
            identity,
            publisher,
            wanted,
            asked: Asked::new(complete_for),
            saves,
            contact: Arc::clone(&contact),
            pending,
            refusals: 0,
        };
        let tasks_of_follower = tasks.clone();
        tasks.spawn("subscription", OnExit::StopProcess, async move {
            let stop = tasks_of_follower.stop().clone();
            tokio::select! {
                () = stop.ordered() => {}
                () = follower.run() => {}
            }
        });
        Self {
            views,
            interest,
            contact,
        }
    }

    /// The reading end.
    #[must_use]
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// From now on the view shall hold this.
    pub fn set_interest(&self, interest: Interest) {
        self.interest.send_if_modified(|current| {
            let changed = *current != interest;
            *current = interest;
            changed
        });
    }

    /// Whether the stream stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.contact.is_connected()
    }

    /// What decides by use which endpoints the view holds. `pinned` services are never let go of.
    #[must_use]
    pub fn demand(&self, settings: demand::Settings, pinned: BTreeSet<ServiceName>, metrics: &Metrics) -> Demand {
        let (views, interest) = (self.views.clone(), self.interest.clone());
        Demand::new(settings, pinned, views, interest, Arc::clone(&self.contact), metrics)
    }

    /// How long ago the registry last agreed with the view; zero while connected, none when it never did.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.contact.age(clock::wall())
    }
}

/// Why a stream ended.
#[derive(Debug, Error)]
enum SessionError {
    #[error("no node of the registry answers")]
    Dial(#[source] Box<DialError>),
    #[error("registry ended the subscription: {}", .0.message())]
    Status(Box<tonic::Status>),
    #[error("registry closed the stream")]
    Closed,
    #[error("registry sent what this version cannot read")]
    Wire(#[from] WireError),
    #[error("registry sent a snapshot of more than {RECORDS_MAX} records")]
    TooLarge,
    #[error("registry sent a delta of another incarnation than the held one")]
    OtherIncarnation,
    #[error("registry sent a delta that may lack what is not held here")]
    Unsure,
    #[error("node is at revision {theirs}, behind the held {held}")]
    Behind { theirs: Revision, held: Revision },
}

impl From<DialError> for SessionError {
    fn from(error: DialError) -> Self {
        Self::Dial(Box::new(error))
    }
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<Unsure> for SessionError {
    fn from(Unsure: Unsure) -> Self {
        Self::Unsure
    }
}

/// An update of which chunks are still to come.
struct Building {
    view: View,
    records: usize,
    full: bool,
}

struct Follower {
    settings: Settings,
    identity: Identity,
    publisher: Publisher,
    wanted: watch::Receiver<Interest>,
    asked: Asked,
    saves: watch::Sender<Save>,
    contact: Arc<Contact>,
    pending: Option<Pending>,
    refusals: u32,
    meters: Meters,
}

impl Follower {
    async fn run(mut self) {
        let (age, contact) = (self.meters.age.clone(), Arc::clone(&self.contact));
        let tick = async move {
            let mut interval = tokio::time::interval(AGE_TICK);
            loop {
                interval.tick().await;
                if let Some(current) = contact.age(clock::wall()) {
                    age.set(current.as_secs_f64());
                }
            }
        };
        tokio::select! {
            () = tick => {}
            () = self.sessions() => {}
        }
    }

    async fn sessions(&mut self) {
        let mut backoff = Backoff::new(self.settings.retry.0, self.settings.retry.1);
        loop {
            let before = self.publisher.current().held();
            let Err(error) = self.session().await;
            if self.contact.is_connected() {
                self.contact.connect(false);
                self.meters.connected.set(0.0);
                self.meters.ended.increment(1);
                warn!(error = %chain(&error), "subscription ended; the view stays");
            } else {
                warn!(error = %chain(&error), "not subscribed; the view stays");
            }
            if self.publisher.current().held() != before {
                backoff.reset();
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    /// One stream from its opening to its end.
    async fn session(&mut self) -> Result<std::convert::Infallible, SessionError> {
        let expect = Expect::System(Role::Registry, self.identity.trust_domain());
        let timeouts = Timeouts {
            connect: self.settings.connect_timeout,
            ..Timeouts::default()
        };
        let credentials = Credentials::from(self.identity.clone());
        let channel = grpc::connect_any(&self.settings.addresses, &credentials, &expect, timeouts).await?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(grpc::MESSAGE_BYTES_MAX);

        let interest = self.wanted.borrow_and_update().clone();
        let opening = self.asked.open(interest.clone());
        let view = self.publisher.current();
        let resumes = view.region().is_some() && opening.resumes;
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let start = pb::Start {
            interest: Some(interest.to_wire(opening.sequence)),
            held: resumes.then(|| view.held().into()),
            subscriber: self.settings.subscriber.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            shown: opening.shown.filter(|_| resumes).map(|shown| shown.to_wire(0)),
        };
        drop(view);
        // The queue is new and its reader lives in the call below.
        let _ = requests.try_send(request(Kind::Start(start)));
        let stream = client.subscribe(ReceiverStream::new(outgoing));
        // A node that accepts the connection and then says nothing is as good as dead.
        let stream = tokio::time::timeout(self.settings.connect_timeout * 2, stream).await;
        let mut updates = stream.map_err(|_| SessionError::Closed)??.into_inner();

        let mut building: Option<Building> = None;
        let mut acks = Acks::default();
        loop {
            let update = tokio::select! {
                update = updates.message() => update?.ok_or(SessionError::Closed)?,
                ack = acks.due() => {
                    // Where the queue is full a later acknowledgement covers this one.
                    let _ = requests.try_send(request(Kind::Ack(ack)));
                    continue;
                }
                Ok(()) = self.wanted.changed(), if self.asked.may_change() => {
                    let interest = self.wanted.borrow_and_update().clone();
                    let sequence = self.asked.change(interest.clone());
                    let message = request(Kind::Interest(interest.to_wire(sequence)));
                    requests.send(message).await.map_err(|_| SessionError::Closed)?;
                    continue;
                }
            };
            if !self.contact.is_connected() {
                info!(subscriber = %self.settings.subscriber, "subscribed");
                self.meters.connected.set(1.0);
            }
            self.contact.connect(true);
            let is_empty = update.upserts.is_empty() && update.removed.is_empty() && building.is_none() && !update.full;
            if let Some((applied, widened)) = self.apply(update, &mut building)? {
                self.publish(applied, !is_empty || widened);
                acks.applied(self.publisher.current().held());
            }
        }
    }

    /// Adds a chunk; at the last one gives the next view, and whether it is complete for another interest than the one before.
    fn apply(
        &mut self,
        mut update: pb::Update,
        building: &mut Option<Building>,
    ) -> Result<Option<(View, bool)>, SessionError> {
        let (more, made_for, committed_at) = (update.more, update.interest, update.committed_at_ms);
        let current = self.publisher.current();
        if building.is_none() {
            self.check_position(&update, &current)?;
        }
        let (base, before, full) = match building.take() {
            // Later chunks of a snapshot add to the first one.
            Some(building) => {
                update.full = false;
                (Arc::new(building.view), building.records, building.full)
            }
            None => (current, 0, update.full),
        };
        let records = before + update.upserts.len() + update.removed.len();
        if records > RECORDS_MAX {
            return Err(SessionError::TooLarge);
        }
        let view = base.updated(Update::try_from(update)?);
        if more {
            *building = Some(Building { view, records, full });
            return Ok(None);
        }
        let widened = self.asked.heard(made_for, full)?;
        let next = view.covering(self.asked.coverage());
        if full {
            self.meters.snapshots.increment(1);
        } else {
            self.meters.updates.increment(1);
        }
        if committed_at > 0 {
            let lag = clock::wall().since(Timestamp(committed_at));
            self.meters.applied.record(lag.as_secs_f64());
        }
        Ok(Some((next, widened)))
    }

    fn check_position(&mut self, update: &pb::Update, current: &View) -> Result<(), SessionError> {
        let Some(held) = update.held.map(Held::from) else {
            return Err(WireError::new("update.held", "is missing").into());
        };
        let own = current.held();
        if current.region().is_none() {
            return if update.full {
                Ok(())
            } else {
                Err(SessionError::OtherIncarnation)
            };
        }
        if held.incarnation != own.incarnation {
            if update.full {
                return Ok(());
            }
            self.asked.forget();
            return Err(SessionError::OtherIncarnation);
        }
        if held.revision < own.revision {
            self.refusals += 1;
            if self.refusals <= REFUSALS_MAX {
                return Err(SessionError::Behind {
                    theirs: held.revision,
                    held: own.revision,
                });
            }
            if !update.full {
                // Whatever happened there, only a snapshot can be right.
                self.asked.forget();
                return Err(SessionError::OtherIncarnation);
            }
        }
        self.refusals = 0;
        Ok(())
    }

    /// An update that only moves the position is not worth a write: it costs a longer delta after a restart.
    fn publish(&mut self, view: View, worth_a_write: bool) {
        // Bundles first: whoever is in the new view can then be verified. The own domain's stays whatever comes.
        self.identity.replace_bundles(view.bundles().values().cloned());
        self.meters.revision.set(view.held().revision.0 as f64);
        self.publisher.publish(view);
        if worth_a_write {
            self.saves
                .send_replace(Some((self.publisher.current(), self.asked.complete_for().cloned())));
        }
        self.pending = None;
    }
}

fn request(kind: Kind) -> pb::WatchRequest {
    pb::WatchRequest { kind: Some(kind) }
}
