//! sled 0.34 as the embedded database, which keeps its promises only under rules that its documentation does not state:
//!
//! * `flush` on Linux is a write and `sync_file_range`: no metadata, no device cache. So each flush is followed by
//!   `fdatasync` on a handle of our own, and the directories are synced once after creation.
//! * A page over a quarter of a segment goes to a file of its own that is never synced, and a leaf holds up to sixteen
//!   values. So segments have the maximal size and values a limit.
//! * A crash while sled writes its own snapshot leaves `snap.*.generating`, on which the next opening fails. So such
//!   files are deleted first: they are never complete.
//! * Calls block and may collect garbage for a while. So they are made from a thread of their own: see `disk`.
//! * Its cache does not keep to its bound by itself: see `bound`.
//! * After one failed write it has to be opened anew. So room is taken from the disk ahead of its writes.

mod bound;

use std::{
    cell::Cell,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use self::bound::{Bound, LEAF_ENTRIES_MIN};
use super::{
    directory::{reserve, sync_directory},
    engine::{Each, Engine, EngineError, Space, VALUE_BYTES_MAX, Writes},
};

/// The largest that sled allows; cannot change once a database exists.
const SEGMENT_BYTES: usize = 16 << 20;
/// A bound for sled's page cache; with what `bound` lets pass the process holds some times as much.
const CACHE_BYTES: u64 = 8 << 20;
/// Also drives sled's collection of garbage, which is why it is not switched off although what matters is flushed.
const FLUSH_EVERY_MS: u64 = 1000;
/// Room taken ahead of the end of sled's file: two segments.
const RESERVE_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

/// sled under the rules above.
pub struct Sled {
    path: PathBuf,
    database: sled::Db,
    meta: sled::Tree,
    catalogue: sled::Tree,
    bound: Bound,
    /// Our own handle of sled's file, for `fdatasync`.
    file: File,
    /// Up to where room was taken.
    reserved: Cell<u64>,
}

impl Sled {
    /// Opens the database in `path`, or makes one. Blocks.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process uses it.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let file_error = |at: &Path| {
            let path = at.to_owned();
            move |source| EngineError::File { path, source }
        };
        fs::create_dir_all(path).map_err(file_error(path))?;
        delete_unfinished(path).map_err(file_error(path))?;
        let failed = |source: sled::Error| EngineError::Database {
            path: path.to_owned(),
            source: source.into(),
        };
        let database = sled::Config::default()
            .path(path)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open()
            .map_err(failed)?;
        let tree = |name: &str| database.open_tree(name).map_err(failed);
        let (meta, catalogue, bound) = (tree("meta")?, tree("catalogue")?, Bound::new(tree("bound")?));
        let name = path.join("db");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&name)
            .map_err(file_error(&name))?;
        let engine = Self {
            path: path.to_owned(),
            meta,
            catalogue,
            bound,
            file,
            reserved: Cell::new(0),
            database,
        };
        engine.sync()?;
        for directory in [Some(path), path.parent()].into_iter().flatten() {
            sync_directory(directory).map_err(file_error(directory))?;
        }
        Ok(engine)
    }

    fn tree(&self, space: Space) -> &sled::Tree {
        match space {
            Space::Meta => &self.meta,
            Space::Catalogue => &self.catalogue,
        }
    }

    fn failed(&self, source: sled::Error) -> EngineError {
        EngineError::Database {
            path: self.path.clone(),
            source: source.into(),
        }
    }
}

/// sled panics when it is dropped over a disk that has failed. Where a panic is the end of the process, it is left to the
/// end of the process, which follows in order.
impl Drop for Sled {
    fn drop(&mut self) {
        if cfg!(panic = "abort") && self.sync().is_err() {
            std::mem::forget(self.database.clone());
        }
    }
}

impl Engine for Sled {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let value = self.tree(space).get(key).map_err(|error| self.failed(error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, space: Space, from: &[u8], each: &mut Each<'_>) -> Result<(), EngineError> {
        for (number, item) in self.tree(space).range(from..).enumerate() {
            let (key, value) = item.map_err(|error| self.failed(error))?;
            if number % LEAF_ENTRIES_MIN == 0 {
                self.bound.touched(1).map_err(|error| self.failed(error))?;
            }
            if each(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, space: Space, writes: Writes) -> Result<(), EngineError> {
        let mut batch = sled::Batch::default();
        let changes = writes.into_changes();
        let records = changes.len();
        for (key, value) in changes {
            match value {
                Some(value) if value.len() > VALUE_BYTES_MAX + 4096 => {
                    // Room for the entry's own header around commands of the maximal size.
                    return Err(EngineError::TooLarge { bytes: value.len() });
                }
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        let written = self.tree(space).apply_batch(batch);
        let within = written.and_then(|()| self.bound.touched(records));
        within.map_err(|error| self.failed(error))
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.database.flush().map_err(|error| self.failed(error))?;
        self.file.sync_data().map_err(|source| EngineError::File {
            path: self.path.join("db"),
            source,
        })
    }

    fn clear(&self, space: Space) -> Result<(), EngineError> {
        self.tree(space).clear().map_err(|error| self.failed(error))
    }

    fn reserve(&self) -> Result<(), EngineError> {
        let file_error = |source| EngineError::File {
            path: self.path.join("db"),
            source,
        };
        let upto = self.file.metadata().map_err(file_error)?.len() + RESERVE_BYTES;
        if self.reserved.get() != upto {
            reserve(&self.file, upto).map_err(file_error)?;
            self.reserved.set(upto);
        }
        Ok(())
    }
}

/// Deletes what sled left when it was cut off while it wrote its own snapshot.
fn delete_unfinished(path: &Path) -> io::Result<()> {
    for file in fs::read_dir(path)? {
        let file = file?;
        if file.file_name().to_string_lossy().ends_with(".generating") {
            fs::remove_file(file.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn all(engine: &Sled, space: Space) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        engine
            .scan(space, &[], &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .expect("scan");
        found
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("db");
        let engine = Sled::open(&path).expect("open");
        let mut writes = Writes::default();
        writes.put(vec![1], vec![9]);
        writes.put(vec![2], vec![8]);
        engine.write(Space::Catalogue, writes).expect("write");
        let mut writes = Writes::default();
        writes.delete(vec![1]);
        engine.write(Space::Catalogue, writes).expect("write");
        engine.sync().expect("sync");
        drop(engine);
        let engine = Sled::open(&path).expect("open again");
        assert_eq!(all(&engine, Space::Catalogue), [(vec![2], vec![8])]);
        assert!(all(&engine, Space::Meta).is_empty());
    }

    #[test]
    fn an_unfinished_snapshot_of_the_database_does_not_stop_the_opening() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("db");
        drop(Sled::open(&path).expect("open"));
        fs::write(path.join("snap.0000000000001234.generating"), b"torn").expect("plant");
        Sled::open(&path).expect("open beside the torn file");
    }

    #[test]
    fn large_values_stay_in_the_synced_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("db");
        let engine = Sled::open(&path).expect("open");
        for key in 0..64_u8 {
            let mut writes = Writes::default();
            writes.put(vec![key], vec![key; VALUE_BYTES_MAX]);
            engine.write(Space::Catalogue, writes).expect("write");
        }
        engine.sync().expect("sync");
        let blobs = fs::read_dir(path.join("blobs")).map_or(0, Iterator::count);
        assert_eq!(blobs, 0, "blobs are never synced");
        let mut writes = Writes::default();
        writes.put(vec![1], vec![0; 2 * VALUE_BYTES_MAX]);
        assert!(matches!(
            engine.write(Space::Catalogue, writes),
            Err(EngineError::TooLarge { .. })
        ));
    }
}
