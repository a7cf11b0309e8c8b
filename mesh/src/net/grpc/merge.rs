//! Small writes leave together. A message to each of a connection's many streams is one frame after the other, each with a
//! flush behind it: sent as they come, every one of them would be a TLS record and a system call of its own, at both ends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one TLS record carries: more is not held back.
const HELD_BYTES_MAX: usize = 16 * 1024;

/// A stream under HTTP/2, which reads first and flushes last whenever its task runs.
///
/// A flush waits until the tasks have run that were ready before it: those of other streams of the connection have most
/// often something to say at the same moment, and it then goes along. Where no task is ready nothing waits.
pub(super) struct Merge<S> {
    inner: S,
    /// Written and not under way yet. Only who has something to say holds memory for it.
    held: Vec<u8>,
    /// So many of them are under way already.
    sent: usize,
    flush: Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flush {
    /// Nobody asked for one.
    None,
    /// Asked for; the task has gone to the end of the queue.
    Asked,
    /// The task's turn has come again.
    Due,
}

impl<S> Merge<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            held: Vec::new(),
            sent: 0,
            flush: Flush::None,
        }
    }
}

impl<S: AsyncWrite + Unpin> Merge<S> {
    /// Hands on everything that is held.
    fn send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += count;
        }
        (self.held, self.sent, self.flush) = (Vec::new(), 0, Flush::None);
        Pin::new(&mut self.inner).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Merge<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.flush {
            Flush::None => {}
            Flush::Asked => self.flush = Flush::Due,
            // Its turn had come, and it was not flushed or not all was taken.
            Flush::Due => {
                if let Poll::Ready(sent) = self.send(cx) {
                    sent?;
                }
            }
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Merge<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.held.is_empty() && self.held.len() + buf.len() > HELD_BYTES_MAX {
            ready!(self.send(cx))?;
        }
        if buf.len() >= HELD_BYTES_MAX {
            return Pin::new(&mut self.inner).poll_write(cx, buf);
        }
        self.held.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    /// Taken as done when asked for: what goes wrong later shows at the next read.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            return Pin::new(&mut self.inner).poll_flush(cx);
        }
        match self.flush {
            Flush::None => {
                self.flush = Flush::Asked;
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(()))
            }
            Flush::Asked => Poll::Ready(Ok(())),
            Flush::Due => self.send(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            ready!(self.send(cx))?;
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::{Wake, Waker},
    };

    use super::*;

    /// Remembers each write; takes as many bytes as there is room for, and is never readable.
    struct Line {
        writes: Vec<Vec<u8>>,
        room: usize,
        is_over: bool,
    }

    impl AsyncRead for Line {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Line {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let count = buf.len().min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.writes.push(buf[..count].to_vec());
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_over = true;
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Task {
        merge: Merge<Line>,
        wakes: Arc<Count>,
    }

    impl Task {
        fn new(room: usize) -> Self {
            let line = Line {
                writes: Vec::new(),
                room,
                is_over: false,
            };
            Self {
                merge: Merge::new(line),
                wakes: Arc::default(),
            }
        }

        /// As HTTP/2 does it, with frames of these sizes.
        fn run(&mut self, frames: &[usize]) -> Poll<io::Result<()>> {
            let waker = Waker::from(Arc::clone(&self.wakes));
            let mut cx = Context::from_waker(&waker);
            let merge = &mut self.merge;
            assert!(
                Pin::new(&mut *merge)
                    .poll_read(&mut cx, &mut ReadBuf::new(&mut [0; 8]))
                    .is_pending()
            );
            for &size in frames {
                let mut frame = vec![7; size];
                while !frame.is_empty() {
                    let count = ready!(Pin::new(&mut *merge).poll_write(&mut cx, &frame))?;
                    frame.drain(..count);
                }
            }
            Pin::new(&mut *merge).poll_flush(&mut cx)
        }

        fn sizes(&self) -> Vec<usize> {
            self.merge.inner.writes.iter().map(Vec::len).collect()
        }
    }

    #[test]
    fn what_comes_until_the_tasks_next_turn_is_one_write() {
        let mut task = Task::new(usize::MAX);
        assert!(task.run(&[100]).is_ready());
        assert_eq!((task.sizes(), task.wakes.0.load(Ordering::Relaxed)), (vec![], 1));
        assert!(task.run(&[200, 300]).is_ready());
        assert_eq!(task.sizes(), [600]);
        assert!(task.run(&[]).is_ready());
        assert_eq!(task.wakes.0.load(Ordering::Relaxed), 1, "nothing is left to do");
        assert_eq!(task.merge.held.capacity(), 0);
    }

    #[test]
    fn a_full_record_waits_for_nobody() {
        let mut task = Task::new(usize::MAX);
        assert!(task.run(&[10_000, 10_000, 40_000]).is_ready());
        assert_eq!(task.sizes(), [10_000, 10_000, 40_000]);
    }

    #[test]
    fn a_line_that_takes_little_gets_all_of_it() {
        let mut task = Task::new(0);
        assert!(task.run(&[100]).is_ready());
        assert!(task.run(&[100]).is_pending());
        task.merge.inner.room = 150;
        assert!(task.run(&[100]).is_pending());
        assert_eq!(task.sizes(), [150]);
        assert!(
            task.run(&[HELD_BYTES_MAX]).is_pending(),
            "it holds no more than a record"
        );
        task.merge.inner.room = 150;
        assert!(task.run(&[]).is_ready());
        assert_eq!(task.sizes(), [150, 150]);
    }

    #[test]
    fn the_last_word_is_sent() {
        let mut task = Task::new(usize::MAX);
        assert!(task.run(&[100]).is_ready());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut task.merge).poll_shutdown(&mut cx).is_ready());
        assert!(task.sizes() == [100] && task.merge.inner.is_over);
    }
}
