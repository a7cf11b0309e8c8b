//! What goes on beside requests: routes are made anew when the view or a health changes, ejected endpoints and gateways
//! are tried, pools are tidied, the services in use are told, and connections whose far side is no longer vouched for are cut.

use std::{collections::HashMap, sync::Arc, sync::atomic::Ordering, time::Duration};

use mesh::{model::ServiceName, runtime::OnExit};
use tracing::{debug, info};

use super::{
    Shared,
    dial::Carries,
    route::{GatewayRef, Member, Route},
};

/// While something ramps or is out, routes are made anew this often: fine steps for a ramp of seconds.
const STEP: Duration = Duration::from_millis(250);
/// Pools are tidied this often.
const TIDY: Duration = Duration::from_secs(5);
/// After a health changed, wait for others that changed with it.
const GATHER: Duration = Duration::from_millis(20);

/// Runs until the order to stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.tasks.stop().clone();
    let mut views = shared.views.clone();
    let mut generation = shared.pool.dialer.identity.changed();
    let mut tidy = tokio::time::interval(TIDY);
    // A publisher that is gone leaves the last view good; then there is nothing more to hear from it.
    let (mut hears_views, mut hears_bundles) = (true, true);
    let mut counts = HashMap::new();
    let mut health_changed = true;
    loop {
        let unsettled = shared.balancer.renew(std::mem::take(&mut health_changed));
        try_what_is_due(&shared);
        tokio::select! {
            () = stop.ordered() => return,
            changed = views.changed(), if hears_views => match changed {
                Ok(held) => {
                    debug!(revision = %held.revision, "routing by a new view");
                    shared.take_over_view();
                }
                Err(_) => hears_views = false,
            },
            changed = generation.changed(), if hears_bundles => match changed {
                Ok(()) => {
                    sweep(&shared);
                    health_changed = true;
                }
                Err(_) => hears_bundles = false,
            },
            () = shared.health.wake.notified() => {
                tokio::time::sleep(GATHER).await;
                health_changed = true;
            }
            () = tokio::time::sleep(STEP), if unsettled => {}
            _ = tidy.tick() => {
                for lane in shared.balancer.lanes() {
                    lane.tidy(&shared.pool);
                }
                shared.demand.used(in_use(&shared, &mut counts));
            }
        }
    }
}

/// The services that carried something since the last time.
fn in_use(shared: &Shared, counts: &mut HashMap<Box<str>, u64>) -> Vec<ServiceName> {
    let routes = shared.balancer.routes();
    counts.retain(|authority, _| routes.contains_key(authority));
    let mut used = Vec::new();
    for (authority, route) in routes.iter() {
        let requests = route.requests.load(Ordering::Relaxed);
        if counts.insert(authority.clone(), requests) != Some(requests) || route.is_busy() {
            used.push(route.target.service.clone());
        }
    }
    used
}

fn sweep(shared: &Shared) {
    let lanes = shared.balancer.lanes();
    let cut: usize = lanes.iter().map(|lane| lane.sweep(&shared.pool.dialer.identity)).sum();
    if cut > 0 {
        info!(cut, "connections cut: their far side is no longer vouched for");
    }
}

/// Begins the trials that are due, each once.
fn try_what_is_due(shared: &Arc<Shared>) {
    let now = shared.health.clock.elapsed();
    for gateway in shared.balancer.gateways() {
        if gateway.record.claim_trial(now) {
            let task = try_gateway(Arc::clone(shared), gateway);
            shared.tasks.spawn("trial-gateway", OnExit::Ignore, task);
        }
    }
    for route in shared.balancer.routes().values() {
        for member in route.members() {
            if member.record.claim_trial(now) {
                let task = try_endpoint(Arc::clone(shared), Arc::clone(route), Arc::clone(member));
                shared.tasks.spawn("trial-endpoint", OnExit::Ignore, task);
            }
        }
    }
}

async fn try_gateway(shared: Arc<Shared>, gateway: GatewayRef) {
    let good = shared.pool.dialer.try_gateway(&gateway).await;
    let now = shared.health.clock.elapsed();
    if gateway.record.tried(good, now, &shared.health.limits) {
        info!(gateway = %gateway.gateway.id, good, "gateway tried");
        shared.health.wake.notify_one();
    }
}

async fn try_endpoint(shared: Arc<Shared>, route: Arc<Route>, member: Arc<Member>) {
    let target = &route.target;
    let good = if target.protocol.is_http() {
        // A good trial leaves its connection behind for the first requests.
        let opened = member
            .lane
            .open(&shared.pool, &member, &target.service, target.port)
            .await;
        opened.is_ok()
    } else {
        let dialer = &shared.pool.dialer;
        dialer
            .open(&member, &target.service, target.port, Carries::Bytes)
            .await
            .is_ok()
    };
    let now = shared.health.clock.elapsed();
    if member.record.tried(good, now, &shared.health.limits) {
        info!(endpoint = %member.endpoint.id, service = %target.service, good, "endpoint tried");
        shared.health.wake.notify_one();
    }
}
