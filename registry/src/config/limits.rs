//! `[limits]`: what callers may hold and send. A caller is a SPIFFE ID, and an address where no certificate is shown. What
//! one caller may have is always less than what there is, so that its flood leaves the others theirs.

use std::time::Duration;

use mesh::{net::newcomers, ops::Section};

use crate::ingest::Counts;

/// `[limits]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// `limits.connections`: open connections on each gRPC listener. Default 10 000.
    pub connections: usize,
    /// `limits.connections_per_caller`: of those, of one SPIFFE ID. Default half of them: all replicas of a workload share
    /// one ID.
    pub connections_per_caller: u32,
    /// `limits.newcomers_per_source`: connections of one address that have not shown a certificate; beyond, each takes the
    /// place of an older one. Default 1 000; of all sources together they are at most a quarter of `connections`.
    pub newcomers_per_source: usize,
    /// `limits.handshakes_per_source`: TLS handshakes of one address a second, with twice as many at once; more are reset.
    /// Default 1 000: a host full of workloads may connect again at once, and no address takes a whole core.
    pub handshakes_per_source: u32,
    /// `limits.streams_per_connection`: calls at a time on one connection. Default 4 096.
    pub streams_per_connection: u32,
    /// `limits.connection_age`: a gRPC connection takes no new calls after this long, less up to a tenth. Default half of
    /// `certificates.lifetime`, below which it must stay: nobody goes on with a certificate that has ended.
    pub connection_age: Duration,
    /// `limits.agents`: streams of workloads and gateways that this node holds. Default 10 000: more belong on more
    /// nodes, because a node's loss makes all of its agents attach at once.
    pub agents: usize,
    /// `limits.streams_per_caller`: calls and streams of one caller at a time, on each listener. Default half of `agents`.
    pub streams_per_caller: u32,
    /// `limits.calls_per_caller`: calls of one caller a second, with twice as many at once. A stream is one call. Default
    /// 1 000.
    pub calls_per_caller: u32,
    /// `limits.newcomer_calls`: calls a second of one address that shows no certificate, with ten times as many at once: a
    /// cluster behind one address may start. Default 50.
    pub newcomer_calls: u32,
    /// `limits.attaches_per_second`: new attachments that this node proposes; more are told to come back. Default 500:
    /// a crowd that returns must not drown the renewals of those who are there.
    pub attaches_per_second: u32,
    /// `limits.attaches_per_caller`: of those, of one SPIFFE ID. Default half of them.
    pub attaches_per_caller: u32,
    /// `limits.changes_per_caller`: changes of state a second that agents of one SPIFFE ID report to this node, with twice
    /// as many at once; more are read later. Default 1 000.
    pub changes_per_caller: u32,
    /// `limits.message_bytes`: longest message that an agent or operator may send. Default 1 MiB.
    pub message_bytes: usize,
    /// `limits.workload_services`: services of one workload. Default 32: one that needs more is several workloads.
    pub workload_services: usize,
    /// `limits.workload_labels`: labels of one workload. Default 64, which is also the most.
    pub workload_labels: usize,
    /// `limits.service_ports`: ports of one service. Default 64, which is also the most: an SRV answer must fit a message.
    pub service_ports: usize,
    /// `limits.http_requests`: requests that the HTTP listener serves at once. Default 64.
    pub http_requests: usize,
}

impl LimitConfig {
    /// Reads the table; every fault is noted in it.
    pub(super) fn read(section: &Section, lifetime: Duration) -> Self {
        let size = |key: &str, default: usize, most: usize| {
            let value = section.or(key, default);
            if value == 0 || value > most {
                section.fault(key, format!("{value} is not between 1 and {most}"));
            }
            value
        };
        // A bound above 32 bits has its fault already.
        let count =
            |key: &str, default: usize, most: usize| u32::try_from(size(key, default, most)).unwrap_or(u32::MAX);
        let (connections, agents) = (
            size("connections", 10_000, 1_000_000),
            size("agents", 10_000, 1_000_000),
        );
        let attaches_per_second = count("attaches_per_second", 500, 1_000_000);
        let half = |all: usize| all.div_ceil(2).max(1);
        let limits = Self {
            connections,
            connections_per_caller: count("connections_per_caller", half(connections), 1_000_000),
            newcomers_per_source: size("newcomers_per_source", 1_000, 1_000_000),
            handshakes_per_source: count("handshakes_per_source", 1_000, 1_000_000),
            streams_per_connection: count("streams_per_connection", 4_096, 1_000_000),
            connection_age: section.or("connection_age", lifetime / 2),
            agents,
            streams_per_caller: count("streams_per_caller", half(agents), 1_000_000),
            calls_per_caller: count("calls_per_caller", 1_000, 10_000_000),
            newcomer_calls: count("newcomer_calls", 50, 1_000_000),
            attaches_per_second,
            attaches_per_caller: count("attaches_per_caller", half(attaches_per_second as usize), 1_000_000),
            changes_per_caller: count("changes_per_caller", 1_000, 10_000_000),
            message_bytes: size("message_bytes", 1 << 20, 64 << 20),
            workload_services: size("workload_services", 32, 1_000),
            workload_labels: size("workload_labels", 64, 64),
            service_ports: size("service_ports", 64, 64),
            http_requests: size("http_requests", 64, 10_000),
        };
        if limits.connection_age < Duration::from_secs(1) || limits.connection_age >= lifetime {
            let age = limits.connection_age;
            section.fault(
                "connection_age",
                format!("{age:?} is not between 1s and certificates.lifetime, {lifetime:?}"),
            );
        }
        section.finish_section();
        limits
    }

    pub(crate) fn newcomers(&self) -> newcomers::Bounds {
        newcomers::Bounds {
            total_max: self.connections,
            source_max: self.newcomers_per_source,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            services: self.workload_services,
            labels: self.workload_labels,
            ports: self.service_ports,
        }
    }
}
