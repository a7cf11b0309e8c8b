//! Clients: each writes and reads registers through one node after the other, or through one only, and notes when it called
//! and when it was answered. A register is a tenant, its value the tenant's rate.
//!
//! An answer that says that nothing was changed is believed: the check fails when it was a lie. Silence is no answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::{
    identity::{Expect, Identity, Role},
    net::grpc::{self, Credentials, MESSAGE_BYTES_MAX, Timeouts},
};
use proto::{
    admin::v1::{Position, PutTenantRequest, ReadOptions, RemoveTenantRequest, TenantList, admin_client::AdminClient},
    registry::v1::{Quota, Tenant},
};
use tonic::{Code, Status, transport::Channel};

use super::{
    check::{Act, Operation},
    history::History,
};

/// Registers that are in use at a time.
pub(super) const KEYS: u64 = 3;
/// Then others are used: what nobody was told of keeps a register's search long.
const EPOCH_US: u64 = 8_000_000;
const CONNECT_MAX: Duration = Duration::from_secs(1);
const CALL_MAX: Duration = Duration::from_secs(4);

/// What all clients share.
pub(super) struct Shared {
    pub(super) history: History,
    pub(super) addresses: Vec<String>,
    pub(super) lives: Vec<Arc<AtomicU64>>,
    pub(super) identity: Identity,
    /// Every value is written once.
    pub(super) values: AtomicU64,
    /// The newest revision that anybody was told of; a read that begins later must be at least there.
    pub(super) floor: AtomicU64,
    /// What the checks beside the registers found.
    pub(super) broken: std::sync::Mutex<Vec<String>>,
    pub(super) counts: Counts,
}

/// How many of what.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) writes: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) locals: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) unknown: AtomicU64,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn found(&self, text: String) {
        self.history.note(text.clone());
        self.broken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .push(text);
    }

    async fn dial(&self, node: usize) -> Option<AdminClient<Channel>> {
        let expect = Expect::System(Role::Registry, self.identity.trust_domain());
        let timeouts = Timeouts {
            connect: CONNECT_MAX,
            call: Some(CALL_MAX),
        };
        let credentials = Credentials::from(self.identity.clone());
        let channel = grpc::dial(&self.addresses[node], &credentials, &expect, timeouts);
        let channel = tokio::time::timeout(CONNECT_MAX * 2, channel).await.ok()?.ok()?;
        Some(AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn epoch(&self) -> u64 {
        self.history.now() / EPOCH_US
    }
}

fn key(epoch: u64, number: u64) -> String {
    format!("e{epoch}k{number}")
}

/// One client.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
    /// Stays with this node; none = changes.
    pub(super) bound: Option<usize>,
    pub(super) random: fastrand::Rng,
    /// Between two operations, at most.
    pub(super) pause: Duration,
    /// Reads what a node holds and says that it was linearizable.
    pub(super) stale: bool,
}

impl Worker {
    pub(super) async fn run(mut self) {
        loop {
            let node = self
                .bound
                .unwrap_or_else(|| self.random.usize(..self.shared.addresses.len()));
            let Some(mut client) = self.shared.dial(node).await else {
                tokio::time::sleep(Duration::from_millis(self.random.u64(50..200))).await;
                continue;
            };
            for _ in 0..self.random.u32(5..60) {
                let number = self.random.u64(..KEYS);
                let went_well = if self.random.bool() {
                    self.write(&mut client, node, number).await
                } else {
                    self.read(&mut client, node).await
                };
                if !went_well {
                    break;
                }
                tokio::time::sleep(self.pause.mul_f64(self.random.f64())).await;
            }
        }
    }

    async fn write(&self, client: &mut AdminClient<Channel>, node: usize, number: u64) -> bool {
        let shared = &self.shared;
        let name = key(shared.epoch(), number);
        let value = shared.values.fetch_add(1, Ordering::Relaxed) + 1;
        let rate = value as f64;
        let tenant = Tenant {
            id: name.clone(),
            namespaces: vec![name.clone()],
            quota: Some(Quota {
                requests_per_second: rate,
                burst: rate,
                ..Quota::default()
            }),
            ..Tenant::default()
        };
        let called = shared.history.now();
        let mut noted = Noted {
            history: &shared.history,
            key: &name,
            node: node as u64 + 1,
            operation: Some(Operation {
                client: self.id,
                act: Act::Write(value),
                called,
                returned: None,
            }),
        };
        let request = PutTenantRequest { tenant: Some(tenant) };
        let answer = within(client.put_tenant(request)).await;
        let returned = shared.history.now();
        match &answer {
            Ok(done) => {
                add(&shared.counts.writes);
                let at = done.position.as_ref().map_or(0, |position| position.revision);
                shared.floor.fetch_max(at, Ordering::SeqCst);
                if let Some(operation) = &mut noted.operation {
                    operation.returned = Some(returned);
                }
            }
            Err(status) if says_unchanged(status) => {
                add(&shared.counts.refused);
                noted.operation = None;
            }
            Err(_) => add(&shared.counts.unknown),
        }
        answer.is_ok()
    }

    async fn read(&self, client: &mut AdminClient<Channel>, node: usize) -> bool {
        let shared = &self.shared;
        let epoch = shared.epoch();
        let floor = shared.floor.load(Ordering::SeqCst);
        let called = shared.history.now();
        let answer = within(client.list_tenants(ReadOptions { local: self.stale })).await;
        let returned = shared.history.now();
        let Ok(list) = answer else { return false };
        add(&shared.counts.reads);
        let at = list.position.as_ref().map_or(0, |position| position.revision);
        if at < floor {
            shared.found(format!(
                "a linearizable read through node {} at {called} answers at revision {at}; {floor} had been told before it began",
                node + 1
            ));
        }
        shared.floor.fetch_max(at, Ordering::SeqCst);
        for number in 0..KEYS {
            let name = key(epoch, number);
            let operation = Operation {
                client: self.id,
                act: Act::Read(value_of(&list, &name)),
                called,
                returned: Some(returned),
            };
            shared.history.operation(&name, node as u64 + 1, operation);
        }
        true
    }
}

/// A write that goes into the history, also when the run ends while it waits for its answer: it may be done all the same.
struct Noted<'a> {
    history: &'a History,
    key: &'a str,
    node: u64,
    /// None when nothing happened.
    operation: Option<Operation>,
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.history.operation(self.key, self.node, operation);
        }
    }
}

fn value_of(list: &TenantList, name: &str) -> u64 {
    let mut tenants = list.tenants.iter().filter_map(|row| row.tenant.as_ref());
    let found = tenants.find(|tenant| tenant.id == name);
    let rate = found
        .and_then(|tenant| tenant.quota)
        .map_or(0.0, |quota| quota.requests_per_second);
    rate as u64
}

/// A call with a limit of its own: the channel's ends only what the node has taken.
async fn within<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_MAX + CONNECT_MAX, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::unknown("no answer")),
    }
}

/// Whether the registry promises that nothing happened.
fn says_unchanged(status: &Status) -> bool {
    match status.code() {
        Code::ResourceExhausted | Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => true,
        Code::Unavailable => status.message().starts_with("no leader within"),
        _ => false,
    }
}

/// Reads what one node holds: within one life of it, its revision never goes back.
pub(super) async fn read_locally(shared: Arc<Shared>, node: usize, mut random: fastrand::Rng) {
    let mut last: Option<(u64, Position)> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(20..80))).await;
        let Some(mut client) = shared.dial(node).await else {
            continue;
        };
        loop {
            let life = shared.lives[node].load(Ordering::SeqCst);
            let answer = within(client.list_tenants(ReadOptions { local: true })).await;
            let Ok(list) = answer else { break };
            let same_life = shared.lives[node].load(Ordering::SeqCst) == life;
            let Some(position) = list.position.filter(|_| same_life) else {
                continue;
            };
            add(&shared.counts.locals);
            if let Some((before, known)) = &last
                && *before == life
                && (known.revision > position.revision || known.incarnation != position.incarnation)
            {
                shared.found(format!(
                    "local reads of node {} went back: {known:?}, then {position:?}",
                    node + 1
                ));
            }
            last = Some((life, position));
            tokio::time::sleep(Duration::from_millis(random.u64(20..80))).await;
        }
    }
}

/// Removes registers that nobody uses any more, so that reads stay short.
pub(super) async fn tidy(shared: Arc<Shared>) {
    let mut next = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if next + 3 >= shared.epoch() {
            continue;
        }
        for node in 0..shared.addresses.len() {
            let Some(mut client) = shared.dial(node).await else {
                continue;
            };
            let mut gone = true;
            for number in 0..KEYS {
                let request = RemoveTenantRequest { id: key(next, number) };
                let answer = within(client.remove_tenant(request)).await;
                gone &= answer.is_ok() || answer.is_err_and(|status| status.code() == Code::NotFound);
            }
            if gone {
                next += 1;
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::history::Kind, *};

    #[test]
    fn a_write_that_waits_when_the_run_ends_may_have_been_done() {
        let history = History::new();
        let operation = Operation {
            client: 1,
            act: Act::Write(7),
            called: 3,
            returned: None,
        };
        let noted = || Noted {
            history: &history,
            key: "e1k0",
            node: 2,
            operation: Some(operation),
        };
        drop(noted());
        let mut refused = noted();
        refused.operation = None;
        drop(refused);
        let kept: Vec<Kind> = history.take().into_iter().map(|event| event.kind).collect();
        assert_eq!(kept, [Kind::Operation { node: 2, operation }]);
    }
}
