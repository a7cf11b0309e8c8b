//! Makes a region on its first node, offline: authority, replica with its first entry, the operator's credentials. Promises
//! that it is done completely or refused; it listens nowhere and asks nobody.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use mesh::{
    identity::{Bundle, Identity, KeyRequest, SpiffeId, Svid, pem, system, write_private},
    model::{Incarnation, NodeId, Timestamp},
    ops::Metrics,
    runtime::{Stop, Tasks, clock},
};

use super::{
    Error,
    disk::{Card, Disk},
};
use crate::{
    api::OPERATOR_LIFETIME,
    authority::Authority,
    catalog::{Command, LEVEL, Reply},
    config::Config,
    raft::{Node, Replica},
    watch::NoPublish,
};

/// The first node of every region.
const FIRST: NodeId = NodeId(1);
/// How long closing the replica may take.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What init has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Id of the node.
    pub node: NodeId,
    /// Folder with the operator's `svid.pem`, `key.pem`, `bundle.pem` and `registry`.
    pub operator: PathBuf,
    /// End of the operator's certificate; the node renews it while it can write the folder.
    pub operator_until: Timestamp,
    /// The root with its key, to be taken away from the machine; none when the authority was given as files.
    pub root: Option<PathBuf>,
}

/// Makes a region; the node then runs with the same settings.
///
/// # Errors
/// When `data_dir` is not empty, or anything cannot be written.
pub async fn init(config: &Config) -> Result<InitReport, Error> {
    let disk = Disk::new(&config.data_dir);
    disk.prepare()?;
    let now = clock::wall();
    let (authority, bundle, root) = authority(config, now)?;
    let root = root.map(|text| disk.write_root(&text)).transpose()?;
    let id = system::registry(&config.trust_domain);
    let svid = issue(&authority, &id, config.certificates.lifetime, now)?;
    svid.save(&disk.identity())?;

    first_entry(config, &authority, &bundle, svid).await?;

    let operator = issue(
        &authority,
        &system::operator(&config.trust_domain),
        OPERATOR_LIFETIME,
        now,
    )?;
    write_operator(&disk, &operator, &bundle, &config.advertise.api)?;
    let anchors: Vec<_> = bundle.anchors().map(|der| der.to_vec()).collect();
    disk.write_card(&Card::new(
        config.region.clone(),
        config.trust_domain.clone(),
        FIRST,
        &anchors,
    ))?;
    Ok(InitReport {
        node: FIRST,
        operator: disk.operator(),
        operator_until: operator.not_after(),
        root,
    })
}

/// The authority, its anchors, and the root's PEM where it was made here.
fn authority(config: &Config, now: Timestamp) -> Result<(Authority, Bundle, Option<String>), Error> {
    let Some(files) = &config.authority else {
        let (authority, root) = Authority::create(&config.region, &config.trust_domain, now)?;
        return Ok((authority, root.bundle(1)?, Some(root.to_pem())));
    };
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|source| Error::Disk {
            path: path.clone(),
            source,
        })
    };
    let (chain, key, root) = (read(&files.certificate)?, read(&files.key)?, read(&files.root)?);
    let (authority, bundle) = Authority::from_pem(&config.region, &config.trust_domain, &chain, &key, &root, now)?;
    Ok((authority, bundle, None))
}

pub(super) fn issue(authority: &Authority, id: &SpiffeId, lifetime: Duration, now: Timestamp) -> Result<Svid, Error> {
    let request = KeyRequest::generate()?;
    let chain = authority.issue(request.der(), id, lifetime, now)?;
    Ok(request.complete(chain)?)
}

/// The operator's credentials, as the command line reads them.
pub(super) fn write_operator(disk: &Disk, svid: &Svid, bundle: &Bundle, address: &str) -> Result<(), Error> {
    let folder = disk.operator();
    svid.save(&folder)?;
    disk.write_operator_bundle(&anchors_pem(bundle))?;
    write_private(&folder, "registry", &format!("{address}\n"))?;
    Ok(())
}

/// A bundle's anchors as one text.
pub(super) fn anchors_pem(bundle: &Bundle) -> String {
    bundle.anchors().map(|der| pem("CERTIFICATE", &der)).collect()
}

/// The node as the members of its group know it.
pub(crate) fn node(config: &Config) -> Node {
    Node {
        raft_address: config.advertise.raft.clone(),
        api_address: config.advertise.api.clone(),
        federation_address: config.advertise.federation.clone(),
        zone: config.node.zone.to_string(),
    }
}

/// Forms a group of one and commits what the region begins with.
async fn first_entry(config: &Config, authority: &Authority, bundle: &Bundle, svid: Svid) -> Result<(), Error> {
    let identity = Identity::new(svid, [Arc::new(bundle.clone())])?;
    let tasks = Tasks::new(Stop::default());
    let replica = Replica::open(
        config.replica(FIRST),
        identity,
        Arc::new(NoPublish),
        &Metrics::default(),
        &tasks,
    )
    .await?;
    let written = async {
        replica.initialise(node(config)).await?;
        let command = Command::Init {
            region: config.region.clone(),
            trust_domain: config.trust_domain.clone(),
            incarnation: Incarnation(fastrand::u64(1..)),
            bundle: bundle.clone(),
            authority: authority.record(),
        };
        if let Reply::Refused(refusal) = replica.propose(command).await?.reply {
            return Err(Error::Refused(refusal));
        }
        // Nobody older is there.
        replica.propose(Command::RaiseLevel(LEVEL)).await?;
        Ok(())
    }
    .await;
    drop(replica);
    tasks.stop().order();
    let closed = tasks.join(CLOSE_WAIT).await;
    written?;
    Ok(closed?)
}
