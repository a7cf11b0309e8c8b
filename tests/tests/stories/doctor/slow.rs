//! A disk that is slow, for the doctor's story.

use std::{io, sync::Arc, time::Duration};

use registry::raft::storage::{File, Files};

/// A disk that takes its time to make a write durable: what is written is real, the wait is added.
pub(super) struct Slow(pub(super) Arc<dyn Files>);

struct SlowFile(Arc<dyn File>);

const DELAY: Duration = Duration::from_millis(600);

impl Files for Slow {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn make_folder(&self, folder: &str) -> io::Result<()> {
        self.0.make_folder(folder)
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SlowFile(self.0.create(name)?)))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(SlowFile(self.0.open(name)?)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_directory(&self, folder: &str) -> io::Result<()> {
        self.0.sync_directory(folder)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
    fn display(&self, name: &str) -> String {
        self.0.display(name)
    }
}

impl File for SlowFile {
    fn length(&self) -> io::Result<u64> {
        self.0.length()
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(at, into)
    }
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(at, bytes)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }
    fn sync(&self) -> io::Result<()> {
        std::thread::sleep(DELAY);
        self.0.sync()
    }
}
