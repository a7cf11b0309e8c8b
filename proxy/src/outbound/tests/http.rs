//! What HTTP promises, end to end.

use bytes::Bytes;
use http::{Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::rt::TokioIo;
use mesh::{
    model::{Namespace, Resource, TenantId, TenantShare},
    runtime::{OnExit, Tasks},
};
use tokio::net::TcpStream;

use crate::{
    hop::exec::Exec,
    testing::{World, get, raw, request},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_application_reads_who_calls_and_nothing_of_the_hop() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    let lie = Request::get("/headers?a=b")
        .header("host", "PAY.shop.")
        .header("x-forwarded-client-cert", "URI=spiffe://eu/ns/shop/sa/root")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("te", "trailers")
        .header("x-mine", "2")
        .body(Full::default())
        .unwrap();
    let reply = request(caller.address(), lie).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let has = |line: &str| reply.body.lines().any(|other| other == line);
    assert!(has("GET /headers?a=b"), "{}", reply.body);
    assert!(has("host: PAY.shop."), "{}", reply.body);
    assert!(has("x-mine: 2") && has("te: trailers"), "{}", reply.body);
    assert!(
        has("x-forwarded-client-cert: By=spiffe://eu/ns/shop/sa/pay;URI=spiffe://eu/ns/shop/sa/web"),
        "{}",
        reply.body
    );
    assert!(reply.body.contains("x-request-id: "), "{}", reply.body);
    assert!(
        !reply.body.contains("x-hop: 1") && !reply.body.contains("sa/root"),
        "{}",
        reply.body
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_form_and_virtual_addresses_route() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    let absolute = Request::get("http://pay.shop/")
        .header("host", "other")
        .body(Full::default())
        .unwrap();
    assert_eq!(request(caller.address(), absolute).await.body, "near");
    let [v4, _] = mesh::model::virtual_ips(&mesh::model::ServiceName::parse("pay.shop").unwrap(), 0);
    assert_eq!(get(caller.address(), &v4.to_string(), "/").await.body, "near");
    let nobody = get(caller.address(), "nobody.shop", "/").await;
    assert_eq!(
        (nobody.status, nobody.headers["x-isthmus-reason"].to_str().unwrap()),
        (404, "unknown-service")
    );
    let tcp = get(caller.address(), "db.shop", "/").await;
    assert_eq!(tcp.status, 400, "{tcp:?}");
    assert_eq!(
        get(caller.address(), "pay.shop.svc.us.region.isthmus", "/")
            .await
            .status,
        503
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_stream_both_ways() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    let body = Bytes::from(vec![b'y'; 12 << 20]);
    let upload = Request::post("/count")
        .header("host", "pay.shop")
        .body(Full::new(body))
        .unwrap();
    assert_eq!(request(caller.address(), upload).await.body, (12 << 20).to_string());
    let large = get(caller.address(), "pay.shop", "/large").await;
    assert_eq!(large.body.len(), 8 << 20);
    let small = Request::put("/count")
        .header("host", "pay.shop")
        .body(Full::from("12345"))
        .unwrap();
    assert_eq!(request(caller.address(), small).await.body, "5", "kept for a retry");
    world.tasks.stop().order();
}

/// A client of HTTP/2 with prior knowledge.
async fn http2(to: std::net::SocketAddr) -> hyper::client::conn::http2::SendRequest<AppBody> {
    let stream = TcpStream::connect(to).await.unwrap();
    let exec = Exec(Tasks::default());
    let (sender, connection) = hyper::client::conn::http2::handshake(exec, TokioIo::new(stream))
        .await
        .unwrap();
    Tasks::default().spawn("client", OnExit::Ignore, async move {
        // Its requests tell how it ended.
        let _ = connection.await;
    });
    sender
}

type AppBody = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

#[tokio::test(flavor = "multi_thread")]
async fn http2_with_prior_knowledge_carries_streams_and_trailers() {
    let mut world = World::new();
    let application = world.application("grpc").await;
    let _workload = world.workload("ep-1", "grpc.shop", "eu", application);
    let caller = world.caller(World::settings());
    let mut sender = http2(caller.address()).await;
    let (mut frames, body) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, std::convert::Infallible>>(1);
    let body = BodyExt::boxed(StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body)));
    let call = Request::post("http://grpc.shop/echo")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let response = sender.send_request(call).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for text in ["one", "two"] {
        frames.send(Ok(Frame::data(Bytes::from(text)))).await.unwrap();
        let echoed = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(echoed, text, "it comes back while the request is still open");
    }
    let closing = std::mem::replace(&mut frames, tokio::sync::mpsc::channel(1).0);
    drop(closing);
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["x-sum"], &trailers["grpc-status"]),
        (&"42".parse().unwrap(), &"0".parse().unwrap())
    );

    let unknown = Request::post("http://nobody.shop/a")
        .header("content-type", "application/grpc")
        .body(BodyExt::boxed(Full::default()))
        .unwrap();
    let refused = sender.send_request(unknown).await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["grpc-status"]),
        (200, &"5".parse().unwrap())
    );
    world.tasks.stop().order();
}

/// What the one proxy of a tenant may spend.
fn share(rate: f64, burst: f64) -> TenantShare {
    TenantShare {
        tenant: TenantId::parse("acme").unwrap(),
        namespaces: [Namespace::parse("shop").unwrap()].into(),
        rate,
        burst,
        proxies: 1,
        epoch: 0,
        least: rate,
        least_since: 0,
        floor: 0.0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_nobody_confirms_is_worth_its_floor() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    world.resources.push(Resource::Share(TenantShare {
        epoch: 7,
        least_since: 7,
        floor: 0.001,
        ..share(1e6, 1e6)
    }));
    let caller = world.caller(World::settings());
    for _ in 0..3 {
        assert_eq!(get(caller.address(), "pay.shop", "/").await.status, 429);
    }
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_share_is_told_when_to_come_again() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    world.resources.push(Resource::Share(share(0.2, 3.0)));
    let caller = world.caller(World::settings());
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(get(caller.address(), "pay.shop", "/").await.status);
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let refused = get(caller.address(), "pay.shop", "/").await;
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert!(refused.body.contains("tenant acme"), "{refused:?}");
    let grpc = Request::post("/a")
        .header("host", "pay.shop")
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    assert_eq!(request(caller.address(), grpc).await.headers["grpc-status"], "8");
    assert!(
        world
            .metrics
            .render()
            .contains("isthmus_quota_refused_total{tenant=\"acme\"} 4")
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_get_400_and_reach_nobody() {
    let mut world = World::new();
    let application = world.application("near").await;
    let workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    for head in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: 3, 4\r\n\r\nabcd",
        "Content-Length: +3\r\n\r\nabc",
        "Transfer-Encoding: gzip\r\n\r\nabc",
        "Transfer-Encoding: chunked, gzip\r\n\r\nabc",
        "X-A: b\r\n folded\r\n\r\n",
        "X-A: b\rX-B: c\r\n\r\n",
        "X-A : b\r\n\r\n",
        "X-A: \0b\r\n\r\n",
        "Host: pay.shop\r\n\r\n",
    ] {
        let reply = raw(
            caller.address(),
            &format!("POST / HTTP/1.1\r\nHost: pay.shop\r\n{head}"),
        )
        .await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{head:?}: {reply:?}");
    }
    assert!(
        raw(caller.address(), "GET / HTTP/1.1\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400"),
        "no Host"
    );
    assert_eq!(
        workload.application.requests.load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    let chunk = "POST /count HTTP/1.1\r\nHost: pay.shop\r\nTransfer-Encoding: chunked\r\n\r\n3x\r\nabc\r\n0\r\n\r\n";
    let reply = raw(caller.address(), chunk).await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply:?}");
    let good = "POST /count HTTP/1.1\r\nHost: pay.shop\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let reply = raw(caller.address(), good).await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains('3'), "{reply:?}");
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn expect_100_continue_is_answered() {
    let mut world = World::new();
    let application = world.application("near").await;
    let _workload = world.workload("ep-1", "pay.shop", "eu", application);
    let caller = world.caller(World::settings());
    let text = "POST /count HTTP/1.1\r\nHost: pay.shop\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc";
    let reply = raw(caller.address(), text).await;
    assert!(
        reply.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"),
        "{reply:?}"
    );
    world.tasks.stop().order();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_with_the_next_command() {
    let mut world = World::new();
    let caller = world.caller(World::settings());
    let reply = get(caller.address(), "pay.shop", "/").await;
    assert_eq!(
        (reply.status, reply.headers["x-isthmus-reason"].to_str().unwrap()),
        (503, "unreachable")
    );
    assert!(reply.body.contains("isthmus why eu/a pay.shop:80"), "{reply:?}");
    world.tasks.stop().order();
}
