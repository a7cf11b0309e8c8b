//! Two regions and more over real sockets and real certificates, each with one node and no Raft.

mod faults;
mod partitions;
mod streams;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use mesh::{
    identity::{ClientAuth, Expect, Identity, KeyRequest, Role, Secret, Token, TokenKind, system},
    model::{Audience, Held, Key, NodeId, RegionId, Resource, Timestamp},
    net::grpc::{Credentials, Serve, Timeouts, dial, serve},
    ops::Metrics,
    runtime::{Clock, OnExit, Stop, Tasks, clock},
};
use proto::{
    federation::v1::{AcceptRequest, Hello, PeerMessage, federation_client::FederationClient, peer_message::Kind},
    registry::v1 as pb,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::{Federation, Home, Links, export};
use crate::{
    authority::Authority,
    catalog::{
        Command, Grant, Reply, TokenRecord, WorkloadLease,
        testing::{World, domain, export as export_to, gateway_lease, id, region, regions, workload},
    },
    raft::propose,
    watch::{Hub, Publish, Published},
};

/// A node that commits at once.
struct Alone {
    world: Mutex<World>,
    hub: Arc<Hub>,
    leads: AtomicBool,
    leader: watch::Sender<Option<NodeId>>,
    address: String,
    /// Of nodes that came later.
    more_addresses: Mutex<Vec<String>>,
    leader_address: Mutex<Option<String>>,
    clock: Clock,
}

impl Alone {
    fn commit(&self, command: Command) -> Reply {
        self.commit_all(vec![command]).remove(0)
    }

    /// In one entry.
    fn commit_all(&self, commands: Vec<Command>) -> Vec<Reply> {
        let mut world = self.world.lock().unwrap();
        world.at = self.clock.wall().0;
        let applied = world.apply(commands);
        self.hub.publish(Published {
            state: Arc::new(world.state.clone()),
            revision: mesh::model::Revision(world.revision),
            at: Timestamp(world.at),
            changes: applied.changes,
            reset: false,
        });
        applied.replies
    }
}

impl Home for Alone {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Reply, propose::Error>> {
        async move { Ok(self.commit(command)) }.boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, Result<(), propose::Error>> {
        async { Ok(()) }.boxed()
    }

    fn is_leader(&self) -> bool {
        self.leads.load(Ordering::SeqCst)
    }

    fn leader_changed(&self) -> watch::Receiver<Option<NodeId>> {
        self.leader.subscribe()
    }

    fn addresses(&self) -> Vec<String> {
        let mut addresses = vec![self.address.clone()];
        addresses.extend(self.more_addresses.lock().unwrap().clone());
        addresses
    }

    fn leader_address(&self) -> Option<String> {
        self.leader_address.lock().unwrap().clone()
    }
}

struct Region {
    name: RegionId,
    home: Arc<Alone>,
    hub: Arc<Hub>,
    identity: Identity,
    federation: Federation,
    tasks: Tasks,
}

impl Drop for Region {
    fn drop(&mut self) {
        self.tasks.stop().order();
    }
}

impl Region {
    async fn start(name: &str) -> Self {
        let (name, own) = (region(name), domain(name));
        let now = clock::wall();
        let (authority, root) = Authority::create(&name, &own, now).unwrap();
        let request = KeyRequest::generate().unwrap();
        let chain = authority.issue(request.der(), &system::registry(&own), Duration::from_secs(3600), now);
        let svid = request.complete(chain.unwrap()).unwrap();
        let bundle = root.bundle(1).unwrap();
        let identity = Identity::new(svid, [Arc::new(bundle.clone())]).unwrap();
        let metrics = Metrics::default();
        let hub = Hub::new(&metrics);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let home = Arc::new(Alone {
            world: Mutex::new(World {
                state: crate::catalog::State::default(),
                revision: 0,
                at: 0,
            }),
            hub: Arc::clone(&hub),
            leads: AtomicBool::new(true),
            leader: watch::Sender::new(None),
            address: listener.local_addr().unwrap().to_string(),
            more_addresses: Mutex::default(),
            leader_address: Mutex::default(),
            clock: Clock::system(),
        });
        home.commit(Command::Init {
            region: name.clone(),
            trust_domain: own,
            incarnation: mesh::model::Incarnation(7),
            bundle,
            authority: authority.record(),
        });
        let tasks = Tasks::new(Stop::default());
        let shared: Arc<dyn Home> = home.clone();
        let links = Links {
            home: shared,
            hub: Arc::clone(&hub),
            dial: Arc::new(super::dial::Grpc(identity.clone())),
            clock: Clock::system(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        let federation = Federation::trusting(links, identity.clone());
        let routes = tonic::service::Routes::new(federation.server());
        let options = Serve::new("federation", ClientAuth::Optional);
        let serving = serve(listener, identity.clone(), options, routes, tasks.clone(), metrics);
        tasks.spawn("federation-listener", OnExit::Ignore, serving);
        Self {
            name,
            home,
            hub,
            identity,
            federation,
            tasks,
        }
    }

    fn run(&self, command: Command) {
        let reply = self.home.commit(command);
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    fn token(&self, for_region: Option<RegionId>) -> Token {
        let secret = Secret::generate().unwrap();
        let expires_at = clock::wall().plus(Duration::from_secs(60));
        self.run(Command::PutToken(TokenRecord {
            digest: secret.digest(),
            grant: Grant::Peer { for_region },
            expires_at,
            uses: 1,
        }));
        let bundle = self.hub.state().own_bundle().unwrap().clone();
        Token {
            kind: TokenKind::Peer,
            region: self.name.clone(),
            trust_domain: bundle.trust_domain().clone(),
            addresses: vec![self.home.address.clone()],
            anchors: bundle.anchors().map(|der| der.to_vec()).collect(),
            secret,
            expires_at,
        }
    }

    async fn join(&self, other: &Region) {
        let joined = self
            .federation
            .join(&other.token(Some(self.name.clone())))
            .await
            .unwrap();
        assert_eq!(joined, other.name);
    }

    fn serves(&self, name: &str, services: &[&str]) {
        let mut lease: WorkloadLease = workload(name, services);
        lease.identity = id(&format!("spiffe://{}.test/ns/shop/sa/pay", self.name));
        lease.cluster = id(&format!("{}-1", self.name));
        self.run(Command::AttachWorkload(Arc::new(lease)));
    }

    async fn sees(&self, what: &str, check: impl Fn(&crate::catalog::State) -> bool) {
        let mut moments = self.hub.moments();
        let seen = moments.wait_for(|moment| check(&moment.state));
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await;
        assert!(seen.is_ok(), "{}: {what}", self.name);
    }

    async fn sees_endpoints(&self, service: &str, count: usize) {
        let what = format!("{count} endpoints of {service}");
        self.sees(&what, |state| state.endpoints(&id(service)).count() == count)
            .await;
    }

    async fn is_connected(&self, peer: &Region) {
        let is_up = |state: &crate::catalog::State| {
            state
                .region_statuses()
                .any(|status| status.region == peer.name && status.connected)
        };
        self.sees("connected", is_up).await;
    }
}

/// A registry of `who` that speaks by hand, so that every message can be looked at.
struct Wire {
    out: mpsc::Sender<PeerMessage>,
    incoming: tonic::Streaming<PeerMessage>,
}

impl Wire {
    async fn open(who: &Region, to: &Region, held: Option<Held>) -> Result<Self, tonic::Status> {
        let expect = Expect::System(Role::Registry, to.identity.trust_domain());
        let credentials = Credentials::from(who.identity.clone());
        let channel = dial(&to.home.address, &credentials, &expect, Timeouts::default())
            .await
            .unwrap();
        let (out, messages) = mpsc::channel(8);
        let mut client = FederationClient::new(channel);
        let incoming = client.exchange(ReceiverStream::new(messages)).await?.into_inner();
        let card = export::card(&who.hub.state(), vec![who.home.address.clone()]).unwrap();
        let hello = Hello {
            card: Some(card.into()),
            held: held.map(Into::into),
            version: String::new(),
            takes: None,
        };
        let kind = Some(Kind::Hello(hello));
        out.send(PeerMessage { kind }).await.unwrap();
        Ok(Self { out, incoming })
    }

    /// The next update; acknowledges it and answers pings meanwhile.
    async fn update(&mut self) -> pb::Update {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(10), self.incoming.message()).await;
            match message.unwrap().unwrap().unwrap().kind.unwrap() {
                Kind::Update(update) => {
                    let kind = Some(Kind::Ack(update.held.unwrap()));
                    self.out.send(PeerMessage { kind }).await.unwrap();
                    return update;
                }
                Kind::Ping(ping) => {
                    let kind = Some(Kind::Pong(ping));
                    self.out.send(PeerMessage { kind }).await.unwrap();
                }
                _ => {}
            }
        }
    }

    /// All that was said until an update reaches `revision`.
    async fn until(&mut self, revision: u64) -> Vec<pb::Update> {
        let mut updates = Vec::new();
        loop {
            updates.push(self.update().await);
            if updates.last().unwrap().held.unwrap().revision >= revision {
                return updates;
            }
        }
    }
}

/// Makes two regions peers without streams of their own, for tests that speak by hand.
fn introduce(one: &Region, other: &Region) {
    for (here, there) in [(one, other), (other, one)] {
        let card = export::card(&there.hub.state(), Vec::new()).unwrap();
        here.run(Command::PutPeer(super::join::record(&here.hub.state(), card)));
    }
}

async fn trusts(region: &Region, other: &Region) {
    let domain = other.identity.trust_domain();
    let mut changed = region.identity.changed();
    let known = changed.wait_for(|_| region.identity.bundle(&domain).is_some());
    tokio::time::timeout(Duration::from_secs(10), known)
        .await
        .unwrap()
        .unwrap();
}
