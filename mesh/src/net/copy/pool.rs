//! What relays borrow: buffers and pipes. What is kept for the next borrower is bounded.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(target_os = "linux")]
use super::splice::Pipe;

/// One borrowed buffer. Small ones cost a system call more often than they save memory.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;

/// Buffers and pipes that all relays of a process share. Clones are the same.
#[derive(Clone, Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Guards the spare buffers only; held for a push or a pop.
    buffers: Mutex<Vec<Box<[u8]>>>,
    buffers_kept_max: usize,
    #[cfg(target_os = "linux")]
    pipes: Pipes,
}

#[cfg(target_os = "linux")]
#[derive(Debug)]
struct Pipes {
    /// Guards the spare pipes only; held for a push or a pop.
    spare: Mutex<Vec<Pipe>>,
    lent: AtomicUsize,
    max: usize,
}

impl Pool {
    /// Keeps at most `buffers_kept_max` idle buffers of 64 KiB (more are made while more relays hold bytes, and freed
    /// after), and lends at most `pipes_max` pipes, two descriptors each; without a pipe a relay copies.
    #[must_use]
    pub fn new(buffers_kept_max: usize, pipes_max: usize) -> Self {
        #[cfg(not(target_os = "linux"))]
        let _ = pipes_max; // Only Linux splices.
        Self {
            shared: Arc::new(Shared {
                buffers: Mutex::default(),
                buffers_kept_max,
                #[cfg(target_os = "linux")]
                pipes: Pipes {
                    spare: Mutex::default(),
                    lent: AtomicUsize::new(0),
                    max: pipes_max,
                },
            }),
        }
    }

    pub(super) fn buffer(&self) -> Buffer<'_> {
        let spare = self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Buffer {
            bytes: spare.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice()),
            pool: &self.shared,
        }
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn spare_pipes(&self) -> usize {
        self.shared
            .pipes
            .spare
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// A pipe, unless all are lent or the process has no descriptors for another one.
    #[cfg(target_os = "linux")]
    pub(super) fn pipe(&self) -> Option<LentPipe<'_>> {
        let pipes = &self.shared.pipes;
        if pipes.lent.fetch_add(1, Ordering::Relaxed) >= pipes.max {
            pipes.lent.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let spare = pipes.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let lent = LentPipe {
            pipe: spare.or_else(|| Pipe::open().ok()),
            pipes,
        };
        lent.pipe.is_some().then_some(lent)
    }
}

/// Goes back to the pool when dropped.
pub(super) struct Buffer<'a> {
    bytes: Box<[u8]>,
    pool: &'a Shared,
}

impl Buffer<'_> {
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let mut spare = self.pool.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.pool.buffers_kept_max {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Goes back to the pool when dropped, if it is empty; a pipe with somebody's bytes in it is closed.
#[cfg(target_os = "linux")]
pub(super) struct LentPipe<'a> {
    pipe: Option<Pipe>,
    pipes: &'a Pipes,
}

#[cfg(target_os = "linux")]
impl std::ops::Deref for LentPipe<'_> {
    type Target = Pipe;
    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("lent with a pipe and taken by drop only")
    }
}

#[cfg(target_os = "linux")]
impl Drop for LentPipe<'_> {
    fn drop(&mut self) {
        self.pipes.lent.fetch_sub(1, Ordering::Relaxed);
        if let Some(pipe) = self.pipe.take().filter(Pipe::is_empty) {
            self.pipes
                .spare
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(pipe);
        }
    }
}
