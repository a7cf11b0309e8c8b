//! A whole proxy against a registry in this process that knows one service and signs for one workload.

use std::path::Path;

use mesh::{
    identity::{Bundle, ClientAuth, Identity, Secret, Svid, Token, TokenKind, TrustDomain},
    model::{RegionId, Timestamp},
    net::grpc::{self, Serve},
    runtime::clock,
};
use proto::registry::v1::{
    self as pb,
    agent_message::Kind as AgentKind,
    certificates_server::{Certificates, CertificatesServer},
    register_server::{Register, RegisterServer},
    watch_server::{Watch, WatchServer},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn leaf(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(u64::try_from(clock::wall().0).unwrap());
    params.not_before = now - Duration::from_secs(60);
    params.not_after = now + Duration::from_secs(3600);
    params
}

struct Region {
    anchor: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    /// What agents said, heartbeats left out.
    said: mpsc::Sender<AgentKind>,
}

impl Region {
    fn bundle(&self) -> Bundle {
        let (domain, region) = (TrustDomain::parse("eu").unwrap(), RegionId::parse("eu").unwrap());
        Bundle::new(domain, region, 1, vec![self.anchor.clone()]).unwrap()
    }
}

#[derive(Clone)]
struct Shared(Arc<Region>);

#[tonic::async_trait]
impl Certificates for Shared {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueReply>, Status> {
        let der = CertificateSigningRequestDer::from(request.into_inner().csr.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        csr.params = leaf("spiffe://eu/ns/shop/sa/pay");
        let certificate = csr.signed_by(&self.0.issuer).unwrap();
        Ok(Response::new(pb::IssueReply {
            chain: vec![certificate.der().to_vec().into()],
            bundles: vec![self.0.bundle().into()],
            ..pb::IssueReply::default()
        }))
    }
}

#[tonic::async_trait]
impl Watch for Shared {
    type SubscribeStream = ReceiverStream<Result<pb::Update, Status>>;

    async fn subscribe(
        &self,
        _request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (updates, outgoing) = mpsc::channel(4);
        let service = pb::Service {
            name: "cart".to_owned(),
            namespace: "shop".to_owned(),
            virtual_ips: vec!["240.240.0.9".to_owned()],
            ..pb::Service::default()
        };
        let update = pb::Update {
            region: "eu".to_owned(),
            held: Some(pb::Held {
                incarnation: 1,
                revision: 5,
            }),
            full: true,
            upserts: vec![pb::Resource {
                kind: Some(pb::resource::Kind::Service(service)),
            }],
            ..pb::Update::default()
        };
        updates.send(Ok(update)).await.unwrap();
        tokio::task::yield_now().await;
        // Held open by a task that ends with the caller.
        let tasks = Tasks::new(Stop::default());
        tasks.spawn("watch", OnExit::Ignore, async move { updates.closed().await });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl Register for Shared {
    type AttachStream = ReceiverStream<Result<pb::AgentReply, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        use pb::agent_reply::Kind;
        let (replies, outgoing) = mpsc::channel(4);
        let (mut messages, said) = (request.into_inner(), self.0.said.clone());
        let tasks = Tasks::new(Stop::default());
        tasks.spawn("register", OnExit::Ignore, async move {
            while let Ok(Some(message)) = messages.message().await {
                let kind = message.kind.unwrap();
                let reply = match &kind {
                    AgentKind::Heartbeat(_) => continue,
                    AgentKind::Attach(_) => Kind::Attached(pb::Attached {
                        lease_ttl_ms: 3000,
                        endpoint_ids: vec!["ep-1".to_owned()],
                        revision: 6,
                    }),
                    _ => Kind::CommittedRevision(7),
                };
                said.send(kind).await.unwrap();
                if replies.send(Ok(pb::AgentReply { kind: Some(reply) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

struct Registry {
    address: String,
    tasks: Tasks,
    said: mpsc::Receiver<AgentKind>,
    token: String,
}

async fn registry() -> Registry {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://eu".try_into().unwrap())];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().unwrap();
    let anchor = params.self_signed(&key).unwrap().der().to_vec();
    let (said, says) = mpsc::channel(64);
    let region = Arc::new(Region {
        anchor: anchor.clone(),
        issuer: Issuer::new(params, key),
        said,
    });
    let own = KeyPair::generate().unwrap();
    let certificate = leaf("spiffe://eu/ns/isthmus-system/sa/registry")
        .signed_by(&own, &region.issuer)
        .unwrap();
    let svid = Svid::parse(vec![certificate.der().to_vec()], own.serialize_der()).unwrap();
    let identity = Identity::new(svid, [Arc::new(region.bundle())]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new(Stop::default());
    let mut options = Serve::new("registry", ClientAuth::Optional);
    options.drain = Duration::from_millis(10);
    let shared = Shared(region);
    let routes = Routes::new(CertificatesServer::new(shared.clone()))
        .add_service(WatchServer::new(shared.clone()))
        .add_service(RegisterServer::new(shared));
    let server = grpc::serve(listener, identity, options, routes, tasks.clone(), Metrics::default());
    tasks.spawn("registry", OnExit::StopProcess, server);
    let token = Token {
        kind: TokenKind::Workload,
        region: RegionId::parse("eu").unwrap(),
        trust_domain: TrustDomain::parse("eu").unwrap(),
        addresses: vec![address.clone()],
        anchors: vec![anchor],
        secret: Secret::generate().unwrap(),
        expires_at: Timestamp(clock::wall().0 + 60_000),
    };
    Registry {
        address,
        tasks,
        said: says,
        token: token.encode(),
    }
}

impl Registry {
    async fn hears(&mut self, what: &str, is_it: impl Fn(&AgentKind) -> bool) {
        let heard = async {
            while let Some(kind) = self.said.recv().await {
                if is_it(&kind) {
                    return;
                }
            }
            panic!("nobody speaks any more");
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .unwrap_or_else(|_| panic!("not heard: {what}"));
    }
}

/// All on any free port; the application is `app`.
fn config(registry: &str, token: Option<&str>, data: &Path, app: SocketAddr) -> Config {
    let token = token.map_or_else(String::new, |token| format!("[identity]\ntoken = '{token}'"));
    let any = "'127.0.0.1:0'";
    let text = format!(
        "region = 'eu'\ncluster = 'eu-1'\nregistry = ['{registry}']\ndata_dir = '{}'\n\
         [workload]\nid = 'pay-1'\nnamespace = 'shop'\nservice_account = 'pay'\n{token}\n\
         [[service]]\nname = 'pay'\nport = 80\napp = '{app}'\n[service.health]\ninterval = '20ms'\n\
         [inbound]\nlisten = {any}\n[outbound]\nlisten = {any}\n[dns]\nlisten = {any}\n\
         [admin]\nready = {any}\nmetrics = {any}\npages = {any}\n\
         [drain]\ndelay = '10ms'\ndeadline = '2s'\napplication = '5s'\n",
        data.display()
    );
    Config::parse(&text).unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("an answer").unwrap();
    answer
}

fn state_is(kind: &AgentKind, wanted: pb::EndpointState) -> bool {
    match kind {
        AgentKind::Attach(workload) => workload.state() == wanted,
        AgentKind::State(change) => change.state() == wanted,
        _ => false,
    }
}

#[tokio::test]
async fn a_workload_is_registered_drained_and_taken_away() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = registry().await;
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(
        &registry.address,
        Some(&registry.token),
        directory.path(),
        app.local_addr().unwrap(),
    );
    let stop = Stop::default();
    let running = start(config, stop.clone()).await.unwrap();
    registry
        .hears(
            "unhealthy first",
            |kind| matches!(kind, AgentKind::Attach(it) if it.services.len() == 1),
        )
        .await;
    registry
        .hears("ready", |kind| state_is(kind, pb::EndpointState::Ready))
        .await;

    let pages = running.addresses.pages;
    let ready = async {
        while !ask(running.addresses.ready, "GET", "/ready")
            .await
            .starts_with("HTTP/1.1 200")
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("ready");
    assert!(ask(pages, "GET", "/view").await.contains("cart"));
    let settings = ask(pages, "GET", "/config").await;
    assert!(
        settings.contains("pay-1") && !settings.contains(&registry.token),
        "{settings}"
    );
    assert!(
        ask(running.addresses.metrics, "GET", "/metrics")
            .await
            .contains("isthmus_view_revision 5")
    );
    assert!(ask(pages, "GET", "/why").await.starts_with("HTTP/1.1 400"));
    assert!(
        ask(pages, "GET", "/why?to=nowhere.shop")
            .await
            .starts_with("HTTP/1.1 404")
    );

    assert!(ask(pages, "POST", "/drain").await.starts_with("HTTP/1.1 202"));
    registry
        .hears("draining", |kind| state_is(kind, pb::EndpointState::Draining))
        .await;
    assert!(ask(pages, "GET", "/ready").await.contains("draining"));
    stop.order();
    tokio::time::timeout(PATIENCE, running.finish())
        .await
        .expect("an end")
        .unwrap();
    registry
        .hears("detach", |kind| matches!(kind, AgentKind::Detach(_)))
        .await;
    registry.tasks.stop().order();
}

#[tokio::test]
async fn a_restart_needs_no_registry() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry().await;
    let app = "127.0.0.1:1".parse().unwrap();
    let stop = Stop::default();
    let first = config(&registry.address, Some(&registry.token), directory.path(), app);
    let running = start(first, stop.clone()).await.unwrap();
    let view_is_there = async {
        while running.subscription().views().load().region().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, view_is_there).await.expect("a view");
    stop.order();
    running.finish().await.unwrap();
    registry.tasks.stop().order();
    registry.tasks.join(PATIENCE).await.unwrap();

    let stop = Stop::default();
    let second = config(&registry.address, None, directory.path(), app);
    let running = tokio::time::timeout(PATIENCE, start(second, stop.clone()))
        .await
        .expect("a start")
        .unwrap();
    assert!(
        ask(running.addresses.ready, "GET", "/ready")
            .await
            .starts_with("HTTP/1.1 200")
    );
    assert!(ask(running.addresses.pages, "GET", "/view").await.contains("cart"));
    assert!(!running.subscription().is_connected());
    stop.order();
    running.finish().await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_application_is_the_end_of_the_proxy() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = registry().await;
    let app = "127.0.0.1:1".parse().unwrap();
    let shell = |script: &str| Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()]);
    let settings = config(&registry.address, Some(&registry.token), directory.path(), app);
    // What was never attached is not detached, so that the application lives until then.
    let go = directory.path().join("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.02; done; exit 7", go.display());
    let ended = run(settings.clone(), shell(&script), Stop::default());
    let attached = async {
        registry
            .hears("attach", |kind| matches!(kind, AgentKind::Attach(_)))
            .await;
        std::fs::write(&go, "").unwrap();
    };
    let (ended, ()) = tokio::join!(tokio::time::timeout(PATIENCE, ended), attached);
    assert_eq!(ended.expect("an end").unwrap(), Ended::Application(7));
    registry
        .hears("detach", |kind| matches!(kind, AgentKind::Detach(_)))
        .await;

    let missing = run(
        settings.clone(),
        Some(vec!["/nonexistent/app".to_owned()]),
        Stop::default(),
    );
    let error = tokio::time::timeout(PATIENCE, missing)
        .await
        .expect("an end")
        .expect_err("no program");
    assert!(error.to_string().contains("/nonexistent/app"), "{error}");

    let stop = Stop::default();
    stop.order();
    let asked = run(
        settings,
        shell("trap 'exit 0' TERM; while :; do sleep 0.02; done"),
        stop,
    );
    let ended = tokio::time::timeout(PATIENCE, asked).await.expect("an end").unwrap();
    // The order may come before the shell has set its trap, or before there is an application at all.
    assert!(matches!(ended, Ended::Stopped(None | Some(0 | 143))), "{ended:?}");
}

#[tokio::test]
async fn a_taken_port_is_told_and_nothing_is_left_running() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = config(
        &registry.address,
        Some(&registry.token),
        directory.path(),
        "127.0.0.1:1".parse().unwrap(),
    );
    settings.outbound.listen = taken.local_addr().unwrap();
    let started = tokio::time::timeout(PATIENCE, start(settings, Stop::default()))
        .await
        .expect("an end");
    let error = started.err().expect("a taken port").to_string();
    assert_eq!(error, "outbound cannot listen");
}
