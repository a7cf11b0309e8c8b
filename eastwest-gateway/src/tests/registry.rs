//! The whole gateway against the smallest registry that can be: it issues, publishes one view and notes what it is told.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh::{
    identity::{ClientAuth, Secret, Token, TokenKind},
    model::{Resource, Timestamp},
    net::{grpc, listen::listen},
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks, clock},
};
use proto::registry::v1::{
    self as pb,
    agent_message::Kind,
    certificates_server::{Certificates, CertificatesServer},
    register_server::{Register, RegisterServer},
    watch_request,
    watch_server::{Watch, WatchServer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::world::{Domain, PATIENCE, backend, client_hello, endpoint, eventually, page, region, service, view_of};
use crate::{Config, Running, start};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Notes are the words that the gateway said.
#[derive(Clone)]
struct Fake {
    domain: Arc<Domain>,
    view: Vec<Resource>,
    notes: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    fn note(&self, text: String) {
        self.notes.lock().unwrap().push(text);
    }

    fn heard(&self, text: &str) -> bool {
        self.notes.lock().unwrap().iter().any(|note| note == text)
    }
}

#[tonic::async_trait]
impl Certificates for Fake {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueReply>, Status> {
        let account = "/ns/isthmus-system/sa/gateway";
        let leaf = self.domain.sign(&request.get_ref().csr, account);
        let not_after = clock::wall().plus(Duration::from_secs(3600));
        Ok(Response::new(pb::IssueReply {
            chain: vec![leaf.into()],
            bundles: vec![pb::TrustBundle::from((*self.domain.bundle()).clone())],
            spiffe_id: format!("spiffe://{}{account}", self.domain.name()),
            not_after_ms: not_after.0,
        }))
    }
}

#[tonic::async_trait]
impl Watch for Fake {
    type SubscribeStream = Answers<pb::Update>;
    async fn subscribe(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut asked = request.into_inner();
        if let Some(watch_request::Kind::Start(start)) = asked.message().await?.and_then(|message| message.kind) {
            self.note(format!(
                "watch {}",
                start.interest.unwrap_or_default().exported_by_cluster
            ));
        }
        let update = pb::Update {
            region: region().to_string(),
            held: Some(pb::Held {
                incarnation: 1,
                revision: 1,
            }),
            full: true,
            upserts: self.view.iter().cloned().map(Into::into).collect(),
            ..pb::Update::default()
        };
        let answers = tokio_stream::once(Ok(update)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl Register for Fake {
    type AttachStream = Answers<pb::AgentReply>;
    async fn attach(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let fake = self.clone();
        let replies = request.into_inner().map(move |message| {
            let kind = match message?.kind {
                Some(Kind::Gateway(gateway)) => {
                    fake.note(format!(
                        "gateway {} at {} {:?}",
                        gateway.id,
                        gateway.address,
                        gateway.state()
                    ));
                    pb::agent_reply::Kind::Attached(pb::Attached {
                        lease_ttl_ms: 3_000,
                        endpoint_ids: Vec::new(),
                        revision: 1,
                    })
                }
                Some(Kind::State(change)) => {
                    fake.note(format!("{:?}", change.state()));
                    pb::agent_reply::Kind::CommittedRevision(2)
                }
                Some(Kind::Detach(_)) => {
                    fake.note("detach".into());
                    pb::agent_reply::Kind::CommittedRevision(3)
                }
                _ => pb::agent_reply::Kind::Heartbeat(pb::Heartbeat::default()),
            };
            Ok(pb::AgentReply { kind: Some(kind) })
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// One tunnel to `listener`, with a byte each way; it stays open.
async fn passes(
    running: &Running,
    listener: &tokio::net::TcpListener,
) -> (tokio::net::TcpStream, tokio::net::TcpStream) {
    let hello = client_hello("outbound_.80_._.pay.shop.svc.cluster.local", &[b"istio"]);
    let mut client = tokio::net::TcpStream::connect(running.addresses.tunnels).await.unwrap();
    client.write_all(&hello).await.unwrap();
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let (mut endpoint, _) = accepted.expect("a tunnel").unwrap();
    endpoint.read_exact(&mut vec![0; hello.len()]).await.unwrap();
    (client, endpoint)
}

#[tokio::test]
async fn a_gateway_joins_registers_says_goodbye_and_starts_again_without_registry() {
    let (listener, port) = backend();
    let domain = Arc::new(Domain::new("eu"));
    let view = view_of([service("pay.shop")], [endpoint("ep-1", "pay.shop", port)]);
    let fake = Fake {
        domain: Arc::clone(&domain),
        view: view
            .resources()
            .chain([Resource::Bundle((*domain.bundle()).clone())])
            .collect(),
        notes: Arc::default(),
    };
    let socket = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let routes = Routes::new(CertificatesServer::new(fake.clone()))
        .add_service(WatchServer::new(fake.clone()))
        .add_service(RegisterServer::new(fake.clone()));
    let registry = Tasks::new(Stop::default());
    let mut options = grpc::Serve::new("fake", ClientAuth::Optional);
    options.drain = Duration::ZERO;
    let identity = domain.identity("/ns/isthmus-system/sa/registry", &[]);
    let serving = grpc::serve(socket, identity, options, routes, registry.clone(), Metrics::default());
    registry.spawn("fake-registry", OnExit::StopProcess, serving);

    let token = Token {
        kind: TokenKind::Workload,
        region: region(),
        trust_domain: domain.name().clone(),
        addresses: vec![address.clone()],
        anchors: domain.bundle().anchors().map(|anchor| anchor.to_vec()).collect(),
        secret: Secret::generate().unwrap(),
        expires_at: Timestamp(i64::MAX),
    };
    let folder = tempfile::tempdir().unwrap();
    let settings = |identity: &str| {
        let text = format!(
            "region = 'eu'\ncluster = 'eu-1'\nid = 'gateway-1'\nlisten = '127.0.0.1:0'\nadvertise = 'gateway.eu:15443'\n\
             registry = ['{address}']\ndata_dir = '{}'\n[admin]\nready = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\n\
             pages = '127.0.0.1:0'\n[timeouts]\ndrain = '1s'\n{identity}",
            folder.path().display()
        );
        Config::parse(&text).unwrap()
    };
    let with_token = settings(&format!("[identity]\ntoken = '{}'\n", token.encode()));
    let stop = Stop::default();
    let starting = tokio::time::timeout(PATIENCE, Box::pin(start(with_token, stop.clone())));
    let first = starting.await.expect("a start").unwrap();
    eventually("registered", || {
        fake.heard("gateway gateway-1 at gateway.eu:15443 Ready")
    })
    .await;
    assert!(fake.heard("watch eu-1"), "{:?}", fake.notes);
    let open = passes(&first, &listener).await;
    stop.order();
    let finishing = first.finish();
    let closing = async {
        eventually("told that it drains", || fake.heard("Draining")).await;
        drop(open);
    };
    let (finished, ()) = tokio::join!(finishing, closing);
    finished.unwrap();
    assert!(fake.heard("detach"), "{:?}", fake.notes);

    registry.stop().order();
    registry.join(PATIENCE).await.unwrap();
    let stop = Stop::default();
    let starting = tokio::time::timeout(PATIENCE, Box::pin(start(settings(""), stop.clone())));
    let second = starting.await.expect("a start without registry").unwrap();
    assert!(page(second.addresses.ready, "/ready").await.starts_with("HTTP/1.1 200"));
    drop(passes(&second, &listener).await);
    stop.order();
    second.finish().await.unwrap();
}
