//! Settings of the outbound side.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use mesh::{
    model::{RegionId, ServiceName},
    ops::Section,
    route::{Pace, eject},
    subscribe::{Interest, demand},
};

/// A listener of its own for one upstream: for opaque TCP, where no Host says whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where the application connects to.
    pub listen: SocketAddr,
    /// The service behind it.
    pub service: ServiceName,
    /// A port of the service.
    pub port: u16,
    /// Only this region, without failover; none = wherever it is best.
    pub region: Option<RegionId>,
}

/// How the outbound side behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The HTTP listener. Default 127.0.0.1:15001.
    pub listen: SocketAddr,
    /// Most connections of applications, each listener for itself. Default 10000.
    pub connections_max: usize,
    /// Listeners for single upstreams. Default none.
    pub upstreams: Vec<Upstream>,
    /// Services whose endpoints are held from the start, so that even a first call works while the registry is away. Those of
    /// `upstreams` always are. Default none.
    pub services: Vec<ServiceName>,
    /// Holds the endpoints of all services, at the price of memory and of hearing every change. Default false: of those that
    /// are used.
    pub everything: bool,
    /// When the endpoints of a service are asked for and let go of.
    pub demand: demand::Settings,
    /// Regions in the order in which they stand in for the own one; the others follow by round trip. Default none.
    pub failover: Vec<RegionId>,
    /// For TCP and then again for TLS, at each try. Default 1 s, so that a black hole is left quickly.
    pub connect_timeout: Duration,
    /// From the request's head to the response's head, all tries together. Default 15 s.
    pub request_timeout: Duration,
    /// An open connection to an endpoint that owes an answer and says nothing for this long is asked whether it lives, and
    /// given as long again and a half to say so. Default 1 s.
    pub silence: Duration,
    /// A tunnel without any byte for this long is closed. Default 1 h.
    pub tunnel_idle: Duration,
    /// An unused connection to an endpoint is closed. Default 60 s.
    pub pool_idle: Duration,
    /// A connection to an endpoint takes no new requests after this long, less up to a tenth. Default 10 min.
    pub pool_age: Duration,
    /// Most connections to one port of one endpoint. Default 8.
    pub pool_connections_max: usize,
    /// Requests on one connection before another one is opened. Default 100.
    pub pool_streams: u32,
    /// Most tries of one request, each on another endpoint where there is one. Default 3.
    pub tries_max: u32,
    /// Retries as a part of requests over the last 10 s. Default 0.2; 10 a second are always allowed.
    pub retry_ratio: f64,
    /// When endpoints and gateways are ejected.
    pub eject: eject::Limits,
    /// How they come back.
    pub pace: Pace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 15001)),
            connections_max: 10_000,
            upstreams: Vec::new(),
            services: Vec::new(),
            everything: false,
            demand: demand::Settings::default(),
            failover: Vec::new(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(15),
            silence: Duration::from_secs(1),
            tunnel_idle: Duration::from_secs(3600),
            pool_idle: Duration::from_secs(60),
            pool_age: Duration::from_secs(600),
            pool_connections_max: 8,
            pool_streams: 100,
            tries_max: 3,
            retry_ratio: 0.2,
            eject: eject::Limits::default(),
            pace: Pace::default(),
        }
    }
}

impl Settings {
    /// Reads the table `[outbound]` and the tables `[[upstream]]`. Faults are noted in the sections; the caller finishes
    /// `section`, after keys of its own.
    #[must_use]
    pub fn read(section: &Section, upstreams: &[Section]) -> Self {
        let default = Self::default();
        let (eject, demand) = (section.section("eject"), section.section("demand"));
        let settings = Self {
            listen: section.or("listen", default.listen),
            connections_max: section.or("connections_max", default.connections_max),
            upstreams: upstreams.iter().filter_map(read_upstream).collect(),
            services: section.or("services", default.services),
            everything: section.or("everything", default.everything),
            demand: demand::Settings::read(&demand),
            failover: section.or("failover", default.failover),
            connect_timeout: section.or("connect_timeout", default.connect_timeout),
            request_timeout: section.or("request_timeout", default.request_timeout),
            silence: section.or("silence", default.silence),
            tunnel_idle: section.or("tunnel_idle", default.tunnel_idle),
            pool_idle: section.or("pool_idle", default.pool_idle),
            pool_age: section.or("pool_age", default.pool_age),
            pool_connections_max: section.or("pool_connections_max", default.pool_connections_max),
            pool_streams: section.or("pool_streams", default.pool_streams),
            tries_max: section.or("tries_max", default.tries_max),
            retry_ratio: section.or("retry_ratio", default.retry_ratio),
            eject: eject::Limits {
                base: eject.or("base", default.eject.base),
                max: eject.or("max", default.eject.max),
                consecutive: eject.or("consecutive", default.eject.consecutive),
            },
            pace: Pace {
                hold: eject.or("hold", default.pace.hold),
                ramp: eject.or("ramp", default.pace.ramp),
            },
        };
        eject.finish_section();
        demand.finish_section();
        settings.check(section, upstreams);
        settings
    }

    /// The services that are wanted from the start and never let go of.
    #[must_use]
    pub fn pinned(&self) -> BTreeSet<ServiceName> {
        let upstreams = self.upstreams.iter().map(|upstream| &upstream.service);
        upstreams.chain(&self.services).cloned().collect()
    }

    /// What the view shall hold at first.
    #[must_use]
    pub fn interest(&self) -> Interest {
        if self.everything {
            Interest::everything()
        } else {
            Interest::names(self.pinned())
        }
    }

    fn check(&self, section: &Section, upstreams: &[Section]) {
        for (key, value) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("silence", self.silence),
            ("tunnel_idle", self.tunnel_idle),
            ("eject.base", self.eject.base),
            ("eject.ramp", self.pace.ramp),
        ] {
            if value.is_zero() {
                section.fault(key, "must be longer than zero");
            }
        }
        for (key, value) in [
            ("connections_max", self.connections_max),
            ("pool_connections_max", self.pool_connections_max),
            ("pool_streams", self.pool_streams as usize),
            ("tries_max", self.tries_max as usize),
            ("eject.consecutive", self.eject.consecutive as usize),
        ] {
            if value == 0 {
                section.fault(key, "must be at least 1");
            }
        }
        if !(0.0..=1.0).contains(&self.retry_ratio) {
            section.fault("retry_ratio", format!("{} is not between 0 and 1", self.retry_ratio));
        }
        if self.eject.max < self.eject.base {
            section.fault(
                "eject.max",
                format!("is shorter than eject.base ({:?})", self.eject.base),
            );
        }
        let (pinned, max) = (self.pinned().len(), self.demand.services_max);
        if pinned > max {
            section.fault(
                "services",
                format!("and the upstreams name {pinned} services, more than demand.services_max ({max})"),
            );
        }
        let mut taken = BTreeSet::from([self.listen]);
        for upstream in upstreams {
            if let Some(listen) = upstream.optional::<SocketAddr>("listen")
                && listen.port() != 0
                && !taken.insert(listen)
            {
                upstream.fault("listen", format!("{listen} is used twice"));
            }
        }
    }
}

fn read_upstream(section: &Section) -> Option<Upstream> {
    let listen = section.required("listen");
    let service = section.required("service");
    let port: Option<u16> = section.required("port");
    let region = section.optional("region");
    section.finish_section();
    if port == Some(0) {
        section.fault("port", "must be 1 to 65535");
    }
    Some(Upstream {
        listen: listen?,
        service: service?,
        port: port?,
        region,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_faults_are_noted() {
        let file = Section::parse(
            "[outbound]\nconnect_timeout = '0s'\nretry_ratio = 2\ntypo = 1\nservices = ['a.b', 'c.d']\n[outbound.eject]\n\
             max = '1s'\n[outbound.demand]\nwait = '6s'\nservices_max = 1\n\
             [[upstream]]\nlisten = '127.0.0.1:5432'\nservice = 'db'\n",
        )
        .expect("TOML");
        let outbound = file.section("outbound");
        let _ = Settings::read(&outbound, &file.sections("upstream"));
        outbound.finish_section();
        let faults = file.finish().expect_err("faults").to_string();
        for part in [
            "outbound.connect_timeout",
            "outbound.retry_ratio",
            "outbound.typo: is unknown",
            "outbound.eject.max",
            "outbound.demand.wait",
            "outbound.services",
            "upstream[0].service",
            "upstream[0].port: is missing",
        ] {
            assert!(faults.contains(part), "{part}: {faults}");
        }
    }
}
