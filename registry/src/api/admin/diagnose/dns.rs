//! Asks the node's own name server, over UDP and TCP, and through it the upstreams. Knows no more of DNS than a question
//! and the code of an answer.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use mesh::dns::{Settings, Upstreams};
use proto::admin::v1 as pb;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

const WAIT: Duration = Duration::from_secs(1);
/// The upstreams have their own time limit, one after the other.
const UPSTREAM_WAIT: Duration = Duration::from_secs(4);
/// In a zone of ours: answered without anybody's help.
const OWN: &str = "isthmus-doctor.svc.clusterset.local";
/// In nobody's zone: whatever an upstream answers, it answers.
const FOREIGN: &str = "isthmus-doctor.invalid";
/// Of an answer that failed.
const SERVFAIL: u8 = 2;

pub(super) async fn look(listener: Option<SocketAddr>, settings: &Settings) -> pb::Dns {
    let Some(listener) = listener else {
        return pb::Dns::default();
    };
    let at = dialled(listener);
    let upstream = async {
        if matches!(settings.upstreams, Upstreams::None) {
            return Ok(());
        }
        match over_tcp(at, FOREIGN, UPSTREAM_WAIT).await? {
            SERVFAIL => Err(io::Error::other("no upstream answered (SERVFAIL)")),
            _ => Ok(()),
        }
    };
    let (udp, tcp, upstream) = tokio::join!(over_udp(at, OWN), over_tcp(at, OWN, WAIT), upstream);
    let told = |error: Option<io::Error>| error.map_or_else(String::new, |error| error.to_string());
    pb::Dns {
        address: listener.to_string(),
        udp_error: told(udp.err()),
        tcp_error: told(tcp.err()),
        upstream_error: told(upstream.err()),
    }
}

/// How the node itself reaches a listener that may be bound to all addresses.
pub(super) fn dialled(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

async fn over_udp(at: SocketAddr, name: &str) -> io::Result<u8> {
    let any: SocketAddr = if at.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let asking = async {
        let socket = UdpSocket::bind(any).await?;
        socket.connect(at).await?;
        let question = question(name);
        socket.send(&question).await?;
        let mut answer = [0; 1500];
        let len = socket.recv(&mut answer).await?;
        code(&question, &answer[..len])
    };
    within(WAIT, asking).await
}

async fn over_tcp(at: SocketAddr, name: &str, wait: Duration) -> io::Result<u8> {
    let asking = async {
        let mut stream = TcpStream::connect(at).await?;
        let question = question(name);
        // It is a name of ours with a few dozen bytes.
        let len = u16::try_from(question.len()).map_err(io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes()[..], &question].concat()).await?;
        let len = stream.read_u16().await?;
        let mut answer = vec![0; len.into()];
        stream.read_exact(&mut answer).await?;
        code(&question, &answer)
    };
    within(wait, asking).await
}

async fn within(wait: Duration, asking: impl Future<Output = io::Result<u8>>) -> io::Result<u8> {
    let silent = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {wait:?}"));
    tokio::time::timeout(wait, asking).await.map_err(silent)?
}

/// A question for an A record, with recursion desired.
fn question(name: &str) -> Vec<u8> {
    let id = fastrand::u16(..).to_be_bytes();
    let mut bytes = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        // Labels of the names above are short.
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The response code of what must be the answer to `question`.
fn code(question: &[u8], answer: &[u8]) -> io::Result<u8> {
    let is_answer = answer.len() >= 12 && answer[..2] == question[..2] && answer[2] & 0x80 != 0;
    if !is_answer {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "what came back is no answer",
        ));
    }
    Ok(answer[3] & 0x0f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_noise() {
        let question = question("a.invalid");
        assert_eq!(question.len(), 12 + 2 + 8 + 1 + 4);
        let mut answer = question.clone();
        assert!(code(&question, &answer).is_err(), "a question is no answer");
        answer[2] |= 0x80;
        answer[3] = 3;
        assert_eq!(code(&question, &answer).expect("an answer"), 3);
        answer[0] ^= 1;
        assert!(code(&question, &answer).is_err(), "another question's");
        assert!(code(&question, &[]).is_err());
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_over_both() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let seen = look(Some(address), &Settings::default()).await;
        assert!(!seen.udp_error.is_empty() && !seen.tcp_error.is_empty(), "{seen:?}");
        assert!(seen.upstream_error.is_empty(), "none is set");
    }
}
