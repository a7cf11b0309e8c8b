use mesh::{
    model::{Held, Revision, Timestamp},
    ops::Metrics,
    runtime::Stop,
};
use proto::registry::v1::watch_client::WatchClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tower::ServiceExt as _;

use super::*;
use crate::{
    catalog::{
        Change, Command,
        testing::{World, workload},
    },
    watch::{Publish, Published},
};

const PATIENCE: Duration = Duration::from_secs(8);

fn caller(id: Option<&str>) -> Caller {
    Caller {
        id: id.map(|id| id.parse().unwrap()),
        address: ([127, 0, 0, 1], 1).into(),
    }
}

#[test]
fn only_members_of_the_region_may_watch() {
    let state = World::new("eu").state;
    let code = |id| admit(Some(&caller(id)), &state).map_err(|status| status.code());
    assert_eq!(admit(None, &state).unwrap_err().code(), tonic::Code::Unauthenticated);
    assert_eq!(code(None), Err(tonic::Code::Unauthenticated));
    assert_eq!(
        code(Some("spiffe://us.test/ns/shop/sa/pay")),
        Err(tonic::Code::PermissionDenied)
    );
    assert_eq!(
        code(Some("spiffe://us.test/ns/isthmus-system/sa/registry")),
        Err(tonic::Code::PermissionDenied)
    );
    assert_eq!(code(Some("spiffe://eu.test/ns/shop/sa/pay")), Ok(None));
    let gateway = "spiffe://eu.test/ns/isthmus-system/sa/gateway";
    assert_eq!(code(Some(gateway)), Ok(Some(Role::Gateway)));
}

#[test]
fn an_interest_is_one_thing_and_a_gateways_is_its_cluster() {
    let everything = pb::Interest {
        everything: true,
        ..pb::Interest::default()
    };
    let cluster = pb::Interest {
        exported_by_cluster: "eu-1".into(),
        ..pb::Interest::default()
    };
    let both = pb::Interest {
        everything: true,
        ..cluster.clone()
    };
    let services = pb::Interest {
        services: vec!["pay.shop".into()],
        ..pb::Interest::default()
    };
    let misspelt = pb::Interest {
        services: vec!["pay".into()],
        ..pb::Interest::default()
    };
    let code = |interest: &pb::Interest, role| scope(interest.clone(), role).map_err(|status| status.code());
    assert_eq!(code(&everything, None), Ok(Scope::Everything));
    assert!(matches!(code(&services, None), Ok(Scope::Services(names)) if names.len() == 1));
    // `everything` comes with it for registries that know no names.
    let names = pb::Interest {
        everything: true,
        names: true,
        endpoints_of: vec!["pay.shop".into()],
        ..pb::Interest::default()
    };
    assert!(matches!(code(&names, None), Ok(Scope::Names(names)) if names.len() == 1));
    assert_eq!(code(&names, Some(Role::Gateway)), Err(tonic::Code::PermissionDenied));
    assert!(matches!(
        code(&cluster, Some(Role::Gateway)),
        Ok(Scope::ExportedByCluster(_))
    ));
    assert_eq!(
        code(&everything, Some(Role::Gateway)),
        Err(tonic::Code::PermissionDenied)
    );
    for bad in [&both, &misspelt] {
        assert_eq!(code(bad, None), Err(tonic::Code::InvalidArgument));
    }
}

struct Fixture {
    world: World,
    hub: Arc<Hub>,
    tasks: Tasks,
    metrics: Metrics,
    service: WatchService,
}

struct Stream {
    requests: mpsc::Sender<pb::WatchRequest>,
    updates: Streaming<pb::Update>,
}

impl Fixture {
    fn new() -> Self {
        let (metrics, tasks) = (Metrics::default(), Tasks::new(Stop::default()));
        let hub = Hub::new(&metrics);
        let fixture = Self {
            world: World::new("eu"),
            service: WatchService::with_patience(Arc::clone(&hub), tasks.clone(), PATIENCE),
            hub,
            tasks,
            metrics,
        };
        fixture.publish(Vec::new(), true);
        fixture
    }

    fn publish(&self, changes: Vec<Change>, reset: bool) {
        self.hub.publish(Published {
            state: Arc::new(self.world.state.clone()),
            revision: Revision(self.world.revision),
            at: Timestamp(self.world.at),
            changes,
            reset,
        });
    }

    fn attach(&mut self, name: &str, service: &str) {
        let attach = Command::AttachWorkload(Arc::new(workload(name, &[service])));
        let applied = self.world.apply(vec![attach]);
        self.publish(applied.changes, false);
    }

    async fn subscribe(&self, services: &[&str]) -> Stream {
        let service = self.service.clone().map_request(|mut request: http::Request<_>| {
            let workload = caller(Some("spiffe://eu.test/ns/shop/sa/pay"));
            request.extensions_mut().insert(workload);
            request
        });
        let (requests, outgoing) = mpsc::channel(8);
        let start = pb::Start {
            interest: Some(interest(services, 0)),
            subscriber: "proxy/w1".into(),
            ..pb::Start::default()
        };
        requests.send(said(Kind::Start(start))).await.unwrap();
        let answered = WatchClient::new(service).subscribe(ReceiverStream::new(outgoing)).await;
        Stream {
            requests,
            updates: answered.unwrap().into_inner(),
        }
    }

    fn is_cut(&self) -> bool {
        self.metrics.render().contains("isthmus_watch_cut_total 1")
    }
}

fn interest(services: &[&str], sequence: u64) -> pb::Interest {
    pb::Interest {
        services: services.iter().map(|&name| name.to_owned()).collect(),
        sequence,
        ..pb::Interest::default()
    }
}

fn said(kind: Kind) -> pb::WatchRequest {
    pb::WatchRequest { kind: Some(kind) }
}

impl Stream {
    async fn next(&mut self) -> pb::Update {
        self.updates.message().await.unwrap().unwrap()
    }

    async fn nothing(&mut self) {
        let silence = tokio::time::timeout(Duration::from_millis(10), self.updates.message()).await;
        assert!(silence.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_gives_updates_and_hears_what_its_subscriber_says() {
    let mut fixture = Fixture::new();
    fixture.attach("w1", "pay.shop");
    let mut stream = fixture.subscribe(&["pay.shop"]).await;
    assert!(stream.next().await.full);
    fixture.attach("w2", "pay.shop");
    let update = stream.next().await;
    assert!(!update.full && update.upserts.len() == 1 && update.interest == 0);
    let statuses = || fixture.hub.subscribers().list(Timestamp(i64::MAX));
    assert!(statuses()[0].lag > Duration::ZERO && statuses()[0].name == "proxy/w1");
    let ack = pb::Ack {
        held: update.held,
        applied_at_ms: 1,
    };
    stream.requests.send(said(Kind::Ack(ack))).await.unwrap();
    stream.nothing().await;
    let held = Held::from(update.held.unwrap());
    assert_eq!(
        (statuses()[0].lag, statuses()[0].acknowledged),
        (Duration::ZERO, held.revision)
    );
    // Another interest is answered, and from then on updates say that they are for it.
    stream
        .requests
        .send(said(Kind::Interest(interest(&["cart.shop"], 4))))
        .await
        .unwrap();
    assert_eq!(stream.next().await.interest, 4);
    fixture.attach("w3", "cart.shop");
    let update = stream.next().await;
    assert!(update.interest == 4 && !update.upserts.is_empty());
    // It ends when its subscriber has said all.
    let Stream { requests, mut updates } = stream;
    drop(requests);
    assert_eq!(updates.message().await.unwrap(), None);
    drop(updates);
    assert!(fixture.hub.subscribers().list(Timestamp(0)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_cannot_go_on_says_why() {
    let fixture = Fixture::new();
    let (mut stopped, mut unruly) = (fixture.subscribe(&[]).await, fixture.subscribe(&[]).await);
    for stream in [&mut stopped, &mut unruly] {
        assert!(stream.next().await.full);
    }
    unruly
        .requests
        .send(said(Kind::Start(pb::Start::default())))
        .await
        .unwrap();
    assert_eq!(
        unruly.updates.message().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    fixture.tasks.stop().order();
    assert_eq!(stopped.updates.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn only_who_does_not_take_an_update_is_cut() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.subscribe(&["pay.shop"]).await;
    assert!(stream.next().await.full);
    stream.nothing().await;
    tokio::time::sleep(PATIENCE * 3).await;
    assert!(!fixture.is_cut(), "it has what there is");
    fixture.attach("w1", "pay.shop");
    tokio::time::sleep(PATIENCE * 3).await;
    assert!(!fixture.is_cut(), "nothing was made for it while it did not ask");
    stream.next().await;
    tokio::time::sleep(PATIENCE / 2).await;
    assert!(!fixture.is_cut(), "there is time left");
    tokio::time::sleep(PATIENCE).await;
    assert!(fixture.is_cut(), "it never asked for more");
}
