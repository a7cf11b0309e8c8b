//! Applying commands: each one changes everything that it means or nothing, and leaves a note of what it touched. Pure.

mod drill;
mod export;
mod finding;
mod import;
mod lapse;
mod lease;
mod peer;
mod quota;
mod region;
mod rotate;
mod store;
mod sweep;
mod tenant;
mod token;

use std::collections::BTreeSet;

use mesh::model::{Key, RegionId, Revision, Timestamp};

use super::{Applied, Batch, Change, Command, Refusal, Reply, State, record::RecordKey};

/// What a command comes to.
type Outcome = Result<Reply, Refusal>;

/// A batch being applied.
struct Transaction<'a> {
    state: &'a mut State,
    /// A command was refused after it had changed something: from then on each command of the batch has its own way back.
    careful: bool,
    at: Timestamp,
    revision: Revision,
    /// Keys whose resource may have changed; those that did not are left out at the end.
    touched: BTreeSet<Key>,
    dirty: Dirty,
}

/// Records that were written.
#[derive(Default)]
struct Dirty {
    keys: BTreeSet<RecordKey>,
    /// Every writing counts, also of the same record.
    writes: u64,
}

impl Dirty {
    fn insert(&mut self, key: RecordKey) {
        self.writes += 1;
        self.keys.insert(key);
    }
}

impl State {
    /// Applies a batch. The same state and batch give the same outcome on every node.
    pub fn apply(&mut self, revision: Revision, batch: &Batch) -> Applied {
        let before = self.clone();
        let mut transaction = Transaction {
            state: self,
            careful: false,
            at: batch.at,
            revision,
            touched: BTreeSet::new(),
            dirty: Dirty::default(),
        };
        transaction.note_lapses(&batch.commands);
        let mut replies = Vec::with_capacity(batch.commands.len());
        for command in &batch.commands {
            let reply = match transaction.run(command) {
                Some(reply) => reply,
                None => transaction.replay(&before, batch, &replies),
            };
            replies.push(reply);
        }
        transaction.divide();
        let Transaction { touched, dirty, .. } = transaction;
        let mut digests = before.digests.clone();
        digests.follow(&before, self, &dirty.keys);
        self.digests = digests;
        let changes = touched
            .into_iter()
            .filter(|key| differs(&before, self, key))
            .map(|key| Change {
                audience_before: before.audience(&key),
                key,
            });
        Applied {
            replies,
            changes: changes.collect(),
            dirty: dirty.keys.iter().map(RecordKey::encode).collect(),
        }
    }
}

fn differs(before: &State, after: &State, key: &Key) -> bool {
    if let Key::Endpoint(service, id) = key {
        // What most changes are about, and what need not be copied to be compared.
        let endpoints = (before.endpoint(service, id), after.endpoint(service, id));
        return endpoints.0 != endpoints.1 || before.audience(key) != after.audience(key);
    }
    before.resource(key) != after.resource(key) || before.exported(key) != after.exported(key)
}

impl Transaction<'_> {
    /// The reply; none when the command was refused after it had changed something, and there is no way back.
    ///
    /// A copy of the state would be a way back, but shares all nodes with it, so that every change would copy the nodes on
    /// its path. Nearly all commands are refused before they change anything, if at all.
    fn run(&mut self, command: &Command) -> Option<Reply> {
        let kept = self.careful.then(|| self.state.clone());
        let writes = self.dirty.writes;
        match self.dispatch(command) {
            Ok(reply) => Some(reply),
            Err(refusal) if self.dirty.writes == writes => Some(Reply::Refused(refusal)),
            Err(refusal) => {
                // What was touched and put back compares equal in the end.
                *self.state = kept?;
                Some(Reply::Refused(refusal))
            }
        }
    }

    /// Begins the batch anew, carefully, up to the command that has no reply yet.
    fn replay(&mut self, before: &State, batch: &Batch, replies: &[Reply]) -> Reply {
        *self.state = before.clone();
        self.careful = true;
        self.note_lapses(&batch.commands);
        let mut reply = Reply::Done;
        for command in batch.commands.iter().take(replies.len() + 1) {
            reply = self.run(command).expect("a careful command has a way back");
        }
        reply
    }

    fn dispatch(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Noop => Ok(Reply::Done),
            Command::Init {
                region,
                trust_domain,
                incarnation,
                bundle,
                authority,
            } => self.init(region, trust_domain, *incarnation, bundle, authority),
            Command::AttachWorkload(lease) => self.attach_workload(lease),
            Command::AttachGateway(lease) => self.attach_gateway(lease),
            Command::SetWorkloadState { workload, epoch, state } => self.set_workload_state(workload, *epoch, *state),
            Command::SetGatewayState { gateway, epoch, state } => self.set_gateway_state(gateway, *epoch, *state),
            Command::Lapse { lessee, epoch } => self.lapse(lessee, *epoch),
            Command::Detach { lessee, epoch } => self.detach(lessee, *epoch),
            Command::ReleaseUnverified => self.release_unverified(),
            Command::PutExport(export) => self.put_export(export),
            Command::RemoveExport(service) => self.remove_export(service),
            Command::PutImportPolicy { peer, policy } => self.put_import_policy(peer, policy),
            Command::PutTenant(tenant) => self.put_home_tenant(tenant),
            Command::RemoveTenant(id) => self.remove_home_tenant(id),
            Command::PutToken(token) => self.put_token(token),
            Command::RedeemToken { digest, region } => self.redeem_token(digest, region.as_ref()),
            Command::PutPeer(record) => self.put_peer(record),
            Command::RemovePeer(region) => self.remove_peer(region),
            Command::Import { peer, set } => self.import(peer, set),
            Command::PutPeerStatus {
                peer,
                connected,
                round_trip,
                heard_at,
            } => self.put_peer_status(peer, *connected, *round_trip, *heard_at),
            Command::PutBundle(bundle) => self.put_own_bundle(bundle),
            Command::PutAuthority(authority) => self.put_authority(authority),
            Command::StartDrill(drill) => self.start_drill(drill),
            Command::RenewDrill(id) => self.renew_drill(id),
            Command::EndDrill(id) => self.end_drill(id),
            Command::Sweep => self.sweep(),
            Command::AllocateNode => self.allocate_node(),
            Command::RaiseLevel(level) => Ok(self.raise_level(*level)),
            Command::RepairPeer(region) => self.repair_peer(region),
            Command::Checkpoint(checkpoint) => self.put_checkpoint(*checkpoint),
            Command::PutFinding { subject, finding } => self.put_finding(subject, finding.as_ref()),
            Command::Rotate(step) => self.rotate(step),
            Command::GrantLeases(terms) => self.grant_leases(terms),
            Command::ImportLeases { peer, set } => self.import_leases(peer, set),
            Command::EndLease {
                tenant,
                epoch,
                expires_at,
            } => self.end_lease(tenant, *epoch, *expires_at),
            Command::SettleLease { tenant, epoch } => self.settle_lease(tenant, *epoch),
            Command::OpenQuotas => self.open_quotas(),
            Command::PutDemand { node, usage } => self.put_demand(*node, usage),
        }
    }

    /// The region, which `Init` names before anything else can be done.
    fn own_region(&self) -> Result<RegionId, Refusal> {
        self.state
            .region()
            .cloned()
            .ok_or_else(|| Refusal::Conflict("region is not initialised; run `isthmus registry init` first".into()))
    }
}

fn not_found(what: &str, id: impl ToString) -> Refusal {
    Refusal::NotFound {
        what: what.to_owned(),
        id: id.to_string(),
    }
}

fn not_owner(what: String, owner: &RegionId) -> Refusal {
    Refusal::NotOwner {
        what,
        owner: owner.clone(),
    }
}
