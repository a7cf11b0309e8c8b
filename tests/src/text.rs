//! Long bodies that are made and checked as they flow: nobody holds them whole.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::Body;

const CHUNK: usize = 16 * 1024;

/// What a body was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Its length.
    pub bytes: u64,
    /// FNV-1a of its bytes: different for any reordered, lost or doubled chunk.
    pub hash: u64,
}

impl Sum {
    /// Of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bytes: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// Takes the next bytes in.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Reads a body to its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn of<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Self, B::Error> {
        let mut sum = Self::new();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                sum.add(data);
            }
        }
        Ok(sum)
    }

    /// What [`chunks`] of this length sum up to.
    #[must_use]
    pub fn expected(bytes: usize) -> Self {
        let mut sum = Self::new();
        let mut left = bytes;
        let mut at = 0;
        while left > 0 {
            let chunk = chunk(at, left);
            sum.add(&chunk);
            left -= chunk.len();
            at += 1;
        }
        sum
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:016x}", self.bytes, self.hash)
    }
}

/// The next piece of the text that everybody knows.
fn chunk(at: usize, left: usize) -> Bytes {
    let mut state = at as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let bytes = (0..left.min(CHUNK)).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    });
    bytes.collect()
}

/// A text of `bytes` bytes, in pieces.
pub fn chunks(bytes: usize) -> impl Stream<Item = Bytes> {
    stream::unfold((0, bytes), |(at, left)| async move {
        if left == 0 {
            return None;
        }
        let chunk = chunk(at, left);
        let left = left - chunk.len();
        Some((chunk, (at + 1, left)))
    })
}

/// It as a body of unknown length.
#[must_use]
pub fn body(bytes: usize) -> BoxBody<Bytes, Infallible> {
    BodyExt::boxed(StreamBody::new(
        Box::pin(chunks(bytes).map(|chunk| Ok(Frame::data(chunk))))
            as std::pin::Pin<Box<dyn Stream<Item = _> + Send + Sync>>,
    ))
}
