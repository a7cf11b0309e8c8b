//! Three nodes of etcd on loopback, with its default durability, and the few calls of its API that are compared.

mod tls;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use cli::demo::lab::Ports;
use prost::Message;
use tokio::{process::Child, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use self::tls::Tls;
use crate::{load::Writer, process};

const NODES: usize = 3;

/// The running group.
pub(crate) struct Etcd {
    nodes: Vec<Child>,
    _ports: Ports,
    leader: SocketAddr,
    tls: Option<Arc<Tls>>,
}

impl Etcd {
    /// Starts the group and waits for its leader. `plain` = without the TLS that the registry has.
    pub(crate) async fn start(dir: &Path, plain: bool) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let tls = if plain { None } else { Some(Arc::new(Tls::make(dir)?)) };
        let scheme = if plain { "http" } else { "https" };
        let mut ports = Ports::reserve(NODES * 2).map_err(anyhow::Error::msg)?;
        let mut addresses = Vec::new();
        for _ in 0..NODES {
            let pair = (ports.take(), ports.take());
            addresses.push((pair.0.map_err(anyhow::Error::msg)?, pair.1.map_err(anyhow::Error::msg)?));
        }
        let peers = addresses.iter().enumerate();
        let peers: Vec<_> = peers
            .map(|(at, (_, peer))| format!("n{at}={scheme}://{peer}"))
            .collect();
        let mut nodes = Vec::new();
        for (at, (client, peer)) in addresses.iter().enumerate() {
            let data = dir.join(format!("n{at}"));
            let mut arguments = vec![
                ("--name", format!("n{at}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", format!("{scheme}://{client}")),
                ("--advertise-client-urls", format!("{scheme}://{client}")),
                ("--listen-peer-urls", format!("{scheme}://{peer}")),
                ("--initial-advertise-peer-urls", format!("{scheme}://{peer}")),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--log-level", "error".to_owned()),
            ];
            if !plain {
                arguments.extend(Tls::flags(dir));
            }
            let arguments: Vec<_> = arguments
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            nodes.push(process::start(
                Path::new("etcd"),
                &arguments,
                &dir.join(format!("n{at}.log")),
            )?);
        }
        let clients: Vec<_> = addresses.iter().map(|(client, _)| *client).collect();
        let leader = leader(&clients, tls.as_ref())
            .await
            .with_context(|| format!("see the logs in {}", dir.display()))?;
        Ok(Self {
            nodes,
            _ports: ports,
            leader,
            tls,
        })
    }

    /// Processor time of all nodes, in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        self.nodes.iter().map(|node| process::cpu_seconds(node.id())).sum()
    }

    /// Connections to the leader.
    pub(crate) async fn connect(&self, count: usize) -> anyhow::Result<Vec<Channel>> {
        let mut channels = Vec::new();
        for _ in 0..count {
            channels.push(connect(self.leader, self.tls.as_ref()).await?);
        }
        Ok(channels)
    }
}

async fn connect(to: SocketAddr, tls: Option<&Arc<Tls>>) -> anyhow::Result<Channel> {
    let endpoint = Channel::from_shared(format!("http://{to}"))?.tcp_nodelay(true);
    let Some(tls) = tls.cloned() else {
        return Ok(endpoint.connect().await?);
    };
    let connector = tower::service_fn(move |_| {
        let tls = Arc::clone(&tls);
        async move { tls.connect(to).await.map_err(std::io::Error::other) }
    });
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn leader(clients: &[SocketAddr], tls: Option<&Arc<Tls>>) -> anyhow::Result<SocketAddr> {
    for _ in 0..200 {
        for client in clients {
            let Ok(channel) = connect(*client, tls).await else {
                continue;
            };
            let reply: Result<StatusReply, _> = unary(&channel, "/etcdserverpb.Maintenance/Status", Nothing {}).await;
            let is_leader = |status: &StatusReply| {
                status.leader != 0
                    && status
                        .header
                        .as_ref()
                        .is_some_and(|header| header.member == status.leader)
            };
            if reply.is_ok_and(|status| is_leader(&status)) {
                return Ok(*client);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("etcd has no leader after 20 s")
}

async fn unary<Q, A>(channel: &Channel, path: &'static str, request: Q) -> anyhow::Result<A>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    let reply = client
        .unary(Request::new(request), PathAndQuery::from_static(path), codec)
        .await?;
    Ok(reply.into_inner())
}

/// Puts values under a key of its own.
pub(crate) struct Putter {
    pub(crate) channel: Channel,
    pub(crate) key: String,
}

impl Writer for Putter {
    async fn write(&mut self, value: &str) -> anyhow::Result<()> {
        let put = Put {
            key: self.key.clone().into(),
            value: value.to_owned().into(),
        };
        let _: PutReply = unary(&self.channel, "/etcdserverpb.KV/Put", put).await?;
        Ok(())
    }
}

/// A watch of one key.
pub(crate) struct Watch {
    _requests: mpsc::Sender<WatchRequest>,
    replies: Streaming<WatchReply>,
}

impl Watch {
    /// Returns once the watch stands.
    pub(crate) async fn begin(channel: &Channel, key: &str) -> anyhow::Result<Self> {
        let (requests, outgoing) = mpsc::channel(1);
        let create = WatchCreate {
            key: key.to_owned().into(),
        };
        requests.send(WatchRequest { create: Some(create) }).await?;
        let mut client = Grpc::new(channel.clone());
        client.ready().await?;
        let codec = ProstCodec::<WatchRequest, WatchReply>::default();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let request = Request::new(ReceiverStream::new(outgoing));
        let mut replies = client.streaming(request, path, codec).await?.into_inner();
        let created = replies.message().await?.context("the watch was closed")?;
        anyhow::ensure!(created.created, "the first answer of a watch says that it was created");
        Ok(Self {
            _requests: requests,
            replies,
        })
    }

    /// The newest of the next values.
    pub(crate) async fn next(&mut self) -> anyhow::Result<String> {
        loop {
            let reply = self.replies.message().await?.context("the watch was closed")?;
            if let Some(value) = reply.events.last().and_then(|event| event.kv.as_ref()) {
                return Ok(String::from_utf8(value.value.to_vec())?);
            }
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StatusReply {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutReply {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreate {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchReply {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(message, optional, tag = "2")]
    kv: Option<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}
