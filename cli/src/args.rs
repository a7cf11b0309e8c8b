//! The command line as it is typed. Decides nothing: what each command does is in `cmd`, `daemon` and `demo`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use daemon::{GatewayArgs, LogArgs, ProxyArgs, RegistryArgs, RegistryCommand, SnapshotCommand};
pub(crate) use operator::{
    CaCommand, DrillCommand, EndpointsArgs, EvacuateArgs, ExportArgs, PeerCommand, ResolveArgs, TenantArgs,
    TenantsCommand, TokenArgs, WhyArgs,
};

mod daemon;
mod operator;

/// What exit codes mean; the end of every `--help`.
const AFTER_HELP: &str = "\
Exit codes: 0 done · 1 failed · 2 wrong usage or a value that was refused as malformed · 3 not found
            4 refused or in conflict with what is there · 5 the registry could not be reached
";

/// Multi-cluster federation gateway and service registry.
#[derive(Debug, Parser)]
#[command(name = "isthmus", version, about, after_help = AFTER_HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every operator's command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// API addresses of a region's registry nodes, tried in turn [default: the file `registry` among the credentials,
    /// else 127.0.0.1:15012]
    #[arg(
        long = "registry",
        id = "registry_addresses",
        global = true,
        env = "ISTHMUS_REGISTRY",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        help_heading = "Connection"
    )]
    pub(crate) registry: Vec<String>,
    /// Folder with the operator's certificate, key and bundle, as `registry init` writes it to <data_dir>/operator
    #[arg(
        long,
        global = true,
        env = "ISTHMUS_CREDENTIALS",
        value_name = "DIR",
        default_value = "/var/lib/isthmus/registry/operator",
        help_heading = "Connection"
    )]
    pub(crate) credentials: PathBuf,
    /// Read what the answering node holds, without asking its leader: also answers without a quorum
    #[arg(long, global = true, help_heading = "Connection")]
    pub(crate) local: bool,
    /// How long to wait for an answer
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration, default_value = "10s", help_heading = "Connection")]
    pub(crate) timeout: Duration,
    /// A table for people, or JSON for programs
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, help_heading = "Output")]
    pub(crate) output: Output,
    /// End when the process that started this one ends, however it ends.
    #[arg(long, global = true, hide = true)]
    pub(crate) die_with_parent: bool,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns.
    Table,
    /// One JSON value.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a region's registry node, or look after it
    Registry(RegistryArgs),
    /// Run an east-west gateway
    Gateway(GatewayArgs),
    /// Run a sidecar proxy, alone or together with its application
    Proxy(ProxyArgs),
    /// Write a commented configuration of a daemon
    Init(InitArgs),
    /// Make a token with which a workload or gateway gets its first certificate
    Token(TokenArgs),
    /// Federate with registries of other regions
    #[command(subcommand)]
    Peer(PeerCommand),
    /// The region's certificate authority
    #[command(subcommand)]
    Ca(CaCommand),
    /// List services
    Services {
        /// Only those of one namespace
        #[arg(long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
        namespace: String,
    },
    /// List a service's endpoints
    Endpoints(EndpointsArgs),
    /// List what this region offers to peers
    Exports,
    /// Offer a service to peers
    Export(ExportArgs),
    /// Offer a service no longer
    Unexport {
        /// <name>.<namespace>
        service: String,
    },
    /// Resolve a name as DNS would, and show the endpoints in the order in which a proxy would try them
    Resolve(ResolveArgs),
    /// List tenants, or change one
    Tenants(TenantsArgs),
    /// Nodes, leader, peers with lag and age, and what needs attention
    Status {
        /// Show it again every two seconds until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Find out what is wrong with a region, from here and from its nodes, and name it. Ends with 1 when there is a fault, with
    /// 0 when there are at most warnings
    Doctor,
    /// Why a request of SOURCE goes where it goes
    Why(WhyArgs),
    /// Move traffic away on purpose, for a while
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Print a shell's completion script
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Three regions on this machine: failures, failover and failback with real traffic
    Demo(DemoArgs),
    /// The demo's application: says where it runs.
    #[command(hide = true)]
    DemoApp(DemoAppArgs),
}

/// `isthmus init …`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Which daemon
    #[arg(value_enum)]
    pub(crate) daemon: Daemon,
    /// The region that it belongs to
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// The cluster (network) that it is on; gateway and proxy only
    #[arg(long, value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// The zone (failure domain) that it is in
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Write to this file, which must not exist yet, instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
}

/// The three daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Daemon {
    /// `isthmus registry`
    Registry,
    /// `isthmus gateway`
    Gateway,
    /// `isthmus proxy`
    Proxy,
}

/// `isthmus tenants …`
#[derive(Debug, Args)]
pub(crate) struct TenantsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<TenantsCommand>,
}

/// `isthmus demo …`
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep configurations, data and logs here [default: a temporary folder, removed after a success]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How long the acts hold what they show, together; at least 30s. Forming, and waiting for traffic to come home,
    /// comes on top
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "100s")]
    pub(crate) duration: Duration,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Plain lines also on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

/// `isthmus demo-app …`
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoAppArgs {
    /// Where to listen
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// What to answer with.
    #[arg(long)]
    pub(crate) region: String,
    /// What to answer with.
    #[arg(long)]
    pub(crate) name: String,
}

/// Reads a duration as in configuration files.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 500ms, 30s or 2h"))?;
    if span.is_zero() {
        return Err("must be longer than nothing".to_owned());
    }
    Ok(span)
}
