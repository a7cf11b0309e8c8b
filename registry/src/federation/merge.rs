//! One service of several origins: the oldest definition wins, ports are united, and what differs is said. Pure.
//!
//! The rule is that of the Kubernetes Multi-Cluster Services API; its open tie is broken by the region's name, so that all
//! regions decide alike.

use std::fmt::Write;

use mesh::model::{Port, RegionId, Service, ServiceName, Timestamp};

/// Longest text about a conflict, in characters; what does not fit is left out.
const CONFLICT_CHARS_MAX: usize = 256;

/// A service as one region defines it.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The region.
    pub region: &'a RegionId,
    /// Its ports.
    pub ports: &'a [Port],
    /// Whether it resolves to endpoints.
    pub headless: bool,
    /// When it was exported, or defined where it is not exported.
    pub created_at: Timestamp,
}

/// Merges the origins of a service; none when there is none. Virtual addresses are left to the caller.
#[must_use]
pub fn merge(name: &ServiceName, mut origins: Vec<Origin<'_>>) -> Option<Service> {
    origins.sort_by(|a, b| (a.created_at, a.region).cmp(&(b.created_at, b.region)));
    let oldest = *origins.first()?;
    let mut ports: Vec<Port> = Vec::new();
    let mut conflict = Conflict::default();
    for origin in &origins {
        if origin.headless != oldest.headless {
            let (with, without) = if origin.headless {
                (origin, &oldest)
            } else {
                (&oldest, origin)
            };
            conflict.add(format_args!("{} is headless, {} is not", with.region, without.region));
        }
        for port in origin.ports {
            match clash(&ports, port) {
                None => ports.push(port.clone()),
                Some(winner) if winner == port => {}
                Some(winner) => conflict.add(format_args!(
                    "{} has port {}, {} has {}",
                    origin.region,
                    Shown(port),
                    oldest.region,
                    Shown(winner)
                )),
            }
        }
    }
    for origin in &origins {
        for port in &ports {
            if clash(origin.ports, port).is_none() {
                conflict.add(format_args!("{} has no port {}", origin.region, Shown(port)));
            }
        }
    }
    ports.sort_by_key(|port| port.number);
    Some(Service {
        name: name.clone(),
        ports,
        virtual_ips: Vec::new(),
        origins: origins.iter().map(|origin| origin.region.clone()).collect(),
        created_at: oldest.created_at,
        conflict: conflict.0,
        exported_to: mesh::model::Audience::Nobody,
        headless: oldest.headless,
    })
}

/// The port that `port` cannot stand beside: of the same name, else of the same number.
pub(crate) fn clash<'a>(ports: &'a [Port], port: &Port) -> Option<&'a Port> {
    let by_name = ports
        .iter()
        .find(|other| !port.name.is_empty() && other.name == port.name);
    by_name.or_else(|| ports.iter().find(|other| other.number == port.number))
}

/// `8080/http "web"`
pub(crate) struct Shown<'a>(pub(crate) &'a Port);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.number, self.0.protocol)?;
        if self.0.name.is_empty() {
            Ok(())
        } else {
            write!(f, " {:?}", self.0.name)
        }
    }
}

#[derive(Default)]
struct Conflict(String);

impl Conflict {
    fn add(&mut self, fault: std::fmt::Arguments<'_>) {
        let before = self.0.len();
        if before > 0 {
            self.0.push_str("; ");
        }
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(fault);
        if self.0.chars().count() > CONFLICT_CHARS_MAX {
            self.0.truncate(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::model::Protocol;

    fn port(name: &str, number: u16, protocol: Protocol) -> Port {
        Port {
            name: name.into(),
            number,
            protocol,
        }
    }

    fn merged(origins: &[(&str, i64, bool, &[Port])]) -> Service {
        let regions: Vec<RegionId> = origins.iter().map(|o| RegionId::parse(o.0).expect("valid")).collect();
        let origins = origins.iter().zip(&regions);
        let origins = origins.map(|((_, at, headless, ports), region)| Origin {
            region,
            ports,
            headless: *headless,
            created_at: Timestamp(*at),
        });
        merge(&ServiceName::parse("pay.shop").expect("valid"), origins.collect()).expect("has origins")
    }

    #[test]
    fn origins_that_agree_have_no_conflict() {
        let ports = [port("web", 80, Protocol::Http)];
        let service = merged(&[("us", 5, false, &ports), ("eu", 9, false, &ports)]);
        assert_eq!(service.conflict, "");
        assert_eq!(service.created_at, Timestamp(5));
        assert_eq!(
            service.origins.iter().map(RegionId::as_str).collect::<Vec<_>>(),
            ["us", "eu"]
        );
        assert_eq!(service.ports, ports);
    }

    #[test]
    fn the_oldest_wins_and_ties_go_by_name() {
        let http = [port("web", 80, Protocol::Http)];
        let grpc = [port("web", 80, Protocol::Grpc)];
        assert_eq!(merged(&[("eu", 9, false, &http), ("us", 5, false, &grpc)]).ports, grpc);
        assert_eq!(merged(&[("us", 5, false, &grpc), ("eu", 5, false, &http)]).ports, http);
    }

    #[test]
    fn ports_are_united_by_name_then_by_number() {
        let eu = [port("web", 80, Protocol::Http), port("", 90, Protocol::Tcp)];
        let us = [
            port("web", 8080, Protocol::Http),
            port("admin", 90, Protocol::Tcp),
            port("extra", 70, Protocol::Tcp),
        ];
        let service = merged(&[("eu", 1, false, &eu), ("us", 2, false, &us)]);
        let numbers: Vec<u16> = service.ports.iter().map(|port| port.number).collect();
        assert_eq!(numbers, [70, 80, 90], "each number once, each name once");
        for part in [
            "us has port 8080/http \"web\"",
            "eu has 80/http \"web\"",
            "eu has no port 70/tcp",
        ] {
            assert!(service.conflict.contains(part), "{part:?} in {:?}", service.conflict);
        }
    }

    #[test]
    fn a_headless_origin_beside_one_that_is_not_is_a_conflict() {
        let ports = [port("", 80, Protocol::Http)];
        let service = merged(&[("eu", 1, false, &ports), ("us", 2, true, &ports)]);
        assert!(!service.headless);
        assert_eq!(service.conflict, "us is headless, eu is not");
    }

    #[test]
    fn the_text_about_a_conflict_is_bounded() {
        let many: Vec<Port> = (1..60).map(|n| port("", n, Protocol::Tcp)).collect();
        let service = merged(&[("eu", 1, false, &many), ("us", 2, false, &[])]);
        assert!(service.conflict.chars().count() <= CONFLICT_CHARS_MAX);
        assert!(service.conflict.starts_with("us has no port 1/tcp"));
    }
}
