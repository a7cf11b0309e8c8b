//! The life of a node before and beside its service: how it is made, how it joins, and how it keeps its own certificate.

mod disk;
mod init;
mod join;
mod renew;
mod restore;
mod rotation;

use std::{io, path::PathBuf, time::Duration};

use mesh::{
    identity::{BundleError, IdentityError, SvidError, TokenError},
    model::RegionId,
    net::grpc::DialError,
    runtime::TaskError,
};
use thiserror::Error;

use crate::{
    authority::AuthorityError,
    raft::{self, membership, propose},
};

pub(crate) use disk::{Card, Disk};
pub use init::{InitReport, init};
pub(crate) use join::join;
pub(crate) use renew::{Renewal, renewed, stand_in};
pub use restore::restore;
pub(crate) use rotation::{Rotator, facts, step};

/// Why a node could not be made, or could not run.
#[derive(Debug, Error)]
pub enum Error {
    /// A file of the node.
    #[error("{} cannot be read or written", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder holds a node, or the remains of one.
    #[error("data_dir {} already holds {found}; a new node needs an empty folder", dir.display())]
    Taken {
        /// The folder.
        dir: PathBuf,
        /// What is in it.
        found: &'static str,
    },
    /// The folder holds no node, and no token was given.
    #[error(
        "data_dir {} holds no node; make a new region with isthmus registry init, or join one with --join TOKEN",
        .0.display()
    )]
    NoNode(PathBuf),
    /// The folder holds another region's node.
    #[error("data_dir holds a node of region {found}, but the settings say region {wanted}")]
    OtherRegion {
        /// By the folder.
        found: RegionId,
        /// By the settings.
        wanted: RegionId,
    },
    /// The node's own files contradict each other.
    #[error("{} is spoiled: {fault}; restore it from a backup, or replace the node", path.display())]
    Spoiled {
        /// Which.
        path: PathBuf,
        /// How.
        fault: &'static str,
    },
    /// A certificate or key cannot be read, written or made.
    #[error("certificate of this node cannot be used")]
    Svid(#[from] SvidError),
    /// A certificate and the bundle do not fit.
    #[error("certificate of this node does not verify against its own region's bundle")]
    Identity(#[from] IdentityError),
    /// The authority could not be made or could not sign.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// An anchor is no CA certificate.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The replica could not be opened.
    #[error("replica cannot be opened")]
    Replica(#[from] raft::Error),
    /// The Raft group could not be formed or changed.
    #[error("the region's group could not be formed")]
    Membership(#[from] membership::Error),
    /// The first write failed.
    #[error("the region's first entry was not committed")]
    Propose(#[from] propose::Error),
    /// The catalogue refused to be initialised.
    #[error(transparent)]
    Refused(#[from] crate::catalog::Refusal),
    /// The node token.
    #[error("node token: {0}")]
    Token(#[from] TokenError),
    /// The token is another region's.
    #[error("node token is for region {token}, but the settings say region {wanted}")]
    TokenRegion {
        /// By the token.
        token: RegionId,
        /// By the settings.
        wanted: RegionId,
    },
    /// No node of the region could be reached.
    #[error("no node of the region answered within {waited:?}; are the addresses of the token reachable from here?")]
    Unreachable {
        /// How long was tried.
        waited: Duration,
        /// The last failure.
        source: Box<DialError>,
    },
    /// The region refused the new node.
    #[error("region refused this node: {0}")]
    JoinRefused(String),
    /// A listener could not be opened.
    #[error("{what} cannot be served")]
    Listen {
        /// Which.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A critical part ended by itself.
    #[error(transparent)]
    Task(#[from] TaskError),
}
