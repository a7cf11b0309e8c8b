mod rim;

use std::time::Duration;

use proto::registry::v1::{
    IssueReply, IssueRequest,
    certificates_client::CertificatesClient,
    certificates_server::{Certificates, CertificatesServer},
};
use tokio::net::TcpListener;
use tonic::{Request, Response, Status, service::Routes, transport::Channel};

use super::*;
use crate::{
    identity::{ClientAuth, Expect, Fault, Identity, testing::Ca},
    model::RegionId,
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks},
};

const REGISTRY: &str = "spiffe://eu/ns/isthmus-system/sa/registry";
const CART: &str = "spiffe://us/ns/shop/sa/cart";

/// Answers with the caller's identity; an empty chain when it has none. A request of `hang` is never answered.
struct Echo;

#[tonic::async_trait]
impl Certificates for Echo {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueReply>, Status> {
        let caller = Caller::of(&request).cloned().expect("served by us");
        if request.get_ref().join_token == "hang" {
            std::future::pending::<()>().await;
        }
        let chain = caller.id.iter().map(|id| id.to_string().into()).collect();
        Ok(Response::new(IssueReply {
            chain,
            ..IssueReply::default()
        }))
    }
}

struct Running {
    address: String,
    identity: Identity,
    tasks: Tasks,
    metrics: Metrics,
}

async fn start(identity: Identity, client_auth: ClientAuth) -> Running {
    start_with(
        identity,
        Serve::new("test", client_auth),
        Routes::new(CertificatesServer::new(Echo)),
    )
    .await
}

async fn start_with(identity: Identity, mut options: Serve, routes: Routes) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
    options.drain = Duration::from_millis(200);
    let server = serve(
        listener,
        identity.clone(),
        options,
        routes,
        tasks.clone(),
        metrics.clone(),
    );
    tasks.spawn("test", OnExit::StopProcess, server);
    Running {
        address,
        identity,
        tasks,
        metrics,
    }
}

impl Running {
    async fn dial(&self, credentials: impl Into<Credentials>) -> Result<Channel, DialError> {
        let expect = Expect::System(Role::Registry, self.identity.trust_domain());
        dial(&self.address, &credentials.into(), &expect, Timeouts::default()).await
    }
}

async fn call(channel: &Channel, token: &str) -> Result<Vec<String>, Status> {
    let request = IssueRequest {
        join_token: token.to_owned(),
        ..IssueRequest::default()
    };
    let reply = CertificatesClient::new(channel.clone())
        .issue(request)
        .await?
        .into_inner();
    Ok(reply
        .chain
        .iter()
        .map(|id| String::from_utf8(id.to_vec()).unwrap())
        .collect())
}

/// Both ends of a federation: the server of eu, an identity of us.
async fn federation() -> (Ca, Ca, Running, Identity) {
    let (eu, us) = (Ca::new("eu"), Ca::new("us"));
    let server = start(eu.identity(REGISTRY, &[&us]), ClientAuth::Optional).await;
    let client = us.identity(CART, &[&eu]);
    (eu, us, server, client)
}

#[tokio::test]
async fn a_handler_knows_its_caller() {
    let (eu, _us, server, client) = federation().await;
    let channel = server.dial(client).await.unwrap();
    assert_eq!(call(&channel, "").await.unwrap(), [CART]);
    let domain = server.identity.trust_domain();
    let newcomer = crate::identity::Bootstrap::new(domain.clone(), &RegionId::parse("eu").unwrap(), vec![eu.der()]);
    let channel = server.dial(newcomer.unwrap()).await.unwrap();
    assert!(
        call(&channel, "").await.unwrap().is_empty(),
        "a newcomer has no identity yet"
    );
    let caller = |text: &str| Caller {
        id: Some(SpiffeId::parse(text).unwrap()),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    assert_eq!(caller(REGISTRY).role(&domain), Some(Role::Registry));
    assert_eq!(
        caller("spiffe://us/ns/isthmus-system/sa/registry").role(&domain),
        None,
        "another region's"
    );
}

#[tokio::test]
async fn a_dial_says_why_it_failed() {
    let (_eu, us, server, client) = federation().await;
    let expect = Expect::System(Role::Gateway, server.identity.trust_domain());
    let credentials = Credentials::from(client);
    let error = dial(&server.address, &credentials, &expect, Timeouts::default()).await;
    let error = error.expect_err("it is the registry");
    assert!(matches!(error.fault(), Some(Fault::Unexpected { .. })), "{error}");
    let stranger = us.identity(CART, &[]);
    let error = server.dial(stranger).await.expect_err("unknown domain");
    assert!(matches!(error.fault(), Some(Fault::UnknownTrustDomain(_))), "{error}");
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let error = dial(&free, &credentials, &expect, Timeouts::default())
        .await
        .expect_err("nobody");
    assert!(error.to_string().contains("refused"), "{error}");
    for bad in ["registry", "registry:x", ":1", "a b:1"] {
        let error = dial(bad, &credentials, &expect, Timeouts::default()).await;
        assert!(matches!(error, Err(DialError::Address(_))), "{bad}");
    }
}

#[tokio::test]
async fn any_of_several_addresses_will_do() {
    let (_eu, _us, server, client) = federation().await;
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let expect = Expect::System(Role::Registry, server.identity.trust_domain());
    let credentials = Credentials::from(client);
    let addresses = [free.clone(), server.address.clone()];
    for _ in 0..4 {
        let channel = connect_any(&addresses, &credentials, &expect, Timeouts::default()).await;
        assert_eq!(call(&channel.unwrap(), "").await.unwrap(), [CART]);
    }
    let none = connect_any(&[], &credentials, &expect, Timeouts::default()).await;
    assert!(matches!(none, Err(DialError::NoAddress)));
    assert!(
        connect_any(&[free], &credentials, &expect, Timeouts::default())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn an_open_connection_ends_with_its_peers_anchors() {
    let (eu, us, server, client) = federation().await;
    let channel = server.dial(client.clone()).await.unwrap();
    let hanging = call(&channel, "hang");
    let removal = async {
        assert_eq!(call(&channel, "").await.unwrap(), [CART], "the connection stands");
        assert!(server.identity.replace_bundles([eu.bundle()]));
    };
    let limit = Duration::from_secs(5);
    let (hung, ()) = tokio::time::timeout(limit, async { tokio::join!(hanging, removal) })
        .await
        .expect("a call that waits is cut too");
    assert!(hung.is_err());
    assert!(call(&channel, "").await.is_err(), "nor does the client get in again");
    assert!(
        server
            .metrics
            .render()
            .contains("isthmus_connections_swept_total{listener=\"test\"} 1"),
        "{}",
        server.metrics.render()
    );
    server.identity.replace_bundles([eu.bundle(), us.bundle()]);
    let channel = server.dial(client.clone()).await.unwrap();
    let hanging = call(&channel, "hang");
    let removal = async {
        assert_eq!(call(&channel, "").await.unwrap(), [CART]);
        assert!(client.replace_bundles([]));
    };
    let (hung, ()) = tokio::time::timeout(limit, async { tokio::join!(hanging, removal) })
        .await
        .expect("the client's end is swept as well");
    assert!(hung.is_err());
}

#[tokio::test]
async fn other_bundles_leave_a_connection_alone() {
    let (eu, us, server, client) = federation().await;
    let channel = server.dial(client).await.unwrap();
    assert_eq!(call(&channel, "").await.unwrap(), [CART]);
    assert!(
        server
            .identity
            .replace_bundles([eu.bundle(), us.bundle(), Ca::new("ap").bundle()])
    );
    assert_eq!(call(&channel, "").await.unwrap(), [CART]);
    assert!(
        server
            .metrics
            .render()
            .contains("isthmus_connections{listener=\"test\"} 1"),
        "still the same connection: {}",
        server.metrics.render()
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_stranger_is_hung_up_on() {
    use tokio::io::AsyncReadExt;
    let (_eu, _us, server, _client) = federation().await;
    let begun = crate::runtime::clock::now();
    let mut stranger = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(60), stranger.read(&mut byte));
    assert_eq!(read.await.expect("hung up on").unwrap_or(0), 0);
    let waited = crate::runtime::clock::now() - begun;
    assert!(waited >= Duration::from_secs(10), "but given a chance: {waited:?}");
    let metrics = server.metrics.render();
    assert!(
        metrics.contains("isthmus_handshake_failed_total{listener=\"test\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_finish() {
    let (_eu, _us, server, client) = federation().await;
    let channel = server.dial(client).await.unwrap();
    assert!(call(&channel, "").await.is_ok());
    let hanging = call(&channel, "hang");
    let stop = async {
        tokio::task::yield_now().await;
        server.tasks.stop().order();
        server.tasks.join(Duration::from_secs(5)).await
    };
    let (hung, joined) = tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(hanging, stop) })
        .await
        .expect("cut at the drain's deadline");
    assert!(hung.is_err());
    joined.expect("an ordered stop");
}
