//! A region's nodes for tests: each with its own folder, listener and tasks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use mesh::{
    identity::{ClientAuth, Identity, Role, csr::KeyRequest},
    model::{NodeId, RegionId},
    net::grpc::{Serve, serve},
    ops::Metrics,
    runtime::{OnExit, Stop, Tasks, clock},
};
use proto::raft::v1::{JoinReply, JoinRequest};
use tempfile::TempDir;
use tonic::{Status, service::Routes};

use crate::{
    authority::{Authority, Root},
    catalog::{Command, Reply},
    raft::{Admit, Node, Replica, Settings},
    watch::{Publish, Published},
};

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers what was published.
#[derive(Default)]
pub(super) struct Log(Mutex<Vec<(u64, bool)>>);

impl Publish for Log {
    fn publish(&self, published: Published) {
        self.0.lock().unwrap().push((published.revision.0, published.reset));
    }
}

impl Log {
    pub(super) fn revisions(&self) -> Vec<(u64, bool)> {
        self.0.lock().unwrap().clone()
    }
}

struct Nobody;

impl Admit for Nobody {
    fn join(&self, _: JoinRequest) -> BoxFuture<'_, Result<JoinReply, Status>> {
        Box::pin(async { Err(Status::permission_denied("nobody is admitted")) })
    }
}

/// A running node.
pub(super) struct Running {
    pub(super) replica: Replica,
    pub(super) tasks: Tasks,
    pub(super) published: Arc<Log>,
    pub(super) metrics: Metrics,
}

/// A region.
pub(super) struct World {
    _folder: TempDir,
    base: PathBuf,
    root: Root,
    authority: Authority,
    nodes: BTreeMap<u64, (Node, std::net::SocketAddr)>,
    pub(super) running: BTreeMap<u64, Running>,
    pub(super) snapshot_every: u64,
    pub(super) replace_after: Duration,
    pub(super) log_mib: u64,
    pub(super) disk_reserve_mib: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_owned();
        Self::within(folder, base)
    }

    /// Keeps the nodes' folders in `base`.
    pub(super) fn within(folder: TempDir, base: PathBuf) -> Self {
        let (region, now) = (RegionId::parse("eu").unwrap(), clock::wall());
        let domain = mesh::identity::TrustDomain::parse("eu").unwrap();
        let (authority, root) = Authority::create(&region, &domain, now).unwrap();
        Self {
            _folder: folder,
            base,
            root,
            authority,
            nodes: BTreeMap::new(),
            running: BTreeMap::new(),
            snapshot_every: 10_000,
            replace_after: Duration::ZERO,
            log_mib: 64,
            disk_reserve_mib: 64,
        }
    }

    /// One node that is its own group.
    pub(super) async fn single() -> Self {
        let mut world = Self::new();
        world.start(1).await;
        world.replica(1).initialise(world.node(1)).await.unwrap();
        world.leader().await;
        world
    }

    /// Three voters.
    pub(super) async fn three() -> Self {
        Self::three_with(Duration::ZERO).await
    }

    /// Three voters with a setting of their own.
    pub(super) async fn three_with(replace_after: Duration) -> Self {
        let mut world = Self::new();
        world.replace_after = replace_after;
        world.start(1).await;
        world.replica(1).initialise(world.node(1)).await.unwrap();
        world.leader().await;
        for id in [2, 3] {
            world.start(id).await;
            world.replica(1).add_node(NodeId(id), world.node(id)).await.unwrap();
        }
        world
    }

    pub(super) fn identity(&self, role: Role) -> Identity {
        let (request, now) = (KeyRequest::generate().unwrap(), clock::wall());
        let id = role.id(self.authority.trust_domain());
        let chain = self
            .authority
            .issue(request.der(), &id, Duration::from_secs(3600), now)
            .unwrap();
        let bundle = self.root.bundle(1).unwrap();
        Identity::new(request.complete(chain).unwrap(), [Arc::new(bundle)]).unwrap()
    }

    pub(super) fn path(&self, id: u64) -> PathBuf {
        self.base.join(id.to_string())
    }

    pub(super) fn settings(&self, id: u64) -> Settings {
        let mut settings = Settings::new(self.path(id), NodeId(id));
        settings.snapshot_every = self.snapshot_every;
        settings.replace_after = self.replace_after;
        settings.log_mib = self.log_mib;
        settings.disk_reserve_mib = self.disk_reserve_mib;
        settings
    }

    pub(super) fn node(&self, id: u64) -> Node {
        self.nodes[&id].0.clone()
    }

    pub(super) fn replica(&self, id: u64) -> Replica {
        self.running[&id].replica.clone()
    }

    pub(super) async fn start(&mut self, id: u64) {
        // A node keeps its address over restarts.
        let address = self
            .nodes
            .get(&id)
            .map_or_else(|| ([127, 0, 0, 1], 0).into(), |(_, address)| *address);
        let listener = mesh::net::listen::listen(address).unwrap();
        let address = listener.local_addr().unwrap();
        let node = Node {
            raft_address: address.to_string(),
            api_address: format!("127.0.0.1:{id}"),
            federation_address: String::new(),
            zone: "a".into(),
        };
        self.nodes.insert(id, (node, address));
        let (tasks, metrics) = (Tasks::new(Stop::default()), Metrics::default());
        let identity = self.identity(Role::Registry);
        let published = Arc::new(Log::default());
        let publish: Arc<dyn Publish> = Arc::<Log>::clone(&published);
        let replica = Replica::open(self.settings(id), identity.clone(), publish, &metrics, &tasks)
            .await
            .unwrap();
        let routes = Routes::new(replica.service(identity.clone(), Arc::new(Nobody)));
        let mut options = Serve::new("raft", ClientAuth::Optional);
        options.drain = Duration::from_millis(100);
        tasks.spawn(
            "serve",
            OnExit::StopProcess,
            serve(listener, identity, options, routes, tasks.clone(), metrics.clone()),
        );
        let running = Running {
            replica,
            tasks,
            published,
            metrics,
        };
        self.running.insert(id, running);
    }

    /// `Init`, as a region's first command.
    pub(super) fn first_command(&self) -> Command {
        Command::Init {
            region: RegionId::parse("eu").unwrap(),
            trust_domain: self.authority.trust_domain().clone(),
            incarnation: mesh::model::Incarnation(7),
            bundle: self.root.bundle(1).unwrap(),
            authority: self.authority.record(),
        }
    }

    pub(super) async fn stop(&mut self, id: u64) {
        let running = self.running.remove(&id).unwrap();
        running.tasks.stop().order();
        running.tasks.join(PATIENCE).await.unwrap();
    }

    pub(super) async fn restart(&mut self, id: u64) {
        self.stop(id).await;
        self.start(id).await;
    }

    /// The node that leads and that says so itself.
    pub(super) async fn leader(&self) -> u64 {
        eventually("a leader", || {
            let leads = |(id, running): (&u64, &Running)| running.replica.position().is_leader.then_some(*id);
            self.running.iter().find_map(leads)
        })
        .await
    }
}

/// Polls until there is something.
pub(super) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = clock::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now() < until, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Takes a node id: each committed one is another number, so that losses and repetitions show.
pub(super) async fn allocate(replica: &Replica) -> u64 {
    let until = clock::now() + PATIENCE;
    loop {
        match replica.propose(Command::AllocateNode).await {
            Ok(committed) => match committed.reply {
                Reply::Node(NodeId(id)) => return id,
                other => panic!("{other:?}"),
            },
            Err(error) => assert!(clock::now() < until, "{error}"),
        }
    }
}

pub(super) fn allocated(replica: &Replica) -> u64 {
    replica.state().next_node().0
}

pub(super) fn files(path: &Path) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap();
    names
        .map(|name| name.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}
