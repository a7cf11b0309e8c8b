//! Names that are not ours go to upstream servers, as the bytes that they came in: nothing is cached or rewritten but the id.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::op::{Message, ResponseCode};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::answer::Via;

/// Most servers asked for one name: more would outlast the client's patience.
const ATTEMPTS_MAX: usize = 3;
/// Largest datagram taken. Clients that offer more are rare; the upstream then answers cut, and they use TCP.
const DATAGRAM_BYTES_MAX: usize = 4096;
const DNS_PORT: u16 = 53;

/// Where names outside our zones go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upstreams {
    /// Nowhere: such names are refused.
    #[default]
    None,
    /// To the servers of `/etc/resolv.conf`, read once at start.
    System,
    /// To these, in this order.
    Servers(Vec<SocketAddr>),
}

/// Why an upstream gave no answer.
#[derive(Debug, Error)]
pub(super) enum ForwardError {
    #[error("no upstream is configured")]
    NoUpstream,
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("socket to the upstream failed")]
    Socket(#[from] io::Error),
    #[error("upstream's answer does not belong to the question")]
    Mismatch,
}

/// The name servers of a `resolv.conf`; lines that do not parse are skipped, as the system's own resolver does.
#[must_use]
pub fn system_upstreams(resolv_conf: &str) -> Vec<SocketAddr> {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        // An interface after '%' cannot be said in an address without looking it up; such servers are skipped.
        Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, DNS_PORT))
    });
    servers.collect()
}

/// Asks upstream servers, one after the other.
#[derive(Clone, Debug)]
pub(super) struct Forwarder {
    servers: Vec<SocketAddr>,
    /// For each server.
    patience: Duration,
}

impl Forwarder {
    /// `own` is where this server itself listens: asking it would be a loop, so it is left out.
    pub(super) fn new(servers: Vec<SocketAddr>, own: SocketAddr, patience: Duration) -> Self {
        let is_own = |server: &SocketAddr| {
            let same_host = server.ip() == own.ip() || (own.ip().is_unspecified() && server.ip().is_loopback());
            server.port() == own.port() && same_host
        };
        Self {
            servers: servers.into_iter().filter(|server| !is_own(server)).collect(),
            patience,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The answer of the first server that gives a usable one, with the id of the request.
    pub(super) async fn ask(&self, request: &[u8], via: Via) -> Result<Vec<u8>, ForwardError> {
        let mut fault = ForwardError::NoUpstream;
        for server in self.servers.iter().take(ATTEMPTS_MAX) {
            let attempt = async {
                match via {
                    Via::Udp => ask_udp(*server, request).await,
                    Via::Tcp => ask_tcp(*server, request).await,
                }
            };
            match timeout(self.patience, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => fault = error,
                Err(_) => fault = ForwardError::Timeout(self.patience),
            }
        }
        Err(fault)
    }
}

/// An id that nobody who did not see the question can guess. (The source port, from the system, is the other half.)
fn unguessable_id() -> io::Result<[u8; 2]> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(id)
}

fn with_id(message: &[u8], id: [u8; 2]) -> Vec<u8> {
    let mut message = message.to_vec();
    message[..2].copy_from_slice(&id);
    message
}

/// Gives the answer the client's id, if it is a usable answer to the question at all.
fn accept(answer: &[u8], id: [u8; 2], request: &[u8]) -> Result<Vec<u8>, ForwardError> {
    let (Ok(parsed), Ok(asked)) = (Message::from_vec(answer), Message::from_vec(request)) else {
        return Err(ForwardError::Mismatch);
    };
    let is_ours = parsed.metadata.id == u16::from_be_bytes(id) && answer[2] & 0x80 != 0;
    let refused = matches!(
        parsed.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    );
    if is_ours && parsed.queries == asked.queries && !refused {
        Ok(with_id(answer, [request[0], request[1]]))
    } else {
        Err(ForwardError::Mismatch)
    }
}

/// What an upstream's answer to a request becomes for the client; none when it does not belong to the request.
#[must_use]
pub fn fits(answer: &[u8], request: &[u8]) -> Option<Vec<u8>> {
    let id: [u8; 2] = *answer.first_chunk()?;
    if request.len() < id.len() {
        return None;
    }
    accept(answer, id, request).ok()
}

async fn ask_udp(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>, ForwardError> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected, so that the system drops datagrams from anybody else.
    socket.connect(server).await?;
    let id = unguessable_id()?;
    socket.send(&with_id(request, id)).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buffer).await?;
        // A datagram with another id is a late answer or a guess; ours may still come.
        if buffer[..len].starts_with(&id) {
            return accept(&buffer[..len], id, request);
        }
    }
}

async fn ask_tcp(server: SocketAddr, request: &[u8]) -> Result<Vec<u8>, ForwardError> {
    let mut stream = TcpStream::connect(server).await?;
    let id = unguessable_id()?;
    let len = u16::try_from(request.len()).map_err(|_| ForwardError::Mismatch)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend(with_id(request, id));
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    accept(&answer, id, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_system_reads_them() {
        let text =
            "# nameserver 9.9.9.9\nsearch x\nnameserver 192.0.2.1\n nameserver\tfd00::1 \nnameserver fe80::1%eth0\n";
        let read = system_upstreams(text);
        assert_eq!(
            read,
            ["192.0.2.1:53", "[fd00::1]:53"].map(|it| it.parse::<SocketAddr>().unwrap())
        );
    }

    #[test]
    fn the_server_never_asks_itself() {
        let servers: Vec<SocketAddr> = ["127.0.0.1:53", "192.0.2.1:53"].map(|it| it.parse().unwrap()).to_vec();
        for (own, left) in [("127.0.0.1:53", 1), ("0.0.0.0:53", 1), ("127.0.0.1:15053", 2)] {
            let forwarder = Forwarder::new(servers.clone(), own.parse().unwrap(), Duration::from_secs(1));
            assert_eq!(forwarder.servers.len(), left, "{own}");
        }
    }
}
