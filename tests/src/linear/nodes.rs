//! Three registry nodes as processes: made, started, signalled, started again, each in its namespace and on its disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cli::{Client, credentials};
use mesh::{identity::Identity, runtime::clock};
use proto::admin::v1::CreateNodeTokenRequest;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::{disk::Disk, network::Network};

pub(super) const NODES: u64 = 3;
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// How `isthmus` is started.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// What comes before `isthmus`' own arguments.
    pub prefix: Vec<String>,
}

/// One node.
pub(super) struct Node {
    pub(super) number: u64,
    pub(super) disk: Disk,
    /// Counts its starts, so that clients know one life from the next.
    pub(super) lives: Arc<AtomicU64>,
    address: String,
    namespace: String,
    program: Program,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Node {
    fn plan(number: u64, network: &Network, program: &Program, folder: &Path) -> Result<Self, String> {
        let own = folder.join(format!("node-{number}"));
        let disk = Disk::new(&own)?;
        let (address, zone) = (network.address(number), ["a", "b", "c"][number as usize % 3]);
        let text = format!(
            "region = 'lin'\ndata_dir = {data:?}\n[node]\nname = 'lin-{number}'\nzone = '{zone}'\n\
             [listen]\napi = '{address}:15012'\nraft = '{address}:15013'\nhttp = '{address}:15014'\n\
             federation = '{address}:15016'\ndns = '{address}:8053'\n[raft]\nsnapshot_every = 2000\n",
            data = disk.path().join("data"),
        );
        let config = own.join("registry.toml");
        fs::write(&config, text).map_err(|error| error.to_string())?;
        Ok(Self {
            number,
            disk,
            lives: Arc::default(),
            address,
            namespace: network.namespace(number),
            program: program.clone(),
            config,
            log: own.join("log"),
            child: None,
        })
    }

    pub(super) fn api(&self) -> String {
        format!("{}:15012", self.address)
    }

    pub(super) fn http(&self) -> std::net::SocketAddr {
        format!("{}:15014", self.address).parse().unwrap()
    }

    fn operator(&self) -> PathBuf {
        self.disk.path().join("data/operator")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(&self.program.path)
            .args(&self.program.prefix)
            .arg("--die-with-parent")
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    pub(super) fn start(&mut self, join: Option<&str>) -> Result<(), String> {
        let log = fs::File::options().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| error.to_string())?;
        let mut command = self.command(&["registry"]);
        if let Some(token) = join {
            command.args(["--join", token]);
        }
        command
            .stdout(log.try_clone().map_err(|error| error.to_string())?)
            .stderr(log);
        self.lives.fetch_add(1, Ordering::SeqCst);
        self.child = Some(command.spawn().map_err(|error| error.to_string())?);
        Ok(())
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            // It may have ended a moment ago.
            let _ = kill_process(pid, signal);
        }
    }

    /// Gives a signal that ends it, and waits for the end.
    pub(super) async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.child.take()
            && tokio::time::timeout(Duration::from_secs(30), child.wait())
                .await
                .is_err()
        {
            let _ = child.kill().await; // it is gone either way
        }
        self.lives.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// How it ended, if it did so by itself.
    pub(super) fn crashed(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        self.lives.fetch_add(1, Ordering::SeqCst);
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<_> = log.lines().rev().take(3).collect();
        Some(format!("{status}: {}", last.join(" | ")))
    }

    pub(super) async fn ready(&mut self) -> Result<(), String> {
        let begun = clock::now();
        loop {
            if let Some(how) = self.crashed() {
                return Err(format!("node {} ended before it was ready: {how}", self.number));
            }
            let said = match cli::demo::lab::get(self.http(), "/readyz").await {
                Ok((http::StatusCode::OK, _)) => return Ok(()),
                Ok((status, body)) => format!("{status} {}", String::from_utf8_lossy(&body)),
                Err(failure) => failure.to_string(),
            };
            if begun.elapsed() > START_PATIENCE {
                return Err(format!(
                    "node {} is not ready after {START_PATIENCE:?}: {said}",
                    self.number
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The region, formed as an operator forms it.
pub(super) async fn form(network: &Network, program: &Program, folder: &Path) -> Result<(Vec<Node>, Identity), String> {
    let mut nodes = Vec::new();
    for number in 1..=NODES {
        nodes.push(Node::plan(number, network, program, folder)?);
    }
    let made = nodes[0].command(&["registry", "init"]).output().await;
    let made: Output = made.map_err(|error| error.to_string())?;
    if !made.status.success() {
        return Err(format!("registry init: {}", String::from_utf8_lossy(&made.stderr)));
    }
    nodes[0].start(None)?;
    nodes[0].ready().await?;
    let identity = credentials(&nodes[0].operator()).map_err(|failure| failure.to_string())?;
    let dialled = Client::dial(&[nodes[0].api()], identity.clone(), START_PATIENCE).await;
    let admin = dialled.map_err(|failure| failure.to_string())?;
    for node in &mut nodes[1..] {
        let request = CreateNodeTokenRequest { ttl_seconds: 600 };
        let token = admin.call(|mut admin| async move { admin.create_node_token(request).await });
        let token = token.await.map_err(|failure| failure.to_string())?.token;
        node.start(Some(&token))?;
        node.ready().await?;
    }
    Ok((nodes, identity))
}
