//! Regions, nodes and agents for the stories: over real sockets, each in a folder of its own.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use mesh::{
    identity::{Bundle, Expect, Identity, KeyRequest, Role, Svid, Token, TokenKind},
    net::grpc::{self, Credentials, Timeouts},
    runtime::Stop,
};
use proto::{
    admin::v1::{self as admin, admin_client::AdminClient},
    registry::v1::{
        self as pb, agent_message, agent_reply, certificates_client::CertificatesClient,
        register_client::RegisterClient,
    },
};
use registry::{Config, Running};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Channel};

/// Ports that were free a moment ago.
pub(crate) fn ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

pub(crate) fn config(data_dir: &Path, extra: &str) -> Config {
    config_of("eu", data_dir, extra)
}

pub(crate) fn config_of(region: &str, data_dir: &Path, extra: &str) -> Config {
    let [api, raft, federation] = ports();
    let text = format!(
        "region = '{region}'\ndata_dir = '{}'\n\
         [listen]\napi = '127.0.0.1:{api}'\nraft = '127.0.0.1:{raft}'\nfederation = '127.0.0.1:{federation}'\n\
         http = '127.0.0.1:0'\ndns = '127.0.0.1:0'\n{extra}",
        data_dir.display()
    );
    Config::parse(&text).unwrap()
}

pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}

/// A region's first node.
pub(crate) struct Region {
    pub(crate) _folder: TempDir,
    pub(crate) config: Config,
    pub(crate) stop: Stop,
    pub(crate) running: Running,
}

impl Region {
    pub(crate) async fn start(extra: &str) -> Self {
        Self::named("eu", extra).await
    }

    pub(crate) async fn named(region: &str, extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config_of(region, &folder.path().join("data"), extra);
        Box::pin(registry::init(&config)).await.unwrap();
        let stop = Stop::default();
        let running = Box::pin(registry::start(config.clone(), None, stop.clone()))
            .await
            .unwrap();
        tokio::time::timeout(Duration::from_secs(10), running.ready.wait())
            .await
            .unwrap();
        Self {
            _folder: folder,
            config,
            stop,
            running,
        }
    }

    pub(crate) fn bundle(&self) -> Arc<Bundle> {
        let (region, domain) = (self.config.region.clone(), self.config.trust_domain.clone());
        let state = self.running.replica().state();
        let anchors = state.own_bundle().unwrap().anchors().map(|der| der.to_vec()).collect();
        Arc::new(Bundle::new(domain, region, 1, anchors).unwrap())
    }

    pub(crate) async fn channel(&self, credentials: impl Into<Credentials>) -> Channel {
        let expect = Expect::System(Role::Registry, self.config.trust_domain.clone());
        let address = self.running.addresses.api.to_string();
        grpc::dial(&address, &credentials.into(), &expect, Timeouts::default())
            .await
            .unwrap()
    }

    pub(crate) async fn as_svid(&self, svid: Svid) -> Channel {
        self.channel(Identity::new(svid, [self.bundle()]).unwrap()).await
    }

    pub(crate) async fn operator(&self) -> AdminClient<Channel> {
        let svid = Svid::load(&self.config.data_dir.join("operator")).unwrap().unwrap();
        AdminClient::new(self.as_svid(svid).await)
    }

    pub(crate) async fn token(&self, namespace: &str, service_account: &str, uses: u32) -> String {
        let request = admin::CreateTokenRequest {
            namespace: namespace.into(),
            service_account: service_account.into(),
            ttl_seconds: 60,
            uses,
        };
        self.operator()
            .await
            .create_token(request)
            .await
            .unwrap()
            .into_inner()
            .token
    }

    /// Gets a certificate by a token alone, as an agent does.
    pub(crate) async fn svid(&self, token: &str) -> Result<Svid, Status> {
        let bootstrap = Token::decode(token, TokenKind::Workload).unwrap().bootstrap().unwrap();
        let key = KeyRequest::generate().unwrap();
        let request = pb::IssueRequest {
            csr: key.der().to_vec().into(),
            join_token: token.into(),
        };
        let reply = CertificatesClient::new(self.channel(bootstrap).await)
            .issue(request)
            .await?
            .into_inner();
        Ok(key
            .complete(reply.chain.iter().map(|der| der.to_vec()).collect())
            .unwrap())
    }

    pub(crate) async fn http(&self, path: &str) -> (u16, String) {
        fetch(self.running.addresses.http, path).await
    }

    pub(crate) async fn end(self) -> (TempDir, Config) {
        self.stop.order();
        self.running.finish().await.unwrap();
        (self._folder, self.config)
    }
}

pub(crate) async fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let code = answer[9..12].parse().unwrap();
    (code, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

pub(crate) fn workload(id: &str) -> pb::Workload {
    let port = pb::Port {
        name: String::new(),
        number: 80,
        protocol: "http".into(),
    };
    pb::Workload {
        id: id.into(),
        namespace: "shop".into(),
        service_account: "pay".into(),
        cluster: "eu-a".into(),
        zone: "a".into(),
        address: "127.0.0.1".into(),
        inbound_port: 15006,
        services: vec![pb::WorkloadService {
            name: "pay".into(),
            ports: vec![port],
            headless: false,
        }],
        state: pb::EndpointState::Ready.into(),
        ..pb::Workload::default()
    }
}

/// An agent's stream.
pub(crate) struct Agent {
    pub(crate) out: mpsc::Sender<pb::AgentMessage>,
    pub(crate) replies: tonic::Streaming<pb::AgentReply>,
}

impl Agent {
    pub(crate) async fn attach(channel: Channel, first: agent_message::Kind) -> Result<Self, Status> {
        let (out, messages) = mpsc::channel(8);
        out.send(pb::AgentMessage { kind: Some(first) }).await.unwrap();
        let replies = RegisterClient::new(channel)
            .attach(ReceiverStream::new(messages))
            .await?;
        Ok(Self {
            out,
            replies: replies.into_inner(),
        })
    }

    pub(crate) async fn next(&mut self) -> Result<agent_reply::Kind, Status> {
        let reply = tokio::time::timeout(Duration::from_secs(10), self.replies.message())
            .await
            .unwrap()?;
        Ok(reply.expect("an answer").kind.expect("of a kind"))
    }

    pub(crate) async fn say(&mut self, kind: agent_message::Kind) -> Result<agent_reply::Kind, Status> {
        self.out.send(pb::AgentMessage { kind: Some(kind) }).await.unwrap();
        self.next().await
    }
}

pub(crate) async fn endpoints(admin: &mut AdminClient<Channel>) -> Option<Vec<pb::Endpoint>> {
    let request = admin::ListEndpointsRequest {
        read: None,
        service: "pay.shop".into(),
    };
    Some(admin.list_endpoints(request).await.ok()?.into_inner().endpoints)
}
