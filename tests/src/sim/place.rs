//! Where something happens: a node of a region. Pure.

use std::fmt;

use mesh::{
    identity::TrustDomain,
    model::{NodeId, RegionId},
};
use registry::raft;

/// The regions of a world, in order of their names.
pub(crate) const REGIONS: [&str; 3] = ["ap", "eu", "us"];

/// A node; number 0 is the region as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) region: u8,
    pub(crate) node: u16,
}

impl Place {
    pub(crate) fn new(region: u8, node: u16) -> Self {
        Self { region, node }
    }

    /// The region as a whole.
    pub(crate) fn of(region: u8) -> Self {
        Self { region, node: 0 }
    }

    pub(crate) fn id(self) -> NodeId {
        NodeId(u64::from(self.node))
    }

    /// As other nodes dial it.
    pub(crate) fn address(self) -> String {
        format!("{self}:1")
    }

    /// The place of an address.
    pub(crate) fn parse(address: &str) -> Option<Self> {
        let (region, node) = address.strip_suffix(":1")?.split_once('-')?;
        let region = REGIONS.iter().position(|name| *name == region)?;
        Some(Self::new(u8::try_from(region).ok()?, node.parse().ok()?))
    }

    /// Its entry in the membership.
    pub(crate) fn member(self) -> raft::Node {
        raft::Node {
            raft_address: self.address(),
            api_address: self.address(),
            federation_address: self.address(),
            zone: "a".to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", REGIONS[usize::from(self.region)], self.node)
    }
}

/// The name of a region.
pub(crate) fn region(index: u8) -> RegionId {
    REGIONS[usize::from(index)].parse().unwrap()
}

/// Which region has this name.
pub(crate) fn index(region: &RegionId) -> Option<u8> {
    let found = REGIONS.iter().position(|name| *name == region.as_str())?;
    u8::try_from(found).ok()
}

/// The trust domain of a region.
pub(crate) fn domain(index: u8) -> TrustDomain {
    format!("{}.test", REGIONS[usize::from(index)]).parse().unwrap()
}
