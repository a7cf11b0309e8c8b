//! The subscription: one stream to any node of the own region's registry, opened again elsewhere when it ends. Its silence
//! withdraws nothing: the last view stays published, and grows older.

mod meters;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use proto::registry::v1::{self as pb, watch_client::WatchClient, watch_request::Kind};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use self::meters::Meters;
use super::{Interest, Publisher, Views, cache};
use crate::{
    identity::{Expect, Identity, Role},
    model::{Held, Revision, Timestamp, Update, View, WireError},
    net::grpc::{self, Credentials, DialError, Timeouts},
    ops::Metrics,
    runtime::{Backoff, OnExit, Pending, Ready, Tasks, clock},
};

/// Most records of one snapshot; a registry that sends more has lost its mind.
const RECORDS_MAX: usize = 2_000_000;
/// Acknowledgements that wait to be sent; a later one covers those before it.
const ACKS_MAX: usize = 16;
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
    /// What the view shall hold.
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

/// When the registry was last known to agree with the view.
#[derive(Debug)]
struct Contact {
    connected: AtomicBool,
    /// Unix milliseconds; 0 = never.
    heard_at: AtomicI64,
}

impl Contact {
    fn age(&self, now: Timestamp) -> Option<Duration> {
        if self.connected.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let heard_at = self.heard_at.load(Ordering::Relaxed);
        (heard_at != 0).then(|| now.since(Timestamp(heard_at)))
    }

    fn connect(&self, connected: bool) {
        self.heard_at.store(clock::wall().0, Ordering::Relaxed);
        self.connected.store(connected, Ordering::Relaxed);
    }
}

impl Subscription {
    /// Publishes the view on disk, if there is a good one, and keeps it current from then on. Blocks for the reading of the
    /// file. `ready` waits for the first view, which the one from disk is.
    #[must_use]
    pub fn spawn(settings: Settings, identity: Identity, tasks: &Tasks, metrics: &Metrics, ready: &Ready) -> Self {
        let mut pending = Some(ready.hold("first view"));
        let cached = settings.cache.as_deref().and_then(|path| {
            cache::load(path).unwrap_or_else(|error| {
                warn!(error = %chain(&error), "view on disk is not used");
                None
            })
        });
        let contact = Arc::new(Contact {
            connected: AtomicBool::new(false),
            heard_at: AtomicI64::new(cached.as_ref().map_or(0, |cached| cached.saved_at.0)),
        });
        let (view, complete_for) = match cached {
            None => (View::default(), None),
            Some(cached) => {
                info!(revision = %cached.view.held().revision, "view from disk");
                pending = None;
                // Bundles from before this certificate was issued may be those of an authority that is no more.
                if cached.saved_at >= identity.svid().not_before() {
                    identity.replace_bundles(cached.view.bundles().values().cloned());
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
            complete_for,
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
        self.contact.connected.load(Ordering::Relaxed)
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

/// What the cache shall write next.
type Save = Option<(Arc<View>, Option<Interest>)>;

struct Follower {
    settings: Settings,
    identity: Identity,
    publisher: Publisher,
    wanted: watch::Receiver<Interest>,
    /// The interest that the published view satisfies; none = ask for a snapshot.
    complete_for: Option<Interest>,
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
            if self.contact.connected.load(Ordering::Relaxed) {
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

        let mut interest = self.wanted.borrow_and_update().clone();
        let view = self.publisher.current();
        let resumes = view.region().is_some() && self.complete_for.as_ref() == Some(&interest);
        let (requests, outgoing) = mpsc::channel(ACKS_MAX);
        let start = pb::Start {
            interest: Some(interest.to_wire()),
            held: resumes.then(|| view.held().into()),
            subscriber: self.settings.subscriber.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        drop(view);
        // The queue is new and its reader lives in the call below.
        let _ = requests.try_send(request(Kind::Start(start)));
        let stream = client.subscribe(ReceiverStream::new(outgoing));
        // A node that accepts the connection and then says nothing is as good as dead.
        let stream = tokio::time::timeout(self.settings.connect_timeout * 2, stream).await;
        let mut updates = stream.map_err(|_| SessionError::Closed)??.into_inner();

        let mut building: Option<(View, usize)> = None;
        loop {
            let update = tokio::select! {
                update = updates.message() => update?.ok_or(SessionError::Closed)?,
                Ok(()) = self.wanted.changed() => {
                    interest = self.wanted.borrow_and_update().clone();
                    // Which update brings what it adds is not said, so that the next stream starts from a snapshot.
                    self.complete_for = None;
                    let message = request(Kind::Interest(interest.to_wire()));
                    requests.send(message).await.map_err(|_| SessionError::Closed)?;
                    continue;
                }
            };
            if !self.contact.connected.load(Ordering::Relaxed) {
                info!(subscriber = %self.settings.subscriber, "subscribed");
                self.meters.connected.set(1.0);
            }
            self.contact.connect(true);
            let full = update.full && building.is_none();
            let is_empty = update.upserts.is_empty() && update.removed.is_empty() && building.is_none() && !full;
            if let Some(applied) = self.apply(update, &mut building)? {
                if full {
                    self.complete_for = Some(interest.clone());
                }
                self.publish(applied, !is_empty);
                let ack = pb::Ack {
                    held: Some(self.publisher.current().held().into()),
                    applied_at_ms: clock::wall().0,
                };
                // Where the queue is full a later acknowledgement covers this one.
                let _ = requests.try_send(request(Kind::Ack(ack)));
            }
        }
    }

    /// Adds a chunk; gives the next view at the last one.
    fn apply(
        &mut self,
        mut update: pb::Update,
        building: &mut Option<(View, usize)>,
    ) -> Result<Option<View>, SessionError> {
        let (more, full, committed_at) = (update.more, update.full, update.committed_at_ms);
        let current = self.publisher.current();
        if building.is_none() {
            self.check_position(&update, &current)?;
        }
        let (base, before) = match building.take() {
            // Later chunks of a snapshot add to the first one.
            Some((view, records)) => {
                update.full = false;
                (Arc::new(view), records)
            }
            None => (current, 0),
        };
        let records = before + update.upserts.len() + update.removed.len();
        if records > RECORDS_MAX {
            return Err(SessionError::TooLarge);
        }
        let next = base.updated(Update::try_from(update)?);
        if more {
            *building = Some((next, records));
            return Ok(None);
        }
        if full {
            self.meters.snapshots.increment(1);
        } else {
            self.meters.updates.increment(1);
        }
        if committed_at > 0 {
            let lag = clock::wall().since(Timestamp(committed_at));
            self.meters.applied.record(lag.as_secs_f64());
        }
        Ok(Some(next))
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
            self.complete_for = None;
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
                self.complete_for = None;
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
                .send_replace(Some((self.publisher.current(), self.complete_for.clone())));
        }
        self.pending = None;
    }
}

fn request(kind: Kind) -> pb::WatchRequest {
    pb::WatchRequest { kind: Some(kind) }
}

/// Writes the newest view, at most once an interval, and once more at the end.
async fn keep(path: PathBuf, interval: Duration, mut saves: watch::Receiver<Save>, tasks: Tasks) {
    let stop = tasks.stop().clone();
    loop {
        let stopping = tokio::select! {
            () = stop.ordered() => true,
            changed = saves.changed() => changed.is_err(),
        };
        // The writer is gone when the stop was ordered; what it left is then still to be written.
        if !stopping || saves.has_changed().unwrap_or(true) {
            let save = saves.borrow_and_update().clone();
            write(&path, save).await;
        }
        if stopping {
            return stop.ordered().await;
        }
        tokio::select! {
            () = stop.ordered() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

async fn write(path: &std::path::Path, save: Save) {
    let Some((view, interest)) = save else { return };
    let path = path.to_owned();
    let now = clock::wall();
    let written = tokio::task::spawn_blocking(move || cache::save(&path, &view, interest.as_ref(), now)).await;
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %chain(&error), "view not kept on disk"),
        Err(error) => warn!(%error, "view not kept on disk"),
    }
}

/// An error with its causes, for one line of a log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
