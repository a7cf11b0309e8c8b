//! The nouns: ids that parse or refuse, the records of the catalogue, and the view that a daemon routes by.
//!
//! Pure, apart from `wire`, which turns protobuf messages into these types and refuses what breaks their bounds.

mod change;
mod endpoint;
mod export;
mod id;
mod labels;
mod policy;
mod revision;
mod service;
mod tenant;
pub(crate) mod text;
mod texts;
mod view;
mod wire;

pub use change::{Key, Resource, Update};
pub use endpoint::{Endpoint, EndpointState, Gateway, Locality};
pub use export::{Audience, Export, ImportPolicy};
pub use id::{
    ClusterId, EndpointId, GatewayId, IdError, Namespace, NodeId, OverrideId, RegionId, ServiceAccount, ServiceName,
    TenantId, WorkloadId, Zone,
};
pub use labels::Labels;
pub use policy::{Override, RegionStatus};
pub use revision::{Held, Incarnation, Revision, Timestamp};
pub use service::{Port, Protocol, Service, VIRTUAL_V4, VIRTUAL_V6, virtual_ips};
pub use tenant::{LeaseReport, Quota, QuotaLease, Tenant, TenantShare, Usage};
pub use texts::Texts;
pub use view::{Coverage, ServiceEntry, View};
pub use wire::WireError;
