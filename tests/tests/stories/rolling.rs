//! A region of three is restarted node by node under load: no acknowledged write is lost, and a watcher sees every change,
//! each once and in order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::{
    identity::{Expect, Identity, Role},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
    runtime::clock,
};
use proto::registry::v1::{
    Ack, AgentMessage, Held, Interest, Port, Start, WatchRequest, Workload, WorkloadService, agent_message,
    agent_reply, register_client::RegisterClient, resource, watch_client::WatchClient, watch_request,
};
use tests::{Region, World, eventually};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

const WRITERS: usize = 4;
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Writes of each writer between two restarts.
const STEPS: u64 = 15;

/// What the watcher has seen: each workload's numbers, in order.
type Seen = BTreeMap<String, Vec<u64>>;

async fn channel(address: &str, identity: &Identity) -> Option<Channel> {
    let expect = Expect::System(Role::Registry, identity.trust_domain());
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        call: None,
    };
    grpc::dial(address, &Credentials::from(identity.clone()), &expect, timeouts)
        .await
        .ok()
}

/// A workload whose agent changes a label again and again, each time once the watcher has seen the change before.
struct Writer {
    id: String,
    identity: Identity,
    addresses: Vec<String>,
    seen: watch::Receiver<Seen>,
    acknowledged: Arc<Mutex<BTreeMap<String, u64>>>,
    /// The longest time between two acknowledgements.
    gap: Arc<Mutex<Duration>>,
    over: Arc<AtomicBool>,
}

impl Writer {
    fn workload(&self, number: u64) -> agent_message::Kind {
        agent_message::Kind::Attach(Workload {
            id: self.id.clone(),
            namespace: "shop".into(),
            service_account: "pay".into(),
            cluster: "west".into(),
            zone: "a".into(),
            address: "127.0.0.1".into(),
            inbound_port: 15006,
            services: vec![WorkloadService {
                name: "pay".into(),
                ports: vec![Port {
                    name: String::new(),
                    number: 80,
                    protocol: "http".into(),
                }],
                headless: false,
            }],
            state: proto::registry::v1::EndpointState::Ready.into(),
            labels: [("number".to_owned(), number.to_string())].into(),
            weight: 100,
            hostname: self.id.clone(),
            ..Workload::default()
        })
    }

    async fn run(mut self) {
        let (mut number, mut told) = (1, clock::now());
        let mut node = 0;
        while !self.over.load(Ordering::Relaxed) {
            // Broken off: on with another node, and the same number again.
            node = (node + 1) % self.addresses.len();
            let _ = self.stream(node, &mut number, &mut told).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stream(&mut self, node: usize, number: &mut u64, told: &mut tokio::time::Instant) -> Option<()> {
        let channel = channel(&self.addresses[node], &self.identity).await?;
        let (out, messages) = mpsc::channel(4);
        let say = async |number: u64| {
            let kind = Some(self.workload(number));
            out.send(AgentMessage { kind }).await.ok()
        };
        say(*number).await?;
        let mut client = RegisterClient::new(channel);
        let opened = client.attach(ReceiverStream::new(messages));
        let opened = tokio::time::timeout(ANSWER_MAX, opened).await.ok()?.ok()?;
        let mut replies = opened.into_inner();
        while !self.over.load(Ordering::Relaxed) {
            let reply = tokio::time::timeout(ANSWER_MAX, replies.message()).await.ok()?.ok()??;
            let Some(agent_reply::Kind::Attached(_)) = reply.kind else {
                return None;
            };
            let now = clock::now();
            {
                let mut gap = self.gap.lock().unwrap();
                *gap = (*gap).max(now - *told);
            }
            *told = now;
            self.acknowledged.lock().unwrap().insert(self.id.clone(), *number);
            let (id, wanted) = (self.id.clone(), *number);
            let arrived = |seen: &Seen| seen.get(&id).is_some_and(|numbers| numbers.last() == Some(&wanted));
            let arrived = self.seen.clone().wait_for(arrived).await.map(drop);
            arrived.ok()?;
            // Slower than one caller may attach.
            tokio::time::sleep(Duration::from_millis(20)).await;
            *number += 1;
            let kind = Some(self.workload(*number));
            out.send(AgentMessage { kind }).await.ok()?;
        }
        Some(())
    }
}

/// Watches everything, through one node after the other, from where it stood.
struct Follower {
    identity: Identity,
    addresses: Vec<String>,
    seen: watch::Sender<Seen>,
    held: Option<Held>,
    /// Snapshots after the first one.
    resets: Arc<Mutex<u64>>,
}

impl Follower {
    async fn run(mut self, over: Arc<AtomicBool>) {
        let mut node = 0;
        while !over.load(Ordering::Relaxed) {
            let _ = self.stream(node).await;
            node = (node + 1) % self.addresses.len();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stream(&mut self, node: usize) -> Option<()> {
        let channel = channel(&self.addresses[node], &self.identity).await?;
        let mut client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, outgoing) = mpsc::channel(8);
        let start = Start {
            interest: Some(Interest {
                everything: true,
                ..Interest::default()
            }),
            held: self.held,
            subscriber: "rolling".to_owned(),
            ..Start::default()
        };
        let request = |kind| WatchRequest { kind: Some(kind) };
        requests.send(request(watch_request::Kind::Start(start))).await.ok()?;
        let mut updates = client.subscribe(ReceiverStream::new(outgoing)).await.ok()?.into_inner();
        loop {
            let update = updates.message().await.ok()??;
            if update.full && self.held.is_some() {
                *self.resets.lock().unwrap() += 1;
            }
            for resource in update.upserts {
                if let Some(resource::Kind::Endpoint(endpoint)) = resource.kind {
                    self.note(&endpoint.hostname, endpoint.labels.get("number"));
                }
            }
            if !update.more {
                self.held = update.held;
                let ack = Ack {
                    held: update.held,
                    applied_at_ms: clock::wall().0,
                };
                requests.send(request(watch_request::Kind::Ack(ack))).await.ok()?;
            }
        }
    }

    fn note(&self, id: &str, number: Option<&String>) {
        let number: u64 = number.unwrap().parse().unwrap();
        self.seen.send_if_modified(|seen| {
            let numbers = seen.entry(id.to_owned()).or_default();
            // The same record again is no change: its lease went to another node.
            let is_new = numbers.last() != Some(&number);
            if is_new {
                numbers.push(number);
            }
            is_new
        });
    }
}

async fn all_go_on(region: &Region, acknowledged: &Mutex<BTreeMap<String, u64>>) {
    let before = acknowledged.lock().unwrap().clone();
    eventually(&format!("{}: every writer goes on", region.name), async || {
        let now = acknowledged.lock().unwrap();
        let steps = |id: &String| now.get(id).copied().unwrap_or(0) - before.get(id).copied().unwrap_or(0);
        let slowest = now.keys().map(steps).min().unwrap_or(0);
        if now.len() == WRITERS && slowest >= STEPS {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart_loses_no_write_and_no_watch() {
    let world = World::registry("west", 3).await;
    let region = world.west();
    let identity = region.identity("shop", "pay").await;
    let (seen, looks) = watch::channel(Seen::new());
    let acknowledged: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let (gap, resets): (Arc<Mutex<Duration>>, Arc<Mutex<u64>>) = (Arc::default(), Arc::default());
    let over = Arc::new(AtomicBool::new(false));
    let follower = Follower {
        identity: region.operator(),
        addresses: region.addresses(),
        seen,
        held: None,
        resets: Arc::clone(&resets),
    };
    let writers = (0..WRITERS).map(|number| {
        Writer {
            id: format!("pay-{number}"),
            identity: identity.clone(),
            addresses: region.addresses(),
            seen: looks.clone(),
            acknowledged: Arc::clone(&acknowledged),
            gap: Arc::clone(&gap),
            over: Arc::clone(&over),
        }
        .run()
    });
    let rolling = async {
        all_go_on(region, &acknowledged).await;
        for number in 1..=3 {
            let node = region.node(number);
            node.part.stop().await;
            all_go_on(region, &acknowledged).await;
            node.part.start().await;
            all_go_on(region, &acknowledged).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let (rolling, follower) = (Box::pin(rolling), Box::pin(follower.run(Arc::clone(&over))));
    let all = Box::pin(futures_util::future::join3(
        futures_util::future::join_all(writers),
        follower,
        rolling,
    ));
    // Whoever waits for the watcher then waits no longer.
    let ended = Box::pin(async {
        while !over.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    futures_util::future::select(all, ended).await;

    let acknowledged = acknowledged.lock().unwrap().clone();
    let seen = looks.borrow().clone();
    for (id, last) in &acknowledged {
        let numbers = &seen[id];
        let every: Vec<u64> = (1..=*numbers.last().unwrap()).collect();
        assert_eq!(numbers, &every, "{id}: each change once and in order");
        // The last one may still be on its way to the watcher.
        assert!(numbers.len() as u64 + 1 >= *last, "{id}: {last} was acknowledged");
    }
    let endpoints = region.admin().await.endpoints("pay.shop").await;
    for endpoint in endpoints {
        let number: u64 = endpoint.labels["number"].parse().unwrap();
        assert!(
            number >= acknowledged[&endpoint.hostname],
            "{}: a write was lost",
            endpoint.hostname
        );
    }
    let (gap, resets) = (*gap.lock().unwrap(), *resets.lock().unwrap());
    eprintln!(
        "rolling restart: {acknowledged:?} writes, longest wait for an answer {gap:?}, {resets} snapshots beside the first"
    );
    assert!(gap < Duration::from_secs(10), "{gap:?}");
}
