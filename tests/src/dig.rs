//! Queries as `dig` makes them.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::PATIENCE;

/// How a query travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// Two bytes of length, then the message.
    Tcp,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The response code.
    pub code: ResponseCode,
    /// The data of the answer section, in zone file form.
    pub records: Vec<String>,
    /// Whether the authority section has a SOA.
    pub has_soa: bool,
    /// Whether it is authoritative.
    pub authoritative: bool,
}

impl Answer {
    /// The name is there, but nothing of this type.
    #[must_use]
    pub fn is_nodata(&self) -> bool {
        self.code == ResponseCode::NoError && self.records.is_empty() && self.has_soa
    }

    /// The name is not there.
    #[must_use]
    pub fn is_nxdomain(&self) -> bool {
        self.code == ResponseCode::NXDomain && self.records.is_empty() && self.has_soa
    }
}

/// Asks the server at `to`.
pub async fn dig(to: SocketAddr, via: Transport, name: &str, kind: RecordType) -> Answer {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let id = message.metadata.id;
    let request = message.to_vec().unwrap();
    let reply = match via {
        Transport::Udp => udp(to, &request).await,
        Transport::Tcp => tcp(to, &request).await,
    };
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.id, id, "the answer is to this question");
    Answer {
        code: reply.metadata.response_code,
        records: reply.answers.iter().map(|record| record.data.to_string()).collect(),
        has_soa: reply
            .authorities
            .iter()
            .any(|record| matches!(record.data, RData::SOA(_))),
        authoritative: reply.metadata.authoritative,
    }
}

async fn udp(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(request, to).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut buffer))
        .await
        .expect("an answer comes")
        .unwrap();
    buffer.truncate(length);
    buffer
}

async fn tcp(to: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_u16(u16::try_from(request.len()).unwrap()).await.unwrap();
    stream.write_all(request).await.unwrap();
    let length = timeout(PATIENCE, stream.read_u16())
        .await
        .expect("an answer comes")
        .unwrap();
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.unwrap();
    reply
}
