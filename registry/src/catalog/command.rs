//! What can be asked of the catalogue, and what it answers. Everything here is a log entry: variants and fields are only
//! ever added at the end, and no field may depend on the node that applies it.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use mesh::{
    identity::{Bundle, SpiffeId, TrustDomain},
    model::{
        ClusterId, Endpoint, EndpointId, EndpointState, Export, Gateway, GatewayId, Held, ImportPolicy, Incarnation,
        Labels, LeaseReport, Namespace, NodeId, Override, OverrideId, Port, QuotaLease, RegionId, Service,
        ServiceAccount, ServiceName, Tenant, TenantId, Timestamp, Usage, WorkloadId, Zone,
    },
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Checkpoint, Finding, RotateStep, Subject};
use crate::quota::terms::Terms;

/// One log entry: many proposals, one flush. `at` is the leader's clock, the only time that applying may know.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Batch {
    /// When the leader proposed it.
    pub at: Timestamp,
    /// Applied in order; each has its own reply.
    pub commands: Vec<Command>,
}

/// One proposal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Changes nothing: committed by a new leader before its first linearizable read.
    Noop,
    /// The first command of a region, and of one that was restored (then with a new incarnation).
    Init {
        /// The region's name, for good.
        region: RegionId,
        /// Its trust domain.
        trust_domain: TrustDomain,
        /// Which life of the catalogue begins.
        incarnation: Incarnation,
        /// Its anchors.
        bundle: Bundle,
        /// Issuing certificate chain (DER, leaf first, without root) and key (PKCS#8 DER). In the catalogue, so that every
        /// node can issue; whoever reads a node's disk can too.
        authority: AuthorityRecord,
    },
    /// A workload's agent attached to a node: registers or renews it, with a new lease epoch.
    AttachWorkload(Arc<WorkloadLease>),
    /// A gateway attached to a node.
    AttachGateway(Box<GatewayLease>),
    /// All endpoints of a workload change state. Refused when the epoch is not the current one.
    SetWorkloadState {
        /// Whose.
        workload: WorkloadId,
        /// From [`Reply::Attached`].
        epoch: u64,
        /// The new state.
        state: EndpointState,
    },
    /// A gateway changes state.
    SetGatewayState {
        /// Whose.
        gateway: GatewayId,
        /// From [`Reply::Attached`].
        epoch: u64,
        /// The new state.
        state: EndpointState,
    },
    /// A lease was not renewed in time. Ignored when the epoch is no longer current: the agent attached elsewhere.
    /// Held back (endpoints become unverified) when too many lapse at once.
    Lapse {
        /// Whose lease.
        lessee: Lessee,
        /// From [`Reply::Attached`].
        epoch: u64,
    },
    /// Went away on purpose.
    Detach {
        /// Whose lease.
        lessee: Lessee,
        /// From [`Reply::Attached`].
        epoch: u64,
    },
    /// Removes the endpoints that mass-loss protection holds.
    ReleaseUnverified,
    /// Offers a service to peers.
    PutExport(Export),
    /// Withdraws the offer.
    RemoveExport(ServiceName),
    /// What is taken from a peer; drops what was imported and is no longer taken.
    PutImportPolicy {
        /// The peer.
        peer: RegionId,
        /// The rule.
        policy: ImportPolicy,
    },
    /// Makes or replaces a tenant of this region.
    PutTenant(Tenant),
    /// Removes it.
    RemoveTenant(TenantId),
    /// Keeps a token's digest until it is used up or expired.
    PutToken(TokenRecord),
    /// Takes one use of a token; replies with [`Reply::Granted`].
    RedeemToken {
        /// SHA-256 of the secret.
        digest: TokenDigest,
        /// Who redeems a peering token, to compare with the token's own restriction.
        region: Option<RegionId>,
    },
    /// Peering: from now on its stream is wanted and its SVIDs verify against its bundle.
    PutPeer(PeerRecord),
    /// Ends peering: its imports, bundle and gateways go at once.
    RemovePeer(RegionId),
    /// What a peer exported: a snapshot or a delta. Records that the peer does not own are dropped and counted.
    Import {
        /// The origin of every record in it.
        peer: RegionId,
        /// The records.
        set: Box<ImportSet>,
    },
    /// How the federation stream to a peer stands; committed when it changes, not at each heartbeat.
    PutPeerStatus {
        /// The peer.
        peer: RegionId,
        /// Whether the stream stands.
        connected: bool,
        /// Its round trip.
        round_trip: Option<Duration>,
        /// When it was last heard.
        heard_at: Timestamp,
    },
    /// New anchors of this region (a rotation). The sequence must grow.
    PutBundle(Bundle),
    /// New issuing certificate and key.
    PutAuthority(AuthorityRecord),
    /// Begins a drill. Refused while another one runs in the region that it evacuates.
    StartDrill(Drill),
    /// Prolongs a drill's override by its lease, never beyond its end.
    RenewDrill(OverrideId),
    /// Ends a drill now.
    EndDrill(OverrideId),
    /// Removes overrides and tokens that have expired by the batch's time.
    Sweep,
    /// Takes the next node id; replies with [`Reply::Node`].
    AllocateNode,
    /// Every node's program reads this feature level; ignored when it is not above the current one.
    RaiseLevel(u32),
    /// Drops the position at which a peer's exports are held: a snapshot of them takes the place of what is here.
    RepairPeer(RegionId),
    /// The leader's digest, for the other nodes to compare theirs with; none asks for a new one.
    Checkpoint(Option<Checkpoint>),
    /// Two copies differ, or agree again.
    PutFinding {
        /// Whose copy.
        subject: Subject,
        /// How they differ; none when they agree.
        finding: Option<Finding>,
    },
    /// A step in the change of the region's root.
    Rotate(Box<RotateStep>),
    /// New terms of quota leases, of this region's tenants. Terms that would let anybody spend more than there is, or that
    /// stand on older ones than there are, are left out.
    GrantLeases(Vec<Terms>),
    /// Leases that a peer grants this region, and what it keeps to of those that it was granted. Goes before the
    /// [`Command::Import`] of the same update.
    ImportLeases {
        /// The origin of every record in it.
        peer: RegionId,
        /// The records.
        set: Box<LeaseSet>,
    },
    /// A lease that this region holds is about to end: its floor is left. Ignored when it was prolonged meanwhile.
    EndLease {
        /// Whose rate.
        tenant: TenantId,
        /// Of these terms.
        epoch: u64,
        /// With this end.
        expires_at: Timestamp,
    },
    /// No proxy spends by older terms than these any more.
    SettleLease {
        /// Whose rate.
        tenant: TenantId,
        /// Of the newest terms; else it is ignored.
        epoch: u64,
    },
    /// After a restore: from now on the leases of the old life are waited out.
    OpenQuotas,
    /// What the proxies that are attached to a node want, by tenant; takes the place of what it said of these before.
    PutDemand {
        /// The node.
        node: NodeId,
        /// By tenant.
        usage: Vec<(TenantId, Usage)>,
    },
}

/// Quota leases and reports of one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseSet {
    /// Reports that are not in the set are gone.
    pub full: bool,
    /// What the peer lets this region spend.
    pub leases: Vec<QuotaLease>,
    /// What the peer keeps to and wants.
    pub reports: Vec<LeaseReport>,
    /// Tenants of whose use it reports no more.
    pub removed: Vec<TenantId>,
}

/// Who holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lessee {
    /// A workload.
    Workload(WorkloadId),
    /// A gateway.
    Gateway(GatewayId),
}

/// A workload as its agent describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadLease {
    /// Stable over restarts of the agent.
    pub id: WorkloadId,
    /// From its certificate.
    pub namespace: Namespace,
    /// From its certificate.
    pub service_account: ServiceAccount,
    /// From its certificate.
    pub identity: SpiffeId,
    /// Its network.
    pub cluster: ClusterId,
    /// Its failure domain.
    pub zone: Zone,
    /// Where its inbound proxy listens.
    pub address: IpAddr,
    /// Port of its inbound proxy.
    pub inbound_port: u16,
    /// What it serves; empty for a pure client, which still counts as a live proxy of its tenant.
    pub services: Vec<WorkloadService>,
    /// As it reports itself.
    pub state: EndpointState,
    /// Free text by key.
    pub labels: Labels,
    /// 1 to 1000.
    pub weight: u32,
    /// 0 = not declared.
    pub capacity_rps: u32,
    /// For per-endpoint names; may be empty.
    pub hostname: String,
    /// The node that holds its stream.
    pub holder: NodeId,
}

/// A service that a workload serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadService {
    /// Its name; the namespace is the workload's.
    pub name: ServiceName,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Resolves to endpoints instead of a virtual address.
    pub headless: bool,
    /// Id of this workload's endpoint, chosen by the proposer: random, unique in the mesh. Kept when the workload attaches
    /// again.
    pub endpoint: EndpointId,
}

/// A gateway and the node that holds its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayLease {
    /// The record.
    pub gateway: Gateway,
    /// The node that holds its stream.
    pub holder: NodeId,
}

/// The issuing certificate of the region's authority.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#8, DER.
    pub key: Vec<u8>,
    /// End of the issuing certificate.
    pub not_after: Timestamp,
}

impl std::fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key never reaches a log.
        f.debug_struct("AuthorityRecord")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a token's secret: the secret itself is never stored.
pub type TokenDigest = [u8; 32];

/// A token that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Of its secret.
    pub digest: TokenDigest,
    /// What it grants.
    pub grant: Grant,
    /// Not good from then on.
    pub expires_at: Timestamp,
    /// How often it may still be used.
    pub uses: u32,
}

/// What a token grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant {
    /// An SVID for this namespace and service account.
    Workload {
        /// The namespace.
        namespace: Namespace,
        /// The account.
        service_account: ServiceAccount,
    },
    /// Peering.
    Peer {
        /// Who may redeem it; none = any region.
        for_region: Option<RegionId>,
    },
    /// Membership of this region's Raft group.
    Node,
}

/// A region that this one federates with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its name.
    pub region: RegionId,
    /// Its anchors as last received.
    pub bundle: Bundle,
    /// `host:port` of its federation listeners.
    pub addresses: Vec<String>,
    /// Its incarnation as last received.
    pub incarnation: Incarnation,
    /// What is taken from it.
    pub import: ImportPolicy,
}

/// Records of one peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImportSet {
    /// Where the peer's catalogue stands after them.
    pub held: Held,
    /// Drops everything of this peer that is not in the set.
    pub full: bool,
    /// The peer's own definitions, with the age of their export in `created_at`.
    pub services: Vec<Service>,
    /// Endpoints of exported services.
    pub endpoints: Vec<Endpoint>,
    /// Its gateways.
    pub gateways: Vec<Gateway>,
    /// Its anchors.
    pub bundles: Vec<Bundle>,
    /// Tenants whose home it is.
    pub tenants: Vec<Tenant>,
    /// Its drills.
    pub overrides: Vec<Override>,
    /// Its live proxies by tenant; none = unchanged.
    pub tenant_proxies: Option<BTreeMap<TenantId, u32>>,
    /// Keys (see `mesh::model::Key`) of records that are gone or no longer visible.
    pub removed: Vec<String>,
    /// The position that a delta stands on: it is refused when the peer is held elsewhere by now, for instance because
    /// the import policy became wider. None = stands on nothing.
    pub base: Option<Held>,
}

/// A drill and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// What it makes proxies do; its `expires_at` is the end of the lease.
    pub order: Override,
    /// The latest end, however often it is renewed.
    pub ends_at: Timestamp,
    /// How long one renewal lasts.
    pub lease: Duration,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Applied, or nothing to do.
    Done,
    /// A lease was given.
    Attached {
        /// To be named in every later command about the lease.
        epoch: u64,
        /// In the order of the workload's services.
        endpoints: Vec<EndpointId>,
    },
    /// A token was good, and one use is taken.
    Granted(Grant),
    /// A drill began or was prolonged.
    Drill(Drill),
    /// The new node's id.
    Node(NodeId),
    /// Nothing was changed.
    Refused(Refusal),
}

/// Why a command changed nothing. Text names the operand and what to do.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Another node holds the lease now.
    #[error("lease of {0} has moved on; attach again")]
    StaleLease(String),
    /// No such record.
    #[error("{what} {id:?} is not known here; list them to see the names")]
    NotFound {
        /// Kind of record.
        what: String,
        /// Its id.
        id: String,
    },
    /// The token is unknown, expired, used up, or not for this caller.
    #[error("token is {0}; ask for a new one")]
    Token(String),
    /// Another record stands in the way.
    #[error("{0}")]
    Conflict(String),
    /// A limit of the tenant is reached.
    #[error("tenant {tenant} has reached its quota of {limit} {what}")]
    Quota {
        /// Whose.
        tenant: TenantId,
        /// Services or endpoints.
        what: String,
        /// How many.
        limit: u32,
    },
    /// Only its origin may change the record.
    #[error("{what} belongs to region {owner}; change it there")]
    NotOwner {
        /// The record.
        what: String,
        /// Its origin.
        owner: RegionId,
    },
    /// The region was initialised before.
    #[error("region is already initialised")]
    Initialised,
}
