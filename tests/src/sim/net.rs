//! The network: between the nodes of a region it carries Raft's requests and answers as bytes, each of which may be late,
//! lost or there twice; between regions it carries streams, which keep their order, stall and break.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mesh::{
    identity::{Role, TrustDomain},
    net::grpc::Caller,
};
use prost::Message as _;
use proto::federation::v1::{PeerMessage, peer_message::Kind};
use registry::{
    federation::{Dial, Incoming, NoStream},
    raft::{Failed, Method, Target, Transport},
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    hostile,
    place::{Place, domain},
    world::Sim,
};

/// What dialling waits for when nobody answers.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// How often a stalled stream looks whether its way is open again.
const STALL: Duration = Duration::from_millis(100);
/// As the federation's own bound.
const MESSAGES_MAX: usize = 8;

/// What the network does at the moment.
#[derive(Default)]
pub(crate) struct Net {
    /// One way between two nodes.
    pub(crate) cut: BTreeSet<(Place, Place)>,
    /// One way between two regions.
    pub(crate) cut_regions: BTreeSet<(u8, u8)>,
    /// As these, for long.
    pub(crate) isolated: BTreeSet<(u8, u8)>,
    /// Lost messages, in percent.
    pub(crate) loss: u8,
    /// Messages that come twice, in percent.
    pub(crate) twice: u8,
    /// Longest additional delay.
    pub(crate) late_ms: u64,
    /// Streams of regions break when this changes.
    pub(crate) resets: u64,
    /// A peer's updates carry what it does not own.
    pub(crate) hostile: bool,
}

impl Net {
    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        let regions = (from.region, to.region);
        self.cut.contains(&(from, to)) || self.cut_regions.contains(&regions) || self.isolated.contains(&regions)
    }

    pub(crate) fn delay(&self, from: Place, to: Place) -> Duration {
        let base = if from.region == to.region {
            fastrand::u64(0..=3)
        } else {
            fastrand::u64(10..=60)
        };
        let late = if self.late_ms > 0 && fastrand::u8(..4) == 0 {
            fastrand::u64(..self.late_ms)
        } else {
            0
        };
        Duration::from_millis(base + late)
    }

    /// When a message arrives; never, once or twice.
    pub(crate) fn arrivals(&self, from: Place, to: Place, may_double: bool) -> (Option<Duration>, Option<Duration>) {
        if self.is_cut(from, to) || fastrand::u8(..100) < self.loss {
            return (None, None);
        }
        let again = may_double && fastrand::u8(..100) < self.twice;
        let second = again.then(|| self.delay(from, to) + Duration::from_millis(fastrand::u64(..200)));
        (Some(self.delay(from, to)), second)
    }
}

/// One node's way to the others of its region.
pub(crate) struct Wire {
    pub(crate) sim: Sim,
    pub(crate) me: Place,
}

type Answered = oneshot::Sender<Result<Bytes, Failed>>;

impl Transport for Wire {
    fn call(&self, to: Target<'_>, method: Method, request: Bytes) -> BoxFuture<'static, Result<Bytes, Failed>> {
        let (sim, me) = (self.sim.clone(), self.me);
        let Some(to) = Place::parse(to.address) else {
            return Box::pin(async { Err(Failed::NotSent("no such address".to_owned())) });
        };
        Box::pin(async move {
            let (answered, answer) = oneshot::channel();
            // A command that came twice would be done twice, which gRPC does not do.
            let (first, second) = sim.arrivals(me, to, method != Method::Propose);
            if let Some(after) = second {
                let (unheard, _) = oneshot::channel();
                sim.spawn(deliver(sim.clone(), (me, to), method, request.clone(), after, unheard));
            }
            if let Some(after) = first {
                sim.spawn(deliver(sim.clone(), (me, to), method, request, after, answered));
            }
            match answer.await {
                Ok(answer) => answer,
                // Lost on the way: the caller has a timeout.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

fn named(method: Method) -> (&'static str, &'static str) {
    match method {
        Method::Append => ("append", "appended"),
        Method::Vote => ("vote", "voted"),
        Method::Install => ("install", "installed"),
        Method::Propose => ("propose", "proposed"),
        Method::ReadIndex => ("read index", "read from"),
    }
}

/// Brings a request to a node, and the answer back.
async fn deliver(
    sim: Sim,
    (from, to): (Place, Place),
    method: Method,
    request: Bytes,
    after: Duration,
    answered: Answered,
) {
    tokio::time::sleep(after).await;
    let (there, back) = named(method);
    sim.step(there, from, to, request.len() as u64);
    let Some((replica, life)) = sim.replica_and_life(to) else {
        if let (Some(after), _) = sim.arrivals(to, from, false) {
            tokio::time::sleep(after).await;
            // The caller may have gone.
            let _ = answered.send(Err(Failed::NotSent("connection refused".to_owned())));
        }
        return;
    };
    let answering = life.spawn(async move { replica.answer(method, Some(Role::Registry), &request).await });
    // The node died over it.
    let Ok(answer) = answering.await else { return };
    sim.answered(to);
    let (Some(after), _) = sim.arrivals(to, from, false) else {
        return;
    };
    tokio::time::sleep(after).await;
    sim.step(back, to, from, answer.as_ref().map_or(0, |answer| answer.len() as u64));
    // The caller may have gone.
    let _ = answered.send(answer.map_err(|status| Failed::from(&status)));
}

/// One node's way to the other regions.
pub(crate) struct Line {
    pub(crate) sim: Sim,
    pub(crate) me: Place,
}

impl Dial for Line {
    fn open(
        &self,
        address: String,
        _: TrustDomain,
        out: mpsc::Receiver<PeerMessage>,
    ) -> BoxFuture<'static, Result<Incoming, NoStream>> {
        let (sim, me) = (self.sim.clone(), self.me);
        Box::pin(async move {
            let failed = |text: &str| NoStream::Failed(text.to_owned());
            let to = Place::parse(&address).ok_or_else(|| failed("no such address"))?;
            if sim.is_cut(me, to) || sim.is_cut(to, me) {
                tokio::time::sleep(CONNECT_MAX).await;
                return Err(failed("timed out"));
            }
            let round_trip = sim.delay(me, to) + sim.delay(to, me);
            tokio::time::sleep(round_trip).await;
            sim.step("dial", me, to, 0);
            let (federation, life) = sim
                .federation_and_life(to)
                .ok_or_else(|| failed("connection refused"))?;
            let (to_them, theirs) = mpsc::channel(MESSAGES_MAX);
            let caller = Caller {
                id: Some(Role::Registry.id(&domain(me.region))),
                address: ([127, 0, 0, 1], me.node).into(),
            };
            let accepting = life.spawn(async move {
                let incoming: Incoming = Box::pin(ReceiverStream::new(theirs));
                federation.accept(Some(&caller), incoming)
            });
            let accepted = accepting.await.map_err(|_| failed("connection reset"))?;
            let messages = accepted.map_err(|status| NoStream::refused(&address, &status))?;
            let (to_me, mine) = mpsc::channel(MESSAGES_MAX);
            sim.spawn(pump(sim.clone(), (me, to), out, to_them));
            sim.spawn(pump(sim.clone(), (to, me), messages, to_me));
            Ok(Box::pin(ReceiverStream::new(mine)) as Incoming)
        })
    }
}

type Arriving = mpsc::Sender<Result<PeerMessage, Status>>;

/// Carries one direction of a stream until either end is dropped or the stream breaks.
async fn pump(sim: Sim, (from, to): (Place, Place), mut out: mpsc::Receiver<PeerMessage>, into: Arriving) {
    let born = sim.resets();
    loop {
        let next = tokio::select! {
            biased;
            () = into.closed() => return,
            next = out.recv() => next,
        };
        let delay = sim.delay(from, to);
        tokio::time::sleep(delay).await;
        while sim.is_cut(from, to) {
            if into.is_closed() {
                return;
            }
            tokio::time::sleep(STALL).await;
        }
        if sim.resets() != born {
            // The other side may have gone as well.
            let _ = into.send(Err(Status::unavailable("connection reset"))).await;
            return;
        }
        // The end of the stream.
        let Some(message) = next else { return };
        let message = carried(&sim, from, to, message);
        if into.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

/// A message after its way over the wire, where the invariants see it.
fn carried(sim: &Sim, from: Place, to: Place, message: PeerMessage) -> PeerMessage {
    let bytes = message.encode_to_vec();
    let mut message = PeerMessage::decode(bytes.as_slice()).unwrap_or(message);
    let kind = match &message.kind {
        Some(Kind::Update(_)) => "update",
        Some(Kind::Ack(_)) => "ack",
        Some(Kind::Hello(_)) => "hello",
        Some(Kind::Ping(_) | Kind::Pong(_)) => "ping",
        _ => "message",
    };
    sim.step(kind, from, to, bytes.len() as u64);
    if let Some(Kind::Update(update)) = &mut message.kind {
        sim.laws(|laws, _| laws.seen_on_wire(from.region, to.region, update));
        if sim.is_hostile() {
            sim.laws(|laws, _| laws.findings.betrayed(from.region, to.region));
            hostile::spoil(from.region, to.region, update);
        }
    }
    message
}
