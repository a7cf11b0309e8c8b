//! Dialling: one connection to `host:port` within a time limit. A name is resolved at each dial, so that a moved peer is
//! found again; its addresses are tried with a small head start each, so that a dead one costs little.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};

use super::listen::prepare;

/// Lead of each address over the next one (RFC 8305 recommends 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);
/// Of a name with more addresses only the first ones are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum DialError {
    /// The name has no address, or the resolver failed.
    #[error("cannot resolve {target}")]
    Resolve {
        /// `host:port`.
        target: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// The peer, or the way to it, refused.
    #[error("cannot connect to {target}")]
    Connect {
        /// `host:port`.
        target: String,
        /// Of the last address that failed.
        #[source]
        source: io::Error,
    },
    /// Nobody answered.
    #[error("no answer from {target} within {waited:?}")]
    TimedOut {
        /// `host:port`.
        target: String,
        /// The limit.
        waited: Duration,
    },
}

/// Connects to `target`, which is `host:port` or `address:port`.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(target: &str, timeout: Duration) -> Result<TcpStream, DialError> {
    if let Ok(address) = target.parse() {
        return dial_address(address, timeout).await;
    }
    let attempt = async {
        let resolve = |source| DialError::Resolve {
            target: target.to_owned(),
            source,
        };
        let addresses: Vec<_> = lookup_host(target).await.map_err(resolve)?.collect();
        if addresses.is_empty() {
            return Err(resolve(io::Error::new(
                io::ErrorKind::NotFound,
                "the name has no address",
            )));
        }
        race(interleave(addresses)).await.map_err(|source| DialError::Connect {
            target: target.to_owned(),
            source,
        })
    };
    tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
        Err(DialError::TimedOut {
            target: target.to_owned(),
            waited: timeout,
        })
    })
}

/// Connects to one address.
///
/// # Errors
/// See [`DialError`].
pub async fn dial_address(address: SocketAddr, timeout: Duration) -> Result<TcpStream, DialError> {
    match tokio::time::timeout(timeout, connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(DialError::Connect {
            target: address.to_string(),
            source,
        }),
        Err(_) => Err(DialError::TimedOut {
            target: address.to_string(),
            waited: timeout,
        }),
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream)?;
    Ok(stream)
}

/// Alternates the families, beginning with that of the resolver's first choice.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ahead, mut behind): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    ahead.truncate(ADDRESSES_MAX);
    behind.truncate(ADDRESSES_MAX);
    let mut ordered = Vec::with_capacity(ahead.len() + behind.len());
    let (mut ahead, mut behind) = (ahead.into_iter(), behind.into_iter());
    loop {
        match (ahead.next(), behind.next()) {
            (None, None) => break,
            (one, other) => ordered.extend(one.into_iter().chain(other)),
        }
    }
    ordered.truncate(ADDRESSES_MAX);
    ordered
}

/// The first connection that stands. An address starts when the one before it failed or its head start is over.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no address");
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(connect(address));
        }
        let head_start = async {
            if waiting.len() == 0 {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(HEAD_START).await;
        };
        tokio::select! {
            done = attempts.next() => match done {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = head_start => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::listen::listen;

    /// Room for a busy machine.
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn families_take_turns() {
        let addresses = ["[::1]:1", "[::2]:1", "10.0.0.1:1", "[::3]:1"].map(|text| text.parse().unwrap());
        let ordered = interleave(addresses.to_vec());
        let expected: Vec<SocketAddr> = ["[::1]:1", "10.0.0.1:1", "[::2]:1", "[::3]:1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        assert_eq!(ordered, expected);
        let many: Vec<SocketAddr> = (1..100).map(|port| ([10, 0, 0, 1], port).into()).collect();
        assert_eq!(interleave(many).len(), ADDRESSES_MAX);
    }

    #[tokio::test]
    async fn a_name_is_dialled_whichever_of_its_addresses_answers() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        dial(&format!("localhost:{port}"), PATIENCE).await.unwrap();
        dial(&format!("127.0.0.1:{port}"), PATIENCE).await.unwrap();
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_live_one() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let live = listener.local_addr().unwrap();
        let dead = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let stream = race(vec![dead, live]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
    }

    #[tokio::test]
    async fn refusals_and_unknown_names_are_told_apart() {
        let dead = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let refused = dial(&dead.to_string(), PATIENCE).await.expect_err("nobody listens");
        assert!(matches!(refused, DialError::Connect { .. }), "{refused}");
        let unknown = dial("no-port-here", PATIENCE).await.expect_err("no port");
        assert!(matches!(unknown, DialError::Resolve { .. }), "{unknown}");
    }
}
