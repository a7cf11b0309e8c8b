//! A connection from an application, with its first bytes read: they tell HTTP/2 from HTTP/1. What comes over HTTP/1 is
//! screened for ambiguous framing; the first ambiguous message reaches hyper in a form that it refuses with 400.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::framing::Framing;

/// What an HTTP/2 connection with prior knowledge begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A NUL: no parser takes it for part of a head, a chunk size or a trailer.
const POISON: &[u8] = b"\0\r\n\r\n";

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.0 or 1.1, or nothing that we know: hyper answers.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// The connection, with the bytes that were read put back.
#[derive(Debug)]
pub(crate) struct Screened {
    inner: TcpStream,
    head: Vec<u8>,
    given: usize,
    framing: Framing,
    poisoned: bool,
}

impl Screened {
    /// Reads until it is clear what is spoken. None when the peer left without a word or stayed silent for `patience`.
    pub(crate) async fn read(mut inner: TcpStream, patience: Duration) -> Option<(Self, Speaks)> {
        let mut head = Vec::with_capacity(1024);
        let speaks = tokio::time::timeout(patience, async {
            loop {
                match inner.read_buf(&mut head).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
                if head.starts_with(PREFACE) {
                    return Some(Speaks::Http2);
                }
                if !PREFACE.starts_with(&head) {
                    return Some(Speaks::Http1);
                }
            }
        });
        let speaks = speaks.await.ok().flatten()?;
        let framing = match speaks {
            Speaks::Http1 => Framing::new(),
            Speaks::Http2 => Framing::opaque(),
        };
        let mut screened = Self {
            inner,
            head: Vec::new(),
            given: 0,
            framing,
            poisoned: false,
        };
        screened.screen(&mut head, 0);
        screened.head = head;
        Some((screened, speaks))
    }

    /// Checks what was read from `from` on, and replaces the first bytes that are not good.
    fn screen(&mut self, bytes: &mut Vec<u8>, from: usize) {
        if let Err((good, _)) = self.framing.feed(&bytes[from..]) {
            bytes.truncate(from + good);
            bytes.extend_from_slice(POISON);
            self.poisoned = true;
        }
    }
}

impl AsyncRead for Screened {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.given < this.head.len() {
            let rest = &this.head[this.given..];
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..taken]);
            this.given += taken;
            if this.given == this.head.len() {
                (this.head, this.given) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        if this.poisoned {
            // Nothing after an ambiguous message is believed.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
        if let Err((good, _)) = this.framing.feed(&buf.filled()[before..]) {
            buf.set_filled(before + good);
            this.poisoned = true;
            let room = buf.remaining().min(POISON.len());
            buf.put_slice(&POISON[..room]);
            this.head = POISON[room..].to_vec();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Screened {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
