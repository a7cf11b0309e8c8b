//! The command line of the daemons, and of what is done to a registry node's own files.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `isthmus registry …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RegistryArgs {
    /// The node's settings; `isthmus init registry` writes one with comments
    #[arg(long, value_name = "FILE", required = true)]
    pub(crate) config: Option<PathBuf>,
    /// A node token of the region that this new node joins; needed at its first start only
    #[arg(long, value_name = "TOKEN")]
    pub(crate) join: Option<String>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Option<RegistryCommand>,
}

/// What is done to a registry.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Form a new region on its first node: certificate authority, empty catalogue, operator's credentials
    Init {
        /// The node's settings
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Save the catalogue to a file, or form a region again from one
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a token with which another node joins this region: `isthmus registry --config FILE --join TOKEN`
    NodeToken {
        /// How long it can be used
        #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "1h")]
        ttl: std::time::Duration,
    },
    /// Take a node out of the region for good; refused when the quorum would be lost
    RemoveNode {
        /// Its number in `isthmus status`
        id: u64,
    },
}

/// `isthmus registry snapshot …`
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Ask a running region for its catalogue and keep it in FILE
    Save {
        /// Written completely or not at all
        file: PathBuf,
    },
    /// Make a node's empty data folder hold the catalogue of FILE; offline
    Restore {
        /// What `save` wrote
        file: PathBuf,
        /// Settings of the node that will be the region's first
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// `isthmus gateway …`
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// Its settings; `isthmus init gateway` writes one with comments
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `isthmus proxy …`
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Its settings; `isthmus init proxy` writes one with comments
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// The application to start beside it; both end together
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// How a daemon logs, on standard error.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogArgs {
    /// What to log, for example "info,mesh=debug"
    #[arg(long = "log", env = "ISTHMUS_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) filter: String,
    /// One JSON object a line
    #[arg(long = "log-json", env = "ISTHMUS_LOG_JSON")]
    pub(crate) json: bool,
}
