//! A registry in this process that says what a test wants it to say, and the agents against it over real sockets.

mod lease;
mod memory;
mod stream;

use std::{future::Future, sync::Arc, time::Duration};

use proto::registry::v1::{
    self as pb,
    register_server::{Register, RegisterServer},
    watch_server::{Watch, WatchServer},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::{
    identity::{ClientAuth, Identity, testing::Ca},
    net::grpc::{self, Serve},
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks},
};

const PATIENCE: Duration = Duration::from_secs(20);
const REGISTRY: &str = "spiffe://eu/ns/isthmus-system/sa/registry";
const PROXY: &str = "spiffe://eu/ns/shop/sa/pay";

/// One stream as the test holds it: what came in, and what shall go out.
struct Held<In, Out> {
    requests: Streaming<In>,
    replies: mpsc::Sender<Result<Out, Status>>,
}

impl<In: Send + 'static, Out> Held<In, Out> {
    async fn next(&mut self) -> In {
        within("a message", self.requests.message())
            .await
            .unwrap()
            .expect("stream is open")
    }

    async fn say(&self, reply: Out) {
        self.replies.send(Ok(reply)).await.expect("caller is there");
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let timely = tokio::time::timeout(PATIENCE, future).await;
    timely.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

type Watched = Held<pb::WatchRequest, pb::Update>;
type Attached = Held<pb::AgentMessage, pb::AgentReply>;

#[derive(Clone)]
struct Services {
    watched: mpsc::Sender<Watched>,
    attached: mpsc::Sender<Attached>,
}

#[tonic::async_trait]
impl Watch for Services {
    type SubscribeStream = ReceiverStream<Result<pb::Update, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (replies, outgoing) = mpsc::channel(64);
        let requests = request.into_inner();
        let _ = self.watched.send(Held { requests, replies }).await;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

#[tonic::async_trait]
impl Register for Services {
    type AttachStream = ReceiverStream<Result<pb::AgentReply, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (replies, outgoing) = mpsc::channel(64);
        let requests = request.into_inner();
        let _ = self.attached.send(Held { requests, replies }).await;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Nodes of one region that share what comes in.
struct Registry {
    ca: Ca,
    services: Services,
    watched: mpsc::Receiver<Watched>,
    attached: mpsc::Receiver<Attached>,
}

struct Node {
    address: String,
    tasks: Tasks,
}

impl Registry {
    fn new() -> Self {
        let (watched, watches) = mpsc::channel(8);
        let (attached, attaches) = mpsc::channel(8);
        Self {
            ca: Ca::new("eu"),
            services: Services { watched, attached },
            watched: watches,
            attached: attaches,
        }
    }

    async fn node(&self) -> Node {
        self.node_as(REGISTRY).await
    }

    async fn node_as(&self, id: &str) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::new(Stop::default());
        let mut options = Serve::new("registry", ClientAuth::Required);
        options.drain = Duration::from_millis(10);
        let routes = Routes::new(WatchServer::new(self.services.clone()))
            .add_service(RegisterServer::new(self.services.clone()));
        let identity = self.ca.identity(id, &[]);
        let server = grpc::serve(listener, identity, options, routes, tasks.clone(), Metrics::default());
        tasks.spawn("registry", OnExit::StopProcess, server);
        Node { address, tasks }
    }

    fn proxy(&self) -> Identity {
        self.ca.identity(PROXY, &[])
    }

    async fn subscriber(&mut self) -> Watched {
        within("a subscriber", self.watched.recv()).await.unwrap()
    }

    async fn agent(&mut self) -> Attached {
        within("an agent", self.attached.recv()).await.unwrap()
    }
}

impl Node {
    async fn kill(self) {
        self.tasks.stop().order();
        self.tasks.join(PATIENCE).await.unwrap();
    }
}

/// An agent's own side.
struct Here {
    tasks: Tasks,
    metrics: Metrics,
    ready: crate::runtime::Ready,
}

impl Here {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            tasks: Tasks::new(Stop::default()),
            metrics: Metrics::default(),
            ready: crate::runtime::Ready::default(),
        })
    }

    async fn end(&self) {
        self.tasks.stop().order();
        self.tasks.join(PATIENCE).await.unwrap();
    }
}
