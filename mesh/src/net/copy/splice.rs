//! A pipe through which the kernel moves bytes from socket to socket without showing them to us.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// Room of a pipe. The system's default of 64 KiB means four times the calls; 1 MiB spills the cache.
const PIPE_BYTES: usize = 256 * 1024;

/// Empty whenever nobody has borrowed it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: AtomicUsize,
}

impl Pipe {
    pub(super) fn open() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where the user's share of pipe memory is spent, the default size works too.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Ok(Self {
            read,
            write,
            held: AtomicUsize::new(0),
        })
    }

    /// Takes what the socket has. Call it only while empty, so that "would block" can mean the socket alone.
    pub(super) fn fill_from(&self, socket: impl AsFd) -> io::Result<usize> {
        let count = splice(socket, None, &self.write, None, PIPE_BYTES, flags())?;
        self.held.fetch_add(count, Ordering::Relaxed);
        Ok(count)
    }

    /// Gives up to `count` bytes to the socket.
    pub(super) fn empty_into(&self, socket: impl AsFd, count: usize) -> io::Result<usize> {
        let count = splice(&self.read, None, socket, None, count, flags())?;
        self.held.fetch_sub(count, Ordering::Relaxed);
        Ok(count)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.load(Ordering::Relaxed) == 0
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
