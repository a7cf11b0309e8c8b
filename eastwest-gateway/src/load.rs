//! Who carries how much: the tunnels of each service and endpoint, and its service's metrics. Written by tunnels alone,
//! so that no change of the view can hold one up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use mesh::{
    model::{EndpointId, ServiceName, View},
    ops::Metrics,
};

use crate::{
    limit::{Full, Ledger},
    metrics::ServiceMetrics,
};

/// With this many services remembered, those that the view no longer has are looked for at each new one.
const REMEMBERED: usize = 256;

/// All services that have or had tunnels.
pub(crate) struct Loads {
    /// Guards the map only; held for a look-up, or to put a service in.
    services: Mutex<HashMap<ServiceName, Arc<ServiceLoad>>>,
    metrics: Metrics,
    tunnels_max: u32,
}

/// One service's tunnels.
pub(crate) struct ServiceLoad {
    pub(crate) metrics: ServiceMetrics,
    tunnels: AtomicU32,
    tunnels_max: u32,
    /// Guards the counts only; held while an endpoint is chosen by them and counted.
    endpoints: Mutex<Ledger<EndpointId>>,
}

impl Loads {
    /// Each service may have `tunnels_max` tunnels at a time.
    pub(crate) fn new(tunnels_max: u32, metrics: &Metrics) -> Self {
        Self {
            services: Mutex::default(),
            metrics: metrics.clone(),
            tunnels_max,
        }
    }

    /// A place for a tunnel of a service that was admitted by `view`.
    pub(crate) fn enter(&self, service: &ServiceName, view: &View) -> Result<Place, Full> {
        let load = {
            let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(load) = services.get(service) {
                Arc::clone(load)
            } else {
                if services.len() >= REMEMBERED {
                    services.retain(|name, load| view.service(name).is_some() || Arc::strong_count(load) > 1);
                }
                let load = Arc::new(ServiceLoad {
                    metrics: ServiceMetrics::new(&self.metrics, service),
                    tunnels: AtomicU32::new(0),
                    tunnels_max: self.tunnels_max,
                    endpoints: Mutex::new(Ledger::new(u32::MAX)),
                });
                services.insert(service.clone(), Arc::clone(&load));
                load
            }
        };
        let one_more = |tunnels| (tunnels < load.tunnels_max).then_some(tunnels + 1);
        load.tunnels
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_| Full)?;
        load.metrics.active.increment(1.0);
        Ok(Place { load, endpoint: None })
    }
}

/// One tunnel among those of its service, and of its endpoint once that is chosen. Given back when dropped.
pub(crate) struct Place {
    load: Arc<ServiceLoad>,
    endpoint: Option<EndpointId>,
}

impl Place {
    pub(crate) fn metrics(&self) -> &ServiceMetrics {
        &self.load.metrics
    }

    /// Lets `choose` pick an endpoint by the tunnels that each has, and counts this tunnel for it instead of for the one
    /// before. Choosing and counting are one step, so that a crowd does not choose alike.
    pub(crate) fn choose<T, E>(
        &mut self,
        choose: impl FnOnce(&dyn Fn(&EndpointId) -> u32) -> Result<T, E>,
        id_of: impl FnOnce(&T) -> &EndpointId,
    ) -> Result<T, E> {
        let mut endpoints = self.load.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = self.endpoint.take() {
            endpoints.leave(&before);
        }
        let chosen = choose(&|id| endpoints.count(id))?;
        let id = id_of(&chosen);
        // Endpoints have no bound of their own, so that this cannot be full.
        let _ = endpoints.enter(id);
        self.endpoint = Some(id.clone());
        Ok(chosen)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.tunnels.fetch_sub(1, Ordering::Relaxed);
        self.load.metrics.active.decrement(1.0);
        if let Some(endpoint) = &self.endpoint {
            let mut endpoints = self.load.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            endpoints.leave(endpoint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).unwrap()
    }

    #[test]
    fn a_place_counts_for_its_service_and_its_last_endpoint() {
        let loads = Loads::new(2, &Metrics::default());
        let view = View::default();
        let mut first = loads.enter(&name("pay.shop"), &view).unwrap();
        let second = loads.enter(&name("pay.shop"), &view).unwrap();
        assert!(loads.enter(&name("pay.shop"), &view).is_err());
        loads.enter(&name("cart.shop"), &view).unwrap();
        for id in ["a", "b"] {
            let choose = |_: &dyn Fn(&EndpointId) -> u32| Ok::<_, ()>(EndpointId::parse(id).unwrap());
            first.choose(choose, |id| id).unwrap();
        }
        let count = |place: &Place, id: &str| {
            let endpoints = place.load.endpoints.lock().unwrap();
            endpoints.count(&EndpointId::parse(id).unwrap())
        };
        assert_eq!((count(&second, "a"), count(&second, "b")), (0, 1));
        drop(first);
        assert_eq!(count(&second, "b"), 0);
        loads.enter(&name("pay.shop"), &view).unwrap();
    }

    #[test]
    fn services_that_went_away_are_forgotten() {
        let loads = Loads::new(1, &Metrics::default());
        for at in 0..1_000 {
            loads.enter(&name(&format!("s{at}.shop")), &View::default()).unwrap();
        }
        assert!(loads.services.lock().unwrap().len() <= REMEMBERED);
    }
}
