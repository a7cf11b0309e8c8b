//! One region: registry nodes, a gateway, and whatever workloads the story puts into it.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use cli::{Client, credentials};
use mesh::{identity::Identity, ops::Metrics, runtime::Tasks};
use proto::admin::v1::Node as Member;

use crate::{
    admin::Admin,
    eventually,
    part::Part,
    relay::Relay,
    sidecar::{Plan, Sidecar},
    world::Ground,
};

const CALL_PATIENCE: Duration = Duration::from_secs(15);

/// Where a registry node listens.
#[derive(Clone, Copy, Debug)]
struct Sockets {
    api: SocketAddr,
    raft: SocketAddr,
    http: SocketAddr,
    federation: SocketAddr,
    dns: SocketAddr,
}

/// A registry node.
pub struct Node {
    /// Runs or not.
    pub part: Part,
    /// Its number in the region, from 1; also its id as long as no node was replaced.
    pub number: u64,
    /// gRPC for agents, gateways and operators.
    pub api: SocketAddr,
    /// For the other nodes.
    pub raft: SocketAddr,
    /// Health, metrics, JSON.
    pub http: SocketAddr,
    /// For other regions.
    pub federation: SocketAddr,
    /// Names.
    pub dns: SocketAddr,
}

/// A gateway.
pub struct Gateway {
    /// Runs or not.
    pub part: Part,
    /// For other clusters' proxies.
    pub tunnels: SocketAddr,
    /// Admin pages.
    pub pages: SocketAddr,
}

/// See the module.
pub struct Region {
    /// Its name, which is also that of its trust domain and of its only cluster.
    pub name: String,
    ground: Arc<Ground>,
    /// Guards the list only; nodes are shared out.
    nodes: Mutex<Vec<Arc<Node>>>,
    gateway: Mutex<Option<Arc<Gateway>>>,
}

impl Region {
    pub(crate) async fn form(name: &str, ground: Arc<Ground>, nodes: u64) -> Self {
        let region = Self {
            name: name.to_owned(),
            ground,
            nodes: Mutex::default(),
            gateway: Mutex::default(),
        };
        let config = region.plan_node(1);
        Box::pin(registry::init(&config.1)).await.unwrap();
        region.start_node(1, config, None).await;
        for _ in 1..nodes {
            region.add_node().await;
        }
        region
    }

    fn plan_node(&self, number: u64) -> (Sockets, registry::Config) {
        let ground = &self.ground;
        let sockets = Sockets {
            api: ground.port(),
            raft: ground.port(),
            http: ground.port(),
            federation: ground.port(),
            dns: ground.port(),
        };
        let zone = ["a", "b", "c", "d", "e"][(number as usize - 1) % 5];
        let text = format!(
            "region = {name:?}\ndata_dir = {dir:?}\n[node]\nname = '{name}-{number}'\nzone = '{zone}'\n\
             [listen]\napi = '{api}'\nraft = '{raft}'\nhttp = '{http}'\nfederation = '{federation}'\ndns = '{dns}'\n\
             [lease]\nttl = '2s'\ngrace = '1s'\n[stop]\ndeadline = '1s'\n",
            name = self.name,
            dir = self.node_dir(number),
            api = sockets.api,
            raft = sockets.raft,
            http = sockets.http,
            federation = sockets.federation,
            dns = sockets.dns,
        );
        let config = registry::Config::parse(&text);
        (sockets, config.unwrap_or_else(|faults| panic!("{faults}")))
    }

    /// Where a node keeps its things.
    #[must_use]
    pub fn node_dir(&self, number: u64) -> PathBuf {
        self.ground.dir().join(format!("{}-registry-{number}", self.name))
    }

    async fn start_node(&self, number: u64, (sockets, config): (Sockets, registry::Config), join: Option<String>) {
        let part = Part::new(
            format!("{}-registry-{number}", self.name),
            (sockets.http, "/readyz"),
            move |stop| {
                let (config, join) = (config.clone(), join.clone());
                async move {
                    let running = Box::pin(registry::start(config, join, stop)).await?;
                    Ok(Box::pin(async move { Ok(running.finish().await?) }) as _)
                }
            },
        );
        let node = Arc::new(Node {
            part,
            number,
            api: sockets.api,
            raft: sockets.raft,
            http: sockets.http,
            federation: sockets.federation,
            dns: sockets.dns,
        });
        node.part.launch();
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&node));
        node.part.ready().await;
    }

    /// Makes one more node, lets it join, and waits until it votes.
    pub async fn add_node(&self) -> Arc<Node> {
        let token = self.admin().await.node_token().await;
        let number = self.nodes().last().map_or(1, |node| node.number + 1);
        self.start_node(number, self.plan_node(number), Some(token)).await;
        let node = self.node(number);
        let admin = self.admin().await;
        eventually(&format!("{} votes", node.part.name), async || {
            let nodes = admin.status().await?.nodes;
            let votes = |row: &Member| row.voter && row.api_address == node.api.to_string();
            if nodes.iter().any(votes) {
                Ok(())
            } else {
                Err(format!("{nodes:?}"))
            }
        })
        .await;
        node
    }

    /// Makes one more node out of a snapshot's bytes: the region begins again with it alone.
    pub async fn restore_node(&self, snapshot: &[u8]) -> Arc<Node> {
        let number = self.nodes().last().map_or(1, |node| node.number + 1);
        let plan = self.plan_node(number);
        let file = self.ground.dir().join(format!("{}-{number}.snapshot", self.name));
        std::fs::write(&file, snapshot).unwrap();
        Box::pin(registry::restore(&plan.1, std::fs::File::open(&file).unwrap()))
            .await
            .unwrap();
        self.start_node(number, plan, None).await;
        self.node(number)
    }

    /// All nodes that were ever made.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node by its number.
    #[must_use]
    pub fn node(&self, number: u64) -> Arc<Node> {
        let node = self.nodes().into_iter().find(|node| node.number == number);
        node.unwrap_or_else(|| panic!("{} has no node {number}", self.name))
    }

    /// The first node, which is the only one unless the story asked for more.
    #[must_use]
    pub fn registry(&self) -> Arc<Node> {
        self.node(1)
    }

    /// Addresses of the API.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.api.to_string()).collect()
    }

    /// The operator's identity.
    #[must_use]
    pub fn operator(&self) -> Identity {
        credentials(&self.node_dir(1).join("operator")).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The operator's API, of a node that runs.
    pub async fn admin(&self) -> Admin {
        let nodes = self.nodes();
        let up = nodes.iter().filter(|node| node.part.runs());
        let addresses: Vec<_> = up.map(|node| node.api.to_string()).collect();
        match Client::dial(&addresses, self.operator(), CALL_PATIENCE).await {
            Ok(client) => Admin::new(client),
            Err(failure) => panic!("{}: {failure}", self.name),
        }
    }

    /// The operator's API of one node.
    pub async fn admin_of(&self, node: &Node) -> Admin {
        match Client::dial(&[node.api.to_string()], self.operator(), CALL_PATIENCE).await {
            Ok(client) => Admin::new(client),
            Err(failure) => panic!("{}: {failure}", node.part.name),
        }
    }

    /// Whether the registry answers a linearizable read.
    pub async fn registry_answers(&self) -> Result<(), String> {
        self.admin().await.status().await.map(drop)
    }

    /// An identity of this region, got as any workload gets it.
    pub async fn identity(&self, namespace: &str, service_account: &str) -> Identity {
        let token = self.admin().await.token(namespace, service_account).await;
        let settings = mesh::identity::Obtain::new(None, Some(token), self.addresses());
        let (tasks, metrics) = (Tasks::default(), Metrics::default());
        mesh::identity::obtain(settings, &tasks, &metrics).await.unwrap()
    }

    /// Starts the gateway and waits until it is ready.
    pub async fn start_gateway(&self) {
        self.start_gateway_at(None).await;
    }

    /// Starts the gateway; others are told to reach it through this relay.
    pub async fn start_gateway_behind(&self, relay: &Relay) {
        self.start_gateway_at(Some(relay.address())).await;
        relay.lead_to(self.gateway().tunnels);
    }

    async fn start_gateway_at(&self, advertised: Option<SocketAddr>) {
        let token = self.admin().await.token("isthmus-system", "gateway").await;
        let (tunnels, pages) = (self.ground.port(), self.ground.port());
        let text = format!(
            "region = {name:?}\ncluster = {name:?}\nid = '{name}-gateway'\nlisten = '{tunnels}'\n\
             advertise = '{advertised}'\nregistry = {registry:?}\n\
             data_dir = {dir:?}\n[identity]\ntoken = {token:?}\n\
             [admin]\nready = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\npages = '{pages}'\n\
             [timeouts]\ndial = '1s'\ndrain = '1s'\n",
            name = self.name,
            advertised = advertised.unwrap_or(tunnels),
            registry = self.addresses(),
            dir = self.ground.dir().join(format!("{}-gateway", self.name)),
        );
        let config = eastwest_gateway::Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
        let part = Part::new(format!("{}-gateway", self.name), (pages, "/ready"), move |stop| {
            let config = config.clone();
            async move {
                let running = Box::pin(eastwest_gateway::start(config, stop)).await?;
                Ok(Box::pin(async move { Ok(running.finish().await?) }) as _)
            }
        });
        let gateway = Arc::new(Gateway { part, tunnels, pages });
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&gateway));
        gateway.part.start().await;
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> Arc<Gateway> {
        let gateway = self.gateway.lock().unwrap_or_else(PoisonError::into_inner).clone();
        gateway.unwrap_or_else(|| panic!("{} has no gateway", self.name))
    }

    /// Starts a workload with its application, and waits until the registry calls it ready.
    pub async fn workload(&self, plan: Plan) -> Sidecar {
        let sidecar = self.plan_sidecar(plan).await;
        sidecar.start().await;
        let admin = self.admin().await;
        for service in sidecar.services() {
            eventually(&format!("{} serves {service}", sidecar.id), async || {
                let endpoints = admin.endpoints(&service).await;
                endpoints.iter().any(|endpoint| {
                    endpoint.state() == proto::registry::v1::EndpointState::Ready
                        && endpoint.inbound_port == u32::from(sidecar.inbound.port())
                })
            })
            .await;
        }
        sidecar
    }

    /// Starts a proxy for one that only calls.
    pub async fn caller(&self, plan: Plan) -> Sidecar {
        let sidecar = self.plan_sidecar(plan).await;
        sidecar.start().await;
        sidecar
    }

    async fn plan_sidecar(&self, plan: Plan) -> Sidecar {
        let token = self.admin().await.token(&plan.namespace, &plan.account).await;
        Sidecar::new(plan, &self.name, &self.addresses(), &token, &self.ground)
    }
}
