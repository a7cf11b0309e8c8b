//! For what is sent once, upgrades and tunnels: the first endpoint that can be connected to.

use std::sync::Arc;

use super::{
    Shared,
    answer::Refusal,
    dial::{Carries, DialFault, Opened},
    pool::Lease,
    route::{Member, Route},
};

/// Endpoints to try, one after the other.
struct Tries<'a> {
    shared: &'a Shared,
    route: &'a Route,
    tried: Vec<Arc<Member>>,
    reason: String,
}

impl<'a> Tries<'a> {
    fn new(shared: &'a Shared, route: &'a Route) -> Self {
        Self {
            shared,
            route,
            tried: Vec::new(),
            reason: "there is no endpoint that may be used".to_owned(),
        }
    }

    /// The next one; the last of them in another tier than those before, where there is one.
    fn next(&mut self) -> Result<Arc<Member>, Refusal> {
        let (nth, max) = (self.tried.len() + 1, self.shared.settings.tries_max as usize);
        let next = if nth > max {
            None
        } else {
            self.route.pick(&self.tried, nth > 1 && nth == max).cloned()
        };
        let Some(member) = next else {
            return Err(Refusal::Unreachable {
                target: self.route.label(),
                reason: std::mem::take(&mut self.reason),
            });
        };
        self.tried.push(Arc::clone(&member));
        Ok(member)
    }

    fn failed(&mut self, member: &Member, fault: &DialFault) {
        member.meters.failed();
        self.reason = fault.to_string();
    }
}

/// A place on an HTTP/2 connection.
pub(crate) async fn connect_http(shared: &Shared, route: &Route) -> Result<(Lease, Arc<Member>), Refusal> {
    let (mut tries, target) = (Tries::new(shared, route), &route.target);
    loop {
        let member = tries.next()?;
        match member
            .lane
            .acquire(&shared.pool, &member, &target.service, target.port)
            .await
        {
            Ok(lease) => return Ok((lease, member)),
            Err(fault) => tries.failed(&member, &fault),
        }
    }
}

/// A connection for opaque bytes.
pub(crate) async fn connect_bytes(shared: &Shared, route: &Route) -> Result<(Opened, Arc<Member>), Refusal> {
    let (mut tries, target) = (Tries::new(shared, route), &route.target);
    loop {
        let member = tries.next()?;
        let dialer = &shared.pool.dialer;
        match dialer.open(&member, &target.service, target.port, Carries::Bytes).await {
            Ok(opened) => return Ok((opened, member)),
            Err(fault) => tries.failed(&member, &fault),
        }
    }
}
