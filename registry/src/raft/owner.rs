//! Whose data a database holds and in which format: noted when it is made, checked at every start.

use super::{
    Error, Settings,
    disk::Disk,
    storage::{Engine, EngineError, Space, Writes},
    type_config::any,
};

/// Of everything in the data directory. 2: the log is in files of its own.
pub(super) const FORMAT: u32 = 2;
const FORMAT_KEY: &[u8] = b"format";
const NODE_KEY: &[u8] = b"node";

/// Notes format and node in a new database; refuses a newer format and another node's.
pub(super) async fn check_owner(disk: &Disk, settings: &Settings) -> Result<(), Error> {
    let wanted = settings.node_id.0;
    let noted = disk.run(move |engine| owner(engine, wanted)).await;
    let (format, node) = noted.map_err(|error| Error::Database {
        path: settings.data_dir.clone(),
        reason: any(&error).to_string(),
    })?;
    let path = settings.data_dir.clone();
    if format > FORMAT {
        return Err(Error::Format { path, found: format });
    }
    if format < FORMAT {
        return Err(Error::OldFormat { path, found: format });
    }
    if node != wanted {
        return Err(Error::OtherNode {
            path,
            found: node,
            wanted,
        });
    }
    Ok(())
}

/// What the database says about itself, after noting it in a new one.
pub(super) fn owner(engine: &dyn Engine, node: u64) -> Result<(u32, u64), EngineError> {
    let format = engine.get(Space::Meta, FORMAT_KEY)?;
    let owner = engine.get(Space::Meta, NODE_KEY)?;
    if let (Some(format), Some(owner)) = (format, owner) {
        let format = format.try_into().map_or(u32::MAX, u32::from_be_bytes);
        return Ok((format, owner.try_into().map_or(u64::MAX, u64::from_be_bytes)));
    }
    let mut writes = Writes::default();
    writes.put(FORMAT_KEY.to_vec(), FORMAT.to_be_bytes().to_vec());
    writes.put(NODE_KEY.to_vec(), node.to_be_bytes().to_vec());
    engine.write(Space::Meta, writes)?;
    engine.sync()?;
    Ok((FORMAT, node))
}
