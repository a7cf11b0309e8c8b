//! A region of the lab: its registry nodes, its gateway, its workloads; and the callers beside the first region.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Kind, Ports, Process, Spec, config};
use crate::{
    connect::{Client, credentials},
    failure::Outcome,
};

/// How long a start may take on a busy machine.
pub(super) const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long a call of the operator's API may take.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// One region.
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its registry.
    pub nodes: Vec<Node>,
    /// Its way in for other regions.
    pub gateway: Gateway,
    /// The copies of `pay.shop` in it.
    pub workloads: Vec<Sidecar>,
    dir: PathBuf,
}

/// A registry node.
pub struct Node {
    /// The process.
    pub process: Process,
    /// Where it answers gRPC.
    pub api: SocketAddr,
    /// Where it answers health and metrics.
    pub http: SocketAddr,
    /// Where it answers DNS.
    pub dns: SocketAddr,
    pub(super) config: PathBuf,
}

/// An east-west gateway.
pub struct Gateway {
    /// The process.
    pub process: Process,
    /// Where other clusters' proxies come in.
    pub listen: SocketAddr,
    /// Health, metrics and view.
    pub admin: SocketAddr,
    pub(super) token: PathBuf,
}

/// A proxy, with an application or for a caller.
pub struct Sidecar {
    /// The process; an application is its child.
    pub process: Process,
    /// HTTP for other services goes in here.
    pub outbound: SocketAddr,
    /// Where it answers DNS.
    pub dns: SocketAddr,
    /// Health, metrics and view.
    pub admin: SocketAddr,
    pub(super) token: PathBuf,
    pub(super) command: Vec<String>,
}

/// A proxy in the first region that only calls.
pub struct Caller {
    /// Its namespace, which its tenant owns.
    pub name: String,
    /// Its proxy.
    pub proxy: Process,
    /// HTTP for other services goes in here.
    pub outbound: SocketAddr,
    /// Health, metrics and view.
    pub admin: SocketAddr,
    pub(super) token: PathBuf,
}

impl Region {
    pub(super) fn plan(name: &str, spec: &Spec, dir: &Path, ports: &mut Ports) -> Outcome<Self> {
        let dir = dir.join(name);
        fs::create_dir_all(&dir)?;
        let nodes = (1..=spec.nodes)
            .map(|at| plan_node(name, at, spec, &dir, ports))
            .collect::<Outcome<Vec<_>>>()?;
        let registry: Vec<_> = nodes.iter().map(|node| node.api).collect();
        let gateway = plan_gateway(name, spec, &dir, &registry, ports)?;
        let workloads = (1..=spec.workloads)
            .map(|at| {
                let workload = config::Workload {
                    region: name,
                    name: format!("{name}-pay-{at}"),
                    zone: zone(at),
                    namespace: "shop",
                    service_account: "pay",
                    service: Some("pay"),
                };
                plan_sidecar(&workload, spec, &dir, &registry, ports)
            })
            .collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            name: name.to_owned(),
            nodes,
            gateway,
            workloads,
            dir,
        })
    }

    /// Where its registry nodes answer.
    #[must_use]
    pub fn registry(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.api).collect()
    }

    /// The folder with its operator's credentials, once it is formed.
    #[must_use]
    pub fn credentials(&self) -> PathBuf {
        self.dir.join("registry-1").join("operator")
    }

    /// The operator's API, of whichever node answers.
    ///
    /// # Errors
    /// When none does, or the region is not formed yet.
    pub async fn admin(&self) -> Outcome<Client> {
        let identity = credentials(&self.credentials())?;
        let addresses: Vec<_> = self.registry().iter().map(SocketAddr::to_string).collect();
        Client::dial(&addresses, identity, CALL_PATIENCE).await
    }

    /// Kills everything in it at once with `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        for process in self.processes_mut() {
            process.kill_now();
        }
        for process in self.processes_mut() {
            process.kill().await;
        }
    }

    /// Starts what is not running, from what is on disk, and waits until it is ready.
    ///
    /// # Errors
    /// When a process does not become ready.
    pub async fn restart(&mut self) -> Outcome {
        // A node alone has no quorum and is not ready before the others are there.
        for node in &mut self.nodes {
            if !node.process.is_running() {
                node.process.start()?;
            }
        }
        for node in &mut self.nodes {
            node.process.ready(START_PATIENCE).await?;
        }
        if !self.gateway.process.is_running() {
            self.gateway.process.start()?;
        }
        for workload in &mut self.workloads {
            if !workload.process.is_running() {
                workload.start()?;
            }
        }
        self.gateway.process.ready(START_PATIENCE).await?;
        for workload in &mut self.workloads {
            workload.process.ready(START_PATIENCE).await?;
        }
        Ok(())
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        let nodes = self.nodes.iter().map(|node| &node.process);
        let workloads = self.workloads.iter().map(|workload| &workload.process);
        nodes.chain([&self.gateway.process]).chain(workloads)
    }

    pub(super) fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        let nodes = self.nodes.iter_mut().map(|node| &mut node.process);
        let workloads = self.workloads.iter_mut().map(|workload| &mut workload.process);
        // Workloads first: what dies with them must not have time to notice.
        workloads.chain([&mut self.gateway.process]).chain(nodes)
    }
}

impl Sidecar {
    /// Starts the proxy and, through it, the application.
    ///
    /// # Errors
    /// When it cannot be started, or runs already.
    pub fn start(&mut self) -> Outcome {
        self.process.start_with(&[], &self.command)
    }
}

impl Caller {
    pub(super) fn plan(name: &str, home: &Region, spec: &Spec, dir: &Path, ports: &mut Ports) -> Outcome<Self> {
        let dir = dir.join("callers");
        fs::create_dir_all(&dir)?;
        let workload = config::Workload {
            region: &home.name,
            name: format!("{}-{name}", home.name),
            zone: zone(1),
            namespace: name,
            service_account: "caller",
            service: None,
        };
        let sidecar = plan_sidecar(&workload, spec, &dir, &home.registry(), ports)?;
        Ok(Self {
            name: name.to_owned(),
            proxy: sidecar.process,
            outbound: sidecar.outbound,
            admin: sidecar.admin,
            token: sidecar.token,
        })
    }
}

/// Nodes and workloads of a region stand in different zones.
fn zone(at: usize) -> &'static str {
    ["a", "b", "c", "d", "e"][(at - 1) % 5]
}

fn plan_node(region: &str, at: usize, spec: &Spec, dir: &Path, ports: &mut Ports) -> Outcome<Node> {
    let name = format!("{region}-registry-{at}");
    let node = config::Node {
        region,
        name: &name,
        zone: zone(at),
        data_dir: dir.join(format!("registry-{at}")),
        api: ports.take()?,
        raft: ports.take()?,
        http: ports.take()?,
        federation: ports.take()?,
        dns: ports.take()?,
    };
    let file = config::write(dir, &name, &format!("{}\n{}", node.text(), spec.settings))?;
    let arguments = daemon("registry", &file, spec);
    Ok(Node {
        process: Process::new(
            &name,
            Kind::Registry,
            &spec.executable,
            dir,
            (node.http, "/readyz"),
            arguments,
        ),
        api: node.api,
        http: node.http,
        dns: node.dns,
        config: file,
    })
}

fn plan_gateway(region: &str, spec: &Spec, dir: &Path, registry: &[SocketAddr], ports: &mut Ports) -> Outcome<Gateway> {
    let name = format!("{region}-gateway");
    let gateway = config::Gateway {
        region,
        name: &name,
        data_dir: dir.join("gateway"),
        token: dir.join("gateway.token"),
        registry,
        listen: ports.take()?,
        admin: config::Admin::plan(ports)?,
    };
    let file = config::write(dir, &name, &gateway.text())?;
    let arguments = daemon("gateway", &file, spec);
    Ok(Gateway {
        process: Process::new(
            &name,
            Kind::Gateway,
            &spec.executable,
            dir,
            (gateway.admin.pages, "/ready"),
            arguments,
        ),
        listen: gateway.listen,
        admin: gateway.admin.pages,
        token: gateway.token,
    })
}

fn plan_sidecar(
    workload: &config::Workload<'_>,
    spec: &Spec,
    dir: &Path,
    registry: &[SocketAddr],
    ports: &mut Ports,
) -> Outcome<Sidecar> {
    let name = workload.name.clone();
    let proxy = config::Proxy {
        workload,
        data_dir: dir.join(&name),
        token: dir.join(format!("{name}.token")),
        registry,
        outbound: ports.take()?,
        inbound: ports.take()?,
        dns: ports.take()?,
        admin: config::Admin::plan(ports)?,
        application: ports.take()?,
    };
    let file = config::write(dir, &name, &proxy.text())?;
    let arguments = daemon("proxy", &file, spec);
    let command = match workload.service {
        Some(_) => config::application(&spec.executable, proxy.application, workload),
        None => Vec::new(),
    };
    Ok(Sidecar {
        process: Process::new(
            &name,
            Kind::Proxy,
            &spec.executable,
            dir,
            (proxy.admin.pages, "/ready"),
            arguments,
        ),
        outbound: proxy.outbound,
        dns: proxy.dns,
        admin: proxy.admin.pages,
        token: proxy.token,
        command,
    })
}

fn daemon(name: &str, file: &Path, spec: &Spec) -> Vec<String> {
    let file = file.display().to_string();
    [name, "--config", &file, "--log", &spec.log].map(str::to_owned).into()
}
