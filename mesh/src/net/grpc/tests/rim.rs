use std::sync::Arc;

use proto::registry::v1::{
    Update, WatchRequest,
    watch_client::WatchClient,
    watch_server::{Watch, WatchServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;

/// Room for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Streams that go on for ever: of small messages for most, of large ones for whoever watches in `large`, which is cut when
/// it is not read.
struct Endless {
    tasks: Tasks,
    cut: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl Watch for Endless {
    type SubscribeStream = ReceiverStream<Result<Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let hangup = Hangup::of(&request);
        let large = request.metadata().contains_key("large");
        let (out, updates) = mpsc::channel(1);
        let cut = self.cut.clone();
        self.tasks.spawn("endless", OnExit::Ignore, async move {
            loop {
                let update = Update {
                    region: if large { "x".repeat(1 << 20) } else { String::new() },
                    ..Update::default()
                };
                match tokio::time::timeout(Duration::from_millis(300), out.send(Ok(update))).await {
                    Err(_) => {
                        hangup.cut();
                        // The test may have seen enough.
                        let _ = cut.send(()).await;
                        return;
                    }
                    Ok(Err(_)) => return,
                    Ok(Ok(())) => {}
                }
                if !large {
                    out.closed().await;
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(updates)))
    }
}

async fn endless(age: Duration) -> (Ca, Running, Channel, mpsc::Receiver<()>) {
    let eu = Ca::new("eu");
    let mut options = Serve::new("test", ClientAuth::Optional);
    options.age = age;
    let (cut, cuts) = mpsc::channel(8);
    let tasks = Tasks::default();
    let routes = Routes::new(WatchServer::new(Endless { tasks, cut })).add_service(CertificatesServer::new(Echo));
    let server = start_with(eu.identity(REGISTRY, &[]), options, routes).await;
    let client = eu.identity("spiffe://eu/ns/shop/sa/cart", &[]);
    let channel = server.dial(client).await.unwrap();
    (eu, server, channel, cuts)
}

fn nothing() -> ReceiverStream<WatchRequest> {
    let (sender, requests) = mpsc::channel(1);
    // Kept open: a stream that the client has finished sending could end by itself.
    std::mem::forget(sender);
    ReceiverStream::new(requests)
}

#[tokio::test]
async fn an_old_connection_ends_its_streams_in_order_and_the_next_call_has_a_new_one() {
    let (_eu, server, channel, _cuts) = endless(Duration::from_millis(300)).await;
    let mut updates = WatchClient::new(channel.clone())
        .subscribe(nothing())
        .await
        .unwrap()
        .into_inner();
    assert!(updates.message().await.unwrap().is_some());
    let ended = tokio::time::timeout(PATIENCE, updates.message())
        .await
        .expect("its age");
    let status = ended.expect_err("an end that says why");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("call again"), "{status}");
    let only_one = || {
        server
            .metrics
            .render()
            .contains("isthmus_accepted_total{listener=\"test\"} 1\n")
    };
    let calls = async {
        // The stream's end may be heard before the connection's.
        while only_one() {
            assert_eq!(call(&channel, "").await.unwrap().len(), 1, "no call is lost");
        }
    };
    tokio::time::timeout(PATIENCE, calls)
        .await
        .expect("the channel finds a new connection");
}

#[tokio::test]
async fn a_stream_that_is_not_read_can_be_cut_and_others_go_on() {
    let (_eu, _server, channel, mut cuts) = endless(PATIENCE * 10).await;
    let mut request = Request::new(nothing());
    request.metadata_mut().insert("large", "1".parse().unwrap());
    let mut client = WatchClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut updates = client.subscribe(request).await.unwrap().into_inner();
    tokio::time::timeout(PATIENCE, cuts.recv())
        .await
        .expect("the handler notices")
        .unwrap();
    let ended = async { while let Ok(Some(_)) = updates.message().await {} };
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("what waited is dropped, not delivered for ever");
    assert_eq!(call(&channel, "").await.unwrap().len(), 1, "its connection goes on");
}

struct Strict;

impl Gate for Strict {
    fn connection(&self, caller: &Caller) -> Result<Pass, String> {
        if caller.id.as_ref().is_some_and(|id| id.path().ends_with("/loud")) {
            return Err("it is loud".into());
        }
        Ok(Pass::default())
    }

    fn call(&self, _: &Caller, method: &str) -> Result<Pass, Status> {
        if method.ends_with("/Issue") {
            return Ok(Pass::default().with_request_bytes_max(1000));
        }
        Err(Status::permission_denied("not this one"))
    }
}

#[tokio::test]
async fn a_gate_judges_connections_and_calls_before_anything_is_read() {
    let eu = Ca::new("eu");
    let mut options = Serve::new("test", ClientAuth::Optional);
    options.gate = Arc::new(Strict);
    let routes = Routes::new(CertificatesServer::new(Echo));
    let server = start_with(eu.identity(REGISTRY, &[]), options, routes).await;
    let channel = server
        .dial(eu.identity("spiffe://eu/ns/shop/sa/cart", &[]))
        .await
        .unwrap();
    assert!(call(&channel, "").await.is_ok());
    let status = call(&channel, &"x".repeat(2000)).await.expect_err("too long");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let status = WatchClient::new(channel)
        .subscribe(nothing())
        .await
        .expect_err("denied");
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "not this one")
    );
    let loud = server.dial(eu.identity("spiffe://eu/ns/shop/sa/loud", &[])).await;
    let told = match loud {
        Ok(channel) => call(&channel, "").await.is_err(),
        Err(_) => true,
    };
    assert!(told, "its connection is closed");
    let metrics = server.metrics.render();
    assert!(
        metrics.contains("isthmus_connections_limited_total{listener=\"test\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_source_that_connects_too_often_is_reset_and_others_are_not() {
    let eu = Ca::new("eu");
    let mut options = Serve::new("test", ClientAuth::Optional);
    options.handshakes_per_source = 2;
    let routes = Routes::new(CertificatesServer::new(Echo));
    let server = start_with(eu.identity(REGISTRY, &[]), options, routes).await;
    let address: std::net::SocketAddr = server.address.parse().unwrap();
    let mut flood = Vec::new();
    for _ in 0..50 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        flood.push(socket.connect(address).await);
    }
    let channel = server
        .dial(eu.identity("spiffe://eu/ns/shop/sa/cart", &[]))
        .await
        .unwrap();
    assert!(call(&channel, "").await.is_ok());
    let metrics = server.metrics.render();
    assert!(
        metrics.contains("isthmus_handshakes_limited_total{listener=\"test\"} 4"),
        "of 50, four at once: {metrics}"
    );
}
