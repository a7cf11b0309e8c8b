//! A node's disk in memory. Promises what a real one does and no more: what was not synced when the node dies is lost from
//! some point on, the last write torn; a name that was not synced may be gone. It can be slow, and it can be full.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use registry::raft::storage::{Each, Engine, EngineError, File, Files, Pace, Space, Storage, Writes};

use super::{place::Place, world::Sim};

/// Room on a disk that is not full.
const ROOM: u64 = 10 << 30;

/// One disk; survives the node. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    /// Which life of the node may use it; handles of earlier ones fail.
    life: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Changes of names that no sync has covered.
    name_changes: Vec<NameChange>,
    blobs: BTreeMap<u64, Blob>,
    next_blob: u64,
    tables: Tables,
    durable_tables: Tables,
    /// Changes of tables that no sync has covered.
    changes: Vec<TableChange>,
    fault: Fault,
}

type Tables = BTreeMap<Space, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Longest delay of a job, in milliseconds.
    pub(crate) slow_ms: u64,
    /// Says that it is nearly full.
    pub(crate) short: bool,
    /// Fails every write.
    pub(crate) full: bool,
}

enum NameChange {
    Set(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn folder(&self) -> &str {
        let name = match self {
            Self::Set(name, _) | Self::Rename(_, name) | Self::Remove(name) => name,
        };
        name.rsplit_once('/').map_or("", |(folder, _)| folder)
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Set(name, blob) => {
                names.insert(name.clone(), *blob);
            }
            Self::Rename(from, to) => {
                if let Some(blob) = names.remove(from) {
                    names.insert(to.clone(), blob);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

#[derive(Default)]
struct Blob {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
}

enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    /// Applies a part of it: of a write only the first bytes.
    fn apply(&self, bytes: &mut Vec<u8>, part: usize) {
        match self {
            Self::Write(at, written) => {
                let written = &written[..part.min(written.len())];
                let end = at + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(written);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

enum TableChange {
    Write(Space, Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Clear(Space),
}

impl TableChange {
    fn apply(&self, tables: &mut Tables) {
        match self {
            Self::Write(space, changes) => {
                let table = tables.entry(*space).or_default();
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(table.insert(key.clone(), value.clone())),
                        None => drop(table.remove(key)),
                    }
                }
            }
            Self::Clear(space) => {
                tables.remove(space);
            }
        }
    }
}

/// How much of a list of unsynced changes a crash leaves.
fn left(count: usize) -> usize {
    match fastrand::u8(..4) {
        0 => 0,
        1 => count,
        _ => fastrand::usize(..=count),
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storage for the next life of the node.
    pub(crate) fn storage(&self, sim: &Sim, place: Place) -> Storage {
        let mut content = self.lock();
        content.life += 1;
        let handle = Handle {
            disk: self.clone(),
            life: content.life,
            place,
        };
        let engine = Tables_(handle.clone());
        Storage {
            files: Arc::new(handle.clone()),
            engine: Box::new(move || Ok(Box::new(engine))),
            pace: Some(Arc::new(Speed {
                sim: sim.clone(),
                handle,
            })),
        }
    }

    /// No handle works any more, and nothing is lost: the node has stopped in order.
    pub(crate) fn close(&self) {
        self.lock().life += 1;
    }

    /// The power is cut.
    pub(crate) fn crash(&self) {
        let mut content = self.lock();
        let content = &mut *content;
        content.life += 1;
        let kept = left(content.name_changes.len());
        for change in content.name_changes.drain(..).take(kept) {
            change.apply(&mut content.durable_names);
        }
        content.names = content.durable_names.clone();
        for blob in content.blobs.values_mut() {
            let kept = left(blob.changes.len());
            let mut changes = blob.changes.drain(..);
            for change in changes.by_ref().take(kept) {
                change.apply(&mut blob.durable, usize::MAX);
            }
            if let Some(torn @ Change::Write(_, written)) = &changes.next() {
                torn.apply(&mut blob.durable, fastrand::usize(..=written.len()));
            }
            drop(changes);
            blob.bytes = blob.durable.clone();
        }
        let named: std::collections::BTreeSet<u64> = content.names.values().copied().collect();
        content.blobs.retain(|id, _| named.contains(id));
        let kept = left(content.changes.len());
        for change in content.changes.drain(..).take(kept) {
            change.apply(&mut content.durable_tables);
        }
        content.tables = content.durable_tables.clone();
    }

    /// Whether it fails every write now.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().fault.full
    }

    /// What is wrong with it from now on.
    pub(crate) fn set_fault(&self, fault: Fault) {
        self.lock().fault = fault;
    }
}

/// One life's way to the disk.
#[derive(Clone)]
struct Handle {
    disk: Disk,
    life: u64,
    place: Place,
}

impl Handle {
    fn content(&self) -> io::Result<MutexGuard<'_, Content>> {
        let content = self.disk.lock();
        if content.life == self.life {
            Ok(content)
        } else {
            Err(io::Error::other("the node has died"))
        }
    }

    fn to_write(&self) -> io::Result<MutexGuard<'_, Content>> {
        let content = self.content()?;
        if content.fault.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(content)
    }

    fn open_blob(&self, blob: u64) -> Arc<dyn File> {
        let handle = self.clone();
        Arc::new(Opened { handle, blob })
    }
}

impl Files for Handle {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let content = self.content()?;
        let names = content.names.keys().filter_map(|name| match name.rsplit_once('/') {
            Some((within, name)) => (within == folder).then(|| name.to_owned()),
            None => folder.is_empty().then(|| name.clone()),
        });
        Ok(names.collect())
    }

    fn make_folder(&self, _: &str) -> io::Result<()> {
        self.to_write().map(drop)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut content = self.to_write()?;
        let known = content.names.get(name).copied();
        let blob = match known {
            Some(blob) => {
                if let Some(known) = content.blobs.get_mut(&blob) {
                    known.bytes.clear();
                    known.changes.push(Change::Length(0));
                }
                blob
            }
            None => {
                let blob = content.next_blob;
                content.next_blob += 1;
                content.blobs.insert(blob, Blob::default());
                content.names.insert(name.to_owned(), blob);
                content.name_changes.push(NameChange::Set(name.to_owned(), blob));
                blob
            }
        };
        drop(content);
        Ok(self.open_blob(blob))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let blob = self.content()?.names.get(name).copied();
        let blob = blob.ok_or(io::ErrorKind::NotFound)?;
        Ok(self.open_blob(blob))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut content = self.to_write()?;
        let blob = content.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        content.names.insert(to.to_owned(), blob);
        content
            .name_changes
            .push(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut content = self.content()?;
        content.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        content.name_changes.push(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        let mut content = self.content()?;
        let content = &mut *content;
        let changes = std::mem::take(&mut content.name_changes);
        for change in changes {
            if change.folder() == folder {
                change.apply(&mut content.durable_names);
            } else {
                content.name_changes.push(change);
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let fault = self.content()?.fault;
        Ok(if fault.full || fault.short { 1 << 20 } else { ROOM })
    }

    fn display(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }
}

struct Opened {
    handle: Handle,
    blob: u64,
}

impl Opened {
    fn with<T>(
        &self,
        content: io::Result<MutexGuard<'_, Content>>,
        work: impl FnOnce(&mut Blob) -> T,
    ) -> io::Result<T> {
        let mut content = content?;
        let blob = content.blobs.get_mut(&self.blob);
        Ok(work(blob.ok_or(io::ErrorKind::NotFound)?))
    }
}

impl File for Opened {
    fn length(&self) -> io::Result<u64> {
        self.with(self.handle.content(), |blob| blob.bytes.len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        self.with(self.handle.content(), |blob| {
            let from = blob.bytes.get(at..).unwrap_or_default();
            let length = from.len().min(into.len());
            into[..length].copy_from_slice(&from[..length]);
            length
        })
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        self.with(self.handle.to_write(), |blob| {
            let change = Change::Write(at, bytes.to_vec());
            change.apply(&mut blob.bytes, usize::MAX);
            blob.changes.push(change);
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.with(self.handle.content(), |blob| {
            let change = Change::Length(length);
            change.apply(&mut blob.bytes, 0);
            blob.changes.push(change);
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(self.handle.content(), |blob| {
            for change in blob.changes.drain(..) {
                change.apply(&mut blob.durable, usize::MAX);
            }
        })
    }
}

/// The database.
struct Tables_(Handle);

impl Tables_ {
    fn failed(&self, source: io::Error) -> EngineError {
        EngineError::File {
            path: PathBuf::from(self.0.place.to_string()),
            source,
        }
    }

    fn content(&self) -> Result<MutexGuard<'_, Content>, EngineError> {
        self.0.content().map_err(|error| self.failed(error))
    }

    fn change(&self, change: TableChange) -> Result<(), EngineError> {
        let mut content = self.0.to_write().map_err(|error| self.failed(error))?;
        change.apply(&mut content.tables);
        content.changes.push(change);
        Ok(())
    }
}

impl Engine for Tables_ {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let content = self.content()?;
        Ok(content.tables.get(&space).and_then(|table| table.get(key).cloned()))
    }

    fn scan(&self, space: Space, from: &[u8], each: &mut Each<'_>) -> Result<(), EngineError> {
        let content = self.content()?;
        let Some(table) = content.tables.get(&space) else {
            return Ok(());
        };
        for (key, value) in table.range(from.to_vec()..) {
            if each(key, value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, space: Space, writes: Writes) -> Result<(), EngineError> {
        self.change(TableChange::Write(space, writes.into_changes()))
    }

    fn sync(&self) -> Result<(), EngineError> {
        let mut content = self.content()?;
        let content = &mut *content;
        for change in content.changes.drain(..) {
            change.apply(&mut content.durable_tables);
        }
        Ok(())
    }

    fn clear(&self, space: Space) -> Result<(), EngineError> {
        self.change(TableChange::Clear(space))
    }
}

/// How fast a disk is.
struct Speed {
    sim: Sim,
    handle: Handle,
}

impl Pace for Speed {
    fn wait(&self) -> BoxFuture<'static, ()> {
        let (sim, place) = (self.sim.clone(), self.handle.place);
        let slow_ms = self.handle.disk.lock().fault.slow_ms;
        let wait = match fastrand::u8(..) {
            0..128 => 0,
            128..250 => 1,
            _ => fastrand::u64(1..=10),
        };
        let wait = if slow_ms > 0 {
            wait.max(fastrand::u64(0..=slow_ms))
        } else {
            wait
        };
        Box::pin(async move {
            if wait > 0 {
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            sim.step("disk", place, place, wait);
        })
    }
}
