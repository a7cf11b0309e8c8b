//! The command line of what operators ask and order.

use std::time::Duration;

use clap::{Args, Subcommand};

/// `isthmus token …`
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// The workload's namespace; `isthmus-system` for a gateway
    #[arg(long)]
    pub(crate) namespace: String,
    /// The workload's service account; `gateway` for a gateway
    #[arg(long)]
    pub(crate) service_account: String,
    /// How long it can be used
    #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "1h")]
    pub(crate) ttl: Duration,
    /// How often it can be used
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) uses: u32,
}

/// `isthmus peer …`
#[derive(Debug, Subcommand)]
pub(crate) enum PeerCommand {
    /// Make a token with which another region's registry becomes a peer of this one
    Token {
        /// The only region that may use it [default: any]
        #[arg(long = "for", value_name = "REGION", default_value = "", hide_default_value = true)]
        for_region: String,
        /// How long it can be used
        #[arg(long, value_name = "DURATION", value_parser = super::duration, default_value = "1h")]
        ttl: Duration,
    },
    /// Become a peer of the region that made TOKEN
    Join {
        /// What `isthmus peer token` printed there
        token: String,
    },
    /// List peers with lag and age
    List,
    /// Part from a region: its exports leave this region's catalogue, its certificates are trusted no longer
    Remove {
        /// The peer
        region: String,
    },
    /// Replace what is held of a peer by a new snapshot of what it shows, when `status` says that they differ
    Repair {
        /// The peer
        region: String,
    },
    /// Say what this region takes from a peer [at first: everything that the peer exports to it]
    Accept {
        /// The peer
        region: String,
        /// Everything that it exports
        #[arg(long, conflicts_with = "services")]
        all: bool,
        /// Only these, as <name>.<namespace>
        #[arg(required_unless_present = "all", value_name = "SERVICE")]
        services: Vec<String>,
    },
}

/// `isthmus ca …`
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Change the region's root, in steps: peers first get the new one beside the old one, then it issues, and the old one
    /// goes when its last certificate has ended
    Rotate,
    /// When the issuing certificate ends, and how far a change of the root is
    Status,
}

/// `isthmus endpoints …`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct EndpointsArgs {
    /// <name>.<namespace>
    #[arg(required = true)]
    pub(crate) service: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Option<EndpointsCommand>,
}

/// What is done to endpoints.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum EndpointsCommand {
    /// Remove endpoints that mass-loss protection holds although their leases lapsed
    ReleaseUnverified,
}

/// `isthmus export …`
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// <name>.<namespace>
    pub(crate) service: String,
    /// `all`, or the regions that may see it
    #[arg(long, required = true, num_args = 1.., value_delimiter = ',', value_name = "all|REGION")]
    pub(crate) to: Vec<String>,
}

/// `isthmus resolve …`
#[derive(Debug, Args)]
pub(crate) struct ResolveArgs {
    /// For example pay.shop, pay.shop.svc.clusterset.local or _http._tcp.pay.shop.svc.clusterset.local
    pub(crate) name: String,
    /// Where the question comes from [default: the answering region]
    #[arg(long, value_name = "REGION[/ZONE]", default_value = "", hide_default_value = true)]
    pub(crate) from: String,
}

/// `isthmus why …`
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// A workload's id, or REGION[/ZONE]
    pub(crate) source: String,
    /// <name>.<namespace>[:port], or any name that DNS resolves
    pub(crate) destination: String,
}

/// `isthmus tenants …`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantsCommand {
    /// Add or change a tenant; what is not given is unlimited
    Set(TenantArgs),
    /// Remove a tenant: its namespaces are limited no longer
    Remove {
        /// Its name
        name: String,
    },
}

/// A tenant with its quota. 0 = unlimited.
#[derive(Debug, Args)]
pub(crate) struct TenantArgs {
    /// Its name
    pub(crate) name: String,
    /// The namespaces that it owns
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAMESPACE,…")]
    pub(crate) namespaces: Vec<String>,
    /// In the whole mesh
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub(crate) requests_per_second: f64,
    /// Requests at once above the rate [default: as many as in one second]
    #[arg(long, value_name = "N")]
    pub(crate) burst: Option<f64>,
    /// Registered services
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) services: u32,
    /// Registered endpoints
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) endpoints: u32,
}

/// `isthmus drill …`
#[derive(Debug, Subcommand)]
pub(crate) enum DrillCommand {
    /// Send a region's traffic elsewhere, hold, and put everything back. Also when this command is killed: the order
    /// is a lease, and ends when nobody renews it
    Evacuate(EvacuateArgs),
    /// List the drills that go on
    List,
    /// End a drill now
    End {
        /// Its id in `isthmus drill list`
        id: String,
    },
}

/// `isthmus drill evacuate …`
#[derive(Debug, Args)]
pub(crate) struct EvacuateArgs {
    /// The region that takes no traffic meanwhile
    #[arg(long)]
    pub(crate) region: String,
    /// How long
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration, default_value = "60s")]
    pub(crate) hold: Duration,
    /// Share of its traffic to move
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) percent: u32,
    /// Go on although the survivors may not have the capacity
    #[arg(long)]
    pub(crate) force: bool,
    /// Shown to whoever asks why
    #[arg(long, default_value = "")]
    pub(crate) reason: String,
}
