//! `isthmus registry init`, `snapshot`, `node-token` and `remove-node`: what is done to a registry rather than by it.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use proto::admin::v1::{CreateNodeTokenRequest, RemoveNodeRequest, SaveSnapshotRequest};
use registry::raft::inspect;
use serde::Serialize;

use super::Context;
use crate::{
    args::{RegistryCommand, SnapshotCommand},
    daemon,
    failure::{Exit, Failure, Outcome},
};

pub(super) async fn run(context: &Context, command: RegistryCommand) -> Outcome {
    match command {
        RegistryCommand::Init { config } => init(context, &config).await,
        RegistryCommand::Snapshot(SnapshotCommand::Save { file }) => save(context, &file).await,
        RegistryCommand::Snapshot(SnapshotCommand::Restore { file, config }) => restore(context, &file, &config).await,
        RegistryCommand::NodeToken { ttl } => {
            let request = CreateNodeTokenRequest {
                ttl_seconds: ttl.as_secs().max(1),
            };
            let client = context.client().await?;
            let token = client
                .call(|mut admin| async move { admin.create_node_token(request).await })
                .await?;
            context.printer.show(&token, |token| token.token.clone())
        }
        RegistryCommand::RemoveNode { id } => {
            let request = RemoveNodeRequest { node: id };
            let client = context.client().await?;
            let done = client
                .call(|mut admin| async move { admin.remove_node(request).await })
                .await?;
            context.printer.show(&done, |_| {
                format!("node {id} is out for good; it may be switched off, and never comes back under this number")
            })
        }
    }
}

#[derive(Serialize)]
struct Formed {
    region: String,
    trust_domain: String,
    credentials: PathBuf,
}

async fn init(context: &Context, path: &Path) -> Outcome {
    let config = daemon::registry_config(path)?;
    let formed = Formed {
        region: config.region.to_string(),
        trust_domain: config.trust_domain.to_string(),
        credentials: config.data_dir.join("operator"),
    };
    registry::init(&config).await.map_err(|error| {
        Failure::new(Exit::Refused, error).while_doing(format!("region {} was not formed", config.region))
    })?;
    context.printer.show(&formed, |formed| {
        format!(
            "region {} is formed, trust domain {}\n\
             operator's credentials: {} (ISTHMUS_CREDENTIALS)\n\
             next: isthmus registry --config {}",
            formed.region,
            formed.trust_domain,
            formed.credentials.display(),
            path.display()
        )
    })
}

#[derive(Serialize)]
struct Saved {
    file: PathBuf,
    bytes: u64,
    region: String,
    revision: u64,
    records: usize,
}

async fn save(context: &Context, file: &Path) -> Outcome {
    let client = context.client().await?;
    let request = SaveSnapshotRequest { read: client.read() };
    let mut stream = client
        .call(|mut admin| async move { admin.save_snapshot(request).await })
        .await?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Beside the target, so that the last step is a rename: the file is whole or absent.
    let mut part = tempfile::NamedTempFile::new_in(folder).map_err(|error| {
        Failure::new(Exit::Failed, error).while_doing(format!("cannot write in {}", folder.display()))
    })?;
    let mut bytes = 0;
    while let Some(chunk) = next(context, &mut stream).await? {
        part.write_all(&chunk.data)?;
        bytes += chunk.data.len() as u64;
    }
    part.as_file().sync_all()?;
    // A node that stops in the middle ends its stream as if it were whole.
    let inspected = inspect(io::BufReader::new(part.reopen()?)).map_err(|error| {
        Failure::new(Exit::Failed, error)
            .while_doing("the snapshot came without its end; nothing was saved, save again")
    })?;
    part.persist(file).map_err(|error| {
        Failure::new(Exit::Failed, error.error).while_doing(format!("cannot write {}", file.display()))
    })?;
    let saved = Saved {
        file: file.to_owned(),
        bytes,
        region: inspected.region.map(|region| region.to_string()).unwrap_or_default(),
        revision: inspected.revision.0,
        records: inspected.records,
    };
    context.printer.show(&saved, |saved| {
        format!(
            "saved region {} at revision {}: {} records, {} bytes in {}, read back and whole",
            saved.region,
            saved.revision,
            saved.records,
            saved.bytes,
            saved.file.display()
        )
    })
}

async fn next<T>(context: &Context, stream: &mut tonic::Streaming<T>) -> Outcome<Option<T>> {
    match tokio::time::timeout(context.global.timeout, stream.message()).await {
        Ok(message) => Ok(message?),
        Err(_) => Err(Failure::text(
            Exit::Unreachable,
            "the snapshot stopped coming; nothing was saved",
        )),
    }
}

async fn restore(context: &Context, file: &Path, path: &Path) -> Outcome {
    let config = daemon::registry_config(path)?;
    let snapshot = fs::File::open(file)
        .map_err(|error| Failure::new(Exit::Failed, error).while_doing(format!("cannot read {}", file.display())))?;
    registry::restore(&config, snapshot).await.map_err(|error| {
        Failure::new(Exit::Refused, error).while_doing(format!("{} was not restored", file.display()))
    })?;
    let formed = Formed {
        region: config.region.to_string(),
        trust_domain: config.trust_domain.to_string(),
        credentials: config.data_dir.join("operator"),
    };
    context.printer.show(&formed, |formed| {
        format!(
            "region {} holds the catalogue of {}\nnext: isthmus registry --config {}, then let its other nodes join anew",
            formed.region,
            file.display(),
            path.display()
        )
    })
}
