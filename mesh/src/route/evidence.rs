//! What the asker itself has seen of endpoints and gateways. Whoever has seen nothing asks with [`NoEvidence`]. Pure.

use std::time::Duration;

use super::{TierKey, eject::Fault};
use crate::model::{EndpointId, GatewayId};

/// How one endpoint or gateway stands with the asker.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Standing {
    /// Nothing speaks against it.
    #[default]
    Up,
    /// New beside others that carry the load: it gets this part (0 to 1) of its share, and its tier counts as whole.
    Fresh(f64),
    /// Out, by evidence of the data path; a trial may follow after this time.
    Out {
        /// Until the next trial; zero when one is due.
        left: Duration,
        /// What it was ejected for.
        fault: Fault,
    },
    /// Answers again, and waits so that a flapping one does not pull traffic back and forth.
    Held {
        /// Until the ramp begins.
        left: Duration,
    },
    /// Coming back: it gets this part (0 to 1) of its share.
    Ramp(f64),
}

/// What the asker has seen. The defaults are those of somebody who has seen nothing.
pub trait Evidence {
    /// How an endpoint stands.
    fn endpoint(&self, id: &EndpointId) -> Standing {
        let _ = id;
        Standing::Up
    }

    /// How a gateway stands.
    fn gateway(&self, id: &GatewayId) -> Standing {
        let _ = id;
        Standing::Up
    }

    /// The weight that a recovering tier carried before it went down, so that its first endpoint to come back is not
    /// taken for the whole tier. Zero when the tier does not recover.
    fn steady_weight(&self, tier: &TierKey) -> f64 {
        let _ = tier;
        0.0
    }
}

/// Has seen nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvidence;

impl Evidence for NoEvidence {}
