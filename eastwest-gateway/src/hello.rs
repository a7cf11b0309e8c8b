//! Reads a client's first bytes, within bounds of size and time, and says goodbye to those that are not relayed. What the
//! bytes mean is for `mesh::net::hello`.

use std::{io, time::Duration};

use mesh::net::{
    hello::{Hello, HelloReader, Progress},
    listen::reset_on_close,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::refusal::Refusal;

/// One read. A hello that is larger comes in several.
const SEGMENT_BYTES: usize = 4 * 1024;
/// How long a refused client may take to read its alert.
const GOODBYE: Duration = Duration::from_millis(500);
/// What a refused client may still send before it has read its alert.
const GOODBYE_BYTES_MAX: usize = 64 * 1024;

/// The hello, and everything that was read with it.
pub(crate) async fn read_hello(
    stream: &TcpStream,
    bytes_max: usize,
    timeout: Duration,
) -> Result<(Hello, Vec<u8>), Refusal> {
    let reading = async {
        let mut reader = HelloReader::new(bytes_max);
        loop {
            stream.readable().await.map_err(|_| Refusal::Gone)?;
            match try_segment(stream, &mut reader) {
                Ok(Some(progress)) => match progress? {
                    Progress::Done(hello) => return Ok((hello, reader.into_bytes())),
                    Progress::NeedMore => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) | Err(_) => return Err(Refusal::Gone),
            }
        }
    };
    tokio::time::timeout(timeout, reading)
        .await
        .unwrap_or(Err(Refusal::HelloTimedOut))
}

/// What one read brings; none at the end. The buffer lives on the stack between two waits, so that a waiting client costs
/// no buffer.
fn try_segment(
    stream: &TcpStream,
    reader: &mut HelloReader,
) -> io::Result<Option<Result<Progress, mesh::net::hello::Fault>>> {
    let mut segment = [0; SEGMENT_BYTES];
    let count = stream.try_read(&mut segment)?;
    Ok((count > 0).then(|| reader.feed(&segment[..count])))
}

/// Tells the client why, as far as it can be told, and closes.
pub(crate) async fn refuse(mut stream: TcpStream, refusal: Refusal) {
    let Some(alert) = refusal.alert() else {
        reset_on_close(&stream);
        return;
    };
    let goodbye = async {
        stream.write_all(&alert.record()).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the reset could overtake the alert.
        let mut left = GOODBYE_BYTES_MAX;
        while left > 0 {
            stream.readable().await?;
            match discard(&stream) {
                Ok(0) => break,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    // A client that left, or that does not read, has no use for more patience.
    let _: Result<io::Result<()>, _> = tokio::time::timeout(GOODBYE, goodbye).await;
}

fn discard(stream: &TcpStream) -> io::Result<usize> {
    stream.try_read(&mut [0; SEGMENT_BYTES])
}
