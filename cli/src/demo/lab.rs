//! A federation of real processes on loopback: plans ports and configurations, starts, forms, kills and restarts. Promises
//! that nothing outlives it. The demo's stage, and that of tests that need whole processes.

mod config;
mod formation;
mod ports;
mod process;
mod region;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

pub(crate) use formation::set_tenant;
pub use formation::{export, join_token, view};
pub use ports::Ports;
pub use process::{Kind, Process, get};
pub use region::{Caller, Gateway, Node, Region, Sidecar};

use crate::failure::{Exit, Failure, Outcome};

/// What the lab consists of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The `isthmus` binary.
    pub executable: PathBuf,
    /// Names of the regions.
    pub regions: Vec<String>,
    /// Registry nodes in each region: 1, 3 or 5.
    pub nodes: usize,
    /// Workloads of `pay.shop` in each region.
    pub workloads: usize,
    /// Callers in the first region, each named after its namespace.
    pub callers: Vec<String>,
    /// What the daemons log.
    pub log: String,
    /// More settings of the registry nodes, as TOML tables; usually none.
    pub settings: String,
}

impl Spec {
    /// Three regions as the demo shows them.
    #[must_use]
    pub fn three_regions(executable: PathBuf) -> Self {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Self {
            executable,
            regions: names(&["eu", "us", "ap"]),
            nodes: 3,
            workloads: 2,
            callers: names(&["acme", "globex"]),
            log: "info".to_owned(),
            settings: String::new(),
        }
    }

    /// How many ports it needs.
    fn ports(&self) -> usize {
        let region = self.nodes * config::REGISTRY_PORTS + config::GATEWAY_PORTS + self.workloads * config::PROXY_PORTS;
        self.regions.len() * region + self.callers.len() * config::PROXY_PORTS
    }
}

/// The federation.
pub struct Lab {
    dir: PathBuf,
    /// The regions, in the order of the specification.
    pub regions: Vec<Region>,
    /// The callers, all in the first region.
    pub callers: Vec<Caller>,
    // Keeps other labs off these ports.
    _ports: Ports,
}

impl Lab {
    /// Reserves ports and writes all configurations below `dir`. Starts nothing.
    ///
    /// # Errors
    /// [`Exit::Refused`] when the folder is not empty or no block of ports is free.
    pub fn plan(dir: &Path, spec: &Spec) -> Outcome<Self> {
        // Keys and tokens are in it.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| {
            Failure::new(Exit::Failed, error).while_doing(format!("cannot create {}", dir.display()))
        })?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(Failure::text(
                Exit::Refused,
                format!("{} is not empty; name a new folder", dir.display()),
            ));
        }
        let dir = dir.canonicalize()?;
        let mut ports = Ports::reserve(spec.ports())?;
        let regions = spec
            .regions
            .iter()
            .map(|name| Region::plan(name, spec, &dir, &mut ports))
            .collect::<Outcome<Vec<_>>>()?;
        let home = regions
            .first()
            .ok_or_else(|| Failure::text(Exit::Usage, "a lab needs at least one region"))?;
        let callers = spec
            .callers
            .iter()
            .map(|name| Caller::plan(name, home, spec, &dir, &mut ports))
            .collect::<Outcome<Vec<_>>>()?;
        Ok(Self {
            dir,
            regions,
            callers,
            _ports: ports,
        })
    }

    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A region by name.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when the specification had no such region.
    pub fn region(&mut self, name: &str) -> Outcome<&mut Region> {
        self.regions
            .iter_mut()
            .find(|region| region.name == name)
            .ok_or_else(|| Failure::text(Exit::NotFound, format!("the lab has no region {name}")))
    }

    /// A caller by namespace.
    ///
    /// # Errors
    /// [`Exit::NotFound`] when the specification had no such caller.
    pub fn caller(&mut self, name: &str) -> Outcome<&mut Caller> {
        self.callers
            .iter_mut()
            .find(|caller| caller.name == name)
            .ok_or_else(|| Failure::text(Exit::NotFound, format!("the lab has no caller {name}")))
    }

    /// All processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let regions = self.regions.iter().flat_map(Region::processes);
        regions.chain(self.callers.iter().map(|caller| &caller.proxy))
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        let regions = self.regions.iter_mut().flat_map(Region::processes_mut);
        regions.chain(self.callers.iter_mut().map(|caller| &mut caller.proxy))
    }

    /// Complains about a process that ended although nobody killed it.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn check(&mut self) -> Outcome {
        match self
            .processes_mut()
            .find_map(|process| process.has_crashed().then_some(process))
        {
            Some(process) => Err(process.fault("ended by itself")),
            None => Ok(()),
        }
    }

    /// Kills everything and waits until it is gone. (Dropping the lab kills, too, but does not wait.)
    pub async fn end(&mut self) {
        for process in self.processes_mut() {
            process.kill().await;
        }
    }
}
