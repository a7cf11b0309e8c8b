use std::{collections::VecDeque, sync::Mutex};

use proto::registry::v1::certificates_server::{Certificates, CertificatesServer};
use rcgen::CertificateSigningRequestParams;
use rustls_pki_types::CertificateSigningRequestDer;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status, service::Routes};

use super::*;
use crate::{
    identity::{
        ClientAuth, Secret,
        testing::{self, Ca},
    },
    model::{Namespace, RegionId, ServiceAccount},
    net::grpc::{Caller, Serve},
};

const PATIENCE: Duration = Duration::from_secs(20);
const REGISTRY: &str = "spiffe://eu/ns/isthmus-system/sa/registry";
const PAY: &str = "spiffe://eu/ns/shop/sa/pay";

/// Signs for `PAY`; what it was asked with goes to the test. `refusals` come first.
struct Authority {
    ca: Ca,
    life: Duration,
    refusals: Mutex<VecDeque<Status>>,
    asked: mpsc::Sender<(Option<SpiffeId>, String)>,
}

#[tonic::async_trait]
impl Certificates for Shared {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueReply>, Status> {
        let caller = Caller::of(&request).and_then(|caller| caller.id.clone());
        let request = request.into_inner();
        let _ = self.0.asked.send((caller, request.join_token)).await;
        let refusal = self.0.refusals.lock().unwrap().pop_front();
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let der = CertificateSigningRequestDer::from(request.csr.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        let mut params = testing::leaf(PAY);
        params.not_after = params.not_before + Duration::from_secs(60) + self.0.life;
        csr.params = params;
        let certificate = csr.signed_by(&self.0.ca.issuer).unwrap();
        Ok(Response::new(pb::IssueReply {
            chain: vec![certificate.der().to_vec().into()],
            bundles: vec![(*self.0.ca.bundle()).clone().into()],
            spiffe_id: PAY.to_owned(),
            not_after_ms: 0,
        }))
    }
}

#[derive(Clone)]
struct Shared(Arc<Authority>);

struct World {
    authority: Arc<Authority>,
    asked: mpsc::Receiver<(Option<SpiffeId>, String)>,
    address: String,
    server: Tasks,
    directory: tempfile::TempDir,
}

impl World {
    async fn new(life: Duration) -> Self {
        let (asked, asks) = mpsc::channel(64);
        let authority = Arc::new(Authority {
            ca: Ca::new("eu"),
            life,
            refusals: Mutex::default(),
            asked,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = Tasks::new(Stop::default());
        let mut options = Serve::new("authority", ClientAuth::Optional);
        options.drain = Duration::from_millis(10);
        let routes = Routes::new(CertificatesServer::new(Shared(Arc::clone(&authority))));
        let identity = authority.ca.identity(REGISTRY, &[]);
        let serve = grpc::serve(listener, identity, options, routes, server.clone(), Metrics::default());
        server.spawn("authority", OnExit::StopProcess, serve);
        Self {
            authority,
            asked: asks,
            address,
            server,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn token(&self, expires_at: Timestamp) -> String {
        let token = Token {
            kind: TokenKind::Workload,
            region: RegionId::parse("eu").unwrap(),
            trust_domain: TrustDomain::parse("eu").unwrap(),
            addresses: vec![self.address.clone()],
            anchors: vec![self.authority.ca.der()],
            secret: Secret::generate().unwrap(),
            expires_at,
        };
        token.encode()
    }

    fn good_token(&self) -> String {
        self.token(clock::wall().plus(Duration::from_secs(600)))
    }

    fn settings(&self, token: Option<String>) -> Obtain {
        Obtain {
            retry: (Duration::from_millis(5), Duration::from_millis(20)),
            ..Obtain::new(Some(self.directory.path().join("identity")), token, Vec::new())
        }
    }

    async fn kill(&self) {
        self.server.stop().order();
        self.server.join(PATIENCE).await.unwrap();
    }

    async fn asked(&mut self) -> (Option<SpiffeId>, String) {
        tokio::time::timeout(PATIENCE, self.asked.recv())
            .await
            .expect("asked")
            .unwrap()
    }
}

async fn obtained(settings: Obtain) -> (Result<Identity, ObtainError>, Tasks, Metrics) {
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    let identity = tokio::time::timeout(PATIENCE, obtain(settings, &tasks, &metrics)).await;
    (identity.expect("an end in time"), tasks, metrics)
}

async fn end(tasks: Tasks) {
    tasks.stop().order();
    tasks.join(PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_token_brings_the_first_identity_and_the_next_start_needs_nobody() {
    let mut world = World::new(Duration::from_secs(3600)).await;
    let token = world.good_token();
    let (identity, tasks, _) = obtained(world.settings(Some(format!(" {token}\n")))).await;
    assert_eq!(identity.unwrap().id().as_str(), PAY);
    assert_eq!(world.asked().await, (None, token));
    end(tasks).await;

    world.kill().await;
    let (identity, tasks, metrics) = obtained(world.settings(None)).await;
    assert_eq!(identity.unwrap().id().as_str(), PAY);
    let told = metrics.render();
    assert!(told.contains("isthmus_certificate_seconds_left"), "{told}");
    end(tasks).await;
}

#[tokio::test]
async fn it_is_renewed_with_itself_and_kept() {
    let mut world = World::new(Duration::from_millis(2500)).await;
    let (identity, tasks, metrics) = obtained(world.settings(Some(world.good_token()))).await;
    let identity = identity.unwrap();
    world.asked().await;
    let first = identity.svid();
    let (caller, token) = world.asked().await;
    assert_eq!(
        (caller, token.as_str()),
        (Some(identity.id()), ""),
        "the SVID proves who asks"
    );
    let deadline = clock::now() + PATIENCE;
    let saved = || Svid::load(&world.directory.path().join("identity")).ok().flatten();
    let is_saved = || saved().is_some_and(|saved| saved.chain() != first.chain());
    while identity.svid().chain() == first.chain() || !is_saved() {
        assert!(clock::now() < deadline, "not renewed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    end(tasks).await;
    assert!(metrics.render().contains("isthmus_certificate_renewed_total"));
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for() {
    let mut world = World::new(Duration::from_secs(3600)).await;
    for code in [
        Code::Unavailable,
        Code::Internal,
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Unavailable,
    ] {
        world
            .authority
            .refusals
            .lock()
            .unwrap()
            .push_back(Status::new(code, "no leader"));
    }
    let (identity, tasks, _) = obtained(world.settings(Some(world.good_token()))).await;
    identity.unwrap();
    for _ in 0..6 {
        world.asked().await;
    }
    end(tasks).await;
}

#[tokio::test]
async fn what_waiting_cannot_mend_is_told() {
    let world = World::new(Duration::from_secs(3600)).await;
    let refuse = |times| {
        let mut refusals = world.authority.refusals.lock().unwrap();
        *refusals = (0..times)
            .map(|_| Status::permission_denied("token is used up"))
            .collect();
    };
    let other_id = Obtain {
        expected: Some((Namespace::parse("bank").unwrap(), ServiceAccount::parse("pay").unwrap())),
        ..world.settings(Some(world.good_token()))
    };
    for (name, settings, refusals, part) in [
        ("nothing", world.settings(None), 0, "no join token is given"),
        ("no token", world.settings(Some("hello".to_owned())), 0, "not usable"),
        (
            "expired",
            world.settings(Some(world.token(Timestamp(1)))),
            0,
            "not usable",
        ),
        (
            "refused",
            world.settings(Some(world.good_token())),
            4,
            "token is used up",
        ),
        ("another's", other_id, 0, "settings say namespace bank"),
    ] {
        refuse(refusals);
        let (identity, tasks, _) = obtained(settings).await;
        let error = identity.expect_err(name).to_string();
        assert!(error.contains(part), "{name}: {error}");
        end(tasks).await;
    }
    // A refusal or two may come from a node that has not heard of the token yet.
    refuse(2);
    let (identity, tasks, _) = obtained(world.settings(Some(world.good_token()))).await;
    identity.unwrap();
    end(tasks).await;
}

#[tokio::test]
async fn a_stop_ends_the_waiting() {
    let world = World::new(Duration::from_secs(3600)).await;
    world.kill().await;
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    let stop = tasks.stop().clone();
    tasks.spawn("stopper", OnExit::Ignore, async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.order();
    });
    let settings = world.settings(Some(world.good_token()));
    let waited = tokio::time::timeout(PATIENCE, obtain(settings, &tasks, &metrics))
        .await
        .expect("ends");
    assert!(matches!(waited, Err(ObtainError::Stopped)), "{waited:?}");
}

#[tokio::test]
async fn a_damaged_or_foreign_saved_identity_is_replaced() {
    let mut world = World::new(Duration::from_secs(3600)).await;
    let identity_directory = world.directory.path().join("identity");
    let other = Ca::new("us");
    let foreign = || {
        other
            .svid("spiffe://us/ns/shop/sa/pay")
            .save(&identity_directory)
            .unwrap();
    };
    foreign();
    for spoil in [
        &(|| {}) as &dyn Fn(),
        &|| std::fs::write(identity_directory.join("bundles"), "eu eu 1 !!!\n").unwrap(),
        &|| std::fs::remove_file(identity_directory.join("bundles")).unwrap(),
        &|| std::fs::write(identity_directory.join("svid.pem"), "not PEM").unwrap(),
        &foreign,
    ] {
        spoil();
        let (identity, tasks, _) = obtained(world.settings(Some(world.good_token()))).await;
        assert_eq!(identity.unwrap().id().as_str(), PAY);
        world.asked().await;
        end(tasks).await;
    }
}
