//! Regions of real registry processes, and agents and watchers that speak to them over mutual TLS.

use std::{net::SocketAddr, path::Path, pin::Pin, time::Duration};

use anyhow::Context as _;
use cli::demo::lab::{Lab, Region, Spec, get, join_token};
use mesh::{
    identity::{Expect, Identity, Obtain, Role, obtain},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
    ops::Metrics,
    runtime::{Stop, Tasks, clock},
};
use proto::registry::v1::{
    self as pb, AgentMessage, AgentReply, EndpointState, agent_message, agent_reply, register_client::RegisterClient,
    watch_client::WatchClient, watch_request,
};
use tokio::{sync::mpsc, time::Sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{Args, load::Writer};

/// The namespace and service account of everything that is measured.
pub(crate) const NAMESPACE: &str = "bench";
/// Limits above what a benchmark does, and leases that outlive it.
const SETTINGS: &str = "[limits]\nagents = 100000\nattaches_per_second = 100000\nconnections = 20000\n\
                        changes_per_caller = 10000000\ncalls_per_caller = 1000000\nhandshakes_per_source = 1000000\n\
                        newcomers_per_source = 20000\nstreams_per_connection = 100000\n\
                        [lease]\nttl = \"600s\"\ngrace = \"600s\"\n";

/// Plans regions of so many nodes; starts nothing.
pub(crate) fn plan(args: &Args, dir: &Path, regions: &[&str], nodes: usize) -> anyhow::Result<Lab> {
    let spec = Spec {
        regions: regions.iter().map(|&name| name.to_owned()).collect(),
        nodes,
        workloads: 0,
        callers: Vec::new(),
        log: "warn".to_owned(),
        settings: SETTINGS.to_owned(),
        ..Spec::three_regions(args.executable()?)
    };
    Lab::plan(dir, &spec).map_err(anyhow::Error::msg)
}

/// An identity of the bench's own in a region.
pub(crate) async fn identity(region: &Region) -> anyhow::Result<Identity> {
    let admin = region.admin().await.map_err(anyhow::Error::msg)?;
    let token = join_token(&admin, NAMESPACE, NAMESPACE)
        .await
        .map_err(anyhow::Error::msg)?;
    let tasks = Tasks::new(Stop::default());
    Ok(obtain(Obtain::new(None, Some(token), Vec::new()), &tasks, &Metrics::default()).await?)
}

/// The API address of the leader.
pub(crate) async fn leader(region: &Region) -> anyhow::Result<SocketAddr> {
    for _ in 0..200 {
        for node in &region.nodes {
            let metrics = get(node.http, "/metrics").await;
            let leads = |body: &[u8]| {
                String::from_utf8_lossy(body)
                    .lines()
                    .any(|line| line == "isthmus_raft_is_leader 1")
            };
            if metrics.is_ok_and(|(_, body)| leads(&body)) {
                return Ok(node.api);
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    anyhow::bail!("{} has no leader after 20 s", region.name)
}

/// Processor time of all nodes, in seconds.
pub(crate) fn cpu_seconds(region: &Region) -> anyhow::Result<f64> {
    region
        .nodes
        .iter()
        .map(|node| crate::process::cpu_seconds(node.process.pid()))
        .sum()
}

/// Connections to a node.
pub(crate) async fn connect(to: SocketAddr, identity: &Identity, count: usize) -> anyhow::Result<Vec<Channel>> {
    let expect = Expect::System(Role::Registry, identity.trust_domain());
    let credentials = Credentials::from(identity.clone());
    let mut channels = Vec::new();
    for _ in 0..count {
        channels.push(grpc::dial(&to.to_string(), &credentials, &expect, Timeouts::default()).await?);
    }
    Ok(channels)
}

/// A workload that serves one service of one port, with the labels that a rollout gives it.
pub(crate) fn workload(id: String, service: &str) -> pb::Workload {
    let port = pb::Port {
        name: "http".to_owned(),
        number: 80,
        protocol: "http".to_owned(),
    };
    let service = pb::WorkloadService {
        name: service.to_owned(),
        ports: vec![port],
        headless: false,
    };
    let labels = [
        ("version", "v1.24.3".to_owned()),
        ("pod", format!("{id}-7d9f8b6c5-x2x9k")),
    ];
    pb::Workload {
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        id,
        namespace: NAMESPACE.to_owned(),
        service_account: NAMESPACE.to_owned(),
        cluster: "bench-1".to_owned(),
        zone: "a".to_owned(),
        address: "10.1.2.3".to_owned(),
        inbound_port: 15006,
        services: vec![service],
        state: EndpointState::Ready.into(),
        weight: 100,
        ..pb::Workload::default()
    }
}

/// One agent's stream.
pub(crate) struct Agent {
    workload: pb::Workload,
    out: mpsc::Sender<AgentMessage>,
    replies: Streaming<AgentReply>,
}

impl Agent {
    /// Opens the stream and attaches.
    pub(crate) async fn attach(channel: &Channel, workload: pb::Workload) -> anyhow::Result<Self> {
        let (out, outgoing) = mpsc::channel(1);
        let mut client = RegisterClient::new(channel.clone());
        out.send(message(agent_message::Kind::Attach(workload.clone()))).await?;
        let mut agent = Self {
            workload,
            out,
            replies: client.attach(ReceiverStream::new(outgoing)).await?.into_inner(),
        };
        agent.reply().await?;
        Ok(agent)
    }

    async fn reply(&mut self) -> anyhow::Result<()> {
        let reply = self.replies.message().await?.context("the agent's stream was closed")?;
        anyhow::ensure!(
            matches!(
                reply.kind,
                Some(agent_reply::Kind::Attached(_) | agent_reply::Kind::CommittedRevision(_))
            ),
            "an attachment is answered so"
        );
        Ok(())
    }

    /// Changes the state of the workload's endpoints; returns once it is committed.
    pub(crate) async fn set_state(&mut self, state: EndpointState) -> anyhow::Result<()> {
        let change = pb::StateChange { state: state.into() };
        self.out.send(message(agent_message::Kind::State(change))).await?;
        self.reply().await
    }
}

impl Writer for Agent {
    async fn write(&mut self, value: &str) -> anyhow::Result<()> {
        self.workload.labels.insert("value".to_owned(), value.to_owned());
        let attach = agent_message::Kind::Attach(self.workload.clone());
        self.out.send(message(attach)).await?;
        self.reply().await
    }
}

fn message(kind: agent_message::Kind) -> AgentMessage {
    AgentMessage { kind: Some(kind) }
}

/// As a proxy does it: so long after an update, at most twice that.
const ACK_AFTER: Duration = Duration::from_secs(1);

/// One subscriber's stream.
pub(crate) struct Watch {
    /// What is to be acknowledged, and when.
    ack: Option<(pb::Ack, Pin<Box<Sleep>>)>,
    requests: mpsc::Sender<pb::WatchRequest>,
    updates: Streaming<pb::Update>,
}

impl Watch {
    /// Watches one service; returns once its snapshot has come.
    pub(crate) async fn begin(channel: &Channel, service: &str) -> anyhow::Result<Self> {
        let (requests, outgoing) = mpsc::channel(8);
        let interest = pb::Interest {
            services: vec![format!("{service}.{NAMESPACE}")],
            ..pb::Interest::default()
        };
        let start = pb::Start {
            interest: Some(interest),
            held: None,
            subscriber: "bench".to_owned(),
            ..pb::Start::default()
        };
        let start = watch_request::Kind::Start(start);
        requests.send(pb::WatchRequest { kind: Some(start) }).await?;
        let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let updates = client.subscribe(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut watch = Self {
            ack: None,
            requests,
            updates,
        };
        while watch.update().await?.more {}
        Ok(watch)
    }

    /// The next message, acknowledged when it is time for that.
    pub(crate) async fn update(&mut self) -> anyhow::Result<pb::Update> {
        loop {
            let due = async {
                match &mut self.ack {
                    Some((_, sleep)) => sleep.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                update = self.updates.message() => {
                    let update = update?.context("the watch was closed")?;
                    let ack = pb::Ack { held: update.held, applied_at_ms: clock::wall().0 };
                    match &mut self.ack {
                        Some((pending, _)) => *pending = ack,
                        None => {
                            let after = ACK_AFTER.mul_f64(1.0 + fastrand::f64());
                            self.ack = Some((ack, Box::pin(tokio::time::sleep(after))));
                        }
                    }
                    return Ok(update);
                }
                () = due => {
                    let ack = self.ack.take().map(|(ack, _)| watch_request::Kind::Ack(ack));
                    self.requests.send(pb::WatchRequest { kind: ack }).await?;
                }
            }
        }
    }

    /// The label `value` of the next endpoint that changed.
    pub(crate) async fn next(&mut self) -> anyhow::Result<String> {
        loop {
            let update = self.update().await?;
            for resource in update.upserts.into_iter().rev() {
                if let Some(pb::resource::Kind::Endpoint(mut endpoint)) = resource.kind
                    && let Some(value) = endpoint.labels.remove("value")
                {
                    return Ok(value);
                }
            }
        }
    }
}
