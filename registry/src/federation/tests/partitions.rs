//! The control link between two regions is cut, in virtual time: whichever way, refused or swallowed, for seconds or minutes.
//! Nothing is withdrawn, the age shows, and what travels afterwards is what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicUsize},
};

use futures_util::StreamExt;
use mesh::{identity::TrustDomain, net::grpc::Caller};
use prost::Message as _;

use super::*;
use crate::federation::{Dial, Incoming, NoStream};

const ENDPOINTS: usize = 1_000;
/// What a dial into nowhere takes.
const CONNECT: Duration = Duration::from_secs(3);
/// One way between the regions.
const LATENCY: Duration = Duration::from_millis(40);

/// What becomes of what is sent from one region to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Streams that it dialled end at once, and it gets no new one.
    Refused,
    /// It is swallowed without a word.
    Swallowed,
}

/// Faults by direction.
type Faults = BTreeMap<(String, String), Fault>;

/// The network between regions.
struct Net {
    sides: Mutex<BTreeMap<String, Federation>>,
    faults: watch::Sender<Faults>,
    tasks: Tasks,
    /// Of updates that arrived: bytes, resources and removals, those that begin a snapshot.
    bytes: AtomicUsize,
    records: AtomicUsize,
    snapshots: AtomicUsize,
}

impl Net {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            sides: Mutex::default(),
            faults: watch::Sender::default(),
            tasks: Tasks::new(Stop::default()),
            bytes: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            snapshots: AtomicUsize::new(0),
        })
    }

    fn cut(&self, ways: &[(&str, &str)], fault: Fault) {
        let ways = ways
            .iter()
            .map(|(from, to)| ((from.to_string(), to.to_string()), fault));
        self.faults.send_replace(ways.collect());
    }

    fn heal(&self) {
        for counter in [&self.bytes, &self.records, &self.snapshots] {
            counter.store(0, Ordering::SeqCst);
        }
        self.faults.send_replace(BTreeMap::new());
    }

    fn count(&self, message: &PeerMessage) {
        if let Some(Kind::Update(update)) = &message.kind {
            self.bytes.fetch_add(update.encoded_len(), Ordering::SeqCst);
            self.records
                .fetch_add(update.upserts.len() + update.removed.len(), Ordering::SeqCst);
            self.snapshots.fetch_add(usize::from(update.full), Ordering::SeqCst);
        }
    }

    /// Carries one direction of a stream that `dialler` opened.
    async fn carry(
        self: Arc<Self>,
        way: (String, String),
        dialler: (String, String),
        mut from: mpsc::Receiver<PeerMessage>,
        to: mpsc::Sender<Result<PeerMessage, tonic::Status>>,
    ) {
        let mut faults = self.faults.subscribe();
        loop {
            let (ours, dialled) = {
                let now = faults.borrow_and_update();
                (now.get(&way).copied(), now.get(&dialler).copied())
            };
            if dialled == Some(Fault::Refused) {
                return;
            }
            if ours == Some(Fault::Swallowed) {
                // Neither words nor the end of the stream come through.
                tokio::select! {
                    changed = faults.changed() => if changed.is_err() { return },
                    Some(_) = from.recv() => {}
                }
                continue;
            }
            let message = tokio::select! {
                changed = faults.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = to.closed() => return,
                message = from.recv() => message,
            };
            let Some(message) = message else { return };
            tokio::time::sleep(LATENCY).await;
            self.count(&message);
            if to.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

fn name_of(address: &str) -> String {
    address.split('.').next().unwrap().to_owned()
}

struct Dialler {
    net: Arc<Net>,
    own: String,
}

impl Dial for Dialler {
    fn open(
        &self,
        address: String,
        _: TrustDomain,
        out: mpsc::Receiver<PeerMessage>,
    ) -> BoxFuture<'static, Result<Incoming, NoStream>> {
        let (net, own, to) = (Arc::clone(&self.net), self.own.clone(), name_of(&address));
        async move {
            let (forth, back) = ((own.clone(), to.clone()), (to.clone(), own.clone()));
            let faults = net.faults.borrow().clone();
            if faults.get(&forth) == Some(&Fault::Refused) {
                return Err(NoStream::Failed("connection refused".into()));
            }
            if [&forth, &back]
                .into_iter()
                .any(|way| faults.get(way) == Some(&Fault::Swallowed))
            {
                tokio::time::sleep(CONNECT).await;
                return Err(NoStream::Failed("no answer in time".into()));
            }
            tokio::time::sleep(LATENCY * 3).await;
            let far = net.sides.lock().unwrap().get(&to).cloned();
            let far = far.ok_or_else(|| NoStream::Failed("nobody is there".into()))?;
            let (there, heard_there) = mpsc::channel(8);
            let carry = Arc::clone(&net).carry(forth.clone(), forth.clone(), out, there);
            net.tasks.spawn("forth", OnExit::Ignore, carry);
            let caller = Caller {
                id: Some(system::registry(&domain(&own))),
                address: ([127, 0, 0, 1], 1).into(),
            };
            let incoming: Incoming = Box::pin(ReceiverStream::new(heard_there));
            let answer = far.accept(Some(&caller), incoming);
            let answer = answer.map_err(|status| NoStream::refused(&address, &status))?;
            let (here, heard_here) = mpsc::channel(8);
            let carry = Arc::clone(&net).carry(back, forth, answer, here);
            net.tasks.spawn("back", OnExit::Ignore, carry);
            Ok(Box::pin(ReceiverStream::new(heard_here).fuse()) as Incoming)
        }
        .boxed()
    }
}

/// A region in memory.
struct Side {
    home: Arc<Alone>,
    hub: Arc<Hub>,
    federation: Federation,
    clock: Clock,
    tasks: Tasks,
}

impl Drop for Side {
    fn drop(&mut self) {
        self.tasks.stop().order();
    }
}

impl Side {
    fn start(name: &str, peer: &str, net: &Arc<Net>, clock: &Clock) -> Self {
        let (hub, tasks) = (Hub::new(&Metrics::default()), Tasks::new(Stop::default()));
        let home = Arc::new(Alone {
            world: Mutex::new(World {
                state: crate::catalog::State::default(),
                revision: 0,
                at: 0,
            }),
            hub: Arc::clone(&hub),
            leads: AtomicBool::new(true),
            leader: watch::Sender::new(None),
            address: format!("{name}.test:15016"),
            more_addresses: Mutex::default(),
            leader_address: Mutex::default(),
            clock: clock.clone(),
        });
        home.commit(crate::catalog::testing::init(name, 7));
        let mut record = crate::catalog::testing::peer(peer);
        record.addresses = vec![format!("{peer}.test:15016")];
        record.incarnation = mesh::model::Incarnation(7);
        home.commit(Command::PutPeer(record));
        let shared: Arc<dyn Home> = home.clone();
        let federation = Federation::over(Links {
            home: shared,
            hub: Arc::clone(&hub),
            dial: Arc::new(Dialler {
                net: Arc::clone(net),
                own: name.to_owned(),
            }),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: Metrics::default(),
        });
        net.sides.lock().unwrap().insert(name.to_owned(), federation.clone());
        Self {
            home,
            hub,
            federation,
            clock: clock.clone(),
            tasks,
        }
    }

    /// Attaches workloads, or again with another weight, in one entry.
    fn attach(&self, numbers: std::ops::Range<usize>, weight: u32) {
        let lease = |number: usize| {
            let mut lease = workload(&format!("w{number}"), &["pay.shop"]);
            lease.weight = weight;
            Command::AttachWorkload(Arc::new(lease))
        };
        self.home.commit_all(numbers.map(lease).collect());
    }

    fn with_weight(&self, weight: u32) -> usize {
        let state = self.hub.state();
        let weights = state.all_endpoints().filter(|endpoint| endpoint.weight == weight);
        weights.count()
    }

    fn endpoints(&self) -> usize {
        self.hub.state().all_endpoints().count()
    }

    fn age(&self, peer: &str) -> Duration {
        let heard_at = self.federation.status(&region(peer)).heard_at.unwrap();
        self.clock.wall().since(heard_at)
    }

    fn is_connected(&self, peer: &str) -> bool {
        self.federation.status(&region(peer)).connected
    }

    async fn comes_to(&self, what: &str, within: Duration, check: impl Fn(&Self) -> bool) {
        let until = clock::now() + within;
        while !check(self) {
            assert!(clock::now() < until, "{what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `eu` exports a thousand endpoints, `us` holds them.
async fn two(net: &Arc<Net>) -> (Side, Side) {
    let clock = Clock::simulated(clock::now(), Timestamp(1_700_000_000_000));
    let (eu, us) = (
        Side::start("eu", "us", net, &clock),
        Side::start("us", "eu", net, &clock),
    );
    eu.attach(0..ENDPOINTS, 100);
    eu.home.commit(export_to("pay.shop", Audience::Everybody));
    us.comes_to("all endpoints", Duration::from_secs(20), |us| {
        us.endpoints() == ENDPOINTS
    })
    .await;
    us.comes_to("connected", Duration::from_secs(20), |us| us.is_connected("eu"))
        .await;
    assert!(eu.is_connected("us"));
    (eu, us)
}

fn agrees(side: &Side) -> bool {
    side.hub.state().findings().count() == 0
}

#[tokio::test(start_paused = true)]
async fn a_cut_link_withdraws_nothing_shows_its_age_and_heals_with_what_changed() {
    let both: &[(&str, &str)] = &[("eu", "us"), ("us", "eu")];
    let rows = [
        (both, Fault::Refused),
        (both, Fault::Swallowed),
        (&both[..1], Fault::Swallowed),
        (&both[1..], Fault::Swallowed),
    ];
    for (ways, fault) in rows {
        for seconds in [10, 600] {
            let row = format!("{ways:?} {fault:?} {seconds} s");
            let net = Net::new();
            let (eu, us) = two(&net).await;
            net.cut(ways, fault);
            let mut ages = Vec::new();
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_secs(seconds) / 10).await;
                assert_eq!(us.endpoints(), ENDPOINTS, "{row}: silence withdraws nothing");
                ages.push(us.age("eu"));
            }
            for (here, there) in [(&us, "eu"), (&eu, "us")] {
                let status = here.federation.status(&region(there));
                assert!(!status.connected && !status.last_error.is_empty(), "{row}: {status:?}");
            }
            // One way may be heard until the other end gives up.
            assert!(ages[9] >= Duration::from_secs(seconds - 6), "{row}: {ages:?}");
            assert!(
                ages.is_sorted_by(|a, b| a < b) || ages[0] < Duration::from_secs(1),
                "{row}: {ages:?}"
            );
            eu.attach(7..10, 7);
            net.heal();
            us.comes_to(&row, Duration::from_secs(15), |us| us.with_weight(7) == 3)
                .await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(us.is_connected("eu") && eu.is_connected("us"), "{row}");
            let (records, bytes) = (net.records.load(Ordering::SeqCst), net.bytes.load(Ordering::SeqCst));
            // Where both ends dial at the same moment, the stream that gives way may cost the other one a snapshot.
            let collided = ways.len() == 2 && net.snapshots.load(Ordering::SeqCst) == 1;
            if !collided {
                assert_eq!(net.snapshots.load(Ordering::SeqCst), 0, "{row}");
                assert!(records == 3 && bytes < 2_048, "{row}: {records} records, {bytes} bytes");
            }
            assert!(agrees(&eu) && agrees(&us), "{row}");
            net.tasks.stop().order();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_one_region_may_not_dial_the_other_one_does() {
    for way in [("eu", "us"), ("us", "eu")] {
        let net = Net::new();
        let (eu, us) = two(&net).await;
        net.cut(&[way], Fault::Refused);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(us.is_connected("eu") && eu.is_connected("us"), "{way:?}");
        eu.attach(0..3, 7);
        us.comes_to("the change", Duration::from_secs(5), |us| us.with_weight(7) == 3)
            .await;
        net.tasks.stop().order();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_ring_has_forgotten_comes_as_a_snapshot() {
    let net = Net::new();
    let (eu, us) = two(&net).await;
    net.cut(&[("eu", "us"), ("us", "eu")], Fault::Swallowed);
    for weight in 200..210 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        eu.attach(0..ENDPOINTS, weight);
    }
    assert_eq!(us.with_weight(100), ENDPOINTS);
    net.heal();
    us.comes_to("the newest", Duration::from_secs(15), |us| {
        us.with_weight(209) == ENDPOINTS
    })
    .await;
    assert!(net.snapshots.load(Ordering::SeqCst) > 0);
    assert!(
        net.records.load(Ordering::SeqCst) < ENDPOINTS + 20,
        "each record once, however often it changed"
    );
    net.tasks.stop().order();
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_lost_while_a_snapshot_travels_costs_nothing_but_time() {
    let net = Net::new();
    let (eu, us) = two(&net).await;
    for (number, side) in [&us, &eu, &us].into_iter().enumerate() {
        let weight = u32::try_from(number).unwrap() + 300;
        us.home.commit(Command::RepairPeer(region("eu")));
        eu.attach(0..ENDPOINTS, weight);
        // In the middle of the exchange.
        tokio::time::sleep(LATENCY * 5).await;
        side.home.leads.store(false, Ordering::SeqCst);
        side.home.leader.send_replace(None);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(us.endpoints(), ENDPOINTS);
        side.home.leads.store(true, Ordering::SeqCst);
        side.home.leader.send_replace(Some(NodeId(1)));
        us.comes_to("all anew", Duration::from_secs(30), |us| {
            us.with_weight(weight) == ENDPOINTS
        })
        .await;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(agrees(&us) && agrees(&eu));
    let names: BTreeSet<_> = us
        .hub
        .state()
        .services()
        .map(|service| service.name.to_string())
        .collect();
    assert_eq!(names, ["pay.shop".to_owned()].into());
    net.tasks.stop().order();
}

#[tokio::test(start_paused = true)]
async fn a_difference_is_found_in_time_while_nothing_else_happens() {
    let net = Net::new();
    let (_eu, us) = two(&net).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(agrees(&us));
    {
        let mut world = us.home.world.lock().unwrap();
        world.state.spoil_endpoint("pay.shop", "ep-w5-pay-shop");
        us.hub.publish(Published {
            state: Arc::new(world.state.clone()),
            revision: mesh::model::Revision(world.revision),
            at: Timestamp(world.at),
            changes: Vec::new(),
            reset: false,
        });
    }
    us.comes_to("found", Duration::from_secs(5), |us| !agrees(us)).await;
    us.home.commit(Command::RepairPeer(region("eu")));
    us.comes_to("mended", Duration::from_secs(15), |us| {
        agrees(us) && us.with_weight(100) == ENDPOINTS
    })
    .await;
    net.tasks.stop().order();
}

#[tokio::test(start_paused = true)]
async fn nobody_was_heard_before_the_first_stream() {
    let net = Net::new();
    let clock = Clock::simulated(clock::now(), Timestamp(1_700_000_000_000));
    let eu = Side::start("eu", "us", &net, &clock);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let never = eu.federation.status(&region("us"));
    assert!(
        never.heard_at.is_none() && never.last_error.contains("nobody is there"),
        "{never:?}"
    );
    eu.home.leads.store(false, Ordering::SeqCst);
    assert!(
        eu.federation.status(&region("us")).heard_at.is_none(),
        "also on a node that does not lead"
    );
    net.tasks.stop().order();
}
