//! A service: ports under a name, with a virtual address that is the same in every region.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{Audience, RegionId, ServiceName, Timestamp};

/// What a port speaks. Decides how a proxy carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 to the application.
    Http,
    /// HTTP/2 with prior knowledge to the application.
    Http2,
    /// gRPC: HTTP/2, errors as gRPC status.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// The name in configuration and on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    /// Whether requests can be balanced one by one.
    #[must_use]
    pub fn is_http(self) -> bool {
        self != Self::Tcp
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "http" => Ok(Self::Http),
            "http2" => Ok(Self::Http2),
            "grpc" => Ok(Self::Grpc),
            "tcp" => Ok(Self::Tcp),
            _ => Err(format!("{text:?} is no protocol; use http, http2, grpc or tcp")),
        }
    }
}

/// A port of a service. Numbers are unique in a service, names too unless empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// May be empty when the service has one port; such a port has no SRV record.
    pub name: String,
    /// 1 to 65535; what callers name, whatever the application's own port is.
    pub number: u16,
    /// What it speaks.
    pub protocol: Protocol,
}

/// A service as a subscriber sees it: the definitions of all origins, merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, the same in every region.
    pub name: ServiceName,
    /// United over the origins; on conflict the oldest definition wins.
    pub ports: Vec<Port>,
    /// One IPv4 and one IPv6 address; empty for a headless service.
    pub virtual_ips: Vec<IpAddr>,
    /// Who defines it, the oldest first.
    pub origins: Vec<RegionId>,
    /// Of the oldest definition.
    pub created_at: Timestamp,
    /// What the origins disagree about, for people; empty when they agree.
    pub conflict: String,
    /// Resolves to its endpoints instead of a virtual address.
    pub headless: bool,
    /// The peers whose workloads may call what this region serves under the name. Nobody in what a peer is shown.
    pub exported_to: Audience,
}

impl Service {
    /// The port with this number.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// Virtual IPv4 addresses: 240.240.0.0/16, reserved space that no network routes.
pub const VIRTUAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(240, 240, 0, 0), 16);
/// Virtual IPv6 addresses: a unique local prefix with the same host part.
pub const VIRTUAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfdf0, 0xf0f0, 0, 0, 0, 0, 0, 0), 112);

/// The virtual addresses of a name in slot `probe` (0 unless the registry settled a collision).
///
/// A hash of the name, so that all regions choose alike without asking each other. Hosts .0 and .255 of each /24 are
/// left out: some systems refuse them.
#[must_use]
pub fn virtual_ips(name: &ServiceName, probe: u16) -> [IpAddr; 2] {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64; // FNV-1a, 64 bit: stable over versions, unlike std's hasher.
    for byte in name.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let slot = (hash ^ (hash >> 32)).wrapping_add(u64::from(probe)) % (256 * 254);
    let [third, fourth] = [(slot / 254) as u8, (slot % 254) as u8 + 1];
    let v6 = VIRTUAL_V6.0.segments();
    [
        Ipv4Addr::new(240, 240, third, fourth).into(),
        Ipv6Addr::new(v6[0], v6[1], 0, 0, 0, 0, 0, u16::from_be_bytes([third, fourth])).into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_addresses_are_stable_and_in_range() {
        let pay = ServiceName::parse("pay.shop").expect("valid");
        assert_eq!(virtual_ips(&pay, 0), virtual_ips(&pay, 0));
        assert_ne!(virtual_ips(&pay, 0), virtual_ips(&pay, 1), "a probe moves on");
        for probe in 0..1000 {
            let [IpAddr::V4(v4), IpAddr::V6(v6)] = virtual_ips(&pay, probe) else {
                unreachable!("one of each")
            };
            assert_eq!(v4.octets()[..2], [240, 240]);
            assert!((1..=254).contains(&v4.octets()[3]));
            assert_eq!(v6.segments()[0], 0xfdf0);
        }
    }
}
