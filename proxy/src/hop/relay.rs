//! Relays opaque bytes between two streams of any kind, with half-close, until both have said all they have to say or
//! nothing moved for the idle time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};

/// Large enough that bulk is not bound by system calls, small enough for many tunnels.
const BUFFER_BYTES: usize = 32 * 1024;
/// Silence is noticed at the latest after the idle time and this fraction of it more.
const CHECKS: u32 = 4;

/// Relays until the end.
///
/// # Errors
/// When either side breaks, or nothing moved for `idle`.
pub(crate) async fn relay(
    first: impl AsyncRead + AsyncWrite + Unpin,
    mut second: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) -> io::Result<(u64, u64)> {
    let moved = Arc::new(AtomicBool::new(true));
    let mut first = Noted {
        inner: first,
        moved: Arc::clone(&moved),
    };
    let copied = copy_bidirectional_with_sizes(&mut first, &mut second, BUFFER_BYTES, BUFFER_BYTES);
    let silent = async {
        let mut checks = 0;
        while checks < CHECKS {
            tokio::time::sleep(idle / CHECKS).await;
            checks = if moved.swap(false, Ordering::Relaxed) {
                0
            } else {
                checks + 1
            };
        }
    };
    tokio::select! {
        copied = copied => copied,
        () = silent => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for the idle time")),
    }
}

/// Notes that bytes move, in either direction.
struct Noted<S> {
    inner: S,
    moved: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if read.is_ready() {
            this.moved.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, buf);
        if written.is_ready() {
            this.moved.store(true, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn one_side_may_end_before_the_other() {
        let (mut client, near) = duplex(64);
        let (far, mut server) = duplex(64);
        let relayed = relay(near, far, Duration::from_secs(60));
        let client = async {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            server
                .write_all(format!("answer to {question}").as_bytes())
                .await
                .unwrap();
            server.shutdown().await.unwrap();
        };
        let (relayed, answer, ()) = tokio::join!(relayed, client, server);
        assert_eq!(answer, "answer to question");
        assert_eq!(relayed.unwrap(), (8, 18));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it() {
        let (_client, near) = duplex(64);
        let (far, _server) = duplex(64);
        let error = relay(near, far, Duration::from_secs(60)).await.expect_err("idle");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
