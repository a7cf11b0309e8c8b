//! What callers are told when a proxy answers instead of an application: a status, one word for programs, and for people
//! the service, the reason and the next command. gRPC callers get a gRPC status.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use mesh::{model::Locality, subscribe::demand::EndpointsUnknown};

use crate::hop::{body::Carried, headers::REASON};

/// Why there is no answer of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request itself is wrong.
    Bad(String),
    /// It names nothing that the mesh knows.
    Unknown(String),
    /// It names a service that was not used before, and its endpoints did not come.
    EndpointsUnknown(EndpointsUnknown),
    /// The port does not speak HTTP.
    NotHttp(String),
    /// It went round in a circle.
    Loop,
    /// The tenant's share is spent.
    OverQuota {
        /// When to come again.
        after: Duration,
        /// Whose.
        tenant: String,
    },
    /// No endpoint could be reached.
    Unreachable {
        /// `service:port`.
        target: String,
        /// Of the last try.
        reason: String,
    },
    /// An endpoint was reached and broke off.
    Broken {
        /// `service:port`.
        target: String,
        /// Of the last try.
        reason: String,
    },
    /// No answer in time.
    TimedOut {
        /// `service:port`.
        target: String,
        /// The limit.
        waited: Duration,
    },
    /// The far side cannot carry an upgrade.
    NoUpgrade(String),
}

impl Refusal {
    /// HTTP status, word for programs, gRPC status.
    fn codes(&self) -> (StatusCode, &'static str, u8) {
        match self {
            Self::Bad(_) => (StatusCode::BAD_REQUEST, "bad-request", 3),
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-service", 5),
            Self::EndpointsUnknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "endpoints-unknown", 14),
            Self::NotHttp(_) => (StatusCode::BAD_REQUEST, "not-http", 3),
            Self::Loop => (StatusCode::LOOP_DETECTED, "loop", 13),
            Self::OverQuota { .. } => (StatusCode::TOO_MANY_REQUESTS, "over-quota", 8),
            Self::Unreachable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "unreachable", 14),
            Self::Broken { .. } => (StatusCode::BAD_GATEWAY, "broken-off", 14),
            Self::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, "timed-out", 4),
            Self::NoUpgrade(_) => (StatusCode::BAD_GATEWAY, "no-upgrade", 14),
        }
    }

    /// The word for programs; also a metric's label.
    pub(crate) fn word(&self) -> &'static str {
        self.codes().1
    }

    fn text(&self, from: &Locality) -> String {
        let why = |target: &str| format!("next: isthmus why {from} {target}");
        match self {
            Self::Bad(fault) => format!("isthmus: bad request: {fault}\n"),
            Self::Unknown(fault) | Self::NotHttp(fault) | Self::NoUpgrade(fault) => format!("isthmus: {fault}\n"),
            Self::EndpointsUnknown(unknown) => format!("isthmus: {unknown}\nnext: isthmus status\n"),
            Self::Loop => "isthmus: the request went round in a circle of proxies\n".to_owned(),
            Self::OverQuota { after, tenant } => {
                format!(
                    "isthmus: tenant {tenant} is over its quota; try again in {} s\nnext: isthmus tenants\n",
                    seconds(*after)
                )
            }
            Self::Unreachable { target, reason } => {
                format!(
                    "isthmus: no endpoint of {target} could be reached\nreason: {reason}\n{}\n",
                    why(target)
                )
            }
            Self::Broken { target, reason } => {
                format!(
                    "isthmus: {target} broke off before it answered\nreason: {reason}\n{}\n",
                    why(target)
                )
            }
            Self::TimedOut { target, waited } => {
                format!("isthmus: no answer from {target} within {waited:?}\n{}\n", why(target))
            }
        }
    }

    /// The response.
    pub(crate) fn respond<G>(&self, grpc: bool, from: &Locality) -> Response<Carried<G>> {
        let (status, word, grpc_status) = self.codes();
        let text = self.text(from);
        let mut response = Response::new(Carried::empty());
        let headers = response.headers_mut();
        headers.insert(REASON, HeaderValue::from_static(word));
        if let Self::OverQuota { after, .. } = self {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(*after)));
        }
        if grpc {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(u16::from(grpc_status)));
            let message: String = text.trim_end().chars().map(grpc_safe).collect();
            if let Ok(message) = HeaderValue::from_str(&message) {
                headers.insert("grpc-message", message);
            }
            return response;
        }
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        *response.status_mut() = status;
        *response.body_mut() = Carried::text(Bytes::from(text));
        response
    }
}

/// gRPC messages are percent-encoded; what would need it is made plain instead.
fn grpc_safe(char: char) -> char {
    match char {
        '\n' => ';',
        '%' => ' ',
        ' '..='~' => char,
        _ => '?',
    }
}

/// Whole seconds, at least 1: "now" would invite the same refusal.
fn seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).clamp(1, 3600) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from() -> Locality {
        Locality {
            region: mesh::model::RegionId::parse("eu").expect("valid"),
            zone: mesh::model::Zone::parse("a").expect("valid"),
        }
    }

    #[test]
    fn a_refusal_names_target_reason_and_next_command() {
        let refusal = Refusal::Unreachable {
            target: "pay.shop:80".into(),
            reason: "nobody is there".into(),
        };
        let response: Response<Carried> = refusal.respond(false, &from());
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[&REASON], "unreachable");
        let text = refusal.text(&from());
        for part in ["pay.shop:80", "nobody is there", "isthmus why eu/a pay.shop:80"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn grpc_callers_get_a_grpc_status() {
        let after = Duration::from_millis(1);
        let refusal = Refusal::OverQuota {
            after,
            tenant: "acme".into(),
        };
        let grpc: Response<Carried> = refusal.respond(true, &from());
        assert_eq!(grpc.status(), StatusCode::OK);
        assert_eq!(grpc.headers()["grpc-status"], "8");
        let plain: Response<Carried> = refusal.respond(false, &from());
        assert_eq!(plain.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(plain.headers()[header::RETRY_AFTER], "1");
    }
}
