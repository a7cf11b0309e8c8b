//! `isthmus doctor` names the fault that was put in, and no other. Whole daemons, real sockets, and the compiled binary as an
//! operator runs it; what is faked says so.

mod slow;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use mesh::{
    identity::{Bundle, ClientAuth, Expect, Identity, KeyRequest, Role, Svid, TrustDomain},
    model::RegionId,
    net::grpc::{self, Serve, Timeouts},
    ops::Metrics,
    runtime::{Clock, OnExit, Stop, Tasks, clock},
};
use proto::{
    admin::v1::RemovePeerRequest,
    registry::v1::{Interest, Start, WatchRequest, watch_client::WatchClient, watch_request::Kind},
};
use registry::{
    Machine,
    authority::{Authority, Root},
};
use serde_json::Value;
use slow::Slow;
use tempfile::TempDir;
use tests::{Region, World, eventually, eventually_within, isthmus};

const HOUR: Duration = Duration::from_secs(3600);

/// What doctor said: its exit code, and the names of faults and warnings.
struct Said {
    code: i32,
    names: Vec<String>,
    report: Value,
}

/// Runs it against these addresses. A slow disk is left out where it is not the subject: the machine under test is shared.
fn doctor(addresses: &[String], credentials: &Path) -> Said {
    let addresses = addresses.join(",");
    let folder = credentials.to_str().unwrap();
    let output = isthmus([
        "doctor",
        "-o",
        "json",
        "--registry",
        &addresses,
        "--credentials",
        folder,
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
    let findings = report["findings"].as_array().unwrap().clone();
    let mut names: Vec<String> = findings
        .iter()
        .filter(|finding| ["warning", "fault"].contains(&finding["level"].as_str().unwrap()))
        .map(|finding| finding["name"].as_str().unwrap().to_owned())
        .filter(|name| name != "disk-slow" && name != "disk-nearly-full")
        .collect();
    names.sort();
    names.dedup();
    let faults = findings
        .iter()
        .any(|finding| finding["level"] == "fault" && finding["name"] != "disk-slow");
    let code = output.status.code().unwrap();
    if faults {
        assert_eq!(code, 1, "{text}");
    }
    Said { code, names, report }
}

fn of(region: &Region) -> Said {
    doctor(&region.addresses(), &region.node_dir(1).join("operator"))
}

/// Says exactly this, in the end: leases, elections and links take a moment.
async fn says(region: &Region, names: &[&str]) -> Said {
    let mut last = None;
    eventually_within(
        Duration::from_secs(90),
        &format!("{} says {names:?}", region.name),
        async || {
            let said = of(region);
            let met = said.names == names;
            let seen = format!("{:#}", said.report);
            last = Some(said);
            if met { Ok(()) } else { Err(seen) }
        },
    )
    .await;
    last.unwrap()
}

/// An address where nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// An operator's folder: a certificate of `authority`, made at `at` for `life`, beside these anchors.
fn folder(authority: &Authority, anchors: &Bundle, at: mesh::model::Timestamp, life: Duration) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    svid(authority, Role::Operator, at, life).save(folder.path()).unwrap();
    let pem: String = anchors
        .anchors()
        .map(|der| mesh::identity::pem("CERTIFICATE", &der))
        .collect();
    fs::write(folder.path().join("bundle.pem"), pem).unwrap();
    folder
}

fn svid(authority: &Authority, role: Role, at: mesh::model::Timestamp, life: Duration) -> Svid {
    let key = KeyRequest::generate().unwrap();
    let id = role.id(authority.trust_domain());
    let chain = authority.issue(key.der(), &id, life, at).unwrap();
    key.complete(chain).unwrap()
}

/// A root that calls itself that of `west`.
fn stranger() -> (Authority, Root) {
    let (region, domain) = (RegionId::parse("west").unwrap(), TrustDomain::parse("west").unwrap());
    Authority::create(&region, &domain, clock::wall()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_federation_has_no_fault_and_a_lost_peer_and_a_lost_trust_are_named() {
    let world = World::regions(["west", "east"]).await;
    let said = says(world.west(), &[]).await;
    assert_eq!(said.code, 0, "{:#}", said.report);
    assert_eq!(says(world.east(), &[]).await.code, 0);

    // One side parts, the other does not know.
    let request = RemovePeerRequest {
        region: "west".to_owned(),
    };
    let parted = world.east().admin().await;
    parted
        .call(|mut admin| async move { admin.remove_peer(request).await })
        .await
        .unwrap();
    let said = says(world.west(), &["trust-bundle-unknown"]).await;
    assert!(
        said.report.to_string().contains("does not know this region's bundle"),
        "{:#}",
        said.report
    );

    // The whole registry there goes away: its port is closed, as seen from here.
    world.east().registry().part.kill().await;
    let said = says(world.west(), &["port-closed"]).await;
    let text = said.report.to_string();
    assert!(text.contains("15016") && text.contains("region east"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_a_lost_quorum_and_their_return() {
    let world = World::registry("west", 3).await;
    let region = world.west();
    assert_eq!(says(region, &[]).await.code, 0);
    region.node(3).part.kill().await;
    let said = says(region, &["node-down"]).await;
    assert!(said.report.to_string().contains("remove-node 3"), "{:#}", said.report);
    region.node(2).part.kill().await;
    let said = says(region, &["no-quorum", "node-down"]).await;
    assert!(said.report.to_string().contains("nodes 2, 3 down"), "{:#}", said.report);
    region.node(2).part.start().await;
    says(region, &["node-down"]).await;
    region.node(3).part.start().await;
    says(region, &[]).await;
}

/// The gateway runs, and tells the region an address at which nobody listens: what a forgotten firewall rule looks like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_nobody_reaches_is_a_closed_port() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    says(region, &[]).await;
    let token = region.admin().await.token("isthmus-system", "gateway").await;
    let text = format!(
        "region = 'west'\ncluster = 'west'\nid = 'west-gateway'\nlisten = '127.0.0.1:0'\nadvertise = '{advertise}'\n\
         registry = {registry:?}\ndata_dir = {dir:?}\n[identity]\ntoken = {token:?}\n\
         [admin]\nready = '127.0.0.1:0'\nmetrics = '127.0.0.1:0'\npages = '127.0.0.1:0'\n",
        advertise = closed(),
        registry = region.addresses(),
        dir = world.dir().join("gateway"),
    );
    let config = eastwest_gateway::Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}"));
    let stop = Stop::default();
    let running = Box::pin(eastwest_gateway::start(config, stop.clone())).await.unwrap();
    let said = says(region, &["port-closed"]).await;
    let text = said.report.to_string();
    assert!(
        text.contains("gateway west-gateway: tunnels (documented port 15443)"),
        "{text}"
    );
    stop.order();
    running.finish().await.unwrap();
    says(region, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_keeps_an_operator_out_is_told_apart() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    let (own, address) = (region.node_dir(1).join("operator"), region.addresses());
    let now = clock::wall();
    let names = |addresses: &[String], folder: &Path| doctor(addresses, folder).names;
    assert_eq!(names(&address, &own), [""; 0]);

    // Ways that lead nowhere.
    assert_eq!(names(&[closed()], &own), ["port-closed"]);
    assert_eq!(
        names(&[closed(), address[0].clone()], &own),
        ["port-closed"],
        "one of two"
    );
    assert_eq!(
        names(&["no-such-name.invalid:15012".to_owned()], &own),
        ["name-unresolved"]
    );
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(
        names(&[silent.local_addr().unwrap().to_string()], &own),
        ["port-closed"],
        "accepts, says nothing"
    );
    assert_eq!(names(&[region.registry().http.to_string()], &own), ["not-tls"]);

    // The own certificate.
    assert_eq!(names(&address, Path::new("/nowhere")), ["credentials-missing"]);
    let (foreign, root) = stranger();
    let wrong = folder(&foreign, &root.bundle(1).unwrap(), now, HOUR);
    assert_eq!(names(&address, wrong.path()), ["certificate-wrong-ca"]);
    let pem = fs::read_to_string(region.node_dir(1).join("root-key.pem")).unwrap();
    let real = Root::from_pem(&pem, foreign_region(), foreign.trust_domain()).unwrap();
    let (anchors, signer) = (real.bundle(1).unwrap(), real.issuing(now).unwrap());
    let torn = folder(&foreign, &anchors, now, HOUR);
    assert_eq!(
        names(&address, torn.path()),
        ["certificate-wrong"],
        "bundle and certificate do not fit"
    );
    let expired = folder(&signer, &anchors, mesh::model::Timestamp(now.0 - 3 * 3600 * 1000), HOUR);
    assert_eq!(names(&address, expired.path()), ["certificate-expired"]);
    let soon = folder(&signer, &anchors, mesh::model::Timestamp(now.0 - 50 * 60 * 1000), HOUR);
    assert_eq!(names(&address, soon.path()), ["certificate-near-expiry"]);

    // What answers there.
    let (gateway, tasks) = impostor(&signer, &anchors, Role::Gateway, HOUR).await;
    assert_eq!(names(&[gateway.to_string()], &own), ["certificate-wrong-identity"]);
    tasks.stop().order();
    let (late, tasks) = impostor(&signer, &anchors, Role::Registry, Duration::from_secs(1)).await;
    eventually("its certificate ends", async || {
        names(&[late.to_string()], &own) == ["certificate-expired"]
    })
    .await;
    tasks.stop().order();
}

fn foreign_region() -> &'static RegionId {
    static WEST: std::sync::OnceLock<RegionId> = std::sync::OnceLock::new();
    WEST.get_or_init(|| RegionId::parse("west").unwrap())
}

/// A server with a certificate of the region that is not a registry's, or not for long.
async fn impostor(signer: &Authority, anchors: &Bundle, role: Role, life: Duration) -> (SocketAddr, Tasks) {
    let svid = svid(signer, role, clock::wall(), life);
    let identity = Identity::new(svid, [Arc::new(anchors.clone())]).unwrap();
    let listener = mesh::net::listen::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = Tasks::default();
    let served = grpc::serve(
        listener,
        identity,
        Serve::new("impostor", ClientAuth::Optional),
        tonic::service::Routes::default(),
        tasks.clone(),
        Metrics::default(),
    );
    tasks.spawn("impostor", OnExit::Ignore, served);
    (address, tasks)
}

/// A region of one node with settings of its own.
struct Solo {
    folder: TempDir,
    api: String,
    stop: Stop,
    running: registry::Running,
}

impl Solo {
    /// Forms it with `first` at the end of its settings, and runs it with `then`.
    async fn start(first: &str, then: &str) -> Self {
        Self::start_on(first, then, Machine::real).await
    }

    /// The same on a machine of one's own.
    async fn start_on(first: &str, then: &str, machine: impl FnOnce(&registry::Config) -> Machine) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [api, raft, federation] = std::array::from_fn(|_| closed());
        let config = |extra: &str| {
            let text = format!(
                "region = 'west'\ndata_dir = {dir:?}\n[listen]\napi = '{api}'\nraft = '{raft}'\n\
                 federation = '{federation}'\nhttp = '127.0.0.1:0'\ndns = '127.0.0.1:0'\n{extra}",
                dir = folder.path().join("data"),
            );
            registry::Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}"))
        };
        Box::pin(registry::init(&config(first))).await.unwrap();
        let stop = Stop::default();
        let config = config(then);
        let running = registry::start_on(machine(&config), config, None, stop.clone());
        let running = Box::pin(running).await.unwrap();
        tokio::time::timeout(Duration::from_secs(30), running.ready.wait())
            .await
            .unwrap();
        Self {
            folder,
            api,
            stop,
            running,
        }
    }

    fn doctor(&self) -> Said {
        doctor(
            std::slice::from_ref(&self.api),
            &self.folder.path().join("data/operator"),
        )
    }

    /// All names, those of the disk included.
    fn names(&self) -> Vec<String> {
        let report = self.doctor().report;
        let findings = report["findings"].as_array().unwrap();
        let wrong = findings
            .iter()
            .filter(|finding| finding["name"] != "" && finding["name"] != "disk-slow");
        wrong
            .map(|finding| finding["name"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn end(self) {
        self.stop.order();
        self.running.finish().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resolver_that_is_gone_is_named() {
    let upstream = format!("[dns]\nupstreams = ['{}']\nupstream_timeout = '200ms'\n", closed());
    let solo = Solo::start(&upstream, &upstream).await;
    assert_eq!(solo.doctor().names, ["dns-upstream-unreachable"]);
    solo.end().await;
}

/// The disk is real; what counts as full is moved to where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_is_named_before_and_after_it_is_full() {
    let here = rustix::fs::statvfs(std::env::temp_dir().as_path()).unwrap();
    let free_mib = (here.f_bavail * here.f_frsize) >> 20;
    let reserve = |mib: u64| format!("[raft]\ndisk_reserve_mib = {}\n", mib.max(16));
    let nearly = Solo::start("", &reserve(free_mib / 3)).await;
    assert_eq!(nearly.names(), ["disk-nearly-full"]);
    nearly.end().await;
    let full = Solo::start("", &reserve(free_mib * 2)).await;
    assert_eq!(full.names(), ["disk-full"]);
    full.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_is_named() {
    let slow = |config: &registry::Config| {
        let machine = Machine::real(config);
        Machine {
            files: Arc::new(Slow(machine.files)),
            ..machine
        }
    };
    let solo = Solo::start_on("", "", slow).await;
    let said = solo.doctor();
    let findings = said.report["findings"].as_array().unwrap();
    let disk = findings
        .iter()
        .find(|finding| finding["name"] == "disk-slow")
        .unwrap_or_else(|| panic!("{:#}", said.report));
    assert_eq!((disk["level"].as_str(), said.code), (Some("fault"), 1), "{disk:#}");
    assert_eq!(said.names, [""; 0], "nothing else");
    solo.end().await;
}

/// The clock is the node's own value, set off by a minute: its certificates and sockets are real.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_off_is_named() {
    let clock = Clock::simulated(clock::now(), clock::wall());
    let off = clock.clone();
    let solo = Solo::start_on("", "", |config| Machine {
        clock: off,
        ..Machine::real(config)
    });
    let solo = solo.await;
    assert_eq!(solo.doctor().names, [""; 0]);
    clock.set_skew_ms(-12_000);
    let said = solo.doctor();
    assert_eq!(
        (said.names.as_slice(), said.code),
        (&["clock-skew".to_owned()][..], 0),
        "a warning"
    );
    clock.set_skew_ms(60_000);
    let said = solo.doctor();
    assert_eq!(
        (said.names.as_slice(), said.code),
        (&["clock-skew".to_owned()][..], 1),
        "{:#}",
        said.report
    );
    solo.end().await;
}

/// The subscriber is a fake: it says that it is of another version, which no proxy of this tree does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_of_another_version_is_named() {
    let world = World::registry("west", 1).await;
    let region = world.west();
    let identity = region.identity("shop", "pay").await;
    let expect = Expect::System(Role::Registry, identity.trust_domain());
    let (address, credentials) = (region.addresses()[0].clone(), identity.into());
    let channel = grpc::dial(&address, &credentials, &expect, Timeouts::default()).await;
    let (requests, outgoing) = tokio::sync::mpsc::channel(4);
    let start = Start {
        interest: Some(Interest {
            services: vec!["pay.shop".to_owned()],
            ..Interest::default()
        }),
        subscriber: "proxy/old-1".to_owned(),
        version: "0.0.9".to_owned(),
        ..Start::default()
    };
    requests
        .send(WatchRequest {
            kind: Some(Kind::Start(start)),
        })
        .await
        .unwrap();
    let mut client = WatchClient::new(channel.unwrap());
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let _updates = client.subscribe(outgoing).await.unwrap().into_inner();
    let said = says(region, &["version-skew"]).await;
    assert_eq!(said.code, 0, "a warning is no fault");
    assert!(
        said.report.to_string().contains("0.0.9: proxy/old-1"),
        "{:#}",
        said.report
    );
}
