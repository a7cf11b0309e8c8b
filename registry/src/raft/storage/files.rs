//! The file system of one node's data directory. Names are relative to it, with `/` between folder and file. All methods
//! block.
//!
//! What the implementations promise is what POSIX does: a name that was made, changed or removed is durable after
//! [`Files::sync_directory`] of its folder, content and length after [`File::sync`]. Before that, a cut of the power may
//! leave any part of it.

use std::{
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

/// A folder and what is in it.
pub trait Files: Send + Sync + 'static {
    /// The names of the files in a folder, without the folder, in no order; none when the folder is not there.
    ///
    /// # Errors
    /// As the system says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;
    /// Makes a folder if it is not there; durable on return. The empty name is the data directory itself.
    ///
    /// # Errors
    /// As the system says.
    fn make_folder(&self, folder: &str) -> io::Result<()>;
    /// Makes a file, or empties the one that has this name.
    ///
    /// # Errors
    /// As the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file that is there, to read and to write.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or as the system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, in the place of whatever had it.
    ///
    /// # Errors
    /// As the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. Handles that are open stay good.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or as the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when all names of the folder are durable as they are.
    ///
    /// # Errors
    /// As the system says.
    fn sync_directory(&self, folder: &str) -> io::Result<()>;
    /// Bytes that can still be written.
    ///
    /// # Errors
    /// As the system says.
    fn free_bytes(&self) -> io::Result<u64>;
    /// A name as an operator finds it, for messages.
    fn display(&self, name: &str) -> String;
}

/// An open file.
pub trait File: Send + Sync + 'static {
    /// How long it is.
    ///
    /// # Errors
    /// As the system says.
    fn length(&self) -> io::Result<u64>;
    /// Reads from `at` on; fewer bytes than asked only at the end.
    ///
    /// # Errors
    /// As the system says.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes at `at`; the file grows. When it fails, any part of them may have been written.
    ///
    /// # Errors
    /// As the system says; [`io::ErrorKind::StorageFull`] when there is no room.
    fn write_at(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file, or fills it with zeros up to `length`; gives back what was reserved beyond.
    ///
    /// # Errors
    /// As the system says.
    fn set_length(&self, length: u64) -> io::Result<()>;
    /// Takes room from the disk for writes up to `upto`, without changing the length. Does nothing where that cannot be done.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] when there is not so much room.
    fn reserve(&self, upto: u64) -> io::Result<()> {
        let _ = upto;
        Ok(())
    }
    /// Returns when content and length survive a cut of the power.
    ///
    /// # Errors
    /// As the system says; what was written since the last success may then be lost, whatever a later call returns.
    fn sync(&self) -> io::Result<()>;
}

/// Whether the disk, or the user's part of it, was full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file that is read or written from one end to the other.
pub(crate) struct Sequential {
    file: Arc<dyn File>,
    at: u64,
}

impl Sequential {
    /// At the beginning.
    pub(crate) fn new(file: Arc<dyn File>) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for Sequential {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, into)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Sequential {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sequential {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.length()?.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
