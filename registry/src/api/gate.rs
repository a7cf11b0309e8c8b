//! The gate of a registry's listeners: each caller within its own room, each call by the table in `rules`. Never lets one
//! caller take what belongs to all.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use mesh::{
    identity::{SpiffeId, TrustDomain},
    net::{
        allowance::{Accounts, Bounds, Over},
        grpc::{Caller, Gate, Pass},
        newcomers::source,
    },
    ops::Metrics,
    runtime::clock,
};
use metrics::Counter;
use tokio::time::Instant;
use tonic::Status;
use tracing::info;

use super::{
    Error,
    rules::{self, Act, Who},
};
use crate::config::LimitConfig;

/// What a caller without certificate may send in one call: a CSR, or a peer's card with its anchors, is far below.
const NEWCOMER_BYTES_MAX: u64 = 256 * 1024;
/// Calls that it may have open.
const NEWCOMER_CALLS_MAX: u32 = 256;
/// How many times its rate a newcomer's address may call at once: see `limits.newcomer_calls`.
const NEWCOMER_BURST: f64 = 10.0;
/// Lines about denied calls: one in this many milliseconds. The metric counts all of them.
const LOG_INTERVAL_MS: i64 = 1_000;

/// Who is charged.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Id(SpiffeId),
    Address(IpAddr),
}

impl Key {
    fn of(caller: &Caller) -> Self {
        match &caller.id {
            Some(id) => Self::Id(id.clone()),
            None => Self::Address(source(caller.address.ip())),
        }
    }
}

/// Guards the table only; held for one entry.
type Table = Arc<Mutex<Accounts<Key>>>;

/// One thing that a caller holds.
struct Held {
    table: Table,
    key: Key,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.leave(&self.key);
    }
}

/// Handles of one listener.
struct Meters {
    denied: Counter,
    rate: Counter,
    held: Counter,
}

/// The gate of one listener.
pub(crate) struct Door {
    own: TrustDomain,
    limits: LimitConfig,
    calls: Table,
    connections: Table,
    began: Instant,
    logged: AtomicI64,
    meters: Meters,
}

impl Door {
    pub(crate) fn new(listener: &'static str, own: TrustDomain, limits: LimitConfig, metrics: &Metrics) -> Self {
        let limited = |limit| {
            metrics.counter(
                "isthmus_calls_limited_total",
                "calls turned away because their caller is at its bound, by bound",
                &[("listener", listener), ("limit", limit)],
            )
        };
        Self {
            own,
            limits,
            calls: Table::default(),
            connections: Table::default(),
            began: clock::now(),
            logged: AtomicI64::default(),
            meters: Meters {
                denied: metrics.counter(
                    "isthmus_calls_denied_total",
                    "calls that are not for their caller",
                    &[("listener", listener)],
                ),
                rate: limited("rate"),
                held: limited("open"),
            },
        }
    }

    fn now(&self) -> Duration {
        clock::now().saturating_duration_since(self.began)
    }

    fn bounds(&self, who: Who) -> Bounds {
        if who == Who::Newcomer {
            let rate = f64::from(self.limits.newcomer_calls);
            return Bounds {
                per_second: rate,
                burst: rate * NEWCOMER_BURST,
                held_max: NEWCOMER_CALLS_MAX,
            };
        }
        let rate = f64::from(self.limits.calls_per_caller);
        Bounds {
            per_second: rate,
            burst: rate * 2.0,
            held_max: self.limits.streams_per_caller,
        }
    }

    fn limited(&self, who: Who, over: Over) -> Error {
        let is_newcomer = who == Who::Newcomer;
        match over {
            Over::Rate { wait } => {
                self.meters.rate.increment(1);
                let (bound, setting) = if is_newcomer {
                    (self.limits.newcomer_calls, "limits.newcomer_calls")
                } else {
                    (self.limits.calls_per_caller, "limits.calls_per_caller")
                };
                Error::Limited {
                    what: "calls a second",
                    bound,
                    setting,
                    wait,
                }
            }
            Over::Held => {
                self.meters.held.increment(1);
                let (bound, setting) = if is_newcomer {
                    (NEWCOMER_CALLS_MAX, "no setting; show a certificate")
                } else {
                    (self.limits.streams_per_caller, "limits.streams_per_caller")
                };
                Error::Limited {
                    what: "calls at a time",
                    bound,
                    setting,
                    wait: Duration::from_secs(1),
                }
            }
        }
    }

    fn may_log(&self) -> bool {
        let now = clock::wall().0;
        let last = self.logged.load(Ordering::Relaxed);
        now.saturating_sub(last) >= LOG_INTERVAL_MS
            && self
                .logged
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Gate for Door {
    fn connection(&self, caller: &Caller) -> Result<Pass, String> {
        let who = Who::of(caller.id.as_ref(), &self.own);
        if matches!(who, Who::Newcomer | Who::Registry) {
            // Newcomers are bounded by source before their handshake; the own nodes hold one connection each.
            return Ok(Pass::default());
        }
        let bounds = Bounds {
            per_second: 0.0,
            burst: 0.0,
            held_max: self.limits.connections_per_caller,
        };
        let key = Key::of(caller);
        let mut table = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        table.enter(&key, &bounds, self.now()).map_err(|_| {
            format!(
                "it holds {} connections, the most that limits.connections_per_caller allows",
                bounds.held_max
            )
        })?;
        drop(table);
        let table = Arc::clone(&self.connections);
        Ok(Pass::holding(Held { table, key }))
    }

    fn call(&self, caller: &Caller, method: &str) -> Result<Pass, Status> {
        let id = caller.id.as_ref();
        let who = Who::of(id, &self.own);
        let judged = rules::judge(id, &self.own, method);
        if who == Who::Registry && judged.is_ok() {
            // The region's own nodes: their queues are bounded where they end, and an election must not wait for a rate.
            return Ok(Pass::default());
        }
        let key = Key::of(caller);
        // Before the judgement counts: who asks for what it may not have spends its own room, too.
        let entered = {
            let mut table = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            table.enter(&key, &self.bounds(who), self.now())
        };
        entered.map_err(|over| Status::from(self.limited(who, over)))?;
        let table = Arc::clone(&self.calls);
        let pass = Pass::holding(Held { table, key });
        let rule = judged.map_err(|denied| {
            self.meters.denied.increment(1);
            if self.may_log() {
                info!(%denied, peer = %caller.address, "call denied");
            }
            Status::from(Error::Rule(denied))
        })?;
        if who == Who::Operator && rule.act == Act::Change {
            info!(caller = ?id, method, "operator's call");
        }
        if who == Who::Newcomer {
            return Ok(pass.with_request_bytes_max(NEWCOMER_BYTES_MAX));
        }
        Ok(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn door(limits: &str) -> Door {
        let text = format!(
            "region = 'eu'\ndata_dir = '/x'\n[advertise]\napi = 'r:1'\nraft = 'r:2'\nfederation = 'r:3'\n[limits]\n{limits}"
        );
        let config = Config::parse(&text).expect("good");
        let own = TrustDomain::parse("eu").expect("valid");
        Door::new("api", own, config.limits, &Metrics::default())
    }

    fn caller(id: &str) -> Caller {
        Caller {
            id: (!id.is_empty()).then(|| SpiffeId::parse(id).expect("valid")),
            address: ([10, 0, 0, 1], 1).into(),
        }
    }

    const WATCH: &str = "/isthmus.registry.v1.Watch/Subscribe";
    const ISSUE: &str = "/isthmus.registry.v1.Certificates/Issue";

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_its_bound_and_leaves_others_theirs() {
        let door = door("calls_per_caller = 5\nnewcomer_calls = 1");
        let (loud, quiet) = (
            caller("spiffe://eu/ns/shop/sa/loud"),
            caller("spiffe://eu/ns/shop/sa/quiet"),
        );
        let refused = (0..20)
            .filter_map(|_| door.call(&loud, WATCH).err())
            .last()
            .expect("a burst of 10");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        let text = refused.message();
        assert!(text.contains("limits.calls_per_caller") && text.contains('5'), "{text}");
        assert!(super::super::outward::may_retry(&refused));
        assert!(door.call(&quiet, WATCH).is_ok());
        let newcomer = caller("");
        let refused = (0..20)
            .filter_map(|_| door.call(&newcomer, ISSUE).err())
            .last()
            .expect("a burst of 10");
        assert!(refused.message().contains("limits.newcomer_calls"), "{refused}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_comes_back_when_it_is_dropped() {
        let door = door("streams_per_caller = 2\nconnections_per_caller = 1");
        let pay = caller("spiffe://eu/ns/shop/sa/pay");
        let held: Vec<_> = (0..2).map(|_| door.call(&pay, WATCH).expect("room")).collect();
        let refused = door.call(&pay, WATCH).expect_err("two at a time");
        assert!(refused.message().contains("limits.streams_per_caller"), "{refused}");
        drop(held);
        assert!(door.call(&pay, WATCH).is_ok());
        let one = door.connection(&pay).expect("room");
        assert!(
            door.connection(&pay)
                .expect_err("one")
                .contains("limits.connections_per_caller")
        );
        drop(one);
        assert!(door.connection(&pay).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_what_it_may_not_have_spends_its_own_room() {
        let door = door("calls_per_caller = 5");
        let pay = caller("spiffe://eu/ns/shop/sa/pay");
        for _ in 0..10 {
            let denied = door
                .call(&pay, "/isthmus.admin.v1.Admin/PutExport")
                .expect_err("not its");
            assert_eq!(denied.code(), tonic::Code::PermissionDenied);
        }
        assert_eq!(
            door.call(&pay, WATCH).expect_err("spent").code(),
            tonic::Code::ResourceExhausted
        );
    }
}
