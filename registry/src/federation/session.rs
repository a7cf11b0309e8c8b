//! One stream between the leaders of two regions, the same at both ends: it exports, imports and pings until one side goes.
//!
//! Each side sends its next update when the last one was acknowledged, so that a slow peer gets merged updates and neither
//! side keeps a queue. An update is acknowledged once it is committed.

mod imports;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use mesh::{
    model::{Held, ImportPolicy, RegionId, Update, WireError},
    runtime::clock,
};
use proto::{
    federation::v1::{Hello, PeerMessage, Ping, peer_message::Kind},
    registry::v1 as pb,
};
use thiserror::Error;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::Status;
use tracing::debug;

use super::{
    Shared,
    compare::{self, Shown},
    export::{self, Card},
    slot::Place,
};
use crate::{
    catalog::{Command, PeerRecord, Reply},
    raft::propose,
    watch::{Scope, Subscriber, chunks},
};

/// How long the other side may take to introduce itself.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Each side asks this often whether the other is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// A stream that is silent for longer is given up and dialled anew; nothing is withdrawn.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often the digest of what is shown is sent; a difference is reported within a few of them.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Most resources of one update: a region with more exports has to be split.
const UPDATE_RESOURCES_MAX: usize = 1_000_000;
/// Messages on their way out.
pub(super) const OUT_MAX: usize = 8;

/// Why a stream ended.
#[derive(Debug, Error)]
pub(super) enum SessionError {
    #[error("stream broke: {}", .0.message())]
    Stream(#[from] Status),
    #[error("peer closed the stream")]
    Closed,
    #[error("peer was silent for {0:?}")]
    Silent(Duration),
    #[error("peer sent what it may not: {0}")]
    Protocol(String),
    #[error("import was not committed")]
    Commit(#[from] propose::Error),
    #[error("import was refused: {0}")]
    Refused(String),
    #[error("peer was removed")]
    PeerRemoved,
    #[error("import policy changed; a snapshot is needed")]
    PolicyChanged,
    #[error("a repair was ordered; a snapshot is needed")]
    Repair,
    #[error("this node does not lead any more")]
    NotLeader,
    #[error("another stream took over, or this node stops")]
    Stopped,
}

/// What both sides said of themselves first.
struct Met {
    /// What is held of the peer.
    held: Option<Held>,
    /// What the peer holds.
    theirs: Option<Held>,
    /// What the peer takes; none when it wants no digests.
    takes: Option<ImportPolicy>,
    /// What is taken of the peer, as it was told.
    taken: ImportPolicy,
    /// Where this region's nodes are, as the peer was told.
    addresses: Vec<String>,
}

impl From<WireError> for SessionError {
    fn from(error: WireError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// One stream.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: RegionId,
    pub(super) place: Place,
}

impl Session {
    /// Runs until either side ends it; the error says why, also when all is well.
    pub(super) async fn run<S>(self, mut incoming: S, out: mpsc::Sender<PeerMessage>) -> SessionError
    where
        S: Stream<Item = Result<PeerMessage, Status>> + Unpin + Send,
    {
        let error = match self.meet(&mut incoming, &out).await {
            Ok(met) => self.exchange(incoming, &out, met).await,
            Err(error) => error,
        };
        self.place.ended(&chain(&error));
        error
    }

    /// Both introduce themselves.
    async fn meet<S>(&self, incoming: &mut S, out: &mpsc::Sender<PeerMessage>) -> Result<Met, SessionError>
    where
        S: Stream<Item = Result<PeerMessage, Status>> + Unpin + Send,
    {
        // A new leader must not ask for less than its predecessor committed.
        self.shared.home.catch_up().await?;
        let state = self.shared.hub.state();
        let peer = state.peer(&self.peer).ok_or(SessionError::PeerRemoved)?;
        let card = export::card(&state, self.shared.home.addresses()).ok_or(SessionError::PeerRemoved)?;
        let (held, own, addresses) = (peer.held, card.incarnation, card.addresses.clone());
        let hello = Hello {
            card: Some(card.into()),
            held: held.map(Into::into),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takes: Some(compare::takes(&peer.record.import)),
        };
        send(out, Kind::Hello(hello)).await?;
        let first = tokio::select! {
            () = self.place.stop.ordered() => return Err(SessionError::Stopped),
            first = tokio::time::timeout(HELLO_TIMEOUT, incoming.next()) => first,
        };
        let first = first.map_err(|_| SessionError::Silent(HELLO_TIMEOUT))?;
        let Some(Kind::Hello(hello)) = first.ok_or(SessionError::Closed)??.kind else {
            return Err(SessionError::Protocol("its first message is no hello".into()));
        };
        let card = hello
            .card
            .ok_or_else(|| SessionError::Protocol("its hello has no card".into()))?;
        self.note_card(&peer.record, card.try_into()?).await?;
        self.place.connected(self.shared.clock.wall(), &hello.version);
        let theirs: Option<Held> = hello.held.map(Into::into);
        if let Some(theirs) = theirs.filter(|theirs| theirs.incarnation == own) {
            self.place.acknowledged(theirs.revision);
        }
        let takes = hello.takes.as_ref().map(compare::policy).transpose()?;
        Ok(Met {
            held,
            theirs,
            takes,
            taken: peer.record.import.clone(),
            addresses,
        })
    }

    /// Keeps where the peer's nodes are, and which life its catalogue is in. Its anchors come as an import only.
    async fn note_card(&self, known: &PeerRecord, card: Card) -> Result<(), SessionError> {
        let domain = known.bundle.trust_domain();
        if card.region != self.peer || card.bundle.trust_domain() != domain {
            let text = format!(
                "it calls itself {} of {}, expected was {} of {domain}",
                card.region,
                card.bundle.trust_domain(),
                self.peer
            );
            return Err(SessionError::Protocol(text));
        }
        let mut record = known.clone();
        record.incarnation = card.incarnation;
        if !card.addresses.is_empty() {
            record.addresses = card.addresses;
        }
        if record != *known {
            self.commit(Command::PutPeer(record)).await?;
        }
        Ok(())
    }

    async fn exchange<S>(&self, incoming: S, out: &mpsc::Sender<PeerMessage>, met: Met) -> SessionError
    where
        S: Stream<Item = Result<PeerMessage, Status>> + Unpin + Send,
    {
        // One update at a time is on its way: the peer waits for its acknowledgement.
        let (updates, imports) = mpsc::channel(1);
        let (acks, acked) = watch::channel(Held::default());
        let began = clock::now();
        let (digests, shown) = watch::channel(None);
        let (cards, moved) = watch::channel(None);
        let said = Said {
            updates,
            acks,
            digests,
            cards,
            began,
        };
        let ended: Result<(), SessionError> = tokio::select! {
            () = self.place.stop.ordered() => Err(SessionError::Stopped),
            ended = self.hear(incoming, out, said) => ended,
            ended = self.export(out, &met, acked) => ended,
            ended = self.import(out, &met, imports, shown) => ended,
            ended = self.follow(moved) => ended,
            ended = self.ping(out, began, met.addresses.clone()) => ended,
            ended = self.mind(&met.taken) => ended,
        };
        ended.err().unwrap_or(SessionError::Closed)
    }

    async fn hear<S>(&self, mut incoming: S, out: &mpsc::Sender<PeerMessage>, said: Said) -> Result<(), SessionError>
    where
        S: Stream<Item = Result<PeerMessage, Status>> + Unpin + Send,
    {
        let mut open: Option<Update> = None;
        loop {
            let message = tokio::time::timeout(SILENCE_MAX, incoming.next()).await;
            let message = message.map_err(|_| SessionError::Silent(SILENCE_MAX))?;
            let message = message.ok_or(SessionError::Closed)??;
            self.place.heard(self.shared.clock.wall());
            match message.kind {
                Some(Kind::Update(chunk)) => {
                    if let Some(update) = joined(&mut open, chunk)? {
                        said.updates
                            .try_send(update)
                            .map_err(|_| SessionError::Protocol("an update before the last was acknowledged".into()))?;
                    }
                }
                Some(Kind::Ack(held)) => {
                    let held = Held::from(held);
                    self.place.acknowledged(held.revision);
                    said.acks.send_replace(held);
                }
                Some(Kind::Ping(mut ping)) => {
                    ping.answered_at_ms = self.shared.clock.wall().0;
                    send(out, Kind::Pong(ping)).await?;
                }
                Some(Kind::Pong(pong)) => {
                    if let Ok(micros) = u64::try_from(micros_since(said.began).saturating_sub(pong.sent_at_us)) {
                        let trip = Duration::from_micros(micros);
                        self.place.round_trip(trip);
                        if pong.answered_at_ms != 0 {
                            // It was answered halfway, as far as one end can know.
                            let then = self.shared.clock.wall().0 - i64::try_from(trip.as_millis() / 2).unwrap_or(0);
                            self.place.clock_ahead(pong.answered_at_ms.saturating_sub(then));
                        }
                    }
                }
                Some(Kind::Digest(digest)) => {
                    said.digests.send_replace(Some(Shown::try_from(digest)?));
                }
                Some(Kind::Card(card)) => {
                    said.cards.send_replace(Some(Card::try_from(card)?));
                }
                Some(Kind::Hello(_)) => return Err(SessionError::Protocol("a second hello".into())),
                // A newer version's message: nothing that this one could do.
                None => {}
            }
        }
    }

    async fn export(
        &self,
        out: &mpsc::Sender<PeerMessage>,
        met: &Met,
        mut acked: watch::Receiver<Held>,
    ) -> Result<(), SessionError> {
        let mut subscriber = Subscriber::new(&self.shared.hub, Scope::ExportedTo(self.peer.clone()), met.theirs);
        let mut tick = tokio::time::interval(COMPARE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let update = tokio::select! {
                biased;
                update = subscriber.next() => update.ok_or(SessionError::Stopped)?,
                _ = tick.tick() => {
                    self.show(out, &subscriber, met).await?;
                    continue;
                }
            };
            let (held, committed_at) = (update.held, update.committed_at);
            for chunk in chunks(update) {
                send(out, Kind::Update(chunk)).await?;
            }
            self.place.meters().sent(committed_at, self.shared.clock.wall());
            let sent = clock::now();
            self.show(out, &subscriber, met).await?;
            acked
                .wait_for(|acked| *acked == held)
                .await
                .map_err(|_| SessionError::Closed)?;
            self.place.meters().answered(sent);
        }
    }

    /// Sends the digest of what the peer was shown last.
    async fn show(
        &self,
        out: &mpsc::Sender<PeerMessage>,
        subscriber: &Subscriber,
        met: &Met,
    ) -> Result<(), SessionError> {
        let (Some(takes), Some((held, given))) = (&met.takes, subscriber.given()) else {
            return Ok(());
        };
        let moment = self.shared.hub.moment();
        let state = if moment.held() == held { &moment.state } else { given };
        let parts = state.shown_to(&self.peer, takes);
        send(out, Kind::Digest(compare::outward(held, &parts))).await
    }

    async fn commit(&self, command: Command) -> Result<(), SessionError> {
        match self.shared.home.propose(command).await? {
            Reply::Refused(refusal) => Err(SessionError::Refused(refusal.to_string())),
            _ => Ok(()),
        }
    }

    /// Keeps where the peer's nodes have gone while the stream stands: once it breaks, nobody could say.
    async fn follow(&self, mut moved: watch::Receiver<Option<Card>>) -> Result<(), SessionError> {
        loop {
            moved.changed().await.map_err(|_| SessionError::Closed)?;
            let card = moved.borrow_and_update().clone();
            let known = self.shared.hub.state().peer(&self.peer).map(|peer| peer.record.clone());
            let (Some(card), Some(known)) = (card, known) else {
                continue;
            };
            match self.note_card(&known, card).await {
                // The next hello tells it again; the stream has another purpose.
                Err(SessionError::Commit(error)) => debug!(peer = %self.peer, %error, "addresses were not committed"),
                noted => noted?,
            }
        }
    }

    /// Asks for a sign of life, and says where this region's nodes are when that has changed.
    async fn ping(
        &self,
        out: &mpsc::Sender<PeerMessage>,
        began: Instant,
        mut told: Vec<String>,
    ) -> Result<(), SessionError> {
        let mut tick = tokio::time::interval(PING_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let sent_at_us = micros_since(began);
            let ping = Ping {
                sent_at_us,
                answered_at_ms: 0,
            };
            send(out, Kind::Ping(ping)).await?;
            let addresses = self.shared.home.addresses();
            if addresses != told
                && let Some(card) = export::card(&self.shared.hub.state(), addresses.clone())
            {
                send(out, Kind::Card(card.into())).await?;
                told = addresses;
            }
        }
    }

    /// Ends the stream when its reason is gone: the peer, what it was asked for, or this node's leadership.
    async fn mind(&self, taken: &ImportPolicy) -> Result<(), SessionError> {
        let mut moments = self.shared.hub.moments();
        let mut leader = self.shared.home.leader_changed();
        let mut was_held = false;
        loop {
            if !self.shared.home.is_leader() {
                return Err(SessionError::NotLeader);
            }
            let state = Arc::clone(&moments.borrow_and_update().state);
            let peer = state.peer(&self.peer).ok_or(SessionError::PeerRemoved)?;
            if peer.record.import != *taken {
                return Err(SessionError::PolicyChanged);
            }
            let is_held = peer.held.is_some();
            if was_held && !is_held {
                return Err(SessionError::Repair);
            }
            was_held = is_held;
            tokio::select! {
                changed = moments.changed() => changed.map_err(|_| SessionError::Stopped)?,
                changed = leader.changed() => changed.map_err(|_| SessionError::Stopped)?,
            }
        }
    }
}

/// Where what the peer says goes.
struct Said {
    updates: mpsc::Sender<Update>,
    acks: watch::Sender<Held>,
    digests: watch::Sender<Option<Shown>>,
    cards: watch::Sender<Option<Card>>,
    /// When the stream began, from which pings count.
    began: Instant,
}

/// Puts chunks together; gives the whole at the last one.
fn joined(open: &mut Option<Update>, chunk: pb::Update) -> Result<Option<Update>, SessionError> {
    let more = chunk.more;
    let chunk = Update::try_from(chunk)?;
    let whole = match open.take() {
        None => chunk,
        Some(mut whole) => {
            if whole.held != chunk.held || whole.full != chunk.full || whole.region != chunk.region {
                return Err(SessionError::Protocol("a chunk of another update".into()));
            }
            whole.upserts.extend(chunk.upserts);
            whole.removed.extend(chunk.removed);
            whole
        }
    };
    if whole.upserts.len() + whole.removed.len() > UPDATE_RESOURCES_MAX {
        let text = format!("an update of more than {UPDATE_RESOURCES_MAX} resources");
        return Err(SessionError::Protocol(text));
    }
    if more {
        *open = Some(whole);
        return Ok(None);
    }
    Ok(Some(whole))
}

/// Monotonic, since the stream began.
fn micros_since(began: Instant) -> i64 {
    i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX)
}

async fn send(out: &mpsc::Sender<PeerMessage>, kind: Kind) -> Result<(), SessionError> {
    let message = PeerMessage { kind: Some(kind) };
    out.send(message).await.map_err(|_| SessionError::Closed)
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
