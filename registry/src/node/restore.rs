//! Makes a region's first node from a saved snapshot, offline: same name, same authority, a new incarnation.

use std::{
    fs::{self, File},
    sync::Arc,
};

use mesh::{
    identity::system,
    model::NodeId,
    ops::Metrics,
    runtime::{Stop, Tasks, clock},
};

use super::{
    Error,
    disk::{Card, Disk},
    init::{self, CLOSE_WAIT, issue, write_operator},
    renew::stand_in,
};
use crate::{
    api::OPERATOR_LIFETIME,
    authority::Authority,
    catalog::State,
    config::Config,
    raft::{self, Replica},
    watch::NoPublish,
};

/// The node that is made: the region begins again with one.
const FIRST: NodeId = NodeId(1);

/// Makes `data_dir`, which must be empty, hold the catalogue of a snapshot. The node then starts as its region's only
/// voter; others join it with tokens.
///
/// # Errors
/// When the folder is not empty, or the file is no snapshot of this region.
pub async fn restore(config: &Config, from: File) -> Result<(), Error> {
    let disk = Disk::new(&config.data_dir);
    disk.prepare()?;
    let settings = config.replica(FIRST);
    let restored = raft::restore(&settings, init::node(config), from)?;
    if restored.region.as_ref() != Some(&config.region) {
        // What another region's snapshot left would stand in the way of the right one. When it cannot be removed, the
        // next attempt says that the folder is taken.
        let _ = fs::remove_dir_all(&settings.data_dir);
        let wanted = config.region.clone();
        return Err(match restored.region {
            Some(found) => Error::OtherRegion { found, wanted },
            None => Error::Spoiled {
                path: settings.data_dir,
                fault: "the snapshot is of no region",
            },
        });
    }
    let state = Box::pin(read(config)).await?;
    let (Some(domain), Some(record), Some(bundle)) = (state.trust_domain(), state.authority(), state.own_bundle())
    else {
        return Err(Error::Spoiled {
            path: settings.data_dir,
            fault: "the snapshot has no authority",
        });
    };
    let (authority, now) = (Authority::from_record(record, domain)?, clock::wall());
    issue(&authority, &system::registry(domain), config.certificates.lifetime, now)?.save(&disk.identity())?;
    let operator = issue(&authority, &system::operator(domain), OPERATOR_LIFETIME, now)?;
    write_operator(&disk, &operator, bundle, &config.advertise.api)?;
    let anchors: Vec<_> = bundle.anchors().map(|der| der.to_vec()).collect();
    disk.write_card(&Card::new(config.region.clone(), domain.clone(), FIRST, &anchors))
}

/// What the replica now holds: the authority is in it. Talks to nobody.
async fn read(config: &Config) -> Result<Arc<State>, Error> {
    let tasks = Tasks::new(Stop::default());
    let identity = stand_in(&config.region, &config.trust_domain)?;
    let replica = Replica::open(
        config.replica(FIRST),
        identity,
        Arc::new(NoPublish),
        &Metrics::default(),
        &tasks,
    )
    .await?;
    let state = replica.state();
    drop(replica);
    tasks.stop().order();
    tasks.join(CLOSE_WAIT).await?;
    Ok(state)
}
