//! A federation: regions that know each other, on one machine, in one folder, on one block of ports. Everything ends with
//! it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use cli::demo::lab::Ports;
use tempfile::TempDir;

use crate::{eventually, region::Region};

/// Enough for every story; the lab's blocks hold so many without touching the next one.
const PORTS: usize = 198;

/// What all parts stand on.
pub(crate) struct Ground {
    dir: TempDir,
    /// Guards the next port only.
    ports: Mutex<Ports>,
}

impl Ground {
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn port(&self) -> SocketAddr {
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.take().unwrap_or_else(|failure| panic!("{failure}"))
    }
}

/// See the module.
pub struct World {
    regions: Vec<Region>,
    ground: Arc<Ground>,
}

impl World {
    /// Nothing yet.
    #[must_use]
    pub fn empty() -> Self {
        let ports = Ports::reserve(PORTS).unwrap_or_else(|failure| panic!("{failure}"));
        Self {
            regions: Vec::new(),
            ground: Arc::new(Ground {
                dir: tempfile::tempdir().unwrap(),
                ports: Mutex::new(ports),
            }),
        }
    }

    /// Regions of one registry node and one gateway each, all of them peers.
    pub async fn regions<const N: usize>(names: [&str; N]) -> Self {
        let world = Self::unpeered(names).await;
        for (at, one) in names.iter().enumerate() {
            for other in &names[at + 1..] {
                world.peer(one, other).await;
            }
        }
        world
    }

    /// Regions of one registry node and one gateway each, which do not know each other.
    pub async fn unpeered<const N: usize>(names: [&str; N]) -> Self {
        let mut world = Self::empty();
        let formed = names.map(|name| {
            let ground = Arc::clone(&world.ground);
            async move {
                let region = Region::form(name, ground, 1).await;
                region.start_gateway().await;
                region
            }
        });
        world.regions = futures_util::future::join_all(formed).await;
        world
    }

    /// One region with a registry of this many nodes, and no gateway.
    pub async fn registry(name: &str, nodes: u64) -> Self {
        let mut world = Self::empty();
        let region = Region::form(name, Arc::clone(&world.ground), nodes).await;
        world.regions.push(region);
        world
    }

    /// Regions with registries of this many nodes, and no gateways; all of them peers.
    pub async fn registries<const N: usize>(regions: [(&str, u64); N]) -> Self {
        let mut world = Self::empty();
        let formed = regions.map(|(name, nodes)| Region::form(name, Arc::clone(&world.ground), nodes));
        world.regions = futures_util::future::join_all(formed).await;
        for (at, (one, _)) in regions.iter().enumerate() {
            for (other, _) in &regions[at + 1..] {
                world.peer(one, other).await;
            }
        }
        world
    }

    /// Peers two regions by token, and waits until both say that they are connected.
    pub async fn peer(&self, one: &str, other: &str) {
        let (one, other) = (self.region(one), self.region(other));
        let token = one.admin().await.peer_token(&other.name).await;
        other.admin().await.join_peer(token).await.unwrap();
        for (here, there) in [(one, other), (other, one)] {
            let admin = here.admin().await;
            eventually(&format!("{} hears {}", here.name, there.name), async || {
                let peer = admin.peer(&there.name).await?;
                if peer.connected { Ok(()) } else { Err(peer.last_error) }
            })
            .await;
        }
    }

    /// A region by name.
    #[must_use]
    pub fn region(&self, name: &str) -> &Region {
        let region = self.regions.iter().find(|region| region.name == name);
        region.unwrap_or_else(|| panic!("the world has no region {name}"))
    }

    /// The region `west`.
    #[must_use]
    pub fn west(&self) -> &Region {
        self.region("west")
    }

    /// The region `east`.
    #[must_use]
    pub fn east(&self) -> &Region {
        self.region("east")
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.ground.dir()
    }
}
