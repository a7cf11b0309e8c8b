use http::Response;
use mesh::{
    model::{Protocol, ServiceName},
    runtime::{Stop, clock},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

fn health(question: Question) -> Health {
    Health {
        question,
        interval: Duration::from_millis(10),
        timeout: Duration::from_millis(500),
        healthy_after: 1,
        unhealthy_after: 2,
    }
}

async fn answer(question: Question, app: SocketAddr) -> Result<(), ProbeError> {
    ask(&health(question), app, &Tasks::new(Stop::default())).await
}

/// Answers every connection with these bytes; nothing where there are none.
async fn application(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new(Stop::default());
    tasks.spawn("application", OnExit::Ignore, async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if !bytes.is_empty() {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(bytes).await;
            }
            open.push(stream);
        }
    });
    address
}

async fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn a_state_changes_only_after_enough_answers_in_a_row() {
    let mut streak = Streak::new(&Health {
        healthy_after: 2,
        unhealthy_after: 3,
        ..health(Question::Tcp)
    });
    for (at, (success, changed, is_healthy)) in [
        (false, false, false),
        (true, false, false),
        (false, false, false),
        (true, false, false),
        (true, true, true),
        (false, false, true),
        (false, false, true),
        (true, false, true),
        (false, false, true),
        (false, false, true),
        (false, true, false),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(
            (streak.step(success), streak.is_healthy),
            (changed, is_healthy),
            "step {at}"
        );
    }
}

#[tokio::test]
async fn tcp_and_http_questions() {
    let http = || Question::Http {
        path: "/healthz".to_owned(),
    };
    let listening = application(b"").await;
    answer(Question::Tcp, listening).await.unwrap();
    answer(Question::None, closed_port().await).await.unwrap();
    assert!(matches!(
        answer(Question::Tcp, closed_port().await).await,
        Err(ProbeError::Connect(_))
    ));
    assert!(matches!(answer(http(), listening).await, Err(ProbeError::Timeout(_))));
    for (head, good) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], true),
        (b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n", true),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", false),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n", false),
        (b"SSH-2.0-server\r\n", false),
    ] {
        let app = application(head).await;
        assert_eq!(
            answer(http(), app).await.is_ok(),
            good,
            "{}",
            String::from_utf8_lossy(head)
        );
    }
}

#[tokio::test]
async fn commands_are_asked_by_their_exit_code_and_killed_when_late() {
    let nowhere = closed_port().await;
    let exec = |command: &[&str]| Question::Exec {
        command: command.iter().map(|it| (*it).to_owned()).collect(),
    };
    answer(exec(&["/bin/true"]), nowhere).await.unwrap();
    assert!(matches!(
        answer(exec(&["/bin/false"]), nowhere).await,
        Err(ProbeError::Exit(_))
    ));
    assert!(matches!(
        answer(exec(&["/nonexistent"]), nowhere).await,
        Err(ProbeError::Spawn(_))
    ));
    assert!(matches!(
        answer(exec(&["/bin/sleep", "60"]), nowhere).await,
        Err(ProbeError::Timeout(_))
    ));
}

/// A gRPC server whose health is `status`, for the service `pay` only.
async fn grpc(status: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::new(Stop::default());
    let inner = tasks.clone();
    tasks.spawn("grpc", OnExit::Ignore, async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| async move {
                let asked = (request.uri().path() == "/grpc.health.v1.Health/Check").then_some(());
                let body = request.into_body().collect().await?.to_bytes();
                let known = asked.is_some() && body == grpc_question("pay");
                let frame = if known {
                    vec![0, 0, 0, 0, 2, 8, status]
                } else {
                    Vec::new()
                };
                Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from(frame))))
            });
            let connection = hyper::server::conn::http2::Builder::new(Executor(inner.clone()))
                .serve_connection(TokioIo::new(stream), service);
            inner.spawn("grpc-connection", OnExit::Ignore, async move {
                let _ = connection.await;
            });
        }
    });
    address
}

#[tokio::test]
async fn grpc_health_must_say_serving_for_the_service() {
    let question = |service: &str| Question::Grpc {
        service: service.to_owned(),
    };
    let (serving, not_serving) = (grpc(1).await, grpc(2).await);
    answer(question("pay"), serving).await.unwrap();
    for (name, app, asked) in [
        ("not serving", not_serving, "pay"),
        ("unknown service", serving, "cart"),
        ("no HTTP/2", application(b"HTTP/1.1 200 OK\r\n\r\n").await, "pay"),
        ("nobody", closed_port().await, "pay"),
    ] {
        assert!(answer(question(asked), app).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_workload_is_healthy_when_all_of_its_services_are() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = closed_port().await;
    let service = |app| LocalService {
        name: ServiceName::parse("pay.shop").unwrap(),
        port: 80,
        port_name: "http".to_owned(),
        protocol: Protocol::Http,
        app,
        headless: false,
        health: health(Question::Tcp),
    };
    let tasks = Tasks::new(Stop::default());
    let services = [service(first.local_addr().unwrap()), service(second)];
    let mut all = watch(&services, &tasks, &Metrics::default());
    assert!(!*all.borrow(), "nobody is healthy before it was asked");
    let within = Duration::from_secs(20);
    let listener = TcpListener::bind(second).await.unwrap();
    tokio::time::timeout(within, all.wait_for(|healthy| *healthy))
        .await
        .unwrap()
        .unwrap();
    drop(listener);
    tokio::time::timeout(within, all.wait_for(|healthy| !*healthy))
        .await
        .unwrap()
        .unwrap();
    tasks.stop().order();
    tasks.join(within).await.unwrap();
    assert!(clock::now().elapsed() < within);
    let none = Tasks::new(Stop::default());
    assert!(*watch(&[], &none, &Metrics::default()).borrow(), "no service, no fault");
}
