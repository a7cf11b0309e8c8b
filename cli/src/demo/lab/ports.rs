//! A block of free ports on loopback. Blocks lie below the range from which the kernel takes ports of outgoing connections,
//! so that a process that is killed and started again finds its ports free.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use crate::failure::{Exit, Failure, Outcome};

const LOWEST: u16 = 10_000;
/// The kernel's own range begins at 32768 by default.
const HIGHEST: u16 = 32_000;
const STEP: u16 = 200;

/// A reserved block; each port is given out once.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    end: u16,
    // The block's first port stays bound: two labs never share a block.
    _claim: TcpListener,
}

impl Ports {
    /// Finds `count` free ports in a row.
    ///
    /// # Errors
    /// [`Exit::Refused`] when no block is free.
    pub fn reserve(count: usize) -> Outcome<Self> {
        let count = u16::try_from(count + 1).ok().filter(|count| *count <= STEP * 4);
        let count = count.ok_or_else(|| Failure::text(Exit::Usage, "too many processes for one lab"))?;
        let blocks = (HIGHEST - LOWEST - count) / STEP;
        // Labs that start at the same time begin their search at different places.
        let first = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0);
        let mut busy = None;
        for at in 0..blocks {
            let base = LOWEST + (first + at) % blocks * STEP;
            match claim(base, count) {
                Ok(claim) => {
                    return Ok(Self {
                        next: base + 1,
                        end: base + count,
                        _claim: claim,
                    });
                }
                Err(port) => busy = Some(port),
            }
        }
        Err(Failure::text(
            Exit::Refused,
            format!(
                "no {count} free ports in a row between {LOWEST} and {HIGHEST} on 127.0.0.1 (in use, for example: {})",
                busy.unwrap_or(LOWEST)
            ),
        )
        .next("see who holds them: ss -ltnup"))
    }

    /// The next port, as an address on loopback.
    ///
    /// # Errors
    /// When more are taken than were reserved.
    pub fn take(&mut self) -> Outcome<SocketAddr> {
        if self.next >= self.end {
            return Err(Failure::text(Exit::Failed, "the lab reserved too few ports"));
        }
        let port = self.next;
        self.next += 1;
        Ok(loopback(port))
    }
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Keeps the first port of a block whose ports are all free for TCP and UDP; else says which is not.
fn claim(base: u16, count: u16) -> Result<TcpListener, u16> {
    let claim = TcpListener::bind(loopback(base)).map_err(|_| base)?;
    for port in base + 1..base + count {
        TcpListener::bind(loopback(port)).map_err(|_| port)?;
        UdpSocket::bind(loopback(port)).map_err(|_| port)?;
    }
    Ok(claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labs_get_different_ports() {
        let (mut one, mut other) = (Ports::reserve(10).unwrap(), Ports::reserve(10).unwrap());
        let take = |ports: &mut Ports| (0..10).map(|_| ports.take().unwrap().port()).collect::<Vec<_>>();
        let (one, other) = (take(&mut one), take(&mut other));
        assert!(one.iter().all(|port| !other.contains(port)), "{one:?} {other:?}");
    }

    #[test]
    fn more_than_reserved_is_an_error_and_not_a_stranger_port() {
        let mut ports = Ports::reserve(1).unwrap();
        ports.take().unwrap();
        assert!(ports.take().is_err());
    }

    #[test]
    fn block_with_a_port_in_use_is_not_taken() {
        let taken = Ports::reserve(3).unwrap().take().unwrap();
        let holder = TcpListener::bind(taken).unwrap();
        assert_eq!(claim(taken.port() - 1, 4).unwrap_err(), taken.port());
        drop(holder);
    }
}
