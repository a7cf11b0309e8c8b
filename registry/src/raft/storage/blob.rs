//! A snapshot's file as openraft reads and writes it: asynchronous, with the blocking calls on threads made for them, or
//! right away where there are no threads.

use std::{
    future::Future,
    io::{self, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncSeek, AsyncWrite, ReadBuf},
    task::JoinHandle,
};

use super::files::{File, Sequential};

/// What one call moves.
const PART_BYTES: usize = 1 << 20;

/// A file with a position.
pub(crate) struct Blob {
    file: Arc<dyn File>,
    at: u64,
    threads: bool,
    busy: Option<JoinHandle<io::Result<Done>>>,
    /// Read, but not yet asked for; ends at `at`.
    ahead: Vec<u8>,
}

enum Done {
    Read(Vec<u8>),
    Written(usize),
}

impl Blob {
    /// At the beginning of a file. `threads` = calls may be made on the runtime's threads for blocking work.
    pub(crate) fn new(file: Arc<dyn File>, threads: bool) -> Self {
        Self {
            file,
            at: 0,
            threads,
            busy: None,
            ahead: Vec::new(),
        }
    }

    /// The whole file from its beginning, to be read where blocking is allowed.
    pub(crate) fn into_sequential(self) -> Sequential {
        Sequential::new(self.file)
    }

    /// Does one call, or goes on with the one that is under way.
    fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        call: impl FnOnce(&dyn File, u64) -> io::Result<Done> + Send + 'static,
    ) -> Poll<io::Result<Done>> {
        if self.busy.is_none() {
            if !self.threads {
                return Poll::Ready(call(&*self.file, self.at));
            }
            let (file, at) = (Arc::clone(&self.file), self.at);
            self.busy = Some(tokio::task::spawn_blocking(move || call(&*file, at)));
        }
        self.poll_busy(cx)
            .map(|done| done.unwrap_or_else(|| Err(io::ErrorKind::Other.into())))
    }

    fn poll_busy(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Done>>> {
        let Some(busy) = self.busy.as_mut() else {
            return Poll::Ready(None);
        };
        let joined = ready!(Pin::new(busy).poll(cx));
        self.busy = None;
        Poll::Ready(Some(joined.map_err(io::Error::other).and_then(|done| done)))
    }
}

impl AsyncRead for Blob {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let wanted = into.remaining().min(PART_BYTES);
            let read = move |file: &dyn File, at| {
                let mut bytes = vec![0; wanted];
                let read = file.read_at(at, &mut bytes)?;
                bytes.truncate(read);
                Ok(Done::Read(bytes))
            };
            match ready!(self.poll_call(cx, read))? {
                Done::Read(bytes) => {
                    self.at += bytes.len() as u64;
                    self.ahead = bytes;
                }
                // Of a call whose caller went away.
                Done::Written(_) => return self.poll_read(cx, into),
            }
        }
        let taken = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..taken]);
        self.ahead.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Blob {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let part = bytes[..bytes.len().min(PART_BYTES)].to_vec();
        let write = move |file: &dyn File, at| {
            file.write_at(at, &part)?;
            Ok(Done::Written(part.len()))
        };
        match ready!(self.poll_call(cx, write))? {
            Done::Written(length) => {
                self.at += length as u64;
                Poll::Ready(Ok(length))
            }
            // Of a call whose caller went away.
            Done::Read(_) => self.poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // a write returns when the system has it
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncSeek for Blob {
    fn start_seek(mut self: Pin<&mut Self>, to: SeekFrom) -> io::Result<()> {
        // The length is a look into the file's metadata: it does not wait for the disk.
        let from = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.length()?.checked_add_signed(by),
            SeekFrom::Current(by) => (self.at - self.ahead.len() as u64).checked_add_signed(by),
        };
        self.at = from.ok_or(io::ErrorKind::InvalidInput)?;
        self.ahead.clear();
        Ok(())
    }

    /// Also lets a call end whose caller went away, before the position changes.
    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        // What it was does not matter: a seek follows, and the part is read or written again.
        let _ = ready!(self.poll_busy(cx));
        Poll::Ready(Ok(self.at - self.ahead.len() as u64))
    }
}
