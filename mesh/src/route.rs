//! Routing decisions: (view, local evidence, question, now) in, tiers of candidates out. The same code answers live
//! traffic, DNS order, `isthmus why` and the simulator. Opens no socket: see the proxy's `outbound`. Pure.

pub mod eject;
mod evidence;
mod explain;
pub mod matcher;
pub mod pick;
mod plan;
mod ramp;
mod spill;
mod tier;

pub use evidence::{Evidence, NoEvidence, Standing};
pub use explain::{Explanation, Row, explain};
pub use matcher::{Name, NameError, Target, TargetError};
pub use plan::{
    Candidate, Excluded, Level, Plan, Query, Rank, Reason, Source, Tier, Via, gateways_to_dial, plan, usable_by_tier,
};
pub use ramp::{Pace, Returning, Seen, TierMemory};
pub use spill::{Carry, OVERPROVISIONING, spread};
pub use tier::{TierKey, peer_order};
