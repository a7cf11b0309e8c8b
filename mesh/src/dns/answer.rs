//! From the bytes of a request to the bytes of its reply, or to the decision to forward it. Opens no socket: see `server`.
//! Pure.

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};

use super::zone::{self, Asker, Found};
use crate::model::{ServiceName, View};

/// Largest reply over UDP whatever the client offers: larger ones are fragmented on some paths (DNS flag day 2020).
const UDP_BYTES_MAX: usize = 1232;
/// Smallest size that every client takes (RFC 1035).
const UDP_BYTES_MIN: usize = 512;
const HEADER_BYTES: usize = 12;

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Udp,
    Tcp,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Send these bytes.
    Send(Vec<u8>, Outcome),
    /// Ask an upstream; the request is a well-formed query for one name outside our zones.
    Forward,
    /// Get the endpoints of this service, and decide again.
    Fetch(ServiceName),
    /// Say nothing: it is no request. An answer to an answer would be a loop.
    Drop,
}

impl Reply {
    /// The service whose endpoints are to be got first.
    pub(super) fn fetches(self) -> Option<ServiceName> {
        match self {
            Self::Fetch(service) => Some(service),
            _ => None,
        }
    }
}

/// What was said, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answer,
    NoData,
    NoName,
    Failed,
    Refused,
}

/// Decides about one request.
pub(super) fn answer(view: &View, asker: Asker<'_>, request: &[u8], via: Via) -> Reply {
    if request.len() < HEADER_BYTES || is_response(request) {
        return Reply::Drop;
    }
    let Ok(request) = Message::from_vec(request) else {
        let id = u16::from_be_bytes([request[0], request[1]]);
        let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
        return send(message, UDP_BYTES_MIN, Outcome::Refused);
    };
    let mut response = response_to(&request);
    let size_max = match (via, &request.edns) {
        (Via::Tcp, _) => usize::from(u16::MAX),
        (Via::Udp, None) => UDP_BYTES_MIN,
        (Via::Udp, Some(edns)) => usize::from(edns.max_payload()).clamp(UDP_BYTES_MIN, UDP_BYTES_MAX),
    };
    let refuse = |mut response: Message, code| {
        response.metadata.response_code = code;
        send(response, size_max, Outcome::Refused)
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(response, ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(response, ResponseCode::BADVERS);
    }
    let [query] = request.queries.as_slice() else {
        return refuse(response, ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return refuse(response, ResponseCode::Refused);
    }
    if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
        return refuse(response, ResponseCode::Refused);
    }
    let found = zone::find(view, asker, query.name(), query.query_type());
    if found == Found::Outside {
        return Reply::Forward;
    }
    if view.region().is_none() {
        // Nothing is known yet, so nothing is known not to exist: the client shall ask elsewhere or again.
        response.metadata.response_code = ResponseCode::ServFail;
        return send(response, size_max, Outcome::Failed);
    }
    if let Found::Unheld(service) = found {
        return Reply::Fetch(service);
    }
    let outcome = fill(&mut response, found, view, asker);
    send(response, size_max, outcome)
}

/// The reply to a request over UDP or TCP, as the servers give it; none where they forward or say nothing.
#[must_use]
pub fn reply(view: &View, asker: Asker<'_>, request: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    let via = if over_tcp { Via::Tcp } else { Via::Udp };
    match answer(view, asker, request, via) {
        Reply::Send(bytes, _) => Some(bytes),
        Reply::Forward => failure(request, ResponseCode::Refused, false),
        Reply::Fetch(_) => failure(request, ResponseCode::ServFail, false),
        Reply::Drop => None,
    }
}

/// A reply of one code and no records, for requests that could not be forwarded.
pub(super) fn failure(request: &[u8], code: ResponseCode, recursion: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(request).ok()?;
    let mut response = response_to(&request);
    response.metadata.response_code = code;
    response.metadata.recursion_available = recursion;
    response.to_vec().ok()
}

/// Whether the bytes, at least a header, say that they are a response.
fn is_response(message: &[u8]) -> bool {
    message[2] & 0x80 != 0
}

fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata = Metadata::response_from_request(&request.metadata);
    // A request of several questions is refused (RFC 9619), and what it repeats could be larger than an answer may be.
    if let [query] = request.queries.as_slice() {
        response.add_query(query.clone());
    }
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX as u16)
            .set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response
}

fn fill(response: &mut Message, found: Found, view: &View, asker: Asker<'_>) -> Outcome {
    response.metadata.authoritative = true;
    let (zone, outcome) = match found {
        Found::Records {
            answers, additionals, ..
        } if !answers.is_empty() => {
            response.add_answers(answers).add_additionals(additionals);
            return Outcome::Answer;
        }
        Found::Records { zone, .. } => (zone, Outcome::NoData),
        Found::Nowhere(zone) => {
            response.metadata.response_code = ResponseCode::NXDomain;
            (zone, Outcome::NoName)
        }
        Found::Outside | Found::Unheld(_) => return Outcome::Refused,
    };
    response.add_authority(zone.authority(view, asker.ttl));
    outcome
}

/// Encodes within `size_max`: first without the additional records, which nobody must have, then cut and marked so.
fn send(mut response: Message, size_max: usize, outcome: Outcome) -> Reply {
    let fits = |bytes: &Vec<u8>| bytes.len() <= size_max;
    if let Some(bytes) = response.to_vec().ok().filter(fits) {
        return Reply::Send(bytes, outcome);
    }
    response.additionals.clear();
    let whole = response.to_vec().ok().filter(fits);
    match whole.or_else(|| response.truncate().to_vec().ok()) {
        Some(bytes) => Reply::Send(bytes, outcome),
        None => Reply::Drop,
    }
}

/// What a name resolves to, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// `NOERROR`, `NXDOMAIN`, `NODATA`; `SERVFAIL` where the view lacks the endpoints that would answer; `REFUSED` for a name outside the zones answered here.
    pub code: &'static str,
    /// Zone file lines: addresses first, then SRV and TXT.
    pub records: Vec<String>,
}

/// Resolves a name as the servers do. `name` may end in a dot; `<service>.<namespace>` alone means the clusterset name.
#[must_use]
pub fn resolve_text(view: &View, name: &str, asker: Asker<'_>) -> Resolved {
    let refused = Resolved {
        code: "REFUSED",
        records: Vec::new(),
    };
    let short = crate::model::ServiceName::parse(&name.to_ascii_lowercase()).ok();
    let text = match short.filter(|_| !name.ends_with(".local") && !name.ends_with(".isthmus")) {
        Some(service) => format!("{service}.svc.clusterset.local."),
        None => format!("{}.", name.trim_end_matches('.')),
    };
    let Ok(name) = Name::from_ascii(&text) else {
        return refused;
    };
    let mut records = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT] {
        match zone::find(view, asker, &name, kind) {
            Found::Outside => return refused,
            Found::Nowhere(_) => {
                return Resolved {
                    code: "NXDOMAIN",
                    ..refused
                };
            }
            // What is not known is not said not to exist.
            Found::Unheld(_) => {
                return Resolved {
                    code: "SERVFAIL",
                    ..refused
                };
            }
            Found::Records { answers, .. } => records.extend(answers.iter().map(ToString::to_string)),
        }
    }
    let code = if records.is_empty() { "NODATA" } else { "NOERROR" };
    Resolved { code, records }
}
