//! From an authority to its route: prepared, made now, or, at the first use of a service, made once its endpoints have come.
//! The only wait of a request on the control plane, bounded, and only where nothing is known to go by.

use std::sync::Arc;

use mesh::{model::ServiceName, route::TargetError, subscribe::demand::EndpointsUnknown};
use thiserror::Error;

use super::{Shared, answer::Refusal, route::Route};

/// Why there is no route now.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Missing {
    /// The authority names nothing that the view knows.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It does, and nobody here has used the service yet.
    #[error("the endpoints of {0} are not held here: nobody here has used it for long, if ever")]
    Endpoints(ServiceName),
}

impl Shared {
    /// The route of an authority.
    pub(crate) async fn route(&self, authority: &str) -> Result<Arc<Route>, Refusal> {
        let service = match self.balancer.route(authority) {
            Ok(route) => return Ok(route),
            Err(Missing::Target(fault)) => return Err(Refusal::Unknown(fault.to_string())),
            Err(Missing::Endpoints(service)) => service,
        };
        self.demand.ensure(&service).await.map_err(Refusal::EndpointsUnknown)?;
        self.balancer.route(authority).map_err(|missing| match missing {
            Missing::Target(fault) => Refusal::Unknown(fault.to_string()),
            // It was let go of in the same moment.
            Missing::Endpoints(service) => Refusal::EndpointsUnknown(EndpointsUnknown {
                service,
                silent_for: None,
            }),
        })
    }
}
